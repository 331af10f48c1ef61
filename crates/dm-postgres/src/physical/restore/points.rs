//! Which log a point in time needs, and whether it is there.
//!
//! After a recovery, history goes on along a new timeline. The way from a backup to a point is a list of *legs*: the
//! backup's own timeline up to where the next one branched off, that one up to the next, and so on. A point is refused
//! unless the log covers every byte of the way: PostgreSQL takes the first missing piece for the end of all log, and would
//! call a database that lost hours a success.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use dm_core::{
    ConsistencyPoint, Error, Finding, Level, LogPosition, LogReader, LogSpan, OpContext, RecoveryPoint,
    Result,
};
use serde::{Deserialize, Serialize};

use super::source::Source;
use super::wal::{Ancestor, lsn, parse_history, parse_lsn};

/// Commits are stamped before they are written: the log is fetched so much beyond an instant.
const MARGIN: Duration = Duration::seconds(10);

/// The check's name in findings.
const CHECK: &str = "point_in_time";

/// A part of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leg {
    pub(super) timeline: u32,
    /// Where it branched off the one before.
    pub(super) begin: u64,
    /// Where the next one branches off; the last has no end.
    pub(super) end: Option<u64>,
}

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

fn error(message: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding::new(Level::Error, CHECK, message).with_mend(mend)
}

/// What is known of timelines.
struct Histories {
    /// Those that the log has, with their ancestors; `None` where the record was not shipped.
    timelines: Vec<(u32, Option<Vec<Ancestor>>)>,
}

impl Histories {
    async fn read(ctx: &OpContext, log: &dyn LogReader, source: &Source) -> Result<Self> {
        let mut wanted: Vec<u32> = log.spans().iter().map(|s| s.timeline).collect();
        wanted.extend(2..=wanted.iter().copied().max().unwrap_or(0).max(source.stop.timeline));
        wanted.sort_unstable();
        wanted.dedup();
        let mut timelines = Vec::new();
        let mut next = 0;
        for timeline in wanted {
            next = timeline + 1;
            timelines.push(Self::one(ctx, log, timeline).await?);
        }
        // A timeline may have begun without any traffic yet.
        while next > 1 {
            match Self::one(ctx, log, next).await? {
                found @ (_, Some(_)) => timelines.push(found),
                _ => break,
            }
            next += 1;
        }
        let has_log = |t: &u32| log.spans().iter().any(|s| s.timeline == *t);
        timelines.retain(|(t, ancestors)| ancestors.is_some() || has_log(t));
        Ok(Self { timelines })
    }

    async fn one(
        ctx: &OpContext,
        log: &dyn LogReader,
        timeline: u32,
    ) -> Result<(u32, Option<Vec<Ancestor>>)> {
        if timeline == 1 {
            return Ok((1, Some(Vec::new())));
        }
        match log.history(ctx, timeline).await? {
            Some(bytes) => Ok((timeline, Some(parse_history(timeline, &bytes)?))),
            None => Ok((timeline, None)),
        }
    }

    fn known(&self) -> Vec<u32> {
        self.timelines.iter().filter(|(t, a)| *t > 1 && a.is_some()).map(|(t, _)| *t).collect()
    }

    /// The way from the backup along a timeline, if it leads there.
    fn legs(&self, source: &Source, timeline: u32) -> Option<Vec<Leg>> {
        let stop = source.stop;
        let ancestors = self.timelines.iter().find(|(t, _)| *t == timeline).and_then(|(_, a)| a.as_deref());
        if timeline == stop.timeline {
            let begin = ancestors.and_then(<[Ancestor]>::last).map_or(0, |a| a.until);
            return Some(vec![Leg { timeline, begin, end: None }]);
        }
        let ancestors = ancestors?;
        let from = ancestors.iter().position(|a| a.timeline == stop.timeline && stop.offset <= a.until)?;
        let mut begin = from.checked_sub(1).and_then(|i| ancestors.get(i)).map_or(0, |a| a.until);
        let mut legs = Vec::new();
        for ancestor in ancestors.get(from..).unwrap_or_default() {
            legs.push(Leg { timeline: ancestor.timeline, begin, end: Some(ancestor.until) });
            begin = ancestor.until;
        }
        legs.push(Leg { timeline, begin, end: None });
        Some(legs)
    }

