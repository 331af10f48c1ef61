//! Running `pg_restore` over the archive of definitions, in portions.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dm_core::{Error, OpContext, Progress, Result};

use super::plan::{Kind, Plan};
use crate::backup::scratch_failed;
use crate::backup::toc::Toc;
use crate::client::Client;
use crate::tools::ClientTools;

/// The archive, spooled to a file, and what is known of its entries.
#[derive(Clone, Debug)]
pub(super) struct Definitions {
    client: Client,
    tools: ClientTools,
    folder: PathBuf,
    archive: PathBuf,
    owners: bool,
    privileges: bool,
    /// The server does not know settings that the program writes: such failures do not count.
    older_server: bool,
    /// Entries before the data, in order, by number.
    before: Vec<(i64, String)>,
    /// Entries after the data.
    after: Vec<(i64, String)>,
    map: BTreeMap<i64, Belonging>,
}

#[derive(Clone, Debug)]
struct Belonging {
    what: String,
    relation: String,
    needs: Option<String>,
}

impl Definitions {
    /// Reads the archive's list.
    pub(super) async fn open(
        ctx: &OpContext,
        client: Client,
        tools: ClientTools,
        archive: PathBuf,
        toc: &Toc,
        plan: &Plan,
        server_major: u32,
    ) -> Result<Self> {
        let folder = archive.parent().map(Path::to_owned).unwrap_or_default();
        let mut definitions = Self {
            older_server: tools.major >= 17 && server_major < 17,
            client,
            tools,
            folder,
            archive,
            owners: plan.owners,
            privileges: plan.privileges,
            before: Vec::new(),
            after: Vec::new(),
            map: toc
                .entries
                .iter()
                .map(|e| {
                    let belonging = Belonging {
                        what: e.what.clone(),
                        relation: e.relation.clone(),
                        needs: e.needs.clone(),
                    };
                    (e.id, belonging)
                })
                .collect(),
        };
        definitions.before = definitions.list(ctx, "pre-data").await?;
        definitions.after = definitions.list(ctx, "post-data").await?;
        Ok(definitions)
    }

    async fn list(&self, ctx: &OpContext, section: &str) -> Result<Vec<(i64, String)>> {
        let arguments: Vec<OsString> =
            vec!["--list".into(), format!("--section={section}").into(), self.archive.clone().into()];
        let finished =
            self.tools.run(ctx, &self.client, "pg_restore", arguments).await?.or_fail("pg_restore")?;
        let text = String::from_utf8_lossy(&finished.stdout);
        Ok(text
            .lines()
            .filter_map(|line| Some((line.split_once(';')?.0.trim().parse().ok()?, line.to_owned())))
            .collect())
    }

    /// Makes schemas, types, functions, tables: everything that rows need.
    pub(super) async fn before_data(&self, ctx: &OpContext, plan: &Plan) -> Result<()> {
        let (Some(tables), None) = (&plan.tables, &plan.tenant) else {
            return self.run(ctx, "pre-data", &[], Strictness::Strict, None).await;
        };
        if plan.kind == Kind::Database {
            // What tables may need: schemas, types, functions. Some of it may need tables that are not restored; what
            // the chosen tables themselves need and lack shows when they are made.
            let support: Vec<&str> = self
                .before
                .iter()
                .filter(|(id, _)| !self.map.contains_key(id))
                .map(|(_, line)| line.as_str())
                .collect();
            if !support.is_empty() {
                self.run(ctx, "support", &support, Strictness::Lenient, None).await?;
            }
        }
        let made = |relation: &str| tables.contains(relation);
        let chosen: Vec<&str> = self
            .before
            .iter()
            .filter(|(id, _)| self.map.get(id).is_some_and(|b| made(&b.relation)))
            .map(|(_, line)| line.as_str())
            .collect();
        if chosen.is_empty() {
            return Ok(());
        }
        self.run(ctx, "tables", &chosen, Strictness::Strict, None).await
    }

    /// The entries that can be made as soon as a table's rows are in: its indexes and what is an index beneath.
    pub(super) fn early(&self, table: &str) -> Vec<(i64, String)> {
        self.after
            .iter()
            .filter(|(id, _)| {
                self.map
                    .get(id)
                    .is_some_and(|b| b.relation == table && matches!(b.what.as_str(), "INDEX" | "CONSTRAINT"))
            })
            .cloned()
            .collect()
    }

