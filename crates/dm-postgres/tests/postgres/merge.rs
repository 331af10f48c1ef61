//! Rows into tables that are in use: tables, and tenants, in place.

use std::collections::BTreeSet;

use dm_core::{
    BackupRequest, Comparison, Destination, Engine, Error, ErrorKind, Level, RestoreRequest, RestoreSession,
    Result,
};
use dm_testkit::conformance::Collected;
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;

use crate::support::{Leftovers, backup, context, engine, fresh_name, into, request, restore};
use crate::tenant::{SHOP, conditions, content, digest, part_of, tenant};

/// Up to the comparison, as far as it goes; what failed is discarded.
pub(crate) async fn attempt(
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
) -> Result<(Box<dyn RestoreSession>, Comparison)> {
    let target = engine.restore().expect("a target");
    let (ctx, manifest) = (context(), backup.manifest());
    let preview = target.preview(&ctx, request, &manifest).await?;
    if let Some(finding) = preview.findings.iter().find(|f| f.level == Level::Error) {
        return Err(Error::invalid(finding.message.clone()));
    }
    let session = target.open(&ctx, request, &manifest, &preview).await?;
    let work = async {
        for index in session.stages().concat() {
            session.write(&ctx, &manifest.members[index].0, backup.content(index)).await?;
        }
        session.finish(&ctx).await?;
        let restored: BTreeSet<&str> =
            preview.members.iter().filter_map(|i| manifest.members[*i].0.table.as_deref()).collect();
        let expected: Vec<_> = match request.tenant {
            Some(_) => Vec::new(),
            None => manifest.tables.iter().filter(|t| restored.contains(t.table.as_str())).cloned().collect(),
        };
        session.compare(&ctx, &expected).await
    };
    match work.await {
        Ok(comparison) => {
            assert!(comparison.is_proven() && !comparison.tables.is_empty(), "{comparison:#?}");
            Ok((session, comparison))
        }
        Err(error) => {
            session.discard(&ctx).await.expect("a discard");
            Err(error)
        }
    }
}

fn tables(names: &[&str]) -> RestoreRequest {
    RestoreRequest { tables: names.iter().map(|n| (*n).to_owned()).collect(), ..into(Destination::InPlace) }
}

fn one(id: u32) -> RestoreRequest {
    RestoreRequest { tenant: Some(tenant(&format!("tenant_id={id}"))), ..into(Destination::InPlace) }
}

async fn shop(server: &Server, name: &str) -> TestDatabase {
    let db = server.database(name).await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    db
}

/// A trigger that lets nothing pass, and one that fires whatever the session's role is.
const GUARD: &str = "CREATE FUNCTION app.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END';
    CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON app.users FOR EACH ROW EXECUTE FUNCTION app.no();
    CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON app.users EXECUTE FUNCTION app.no();
    ALTER TABLE app.users ENABLE ALWAYS TRIGGER always;
    CREATE TRIGGER rows BEFORE INSERT OR UPDATE OR DELETE ON app.events FOR EACH ROW EXECUTE FUNCTION app.no();";

