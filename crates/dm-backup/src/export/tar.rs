//! A backup of a cluster's files as `pg_basebackup -Ft` writes it: `base.tar`, `<oid>.tar` for each tablespace,
//! `pg_wal.tar`. Decided by the names of the members and `directories.json`, which every such backup has.
//!
//! The headers are POSIX ustar; what they hold is in the order of `pg_basebackup`: the label first, `pg_control` last.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use dm_core::{Error, MemberKind, MemberSpec, OpContext, Progress, Result, SourceDescription};
use dm_repository::BackupReader;
use futures::TryStreamExt;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::{ExportedFile, create, io_error};
use crate::pool;

/// Everything in a tar file stands in blocks of so many bytes.
const BLOCK: usize = 512;

/// The member that lists the directories.
const DIRECTORIES: &str = "directories.json";

/// One entry of a tar file.
#[derive(Clone, Debug)]
enum Entry {
    Directory(String),
    /// A symbolic link and what it points at.
    Link(String, String),
    /// A member under a name.
    File(String, MemberSpec, u64),
    /// A file without content.
    Empty(String),
}

/// A tar file and its entries in order.
#[derive(Clone, Debug)]
pub(super) struct TarPlan {
    name: String,
    kind: MemberKind,
    entries: Vec<Entry>,
}

/// Whether a backup is one of a cluster's files.
pub(super) fn fits(source: &SourceDescription, members: &[(MemberSpec, u64)]) -> bool {
    source.attributes.contains_key("physical_format") && members.iter().any(|(m, _)| m.name == DIRECTORIES)
}

/// Which entries each tar file has.
///
/// # Errors
/// `Corrupt` when the list of directories cannot be read.
pub(super) async fn plan(
    ctx: &OpContext,
    reader: &BackupReader,
    members: &[(MemberSpec, u64)],
) -> Result<Vec<TarPlan>> {
    let mut json = Vec::new();
    let mut content = reader.content(ctx, DIRECTORIES);
    while let Some(block) = content.try_next().await? {
        json.extend_from_slice(&block.bytes);
    }
    let broken = || Error::corrupt("the list of directories is not what it should be").about(DIRECTORIES);
    let directories: Vec<String> = serde_json::from_slice(&json).map_err(|e| broken().with_source(e))?;
    Ok(divide(members, &directories, &tablespaces(reader.source())))
}

/// Where each tablespace was, by its oid.
fn tablespaces(source: &SourceDescription) -> BTreeMap<String, String> {
    let listed = source.attributes.get("tablespaces").and_then(|v| v.as_array());
    let of = |space: &serde_json::Value| {
        let oid = space.get("oid")?.as_u64()?.to_string();
        Some((oid, space.get("location")?.as_str()?.to_owned()))
    };
    listed.into_iter().flatten().filter_map(of).collect()
}

/// The oid and the rest of a path in a tablespace.
fn in_tablespace(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("pg_tblspc/")?.split_once('/')
}

fn divide(
    members: &[(MemberSpec, u64)],
    directories: &[String],
    locations: &BTreeMap<String, String>,
) -> Vec<TarPlan> {
    let mut base = Vec::new();
    let mut spaces: BTreeMap<&str, Vec<Entry>> =
        locations.keys().map(|oid| (oid.as_str(), Vec::new())).collect();
    let mut sorted: Vec<&String> = directories.iter().collect();
    sorted.sort();
    for path in sorted {
        if let Some((oid, inside)) = in_tablespace(path) {
            spaces.entry(oid).or_default().push(Entry::Directory(inside.to_owned()));
        } else if let Some(location) = path.strip_prefix("pg_tblspc/").and_then(|oid| locations.get(oid)) {
            base.push(Entry::Link(path.clone(), location.clone()));
        } else {
            base.push(Entry::Directory(path.clone()));
        }
    }
    let mut wal = vec![Entry::Directory("archive_status".to_owned())];
    let mut outside = Vec::new();
    let mut control = None;
    let mut labels = Vec::new();
    for (member, size) in members {
        let file = |name: &str| Entry::File(name.to_owned(), member.clone(), *size);
        if let Some(path) = member.name.strip_prefix("data/") {
            match in_tablespace(path) {
                Some((oid, inside)) => spaces.entry(oid).or_default().push(file(inside)),
                None if path == "global/pg_control" => control = Some(file(path)),
                None if path == "backup_label" || path == "tablespace_map" => labels.push(file(path)),
                None => base.push(file(path)),
            }
        } else if let Some(name) = member.name.strip_prefix("wal/") {
            wal.push(file(name));
            // It was shipped, or is in this very backup: the new server need not archive it again.
            wal.push(Entry::Empty(format!("archive_status/{name}.done")));
        } else if let Some(name) = member.name.strip_prefix("outside/") {
            outside.push(file(name));
        }
    }
    labels.append(&mut base);
    labels.extend(control);
    let mut plans = vec![TarPlan { name: "base.tar".to_owned(), kind: MemberKind::File, entries: labels }];
    for (oid, entries) in spaces {
        plans.push(TarPlan { name: format!("{oid}.tar"), kind: MemberKind::File, entries });
    }
    plans.push(TarPlan { name: "pg_wal.tar".to_owned(), kind: MemberKind::Log, entries: wal });
    if !outside.is_empty() {
        plans.push(TarPlan { name: "outside.tar".to_owned(), kind: MemberKind::File, entries: outside });
    }
    plans
}

