//! Random schemas and rows against a naive closure: at the backup, and for restores in place after random damage.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{BackupRequest, Destination, ErrorKind, RestoreRequest};
use dm_testkit::conformance::Collected;
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;
use serde_json::Value;

use crate::merge::attempt;
use crate::support::{backup, context, engine, into, request};
use crate::tenant::tenant;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).expect("small")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct Table {
    name: String,
    has_column: bool,
    partitioned: bool,
    /// Referred table, and whether the key is of two columns.
    keys: Vec<(usize, bool)>,
}

struct Schema(Vec<Table>);

impl Schema {
    fn random(dice: &mut Dice) -> Self {
        let tables = 3 + dice.below(5);
        let name = |i: usize, dice: &mut Dice| match dice.below(3) {
            0 => format!("\"Odd \"\"{i}\"\" x\""),
            _ => format!("t{i}"),
        };
        Self(
            (0..tables)
                .map(|i| Table {
                    name: name(i, dice),
                    has_column: i == 0 || dice.one_in(2),
                    partitioned: dice.one_in(4),
                    keys: (0..dice.below(4)).map(|_| (dice.below(tables), dice.one_in(3))).collect(),
                })
                .collect(),
        )
    }

    fn sql(&self, dice: &mut Dice) -> String {
        let mut sql = String::new();
        let rows = 5 + dice.below(30);
        for table in &self.0 {
            let tenant = if table.has_column { ", tenant int" } else { "" };
            let keys: String = (0..table.keys.len()).map(|k| format!(", f{k} int, g{k} int")).collect();
            let parts = if table.partitioned { " PARTITION BY HASH (id)" } else { "" };
            let name = &table.name;
            sql.push_str(&format!("CREATE TABLE {name} (id int PRIMARY KEY, two int DEFAULT 7, v text{tenant}{keys}, UNIQUE (id, two)){parts};"));
            for part in (0..2).filter(|_| table.partitioned) {
                let partition = name.trim_matches('"').replace('"', "");
                sql.push_str(&format!("CREATE TABLE \"{partition}_{part}\" PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {part});"));
            }
            for id in 1..=rows {
                let mut columns = vec!["id".to_owned(), "v".to_owned()];
                let mut values = vec![id.to_string(), format!("'v{}'", dice.below(1000))];
                if table.has_column && !dice.one_in(6) {
                    columns.push("tenant".to_owned());
                    values.push((1 + dice.below(3)).to_string());
                }
                for key in 0..table.keys.len() {
                    if dice.one_in(2) {
                        columns.extend([format!("f{key}"), format!("g{key}")]);
                        values.extend([
                            (1 + dice.below(rows)).to_string(),
                            if dice.one_in(5) { "NULL".into() } else { "7".into() },
                        ]);
                    }
                }
                sql.push_str(&format!(
                    "INSERT INTO {name} ({}) VALUES ({});",
                    columns.join(","),
                    values.join(",")
                ));
            }
        }
        for table in &self.0 {
            for (key, (target, two)) in table.keys.iter().enumerate() {
                let (from, to) =
                    if *two { (format!("f{key}, g{key}"), "id, two") } else { (format!("f{key}"), "id") };
                let action = ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "DEFERRABLE INITIALLY DEFERRED"]
                    [dice.below(4)];
                let target = &self.0[*target].name;
                sql.push_str(&format!(
                    "ALTER TABLE {} ADD FOREIGN KEY ({from}) REFERENCES {target} ({to}) {action};",
                    table.name
                ));
            }
        }
        sql
    }

    /// Random changes, each on its own: what a foreign key refuses is left.
    fn damage(&self, dice: &mut Dice) -> Vec<String> {
        (0..6 + dice.below(10))
            .map(|_| {
                let table = &self.0[dice.below(self.0.len())];
                let (name, id) = (&table.name, 1 + dice.below(20));
                match dice.below(5) {
                    0 => format!("DELETE FROM {name} WHERE id = {id}"),
                    1 if table.has_column && dice.one_in(3) => {
                        format!("UPDATE {name} SET tenant = 1 + id % 3 WHERE id = {id}")
                    }
                    2 => format!("INSERT INTO {name} (id, v) VALUES ({}, 'new')", 1000 + dice.below(9000)),
                    3 if table.has_column => format!(
                        "INSERT INTO {name} (id, v, tenant) VALUES ({}, 'new', 1)",
                        1000 + dice.below(9000)
                    ),
                    _ => format!("UPDATE {name} SET v = 'damaged' WHERE id % 5 = {}", dice.below(5)),
                }
            })
            .collect()
    }
}

type Rows = Vec<BTreeMap<i64, Value>>;

/// A table's number and a row's id.
type Places = BTreeSet<(usize, i64)>;

async fn rows(db: &TestDatabase, schema: &Schema) -> Rows {
    let mut all = Vec::new();
    for table in &schema.0 {
        let query = format!("SELECT coalesce(json_agg(t), '[]') FROM {} t", table.name);
        let text = db.psql(&query).await.expect("rows").replace('\n', "");
        let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        all.push(rows.into_iter().map(|row| (row["id"].as_i64().expect("an id"), row)).collect());
    }
    all
}