async fn tables_in_place(major: u32) {
    let server = require!(Server::shared(major));
    let db = shop(server, "merge").await;
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    let before = content(&db, db.name()).await;
    db.psql(
        "UPDATE app.users SET email = 'x' || id WHERE id % 7 = 0; UPDATE app.users SET boss = NULL WHERE id = 9;
         INSERT INTO app.users (tenant_id, email, boss) VALUES (2, 'new', 4); DELETE FROM app.events WHERE user_id % 2 = 0;
         DELETE FROM app.users WHERE id = 300 AND false; INSERT INTO app.events VALUES ('2020-02-02', 7, 'new');
         DELETE FROM app.returns WHERE n = 5; ALTER SEQUENCE app.users_id_seq RESTART WITH 5",
    )
    .await
    .expect("damage");
    db.psql(GUARD).await.expect("triggers");
    let wish = tables(&["app.users", "events", "app.returns"]);
    // A rehearsal: everything is done, counted, compared, and taken back.
    let damaged = content(&db, db.name()).await;
    let (session, comparison) = attempt(&engine, &backed, &wish).await.expect("a rehearsal");
    let told: Vec<&str> = comparison.checks.iter().map(|c| c.message.as_str()).collect();
    assert!(told.contains(&"app.users: 0 rows inserted, 43 changed, 1 deleted"), "{told:?}");
    assert!(told.contains(&"app.returns: 9 rows inserted, 0 changed, 0 deleted"), "{told:?}");
    session.discard(&context()).await.expect("a discard");
    assert_eq!(content(&db, db.name()).await, damaged);
    // And for good.
    let (session, _) = attempt(&engine, &backed, &wish).await.expect("a restore");
    session.release(&context()).await.expect("a release");
    assert_eq!(content(&db, db.name()).await, before);
    let facts = "SELECT string_agg(tgname || tgenabled::text, ' ' ORDER BY tgname), (SELECT last_value >= 300 FROM app.users_id_seq)
                   FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'app.users'::regclass";
    assert_eq!(db.psql(facts).await.expect("facts"), "alwaysA guardO|t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_tables_in_use_become_those_of_the_backup_without_triggers() {
    tables_in_place(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_the_newest_server() {
    tables_in_place(18).await;
}

/// Only what is needed is fetched, and no definitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_members_of_needed_tables_are_fetched() {
    let server = require!(Server::shared(15));
    let db = shop(server, "fetch").await;
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    let manifest = backed.manifest();
    let target = engine.restore().expect("a target");
    let fetched = async |wish: RestoreRequest| {
        let preview = target.preview(&context(), &wish, &manifest).await.expect("a preview");
        preview.members.iter().map(|i| manifest.members[*i].0.name.clone()).collect::<Vec<_>>()
    };
    let mut names = fetched(tables(&["app.returns"])).await;
    names.sort();
    assert_eq!(names, ["data/app.returns/0000000000", "sequences.json"]);
    let names = fetched(one(1)).await.join(" ");
    assert!(
        !names.contains("holidays") && !names.contains("schema") && !names.contains("globals"),
        "{names}"
    );
    assert!(
        names.contains("app.countries") && names.contains("Items") && names.contains("app.events_b"),
        "{names}"
    );
    let into_new = RestoreRequest { destination: Destination::New(None), ..one(1) };
    let names = fetched(into_new).await.join(" ");
    assert!(names.contains("schema.dump") && !names.contains("holidays"), "{names}");
}

/// Whatever refers to a row that would go stops the restore: nothing cascades, nothing is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_referred_to_never_go() {
    let server = require!(Server::shared(15));
    let db = shop(server, "referred").await;
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    db.psql(
        "INSERT INTO app.users (tenant_id, email) VALUES (2, 'new');
         INSERT INTO app.orders SELECT 2, 900, id FROM app.users WHERE email = 'new'",
    )
    .await
    .expect("later rows");
    let now = content(&db, db.name()).await;
    let Err(error) = attempt(&engine, &backed, &tables(&["app.users"])).await else {
        panic!("an order is orphaned")
    };
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("1 rows of app.orders") && error.hint().is_some(), "{error:?}");
    assert_eq!(content(&db, db.name()).await, now);
    // With the referring table both go together.
    let (session, _) =
        attempt(&engine, &backed, &tables(&["app.users", "app.orders"])).await.expect("a restore");
    session.release(&context()).await.expect("a release");
    assert_eq!(db.psql("SELECT count(*) FROM app.orders").await.expect("a count"), "300");
}

/// A foreign key that cannot hold rolls everything back; so does a lost connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_leaves_the_database_as_it_was() {
    let server = require!(Server::shared(15));
    let db = shop(server, "rollback").await;
    let engine = engine(&db);
    let backed = backup(&engine, &request()).await;
    db.psql("UPDATE app.users SET boss = NULL WHERE boss = 300; DELETE FROM app.members WHERE user_id = 300; DELETE FROM app.users WHERE id = 300")
        .await
        .expect("a user goes");
    let now = content(&db, db.name()).await;
    let Err(error) = attempt(&engine, &backed, &tables(&["app.orders"])).await else {
        panic!("an order of nobody")
    };
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("23503"), "{error:?}");
    assert_eq!(content(&db, db.name()).await, now);

    let (session, _) =
        attempt(&engine, &backed, &tables(&["app.orders", "app.users"])).await.expect("a merge");
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(db.psql(cut).await.expect("a cut"), "1");
    let error = session.release(&context()).await.expect_err("a lost transaction");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert_eq!(content(&db, db.name()).await, now);
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'dm\\_%'";
    assert_eq!(db.psql(left).await.expect("a count"), "0");
}

/// What is not the tenant's: of shared tables all that is there, of the others the complement.
async fn others(db: &TestDatabase, id: u32) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, condition) in conditions(id) {
        let rest = match table {
            "app.users" => format!("t.tenant_id <> {id}"),
            "app.tenants" | "app.countries" | "app.products" | "app.holidays" => "true".to_owned(),
            _ => format!("NOT coalesce(({condition}), false)"),
        };
        lines.push(format!("{table} {}", db.psql(&digest(id, table, &rest)).await.expect("others")));
    }
    lines
}

