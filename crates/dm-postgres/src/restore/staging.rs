//! Rows of a backup beside the place that they go to, in temporary tables of one connection: where they are looked through
//! before they are used. Whatever happens, nothing of it outlives the connection.

use std::collections::BTreeMap;

use dm_core::{ContentDigest, Error, OpContext, RestoreContent, Result, RowHasher, TenantFilter};
use futures::StreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tokio::sync::{Mutex, MutexGuard};

use super::merge::unit::Unit;
use super::rows;
use crate::client::Client;
use crate::error::{reading, writing};
use crate::session::{close, open_pinned};
use crate::sql::{dynamic, quote_ident};
use crate::tenant::{Closure, ForeignKey, Graph, Leaf, Node, RowSet, Seed};

/// Positions in one statement.
pub(super) const POSITIONS: usize = 50_000;

/// The temporary tables.
pub(super) struct Staging {
    connection: Mutex<Option<PgConnection>>,
    /// The unit, and the columns, by a heap's name in the backup.
    homes: BTreeMap<String, usize>,
}

/// All rows that came of a unit.
fn all(unit: usize) -> String {
    format!("pg_temp.dm_all_{unit}")
}

/// Those that are restored.
pub(super) fn own(unit: usize) -> String {
    format!("pg_temp.dm_own_{unit}")
}

/// Those that must be there for the others.
pub(super) fn referred(unit: usize) -> String {
    format!("pg_temp.dm_referred_{unit}")
}

impl Staging {
    /// Makes a temporary table for each unit.
    pub(super) async fn open(ctx: &OpContext, client: &Client, units: &[Unit]) -> Result<Self> {
        let mut connection = open_pinned(ctx, client).await?;
        connection.execute("SET temp_buffers = '64MB'").await.map_err(reading)?;
        let mut homes = BTreeMap::new();
        for (i, unit) in units.iter().enumerate() {
            let columns = unit.columns_of("t");
            run(
                &mut connection,
                format!(
                    "CREATE TEMPORARY TABLE {} AS SELECT {columns} FROM {} AS t WITH NO DATA",
                    all(i),
                    unit.from
                ),
            )
            .await
            .map_err(|e| e.about(&unit.display))?;
            homes.extend(unit.leaves.iter().map(|heap| (heap.display.clone(), i)));
        }
        Ok(Self { connection: Mutex::new(Some(connection)), homes })
    }

    /// The connection with the temporary tables; nobody else has it meanwhile.
    pub(super) async fn lock(&self) -> Held<'_> {
        Held(self.connection.lock().await)
    }

    /// Takes a member's rows in.
    pub(super) async fn write(
        &self,
        table: &str,
        columns: &[String],
        content: RestoreContent,
    ) -> Result<u64> {
        let home = self
            .homes
            .get(table)
            .ok_or_else(|| Error::internal("rows came of a table that was not asked for").about(table))?;
        let mut held = self.lock().await;
        // Taken out, so that a COPY that broke off is not followed by anything on the same connection.
        let mut connection = held.take()?;
        let written = rows::copy_into(&mut connection, &all(*home), columns, content).await;
        if written.is_ok() {
            held.put(connection);
        }
        written
    }

    /// Ends the connection, and with it everything.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            close(connection).await;
        }
    }
}

/// The connection.
pub(super) struct Held<'a>(MutexGuard<'a, Option<PgConnection>>);

impl Held<'_> {
    /// The connection, where it still is in order.
    pub(super) fn get(&mut self) -> Result<&mut PgConnection> {
        self.0.as_mut().ok_or_else(gone)
    }

    fn take(&mut self) -> Result<PgConnection> {
        self.0.take().ok_or_else(gone)
    }

    fn put(&mut self, connection: PgConnection) {
        *self.0 = Some(connection);
    }

    /// Whether the server still answers.
    pub(super) async fn answers(&mut self) -> Result<()> {
        self.get()?.ping().await.map_err(reading)
    }
}

fn gone() -> Error {
    Error::new(dm_core::ErrorKind::Unreachable, "the connection that held the restored rows is gone")
        .with_hint("nothing was changed; restore again")
}

