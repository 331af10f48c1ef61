//! What the server's WAL summaries (17 and later) say was changed since a base.
//!
//! A summary covers a stretch of log and lists blocks that its records touched. For a fork it may also have a *limit*: the
//! shortest that the fork was in that stretch. What the base has at the limit or behind it is void, and so are blocks that
//! earlier summaries list there; blocks that the same summary lists were touched after that. A limit belongs to the whole
//! relation, not to one of its files. A limit of 0 for the relation 0 says that a whole database was dropped, or made by
//! copying files, in that place.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dm_core::Result;
use roaring::RoaringBitmap;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::Lsn;
use super::files::RelationFile;
use super::timeline::TimelineHistory;
use crate::error::reading;

/// How long to wait for a summarizer that makes no progress, and how often to look.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The main fork of a relation: tablespace, database, number.
type Relation = (u32, u32, u32);

/// What was changed of a relation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changed {
    /// What the base has from this block on is void.
    pub(super) limit: Option<u32>,
    /// Blocks that were touched.
    pub(super) blocks: RoaringBitmap,
}

/// What was changed of a cluster. Other forks than the main one are read whole and not kept here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    relations: HashMap<Relation, Changed>,
    /// Databases that are not what they were: tablespace and oid.
    databases: HashSet<(u32, u32)>,
}

impl Changes {
    /// Takes what one summary says of one fork. Summaries must come in the order of the log.
    fn take(&mut self, relation: Relation, fork: i16, limit: Option<u32>, blocks: impl Iterator<Item = u32>) {
        let (tablespace, database, number) = relation;
        if fork != 0 {
            return;
        }
        if number == 0 {
            self.databases.insert((tablespace, database));
            return;
        }
        let changed = self.relations.entry(relation).or_default();
        if let Some(limit) = limit {
            changed.limit = Some(changed.limit.map_or(limit, |l| l.min(limit)));
            changed.blocks.remove_range(limit..);
        }
        changed.blocks.extend(blocks);
    }

    /// Whether everything below this place is another database than the base's.
    pub(super) fn is_other_database(&self, file: &RelationFile) -> bool {
        self.databases.contains(&(file.tablespace, file.database))
    }

    /// What was changed of the relation that a file belongs to; `None` when nothing was.
    pub(super) fn of(&self, file: &RelationFile) -> Option<&Changed> {
        self.relations.get(&(file.tablespace, file.database, file.number))
    }
}

/// A summary that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    timeline: u32,
    start: Lsn,
    end: Lsn,
}

/// Whether the summaries cover a stretch of history.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Coverage {
    /// These do, in order.
    Whole(Vec<Summary>),
    /// They end here, on this timeline, and may get further.
    Until(u32, Lsn),
    /// There is a hole that will not be filled.
    Hole,
}

/// Looks which summaries cover the log from one place to another along the history.
fn coverage(available: &[Summary], history: &TimelineHistory, from: Lsn, to: Lsn) -> Coverage {
    let mut needed = Vec::new();
    for (timeline, begin, end) in history.stretches() {
        let mut at = begin.max(from);
        let end = end.map_or(to, |end| end.min(to));
        while at < end {
            let next = available
                .iter()
                .filter(|s| s.timeline == timeline && s.start <= at && at < s.end)
                .max_by_key(|s| s.end);
            match next {
                Some(summary) => {
                    needed.push(*summary);
                    at = summary.end;
                }
                None if available
                    .iter()
                    .any(|s| (s.timeline == timeline && s.start > at) || s.timeline > timeline) =>
                {
                    return Coverage::Hole;
                }
                None => return Coverage::Until(timeline, at),
            }
        }
    }
    Coverage::Whole(needed)
}

