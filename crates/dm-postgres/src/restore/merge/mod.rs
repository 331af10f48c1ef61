//! Rows into tables that are in use: those of some tables, or of one tenant, take the place of those there.
//!
//! The rows come into temporary tables first. Then one transaction, open from [`finish`](RestoreSession::finish) to
//! [`release`](RestoreSession::release), locks out other writers, works out what is to go, refuses where rows elsewhere
//! refer to that, and deletes, changes and inserts in a single statement: foreign keys are checked by the server at its
//! end, so their order and cycles do not matter. The comparison reads inside the transaction; whatever fails before the
//! commit leaves the database as it was.
//!
//! Nothing cascades: what a foreign key's action would touch was refused before, and the server's own counters of the
//! transaction are asked afterwards. Triggers of users are switched off inside the transaction, one by one, which needs
//! the owner and no superuser.

mod apply;
pub(super) mod preview;
mod refer;
pub(super) mod unit;

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use dm_core::{
    Comparison, Error, ErrorKind, Finding, Level, MemberSpec, OpContext, RestoreContent, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, Restored, Result, TableComparison, TableFacts,
    TenantFilter,
};
use sqlx::Executor;

use self::apply::Change;
use self::unit::{Unit, examine, live_graph, unit_names, units};
use super::PostgresRestore;
use super::content::{json, lock};
use super::plan::{Plan, Source, TableMember, table_members};
use super::staging::{self, Staging};
use crate::backup::{SEQUENCES, SequenceValue, TableCopy};
use crate::catalog;
use crate::client::Client;
use crate::error::{reading, writing};
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::sql::{qualified, quote_ident};
use crate::tenant::{Closure, ForeignKey, Seed, foreign_keys};

/// An open restore into tables that are in use.
pub(super) struct Merge {
    client: Client,
    tables: BTreeMap<String, TableMember>,
    units: Vec<Unit>,
    /// Foreign keys as they were when the backup was made.
    keys_then: Vec<ForeignKey>,
    /// Foreign keys as they are.
    keys_now: Vec<ForeignKey>,
    /// How each table of the database stands behind FROM, by its name.
    places: BTreeMap<String, String>,
    tenant: Option<TenantFilter>,
    staging: Staging,
    stages: Vec<Vec<usize>>,
    digest_key: [u8; 32],
    sequences: Mutex<Vec<SequenceValue>>,
    changes: Mutex<Vec<Change>>,
}

/// Makes the temporary tables.
pub(super) async fn open(
    ctx: &OpContext,
    target: &PostgresRestore,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
) -> Result<Merge> {
    let client = target.client.clone();
    let source = Source::read(manifest)?;
    let plan = Plan::load(preview)?;
    let mut tables = table_members(manifest)?;
    tables.retain(|name, _| plan.wants(name));
    let mut connection = open_pinned(ctx, &client).await?;
    let relations = catalog::relations(&mut connection).await?;
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    let mut units = units(&relations, &tables, &mut missing, &mut other);
    missing.append(&mut other);
    if !missing.is_empty() {
        return Err(changed(&missing));
    }
    let findings = examine(&mut connection, &mut units).await?;
    if let Some(finding) = findings.into_iter().find(|f| f.level == Level::Error) {
        return Err(Error::new(ErrorKind::Conflict, finding.message).with_hint("make the plan again"));
    }
    let keys_now = foreign_keys(&mut connection, &relations).await?;
    let places = relations
        .iter()
        .filter(|r| r.is_table())
        .map(|r| {
            let only = if r.kind == catalog::RelationKind::Partitioned { "" } else { "ONLY " };
            (r.display.clone(), format!("{only}{}", r.quoted()))
        })
        .collect();
    close(connection).await;
    let staging = Staging::open(ctx, &client, &units).await?;
    Ok(Merge {
        client,
        tables,
        units,
        keys_then: source.foreign_keys.unwrap_or_default(),
        keys_now,
        places,
        tenant: request.tenant.clone(),
        staging,
        stages: vec![preview.members.clone()],
        digest_key: request.digest_key,
        sequences: Mutex::default(),
        changes: Mutex::default(),
    })
}

fn changed(tables: &[String]) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("tables were changed since the plan was made: {}", listed(tables)),
    )
    .with_hint("make the plan again")
}

impl Merge {
    /// The rows that came, in their final choice; then the one transaction, up to its commit.
    async fn merge(&self, ctx: &OpContext) -> Result<()> {
        let mut held = self.staging.lock().await;
        let connection = held.get()?;
        match &self.tenant {
            None => staging::take_all(connection, &self.units).await?,
            Some(tenant) => {
                let names = unit_names(&self.units);
                let picked =
                    staging::pick(ctx, connection, &self.units, &names, &self.keys_then, tenant).await?;
                if !picked.any {
                    return Err(Error::not_found(format!(
                        "no row of the backup has this value of {}",
                        tenant.column
                    ))
                    .with_hint(
                        "look at the value, or choose a backup of the time when the tenant had data",
                    ));
                }
            }
        }
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map_err(reading)?;
        self.lock_out(connection).await?;
        self.mark_leaving(ctx, connection).await?;
        self.refuse_references(connection).await?;
        let changes = self.replace(connection).await?;
        self.advance_sequences(connection).await?;
        *lock(&self.changes) = changes;
        Ok(())
    }