    /// The newest timeline that goes on from the backup, or the one that was asked for.
    fn choose(&self, source: &Source, asked: Option<&str>) -> Result<Result<Vec<Leg>, Finding>> {
        let stop = source.stop;
        let wrong = |timeline: u32| match self.timelines.iter().find(|(t, _)| *t == timeline) {
            Some((_, None)) => error(
                format!(
                    "the history of timeline {timeline} was not shipped: nobody can tell where it branched off"
                ),
                format!("ship {timeline:08X}.history, or choose --set timeline=current"),
            ),
            Some(_) => error(
                format!(
                    "timeline {timeline} does not go on from the backup at {} of timeline {}",
                    lsn(stop.offset),
                    stop.timeline
                ),
                "choose a backup that was made on that timeline, or before it branched off",
            ),
            None => error(
                format!("the log has no timeline {timeline}"),
                "choose one that it has, or --set timeline=latest",
            ),
        };
        match asked {
            Some("current") => Ok(self.legs(source, stop.timeline).ok_or_else(|| wrong(stop.timeline))),
            None | Some("latest") => {
                for (timeline, ancestors) in self.timelines.iter().rev() {
                    if *timeline > stop.timeline && ancestors.is_none() {
                        return Ok(Err(wrong(*timeline)));
                    }
                    if let Some(legs) = self.legs(source, *timeline) {
                        return Ok(Ok(legs));
                    }
                }
                Ok(self.legs(source, stop.timeline).ok_or_else(|| wrong(stop.timeline)))
            }
            Some(number) => {
                let timeline = number.parse().map_err(|_| {
                    Error::invalid(format!("\"{number}\" is not a timeline"))
                        .with_hint("write a number, current or latest")
                })?;
                Ok(self.legs(source, timeline).ok_or_else(|| wrong(timeline)))
            }
        }
    }
}

/// What of the way is there.
struct Coverage {
    pieces: Vec<(u32, Range<u64>)>,
    begin: LogPosition,
    begin_at: DateTime<Utc>,
    /// Where the first hole begins, or everything ends.
    end: LogPosition,
    end_at: DateTime<Utc>,
    /// The hole, where there is log behind it.
    gap: Option<(u32, Range<u64>)>,
}

impl Coverage {
    fn of(source: &Source, backup_end: u64, legs: &[Leg], log: &dyn LogReader) -> Self {
        let segment_start = |offset: u64| offset / source.segment_bytes * source.segment_bytes;
        let spans = log.spans();
        let holding = |leg: &Leg, at: u64| -> Option<&LogSpan> {
            spans.iter().find(|s| s.timeline == leg.timeline && s.range.start <= at && at < s.range.end)
        };
        let mut pieces: Vec<(u32, Range<u64>)> = Vec::new();
        let (mut at, mut end_at, mut k) = (source.stop.offset, source.stop_at, 0);
        let mut from = segment_start(at);
        let mut timeline = source.stop.timeline;
        while let Some(leg) = legs.get(k) {
            let upper = leg.end.unwrap_or(u64::MAX);
            if at >= upper && k + 1 < legs.len() {
                k += 1;
                from = segment_start(upper);
                continue;
            }
            if let Some(span) = holding(leg, at) {
                let end = span.range.end.min(upper);
                pieces.push((leg.timeline, span.range.start.max(from)..end));
                end_at = match span.range.end <= upper {
                    true => span.last_at,
                    false => sealed_at(log, span, upper),
                }
                .max(end_at);
                (at, timeline) = (end, leg.timeline);
                continue;
            }
            // A new timeline begins with a copy of the segment that it branched off in: it may have what the old one's
            // server did not get to ship.
            if let Some(next) = legs.get(k + 1)
                && at >= segment_start(next.begin)
                && holding(next, at).is_some()
            {
                k += 1;
                from = segment_start(next.begin);
                continue;
            }
            // The end of a backup closes its last segment, which the backup has whole.
            if k == 0 && at < backup_end && backup_end <= upper && holding(leg, backup_end).is_some() {
                at = backup_end;
                continue;
            }
            break;
        }
        let leg = legs.get(k).copied();
        let behind = leg.and_then(|leg| {
            spans.iter().find(|s| s.timeline == leg.timeline && s.range.start > at).map(|s| s.range.start)
        });
        Self {
            pieces,
            begin: source.stop,
            begin_at: source.stop_at,
            end: LogPosition { timeline, offset: at },
            end_at,
            gap: behind.and_then(|start| Some((leg?.timeline, at..start))),
        }
    }

    fn mend(&self) -> String {
        let gap = match &self.gap {
            None => String::new(),
            Some((timeline, gap)) => format!(
                "; the log from {} to {} of timeline {timeline} is missing, choose a later backup for what comes after",
                lsn(gap.start),
                lsn(gap.end)
            ),
        };
        format!("choose a point within what the log covers: {self}{gap}")
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {} ({} of timeline {} to {} of timeline {})",
            instant(self.begin_at),
            instant(self.end_at),
            lsn(self.begin.offset),
            self.begin.timeline,
            lsn(self.end.offset),
            self.end.timeline
        )?;
        match &self.gap {
            Some((timeline, gap)) => {
                write!(f, "; then {} to {} of timeline {timeline} is missing", lsn(gap.start), lsn(gap.end))
            }
            None => Ok(()),
        }
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// When the piece that holds a position was sealed: the earliest instant after which it was not the first any more.
fn sealed_at(log: &dyn LogReader, span: &LogSpan, position: u64) -> DateTime<Utc> {
    let (mut low, mut high) = (span.first_at.timestamp_millis(), span.last_at.timestamp_millis());
    while low < high {
        let middle = low + (high - low) / 2;
        let at = DateTime::from_timestamp_millis(middle).unwrap_or(span.last_at);
        match log.end_of(span.timeline, at) {
            Some(end) if end < position => low = middle + 1,
            Some(_) => high = middle,
            None => break,
        }
    }
    DateTime::from_timestamp_millis(low).unwrap_or(span.last_at)
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
