//! `dm demo`: the whole story on a small database of its own.
//!
//! It goes through the facade like everybody else, breaks the database for real, and believes nobody: the restored
//! content is compared by the restore itself and once more by reading every row apart from it.

mod damage;
mod fingerprint;
mod folder;
mod report;

use std::path::Path;
use std::time::Instant;

use data_manager::repository::VerifyLevel;
use data_manager::{
    BackupKind, BackupOptions, DataManager, Error, OpContext, RestoreOptions, Result, Statement,
};

use self::fingerprint::Fingerprint;
use self::folder::Folder;
use self::report::{DemoReport, Step, TableProof};
use crate::args::DemoArgs;
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

const SHOP: &str = include_str!("shop.sql");
const DAY: &str = include_str!("day.sql");

pub(crate) async fn run(session: &mut Session, args: &DemoArgs) -> Result<Exit> {
    let folder = Folder::prepare(session.folder.join(&args.dir))?;
    session.out.heading("A shop's database is built, backed up, broken and brought back.")?;
    session.out.say(format!("Everything happens in {}.", folder.root.display()))?;
    session.out.say("")?;
    let story = Story { session, folder: &folder, began: Instant::now(), steps: Vec::new() };
    let report = Box::pin(story.tell()).await?;
    if session.out.is_human() {
        report::end(&mut session.out, &report)?;
    } else {
        session.out.document("demo", &[("demo", &report)])?;
    }
    Ok(if report.proven { Exit::Done } else { Exit::CheckFailed })
}

struct Story<'a> {
    session: &'a mut Session,
    folder: &'a Folder,
    began: Instant,
    steps: Vec<Step>,
}

