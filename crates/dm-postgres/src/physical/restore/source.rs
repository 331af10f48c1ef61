//! What a physical backup says of itself.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, Utc};
use dm_core::{EngineKind, Error, LogPosition, RestoreManifest, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::wal::{parse_lsn, parse_segment};

/// The member that lists every directory.
pub(super) const DIRECTORIES: &str = "directories.json";

/// The version of the members' naming that is understood.
const FORMAT: u64 = 1;

/// The cluster that was backed up.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) database: String,
    pub(super) major: u32,
    pub(super) system_identifier: String,
    /// Where replay begins.
    pub(super) start: LogPosition,
    /// Where the backup is consistent.
    pub(super) stop: LogPosition,
    pub(super) stop_at: DateTime<Utc>,
    pub(super) segment_bytes: u64,
    pub(super) checksums: bool,
    /// Tablespaces with a location of their own, by oid: where they lie on the source.
    pub(super) tablespaces: BTreeMap<u32, String>,
    pub(super) outside: Vec<Outside>,
}

/// A configuration file that the source keeps elsewhere.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Outside {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) member: Option<String>,
}

#[derive(Deserialize)]
struct Tablespace {
    oid: u32,
    location: String,
}

/// What a member is to a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The list of directories.
    Directories,
    /// A file of the data directory, by its path there.
    Data(PathBuf),
    /// A segment of the log or a timeline's history.
    Wal(String),
    /// A configuration file that lies elsewhere on the source.
    Outside(PathBuf),
}

impl Part {
    /// Reads a member's name; refuses whatever would lead out of the place.
    pub(super) fn of(name: &str) -> Result<Self> {
        let foreign = || {
            Error::unsupported("the backup has a member that this version does not know")
                .about(name)
                .with_hint("restore it with the version that made it, or a later one")
        };
        match name.split_once('/') {
            None if name == DIRECTORIES => Ok(Self::Directories),
            Some(("data", rest)) => Ok(Self::Data(inside(rest)?)),
            Some(("wal", rest)) if !rest.contains('/') => Ok(Self::Wal(inside(rest)?.display().to_string())),
            Some(("outside", rest)) => Ok(Self::Outside(inside(rest)?)),
            _ => Err(foreign()),
        }
    }
}

/// A path that stays below whatever it is appended to.
pub(super) fn inside(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let good = !text.is_empty()
        && !text.contains('\0')
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && path.components().all(|c| matches!(c, Component::Normal(_)));
    match good {
        true => Ok(path.to_owned()),
        false => Err(Error::corrupt("a name of the backup leads out of its place").about(text)),
    }
}

impl Source {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `Unsupported` for a backup of something else or of a later format, `Corrupt` when it lacks what it must say.
    pub(super) fn read(manifest: &RestoreManifest) -> Result<Self> {
        let source = &manifest.source;
        if source.engine != EngineKind::Postgres {
            return Err(Error::unsupported(format!(
                "a backup of {} cannot be restored into postgres",
                source.engine
            ))
            .with_hint("restore it into an engine of its own kind"));
        }
        let format: u64 = attribute(manifest, "physical_format")?;
        if format != FORMAT {
            return Err(Error::unsupported(format!(
                "the backup has the physical format {format}, this version knows {FORMAT}"
            ))
            .with_hint("restore it with the version that made it, or a later one"));
        }
        let position = |name: &str| parse_lsn(&attribute::<String>(manifest, name)?);
        let tablespaces: Vec<Tablespace> = optional(manifest, "tablespaces")?.unwrap_or_default();
        let segment_bytes: u64 = attribute(manifest, "wal_segment_bytes")?;
        if !segment_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_bytes) {
            return Err(lacking("wal_segment_bytes"));
        }
        Ok(Self {
            database: source.database.clone(),
            major: source.version.major,
            system_identifier: source
                .system_identifier
                .clone()
                .ok_or_else(|| lacking("the system identifier"))?,
            start: LogPosition {
                timeline: attribute(manifest, "start_timeline")?,
                offset: position("start_lsn")?,
            },
            stop: LogPosition { timeline: attribute(manifest, "timeline")?, offset: position("stop_lsn")? },
            stop_at: source.consistency.at,
            segment_bytes,
            checksums: optional(manifest, "data_checksums")?.unwrap_or(false),
            tablespaces: tablespaces.into_iter().map(|t| (t.oid, t.location)).collect(),
            outside: optional(manifest, "outside")?.unwrap_or_default(),
        })
    }

    /// The end of the log that the backup brings along: whole segments, on its own timeline.
    pub(super) fn log_end(&self, manifest: &RestoreManifest) -> u64 {
        let segments = manifest.members.iter().filter_map(|(spec, _)| {
            let (timeline, segment) = parse_segment(spec.name.strip_prefix("wal/")?, self.segment_bytes)?;
            (timeline == self.stop.timeline).then_some((segment + 1) * self.segment_bytes)
        });
        segments.max().unwrap_or(self.stop.offset)
    }
}

fn lacking(what: &str) -> Error {
    Error::corrupt(format!("the backup's description lacks {what}"))
}

fn optional<T: DeserializeOwned>(manifest: &RestoreManifest, name: &str) -> Result<Option<T>> {
    match manifest.source.attributes.get(name) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => {
            serde_json::from_value(value.clone()).map(Some).map_err(|e| lacking(name).with_source(e))
        }
    }
}

fn attribute<T: DeserializeOwned>(manifest: &RestoreManifest, name: &str) -> Result<T> {
    optional(manifest, name)?.ok_or_else(|| lacking(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out() {
        for bad in [
            "data/../x",
            "data//x",
            "data/",
            "data/a/./b",
            "wal/a/b",
            "outside/../../etc/passwd",
            "x",
            "data/a/../../b",
        ] {
            assert!(Part::of(bad).is_err(), "{bad}");
        }
        assert_eq!(Part::of("data/base/1/2").unwrap(), Part::Data("base/1/2".into()));
        assert_eq!(Part::of("wal/00000002.history").unwrap(), Part::Wal("00000002.history".into()));
    }
}
