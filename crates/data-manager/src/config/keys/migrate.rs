//! How migrations run.

use super::{Key, key};
use crate::config::kind::Kind;

pub(super) const KEYS: &[Key] = &[
    key("migrate.folder", Kind::Path, Some("./migrations"), "", "where the files of migrations lie"),
    key("migrate.seeds", Kind::Path, Some("./seeds"), "", "where the files of seeds lie"),
    key(
        "migrate.table",
        Kind::Text,
        Some("schema_migrations"),
        "",
        "the table of the history, in the database itself: `name` or `schema.name`",
    ),
    key(
        "migrate.lock_timeout",
        Kind::Timeout,
        Some("5s"),
        "",
        "longest wait of a migration's statement for a lock of the database; then it is tried again",
    ),
    key(
        "migrate.attempts",
        Kind::Count { min: 1, max: 1000 },
        Some("6"),
        "",
        "how often a statement is tried that does not get its lock in time",
    ),
    key(
        "migrate.statement_timeout",
        Kind::Timeout,
        Some("30m"),
        "",
        "longest single statement of a migration",
    ),
    key("migrate.wait", Kind::Timeout, Some("10m"), "", "longest wait for another runner of migrations"),
    key(
        "migrate.keep_sqlx",
        Kind::Flag,
        Some("false"),
        "",
        "keeps `_sqlx_migrations` in step, so that stock sqlx goes on where this ended, and the other way round",
    ),
    key(
        "migrate.production",
        Kind::Flag,
        Some("false"),
        "",
        "every `up` as with `--production`: lint must pass, timeouts are set, and a verified backup is there",
    ),
    key(
        "migrate.backup_within",
        Kind::Period,
        Some("1 day"),
        "",
        "how old the verified backup may be; else one is made first",
    ),
    key(
        "migrate.classified",
        Kind::TextList,
        None,
        "[\"customers.email\"]",
        "columns whose personal data is classified, as `table.column` or `table.*`: lint does not ask about them",
    ),
    key(
        "migrate.staging",
        Kind::Text,
        None,
        "staging",
        "the engine on which `--production` demands that the same files were applied before",
    ),
];
