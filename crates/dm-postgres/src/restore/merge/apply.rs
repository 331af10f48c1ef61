//! The change itself, and the proof that nothing else was changed.

use dm_core::{Error, ErrorKind, Finding, Level, Result};
use sqlx::postgres::PgConnection;

use super::Merge;
use super::refer::{differ, leaving};
use crate::error::{reading, sqlstate, writing};
use crate::restore::content::lock;
use crate::restore::staging::{own, referred, run};
use crate::sql::{dynamic, qualified, quote_ident, quote_literal};

/// What happens to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: String,
    pub(super) inserted: i64,
    pub(super) updated: i64,
    pub(super) deleted: i64,
    /// Rows of others, inserted because they are referred to and were missing.
    pub(super) referred: i64,
}

impl Change {
    /// For a report.
    pub(super) fn finding(&self) -> Finding {
        let Self { table, inserted, updated, deleted, referred } = self;
        let mut message = format!("{table}: {inserted} rows inserted, {updated} changed, {deleted} deleted");
        if *referred > 0 {
            message.push_str(&format!(", {referred} missing ones added that these refer to"));
        }
        Finding::new(Level::Info, "changes", message)
    }
}

impl Merge {
    /// Deletes, changes and inserts, all in one statement.
    pub(super) async fn replace(&self, connection: &mut PgConnection) -> Result<Vec<Change>> {
        for (table, trigger, _) in self.units.iter().flat_map(|u| &u.triggers) {
            run(connection, format!("ALTER TABLE {table} DISABLE TRIGGER {}", quote_ident(trigger))).await?;
        }
        let counts: Vec<i64> = sqlx::query_scalar(dynamic(self.statement()))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(violated)?;
        // What a foreign key leaves to the end of a transaction is looked at here, before anybody is told that it went well.
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await.map_err(violated)?;
        for (table, trigger, mode) in self.units.iter().flat_map(|u| &u.triggers) {
            let how = match mode {
                'A' => "ENABLE ALWAYS",
                'R' => "ENABLE REPLICA",
                _ => "ENABLE",
            };
            run(connection, format!("ALTER TABLE {table} {how} TRIGGER {}", quote_ident(trigger))).await?;
        }
        let changes: Vec<Change> = self
            .units
            .iter()
            .zip(counts.chunks(4))
            .map(|(unit, counts)| {
                let count = |n: usize| counts.get(n).copied().unwrap_or_default();
                Change {
                    table: unit.display.clone(),
                    deleted: count(0),
                    updated: count(1),
                    inserted: count(2),
                    referred: count(3),
                }
            })
            .collect();
        self.prove_nothing_else(connection, &changes).await?;
        Ok(changes)
    }