/// Own rows with children, and what they refer to besides: row by row until nothing changes.
fn naive(schema: &Schema, rows: &Rows, id: i64) -> (Places, Places) {
    let refers = |table: usize, row: &Value| -> Vec<(usize, i64)> {
        let keys = schema.0[table].keys.iter().enumerate();
        keys.filter_map(|(k, (target, two))| {
            let to = row[format!("f{k}")].as_i64()?;
            (!two || row[format!("g{k}")].as_i64().is_some()).then_some((*target, to))
        })
        .collect()
    };
    let each =
        || rows.iter().enumerate().flat_map(|(t, rows)| rows.iter().map(move |(id, row)| ((t, *id), row)));
    let mut own = Places::new();
    loop {
        let more: Vec<_> = each()
            .filter(|((t, at), row)| {
                let mine = row["tenant"].as_i64();
                !own.contains(&(*t, *at))
                    && (mine == Some(id)
                        || (mine.is_none() && refers(*t, row).iter().any(|r| own.contains(r))))
            })
            .map(|(at, _)| at)
            .collect();
        if more.is_empty() {
            break;
        }
        own.extend(more);
    }
    let mut all = own.clone();
    loop {
        let more: Vec<_> = each()
            .filter(|(at, _)| all.contains(at))
            .flat_map(|((t, _), row)| refers(t, row))
            .filter(|r| !all.contains(r))
            .collect();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    (own, all)
}

/// The rows of a backup, by the first column of their text.
fn backed_up(schema: &Schema, backup: &Collected) -> Places {
    let mut found = BTreeSet::new();
    for (spec, blocks) in &backup.members {
        let Some(table) = &spec.table else { continue };
        let index = schema.0.iter().position(|t| {
            let bare = t.name.trim_matches('"').replace("\"\"", "\"");
            let own = spec.attributes["name"].as_str().expect("a name");
            own == bare
                || (t.partitioned
                    && own.rsplit_once('_').is_some_and(|(head, _)| head == bare.replace('"', "")))
        });
        let index = index.unwrap_or_else(|| panic!("{table}"));
        let bytes: Vec<u8> = blocks.iter().flat_map(|b| b.bytes().expect("data").to_vec()).collect();
        for line in String::from_utf8(bytes).expect("text").lines() {
            let id = line.split('\t').next().and_then(|f| f.parse().ok()).expect("an id");
            assert!(found.insert((index, id)), "{table} {id} is in the backup twice");
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_schemas_agree_with_a_naive_closure() {
    let server = require!(Server::shared(15));
    let (mut restored, mut refused) = (0, 0);
    for seed in dm_testkit::seeds(4, 60) {
        let mut dice = Dice(seed);
        let schema = Schema::random(&mut dice);
        let db = server.database("closure").await.expect("a database");
        db.psql(&schema.sql(&mut dice)).await.unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        let engine = engine(&db);
        let before = rows(&db, &schema).await;
        let whole = backup(&engine, &request()).await;
        let id = 1;
        let wish = tenant(&format!("tenant={id}"));
        let partial = backup(&engine, &BackupRequest { tenant: Some(wish.clone()), ..request() }).await;
        let (own, all) = naive(&schema, &before, id);
        assert_eq!(backed_up(&schema, &partial), all, "seed {seed}");
        for change in schema.damage(&mut dice) {
            drop(db.psql(&change).await);
        }
        let damaged = rows(&db, &schema).await;
        let (now, _) = naive(&schema, &damaged, id);
        let back = RestoreRequest { tenant: Some(wish), ..into(Destination::InPlace) };
        let outcome = attempt(&engine, if dice.one_in(2) { &whole } else { &partial }, &back).await;
        match outcome {
            Ok((session, _)) => {
                restored += 1;
                session.release(&context()).await.expect("a release");
                let after = rows(&db, &schema).await;
                for (t, table) in after.iter().enumerate() {
                    for (at, row) in table {
                        let expected = match (own.contains(&(t, *at)), damaged[t].get(at)) {
                            (true, _) => before[t].get(at),
                            (false, Some(stays)) if !now.contains(&(t, *at)) => Some(stays),
                            // Not there just now, or the tenant's just now: somebody else's that the tenant's rows refer to.
                            (false, _) if all.contains(&(t, *at)) => before[t].get(at),
                            _ => None,
                        };
                        assert_eq!(Some(row), expected, "seed {seed}: {} {at}", schema.0[t].name);
                    }
                }
                for (t, at) in own.iter().chain(all.iter()) {
                    assert!(after[*t].contains_key(at), "seed {seed}: {} {at} is missing", schema.0[*t].name);
                }
                for (t, table) in damaged.iter().enumerate() {
                    for at in table.keys().filter(|at| !now.contains(&(t, **at))) {
                        assert!(
                            after[t].contains_key(at),
                            "seed {seed}: {} {at} of somebody else is gone",
                            schema.0[t].name
                        );
                    }
                }
            }
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound),
                    "seed {seed}: {error:?}"
                );
                assert!(error.hint().is_some(), "seed {seed}: {error:?}");
                assert_eq!(rows(&db, &schema).await, damaged, "seed {seed}");
            }
        }
    }
    eprintln!("{restored} restored, {refused} refused");
}
