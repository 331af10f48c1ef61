//! Before anything is changed: who else writes, what is to go, and who refers to that.

use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::Merge;
use super::unit::{Unit, live_graph};
use crate::error::{reading, sqlstate, writing};
use crate::restore::staging::{each_portion, own, run};
use crate::sql::{dynamic, quote_ident};
use crate::tenant::{Closure, ForeignKey, Seed};

/// How long other writers are waited for.
const PATIENCE: &str = "SET LOCAL lock_timeout = '30s'";

/// The rows that stand there now and are the tenant's.
pub(super) fn present(unit: usize) -> String {
    format!("pg_temp.dm_present_{unit}")
}

/// The rows that go.
pub(super) fn leaving(unit: usize) -> String {
    format!("pg_temp.dm_leaving_{unit}")
}

impl Merge {
    /// Lets nobody else write to the tables, and to those that refer to them, until the transaction ends. Readers go on.
    pub(super) async fn lock_out(&self, connection: &mut PgConnection) -> Result<()> {
        connection.execute(PATIENCE).await.map_err(reading)?;
        let mut tables: Vec<&str> = self.units.iter().map(|u| u.from.as_str()).collect();
        tables
            .extend(self.referring().filter_map(|(key, _)| self.places.get(&key.table)).map(String::as_str));
        tables.sort_unstable();
        tables.dedup();
        let statement = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", tables.join(", "));
        connection.execute(sqlx::raw_sql(dynamic(statement))).await.map(drop).map_err(|e| {
            let busy = sqlstate(&e).as_deref() == Some("55P03");
            let error = writing(e);
            match busy {
                true => error.with_hint(
                    "somebody else writes to these tables all the while: stop the application's writers, then restore again",
                ),
                false => error,
            }
        })
    }

    /// Foreign keys to the units, each with the unit's number.
    fn referring(&self) -> impl Iterator<Item = (&ForeignKey, usize)> {
        self.keys_now.iter().filter_map(|key| Some((key, self.unit_of(&key.references)?)))
    }

    /// The unit that a table is, or is a part of.
    fn unit_of(&self, table: &str) -> Option<usize> {
        self.units.iter().position(|u| u.display == table || u.leaves.iter().any(|h| h.display == table))
    }

    /// Works out which rows go: those that the backup does not have. Of a tenant only its own, and not when a row of somebody
    /// else stands where one of the tenant's belongs.
    pub(super) async fn mark_leaving(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        if let Some(tenant) = &self.tenant {
            let graph = live_graph(&self.units, &self.keys_now, &tenant.column);
            let now = Closure::find(ctx, connection, &graph, tenant).await?;
            let seed = Seed::new(tenant);
            for (i, (unit, node)) in self.units.iter().zip(&graph.nodes).enumerate() {
                let condition = if node.has_column { seed.is_own("t") } else { "false".to_owned() };
                let table = present(i);
                run(
                    connection,
                    format!(
                        "CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS
                             SELECT t.tableoid AS heap, t.ctid AS place FROM {} AS t WHERE {condition}",
                        unit.from
                    ),
                )
                .await?;
                for leaf in &node.leaves {
                    let Some(found) = now.found.get(&leaf.oid) else { continue };
                    each_portion(connection, &found.children, |positions| {
                        format!(
                            "INSERT INTO {table} SELECT t.tableoid, t.ctid FROM {} AS t WHERE t.ctid = ANY ({positions})",
                            leaf.from
                        )
                    })
                    .await?;
                }
                run(connection, format!("ANALYZE {table}")).await?;
                self.refuse_strangers(connection, i, unit).await?;
            }
        }
        for (i, unit) in self.units.iter().enumerate() {
            let kept = match unit.key.is_empty() {
                // Rows that nothing tells apart are replaced one and all.
                true => "false".to_owned(),
                false => format!("EXISTS (SELECT FROM {} AS s WHERE {})", own(i), unit.same_key("s", "t")),
            };
            let mine = match &self.tenant {
                None => "true".to_owned(),
                Some(_) => is_in(&present(i), "t"),
            };
            run(
                connection,
                format!(
                    "CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS SELECT t.tableoid AS heap, t.ctid AS place
                         FROM {} AS t WHERE {mine} AND NOT {kept}; ANALYZE {table}",
                    unit.from,
                    table = leaving(i),
                ),
            )
            .await
            .map_err(|e| e.about(&unit.display))?;
        }
        Ok(())
    }

