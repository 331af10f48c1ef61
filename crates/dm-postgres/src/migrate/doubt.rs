//! Statements that cannot run in a transaction: what they were about to do, and whether they did.
//!
//! `CREATE INDEX CONCURRENTLY` that fails or is killed leaves an index that is not valid; nothing uses it, every write
//! maintains it, and `IF NOT EXISTS` takes it for a good one.

use dm_core::{Doubt, Finding, Level, Result};
use serde::{Deserialize, Serialize};
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::split::words;
use crate::error::{reading, writing};
use crate::sql::{dynamic, qualified};

/// What is noted before the statement runs, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Mark {
    /// A new index on a table that has these already.
    NewIndex { table: u32, name: Option<String>, indexes: Vec<u32> },
    /// This index goes.
    DropIndex { index: u32 },
    /// Indexes are made anew; these were not valid before.
    Reindex { invalid: Vec<u32> },
    /// Doing it again is harmless.
    Harmless,
    /// Nothing is known of it.
    Other,
}

/// What a statement is, as far as its doubt goes.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    NewIndex { table: String, name: Option<String> },
    DropIndex { name: String },
    Reindex,
    Harmless,
    Other,
}

fn form(statement: &str) -> Form {
    let words = words(statement, 64);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    let name_at = |mut at: usize| {
        let mut name = String::new();
        while let Some(part) = words.get(at).filter(|p| p.as_str() == "." || is_name(p)) {
            name.push_str(part);
            at += 1;
            if words.get(at).is_none_or(|next| next != "." && !name.ends_with('.')) {
                break;
            }
        }
        name
    };
    match word(0) {
        "create" if word(1) == "index" || (word(1) == "unique" && word(2) == "index") => {
            let after = if word(1) == "unique" { 3 } else { 2 }
                + usize::from(words.iter().any(|w| w == "concurrently"));
            let after = if word(after) == "if" { after + 3 } else { after };
            let Some(on) = words.iter().position(|w| w == "on") else { return Form::Other };
            let name = (after < on).then(|| name_at(after));
            let table = name_at(on + 1 + usize::from(word(on + 1) == "only"));
            Form::NewIndex { table, name }
        }
        "drop" if word(1) == "index" => {
            let after = 2 + usize::from(word(2) == "concurrently");
            Form::DropIndex { name: name_at(if word(after) == "if" { after + 2 } else { after }) }
        }
        "reindex" => Form::Reindex,
        "vacuum" | "analyze" | "cluster" | "checkpoint" | "refresh" => Form::Harmless,
        "alter" if word(1) == "system" => Form::Harmless,
        _ => Form::Other,
    }
}

