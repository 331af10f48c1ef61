//! Object keys (§1).

use std::fmt::Display;

use dm_core::{BackupId, TargetName};
use object_store::path::Path;
use uuid::Uuid;

/// `repository.json`.
pub(crate) fn repository() -> Path {
    Path::from("repository.json")
}

/// The folder of all backups.
pub(crate) fn backups() -> Path {
    Path::from("backups")
}

/// The folder of a target's backups.
pub(crate) fn target(target: &TargetName) -> Path {
    Path::from(format!("backups/{target}"))
}

/// The folder of a backup.
pub(crate) fn backup(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}"))
}

/// The commit.
pub(crate) fn commit(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/backup.json"))
}

/// The list of stored objects.
pub(crate) fn inventory(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/inventory.json.zst"))
}

/// The folder of a backup's packs.
pub(crate) fn packs(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/packs"))
}

/// The folder of a backup's journal.
pub(crate) fn journal(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/journal"))
}

/// What says that a copy is under way, or was interrupted and waits for the next one.
pub(crate) fn copying(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/journal/copying"))
}

/// A journal page.
pub(crate) fn journal_page(target: &TargetName, id: BackupId, n: u32) -> Path {
    Path::from(format!("backups/{target}/{id}/journal/{n:08}.page"))
}

/// A pack.
pub(crate) fn pack(target: &TargetName, id: BackupId, n: u32) -> Path {
    Path::from(format!("backups/{target}/{id}/packs/{n:08}.pack"))
}

/// An index page.
pub(crate) fn page(target: &TargetName, id: BackupId, n: u32) -> Path {
    Path::from(format!("backups/{target}/{id}/index/{n:08}.page"))
}

/// The folder of a backup's key objects.
pub(crate) fn keys(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("backups/{target}/{id}/keys"))
}

/// A key object.
pub(crate) fn key(target: &TargetName, id: BackupId, generation: u32) -> Path {
    Path::from(format!("backups/{target}/{id}/keys/{generation:08}.age"))
}

/// The folder of the changes of recipients.
pub(crate) fn recipients() -> Path {
    Path::from("recipients")
}

/// A generation of recipients.
pub(crate) fn recipients_record(generation: u32) -> Path {
    Path::from(format!("recipients/{generation:08}.json"))
}

/// The folder of the log's keys.
pub(crate) fn log_keys() -> Path {
    Path::from("log-keys")
}

/// A log key, sealed to a generation of recipients.
pub(crate) fn log_key(id: Uuid, generation: u32) -> Path {
    Path::from(format!("log-keys/{id}/{generation:08}.age"))
}

/// What the host that made a log key knows it by.
pub(crate) fn log_key_record(id: Uuid) -> Path {
    Path::from(format!("log-keys/{id}/key.json"))
}

/// The folder of a target's tombstones.
pub(crate) fn tombstones(target: &TargetName) -> Path {
    Path::from(format!("tombstones/{target}"))
}

/// A tombstone.
pub(crate) fn tombstone(target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("tombstones/{target}/{id}.json"))
}

/// The folder of numbered records (`pins`, `verifications`) of a target.
pub(crate) fn records(family: &str, target: &TargetName) -> Path {
    Path::from(format!("{family}/{target}"))
}

/// The folder of those of one backup.
pub(crate) fn records_of(family: &str, target: &TargetName, id: BackupId) -> Path {
    Path::from(format!("{family}/{target}/{id}"))
}

/// A numbered record.
pub(crate) fn record(family: &str, target: &TargetName, id: BackupId, n: u32) -> Path {
    Path::from(format!("{family}/{target}/{id}/{n:08}.json"))
}

/// The folder of a target's logs.
pub(crate) fn logs(target: &TargetName) -> String {
    format!("logs/{target}")
}

/// The folder of all leases.
pub(crate) fn leases() -> Path {
    Path::from("leases")
}

/// A lease.
pub(crate) fn lease(holder: impl Display, n: u32) -> Path {
    Path::from(format!("leases/{holder}/{n:08}.json"))
}

/// The folder of probes.
pub(crate) fn probes() -> Path {
    Path::from("probes")
}

/// A probe.
pub(crate) fn probe(name: impl Display) -> Path {
    Path::from(format!("probes/{name}"))
}

/// The number in `<n>.json`, `<n>.age` ..., of exactly eight digits.
pub(crate) fn number(file: &str, extension: &str) -> Option<u32> {
    let digits = file.strip_suffix(extension)?.strip_suffix('.')?;
    (digits.len() == 8 && digits.bytes().all(|c| c.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// The parts of a key behind a folder.
pub(crate) fn inside(key: &Path, folder: &Path) -> Vec<String> {
    key.prefix_match(folder).map(|parts| parts.map(|p| p.as_ref().to_owned()).collect()).unwrap_or_default()
}