impl Story<'_> {
    async fn tell(mut self) -> Result<DemoReport> {
        let dm = self.manager(&self.folder.database)?;
        let mut backups = Vec::new();

        let began = Instant::now();
        self.statements(&dm, SHOP).await?;
        let built = self.fingerprint(&dm).await?;
        let rows: u64 = built.iter().map(|t| t.rows).sum();
        let database_bytes = size_of(&self.folder.database);
        let result = format!(
            "{} in {} tables, {}",
            text::count(rows, "row"),
            built.len(),
            text::bytes(database_bytes)
        );
        self.step("build", "built a shop's database", result, began)?;

        let began = Instant::now();
        let full = self.back_up(&dm, BackupKind::Full).await?;
        backups.push(full.backup.id);
        let result =
            format!("{} read, {} stored", text::bytes(full.read_bytes), text::bytes(full.stored_bytes));
        self.step("backup_full", "backed it up", result, began)?;

        let began = Instant::now();
        let changed = self.statements(&dm, DAY).await?;
        let before = self.fingerprint(&dm).await?;
        let result = format!("{} changed, {}", text::count(changed, "row"), text::percent(changed, rows));
        self.step("change", "one more day of business", result, began)?;

        let began = Instant::now();
        let incremental = self.back_up(&dm, BackupKind::Incremental).await?;
        backups.push(incremental.backup.id);
        let result = format!(
            "{} stored, {} of the first backup",
            text::bytes(incremental.stored_bytes),
            text::percent(incremental.stored_bytes, full.stored_bytes)
        );
        self.step("backup_incremental", "backed up only what changed", result, began)?;

        let began = Instant::now();
        let verified = dm.backup().verify(&self.context(&dm), None, None, VerifyLevel::Full).await?;
        if !verified.is_sound() {
            return Err(
                Error::corrupt("a backup that was just made does not verify").about(self.repository())
            );
        }
        self.step(
            "verify",
            "checked both backups",
            "every byte reads back as it was written".to_owned(),
            began,
        )?;

        let began = Instant::now();
        damage::drop_table(&dm, &self.context(&dm)).await?;
        dm.close().await;
        damage::overwrite(&self.folder.database)?;
        let broken = self.manager(&self.folder.database)?;
        let damage = damage::look(&broken, &self.context(&broken)).await;
        if damage.is_empty() {
            return Err(Error::internal("the database survived its damage, so nothing can be shown"));
        }
        let result = format!(
            "all orders deleted, then {} of the file overwritten",
            text::bytes(damage::DAMAGED_BYTES)
        );
        self.step("break", "broke the database", result, began)?;

        let began = Instant::now();
        let restored = self.restore(&broken).await?;
        broken.close().await;
        let result = format!("{} written to a new file, each table compared", text::bytes(restored.bytes));
        self.step("restore", "restored the last backup", result, began)?;

        let began = Instant::now();
        let dm = self.manager(&self.folder.restored)?;
        let after = self.fingerprint(&dm).await?;
        let tables = compare(&before, &after);
        let equal = tables.iter().all(|t| t.equal);
        let result = if equal { "every row is the same" } else { "something differs" }.to_owned();
        self.step("compare", "read every row again", result, began)?;

        let began = Instant::now();
        let audit_ok = self.audit(&dm).await;
        dm.close().await;
        let audit_ok = audit_ok?;
        let result = if audit_ok {
            "every step is on record, and the record is whole"
        } else {
            "the record is damaged"
        };
        self.step("audit", "checked the audit trail", result.to_owned(), began)?;

        Ok(DemoReport {
            folder: self.folder.root.display().to_string(),
            database: self.folder.database.display().to_string(),
            restored: self.folder.restored.display().to_string(),
            repository: self.repository(),
            backups,
            database_bytes,
            full_stored_bytes: full.stored_bytes,
            incremental_stored_bytes: incremental.stored_bytes,
            duration_ms: self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            steps: self.steps,
            damage,
            tables,
            restore_equal: restored.equal,
            audit_ok,
            proven: equal && restored.equal && audit_ok,
        })
    }

    fn step(&mut self, name: &'static str, what: &'static str, result: String, began: Instant) -> Result<()> {
        let duration_ms = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.steps.push(Step { name, what, result, duration_ms });
        report::step(&mut self.session.out, self.steps.len(), &self.steps[self.steps.len() - 1])
    }

    fn repository(&self) -> String {
        self.folder.repository.display().to_string()
    }

    fn manager(&self, database: &Path) -> Result<DataManager> {
        DataManager::builder()
            .engine("shop", database.display().to_string())?
            .repository(self.repository())
            .state(self.folder.state.display().to_string())
            .actor(self.session.actor(None))
            .build()
    }

    fn context(&self, dm: &DataManager) -> OpContext {
        dm.context().with_cancellation(self.session.cancel.clone())
    }

    /// Runs the statements of a file; gives the rows that they changed.
    async fn statements(&self, dm: &DataManager, file: &str) -> Result<u64> {
        let mut changed = 0;
        for statement in split(file) {
            changed += dm.execute(&self.context(dm), Statement::new(statement)).await?;
        }
        Ok(changed)
    }

    async fn fingerprint(&self, dm: &DataManager) -> Result<Vec<Fingerprint>> {
        fingerprint::take(dm, &self.context(dm)).await
    }

    async fn back_up(&self, dm: &DataManager, kind: BackupKind) -> Result<data_manager::backup::RunReport> {
        // A step of its own verifies both backups to the last byte.
        let options = BackupOptions { kind: Some(kind), skip_verify: true, ..BackupOptions::default() };
        dm.backup().run(&self.context(dm), &options).await
    }

    async fn restore(&self, dm: &DataManager) -> Result<data_manager::backup::RestoreReport> {
        let options = RestoreOptions {
            which: "latest".to_owned(),
            to: Some(self.folder.restored.display().to_string()),
            ..RestoreOptions::default()
        };
        let plan = dm.plan_restore(&self.context(dm), &options).await?;
        dm.apply_restore(&self.context(dm), plan).await
    }

    async fn audit(&self, dm: &DataManager) -> Result<bool> {
        Ok(dm.audit().verify(&self.context(dm), &Default::default()).await?.ok)
    }
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// The statements of a file: paragraphs, without those that are only comments.
fn split(file: &str) -> impl Iterator<Item = &str> {
    file.split("\n\n").map(str::trim).filter(|s| !s.lines().all(|line| line.starts_with("--")))
}

fn compare(before: &[Fingerprint], after: &[Fingerprint]) -> Vec<TableProof> {
    before
        .iter()
        .map(|was| {
            let found = after.iter().find(|t| t.table == was.table);
            TableProof {
                table: was.table.clone(),
                rows_before: was.rows,
                rows_after: found.map_or(0, |t| t.rows),
                digest_before: was.digest.clone(),
                digest_after: found.map_or_else(|| "-".repeat(64), |t| t.digest.clone()),
                equal: found == Some(was),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_into_statements() {
        assert_eq!(split(SHOP).count(), 7);
        assert_eq!(split(DAY).count(), 4);
        assert!(split(DAY).all(|s| !s.ends_with(';')));
    }

    #[test]
    fn one_other_row_shows() {
        let print = |digest: &str| Fingerprint { table: "users".into(), rows: 2, digest: digest.repeat(64) };
        assert!(compare(&[print("a")], &[print("a")])[0].equal);
        assert!(!compare(&[print("a")], &[print("b")])[0].equal);
        assert!(!compare(&[print("a")], &[])[0].equal);
    }
}
