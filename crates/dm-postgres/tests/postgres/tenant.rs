//! One tenant's rows: at the backup.

use dm_core::{BackupRequest, Destination, Engine, ErrorKind, Level, TenantFilter};
use dm_testkit::postgres::{Server, TestDatabase};
use dm_testkit::require;

use crate::support::{Leftovers, backup, context, engine, fresh_name, into, request, restore};

pub(crate) const SHOP: &str = include_str!("shop.sql");

pub(crate) fn tenant(text: &str) -> TenantFilter {
    text.parse().expect("a tenant")
}

/// What a person says belongs to a tenant, table by table: a condition on `t`, which may ask for `wanted_users`.
pub(crate) fn conditions(id: u32) -> Vec<(&'static str, String)> {
    let (users, loans, members) = shared_conditions(id);
    let wanted = "SELECT id FROM wanted_users";
    vec![
        ("app.orders", format!("t.tenant_id = {id}")),
        ("app.days", format!("t.tenant_id = {id}")),
        ("\"Odd Schema\".\"Order \"\"Items\"\"\"", format!("t.\"Tenant\" = {id}")),
        ("app.returns", format!("t.t = {id}")),
        ("app.events", format!("t.user_id IN ({users})")),
        ("app.visits", format!("t.tid = {id}")),
        ("app.teams", format!("t.tenant_id = {id}")),
        ("app.members", members),
        ("app.loans", loans),
        ("app.users", format!("t.id IN ({wanted})")),
        ("app.tenants", format!("t.id = {id} OR t.id IN (SELECT tenant_id FROM app.users u WHERE u.id IN ({wanted}))")),
        (
            "app.countries",
            format!(
                "t.code IN (SELECT country FROM app.users u WHERE u.id IN ({wanted}))
                 OR t.code IN (SELECT part_of FROM app.countries c JOIN app.users u ON u.country = c.code WHERE u.id IN ({wanted}))"
            ),
        ),
        (
            "app.products",
            format!("t.id <= (SELECT max(product) FROM \"Odd Schema\".\"Order \"\"Items\"\"\" WHERE \"Tenant\" = {id})"),
        ),
        ("app.holidays", "false".to_owned()),
    ]
}

fn shared_conditions(id: u32) -> (String, String, String) {
    let users = format!("SELECT id FROM app.users WHERE tenant_id = {id}");
    // A loan without a tenant is the lender's and the borrower's: of everybody that it refers to.
    let loans = format!(
        "t.tenant_id = {id} OR (t.tenant_id IS NULL AND (t.from_user IN ({users}) OR t.to_user IN ({users})))"
    );
    let members = format!(
        "t.user_id IN ({users}) OR t.team IN (SELECT id FROM app.teams WHERE tenant_id = {id})
         OR t.id IN (SELECT lead FROM app.teams WHERE tenant_id = {id})"
    );
    (users, loans, members)
}

/// Rows and a digest of a table, of the rows that a condition names.
pub(crate) fn digest(id: u32, table: &str, condition: &str) -> String {
    let (users, loans, members) = shared_conditions(id);
    // Whoever is the tenant's, lends to or borrows from it, is in a team with it; and the bosses of those.
    format!(
        "WITH RECURSIVE wanted_users(id) AS (
            SELECT id FROM ({users}
              UNION SELECT from_user FROM app.loans t WHERE {loans} UNION SELECT to_user FROM app.loans t WHERE {loans}
              UNION SELECT user_id FROM app.members t WHERE {members}) x WHERE id IS NOT NULL
            UNION SELECT boss FROM app.users u JOIN wanted_users w ON w.id = u.id WHERE boss IS NOT NULL)
         SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '-') FROM {table} t WHERE {condition}"
    )
}

/// The tenant's part of every table, as one line each.
pub(crate) async fn part_of(db: &TestDatabase, database: &str, id: u32) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, condition) in conditions(id) {
        let line = db.psql_in(database, &digest(id, table, &condition)).await.expect("a part");
        lines.push(format!("{table} {line}"));
    }
    lines
}

/// Rows and a digest of every table, as one line each.
pub(crate) async fn content(db: &TestDatabase, database: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, _) in conditions(1) {
        let query = format!(
            "SELECT '{table} ' || count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '-') FROM {table} t"
        );
        lines.push(db.psql_in(database, &query).await.expect("content"));
    }
    lines
}

async fn only_one_tenant(major: u32) {
    let server = require!(Server::shared(major));
    let db = server.database("tenant").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let engine = engine(&db);
    for id in 1..=3 {
        let asked = BackupRequest { tenant: Some(tenant(&format!("tenant_id={id}"))), ..request() };
        let backed = backup(&engine, &asked).await;
        assert_eq!(backed.source.tenant().expect("a tenant"), asked.tenant);
        let goal = fresh_name("tenant");
        let (comparison, _) = restore(&engine, &backed, &into(Destination::New(Some(goal.clone())))).await;
        assert!(comparison.is_proven(), "{comparison:#?}");
        let expected = part_of(&db, db.name(), id).await;
        assert_eq!(content(&db, &goal).await, expected, "tenant {id}");
        let keys = "SELECT count(*) FILTER (WHERE convalidated) || ' of ' || count(*) FROM pg_constraint WHERE contype = 'f'";
        assert_eq!(db.psql_in(&goal, keys).await.expect("keys"), db.psql(keys).await.expect("keys"));
        let warnings = backed.summary.warnings.join("\n");
        for word in ["partial", "app.countries", "app.holidays"] {
            assert!(warnings.contains(word), "{warnings}");
        }
        Leftovers(&db, vec![goal]).drop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_backup_is_the_tenants_rows_and_what_they_need() {
    only_one_tenant(15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_on_the_newest_server() {
    only_one_tenant(18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_or_value_that_cannot_be_is_named_before_anything_starts() {
    let server = require!(Server::shared(15));
    let db = server.database("tenant_typo").await.expect("a database");
    db.psql(SHOP).await.expect("a shop");
    let engine = engine(&db);
    let source = engine.backup().expect("a source");
    for (wish, kind, word) in [
        ("tennant_id=1", ErrorKind::NotFound, "tenant_id"),
        ("zzz=1", ErrorKind::NotFound, "zzz"),
        ("tenant_id=abc", ErrorKind::Invalid, "app."),
    ] {
        let asked = BackupRequest { tenant: Some(tenant(wish)), ..request() };
        let preflight = source.preflight(&context(), &asked).await.expect("a preflight");
        let text = format!("{:?}", preflight.findings);
        assert!(preflight.findings.iter().any(|f| f.level == Level::Error && f.check == "tenant"), "{text}");
        assert!(text.contains(word), "{text}");
        let Err(error) = source.open(&context(), &asked).await else { panic!("{wish} is opened") };
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.hint().is_some());
    }
    let asked = BackupRequest { tenant: Some(tenant("tenant_id=99")), ..request() };
    let backed = backup(&engine, &asked).await;
    assert!(
        backed.summary.warnings.iter().any(|w| w.contains("no such tenant")),
        "{:?}",
        backed.summary.warnings
    );
    assert!(backed.summary.tables.iter().all(|t| t.rows == 0));
}