    async fn refuse_strangers(&self, connection: &mut PgConnection, i: usize, unit: &Unit) -> Result<()> {
        if unit.key.is_empty() {
            return Ok(());
        }
        let query = format!(
            "SELECT count(*) FROM {} AS t WHERE EXISTS (SELECT FROM {} AS s WHERE {}) AND NOT {}",
            unit.from,
            own(i),
            unit.same_key("s", "t"),
            is_in(&present(i), "t"),
        );
        match count(connection, query).await? {
            0 => Ok(()),
            rows => Err(Error::new(
                ErrorKind::Conflict,
                format!("{rows} rows of somebody else stand where rows of the tenant belong"),
            )
            .about(&unit.display)
            .with_hint(
                "they have the keys of the tenant's rows and are not the tenant's any more; nothing was changed: restore \
                 the tenant into a new database and bring the rows over by hand",
            )),
        }
    }

    /// Refuses when rows that stay refer to rows that go, or whose referenced columns change.
    pub(super) async fn refuse_references(&self, connection: &mut PgConnection) -> Result<()> {
        let mut found = Vec::new();
        for (key, i) in self.referring() {
            let (Some(unit), Some(child)) = (self.units.get(i), self.places.get(&key.table)) else {
                continue;
            };
            let mut stays = String::new();
            if let Some((j, referring)) = self.unit_of(&key.table).and_then(|j| Some((j, self.units.get(j)?)))
            {
                stays = format!(" AND NOT {}", is_in(&leaving(j), "c"));
                if !referring.key.is_empty() {
                    let pointed = key.on.iter().map(|p| quote_ident(&p.column)).collect::<Vec<_>>();
                    stays.push_str(&format!(
                        " AND NOT EXISTS (SELECT FROM {} AS s WHERE {} AND {})",
                        own(j),
                        referring.same_key("s", "c"),
                        differ("s", "c", &pointed),
                    ));
                }
            }
            let gone = format!(
                "SELECT FROM {} AS l JOIN {} AS p ON p.ctid = l.place AND p.tableoid = l.heap WHERE {}",
                leaving(i),
                unit.from,
                key.holds("c", "p")
            );
            let mut rows =
                count(connection, format!("SELECT count(*) FROM {child} AS c WHERE EXISTS ({gone}){stays}"))
                    .await?;
            if key.on.iter().any(|pair| unit.key.iter().all(|k| k.column != pair.referenced)) {
                let referenced = key.on.iter().map(|p| quote_ident(&p.referenced)).collect::<Vec<_>>();
                let moved = format!(
                    "SELECT FROM {} AS p JOIN {} AS s ON {} WHERE {} AND {}",
                    unit.from,
                    own(i),
                    unit.same_key("s", "p"),
                    differ("s", "p", &referenced),
                    key.holds("c", "p")
                );
                rows += count(
                    connection,
                    format!("SELECT count(*) FROM {child} AS c WHERE EXISTS ({moved}){stays}"),
                )
                .await?;
            }
            if rows > 0 {
                found.push(format!("{rows} rows of {} ({}) to {}", key.table, key.name, key.references));
            }
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Conflict,
                format!("rows that stay refer to rows that the backup does not have: {}", found.join("; ")),
            )
            .with_hint(
                "nothing was changed: restore the referring tables in the same run, or remove those rows first if they \
                 are not wanted, or restore into a new database",
            )),
        }
    }
}

/// That a row is in a table of positions.
fn is_in(table: &str, row: &str) -> String {
    format!("EXISTS (SELECT FROM {table} AS x WHERE x.place = {row}.ctid AND x.heap = {row}.tableoid)")
}

/// That two rows differ in columns, to the last bit: also where the type knows no equality, or is generous with it.
pub(super) fn differ(one: &str, other: &str, columns: &[String]) -> String {
    let row = |name: &str| columns.iter().map(|c| format!("{name}.{c}")).collect::<Vec<_>>().join(", ");
    // The casts keep the server from comparing column by column.
    format!("ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record", row(one), row(other))
}

async fn count(connection: &mut PgConnection, query: String) -> Result<i64> {
    sqlx::query_scalar(dynamic(query)).persistent(false).fetch_one(connection).await.map_err(reading)
}
