//! The zone, and the databases.

use super::{Key, key};
use crate::config::kind::Kind;

pub(super) const KEYS: &[Key] = &[
    key(
        "zone",
        Kind::Zone,
        Some("UTC"),
        "",
        "IANA time zone of schedules and of the days that retention counts",
    ),
    key(
        "engines.*.url",
        Kind::SecretUrl,
        None,
        "${DATABASE_URL}",
        "connection URL: `postgres://user@host/database`, `sqlite://path` or a path",
    ),
    key(
        "engines.*.schema",
        Kind::Text,
        None,
        "public",
        "the schema that unqualified table names mean (PostgreSQL)",
    ),
    key(
        "engines.*.pool_max",
        Kind::Auto { min: 1, max: 1000 },
        Some("10"),
        "",
        "most connections at once; `auto` is twice the processor cores plus one",
    ),
    key(
        "engines.*.acquire_timeout",
        Kind::Timeout,
        Some("20s"),
        "",
        "longest wait for a free connection of the pool",
    ),
    key("engines.*.connect_timeout", Kind::Timeout, Some("10s"), "", "longest wait for a new connection"),
    key(
        "engines.*.query_timeout",
        Kind::Timeout,
        Some("60s"),
        "",
        "longest single statement of `dm query` and the library; never cuts a backup or restore short",
    ),
    key(
        "engines.*.idle_timeout",
        Kind::Timeout,
        Some("10m"),
        "",
        "an unused connection is closed after this",
    ),
    key(
        "engines.*.bin_dir",
        Kind::Path,
        None,
        "/usr/lib/postgresql/18/bin",
        "folder of the client tools (`pg_dump`); found on PATH when not set",
    ),
    key(
        "engines.*.migrations",
        Kind::Path,
        None,
        "./migrations/shop",
        "where the files of this database's migrations lie, where that is not `migrate.folder`",
    ),
    key(
        "engines.*.shadow_url",
        Kind::SecretUrl,
        None,
        "${SHADOW_DATABASE_URL}",
        "an empty database on which migrations are tried out; its content is removed. Without it one is made for the moment",
    ),
];
