//! Every setting there is, in one table: what it is called, how it is written and what it is without being set. Checking,
//! defaults, the template of `dm init` and the tables of docs/configuration.md are all made from here, so that they cannot
//! disagree.

mod backup;
mod databases;
mod migrate;
mod recovery;
mod repository;
mod system;

use super::kind::Kind;

/// One setting. A `*` in the path stands for a name that the user chooses.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// As a person would write it, without quotes; `None` where the setting may be left out altogether.
    pub(super) default: Option<&'static str>,
    /// What the template shows where there is no default.
    pub(super) example: &'static str,
    pub(super) doc: &'static str,
    /// Read and checked, but nothing acts on it before a later release.
    pub(super) later: bool,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { path, kind, default, example, doc, later: false }
}

/// The same, but nothing acts on it yet.
const fn soon(key: Key) -> Key {
    Key { later: true, ..key }
}

const MODES: Kind = Kind::Choice(&["logical", "physical"]);
const CHECKS: Kind = Kind::Choice(&["none", "standard", "deep"]);
const KINDS: Kind = Kind::Choice(&["full", "differential", "incremental"]);
const VERIFY: Kind = Kind::Choice(&["off", "quick", "stored", "full"]);
const WHEN: Kind = Kind::Choice(&["before", "during", "after", "failed"]);
const PRIORITY: Kind = Kind::Choice(&["low", "normal"]);
const ON_FAILURE: Kind = Kind::Choice(&["abort", "warn"]);
const MANY: Kind = Kind::Count { min: 0, max: 100_000 };

/// The settings, in the order in which documents and templates show them.
const TABLES: [&[Key]; 6] =
    [databases::KEYS, repository::KEYS, backup::KEYS, migrate::KEYS, recovery::KEYS, system::KEYS];

/// Every setting.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    TABLES.into_iter().flatten()
}

/// The setting that a concrete path belongs to.
pub(super) fn find(path: &[String]) -> Option<&'static Key> {
    all().find(|key| matches(key.path, path))
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let mut segments = pattern.split('.');
    path.iter().all(|name| segments.next().is_some_and(|s| s == "*" || s == name))
        && segments.next().is_none()
}

/// The words that may follow a beginning of a pattern (`["engines", "*"]`), each with whether it is a setting itself.
pub(super) fn children(prefix: &[&str]) -> Vec<(&'static str, bool)> {
    let mut found: Vec<(&'static str, bool)> = Vec::new();
    for key in all() {
        let segments: Vec<&'static str> = key.path.split('.').collect();
        if segments.len() > prefix.len() && segments.iter().zip(prefix).all(|(a, b)| a == b) {
            let child = (segments[prefix.len()], segments.len() == prefix.len() + 1);
            if !found.contains(&child) {
                found.push(child);
            }
        }
    }
    found
}