/// Writes the tar files, up to `jobs` at once.
pub(super) async fn write(
    ctx: &OpContext,
    reader: &BackupReader,
    plans: Vec<TarPlan>,
    folder: &Path,
    at: DateTime<Utc>,
    jobs: usize,
) -> Result<Vec<ExportedFile>> {
    let files: Vec<ExportedFile> = plans.iter().map(exported).collect();
    let folder = folder.to_path_buf();
    pool::each(ctx, jobs, plans, |task, plan| {
        let contents: Vec<_> = plan
            .entries
            .into_iter()
            .map(|entry| {
                let content = match &entry {
                    Entry::File(_, member, _) => Some(reader.content(&task, &member.name)),
                    _ => None,
                };
                (entry, content)
            })
            .collect();
        let path = folder.join(&plan.name);
        async move {
            let file = create(&path).await.map_err(|e| io_error(e, &path))?;
            let mut out = BufWriter::with_capacity(1 << 20, file);
            for (entry, content) in contents {
                write_entry(&task, &mut out, entry, content, at).await.map_err(|e| match e {
                    Failed::Io(error) => io_error(error, &path),
                    Failed::Other(error) => error,
                })?;
            }
            let end = async {
                out.write_all(&[0; 2 * BLOCK]).await?;
                out.flush().await?;
                out.into_inner().sync_all().await
            };
            end.await.map_err(|e| io_error(e, &path))
        }
    })
    .await?;
    Ok(files)
}

fn exported(plan: &TarPlan) -> ExportedFile {
    let members = plan.entries.iter().filter_map(|e| match e {
        Entry::File(_, member, _) => Some(member.name.clone()),
        _ => None,
    });
    let bytes = plan.entries.iter().map(|e| match e {
        Entry::File(_, _, size) => BLOCK as u64 + size.next_multiple_of(BLOCK as u64),
        _ => BLOCK as u64,
    });
    ExportedFile {
        path: plan.name.clone(),
        kind: plan.kind,
        bytes: bytes.sum::<u64>() + 2 * BLOCK as u64,
        table: None,
        members: members.collect(),
    }
}

/// What may fail while a tar file is written: its own disk, or what is read.
enum Failed {
    Io(std::io::Error),
    Other(Error),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

async fn write_entry(
    ctx: &OpContext,
    out: &mut BufWriter<tokio::fs::File>,
    entry: Entry,
    content: Option<dm_core::RestoreContent>,
    at: DateTime<Utc>,
) -> Result<(), Failed> {
    let (name, member, size) = match entry {
        Entry::Directory(name) => {
            out.write_all(&header(&format!("{name}/"), b'5', 0o700, 0, "", at)?).await?;
            return Ok(());
        }
        Entry::Link(name, target) => {
            out.write_all(&header(&name, b'2', 0o777, 0, &target, at)?).await?;
            return Ok(());
        }
        Entry::Empty(name) => {
            out.write_all(&header(&name, b'0', 0o600, 0, "", at)?).await?;
            return Ok(());
        }
        Entry::File(name, member, size) => (name, member, size),
    };
    out.write_all(&header(&name, b'0', 0o600, size, "", at)?).await?;
    let mut end = 0;
    if let Some(mut content) = content {
        while let Some(block) = content.try_next().await.map_err(|e| e.about(&member.name))? {
            zeros(out, block.offset.saturating_sub(end)).await?;
            out.write_all(&block.bytes).await?;
            end = block.offset + block.bytes.len() as u64;
            ctx.progress(Progress::Bytes(block.bytes.len() as u64));
        }
    }
    if end > size || (member.layout == dm_core::Layout::Stream && end != size) {
        return Err(Error::corrupt(format!("{end} bytes came back of a member of {size}"))
            .about(member.name)
            .into());
    }
    zeros(out, size.next_multiple_of(BLOCK as u64) - end).await?;
    ctx.progress(Progress::Item(member.name));
    Ok(())
}

async fn zeros(out: &mut BufWriter<tokio::fs::File>, mut number: u64) -> std::io::Result<()> {
    const ZEROS: [u8; 8192] = [0; 8192];
    while number > 0 {
        let now = number.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..usize::try_from(now).unwrap_or(0)]).await?;
        number -= now;
    }
    Ok(())
}