    /// Makes some entries.
    pub(super) async fn make(&self, ctx: &OpContext, name: &str, entries: &[(i64, String)]) -> Result<()> {
        let lines: Vec<&str> = entries.iter().map(|(_, line)| line.as_str()).collect();
        self.run(ctx, name, &lines, Strictness::Strict, None).await
    }

    /// Makes everything after the data that is not made yet.
    pub(super) async fn after_data(
        &self,
        ctx: &OpContext,
        plan: &Plan,
        left_out: &BTreeSet<String>,
        made: &BTreeSet<i64>,
        jobs: usize,
    ) -> Result<()> {
        let (mut rest, mut again) = (Vec::new(), Vec::new());
        for (id, line) in &self.after {
            if made.contains(id) {
                continue;
            }
            let belonging = self.map.get(id);
            if let (Some(tables), None) = (&plan.tables, &plan.tenant) {
                let Some(b) = belonging else { continue };
                if !tables.contains(&b.relation) {
                    // What refers to a table that was dropped lost its foreign key with it.
                    if b.needs.as_ref().is_some_and(|n| tables.contains(n))
                        && plan.existing.contains(&b.relation)
                    {
                        again.push(line.as_str());
                    }
                    continue;
                }
            }
            if let Some(needs) = belonging.and_then(|b| b.needs.as_deref())
                && (left_out.contains(needs)
                    || !(plan.wants(needs) || plan.tenant.is_some() || plan.existing.contains(needs)))
            {
                let table = belonging.map_or("", |b| b.relation.as_str());
                ctx.progress(Progress::Warning(format!(
                    "a foreign key of {table} is left out: {needs} is not restored"
                )));
                continue;
            }
            rest.push(line.as_str());
        }
        if !rest.is_empty() {
            self.run(ctx, "post-data", &rest, Strictness::Strict, Some(jobs)).await?;
        }
        if !again.is_empty() {
            // Rows that came meanwhile may refer to what is not there: then their key is left out, and said to be.
            self.run(ctx, "referring", &again, Strictness::Lenient, None).await?;
        }
        Ok(())
    }

    /// Runs the program: over a whole section when no lines are given.
    async fn run(
        &self,
        ctx: &OpContext,
        name: &str,
        lines: &[&str],
        strictness: Strictness,
        jobs: Option<usize>,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> =
            vec!["--no-password".into(), "--dbname".into(), self.client.dbname_argument().into()];
        if strictness == Strictness::Strict && !self.older_server {
            arguments.push("--exit-on-error".into());
        }
        if !self.owners {
            arguments.push("--no-owner".into());
        }
        if !self.privileges {
            arguments.push("--no-privileges".into());
        }
        if let Some(jobs) = jobs.filter(|j| *j > 1) {
            arguments.push(format!("--jobs={jobs}").into());
        }
        if lines.is_empty() {
            arguments.push(format!("--section={name}").into());
        } else {
            let list =
                self.folder.join(format!("{}.list", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
            tokio::fs::write(&list, lines.join("\n") + "\n").await.map_err(scratch_failed)?;
            arguments.push("--use-list".into());
            arguments.push(list.into());
        }
        arguments.push(self.archive.clone().into());
        let finished = self.tools.run(ctx, &self.client, "pg_restore", arguments).await?;
        if finished.success {
            return Ok(());
        }
        let serious: Vec<&str> = finished
            .stderr
            .lines()
            .filter(|l| {
                l.contains("error:")
                    && !(self.older_server && l.contains("unrecognized configuration parameter"))
            })
            .collect();
        match strictness {
            Strictness::Lenient => {
                for line in serious {
                    ctx.progress(Progress::Warning(format!("left out: {line}")));
                }
                Ok(())
            }
            Strictness::Strict if self.older_server && serious.is_empty() => Ok(()),
            Strictness::Strict => match finished.or_fail("pg_restore") {
                Ok(_) => Ok(()),
                Err(error) => {
                    let error: Error = error;
                    Err(error.with_effect(dm_core::Effect::Partial))
                }
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    Strict,
    Lenient,
}
