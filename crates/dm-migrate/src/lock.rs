//! Waiting for the run lock: by trying again, never in the server.

use std::time::{Duration, Instant};

use dm_core::{Error, ErrorKind, MigrationSession, OpContext, Progress, Result};
use rand::Rng;

/// Between two tries at first, and at most.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(500);

/// Waits for the lock at most this long.
pub(crate) async fn acquire(
    session: &mut dyn MigrationSession,
    ctx: &OpContext,
    wait: Duration,
) -> Result<()> {
    let begun = Instant::now();
    let mut pause = FIRST;
    let mut told = false;
    loop {
        if session.try_lock(ctx).await? {
            return Ok(());
        }
        if begun.elapsed() >= wait {
            return Err(Error::new(ErrorKind::Busy, "another runner of migrations is at work on this database")
                .with_hint("let it end, or wait longer with --wait; a lock never outlives its runner, but a statement that a killed one \
                            left running on the server keeps it until it ends"));
        }
        if !told && begun.elapsed() > Duration::from_secs(2) {
            ctx.progress(Progress::Warning(
                "another runner of migrations is at work; waiting for it".to_owned(),
            ));
            told = true;
        }
        pause_for(ctx, jittered(pause).min(wait)).await?;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Sleeps, unless the work is cancelled.
pub(crate) async fn pause_for(ctx: &OpContext, time: Duration) -> Result<()> {
    ctx.run(async {
        tokio::time::sleep(time).await;
        Ok(())
    })
    .await
}

/// Between half and all of it, so that those who began together do not stay together.
pub(crate) fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.5..=1.0))
}
