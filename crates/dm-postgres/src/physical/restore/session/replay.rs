//! Replaying the log up to the point, and finding out how far it came.

use chrono::DateTime;
use dm_core::{ConsistencyPoint, Error, OpContext, Progress, RecoveryPoint, Result};

use super::super::programs::Programs;
use super::super::wal::lsn;
use super::super::{recovery, tail};
use super::Session;
use crate::error::reading;
use crate::session::{close, open};

impl Session {
    /// Replays the log up to the point.
    pub(super) async fn recover(&self, ctx: &OpContext, programs: &Programs) -> Result<()> {
        let total = self.plan.log.as_ref().map(|l| l.upto.saturating_sub(self.source.start.offset));
        ctx.progress(Progress::Phase { name: "recovering", total_bytes: total });
        let target = recovery::target(&self.plan, &self.data, true);
        let mut whole = self.plan.until == RecoveryPoint::End;
        if let Err(trouble) = self.start(ctx, programs, target).await? {
            // Nothing was committed behind an instant or a position up to which the log is known to be whole: its end
            // is the point. PostgreSQL cannot know that.
            let known = matches!(self.plan.until, RecoveryPoint::Time(_) | RecoveryPoint::Position(_))
                && self.plan.restore_command.is_none();
            if !trouble.ended_early || !known {
                return Err(trouble.error);
            }
            whole = true;
            self.note(format!(
                "nothing was committed between the end of the log that was replayed and {}",
                self.plan.until
            ));
            let target = recovery::target(&self.plan, &self.data, false);
            self.start(ctx, programs, target).await?.map_err(|t| t.error)?;
        }
        self.state().recovered = true;
        self.look(ctx, whole).await
    }

    /// Where recovery came to.
    pub(super) async fn look(&self, ctx: &OpContext, whole: bool) -> Result<()> {
        let client = self.client(ctx, None).await?;
        let mut connection = open(ctx, &client).await?;
        let (segment, last): (String, Option<i64>) = ctx
            .run(async {
                sqlx::query_as(
                    "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()),
                            (pg_catalog.date_part('epoch', pg_catalog.date_trunc('second', t)) * 1000000
                             + pg_catalog.date_part('microseconds', t)::int8 % 1000000)::int8
                       FROM pg_catalog.pg_last_xact_replay_timestamp() t",
                )
                .fetch_one(&mut connection)
                .await
                .map_err(reading)
            })
            .await?;
        let elsewhere: Vec<(String, String)> = ctx
            .run(async {
                sqlx::query_as(
                    "SELECT DISTINCT ON (name) name, setting FROM pg_catalog.pg_file_settings
                      WHERE name IN ('data_directory', 'hba_file', 'ident_file', 'archive_command', 'external_pid_file', 'port')
                        AND sourcefile NOT LIKE '%/postgresql.auto.conf' AND setting <> ''
                      ORDER BY name, seqno DESC",
                )
                .fetch_all(&mut connection)
                .await
                .map_err(reading)
            })
            .await?;
        close(connection).await;
        for (name, value) in elsewhere {
            match name.as_str() {
                "port" => {}
                "archive_command" => self.note(format!(
                    "archive_command is the source's ({value}): give the restored cluster a place of its own before it starts"
                )),
                _ => self.note(format!("postgresql.conf sets {name} to the source's {value}: change it before the cluster starts")),
            }
        }
        let timeline = segment
            .get(..8)
            .and_then(|t| u32::from_str_radix(t, 16).ok())
            .ok_or_else(|| Error::internal("the restored server does not tell its timeline"))?;
        let (parent, position) = recovery::branch(&self.data, timeline)?
            .ok_or_else(|| Error::internal("the restored server is on no timeline of its own"))?;
        if let (true, Some(log), Some(plan)) = (whole, &self.log, &self.plan.log)
            && self.plan.restore_command.is_none()
        {
            tail::check(ctx, log.as_ref(), plan, parent, position, self.source.segment_bytes).await?;
        }
        self.state().reached = Some(ConsistencyPoint {
            at: last.and_then(DateTime::from_timestamp_micros).unwrap_or(self.source.stop_at),
            position: Some(lsn(position)),
            timeline: Some(parent.to_string()),
        });
        Ok(())
    }
}
