//! Taking over what is applied already: by another tool, or before there was a history.

use dm_core::{
    Error, ErrorKind, ForeignTool, HistoryEntry, MigrationSession, MigrationState, OpContext, Result,
};

use crate::apply::forward_record;
use crate::compare::adopt;
use crate::files::MigrationFiles;
use crate::migrator::Migrator;
use crate::problem::refuse;

impl Migrator {
    /// Takes over what another tool applied. Its table stays as it is.
    ///
    /// # Errors
    /// `NotFound` when it has no history here; `Conflict` when one of its migrations failed.
    pub async fn adopt(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        tool: ForeignTool,
    ) -> Result<Vec<HistoryEntry>> {
        let foreign = self.target().foreign_history(ctx, tool, tool.table()).await?.ok_or_else(|| {
            Error::not_found(format!(
                "{} has no history here: there is no table {}",
                tool.as_str(),
                tool.table()
            ))
        })?;
        let mut locked = self.locked(ctx).await?;
        let session = locked.session();
        let work = async {
            let history = session.history(ctx).await?;
            let (adopted, problems) = adopt(files, &history, &foreign, tool, ctx.now(), false);
            refuse(&problems)?;
            session.record(ctx, &adopted).await?;
            Ok(adopted)
        };
        let result = work.await;
        locked.end(result).await
    }

    /// Begins an empty history with versions that are applied. Does nothing where the history has begun.
    ///
    /// # Errors
    /// `Invalid` for a version without a file; else as [`resolve`](Self::resolve).
    pub async fn begin_with(
        &self,
        ctx: &OpContext,
        files: &MigrationFiles,
        versions: &[i64],
        remark: &str,
    ) -> Result<()> {
        let entries = versions.iter().map(|version| {
            let file = files.get(*version).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("there is no migration of version {version}"))
            })?;
            Ok(HistoryEntry { remark: Some(remark.to_owned()), ..forward_record(ctx, file) })
        });
        let entries: Vec<HistoryEntry> = entries.collect::<Result<_>>()?;
        let mut locked = self.locked(ctx).await?;
        let session = locked.session();
        let work = async {
            match session.history(ctx).await?.is_empty() {
                true => session.record(ctx, &entries).await,
                false => Ok(()),
            }
        };
        let result = work.await;
        locked.end(result).await
    }

    /// Takes over what the tool that is kept in step did meanwhile; gives the versions.
    pub(crate) async fn adopt_news(
        &self,
        ctx: &OpContext,
        session: &mut dyn MigrationSession,
        files: &MigrationFiles,
    ) -> Result<Vec<i64>> {
        let Some(tool) = self.settings().session.in_step else { return Ok(Vec::new()) };
        let history = session.history(ctx).await?;
        let foreign = self.target().foreign_history(ctx, tool, tool.table()).await?.unwrap_or_default();
        // A table that was only just made knows nothing yet: what is applied is written into it, not undone.
        let all = !foreign.is_empty();
        let (adopted, problems) = adopt(files, &history, &foreign, tool, ctx.now(), all);
        refuse(&problems)?;
        if all {
            session.record(ctx, &adopted).await?;
        } else {
            let applied: Vec<HistoryEntry> =
                history.into_iter().filter(|h| h.state == MigrationState::Applied).collect();
            session.record(ctx, &applied).await?;
        }
        Ok(adopted.iter().map(|h| h.version).collect())
    }
}