async fn tenant_in_place(major: u32) {
    let server = require!(Server::shared(major));
    let db = shop(server, "tenant_back").await;
    let engine = engine(&db);
    let whole = backup(&engine, &request()).await;
    let partial = backup(&engine, &BackupRequest { tenant: one(2).tenant, ..request() }).await;
    let good = part_of(&db, db.name(), 2).await;
    let users = digest(2, "app.users", "t.tenant_id = 2");
    let users_then = db.psql(&users).await.expect("users");
    for backed in [&whole, &partial] {
        // The tenant's data is damaged, and life goes on for the others.
        db.psql(
            "DELETE FROM app.orders WHERE tenant_id = 2 AND no % 3 = 0; UPDATE app.orders SET total = 0 WHERE tenant_id = 2 AND no % 3 = 1;
             DELETE FROM app.returns WHERE t = 2; UPDATE app.users SET email = 'gone' || id, boss = NULL WHERE tenant_id = 2 AND id < 50;
             INSERT INTO app.users (tenant_id, email) VALUES (2, 'wrong' || txid_current()); INSERT INTO app.events SELECT '2020-01-05', id, 'wrong' FROM app.users WHERE tenant_id = 2;
             UPDATE app.teams SET lead = NULL WHERE tenant_id = 2; DELETE FROM app.members WHERE team IN (SELECT id FROM app.teams WHERE tenant_id = 2);
             DELETE FROM app.teams WHERE tenant_id = 2; DELETE FROM app.loans WHERE id IN (2, 3);
             UPDATE \"Odd Schema\".\"Order \"\"Items\"\"\" SET note = NULL WHERE \"Tenant\" = 2 AND product = 20;
             UPDATE app.orders SET total = total + 1 WHERE tenant_id <> 2; UPDATE app.users SET email = 'later' || id || txid_current() WHERE tenant_id = 3;
             INSERT INTO app.events SELECT '2020-01-06', id, 'later' FROM app.users WHERE tenant_id = 1; UPDATE app.products SET name = name || '!';
             UPDATE app.tenants SET plan = 'gold'; INSERT INTO app.holidays VALUES (date '2021-01-01' + txid_current()::int % 1000, 'more')",
        )
        .await
        .expect("damage");
        let theirs = others(&db, 2).await;
        let (session, comparison) = attempt(&engine, backed, &one(2)).await.expect("a restore");
        assert!(
            comparison.tables.iter().any(|t| t.expected.table == "app.events" && t.expected.rows == 300),
            "{comparison:#?}"
        );
        session.release(&context()).await.expect("a release");
        assert_eq!(others(&db, 2).await, theirs, "rows of others are as they were");
        let is = part_of(&db, db.name(), 2).await;
        for (is, was) in is.iter().zip(&good) {
            // What is only referred to stays as it is now.
            let shared = ["app.tenants ", "app.products ", "app.users "].iter().any(|t| was.starts_with(t));
            assert!(shared || is == was, "{is} was {was}");
        }
        assert_eq!(db.psql(&users).await.expect("users"), users_then);
    }
    // Into a new database: only that tenant, as from a backup of it alone.
    let goals = [fresh_name("whole"), fresh_name("part")];
    for (backed, goal) in [&whole, &partial].into_iter().zip(&goals) {
        let wish = RestoreRequest { destination: Destination::New(Some(goal.clone())), ..one(2) };
        let (session, _) = match backed.source.tenant().expect("a tenant") {
            None => attempt(&engine, backed, &wish).await.expect("a restore"),
            Some(_) => {
                restore(&engine, backed, &wish).await;
                continue;
            }
        };
        session.release(&context()).await.expect("a release");
    }
    let [from_whole, from_part] = [content(&db, &goals[0]).await, content(&db, &goals[1]).await];
    assert_eq!(from_whole, from_part);
    assert_eq!(from_whole, good);
    let keys = "SELECT count(*) FILTER (WHERE convalidated) || ' of ' || count(*) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(db.psql_in(&goals[0], keys).await.expect("keys"), db.psql(keys).await.expect("keys"));
    Leftovers(&db, goals.to_vec()).drop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_comes_back_and_the_others_are_untouched() {
    tenant_in_place(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_for_the_newest_server() {
    tenant_in_place(18).await;
}

/// A partial backup never takes the place of everything, and a tenant's rows never that of somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_never_takes_what_is_somebody_elses() {
    let server = require!(Server::shared(15));
    let db = shop(server, "strangers").await;
    let engine = engine(&db);
    let backed = backup(&engine, &BackupRequest { tenant: one(2).tenant, ..request() }).await;
    for wish in [into(Destination::InPlace), tables(&["app.orders"])] {
        let Err(error) = attempt(&engine, &backed, &wish).await else { panic!("everybody else is lost") };
        assert!(error.to_string().contains("one tenant only"), "{error:?}");
    }
    let Err(error) = attempt(&engine, &backed, &one(3)).await else { panic!("another tenant's backup") };
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    // A user moved to another tenant since.
    db.psql("UPDATE app.users SET tenant_id = 3 WHERE id = 298").await.expect("a move");
    let now = content(&db, db.name()).await;
    let Err(error) = attempt(&engine, &backed, &one(2)).await else { panic!("a stranger is overwritten") };
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("somebody else"), "{error:?}");
    assert_eq!(content(&db, db.name()).await, now);
}
