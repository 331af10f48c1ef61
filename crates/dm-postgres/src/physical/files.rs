//! Which files of a data directory are copied, and as what.

use std::collections::HashSet;

/// Folders that are made again empty: their content means nothing to another server.
pub(super) const EMPTIED: [&str; 8] = [
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_stat_tmp",
];

/// Files at the top that belong to the running server, or to an earlier backup.
const LEFT_AT_TOP: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_manifest.tmp",
];

/// A fork of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fork {
    Main,
    FreeSpace,
    Visibility,
    Init,
}

/// A file of a relation: `base/5/16384_fsm.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelationFile {
    /// The tablespace's oid: 1663 is `base`, 1664 `global`.
    pub(super) tablespace: u32,
    /// The database's oid; 0 for what is shared.
    pub(super) database: u32,
    pub(super) number: u32,
    pub(super) fork: Fork,
    /// Which of the files that a large fork is cut into.
    pub(super) segment: u32,
}

/// Where relations stand: tablespace and database of a folder.
fn place(folder: &str) -> Option<(u32, u32)> {
    let parts: Vec<&str> = folder.split('/').collect();
    match parts.as_slice() {
        ["global"] => Some((1664, 0)),
        ["base", database] => Some((1663, digits(database)?)),
        ["pg_tblspc", tablespace, version, database] if version.starts_with("PG_") => {
            Some((digits(tablespace)?, digits(database)?))
        }
        _ => None,
    }
}

fn digits(text: &str) -> Option<u32> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

/// A file's name without its folder, taken apart: `16384_fsm.1`.
fn relation_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, digits(segment).filter(|s| *s > 0)?),
        None => (name, 0),
    };
    let (number, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((number, "fsm")) => (number, Fork::FreeSpace),
        Some((number, "vm")) => (number, Fork::Visibility),
        Some((number, "init")) => (number, Fork::Init),
        Some(_) => return None,
    };
    Some((digits(number)?, fork, segment))
}

/// `t3_16384`: of a temporary relation.
fn is_temporary(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, rest)| digits(backend).is_some() && relation_name(rest).is_some())
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl RelationFile {
    /// Reads a path relative to the data directory.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let (folder, name) = split(path);
        let (tablespace, database) = place(folder)?;
        let (number, fork, segment) = relation_name(name)?;
        Some(Self { tablespace, database, number, fork, segment })
    }
}

/// Whether a file is none of a relation's, and not of those that are as well empty as gone: logs of transactions, which are
/// filled again by the log.
pub(super) fn comes_and_goes(path: &str) -> bool {
    let folder = path.split('/').next().unwrap_or_default();
    RelationFile::parse(path).is_none() && !["pg_xact", "pg_multixact", "pg_commit_ts"].contains(&folder)
}

/// What is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Files with their sizes.
    pub(super) files: Vec<(String, u64)>,
    /// Folders, also those that stay empty.
    pub(super) folders: Vec<String>,
}

/// What was listed: a path, and its size unless it is a folder.
pub(super) type Listed = (String, Option<u64>);

/// Chooses from everything that was listed. `version_folder` is what this server's folder in a tablespace is called; the
/// location may hold those of others.
pub(super) fn select(listed: Vec<Listed>, version_folder: &str, major: u32) -> Selection {
    let unlogged: HashSet<(u32, u32, u32)> = listed
        .iter()
        .filter_map(|(path, size)| size.and_then(|_| RelationFile::parse(path)))
        .filter(|file| file.fork == Fork::Init)
        .map(|file| (file.tablespace, file.database, file.number))
        .collect();
    let mut chosen = Selection::default();
    for (path, size) in listed {
        if left_out(&path, version_folder) {
            continue;
        }
        let Some(size) = size else {
            chosen.folders.push(path);
            continue;
        };
        let forgotten = RelationFile::parse(&path).is_some_and(|file| {
            file.fork != Fork::Init && unlogged.contains(&(file.tablespace, file.database, file.number))
        });
        if !forgotten {
            chosen.files.push((path, size));
        }
    }
    let made_again: &[&str] = match major >= 17 {
        true => &["pg_wal/archive_status", "pg_wal/summaries"],
        false => &["pg_wal/archive_status"],
    };
    chosen.folders.extend(EMPTIED.iter().chain(made_again).map(|name| (*name).to_owned()));
    chosen.folders.sort_unstable();
    chosen.folders.dedup();
    chosen
}

