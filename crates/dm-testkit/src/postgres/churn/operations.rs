//! The kinds of change, and the SQL of each.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::model::{Cluster, Database, Table};
use crate::Failure;
use crate::postgres::Place;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    CreateTable,
    DropTable,
    Truncate,
    VacuumFull,
    Cluster,
    Insert,
    UpdateMany,
    DeleteSome,
    DeleteTail,
    Vacuum,
    Freeze,
    SetLogged,
    MoveTable,
    Reindex,
    RolledBack,
    CreateDatabase,
    CopyDatabase,
    DropDatabase,
    MoveDatabase,
    CreateTablespace,
    DropTablespace,
    Extension,
    LargeObject,
    Prepare,
    EndPrepared,
    Checkpoint,
    SwitchLog,
    ReadAll,
}

/// Every kind with its weight.
pub(super) const KINDS: &[(Operation, u32)] = &[
    (Operation::CreateTable, 8),
    (Operation::DropTable, 4),
    (Operation::Truncate, 4),
    (Operation::VacuumFull, 4),
    (Operation::Cluster, 2),
    (Operation::Insert, 12),
    (Operation::UpdateMany, 8),
    (Operation::DeleteSome, 8),
    (Operation::DeleteTail, 4),
    (Operation::Vacuum, 8),
    (Operation::Freeze, 2),
    (Operation::SetLogged, 2),
    (Operation::MoveTable, 3),
    (Operation::Reindex, 3),
    (Operation::RolledBack, 3),
    (Operation::CreateDatabase, 2),
    (Operation::CopyDatabase, 3),
    (Operation::DropDatabase, 2),
    (Operation::MoveDatabase, 1),
    (Operation::CreateTablespace, 2),
    (Operation::DropTablespace, 1),
    (Operation::Extension, 1),
    (Operation::LargeObject, 2),
    (Operation::Prepare, 2),
    (Operation::EndPrepared, 2),
    (Operation::Checkpoint, 4),
    (Operation::SwitchLog, 2),
    (Operation::ReadAll, 3),
];

const MOST_DATABASES: usize = 4;
const MOST_TABLES: usize = 12;
const MOST_TABLESPACES: usize = 3;

/// SQL to run; in `postgres` when no database is named.
pub(super) struct Change {
    pub(super) database: Option<String>,
    pub(super) sql: String,
}

pub(super) fn choose(rng: &mut StdRng, kinds: &[(Operation, u32)]) -> Operation {
    let mut ticket = rng.random_range(0..kinds.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in kinds {
        if ticket < *weight {
            return *kind;
        }
        ticket -= weight;
    }
    kinds[0].0
}

/// Decides on a change of this kind and remembers it; `None` when there is nothing to do it to.
pub(super) fn plan(
    kind: Operation,
    cluster: &mut Cluster,
    rng: &mut StdRng,
    place: &Place,
) -> Result<Option<Change>, Failure> {
    Ok(match kind {
        Operation::CreateDatabase
        | Operation::CopyDatabase
        | Operation::DropDatabase
        | Operation::MoveDatabase => of_databases(kind, cluster, rng),
        Operation::CreateTablespace | Operation::DropTablespace if cluster.backed_up => None,
        Operation::CreateTablespace | Operation::DropTablespace => of_tablespaces(kind, cluster, rng, place)?,
        Operation::CreateTable => create_table(cluster, rng),
        Operation::Prepare
        | Operation::EndPrepared
        | Operation::Checkpoint
        | Operation::SwitchLog
        | Operation::Extension
        | Operation::LargeObject => of_cluster(kind, cluster, rng),
        _ => of_table(kind, cluster, rng),
    })
}

fn pick<'a, T>(rng: &mut StdRng, items: &'a mut [T]) -> Option<&'a mut T> {
    if items.is_empty() { None } else { Some(&mut items[rng.random_range(0..items.len())]) }
}

fn rows(rng: &mut StdRng) -> u64 {
    // Mostly small, now and then enough for many pages.
    if rng.random_bool(0.25) { rng.random_range(2_000..20_000) } else { rng.random_range(1..500) }
}

fn insert(table: &mut Table, count: u64) -> String {
    let (first, last) = (table.last_id + 1, table.last_id + count);
    table.last_id = last;
    format!(
        "INSERT INTO {} SELECT i, i % 97, repeat(md5(i::text), 1 + (i % 7)::int) FROM generate_series({first}, {last}) i",
        table.name
    )
}