    /// Tables of a backup's facts, read in the transaction as the backup read them.
    async fn found(&self, ctx: &OpContext, facts: &TableFacts) -> Result<Option<TableFacts>> {
        let Some(member) = self.tables.get(&facts.table) else { return Ok(None) };
        let copy = TableCopy {
            quoted: qualified(&member.schema, &member.name),
            columns: member.columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", "),
            condition: String::new(),
            blocks: 0,
        };
        let mut held = self.staging.lock().await;
        let query = format!("SELECT {} FROM ONLY {}", copy.columns, copy.quoted);
        let digest = ctx.run(staging::digest(held.get()?, [query], self.digest_key)).await?;
        Ok(Some(TableFacts::new(&facts.table, digest.rows(), Some(digest))))
    }

    /// The tenant's rows that were restored, and those that stand there now, worked out anew.
    async fn compare_tenant(&self, ctx: &OpContext, tenant: &TenantFilter) -> Result<Vec<TableComparison>> {
        let mut held = self.staging.lock().await;
        let connection = held.get()?;
        let graph = live_graph(&self.units, &self.keys_now, &tenant.column);
        let now = ctx.run(Closure::find(ctx, connection, &graph, tenant)).await?;
        let seed = Seed::new(tenant);
        let mut comparisons = Vec::with_capacity(self.units.len());
        for (i, (unit, node)) in self.units.iter().zip(&graph.nodes).enumerate() {
            let columns = unit.columns_of("t");
            let wanted = [format!("SELECT {columns} FROM {} AS t", staging::own(i))];
            let mut there = Vec::new();
            if node.has_column {
                there.push(format!("SELECT {columns} FROM {} AS t WHERE {}", unit.from, seed.is_own("t")));
            }
            for leaf in &node.leaves {
                let Some(found) = now.found.get(&leaf.oid) else { continue };
                let mut start = 0;
                while let Some((positions, last)) = found.children.literal_from(start, staging::POSITIONS) {
                    there.push(format!(
                        "SELECT {columns} FROM {} AS t WHERE t.ctid = ANY ({positions})",
                        leaf.from
                    ));
                    start = last + 1;
                }
            }
            let facts =
                |digest: dm_core::ContentDigest| TableFacts::new(&unit.display, digest.rows(), Some(digest));
            let expected = facts(ctx.run(staging::digest(connection, wanted, self.digest_key)).await?);
            let found = facts(ctx.run(staging::digest(connection, there, self.digest_key)).await?);
            let equal = expected == found;
            comparisons.push(TableComparison { expected, found: Some(found), equal });
        }
        Ok(comparisons)
    }
}

#[async_trait]
impl RestoreSession for Merge {
    fn stages(&self) -> Vec<Vec<usize>> {
        self.stages.clone()
    }

    fn location(&self) -> Option<String> {
        Some(format!("a transaction on {} that ends with its connection", self.client.location()))
    }

    async fn write(&self, ctx: &OpContext, member: &MemberSpec, content: RestoreContent) -> Result<()> {
        ctx.run(Box::pin(async {
            match (&member.table, member.name.as_str()) {
                (Some(table), _) => {
                    let columns = self.tables.get(table).map(|t| t.columns.clone()).unwrap_or_default();
                    let written = self.staging.write(table, &columns, content).await;
                    written.map(drop).map_err(|e| e.about(table))
                }
                (None, SEQUENCES) => {
                    let sequences = json(content, &member.name).await?;
                    *lock(&self.sequences) = sequences;
                    Ok(())
                }
                _ => Err(Error::internal("a member came that was not asked for").about(&member.name)),
            }
        }))
        .await
    }

    async fn finish(&self, ctx: &OpContext) -> Result<()> {
        ctx.run(Box::pin(self.merge(ctx))).await
    }

    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        let tables = match &self.tenant {
            Some(tenant) => self.compare_tenant(ctx, tenant).await?,
            None => {
                let mut tables = Vec::with_capacity(expected.len());
                for facts in expected {
                    let found = self.found(ctx, facts).await?;
                    let equal = found.as_ref().is_some_and(|f| {
                        f.rows == facts.rows && (facts.digest.is_none() || f.digest == facts.digest)
                    });
                    tables.push(TableComparison { expected: facts.clone(), found, equal });
                }
                tables
            }
        };
        let unequal: Vec<String> =
            tables.iter().filter(|t| !t.equal).map(|t| t.expected.table.clone()).collect();
        if !unequal.is_empty() {
            // There is no sealed place that could be kept for a person to look at, only a transaction.
            return Err(Error::new(
                ErrorKind::CheckFailed,
                format!("the rows would not be what was backed up in {}", listed(&unequal)),
            )
            .with_hint("nothing was changed; restore into a new database to look at the difference"));
        }
        let checks = lock(&self.changes).iter().map(Change::finding).collect::<Vec<Finding>>();
        Ok(Comparison { tables, checks })
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        let mut held = self.staging.lock().await;
        held.answers().await?;
        ctx.run(async { held.get()?.execute("COMMIT").await.map(drop).map_err(writing) }).await?;
        drop(held);
        let notes = lock(&self.changes).iter().map(|change| change.finding().message).collect();
        self.staging.close().await;
        Ok(Restored { location: self.client.location(), notes, ..Restored::default() })
    }

    async fn discard(self: Box<Self>, _ctx: &OpContext) -> Result<()> {
        // The transaction, if there is one, and the temporary tables end with the connection.
        self.staging.close().await;
        Ok(())
    }
}