    /// The statement. Each step of a table waits for the one before it, so that a unique value that one row gives up is free
    /// for another.
    fn statement(&self) -> String {
        let (mut steps, mut counts) = (Vec::new(), Vec::new());
        for (i, unit) in self.units.iter().enumerate() {
            let (own, columns, quoted) = (own(i), unit.column_list(), &unit.quoted);
            steps.push(format!(
                "d{i} AS (DELETE FROM {} AS t USING {} AS l WHERE t.ctid = l.place AND t.tableoid = l.heap RETURNING 1)",
                unit.from,
                leaving(i)
            ));
            let all: Vec<String> = unit.columns.iter().map(|c| quote_ident(c)).collect();
            let settable: Vec<String> =
                unit.columns.iter().filter(|c| !unit.fixed.contains(*c)).map(|c| quote_ident(c)).collect();
            steps.push(match unit.key.is_empty() || settable.is_empty() {
                true => format!("u{i} AS (SELECT 1 WHERE false AND (SELECT count(*) FROM d{i}) >= 0)"),
                false => format!(
                    "u{i} AS (UPDATE {} AS t SET {} FROM {own} AS s
                         WHERE (SELECT count(*) FROM d{i}) >= 0 AND {} AND {} RETURNING 1)",
                    unit.from,
                    settable.iter().map(|c| format!("{c} = s.{c}")).collect::<Vec<_>>().join(", "),
                    unit.same_key("t", "s"),
                    differ("t", "s", &all),
                ),
            });
            let missing = match unit.key.is_empty() {
                true => "true".to_owned(),
                false => {
                    format!("NOT EXISTS (SELECT FROM {} AS t WHERE {})", unit.from, unit.same_key("t", "s"))
                }
            };
            steps.push(format!(
                "i{i} AS (INSERT INTO {quoted} ({columns}) OVERRIDING SYSTEM VALUE SELECT {} FROM {own} AS s
                     WHERE (SELECT count(*) FROM d{i}) >= 0 AND (SELECT count(*) FROM u{i}) >= 0 AND {missing} RETURNING 1)",
                unit.columns_of("s"),
            ));
            let others = match &self.tenant {
                None => "0::int8".to_owned(),
                Some(_) => {
                    steps.push(format!(
                        "r{i} AS (INSERT INTO {quoted} ({columns}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s
                             WHERE (SELECT count(*) FROM i{i}) >= 0 ON CONFLICT DO NOTHING RETURNING 1)",
                        unit.columns_of("s"),
                        referred(i),
                    ));
                    format!("(SELECT count(*) FROM r{i})")
                }
            };
            counts.push(format!(
                "(SELECT count(*) FROM d{i}), (SELECT count(*) FROM u{i}), (SELECT count(*) FROM i{i}), {others}"
            ));
        }
        format!("WITH {} SELECT ARRAY[{}]::int8[]", steps.join(",\n"), counts.join(", "))
    }

    /// Asks the server what this transaction wrote, table by table: what was to be written, and nothing anywhere else.
    async fn prove_nothing_else(&self, connection: &mut PgConnection, changes: &[Change]) -> Result<()> {
        let counted: bool = sqlx::query_scalar("SELECT pg_catalog.current_setting('track_counts')::bool")
            .fetch_one(&mut *connection)
            .await
            .map_err(reading)?;
        if !counted {
            return Ok(());
        }
        let written: Vec<(i64, String, i64, i64)> = sqlx::query_as(
            "SELECT s.relid::int8, pg_catalog.format('%I.%I', s.schemaname, s.relname),
                    s.n_tup_ins - s.n_tup_del, s.n_tup_ins + s.n_tup_upd + s.n_tup_del
               FROM pg_catalog.pg_stat_xact_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
              WHERE c.relpersistence <> 't' AND s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0",
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(reading)?;
        let mut grown = vec![0_i64; self.units.len()];
        for (oid, table, growth, _) in &written {
            match self.units.iter().position(|u| u.leaves.iter().any(|h| h.oid == *oid)) {
                Some(unit) => {
                    if let Some(sum) = grown.get_mut(unit) {
                        *sum += growth;
                    }
                }
                None => return Err(touched(table)),
            }
        }
        for (change, growth) in changes.iter().zip(grown) {
            if change.inserted + change.referred - change.deleted != growth {
                return Err(touched(&change.table));
            }
        }
        Ok(())
    }

    /// Sequences that are behind where they were when the backup was made go there; none goes back. A sequence takes no part
    /// in transactions: what is skipped when this one fails is a gap.
    pub(super) async fn advance_sequences(&self, connection: &mut PgConnection) -> Result<()> {
        let values = lock(&self.sequences).clone();
        let owners: Vec<i64> =
            self.units.iter().flat_map(|u| u.leaves.iter().map(|h| h.oid).chain([u.oid])).collect();
        let ours: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT n.nspname::text, c.relname::text, s.seqincrement
               FROM pg_catalog.pg_depend d
               JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
              WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND d.deptype IN ('a', 'i') AND d.refobjid = ANY ($1::int8[]::oid[])",
        )
        .bind(owners)
        .fetch_all(&mut *connection)
        .await
        .map_err(reading)?;
        for (schema, name, step) in ours {
            let Some(value) = values.iter().find(|v| v.schema == schema && v.name == name && v.is_called)
            else {
                continue;
            };
            let sequence = qualified(&schema, &name);
            let behind = if step > 0 { "<" } else { ">" };
            run(
                connection,
                format!(
                    "SELECT pg_catalog.setval({}::pg_catalog.regclass, {value}) FROM {sequence} WHERE last_value {behind} {value}",
                    quote_literal(&sequence),
                    value = value.last_value,
                ),
            )
            .await
            .map_err(|e| e.about(&sequence))?;
        }
        Ok(())
    }
}

fn touched(table: &str) -> Error {
    Error::new(
        ErrorKind::CheckFailed,
        "more was written than the rows of the backup: a trigger or a foreign key's action",
    )
    .about(table)
    .with_hint("nothing was changed; restore into a new database, and bring the rows over by hand")
}

/// The way out where the live rows do not go together with the backup's.
fn violated(error: sqlx::Error) -> Error {
    let hint = match sqlstate(&error).as_deref() {
        Some("23505" | "23P01") => {
            "a row that stays, or two of the backup's that swapped it, have a value that must be unique; nothing was changed: \
             change that row first, or restore into a new database"
        }
        Some("23503") => {
            "what the backup's rows refer to is not there any more; nothing was changed: restore the tables that they refer \
             to in the same run"
        }
        _ => return writing(error),
    };
    writing(error).with_hint(hint)
}