fn in_tablespace(tablespace: Option<&String>) -> String {
    tablespace.map_or_else(String::new, |name| format!(" TABLESPACE {name}"))
}

fn create_table(cluster: &mut Cluster, rng: &mut StdRng) -> Option<Change> {
    let number = cluster.number();
    let tablespace = if rng.random_bool(0.3) { pick(rng, &mut cluster.tablespaces).cloned() } else { None };
    let database = pick(rng, &mut cluster.databases)?;
    if database.tables.len() >= MOST_TABLES {
        return None;
    }
    let unlogged = rng.random_bool(0.2);
    let mut table =
        Table { name: format!("t{number}"), last_id: 0, unlogged, tablespace, index_tablespace: None };
    let fill = rng.random_range(50..=100);
    let mut sql = format!(
        "CREATE {}TABLE {} (id bigint PRIMARY KEY, n int, word text) WITH (fillfactor = {fill}){};\n",
        if unlogged { "UNLOGGED " } else { "" },
        table.name,
        in_tablespace(table.tablespace.as_ref()),
    );
    sql.push_str(&insert(&mut table, rows(rng)));
    if rng.random_bool(0.5) {
        table.index_tablespace.clone_from(&table.tablespace);
        let place = in_tablespace(table.index_tablespace.as_ref());
        sql.push_str(&format!(";\nCREATE INDEX ON {} (n){place}", table.name));
    }
    database.tables.push(table);
    Some(Change { database: Some(database.name.clone()), sql })
}

fn of_table(kind: Operation, cluster: &mut Cluster, rng: &mut StdRng) -> Option<Change> {
    let tablespace = pick(rng, &mut cluster.tablespaces).cloned();
    let database = pick(rng, &mut cluster.databases)?;
    if database.tables.is_empty() {
        return None;
    }
    let at = rng.random_range(0..database.tables.len());
    let table = &mut database.tables[at];
    let name = table.name.clone();
    let middle = rng.random_range(0..=table.last_id.max(1));
    let sql = match kind {
        Operation::DropTable => {
            database.tables.remove(at);
            format!("DROP TABLE {name}")
        }
        Operation::Truncate => format!("TRUNCATE {name}"),
        Operation::VacuumFull => format!("VACUUM (FULL) {name}"),
        Operation::Cluster => format!("CLUSTER {name} USING {name}_pkey"),
        Operation::Insert => {
            let count = rows(rng);
            insert(table, count)
        }
        Operation::UpdateMany => {
            format!(
                "UPDATE {name} SET n = n + 1, word = word || 'x' WHERE id % {} = 0",
                rng.random_range(1..9)
            )
        }
        Operation::DeleteSome => format!("DELETE FROM {name} WHERE id % {} = 0", rng.random_range(5..60)),
        // The pages behind are empty then, and VACUUM gives them back: the file gets shorter.
        Operation::DeleteTail => {
            format!("DELETE FROM {name} WHERE id > {middle};\nVACUUM (TRUNCATE true) {name}")
        }
        Operation::Vacuum => format!("VACUUM (ANALYZE) {name}"),
        Operation::Freeze => format!("VACUUM (FREEZE) {name}"),
        Operation::SetLogged => {
            table.unlogged = !table.unlogged;
            format!("ALTER TABLE {name} SET {}", if table.unlogged { "UNLOGGED" } else { "LOGGED" })
        }
        Operation::MoveTable => {
            table.tablespace = if table.tablespace.is_some() { None } else { Some(tablespace?) };
            // A database in a tablespace of its own has no tables that name it.
            let to = table.tablespace.as_deref().or(database.tablespace.as_deref()).unwrap_or("pg_default");
            format!("ALTER TABLE {name} SET TABLESPACE {to}")
        }
        Operation::Reindex => format!("REINDEX TABLE {name}"),
        Operation::RolledBack => {
            format!("BEGIN;\nUPDATE {name} SET n = -1 WHERE id > {middle};\nTRUNCATE {name};\nROLLBACK")
        }
        Operation::ReadAll => format!("SELECT count(*), sum(length(word)) FROM {name}"),
        _ => return None,
    };
    Some(Change { database: Some(database.name.clone()), sql })
}