fn left_out(path: &str, version_folder: &str) -> bool {
    let mut parts = path.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if path.split('/').any(|part| part.starts_with("pgsql_tmp")) {
        return true;
    }
    if second.is_some() && EMPTIED.contains(&first) {
        return true;
    }
    if second.is_none() && LEFT_AT_TOP.contains(&first) {
        return true;
    }
    if first == "pg_tblspc" && third.is_some_and(|third| third != version_folder) {
        return true;
    }
    // Read last and by itself, until its checksum holds.
    if path == "global/pg_control" {
        return true;
    }
    let (folder, name) = split(path);
    name.starts_with("pg_internal.init") || (place(folder).is_some() && is_temporary(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "PG_15_202209061";

    #[test]
    fn names_of_relations() {
        let file = RelationFile::parse("base/5/16384_vm.2").unwrap();
        assert_eq!(
            (file.tablespace, file.database, file.number, file.fork, file.segment),
            (1663, 5, 16384, Fork::Visibility, 2)
        );
        let file = RelationFile::parse("pg_tblspc/16500/PG_15_202209061/5/16384.1").unwrap();
        assert_eq!((file.tablespace, file.database, file.segment), (16500, 5, 1));
        assert_eq!(RelationFile::parse("global/1262").unwrap().database, 0);
        for other in [
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/16384_x",
            "base/5/16384.0",
            "base/5/.1",
            "base/5/16384.",
            "base/x/16384",
            "pg_xact/0000",
            "16384",
            "base/16384",
            "base/5/t3_16384",
            "pg_tblspc/16500/other/5/16384",
        ] {
            assert_eq!(RelationFile::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_belongs_to_the_running_server_is_left() {
        let file = |path: &str| (path.to_owned(), Some(8192));
        let folder = |path: &str| (path.to_owned(), None);
        let listed = vec![
            folder("base"),
            folder("base/5"),
            file("base/5/16384"),
            file("base/5/16384.1"),
            file("base/5/16385"),
            file("base/5/16385_init"),
            file("base/5/16385_fsm"),
            file("base/5/16385.1"),
            file("base/5/t3_16390"),
            file("base/5/t3_16390_fsm"),
            file("base/5/pg_internal.init"),
            file("base/5/pg_internal.init.123"),
            folder("base/pgsql_tmp"),
            file("base/pgsql_tmp/pgsql_tmp1.0"),
            file("global/pg_control"),
            file("global/1262"),
            file("PG_VERSION"),
            file("postmaster.pid"),
            file("backup_label"),
            file("backup_label.old"),
            folder("pg_wal"),
            file("pg_wal/000000010000000000000001"),
            folder("pg_stat"),
            folder("pg_tblspc/16500"),
            folder("pg_tblspc/16500/PG_15_202209061"),
            file("pg_tblspc/16500/PG_15_202209061/5/16400"),
            folder("pg_tblspc/16500/PG_14_1"),
            file("pg_tblspc/16500/PG_14_1/5/16400"),
        ];
        let chosen = select(listed, VERSION, 15);
        let files: Vec<&str> = chosen.files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            files,
            [
                "base/5/16384",
                "base/5/16384.1",
                "base/5/16385_init",
                "global/1262",
                "PG_VERSION",
                "backup_label.old",
                "pg_tblspc/16500/PG_15_202209061/5/16400",
            ]
        );
        for there in
            ["base/5", "pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_stat", "pg_tblspc/16500"]
        {
            assert!(chosen.folders.iter().any(|f| f == there), "{there}");
        }
        for gone in ["base/pgsql_tmp", "pg_tblspc/16500/PG_14_1", "pg_wal/summaries"] {
            assert!(!chosen.folders.iter().any(|f| f == gone), "{gone}");
        }
        assert!(select(Vec::new(), VERSION, 17).folders.iter().any(|f| f == "pg_wal/summaries"));
    }
}
