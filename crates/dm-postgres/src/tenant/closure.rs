//! The search: down from the tenant's rows, then up from all that were found.

use std::collections::BTreeMap;

use dm_core::{Error, ErrorKind, OpContext, Result, TenantFilter};
use futures::StreamExt;
use sqlx::postgres::PgConnection;

use super::graph::{Graph, Leaf};
use super::rows::{RowSet, position};
use crate::error::{reading, sqlstate};
use crate::sql::{dynamic, quote_ident, quote_literal};

/// Rows followed in one statement: a megabyte of text.
const AT_ONCE: usize = 100_000;

/// The most rows that are kept by their positions; with two bytes each, a bound on memory.
const MOST_ROWS: u64 = 50_000_000;

/// The tenant's rows in a table that has the column.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    column: String,
    value: String,
}

impl Seed {
    /// The condition on the column.
    pub(crate) fn new(tenant: &TenantFilter) -> Self {
        Self { column: quote_ident(&tenant.column), value: quote_literal(&tenant.value) }
    }

    /// That a row is the tenant's, by its name in the statement.
    pub(crate) fn is_own(&self, row: &str) -> String {
        format!("{row}.{} = {}", self.column, self.value)
    }

    /// That a row names no tenant at all.
    fn is_nobodys(&self, row: &str) -> String {
        format!("{row}.{} IS NULL", self.column)
    }
}

/// What was found in one heap, besides the tenant's own rows there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) children: RowSet,
    pub(crate) referred: RowSet,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closure {
    /// By the oid of the heap.
    pub(crate) found: BTreeMap<i64, Found>,
    /// Tables in which rows of other tenants are referred to, and how many.
    pub(crate) strangers: BTreeMap<String, u64>,
    /// Whether any row carries the tenant's value.
    pub(crate) any: bool,
}

impl Closure {
    /// Searches. The connection's transaction must show one snapshot from here to the last use of what was found.
    ///
    /// # Errors
    /// `Invalid` for a value that the column cannot have; `Exhausted` for more rows than are kept.
    pub(crate) async fn find(
        ctx: &OpContext,
        connection: &mut PgConnection,
        graph: &Graph,
        tenant: &TenantFilter,
    ) -> Result<Self> {
        let seed = Seed::new(tenant);
        check_value(connection, graph, &seed).await?;
        let mut search = Search {
            ctx,
            connection,
            graph,
            places: graph.leaf_places(),
            seed,
            rows: 0,
            closure: Self::default(),
            front: BTreeMap::new(),
        };
        search.down().await?;
        search.up().await?;
        Ok(search.closure)
    }
}

/// Lets the server read the value as the column's type, in every table that has it.
pub(crate) async fn check_value(connection: &mut PgConnection, graph: &Graph, seed: &Seed) -> Result<()> {
    for node in graph.nodes.iter().filter(|n| n.has_column) {
        let query = format!("SELECT 1 FROM {} AS t WHERE {} LIMIT 0", node.from, seed.is_own("t"));
        sqlx::query(dynamic(query)).persistent(false).execute(&mut *connection).await.map_err(|e| {
            match sqlstate(&e).as_deref() {
                Some(code) if code.starts_with("22") || code.starts_with("42") => {
                    Error::invalid(format!("the value cannot be one of the column {} there", seed.column))
                        .about(&node.display)
                        .with_hint("give a value of the column's type; where a table uses the name for something else, exclude the table")
                        .with_source(reading(e))
                }
                _ => reading(e),
            }
        })?;
    }
    Ok(())
}

/// Which way a key is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

struct Search<'a> {
    ctx: &'a OpContext,
    connection: &'a mut PgConnection,
    graph: &'a Graph,
    places: BTreeMap<i64, (usize, usize)>,
    seed: Seed,
    rows: u64,
    closure: Closure,
    /// Rows that were found and not followed yet, by node and heap.
    front: BTreeMap<(usize, usize), RowSet>,
}

