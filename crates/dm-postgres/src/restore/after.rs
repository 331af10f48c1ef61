//! What comes after the rows, apart from definitions: sequences, who owns large objects, views, statistics; or taking it back.

use std::collections::BTreeSet;

use dm_core::{OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::place;
use super::plan::Kind;
use super::session::Session;
use crate::catalog;
use crate::error::{reading, writing};
use crate::session::{close, open_pinned};
use crate::sql::{dynamic, qualified, quote_ident, quote_literal};

impl Session {
    /// Sequences: of single tables only those that were made with them.
    pub(super) async fn set_sequences(&self, connection: &mut PgConnection) -> Result<()> {
        let sequences = std::mem::take(&mut self.state().sequences);
        let made: Option<BTreeSet<(String, String)>> = match &self.plan.tables {
            Some(tables) if self.plan.tenant.is_none() => {
                let there = catalog::relations(connection).await?;
                let owners: BTreeSet<i64> =
                    there.iter().filter(|r| tables.contains(&r.display)).map(|r| r.oid).collect();
                let ours = |r: &&catalog::Relation| match r.owned_by {
                    Some(table) => owners.contains(&table),
                    None => self.plan.kind == Kind::Database,
                };
                Some(there.iter().filter(ours).map(|r| (r.schema.clone(), r.name.clone())).collect())
            }
            _ => None,
        };
        for value in sequences {
            if made.as_ref().is_some_and(|m| !m.contains(&(value.schema.clone(), value.name.clone()))) {
                continue;
            }
            sqlx::query("SELECT pg_catalog.setval($1::text::pg_catalog.regclass, $2, $3)")
                .bind(qualified(&value.schema, &value.name))
                .bind(value.last_value)
                .bind(value.is_called)
                .execute(&mut *connection)
                .await
                .map_err(|e| writing(e).about(format!("{}.{}", value.schema, value.name)))?;
        }
        Ok(())
    }

    pub(super) async fn describe_large_objects(
        &self,
        ctx: &OpContext,
        connection: &mut PgConnection,
    ) -> Result<()> {
        let objects = std::mem::take(&mut self.state().large_objects);
        let known: BTreeSet<String> =
            sqlx::query_scalar::<_, String>("SELECT rolname::text FROM pg_catalog.pg_roles")
                .fetch_all(&mut *connection)
                .await
                .map_err(reading)?
                .into_iter()
                .collect();
        for object in objects {
            ctx.check()?;
            let name = format!("LARGE OBJECT {}", object.oid);
            let mut commands = Vec::new();
            if let Some(comment) = &object.comment {
                commands.push(format!("COMMENT ON {name} IS {}", quote_literal(comment)));
            }
            if self.plan.privileges {
                for grant in object.grants {
                    let to = match grant.grantee {
                        None => "PUBLIC".to_owned(),
                        Some(role) if known.contains(&role) => quote_ident(&role),
                        Some(_) => continue,
                    };
                    if let "SELECT" | "UPDATE" = grant.privilege.as_str() {
                        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                        commands.push(format!("GRANT {} ON {name} TO {to}{option}", grant.privilege));
                    }
                }
            }
            if self.plan.owners && known.contains(&object.owner) {
                commands.push(format!("ALTER {name} OWNER TO {}", quote_ident(&object.owner)));
            }
            if !commands.is_empty() {
                place::command(connection, commands.join("; ")).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn refresh_views(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        if self.plan.tables.is_some() && self.plan.tenant.is_none() {
            return Ok(());
        }
        for (schema, name) in &self.source.materialised_views {
            let view = qualified(schema, name);
            ctx.run(place::command(connection, format!("REFRESH MATERIALIZED VIEW {view}")))
                .await
                .map_err(|e| e.about(view.clone()))?;
        }
        Ok(())
    }

    pub(super) async fn analyze(&self, ctx: &OpContext, connection: &mut PgConnection) -> Result<()> {
        let text = match (&self.plan.tables, self.plan.kind) {
            (Some(tables), Kind::Tables) => {
                let names: Vec<String> = tables
                    .iter()
                    .filter_map(|t| self.tables.get(t))
                    .map(|m| qualified(&m.schema, &m.name))
                    .collect();
                format!("ANALYZE {}", names.join(", "))
            }
            _ => "ANALYZE".to_owned(),
        };
        ctx.run(async { connection.execute(sqlx::raw_sql(dynamic(text))).await.map(drop).map_err(writing) })
            .await
    }

    /// Removes tables that were made in an existing database.
    pub(super) async fn undo_tables(&self, ctx: &OpContext) -> Result<()> {
        let mut connection = open_pinned(ctx, &self.place).await?;
        for table in self.plan.tables.iter().flatten() {
            let Some(member) = self.tables.get(table) else { continue };
            let name = qualified(&member.schema, &member.name);
            place::command(&mut connection, format!("DROP TABLE IF EXISTS {name} CASCADE"))
                .await
                .map_err(|e| e.about(table))?;
        }
        close(connection).await;
        Ok(())
    }
}
