//! The system's own state, its audit trail, who may do what, and what it watches.

use super::{Key, key, soon};
use crate::config::kind::Kind;

pub(super) const KEYS: &[Key] = &[
    key(
        "store.url",
        Kind::SecretUrl,
        None,
        "sqlite:///var/lib/dm/state.db",
        "the system's own state; without it `.dm/state.db` beside dm.toml, or the XDG state folder",
    ),
    key(
        "audit.key_file",
        Kind::Path,
        None,
        "/etc/dm/audit.key",
        "file with the key that signs the audit trail's checkpoints, made when it is first needed; `audit.key` beside the state when not set",
    ),
    key(
        "audit.origin",
        Kind::Text,
        None,
        "example.com/shop",
        "the name that a new key gives the audit trail: yours alone, without spaces; a random one when not set",
    ),
    key(
        "audit.anchors",
        Kind::TextList,
        Some(""),
        "repository",
        "where signed checkpoints are taken to: `repository`, a folder's absolute path, `https://…` (a POST of the text)",
    ),
    key(
        "audit.anchor_timeout",
        Kind::Timeout,
        Some("10s"),
        "",
        "longest wait for one anchor; one that fails is tried again by the next seal",
    ),
    key(
        "audit.retention",
        Kind::Period,
        None,
        "2 years",
        "how long the details of the trail's lines are kept (dm audit expire); for ever when not set",
    ),
    key(
        "audit.holds",
        Kind::TextList,
        Some(""),
        "resource=shop/users action=change:",
        "lines whose details stay whatever their age: `actor=`, `action=` (how it begins), `resource=`, all of an entry at once",
    ),
    key("access.default_actor_roles", Kind::TextList, Some("admin"), "", "roles of the local user"),
    key(
        "access.roles.*",
        Kind::Grants,
        None,
        "",
        "a role: a list of `\"area:verb\"`, or of tables `{ action, resource, forbid, read_only }`",
    ),
    soon(key(
        "retention.soft_delete_grace_days",
        Kind::Count { min: 0, max: 36_500 },
        Some("30"),
        "",
        "days that a soft-deleted row stays before it may be purged",
    )),
    soon(key(
        "retention.purge_schedule",
        Kind::Cron,
        Some("30 3 * * *"),
        "",
        "when soft-deleted rows are purged",
    )),
    soon(key("monitoring.enabled", Kind::Flag, Some("true"), "", "whether the databases are watched")),
    soon(key(
        "monitoring.connection_time_threshold_ms",
        Kind::Count { min: 1, max: 86_400_000 },
        Some("5000"),
        "",
        "a slower connection raises an alert; milliseconds",
    )),
    soon(key(
        "monitoring.query_time_threshold_ms",
        Kind::Count { min: 1, max: 86_400_000 },
        Some("10000"),
        "",
        "a slower query raises an alert; milliseconds",
    )),
    soon(key(
        "monitoring.connection_count_threshold",
        Kind::Count { min: 1, max: 1_000_000 },
        Some("15"),
        "",
        "more open connections raise an alert",
    )),
];
