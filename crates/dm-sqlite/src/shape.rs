//! The schema of a database, object by object, and shadow databases.
//!
//! SQLite keeps the text of every definition; two objects are the same when their texts are, blanks and comments aside. A shadow
//! database lies in memory and is gone with its connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{
    Error, OpContext, Result, SchemaObject, SchemaScript, SchemaSnapshot, SchemaSource, Shadow, ShadowPlace,
    ShadowScript, TracedStatement,
};
use rusqlite::Connection;

use crate::connect::{self, Purpose};
use crate::error::sqlite;
use crate::pool::Pool;
use crate::schema::quote;
use crate::worker;

/// The schema port of an engine.
pub(crate) struct SqliteSchema {
    pub(crate) pool: Arc<Pool>,
}

impl SqliteSchema {
    async fn with_live<T: Send + 'static>(
        &self,
        ctx: &OpContext,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.pool.check_open()?;
        let pool = Arc::clone(&self.pool);
        worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-schema", move || {
            work(&connect::live(pool.path(), pool.options(), Purpose::Reading)?)
        })?
        .wait()
        .await
    }
}

#[async_trait]
impl SchemaSource for SqliteSchema {
    async fn snapshot(&self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot> {
        let leave_out = leave_out.to_vec();
        self.with_live(ctx, move |connection| read(connection, &leave_out)).await
    }

    async fn dump(&self, ctx: &OpContext, leave_out: &[String]) -> Result<String> {
        let snapshot = self.snapshot(ctx, leave_out).await?;
        let statements = snapshot.objects.iter().filter(|o| o.kind != "column");
        Ok(statements.map(|o| format!("{};\n", o.create)).collect::<Vec<_>>().join("\n"))
    }

    fn script(&self, from: &SchemaSnapshot, to: &SchemaSnapshot) -> SchemaScript {
        SchemaScript::between(from, to, &alter)
    }

    async fn shadow(&self, ctx: &OpContext, place: &ShadowPlace) -> Result<Box<dyn Shadow>> {
        if matches!(place, ShadowPlace::Given(_)) {
            return Err(Error::invalid("a shadow database of SQLite is made in memory; none can be given")
                .with_hint("remove the shadow url"));
        }
        self.pool.check_open()?;
        let gate = self.pool.gate_for_long_work(ctx);
        let connection = worker::spawn(gate, "dm-sqlite-shadow", connect::memory)?.wait().await?;
        Ok(Box::new(SqliteShadow { pool: Arc::clone(&self.pool), connection: Some(connection) }))
    }
}

/// Reads the schema: tables first, then what stands on them, in the order in which they were made.
fn read(connection: &Connection, leave_out: &[String]) -> Result<SchemaSnapshot> {
    let mut prepared = connection.prepare(include_str!("shape.sql")).map_err(sqlite)?;
    let rows = prepared
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
            ))
        })
        .map_err(sqlite)?;
    let mut objects = Vec::new();
    for row in rows {
        let (kind, name, table, text) = row.map_err(sqlite)?;
        if leave_out.contains(&table) {
            continue;
        }
        let stands_alone = matches!(kind.as_str(), "table" | "view");
        objects.push(SchemaObject {
            drop: format!("DROP {} {}", kind.to_uppercase(), quote(&name)),
            facets: BTreeMap::from([("definition".to_owned(), normalised(&text))]),
            of: (!stands_alone).then(|| table.clone()),
            create: text,
            kind: kind.clone(),
            name: name.clone(),
        });
        if kind == "table" {
            objects.extend(columns(connection, &name)?);
        }
    }
    Ok(SchemaSnapshot { objects })
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<SchemaObject>> {
    let mut prepared =
        connection.prepare(&format!("PRAGMA main.table_xinfo({})", quote(table))).map_err(sqlite)?;
    let mut rows = prepared.raw_query();
    let mut columns = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let name: String = row.get("name").map_err(sqlite)?;
        let data_type: String = row.get("type").map_err(sqlite)?;
        let required: bool = row.get("notnull").map_err(sqlite)?;
        let default: Option<String> = row.get("dflt_value").map_err(sqlite)?;
        let key: i64 = row.get("pk").map_err(sqlite)?;
        let hidden: i64 = row.get("hidden").map_err(sqlite)?;
        let mut facets = BTreeMap::from([
            ("type".to_owned(), data_type.clone()),
            ("nullable".to_owned(), if required { "no" } else { "yes" }.to_owned()),
        ]);
        facets.extend(default.clone().map(|d| ("default".to_owned(), d)));
        if key > 0 {
            facets.insert("primary key".to_owned(), key.to_string());
        }
        if hidden > 0 {
            facets.insert("hidden".to_owned(), hidden.to_string());
        }
        let mut definition = format!("{} {data_type}", quote(&name));
        if required {
            definition.push_str(" NOT NULL");
        }
        if let Some(default) = default {
            definition.push_str(&format!(" DEFAULT {default}"));
        }
        let plain = key == 0 && hidden == 0;
        columns.push(SchemaObject {
            kind: "column".to_owned(),
            name: format!("{table}.{name}"),
            of: Some(table.to_owned()),
            facets,
            create: if plain {
                format!("ALTER TABLE {} ADD COLUMN {definition}", quote(table))
            } else {
                String::new()
            },
            drop: if plain {
                format!("ALTER TABLE {} DROP COLUMN {}", quote(table), quote(&name))
            } else {
                String::new()
            },
        });
    }
    Ok(columns)
}

