//! Backfills: the middle of expand, backfill, contract.
//!
//! A column is added without a value (expand), filled in portions while the application works (backfill), and only then demanded
//! or dropped (contract). Portions are sized by how long they take, so that rows are locked for moments whatever the table.

use std::time::{Duration, Instant};

use dm_core::{BackfillProgress, BackfillRequest, Error, ErrorKind, OpContext, Progress, Result};
use serde::Serialize;

use crate::lock::{jittered, pause_for};
use crate::migrator::Migrator;

/// How fast a backfill goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackfillPace {
    /// Rows of the first portion, and the most that a portion ever has.
    pub max_rows: u32,
    /// How long a portion may take; the next is made smaller or larger to fit.
    pub target: Duration,
    /// The least pause behind each portion; it is never shorter than the portion took. Zero is none at all, which keeps the disk busy
    /// with nothing else.
    pub pause: Duration,
}

impl Default for BackfillPace {
    /// Up to 5000 rows, 100 ms a portion, at least 50 ms between.
    fn default() -> Self {
        Self { max_rows: 5000, target: Duration::from_millis(100), pause: Duration::from_millis(50) }
    }
}

/// The fewest rows of a portion.
const MIN_ROWS: u32 = 50;
/// How often a portion is tried that does not get its rows.
const ATTEMPTS: u32 = 20;

/// What a backfill did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// Its name.
    pub name: String,
    /// How far it is, over all its runs.
    pub progress: BackfillProgress,
    /// Portions of this run.
    pub portions: u64,
    /// How often a portion had to be tried again.
    pub retries: u64,
    /// How long the longest portion took.
    pub longest_ms: u64,
    /// How long this run took.
    pub duration_ms: u64,
}

impl Migrator {
    /// Fills a column in portions; goes on where a run of the same name and request ended.
    ///
    /// # Errors
    /// `Invalid`, `Busy`, `Unreachable`, `Denied`; whatever is done by then stays, on record.
    ///
    /// # Cancellation
    /// Cancel through the context, at any time; the same call goes on later.
    pub async fn backfill(
        &self,
        ctx: &OpContext,
        request: &BackfillRequest,
        pace: BackfillPace,
    ) -> Result<BackfillReport> {
        self.one_only(&request.set, "the assignments")?;
        if let Some(filter) = &request.filter {
            self.one_only(filter, "the condition")?;
        }
        let mut session = self.target_arc().backfill(ctx, &self.settings().session, request).await?;
        let begun = Instant::now();
        let (mut portions, mut retries, mut longest) = (0, 0, Duration::ZERO);
        let mut rows = pace.max_rows.clamp(1, pace.max_rows.max(1)).min(1000.max(MIN_ROWS));
        let mut attempt = 0;
        ctx.progress(Progress::Phase { name: "filling", total_bytes: None });
        let work = async {
            while !session.progress().finished {
                ctx.check()?;
                let started = Instant::now();
                match session.next(ctx, rows).await {
                    Ok(_) => attempt = 0,
                    Err(error) if error.kind() == ErrorKind::Busy && attempt < ATTEMPTS => {
                        attempt += 1;
                        retries += 1;
                        rows = (rows / 2).max(MIN_ROWS.min(pace.max_rows));
                        pause_for(ctx, jittered(pace.pause.max(Duration::from_millis(20)) * attempt)).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                let took = started.elapsed();
                portions += 1;
                longest = longest.max(took);
                rows = fitting(rows, took, pace);
                if !session.progress().finished && !pace.pause.is_zero() {
                    // At least half of the time is the application's, however slow the disk is.
                    pause_for(ctx, pace.pause.max(took)).await?;
                }
            }
            Ok(())
        };
        let result = work.await;
        let progress = session.progress().clone();
        session.close().await;
        result?;
        Ok(BackfillReport {
            name: request.name.clone(),
            progress,
            portions,
            retries,
            longest_ms: millis(longest),
            duration_ms: millis(begun.elapsed()),
        })
    }
}

impl Migrator {
    /// Fails unless a text is a part of one statement.
    fn one_only(&self, text: &str, what: &str) -> Result<()> {
        match self.target().split(text)?.len() {
            0 => Err(Error::invalid(format!("{what} of the backfill are empty"))),
            1 if !text.trim_end().ends_with(';') => Ok(()),
            _ => Err(Error::invalid(format!("{what} of the backfill hold more than one statement"))
                .with_hint("give what stands between SET and WHERE, without a semicolon")),
        }
    }
}

/// The rows of the next portion: at most twice as many, at least half.
fn fitting(rows: u32, took: Duration, pace: BackfillPace) -> u32 {
    let ratio = pace.target.as_secs_f64() / took.as_secs_f64().max(0.000_1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and twice a u32, then clamped"
    )]
    let wanted = (f64::from(rows) * ratio.clamp(0.5, 2.0)) as u32;
    wanted.clamp(MIN_ROWS.min(pace.max_rows), pace.max_rows.max(1))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_grow_and_shrink_to_their_time() {
        let pace = BackfillPace::default();
        assert_eq!(fitting(1000, Duration::from_millis(10), pace), 2000);
        assert_eq!(fitting(4000, Duration::from_millis(10), pace), 5000);
        assert_eq!(fitting(1000, Duration::from_secs(5), pace), 500);
        assert_eq!(fitting(60, Duration::from_secs(5), pace), MIN_ROWS);
        assert_eq!(fitting(10, Duration::from_secs(5), BackfillPace { max_rows: 10, ..pace }), 10);
    }
}
