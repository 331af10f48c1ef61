//! The part of a backup that is one tenant's.

use std::collections::BTreeMap;
use std::sync::Arc;

use dm_core::{ErrorKind, Finding, Layout, Level, MemberKind, MemberSpec, OpContext, Result, TenantFilter};
use serde_json::json;
use sqlx::postgres::PgConnection;

use super::members::{Positions, Reading, path_part, table_attributes};
use super::scope::Scope;
use crate::catalog::Relation;
use crate::error::reading;
use crate::selection::listed;
use crate::tenant::{Closure, ForeignKey, Graph, Node, Seed, check_value, unknown_column};

/// What is read, and what the reader should know.
pub(super) struct Chosen {
    pub(super) members: Vec<(MemberSpec, Reading)>,
    pub(super) warnings: Vec<String>,
}

/// Looks whether a tenant can be told.
pub(super) async fn look(
    connection: &mut PgConnection,
    tenant: &TenantFilter,
    relations: &[Relation],
    scope: &Scope,
) -> Result<Vec<Finding>> {
    let graph = Graph::of(relations, &scope.rows, &[], &tenant.column);
    let outcome = match require_column(&graph, relations, scope, &tenant.column) {
        Ok(()) => check_value(connection, &graph, &Seed::new(tenant)).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
            let finding = Finding::new(Level::Error, "tenant", error.to_string());
            return Ok(vec![match error.hint() {
                Some(hint) => finding.with_mend(hint),
                None => finding,
            }]);
        }
        Err(error) => return Err(error),
    }
    let with: Vec<String> = graph.nodes.iter().filter(|n| n.has_column).map(|n| n.display.clone()).collect();
    let mut findings = vec![Finding::new(
        Level::Ok,
        "tenant",
        format!("the column {} is in {} tables: {}", tenant.column, with.len(), listed(&with)),
    )];
    let unindexed = unindexed(connection, relations, &graph, &tenant.column).await?;
    if !unindexed.is_empty() {
        let message = format!("no index begins with {} in {}", tenant.column, listed(&unindexed));
        findings.push(
            Finding::new(Level::Info, "tenant", message).with_mend(
                "these tables are read as a whole to find the tenant's rows; an index spares that",
            ),
        );
    }
    Ok(findings)
}

/// Refuses a column that no chosen table has.
fn require_column(graph: &Graph, relations: &[Relation], scope: &Scope, column: &str) -> Result<()> {
    if graph.nodes.iter().any(|n| n.has_column) {
        return Ok(());
    }
    let chosen = relations.iter().filter(|r| scope.rows.contains(&r.oid));
    Err(unknown_column(column, chosen.flat_map(|r| r.columns.iter().map(String::as_str))))
}

/// Tables with the column, and without an index that begins with it.
async fn unindexed(
    connection: &mut PgConnection,
    relations: &[Relation],
    graph: &Graph,
    column: &str,
) -> Result<Vec<String>> {
    let oids: Vec<i64> = relations
        .iter()
        .filter(|r| graph.nodes.iter().any(|n| n.has_column && n.display == r.display))
        .map(|r| r.oid)
        .collect();
    sqlx::query_scalar(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = $2
          WHERE c.oid = ANY ($1::int8[]::oid[])
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                             WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indpred IS NULL)
          ORDER BY 1",
    )
    .bind(oids)
    .bind(column)
    .fetch_all(connection)
    .await
    .map_err(reading)
}

/// Finds the tenant's rows.
pub(super) async fn choose(
    ctx: &OpContext,
    control: &mut PgConnection,
    tenant: &TenantFilter,
    relations: &[Relation],
    scope: &Scope,
    keys: &[ForeignKey],
) -> Result<Chosen> {
    let graph = Graph::of(relations, &scope.rows, keys, &tenant.column);
    require_column(&graph, relations, scope, &tenant.column)?;
    let closure = ctx.run(Closure::find(ctx, control, &graph, tenant)).await?;
    let warnings = warnings(&graph, &closure, tenant);
    Ok(Chosen { members: members(&graph, closure, tenant, relations), warnings })
}

/// Up to three members a table: its own rows, children, and what is referred to; one at least, so that the backup says of
/// every table how many rows of it are in.
fn members(
    graph: &Graph,
    mut closure: Closure,
    tenant: &TenantFilter,
    relations: &[Relation],
) -> Vec<(MemberSpec, Reading)> {
    let by_oid: BTreeMap<i64, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
    let own = Seed::new(tenant).is_own("t");
    let mut members = Vec::new();
    for node in &graph.nodes {
        for leaf in &node.leaves {
            let Some(table) = by_oid.get(&leaf.oid) else { continue };
            let columns = table.columns.iter().map(|c| format!("t.{}", crate::sql::quote_ident(c)));
            let columns = columns.collect::<Vec<_>>().join(", ");
            let mut add = |class: &str, reading: Reading| {
                let mut attributes = table_attributes(table);
                attributes.insert("selection".to_owned(), json!(class));
                let spec = MemberSpec {
                    name: format!("data/{}/{class}", path_part(&table.display)),
                    kind: MemberKind::Rows,
                    layout: Layout::Stream,
                    size_hint: None,
                    table: Some(table.display.clone()),
                    attributes,
                };
                members.push((spec, reading));
            };
            if node.has_column {
                let query = format!("COPY (SELECT {columns} FROM {} AS t WHERE {own}) TO STDOUT", leaf.from);
                add("own", Reading::Copy(query));
            }
            let found = closure.found.remove(&leaf.oid).unwrap_or_default();
            let from = format!("{} AS t", leaf.from);
            for (class, rows) in [("children", found.children), ("referred", found.referred)] {
                if !rows.is_empty() || (class == "referred" && !node.has_column) {
                    let positions = Positions { from: from.clone(), columns: columns.clone(), rows };
                    add(class, Reading::Positions(Arc::new(positions)));
                }
            }
        }
    }
    members
}

fn warnings(graph: &Graph, closure: &Closure, tenant: &TenantFilter) -> Vec<String> {
    let column = &tenant.column;
    let mut warnings =
        vec!["this is a partial backup: of the rows only one tenant's, and what they refer to".to_owned()];
    if !closure.any {
        warnings
            .push(format!("no row has this value of {column}: there is no such tenant, or it has no data"));
    }
    let found = |node: &Node, which: &dyn Fn(&crate::tenant::Found) -> bool| {
        node.leaves.iter().any(|l| closure.found.get(&l.oid).is_some_and(which))
    };
    let names = |keep: &dyn Fn(&Node) -> bool| -> Vec<String> {
        graph.nodes.iter().filter(|n| !n.has_column && keep(n)).map(|n| n.display.clone()).collect()
    };
    let child = |n: &Node| found(n, &|f| !f.children.is_empty());
    let parent = |n: &Node| found(n, &|f| !f.referred.is_empty());
    let looked_up = names(&|n| parent(n) && !child(n));
    if !looked_up.is_empty() {
        warnings.push(format!(
            "of some tables only what the tenant's rows refer to is in it: {}",
            listed(&looked_up)
        ));
    }
    let untied = names(&|n| !parent(n) && !child(n));
    if !untied.is_empty() {
        warnings.push(format!(
            "no rows are in it of tables that nothing ties to the tenant: {}",
            listed(&untied)
        ));
    }
    if !closure.strangers.is_empty() {
        let strangers: Vec<String> =
            closure.strangers.iter().map(|(table, rows)| format!("{rows} of {table}")).collect();
        warnings.push(format!(
            "rows of other tenants are in it, because the tenant's rows refer to them: {}",
            strangers.join(", ")
        ));
    }
    warnings
}
