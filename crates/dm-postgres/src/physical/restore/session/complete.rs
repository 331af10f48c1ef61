//! What stands in the directory besides the members.

use dm_core::{OpContext, Result};

use super::super::plan::Way;
use super::super::points::LogPlan;
use super::super::recovery::{self, Control};
use super::super::{files, log_files, marker, place, tablespaces};
use super::Session;

impl Session {
    /// What stands in the directory besides the members.
    pub(super) async fn complete(&self, ctx: &OpContext) -> Result<()> {
        if self.plan.way == Way::Delta {
            self.files.prune(ctx)?;
        }
        let standby = self.data.join("standby.signal");
        if standby.exists() {
            self.note("the backup was made on a standby; the restored cluster is none");
        }
        place::remove_file(&standby)?;
        self.files.put("recovery.signal", b"")?;
        for file in &self.source.outside {
            match &file.member {
                Some(member) => self.note(format!(
                    "the source keeps {} at {}; the copy is {}",
                    file.name,
                    file.path,
                    self.plan
                        .destination
                        .join(files::OUTSIDE)
                        .join(member.trim_start_matches("outside/"))
                        .display()
                )),
                None => self.note(format!(
                    "the source keeps {} at {}, which the backup could not read",
                    file.name, file.path
                )),
            }
        }
        if !self.data.join("postgresql.conf").exists() {
            let control = match &self.plan.programs {
                Some(programs) => Some(Control::read(ctx, programs, &self.plan, &self.data).await?),
                None => None,
            };
            self.files
                .put("postgresql.conf", recovery::minimal_configuration(control.as_ref()).as_bytes())?;
            self.note("postgresql.conf is a minimal one; take over what you need of the source's");
        }
        if !self.data.join("pg_hba.conf").exists() {
            self.files.put("pg_hba.conf", recovery::MINIMAL_HBA.as_bytes())?;
            self.note("pg_hba.conf lets in local users alone; take over the source's rules");
        }
        marker::seal(&self.data, &self.plan)?;
        if let (Some(log), Some(plan)) = (&self.log, self.plan.log.clone()) {
            let mut plan = plan;
            if self.plan.restore_command.is_some() {
                plan.pieces.clear();
            }
            let user = self.plan.user.as_ref();
            log_files::write(ctx, &self.source, log.as_ref(), &plan, &self.data, user, self.jobs).await?;
            self.search_tablespaces(ctx, &plan).await?;
        }
        Ok(())
    }

    /// Refuses a log that would write into what somebody else has on this machine.
    pub(super) async fn search_tablespaces(&self, ctx: &OpContext, log: &LogPlan) -> Result<()> {
        let Some(programs) = self.plan.programs.as_ref().filter(|p| p.has("pg_waldump")) else {
            self.note("nobody looked for tablespaces in the log: one made after the backup is made where the source has it");
            return Ok(());
        };
        let segment_bytes = self.source.segment_bytes;
        let made =
            tablespaces::made_by_the_log(ctx, programs, &self.plan, log, &self.data, segment_bytes).await?;
        for (oid, path) in made {
            self.note(format!("the log makes the tablespace {oid} at {}, as on the source", path.display()));
        }
        Ok(())
    }
}