/// Waits for the summaries and reads them; `None` when they do not cover everything from `from` to `to`, with the reason.
pub(super) async fn summarized(
    connection: &mut PgConnection,
    history: &TimelineHistory,
    from: Lsn,
    to: Lsn,
) -> Result<Result<Changes, String>> {
    let mut last = None;
    let mut since = Instant::now();
    let needed = loop {
        match coverage(&available(connection).await?, history, from, to) {
            Coverage::Whole(needed) => break needed,
            Coverage::Hole => {
                return Ok(
                    Err("the server has removed WAL summaries that reach back to the base".to_owned()),
                );
            }
            Coverage::Until(timeline, at) => {
                if last != Some((timeline, at)) {
                    last = Some((timeline, at));
                    since = Instant::now();
                }
                if since.elapsed() > PATIENCE {
                    return Ok(Err(format!("the server's WAL summaries end at {at} and do not get further")));
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let mut changes = Changes::default();
    for summary in needed {
        if let Err(error) = read_summary(connection, summary, &mut changes).await {
            // Removed between the look and the reading.
            return match error.as_database_error().is_some() {
                true => Ok(Err(reading(error).to_string())),
                false => Err(reading(error)),
            };
        }
    }
    Ok(Ok(changes))
}

async fn available(connection: &mut PgConnection) -> Result<Vec<Summary>> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT tli, start_lsn::text, end_lsn::text FROM pg_catalog.pg_available_wal_summaries()",
    )
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    rows.into_iter()
        .map(|(timeline, start, end)| {
            let timeline = u32::try_from(timeline).unwrap_or(0);
            Ok(Summary { timeline, start: start.parse()?, end: end.parse()? })
        })
        .collect()
}

async fn read_summary(
    connection: &mut PgConnection,
    summary: Summary,
    changes: &mut Changes,
) -> Result<(), sqlx::Error> {
    /// Tablespace, database, relation, fork, limit, blocks.
    type Row = (i64, i64, i64, i16, Option<i64>, Option<Vec<i64>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT reltablespace::int8, reldatabase::int8, relfilenode::int8, relforknumber,
                min(relblocknumber) FILTER (WHERE is_limit_block),
                array_agg(relblocknumber) FILTER (WHERE NOT is_limit_block)
           FROM pg_catalog.pg_wal_summary_contents($1, $2::pg_catalog.pg_lsn, $3::pg_catalog.pg_lsn)
          WHERE relforknumber = 0
          GROUP BY 1, 2, 3, 4",
    )
    .bind(i64::from(summary.timeline))
    .bind(summary.start.to_string())
    .bind(summary.end.to_string())
    .fetch_all(connection)
    .await?;
    // Oids and block numbers are 32 bits wide.
    let number = |wide: i64| wide as u32;
    for (tablespace, database, relation, fork, limit, blocks) in rows {
        let relation = (number(tablespace), number(database), number(relation));
        changes.take(relation, fork, limit.map(number), blocks.unwrap_or_default().into_iter().map(number));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(timeline: u32, start: u64, end: u64) -> Summary {
        Summary { timeline, start: Lsn(start), end: Lsn(end) }
    }

    #[test]
    fn summaries_must_cover_the_stretch_without_a_hole() {
        let first = TimelineHistory { timeline: 1, ancestors: Vec::new() };
        let of = |available: &[Summary], history: &TimelineHistory, from, to| {
            coverage(available, history, Lsn(from), Lsn(to))
        };
        let three = [summary(1, 200, 300), summary(1, 0, 100), summary(1, 100, 200)];
        let in_order = vec![three[2], three[0]];
        assert_eq!(of(&three, &first, 100, 300), Coverage::Whole(in_order.clone()));
        assert_eq!(of(&three, &first, 150, 250), Coverage::Whole(in_order), "a part of one is enough");
        assert_eq!(of(&three, &first, 100, 400), Coverage::Until(1, Lsn(300)));
        assert_eq!(of(&three[..1], &first, 100, 300), Coverage::Hole, "expired");
        assert_eq!(of(&[], &first, 100, 300), Coverage::Until(1, Lsn(100)));
        assert_eq!(of(&[], &first, 100, 100), Coverage::Whole(Vec::new()));
        // Another timeline's summaries say nothing of this one.
        let second = TimelineHistory { timeline: 2, ancestors: vec![(1, Lsn(150))] };
        let both = [summary(1, 0, 150), summary(2, 150, 300), summary(1, 150, 280)];
        assert_eq!(of(&both, &second, 100, 300), Coverage::Whole(vec![both[0], both[1]]));
        assert_eq!(of(&both[1..], &second, 100, 300), Coverage::Hole);
        assert_eq!(of(&both[..1], &second, 100, 300), Coverage::Until(2, Lsn(150)));
    }

    #[test]
    fn a_limit_voids_what_came_before_and_not_what_came_after() {
        let relation = (1663, 5, 16384);
        let file = RelationFile::parse("base/5/16384.1").unwrap();
        let mut changes = Changes::default();
        changes.take(relation, 0, None, [1, 50, 90].into_iter());
        changes.take(relation, 0, Some(40), [45].into_iter());
        changes.take(relation, 0, Some(80), [85].into_iter());
        let changed = changes.of(&file).unwrap();
        assert_eq!((changed.limit, changed.blocks.iter().collect::<Vec<_>>()), (Some(40), vec![1, 45, 85]));
        changes.take(relation, 2, Some(0), [7].into_iter());
        assert_eq!(changes.of(&file).unwrap().limit, Some(40), "other forks are no business of the main one");
        assert!(!changes.is_other_database(&file));
        changes.take((1663, 5, 0), 0, Some(0), std::iter::empty());
        assert!(changes.is_other_database(&file));
        assert!(!changes.is_other_database(&RelationFile::parse("base/6/16384").unwrap()));
    }
}