impl Search<'_> {
    async fn down(&mut self) -> Result<()> {
        for (n, node) in self.graph.nodes.iter().enumerate().filter(|(_, n)| n.has_column) {
            let query =
                format!("SELECT EXISTS (SELECT FROM {} AS t WHERE {})", node.from, self.seed.is_own("t"));
            if !self.closure.any {
                self.closure.any = sqlx::query_scalar(dynamic(query))
                    .persistent(false)
                    .fetch_one(&mut *self.connection)
                    .await
                    .map_err(reading)?;
            }
            let source = (node.from.clone(), self.seed.is_own("s"));
            self.follow(n, Way::Down, &source).await?;
        }
        self.exhaust(Way::Down).await
    }

    async fn up(&mut self) -> Result<()> {
        for (n, node) in self.graph.nodes.iter().enumerate().filter(|(_, n)| n.has_column) {
            let source = (node.from.clone(), self.seed.is_own("s"));
            self.follow(n, Way::Up, &source).await?;
        }
        for (oid, found) in &self.closure.found {
            if let Some(place) = self.places.get(oid)
                && !found.children.is_empty()
            {
                self.front.entry(*place).or_default().merge(&found.children);
            }
        }
        self.exhaust(Way::Up).await
    }

    /// Follows what was found until nothing new is.
    async fn exhaust(&mut self, way: Way) -> Result<()> {
        while let Some(entry) = self.front.first_entry() {
            let (node, leaf) = *entry.key();
            let mut rows = entry.remove();
            let Some(Leaf { from, .. }) = self.graph.nodes.get(node).and_then(|n| n.leaves.get(leaf)) else {
                continue;
            };
            while let Some(positions) = rows.take(AT_ONCE) {
                let source = (from.clone(), format!("s.ctid = ANY ({positions})"));
                self.follow(node, way, &source).await?;
            }
        }
        Ok(())
    }

    /// Follows every key of a table one step from the rows of a source: what stands behind FROM, and a condition on `s`.
    async fn follow(&mut self, node: usize, way: Way, source: &(String, String)) -> Result<()> {
        for edge in &self.graph.edges {
            let (from, to) = match way {
                Way::Down => (edge.parent, edge.child),
                Way::Up => (edge.child, edge.parent),
            };
            let Some(target) = self.graph.nodes.get(to).filter(|_| from == node) else { continue };
            // Whoever is the tenant's by its own column is known already, and on the way down another's is not taken.
            let (only, stranger) = match (target.has_column, way) {
                (false, _) => ("true".to_owned(), "false".to_owned()),
                (true, Way::Down) => (self.seed.is_nobodys("t"), "false".to_owned()),
                (true, Way::Up) => (
                    format!("({}) IS NOT TRUE", self.seed.is_own("t")),
                    format!("NOT ({})", self.seed.is_nobodys("t")),
                ),
            };
            let (child, parent) = match way {
                Way::Down => ("t", "s"),
                Way::Up => ("s", "t"),
            };
            let statement = format!(
                "COPY (SELECT t.tableoid::pg_catalog.int8, t.ctid, {stranger} FROM {} AS t WHERE {only}
                       AND EXISTS (SELECT FROM {} AS s WHERE {} AND {})) TO STDOUT",
                target.from,
                source.0,
                source.1,
                edge.key.holds(child, parent),
            );
            self.gather(&statement, to, way).await?;
        }
        Ok(())
    }

    async fn gather(&mut self, statement: &str, to: usize, way: Way) -> Result<()> {
        self.ctx.check()?;
        let mut lines = self.connection.copy_out_raw(statement).await.map_err(reading)?;
        while let Some(line) = lines.next().await {
            let line = line.map_err(reading)?;
            let text = std::str::from_utf8(&line).unwrap_or_default().trim_end_matches('\n');
            let mut fields = text.split('\t');
            let oid: Option<i64> = fields.next().and_then(|f| f.parse().ok());
            let at = position(fields.next().unwrap_or_default())?;
            let stranger = fields.next() == Some("t");
            let Some((oid, place)) = oid.and_then(|o| Some((o, *self.places.get(&o)?))) else {
                return Err(Error::internal("a row was found in a table that is not looked at"));
            };
            let found = self.closure.found.entry(oid).or_default();
            let new = match way {
                Way::Down => found.children.insert(at),
                Way::Up => !found.children.contains(at) && found.referred.insert(at),
            };
            if !new {
                continue;
            }
            self.front.entry(place).or_default().insert(at);
            self.rows += 1;
            if self.rows > MOST_ROWS {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("more than {MOST_ROWS} rows without the column belong to the tenant"),
                )
                .with_hint("take a backup of the whole database, and choose the tenant at the restore into a new one"));
            }
            if stranger && let Some(node) = self.graph.nodes.get(to) {
                *self.closure.strangers.entry(node.display.clone()).or_default() += 1;
            }
        }
        Ok(())
    }
}