/// A POSIX ustar header: IEEE Std 1003.1, "ustar Interchange Format".
fn header(name: &str, kind: u8, mode: u32, size: u64, link: &str, at: DateTime<Utc>) -> Result<[u8; BLOCK]> {
    let too_long = || {
        Error::unsupported("a name is too long for a tar file")
            .about(name)
            .with_hint("export the backup as files")
    };
    // A name of more than 100 bytes is split at a slash.
    let (prefix, short) = match name.len() {
        0..=100 => ("", name),
        _ => {
            let mut cut = name.char_indices().filter(|(_, c)| *c == '/').map(|(i, _)| i);
            let fits = |i: &usize| *i <= 155 && name.len() - i - 1 <= 100 && i + 1 < name.len();
            let cut = cut.rfind(fits).ok_or_else(too_long)?;
            (&name[..cut], &name[cut + 1..])
        }
    };
    if link.len() > 100 || size >= 1 << 33 {
        return Err(too_long());
    }
    let mut block = [0; BLOCK];
    let mut put = |from: usize, bytes: &[u8]| block[from..from + bytes.len()].copy_from_slice(bytes);
    put(0, short.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", at.timestamp().clamp(0, (1 << 33) - 1)).as_bytes());
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> (MemberSpec, u64) {
        let layout = dm_core::Layout::Stream;
        let attributes = BTreeMap::new();
        let spec = MemberSpec {
            name: name.into(),
            kind: MemberKind::File,
            layout,
            size_hint: None,
            table: None,
            attributes,
        };
        (spec, 3)
    }

    #[test]
    fn every_member_has_its_tar_file_and_its_order() {
        let members = ["data/global/pg_control", "data/base/1/2", "data/pg_tblspc/16400/PG_15/5/7"];
        let members =
            members.into_iter().chain(["wal/0001", "outside/pg_hba.conf", "data/backup_label", DIRECTORIES]);
        let members: Vec<_> = members.map(member).collect();
        let directories =
            ["pg_tblspc/16400/PG_15/5", "pg_tblspc/16400/PG_15", "pg_tblspc/16400", "base", "pg_tblspc"];
        let directories: Vec<String> = directories.map(str::to_owned).into();
        let locations = BTreeMap::from([("16400".to_owned(), "/srv/space".to_owned())]);
        let plans = divide(&members, &directories, &locations);
        let told: Vec<(String, Vec<String>)> = plans
            .iter()
            .map(|plan| {
                let entries = plan.entries.iter().map(|entry| match entry {
                    Entry::Directory(name) => format!("{name}/"),
                    Entry::Link(name, target) => format!("{name} -> {target}"),
                    Entry::File(name, ..) | Entry::Empty(name) => name.clone(),
                });
                (plan.name.clone(), entries.collect())
            })
            .collect();
        let base = [
            "backup_label",
            "base/",
            "pg_tblspc/",
            "pg_tblspc/16400 -> /srv/space",
            "base/1/2",
            "global/pg_control",
        ];
        let wanted: [(&str, &[&str]); 4] = [
            ("base.tar", &base),
            ("16400.tar", &["PG_15/", "PG_15/5/", "PG_15/5/7"]),
            ("pg_wal.tar", &["archive_status/", "0001", "archive_status/0001.done"]),
            ("outside.tar", &["pg_hba.conf"]),
        ];
        let wanted: Vec<(String, Vec<String>)> = wanted
            .iter()
            .map(|(name, entries)| ((*name).to_owned(), entries.iter().map(|e| (*e).to_owned()).collect()))
            .collect();
        assert_eq!(told, wanted);
    }

    #[test]
    fn long_names_are_split_and_longer_ones_refused() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        let block = header(&long, b'0', 0o600, 5, "", at).unwrap();
        assert_eq!(&block[..90], "f".repeat(90).as_bytes());
        assert_eq!(&block[345..465], "d".repeat(120).as_bytes());
        assert!(header(&"x".repeat(101), b'0', 0o600, 0, "", at).is_err());
        assert!(header("x", b'2', 0o777, 0, &"y".repeat(101), at).is_err());
    }
}
