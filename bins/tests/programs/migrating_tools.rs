//! Migrations and the other tools: what one applied, the other goes on with. Also who is refused, and filling in portions.

use std::path::Path;
use std::process::{Command, Output};

use dm_testkit::postgres::{Lending, Pooler};
use dm_testkit::require;

use crate::migrating_place::{Ground, tool};
use crate::place::said;

/// Stock sqlx.
fn sqlx(program: &Path, ground: &Ground, args: &[&str]) -> Output {
    let source = ground.path("migrations");
    let mut command = Command::new(program);
    command.args(["migrate"]).args(args).args([
        "--source",
        source.to_str().unwrap(),
        "--database-url",
        &ground.url(),
    ]);
    command.env("HOME", ground.path("home")).output().unwrap()
}

#[track_caller]
fn good(ran: &Output) -> String {
    assert!(ran.status.success(), "{}", said(ran));
    said(ran)
}

#[test]
fn stock_sqlx_goes_on_where_this_ended_and_the_other_way_round() {
    let Some(program) = tool("sqlx") else { return };
    for ground in [Some(Ground::sqlite("keep_sqlx = true")), Ground::postgres(15, "keep_sqlx = true")]
        .into_iter()
        .flatten()
    {
        ground.file("20260101000001_a.up.sql", "CREATE TABLE a (a int);\r\n");
        ground.file("20260101000001_a.down.sql", "DROP TABLE a;\n");
        good(&sqlx(&program, &ground, &["run"]));
        ground.exits(0, &["status"]);
        ground.file("20260101000002_b.up.sql", "CREATE TABLE b (a int);\n");
        ground.file("20260101000002_b.down.sql", "DROP TABLE b;\n");
        let told = ground.exits(0, &["up"]);
        assert!(
            told.contains("1 migration of sqlx taken over") && told.contains("applied 20260101000002"),
            "{told}"
        );
        let info = good(&sqlx(&program, &ground, &["info"]));
        assert_eq!(info.matches("installed").count(), 2, "{info}");
        assert!(!info.contains("different checksum"), "{info}");
        ground.file("20260101000003_c.up.sql", "CREATE TABLE c (a int);\n");
        ground.file("20260101000003_c.down.sql", "DROP TABLE c;\n");
        good(&sqlx(&program, &ground, &["run"]));
        ground.exits(0, &["status"]);
        good(&sqlx(&program, &ground, &["revert"]));
        let told = ground.exits(9, &["status"]);
        assert!(told.contains("1 pending"), "{told}");
        ground.exits(0, &["up"]);
        ground.exits(0, &["down", "--steps", "2", "--yes"]);
        let info = good(&sqlx(&program, &ground, &["info"]));
        assert_eq!(info.matches("installed").count(), 1, "{info}");
        good(&sqlx(&program, &ground, &["run"]));
        ground.exits(0, &["status"]);
    }
}

#[test]
fn the_history_of_sqlx_is_taken_over_once() {
    let Some(program) = tool("sqlx") else { return };
    let ground = Ground::sqlite("");
    let told = ground.exits(4, &["baseline", "--from", "sqlx"]);
    assert!(told.contains("there is no table _sqlx_migrations"), "{told}");
    ground.file("1_a.sql", "CREATE TABLE a (a int);\n");
    good(&sqlx(&program, &ground, &["run"]));
    assert!(ground.exits(0, &["baseline", "--from", "sqlx"]).contains("1 migration of sqlx taken over"));
    assert!(ground.exits(0, &["baseline", "--from", "sqlx"]).contains("nothing is new"));
    ground.exits(0, &["status"]);
    ground.file("1_a.sql", "CREATE TABLE a (a int, b int);\n");
    assert!(ground.exits(9, &["status"]).contains("1_a.sql was edited"));
}

