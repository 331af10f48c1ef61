//! Which log a point in time needs, and whether it is there.
//!
//! After a recovery, history goes on along a new timeline. The way from a backup to a point is a list of *legs*: the
//! backup's own timeline up to where the next one branched off, that one up to the next, and so on. A point is refused
//! unless the log covers every byte of the way: PostgreSQL takes the first missing piece for the end of all log, and would
//! call a database that lost hours a success.

use std::ops::Range;

use chrono::{DateTime, Duration, Utc};
use dm_core::{ConsistencyPoint, Finding, Level, LogReader, OpContext, RecoveryPoint, Result};
use serde::{Deserialize, Serialize};

use super::coverage::{Coverage, instant, sealed_at};
use super::source::Source;
use super::timelines::{Histories, Leg};
use super::wal::{lsn, parse_lsn};

/// Commits are stamped before they are written: the log is fetched so much beyond an instant.
const MARGIN: Duration = Duration::seconds(10);

/// The check's name in findings.
const CHECK: &str = "point_in_time";

/// What must be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogPlan {
    pub(super) legs: Vec<Leg>,
    /// What is there of them, in order, without a hole from the backup's end to [`upto`](Self::upto).
    pub(super) pieces: Vec<(u32, Range<u64>)>,
    pub(super) upto: u64,
    /// Every timeline with a record of its own: the restored cluster must not take one of their numbers.
    pub(super) histories: Vec<u32>,
}

impl LogPlan {
    /// The timeline on which it ends.
    pub(super) fn timeline(&self) -> u32 {
        self.legs.last().map_or(1, |leg| leg.timeline)
    }

    /// The bytes on disk, at most.
    pub(super) fn bytes(&self, segment_bytes: u64) -> u64 {
        self.pieces.iter().map(|(_, r)| r.end - r.start + segment_bytes).sum()
    }
}

/// What was asked, as far as the log is concerned.
pub(super) struct Question<'a> {
    pub(super) until: &'a RecoveryPoint,
    pub(super) exclusive: bool,
    /// `current`, `latest` or a number.
    pub(super) timeline: Option<&'a str>,
}

/// The answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) log: Option<LogPlan>,
    pub(super) reaches: Option<ConsistencyPoint>,
    pub(super) findings: Vec<Finding>,
}

/// Works it out. What cannot be reached is a finding of level `Error`.
pub(super) async fn plan(
    ctx: &OpContext,
    source: &Source,
    backup_end: u64,
    log: Option<&dyn LogReader>,
    question: &Question<'_>,
) -> Result<Answer> {
    let own = ConsistencyPoint {
        at: source.stop_at,
        position: Some(lsn(source.stop.offset)),
        timeline: Some(source.stop.timeline.to_string()),
    };
    if question.exclusive
        && matches!(question.until, RecoveryPoint::Backup | RecoveryPoint::End | RecoveryPoint::Name(_))
    {
        return Ok(refused(format!("{} cannot be left out", question.until), "leave out --exclusive"));
    }
    if *question.until == RecoveryPoint::Backup {
        // The log is still asked which timelines there are, so that the restored cluster takes a new one.
        let histories = match log {
            Some(log) => Histories::read(ctx, log, source).await?.known(),
            None => Vec::new(),
        };
        let leg = Leg { timeline: source.stop.timeline, begin: 0, end: None };
        let log =
            log.map(|_| LogPlan { legs: vec![leg], pieces: Vec::new(), upto: source.stop.offset, histories });
        return Ok(Answer { log, reaches: Some(own), findings: Vec::new() });
    }
    let Some(log) = log else {
        return Ok(refused(
            format!("{} needs the log, and none was given", question.until),
            "ship the log with `dm log ship`, or restore to the moment of the backup",
        ));
    };
    let histories = Histories::read(ctx, log, source).await?;
    let legs = match histories.choose(source, question.timeline)? {
        Ok(legs) => legs,
        Err(finding) => return Ok(Answer { findings: vec![finding], ..Answer::default() }),
    };
    let coverage = Coverage::of(source, backup_end, &legs, log);
    let mut answer = match locate(source, log, &legs, &coverage, question.until)? {
        Ok((leg, upto, reaches)) => {
            let mut plan = LogPlan {
                legs: legs.get(..=leg).unwrap_or(&legs).to_vec(),
                pieces: trimmed(&coverage.pieces, upto, &legs, leg),
                upto,
                histories: histories.known(),
            };
            if let Some(last) = plan.legs.last_mut() {
                last.end = None;
            }
            Answer { log: Some(plan), reaches, findings: Vec::new() }
        }
        Err(finding) => Answer { findings: vec![finding], ..Answer::default() },
    };
    answer.findings.push(Finding::new(Level::Info, "log", format!("the log covers {coverage}")));
    Ok(answer)
}

fn refused(message: impl Into<String>, mend: impl Into<String>) -> Answer {
    Answer { findings: vec![error(message, mend)], ..Answer::default() }
}