fn is_name(part: &str) -> bool {
    part.starts_with('"') || part.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Indexes of a table, all of them.
async fn indexes(connection: &mut PgConnection, table: u32) -> Result<Vec<u32>> {
    let oids: Vec<i64> =
        sqlx::query_scalar("SELECT indexrelid::int8 FROM pg_catalog.pg_index WHERE indrelid::int8 = $1")
            .bind(i64::from(table))
            .fetch_all(connection)
            .await
            .map_err(reading)?;
    Ok(oids.into_iter().filter_map(|oid| u32::try_from(oid).ok()).collect())
}

async fn oid_of(connection: &mut PgConnection, name: &str) -> Result<Option<u32>> {
    let oid: Option<i64> = sqlx::query_scalar("SELECT pg_catalog.to_regclass($1)::oid::int8")
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(reading)?;
    Ok(oid.and_then(|oid| u32::try_from(oid).ok()))
}

/// An index that is not valid and that nobody is building.
struct Invalid {
    oid: i64,
    table: i64,
    schema: String,
    name: String,
    on: String,
}

impl Invalid {
    async fn drop(&self, connection: &mut PgConnection) -> Result<String> {
        let index = qualified(&self.schema, &self.name);
        connection
            .execute(sqlx::raw_sql(dynamic(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"))))
            .await
            .map_err(|e| writing(e).about(index.clone()))?;
        Ok(format!("the index {} on {} was not valid and was dropped", self.name, self.on))
    }
}

async fn invalid(connection: &mut PgConnection) -> Result<Vec<Invalid>> {
    let rows: Vec<(i64, i64, String, String, String)> = sqlx::query_as(
        "SELECT i.indexrelid::int8, i.indrelid::int8, n.nspname::text, c.relname::text, i.indrelid::regclass::text
           FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%'
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
          ORDER BY 3, 4",
    )
    .persistent(false)
    .fetch_all(connection)
    .await
    .map_err(reading)?;
    let index = |(oid, table, schema, name, on)| Invalid { oid, table, schema, name, on };
    Ok(rows.into_iter().map(index).collect())
}

/// Notes what is there before a statement runs outside of a transaction. An index that is not valid and has the new one's
/// name is removed: nothing else can be meant.
pub(super) async fn mark(connection: &mut PgConnection, statement: &str) -> Result<(String, Vec<String>)> {
    let mut removed = Vec::new();
    let mark = match form(statement) {
        Form::NewIndex { table, name } => match oid_of(connection, &table).await? {
            Some(table) => {
                for index in invalid(connection).await? {
                    let same = name.as_deref().is_some_and(|n| plain(n) == index.name);
                    if same && index.table == i64::from(table) {
                        removed.push(index.drop(connection).await?);
                    }
                }
                Mark::NewIndex { table, name, indexes: indexes(connection, table).await? }
            }
            None => Mark::Other,
        },
        Form::DropIndex { name } => match oid_of(connection, &name).await? {
            Some(index) => Mark::DropIndex { index },
            None => Mark::Harmless,
        },
        Form::Reindex => {
            let invalid = invalid(connection).await?;
            Mark::Reindex { invalid: invalid.iter().filter_map(|i| u32::try_from(i.oid).ok()).collect() }
        }
        Form::Harmless => Mark::Harmless,
        Form::Other => Mark::Other,
    };
    Ok((serde_json::to_string(&mark).unwrap_or_default(), removed))
}

/// The name of an index as the catalog has it.
fn plain(name: &str) -> String {
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    last.strip_prefix('"')
        .and_then(|n| n.strip_suffix('"'))
        .map_or_else(|| last.to_owned(), |n| n.replace("\"\"", "\""))
}

/// Finds out what became of a statement.
pub(super) async fn settle(connection: &mut PgConnection, mark: Option<&str>) -> Result<Doubt> {
    let mark = mark.and_then(|m| serde_json::from_str(m).ok()).unwrap_or(Mark::Other);
    match mark {
        Mark::NewIndex { table, name, indexes: before } => {
            let is_new = |oid: i64| u32::try_from(oid).is_ok_and(|oid| !before.contains(&oid));
            let ours = |index: &str| name.as_deref().is_none_or(|n| plain(n) == index);
            let mut removed = Vec::new();
            for index in invalid(connection).await? {
                if index.table == i64::from(table) && is_new(index.oid) && ours(&index.name) {
                    removed.push(index.drop(connection).await?);
                }
            }
            let valid: Vec<(i64, String)> = sqlx::query_as(
                "SELECT i.indexrelid::int8, c.relname::text FROM pg_catalog.pg_index i
                   JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid::int8 = $1 AND i.indisvalid",
            )
            .bind(i64::from(table))
            .fetch_all(&mut *connection)
            .await
            .map_err(reading)?;
            Ok(match valid.iter().any(|(oid, index)| is_new(*oid) && ours(index)) {
                true => Doubt::Done,
                false => Doubt::NotDone(removed),
            })
        }
        Mark::DropIndex { index } => {
            let there: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid::int8 = $1)")
                    .bind(i64::from(index))
                    .fetch_one(connection)
                    .await
                    .map_err(reading)?;
            Ok(if there { Doubt::NotDone(Vec::new()) } else { Doubt::Done })
        }
        Mark::Reindex { invalid: before } => {
            let mut removed = Vec::new();
            for index in invalid(connection).await? {
                let is_new = u32::try_from(index.oid).is_ok_and(|oid| !before.contains(&oid));
                // What REINDEX CONCURRENTLY calls the index in making and the one that goes.
                if is_new && (index.name.contains("_ccnew") || index.name.contains("_ccold")) {
                    removed.push(index.drop(connection).await?);
                }
            }
            Ok(Doubt::NotDone(removed))
        }
        Mark::Harmless => Ok(Doubt::NotDone(Vec::new())),
        Mark::Other => Ok(Doubt::Unknown),
    }
}

/// Indexes that are not valid, for people.
pub(super) async fn leftovers(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let findings = invalid(connection).await?.into_iter().map(|index| {
        let message = format!("the index {} on {} is not valid: writes maintain it, no query uses it", index.name, index.on);
        let name = qualified(&index.schema, &index.name);
        Finding::new(Level::Warning, "invalid_index", message)
            .with_mend(format!("\"dm migrate resume\" if a migration left it; else REINDEX INDEX CONCURRENTLY {name} or DROP INDEX CONCURRENTLY {name}"))
    });
    Ok(findings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_and_its_table_are_found() {
        let new = |table: &str, name: Option<&str>| Form::NewIndex {
            table: table.into(),
            name: name.map(Into::into),
        };
        assert_eq!(form("CREATE INDEX CONCURRENTLY i ON t (a)"), new("t", Some("i")));
        assert_eq!(
            form("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I x\" ON ONLY app.\"T\" USING btree (a)"),
            new("app.\"T\"", Some("\"I x\""))
        );
        assert_eq!(form("create index concurrently on t(a)"), new("t", None));
        assert_eq!(form("DROP INDEX CONCURRENTLY IF EXISTS app.i"), Form::DropIndex { name: "app.i".into() });
        assert_eq!(form("VACUUM ANALYZE t"), Form::Harmless);
        assert_eq!(form("CREATE DATABASE x"), Form::Other);
        assert_eq!(plain("app.\"I \"\"x\""), "I \"x");
    }
}