/// A definition with single blanks and without comments; what stands in quotes stays as it is.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\'' | '"' | '`' | '[' => {
                let close = if c == '[' { ']' } else { c };
                let end = rest
                    .char_indices()
                    .skip(1)
                    .find(|(_, x)| *x == close)
                    .map_or(rest.len(), |(at, _)| at + 1);
                out.push_str(&rest[..end]);
                end
            }
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            c if c.is_whitespace() => {
                if !out.ends_with([' ', '(']) {
                    out.push(' ');
                }
                c.len_utf8()
            }
            c => {
                if matches!(c, ')' | ',') && out.ends_with(' ') {
                    out.pop();
                }
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out.trim().to_owned()
}

fn alter(before: &SchemaObject, after: &SchemaObject) -> Result<Vec<String>, String> {
    match after.kind.as_str() {
        "view" | "index" | "trigger" => Ok(vec![before.drop.clone(), after.create.clone()]),
        "table" => {
            Err("beyond columns that are added or dropped, SQLite changes a table by making it anew"
                .to_owned())
        }
        _ => Err("SQLite does not change columns; the table has to be made anew".to_owned()),
    }
}

/// A database in memory.
struct SqliteShadow {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl SqliteShadow {
    /// Lends the connection to a thread and takes it back, whatever becomes of the work.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        ctx: &OpContext,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = self
            .connection
            .take()
            .ok_or_else(|| Error::internal("the shadow database was lost by a cancelled call"))?;
        let (connection, result) =
            worker::spawn(self.pool.gate_for_long_work(ctx), "dm-sqlite-shadow", move || {
                let result = work(&connection);
                Ok((connection, result))
            })?
            .wait()
            .await?;
        self.connection = Some(connection);
        result
    }
}

#[async_trait]
impl Shadow for SqliteShadow {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn replay(
        &mut self,
        ctx: &OpContext,
        script: &ShadowScript,
        _trace: bool,
    ) -> Result<Vec<TracedStatement>> {
        let script = script.clone();
        self.on_thread(ctx, move |connection| {
            let run = |text: &str| connection.execute_batch(text).map_err(sqlite);
            if script.transaction {
                run("BEGIN")?;
            }
            let mut done = Vec::with_capacity(script.statements.len());
            for (line, statement) in script.statements {
                run(&statement).map_err(|e| e.about(format!("{}:{line}", script.name)))?;
                // A writer has the file for itself: there are no locks to tell apart.
                done.push(TracedStatement { line, statement, locks: None, skipped: false });
            }
            if script.transaction {
                run("COMMIT").map_err(|e| e.about(script.name))?;
            }
            Ok(done)
        })
        .await
    }

    async fn snapshot(&mut self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot> {
        let leave_out = leave_out.to_vec();
        self.on_thread(ctx, move |connection| read(connection, &leave_out)).await
    }

    async fn close(self: Box<Self>, _ctx: &OpContext) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::normalised;

    #[test]
    fn blanks_and_comments_are_not_part_of_a_definition() {
        assert_eq!(
            normalised("CREATE TABLE t (\n  a INTEGER, -- the key\n  b TEXT DEFAULT 'x  -- y' /* z */ )"),
            "CREATE TABLE t (a INTEGER, b TEXT DEFAULT 'x  -- y')"
        );
        assert_ne!(normalised("a 'x y'"), normalised("a 'x  y'"));
    }
}