pub(super) fn error(message: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding::new(Level::Error, CHECK, message).with_mend(mend)
}

type Located = (usize, u64, Option<ConsistencyPoint>);

/// The leg on which a point lies, how much log it takes, and what it reaches.
fn locate(
    source: &Source,
    log: &dyn LogReader,
    legs: &[Leg],
    coverage: &Coverage,
    until: &RecoveryPoint,
) -> Result<Result<Located, Finding>> {
    let leg_of = |timeline: u32| legs.iter().position(|l| l.timeline == timeline).unwrap_or(0);
    let last = leg_of(coverage.end.timeline);
    let outside = |what: &str| error(format!("{until} is {what}"), coverage.mend());
    match until {
        RecoveryPoint::Backup => Ok(Ok((0, source.stop.offset, None))),
        // The search goes through all that there is.
        RecoveryPoint::Name(_) | RecoveryPoint::Transaction(_) => Ok(Ok((last, coverage.end.offset, None))),
        RecoveryPoint::End => {
            if let Some((timeline, gap)) = &coverage.gap {
                return Ok(Err(error(
                    format!(
                        "the log is not whole up to its end: {} to {} of timeline {timeline} is missing",
                        lsn(gap.start),
                        lsn(gap.end)
                    ),
                    coverage.mend(),
                )));
            }
            let reached = legs.last().is_some_and(|l| l.timeline == coverage.end.timeline);
            if let (false, Some(leg)) = (reached, legs.get(last)) {
                let branch = leg.end.map(lsn).unwrap_or_default();
                return Ok(Err(error(
                    format!(
                        "the log of timeline {} ends at {}, before the next timeline branches off at {branch}",
                        leg.timeline,
                        lsn(coverage.end.offset),
                    ),
                    coverage.mend(),
                )));
            }
            let point = ConsistencyPoint {
                at: coverage.end_at,
                position: Some(lsn(coverage.end.offset)),
                timeline: Some(coverage.end.timeline.to_string()),
            };
            Ok(Ok((last, coverage.end.offset, Some(point))))
        }
        RecoveryPoint::Time(at) => {
            if *at < source.stop_at {
                return Ok(Err(outside("before the backup is consistent").with_mend(format!(
                    "choose a backup that ended before it; this one ended at {}",
                    instant(source.stop_at)
                ))));
            }
            if *at > coverage.end_at {
                return Ok(Err(outside(match &coverage.gap {
                    Some(_) => "in or after a gap of the log",
                    None => "after the end of the log",
                })));
            }
            let mut found = (last, coverage.end.offset);
            for (timeline, range) in &coverage.pieces {
                let sealed = |at: DateTime<Utc>| log.end_of(*timeline, at).filter(|end| *end <= range.end);
                if sealed(*at).is_some() {
                    found = (leg_of(*timeline), sealed(*at + MARGIN).unwrap_or(range.end).max(range.start));
                    break;
                }
            }
            let (leg, upto) = found;
            let timeline = legs.get(leg).map(|l| l.timeline.to_string());
            Ok(Ok((leg, upto, Some(ConsistencyPoint { at: *at, position: None, timeline }))))
        }
        RecoveryPoint::Position(text) => {
            let position = parse_lsn(text)?;
            if position < source.stop.offset {
                return Ok(Err(outside("before the backup is consistent").with_mend(format!(
                    "choose a backup that ended before it; this one ended at {}",
                    lsn(source.stop.offset)
                ))));
            }
            if position > coverage.end.offset {
                return Ok(Err(outside(match &coverage.gap {
                    Some(_) => "in or after a gap of the log",
                    None => "after the end of the log",
                })));
            }
            let leg = legs.iter().position(|l| l.end.is_none_or(|end| position <= end)).unwrap_or(last);
            let timeline = legs.get(leg).map_or(source.stop.timeline, |l| l.timeline);
            let limit = legs.get(leg).and_then(|l| l.end).unwrap_or(u64::MAX);
            // One segment more: the replay stops at the first record behind the position.
            let behind = (position / source.segment_bytes + 2) * source.segment_bytes;
            let at = log
                .spans()
                .iter()
                .find(|s| s.timeline == timeline && s.range.start <= position && position <= s.range.end)
                .map_or(source.stop_at, |s| sealed_at(log, s, position));
            let point =
                ConsistencyPoint { at, position: Some(lsn(position)), timeline: Some(timeline.to_string()) };
            Ok(Ok((leg, behind.min(coverage.end.offset).min(limit), Some(point))))
        }
    }
}

/// The pieces up to a point on a leg.
fn trimmed(pieces: &[(u32, Range<u64>)], upto: u64, legs: &[Leg], leg: usize) -> Vec<(u32, Range<u64>)> {
    let on_the_way = |t: u32| legs.iter().position(|l| l.timeline == t).is_some_and(|i| i <= leg);
    pieces
        .iter()
        .filter(|(t, r)| on_the_way(*t) && r.start < upto)
        .map(|(t, r)| (*t, r.start..r.end.min(upto)))
        .collect()
}