/// Runs statements that change something.
pub(super) async fn run(connection: &mut PgConnection, text: String) -> Result<u64> {
    connection.execute(sqlx::raw_sql(dynamic(text))).await.map(|done| done.rows_affected()).map_err(writing)
}

/// Takes all that came as what is restored.
pub(super) async fn take_all(connection: &mut PgConnection, units: &[Unit]) -> Result<()> {
    for i in 0..units.len() {
        let name = own(i).trim_start_matches("pg_temp.").to_owned();
        run(
            connection,
            format!("ALTER TABLE {} RENAME TO {}; ANALYZE {}", all(i), quote_ident(&name), own(i)),
        )
        .await?;
    }
    Ok(())
}

/// Picks one tenant's rows out of all that came. What remains is dropped.
pub(super) async fn pick(
    ctx: &OpContext,
    connection: &mut PgConnection,
    units: &[Unit],
    names: &BTreeMap<String, String>,
    keys: &[ForeignKey],
    tenant: &TenantFilter,
) -> Result<Closure> {
    let mut nodes = Vec::with_capacity(units.len());
    for (i, unit) in units.iter().enumerate() {
        run(connection, format!("ANALYZE {}", all(i))).await?;
        let oid: i64 = sqlx::query_scalar("SELECT $1::text::pg_catalog.regclass::oid::int8")
            .bind(all(i))
            .fetch_one(&mut *connection)
            .await
            .map_err(reading)?;
        nodes.push(Node {
            display: unit.display.clone(),
            from: format!("ONLY {}", all(i)),
            leaves: vec![Leaf { oid, from: format!("ONLY {}", all(i)) }],
            has_column: unit.columns.contains(&tenant.column),
        });
    }
    let graph = Graph::new(nodes, keys, names);
    let mut closure = Closure::find(ctx, connection, &graph, tenant).await?;
    let seed = Seed::new(tenant);
    for (i, node) in graph.nodes.iter().enumerate() {
        ctx.check()?;
        let Some(leaf) = node.leaves.first() else { continue };
        let condition = if node.has_column { seed.is_own("t") } else { "false".to_owned() };
        run(
            connection,
            format!(
                "CREATE TEMPORARY TABLE {} AS SELECT t.* FROM {} AS t WHERE {condition};
                 CREATE TEMPORARY TABLE {} AS SELECT t.* FROM {} AS t WITH NO DATA",
                own(i),
                leaf.from,
                referred(i),
                leaf.from
            ),
        )
        .await?;
        let found = closure.found.remove(&leaf.oid).unwrap_or_default();
        for (to, rows) in [(own(i), &found.children), (referred(i), &found.referred)] {
            let insert = format!("INSERT INTO {to} SELECT t.* FROM {} AS t", leaf.from);
            each_portion(connection, rows, |positions| format!("{insert} WHERE t.ctid = ANY ({positions})"))
                .await?;
        }
        run(connection, format!("DROP TABLE {}; ANALYZE {}; ANALYZE {}", all(i), own(i), referred(i)))
            .await?;
    }
    Ok(closure)
}

/// Runs a statement for each portion of a set.
pub(super) async fn each_portion(
    connection: &mut PgConnection,
    rows: &RowSet,
    statement: impl Fn(&str) -> String,
) -> Result<()> {
    let mut start = 0;
    while let Some((positions, last)) = rows.literal_from(start, POSITIONS) {
        run(connection, statement(&positions)).await?;
        start = last + 1;
    }
    Ok(())
}

/// Number and digest of the rows of a query, read as a backup would read them.
pub(super) async fn digest(
    connection: &mut PgConnection,
    queries: impl IntoIterator<Item = String>,
    key: [u8; 32],
) -> Result<ContentDigest> {
    let mut hasher = RowHasher::new(key);
    for query in queries {
        let mut lines =
            connection.copy_out_raw(&format!("COPY ({query}) TO STDOUT")).await.map_err(reading)?;
        while let Some(line) = lines.next().await {
            let line = line.map_err(reading)?;
            hasher.row(line.strip_suffix(b"\n").unwrap_or(&line));
        }
    }
    Ok(hasher.digest())
}
