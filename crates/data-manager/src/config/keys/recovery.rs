//! What a recovery does around the restore, and how it is asked.

use super::{CHECKS, Key, key};
use crate::config::kind::Kind;

pub(super) const KEYS: &[Key] = &[
    key(
        "recovery.checks",
        CHECKS,
        Some("standard"),
        "",
        "how much a restore checks: `none` (nothing is started), `standard`, or `deep` (every page and index; reads everything)",
    ),
    key(
        "recovery.stop_command",
        Kind::Text,
        None,
        "systemctl stop shop",
        "run by the shell before a restore begins; the restore stops when it fails",
    ),
    key(
        "recovery.start_command",
        Kind::Text,
        None,
        "systemctl start shop",
        "run by the shell when a restore was proven and released",
    ),
    key(
        "recovery.run_as",
        Kind::Text,
        None,
        "postgres",
        "the user that a restored server runs as, and owns its files, where the restore runs as root",
    ),
    key(
        "recovery.bin_dir",
        Kind::Path,
        None,
        "/usr/lib/postgresql/18/bin",
        "folder of the server's programs (`postgres`, `pg_ctl`) for restores; else the engine's `bin_dir`, else found",
    ),
    key(
        "recovery.drill_max_age",
        Kind::Period,
        Some("30 days"),
        "",
        "a proof of restore older than this no longer counts in `dm status`",
    ),
    key(
        "recovery.check.*.sql",
        Kind::Text,
        None,
        "SELECT count(*) FROM orders WHERE total < 0",
        "a question that a restored database is asked before it is released: a statement that reads",
    ),
    key(
        "recovery.check.*.expect",
        Kind::Text,
        None,
        "0",
        "its answer: `true` (the default), `empty`, `not empty`, a comparison (`>= 10`) or the value of its first row's first column",
    ),
    key(
        "recovery.check.*.engine",
        Kind::Text,
        None,
        "main",
        "the engine whose restores are asked; every one when not set",
    ),
];
