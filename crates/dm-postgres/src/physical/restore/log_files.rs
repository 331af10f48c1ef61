//! The log that a point in time needs, as files of the restored directory: it then needs no keys and no program.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dm_core::{Error, LogReader, OpContext, Progress, Result};
use futures::{StreamExt as _, TryStreamExt as _};

use super::place::{failed, give, write_file};
use super::points::LogPlan;
use super::programs::RunAs;
use super::source::Source;
use super::timelines::Leg;
use super::wal::{history_name, segment_name};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    timeline: u32,
    number: u64,
    /// What the log has of it, oldest timeline first.
    parts: Vec<(u32, std::ops::Range<u64>)>,
    /// Up to where an older timeline's file has the same bytes.
    shared: u64,
}

/// Which files, by the rule of the server: of a segment that several timelines have, it reads the newest one's.
fn segments(plan: &LogPlan, segment_bytes: u64) -> Vec<Segment> {
    let Some(begin) = plan.pieces.first().map(|(_, r)| r.start) else { return Vec::new() };
    let leg_of = |number: u64| -> Option<&Leg> {
        plan.legs
            .iter()
            .enumerate()
            .rev()
            .find(|(i, l)| *i == 0 || l.begin / segment_bytes <= number)
            .map(|(_, l)| l)
    };
    (begin / segment_bytes..plan.upto.div_ceil(segment_bytes))
        .filter_map(|number| {
            let whole = number * segment_bytes..(number + 1) * segment_bytes;
            let parts: Vec<_> = plan
                .pieces
                .iter()
                .map(|(t, r)| (*t, r.start.max(whole.start)..r.end.min(whole.end)))
                .filter(|(_, r)| r.start < r.end)
                .collect();
            let leg = leg_of(number)?;
            (!parts.is_empty()).then_some(Segment {
                timeline: leg.timeline,
                number,
                parts,
                shared: leg.begin,
            })
        })
        .collect()
}

/// Writes them, and the records of all timelines.
pub(super) async fn write(
    ctx: &OpContext,
    source: &Source,
    log: &dyn LogReader,
    plan: &LogPlan,
    data: &Path,
    user: Option<&RunAs>,
    jobs: usize,
) -> Result<()> {
    let folder = data.join("pg_wal");
    for timeline in &plan.histories {
        let path = folder.join(history_name(*timeline));
        if !path.exists() {
            let bytes = log.history(ctx, *timeline).await?.ok_or_else(|| {
                Error::not_found("a timeline's history is not in the log any more")
                    .about(history_name(*timeline))
            })?;
            write_file(&path, &bytes, user)?;
        }
    }
    let bytes = plan.pieces.iter().map(|(_, r)| r.end - r.start).sum();
    if bytes > 0 {
        ctx.progress(Progress::Phase { name: "fetching the log", total_bytes: Some(bytes) });
    }
    let folder = &folder;
    futures::stream::iter(segments(plan, source.segment_bytes))
        .map(|segment| async move { one(ctx, source, log, &segment, folder, user).await })
        .buffer_unordered(jobs.max(1))
        .try_collect::<()>()
        .await
}

async fn one(
    ctx: &OpContext,
    source: &Source,
    log: &dyn LogReader,
    segment: &Segment,
    folder: &Path,
    user: Option<&RunAs>,
) -> Result<()> {
    let path = folder.join(segment_name(segment.timeline, segment.number, source.segment_bytes));
    let base = segment.number * source.segment_bytes;
    let older: PathBuf =
        folder.join(segment_name(source.stop.timeline, segment.number, source.segment_bytes));
    let there = path.exists();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| failed(&path, "write", e))?;
    give(&path, user)?;
    file.set_len(source.segment_bytes).map_err(|e| failed(&path, "reserve", e))?;
    if !there && older.exists() && segment.shared > base {
        // The backup has the older timeline's copy of the segment in which this one branched off.
        let mut bytes = fs::read(&older).map_err(|e| failed(&older, "read", e))?;
        bytes.truncate(usize::try_from(segment.shared - base).unwrap_or(usize::MAX));
        file.write_all_at(&bytes, 0).map_err(|e| failed(&path, "write", e))?;
    }
    let mut file = file;
    for (timeline, range) in &segment.parts {
        let mut at = range.start;
        let mut content = log.read(ctx, *timeline, range.clone());
        while let Some(bytes) = content.next().await.transpose()? {
            ctx.check()?;
            let length = bytes.len() as u64;
            if at + length > range.end {
                return Err(Error::internal("the log gave more than it was asked for")
                    .about(path.display().to_string()));
            }
            let (offset, written) = (at - base, path.clone());
            file = tokio::task::spawn_blocking(move || {
                file.write_all_at(&bytes, offset).map_err(|e| failed(&written, "write", e))?;
                Ok::<_, Error>(file)
            })
            .await
            .map_err(|e| Error::internal("the writing of the log ended unexpectedly").with_source(e))??;
            at += length;
            ctx.progress(Progress::Bytes(length));
        }
        if at != range.end {
            return Err(Error::corrupt("the log gave less than it has").about(path.display().to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_two_timelines_is_the_newer_ones() {
        let plan = LogPlan {
            legs: vec![
                Leg { timeline: 1, begin: 0, end: Some(250) },
                Leg { timeline: 2, begin: 250, end: None },
            ],
            pieces: vec![(1, 130..250), (2, 200..420)],
            upto: 420,
            histories: vec![2],
        };
        let files = segments(&plan, 100);
        let named: Vec<_> = files.iter().map(|s| (s.timeline, s.number)).collect();
        assert_eq!(named, [(1, 1), (2, 2), (2, 3), (2, 4)]);
        assert_eq!(files[0].parts, [(1, 130..200)]);
        assert_eq!(files[1].parts, [(1, 200..250), (2, 200..300)]);
        assert_eq!(files[3].parts, [(2, 400..420)]);
    }
}
