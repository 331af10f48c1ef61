//! Tablespaces that the log makes.
//!
//! A backup's tablespaces get places of their own. One that was made after the backup comes with the log, and PostgreSQL
//! makes it where the source has it: on the source's own machine it would write into the files of the running server. So
//! the log is searched for them before anything replays it.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime, Utc};
use dm_core::{Error, ErrorKind, OpContext, RecoveryPoint, Result};

use super::place;
use super::plan::Plan;
use super::points::LogPlan;
use super::programs::Programs;
use super::wal::{lsn, parse_lsn};

/// A page of the log.
const PAGE: u64 = 8192;

/// How far before a record a commit is looked for that lies behind the instant.
const NEAR: u64 = 16 << 20;

/// Those that would be made, by oid and place.
///
/// # Errors
/// `Conflict` when one's place is in use on this machine.
pub(super) async fn made_by_the_log(
    ctx: &OpContext,
    programs: &Programs,
    plan: &Plan,
    log: &LogPlan,
    data: &Path,
    segment_bytes: u64,
) -> Result<Vec<(String, PathBuf)>> {
    let mut made = Vec::new();
    for (i, leg) in log.legs.iter().enumerate() {
        let pieces = log.pieces.iter().filter(|(t, _)| *t == leg.timeline).map(|(_, r)| r);
        let Some(begin) = pieces.clone().map(|r| r.start).min() else { continue };
        // The segment in which the next leg begins is that one's.
        let limit = log.legs.get(i + 1).map_or(log.upto, |next| next.begin / segment_bytes * segment_bytes);
        let end = limit.min(pieces.map(|r| r.end).max().unwrap_or(limit));
        if begin >= end {
            continue;
        }
        let dump = Dump { ctx, programs, plan, wal: data.join("pg_wal"), timeline: leg.timeline };
        for record in created(&dump.read(&["--rmgr=Tablespace"], begin, end).await?) {
            if !dump.stops_before(record.position, begin).await? {
                made.push(record);
            }
        }
    }
    for record in &made {
        if place::standing(&record.path)?.is_occupied() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the log makes the tablespace {} at {}, which is in use on this machine",
                    record.oid,
                    record.path.display()
                ),
            )
            .with_hint(
                "choose a point before it was made, restore from a backup that was made after it, or restore on another machine",
            ));
        }
    }
    Ok(made.into_iter().map(|r| (r.oid, r.path)).collect())
}

/// A tablespace that the log makes.
#[derive(Debug, PartialEq, Eq)]
struct Created {
    oid: String,
    path: PathBuf,
    position: u64,
}

/// The log of one timeline, through `pg_waldump`.
struct Dump<'a> {
    ctx: &'a OpContext,
    programs: &'a Programs,
    plan: &'a Plan,
    wal: PathBuf,
    timeline: u32,
}

impl Dump<'_> {
    async fn read(&self, filter: &[&str], begin: u64, end: u64) -> Result<String> {
        let mut arguments: Vec<String> = filter.iter().map(|f| (*f).to_owned()).collect();
        arguments.extend([
            format!("--path={}", self.wal.display()),
            format!("--timeline={}", self.timeline),
            format!("--start={}", lsn(begin)),
            format!("--end={}", lsn(end)),
        ]);
        // It fails at the end of a log that is cut within a record; what it printed until then is all there is.
        let finished = self.programs.run(self.ctx, "pg_waldump", self.plan.user.as_ref(), arguments).await?;
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    /// Whether the recovery ends before a record. In doubt it does not.
    async fn stops_before(&self, position: u64, begin: u64) -> Result<bool> {
        Ok(match &self.plan.until {
            RecoveryPoint::Backup | RecoveryPoint::End => false,
            // The first record behind the position may still be in.
            RecoveryPoint::Position(target) => parse_lsn(target)? + PAGE < position,
            RecoveryPoint::Transaction(id) => {
                let xid = format!("--xid={id}");
                !self.read(&["--rmgr=Transaction", &xid], begin, position).await?.trim().is_empty()
            }
            RecoveryPoint::Name(name) => {
                let text = self.read(&["--rmgr=XLOG"], begin, position).await?;
                let wanted = format!("desc: RESTORE_POINT {name}");
                text.lines().any(|l| l.trim_end().ends_with(&wanted))
            }
            RecoveryPoint::Time(at) => {
                let near = begin.max(position.saturating_sub(NEAR));
                let text = self.read(&["--rmgr=Transaction"], near, position).await?;
                text.lines().filter_map(committed_at).any(|t| t > *at)
            }
        })
    }
}

/// The instant of a commit: `desc: COMMIT 2026-11-21 17:09:24.595123 UTC`; the programs are run with that zone.
fn committed_at(line: &str) -> Option<DateTime<Utc>> {
    let rest = line.split_once("desc: COMMIT ")?.1;
    let text = rest.split_once(" UTC")?.0;
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|t| t.and_utc())
}

/// The records of creation: `... lsn: 0/03017A38, prev 0/030179F8, desc: CREATE 16400 "/srv/space"`.
fn created(output: &str) -> Vec<Created> {
    output
        .lines()
        .filter_map(|line| {
            let position = line.split_once("lsn: ")?.1.split(',').next()?;
            let (oid, path) = line.split_once("desc: CREATE ")?.1.split_once(' ')?;
            Some(Created {
                oid: oid.to_owned(),
                path: PathBuf::from(path.trim().trim_matches('"')),
                position: parse_lsn(position).ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_creation_are_found() {
        let output = "rmgr: Tablespace  len (rec/tot):     41/    41, tx:        739, lsn: 0/03017A38, prev 0/030179F8, \
                      desc: CREATE 16396 \"/srv/a b\"\nrmgr: Tablespace len: 1, lsn: 0/1, desc: DROP 16396\n";
        let expected =
            Created { oid: "16396".to_owned(), path: PathBuf::from("/srv/a b"), position: 0x0301_7A38 };
        assert_eq!(created(output), [expected]);
    }

    #[test]
    fn commits_have_their_instant() {
        let line = "rmgr: Transaction len (rec/tot): 34/34, tx: 1, lsn: 0/1, prev 0/0, \
                    desc: COMMIT 2026-11-21 17:09:24.595123 UTC; inval msgs: x";
        assert_eq!(committed_at(line).unwrap().timestamp_micros() % 1_000_000, 595_123);
        assert_eq!(committed_at("desc: ABORT 2026-11-21 17:09:24 UTC"), None);
    }
}