#[test]
fn the_history_of_refinery_is_taken_over_and_gone_on_with() {
    let Some(program) = tool("refinery") else { return };
    let ground = Ground::sqlite("");
    ground.file("V1__first.sql", "CREATE TABLE a (a int);\n");
    ground.file("V2__second.sql", "CREATE TABLE b (a int);\n");
    let config =
        format!("[main]\ndb_type = \"Sqlite\"\ndb_path = \"{}\"\n", ground.path("shop.db").display());
    std::fs::write(ground.path("refinery.toml"), config).unwrap();
    let ran = Command::new(&program)
        .args(["migrate", "-c", ground.path("refinery.toml").to_str().unwrap(), "-p", "./migrations"])
        .current_dir(ground.folder.path())
        .output()
        .unwrap();
    good(&ran);
    ground.exits(0, &["baseline", "--from", "refinery"]);
    ground.exits(0, &["status"]);
    ground.exits(0, &["new", "third thing", "--one-way"]);
    ground.file("V3__third_thing.sql", "CREATE TABLE c (a int);\n");
    assert!(ground.exits(0, &["up"]).contains("applied 3 third thing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_run_migrations_is_told_why() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    let server = ground.server.as_ref().unwrap();
    ground.file("1_a.sql", "CREATE TABLE a (a int);\n");
    let pooler = require!(Pooler::start(server, Lending::Transaction));
    ground.configure(&pooler.url("postgres"), "");
    let told = ground.exits(1, &["up"]);
    assert!(told.contains("a pooler stands between") && told.contains("by the transaction"), "{told}");
    server.psql("CREATE ROLE weak LOGIN PASSWORD 'weak'").await.unwrap();
    ground.configure(&format!("postgres://weak:weak@127.0.0.1:{}/postgres", server.port()), "");
    let told = ground.exits(6, &["up"]);
    assert!(told.contains("permission denied") && told.contains("grant CREATE"), "{told}");
    ground.configure(&ground.url(), "");
    server.psql("CREATE TABLE schema_migrations (version text)").await.unwrap();
    let told = ground.exits(2, &["up"]);
    assert!(told.contains("is not a history of migrations") && told.contains("migrate.table"), "{told}");
    ground.configure(&ground.url(), "table = \"dm_history\"");
    ground.exits(0, &["up"]);
}

#[test]
fn a_statement_that_waits_for_a_lock_is_tried_again() {
    let Some(ground) = Ground::postgres(15, "lock_timeout = \"200ms\"\nattempts = 2") else { return };
    ground.ask("CREATE TABLE busy (a int)");
    ground.file("1_a.sql", "ALTER TABLE busy ADD COLUMN b int;\n");
    let server = ground.server.as_ref().unwrap();
    let mut holder = Command::new(server.bin_dir().join("psql"))
        .args(["-X", "-c", "BEGIN; LOCK busy; SELECT pg_sleep(3600)", &ground.url()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    dm_testkit::wait_until("the lock", || {
        ground.ask("SELECT count(*) FROM pg_locks WHERE relation = 'busy'::regclass AND granted") == "1"
    });
    let told = ground.exits(1, &["up"]);
    assert!(told.contains("lock timeout") && told.contains("trying again (1 of 1)"), "{told}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    ground.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()");
    ground.exits(0, &["up"]);
}

#[test]
fn a_column_is_filled_in_portions_and_goes_on_after_a_kill() {
    let rows = "100000";
    let fill = [
        "CREATE TABLE users (id int PRIMARY KEY, email text, lower_email text)",
        "INSERT INTO users (id, email) SELECT i, 'User' || i FROM generate_series(1, 100000) i",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
         INSERT INTO users (id, email) SELECT i, 'User' || i FROM n",
    ];
    for (ground, number) in [(Some(Ground::sqlite("")), 2), (Ground::postgres(15, ""), 1)] {
        let Some(ground) = ground else { continue };
        ground.ask(fill[0]);
        ground.ask(fill[number]);
        let args = [
            "backfill",
            "lower",
            "--table",
            "users",
            "--set",
            "lower_email = lower(email)",
            "--where",
            "id % 2 = 0",
            "--batch",
            "2000",
            "--pause",
            "20ms",
        ];
        let mut runner = ground.command(&args).spawn().unwrap();
        dm_testkit::wait_until("some portions", || {
            let done = "SELECT count(*) FROM users WHERE lower_email IS NOT NULL";
            ground.ask(done).parse::<u32>().unwrap() > 5000
        });
        runner.kill().unwrap();
        runner.wait().unwrap();
        let told = ground.document(&args);
        let progress = &told["backfill"]["progress"];
        assert_eq!(progress["seen_rows"].to_string(), rows, "{told}");
        assert_eq!(progress["changed_rows"], 50_000, "none twice, none left out: {told}");
        let wrong = "SELECT count(*) FROM users WHERE (lower_email = lower(email)) IS DISTINCT FROM (CASE WHEN id % 2 = 0 THEN true END)";
        assert_eq!(ground.ask(wrong), "0");
        let other = ["backfill", "lower", "--table", "users", "--set", "lower_email = NULL"];
        assert!(ground.exits(2, &other).contains("was begun with another request"));
        let two = ["backfill", "x", "--table", "users", "--set", "email = 1; DROP TABLE users"];
        assert!(ground.exits(2, &two).contains("more than one statement"));
        let none = ["backfill", "y", "--table", "nobody", "--set", "a = 1"];
        assert!(ground.exits(2, &none).contains("there is no table"));
    }
}

#[test]
fn production_demands_lint_a_verified_backup_and_staging() {
    let ground = Ground::sqlite("production = true\nstaging = \"staging\"");
    std::fs::write(ground.path("staging.db"), "").unwrap();
    let more = format!("[engines.staging]\nurl = \"{}\"\n", ground.path("staging.db").display());
    let text = std::fs::read_to_string(ground.path("dm.toml")).unwrap();
    std::fs::write(ground.path("dm.toml"), format!("{text}{more}")).unwrap();
    ground.file("1_a.sql", "CREATE TABLE a (id INTEGER PRIMARY KEY, b TEXT NOT NULL);\n");
    assert!(ground.exits(3, &["up"]).contains("apply 1 a"), "it asks");
    let told = ground.exits(9, &["up", "--yes"]);
    assert!(told.contains("was never applied on staging"), "{told}");
    std::fs::write(
        ground.path("free.toml"),
        text.replace("production = true\nstaging = \"staging\"", "") + &more,
    )
    .unwrap();
    ground.exits(0, &["up", "--engine", "staging", "--config", "free.toml"]);
    ground.exits(0, &["up", "--yes"]);
    let backups = Command::new(env!("CARGO_BIN_EXE_dm"))
        .args(["backup", "list", "--json"])
        .current_dir(ground.folder.path())
        .env("HOME", ground.path("home"))
        .output()
        .unwrap();
    let backups: serde_json::Value = serde_json::from_slice(&backups.stdout).unwrap();
    assert_eq!(backups["backups"].as_array().unwrap().len(), 1);
    assert!(backups["backups"][0]["verified_at"].is_string(), "{backups}");
    ground.file("2_b.sql", "ALTER TABLE a DROP COLUMN b;\n");
    let told = ground.exits(9, &["up", "--yes"]);
    assert!(told.contains("lint does not pass"), "{told}");
}

#[test]
fn a_seed_runs_once_and_again_when_it_was_edited() {
    for ground in [Some(Ground::sqlite("")), Ground::postgres(15, "")].into_iter().flatten() {
        ground.ask("CREATE TABLE kinds (name text PRIMARY KEY, n int)");
        std::fs::create_dir(ground.path("seeds")).unwrap();
        let seed = |n: u32| {
            let text = format!(
                "INSERT INTO kinds VALUES ('a', {n}) ON CONFLICT (name) DO UPDATE SET n = kinds.n + excluded.n;\n"
            );
            std::fs::write(ground.path("seeds/kinds.sql"), text).unwrap();
        };
        seed(1);
        ground.exits(0, &["seed"]);
        assert!(ground.exits(0, &["seed"]).contains("nothing to run"));
        assert_eq!(ground.ask("SELECT n FROM kinds"), "1");
        seed(10);
        ground.exits(0, &["seed"]);
        assert_eq!(ground.ask("SELECT n FROM kinds"), "11");
    }
}