fn of_databases(kind: Operation, cluster: &mut Cluster, rng: &mut StdRng) -> Option<Change> {
    let number = cluster.number();
    let name = format!("churn_{number}");
    let count = cluster.databases.len();
    let sql = match kind {
        Operation::CreateDatabase | Operation::CopyDatabase if count >= MOST_DATABASES => return None,
        Operation::CreateDatabase => {
            let tablespace =
                if rng.random_bool(0.3) { pick(rng, &mut cluster.tablespaces).cloned() } else { None };
            let sql = format!(
                "CREATE DATABASE {name} STRATEGY {}{}",
                strategy(rng),
                in_tablespace(tablespace.as_ref())
            );
            cluster.databases.push(Database { name, tables: Vec::new(), extension: false, tablespace });
            sql
        }
        Operation::CopyDatabase => {
            let template = pick(rng, &mut cluster.databases)?;
            let mut copy = template.clone();
            let strategy = if cluster.backed_up { "wal_log" } else { strategy(rng) };
            let sql = format!("CREATE DATABASE {name} TEMPLATE {} STRATEGY {strategy}", template.name);
            copy.name = name;
            cluster.databases.push(copy);
            sql
        }
        Operation::DropDatabase if count > 1 => {
            let gone = cluster.databases.remove(rng.random_range(0..count));
            format!("DROP DATABASE {} WITH (FORCE)", gone.name)
        }
        Operation::MoveDatabase if !cluster.backed_up => {
            let target = pick(rng, &mut cluster.tablespaces).cloned()?;
            let database = pick(rng, &mut cluster.databases)?;
            // Refused by the server when some of its tables are there already.
            if database.uses(&target) {
                return None;
            }
            let sql = format!("ALTER DATABASE {} SET TABLESPACE {target}", database.name);
            database.tablespace = Some(target);
            sql
        }
        _ => return None,
    };
    Some(Change { database: None, sql })
}

fn strategy(rng: &mut StdRng) -> &'static str {
    if rng.random_bool(0.5) { "file_copy" } else { "wal_log" }
}

fn of_tablespaces(
    kind: Operation,
    cluster: &mut Cluster,
    rng: &mut StdRng,
    place: &Place,
) -> Result<Option<Change>, Failure> {
    if kind == Operation::CreateTablespace {
        if cluster.tablespaces.len() >= MOST_TABLESPACES {
            return Ok(None);
        }
        let name = format!("space_{}", cluster.number());
        let path = place.folder(&name)?;
        let sql = format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display());
        cluster.tablespaces.push(name);
        return Ok(Some(Change { database: None, sql }));
    }
    let free: Vec<usize> = (0..cluster.tablespaces.len())
        .filter(|&i| !cluster.databases.iter().any(|database| database.uses(&cluster.tablespaces[i])))
        .collect();
    if free.is_empty() {
        return Ok(None);
    }
    let name = cluster.tablespaces.remove(free[rng.random_range(0..free.len())]);
    Ok(Some(Change { database: None, sql: format!("DROP TABLESPACE {name}") }))
}

fn of_cluster(kind: Operation, cluster: &mut Cluster, rng: &mut StdRng) -> Option<Change> {
    let number = cluster.number();
    let in_postgres = |sql: String| Some(Change { database: None, sql });
    match kind {
        Operation::Checkpoint => in_postgres("CHECKPOINT".to_owned()),
        Operation::SwitchLog => in_postgres("SELECT pg_switch_wal()".to_owned()),
        Operation::Prepare if cluster.prepared.len() < 4 => {
            cluster.prepared.push(number);
            in_postgres(format!(
                "BEGIN;\nINSERT INTO churn_prepared SELECT {number} * 1000 + i, md5(i::text) FROM generate_series(0, 50) i;\n\
                 PREPARE TRANSACTION 'churn_{number}'"
            ))
        }
        Operation::EndPrepared if !cluster.prepared.is_empty() => {
            let one = cluster.prepared.remove(rng.random_range(0..cluster.prepared.len()));
            let end = if rng.random_bool(0.7) { "COMMIT" } else { "ROLLBACK" };
            in_postgres(format!("{end} PREPARED 'churn_{one}'"))
        }
        Operation::Extension => {
            let extension = cluster.extension.clone()?;
            let database = pick(rng, &mut cluster.databases)?;
            database.extension = !database.extension;
            let verb = if database.extension { "CREATE" } else { "DROP" };
            let sql = format!("{verb} EXTENSION {extension}");
            Some(Change { database: Some(database.name.clone()), sql })
        }
        Operation::LargeObject => {
            let database = pick(rng, &mut cluster.databases)?;
            let size = rng.random_range(1..200_000);
            Some(Change {
                database: Some(database.name.clone()),
                sql: format!("SELECT lo_from_bytea(0, convert_to(repeat('{number} ', {size} / 3), 'UTF8'))"),
            })
        }
        _ => None,
    }
}
