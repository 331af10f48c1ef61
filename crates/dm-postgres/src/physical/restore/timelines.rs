//! Which timelines there are, and the way from a backup along them.

use dm_core::{Error, Finding, LogReader, OpContext, Result};
use serde::{Deserialize, Serialize};

use super::points::error;
use super::source::Source;
use super::wal::{Ancestor, lsn, parse_history};

/// A part of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leg {
    pub(super) timeline: u32,
    /// Where it branched off the one before.
    pub(super) begin: u64,
    /// Where the next one branches off; the last has no end.
    pub(super) end: Option<u64>,
}

/// What is known of timelines.
pub(super) struct Histories {
    /// Those that the log has, with their ancestors; `None` where the record was not shipped.
    timelines: Vec<(u32, Option<Vec<Ancestor>>)>,
}

impl Histories {
    pub(super) async fn read(ctx: &OpContext, log: &dyn LogReader, source: &Source) -> Result<Self> {
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

    pub(super) fn known(&self) -> Vec<u32> {
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
    pub(super) fn choose(&self, source: &Source, asked: Option<&str>) -> Result<Result<Vec<Leg>, Finding>> {
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
