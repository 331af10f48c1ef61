//! One tenant's rows out of a whole backup, into a new database: all rows that may be the tenant's come into temporary tables,
//! and what is picked out of them goes on into the tables.

use std::collections::BTreeMap;

use dm_core::{Error, OpContext, RestoreContent, Result, TableComparison, TableFacts, TenantFilter};

use super::merge::unit::{Unit, unit_names, units};
use super::plan::TableMember;
use super::session::Session;
use super::staging::{self, Staging};
use crate::catalog;
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::tenant::ForeignKey;

/// The picking.
pub(super) struct Pick {
    units: Vec<Unit>,
    keys: Vec<ForeignKey>,
    staging: Staging,
}

impl Pick {
    /// Makes temporary tables like the tables that were just made.
    pub(super) async fn open(ctx: &OpContext, session: &Session) -> Result<Self> {
        let wanted: BTreeMap<String, TableMember> = session
            .tables
            .iter()
            .filter(|(name, _)| session.plan.wants(name))
            .map(|(name, member)| (name.clone(), member.clone()))
            .collect();
        let mut connection = open_pinned(ctx, &session.place).await?;
        let relations = catalog::relations(&mut connection).await?;
        close(connection).await;
        let (mut missing, mut other) = (Vec::new(), Vec::new());
        let units = units(&relations, &wanted, &mut missing, &mut other);
        missing.append(&mut other);
        if !missing.is_empty() {
            return Err(Error::corrupt(format!(
                "the backup's definitions do not make the tables that its rows are of: {}",
                listed(&missing)
            )));
        }
        let staging = Staging::open(ctx, &session.place, &units).await?;
        Ok(Self { units, keys: session.source.foreign_keys.clone().unwrap_or_default(), staging })
    }

    /// Takes a member's rows in.
    pub(super) async fn write(&self, table: &str, columns: &[String], content: RestoreContent) -> Result<()> {
        self.staging.write(table, columns, content).await.map(drop).map_err(|e| e.about(table))
    }

    /// Picks, and puts what was picked into the tables.
    pub(super) async fn settle(&self, ctx: &OpContext, tenant: &TenantFilter) -> Result<()> {
        let mut held = self.staging.lock().await;
        let connection = held.get()?;
        let names = unit_names(&self.units);
        let picked = ctx.run(staging::pick(ctx, connection, &self.units, &names, &self.keys, tenant)).await?;
        if !picked.any {
            return Err(Error::not_found(format!(
                "no row of the backup has this value of {}",
                tenant.column
            ))
            .with_hint("look at the value, or choose a backup of the time when the tenant had data"));
        }
        for (i, unit) in self.units.iter().enumerate() {
            for from in [staging::own(i), staging::referred(i)] {
                let insert = format!(
                    "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {from} AS s",
                    unit.quoted,
                    unit.column_list(),
                    unit.columns_of("s"),
                );
                ctx.run(staging::run(connection, insert)).await.map_err(|e| e.about(&unit.display))?;
            }
        }
        Ok(())
    }

    /// Compares what was picked with what stands in the tables.
    pub(super) async fn compare(&self, ctx: &OpContext, key: [u8; 32]) -> Result<Vec<TableComparison>> {
        let mut held = self.staging.lock().await;
        let connection = held.get()?;
        let mut comparisons = Vec::with_capacity(self.units.len());
        for (i, unit) in self.units.iter().enumerate() {
            let columns = unit.columns_of("t");
            let select = |from: &str| format!("SELECT {columns} FROM {from} AS t");
            let picked = [select(&staging::own(i)), select(&staging::referred(i))];
            let facts =
                |digest: dm_core::ContentDigest| TableFacts::new(&unit.display, digest.rows(), Some(digest));
            let expected = facts(ctx.run(staging::digest(connection, picked, key)).await?);
            let found = facts(ctx.run(staging::digest(connection, [select(&unit.from)], key)).await?);
            let equal = expected == found;
            comparisons.push(TableComparison { expected, found: Some(found), equal });
        }
        Ok(comparisons)
    }

    /// Ends the connection with the temporary tables.
    pub(super) async fn close(&self) {
        self.staging.close().await;
    }
}
