//! `dm-migrate` as processes: many at once, killed at any statement, and told what is wrong.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::migrating_place::Ground;

/// A migration that leaves a line for every time that it ran: nothing keeps it from being two.
fn leaves_a_line(ground: &Ground, version: u32) {
    ground.file(&format!("{version:04}_step.sql"), format!("INSERT INTO ran VALUES ({version});\n"));
}

fn two_at_once(ground: &Ground) {
    ground.ask("CREATE TABLE ran (version int)");
    let starts = u32::try_from(dm_testkit::count(4, 100)).unwrap();
    for round in 0..starts {
        for version in [3 * round + 1, 3 * round + 2, 3 * round + 3] {
            leaves_a_line(ground, version);
        }
        let runners: Vec<Child> = (0..2).map(|_| ground.command(&["up"]).spawn().unwrap()).collect();
        for runner in runners {
            let ran = runner.wait_with_output().unwrap();
            assert!(ran.status.success(), "round {round}: {}", crate::place::said(&ran));
        }
    }
    let expected = (starts * 3).to_string();
    assert_eq!(ground.ask("SELECT count(*) FROM ran"), expected, "each ran");
    assert_eq!(ground.ask("SELECT count(DISTINCT version) FROM ran"), expected, "and none of them twice");
    assert_eq!(ground.ask("SELECT count(*) FROM schema_migrations WHERE state = 'applied'"), expected);
}

#[test]
fn two_runners_at_once_apply_each_migration_once_on_sqlite() {
    let ground = Ground::sqlite("");
    two_at_once(&ground);
    let left: Vec<_> =
        std::fs::read_dir(ground.folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().ends_with("-lock")), "a lock stayed: {left:?}");
}

#[test]
fn two_runners_at_once_apply_each_migration_once_on_postgres() {
    for major in [15, 18] {
        let Some(ground) = Ground::postgres(major, "") else { return };
        two_at_once(&ground);
        assert_eq!(ground.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    }
}

#[test]
fn five_runners_that_wait_do_not_keep_a_concurrent_index_from_its_end() {
    let Some(ground) = Ground::postgres(15, "lock_timeout = \"20s\"") else { return };
    ground.file("0001_table.sql", "CREATE TABLE t AS SELECT i FROM generate_series(1, 20000) i;");
    for version in 2..6 {
        let text = format!("-- no-transaction\nCREATE INDEX CONCURRENTLY i{version} ON t (i);\n");
        ground.file(&format!("000{version}_index.sql"), text);
    }
    let begun = Instant::now();
    let runners: Vec<Child> = (0..6).map(|_| ground.command(&["up"]).spawn().unwrap()).collect();
    for runner in runners {
        let ran = runner.wait_with_output().unwrap();
        assert!(ran.status.success(), "{}", crate::place::said(&ran));
    }
    assert_eq!(
        ground.ask("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid"),
        "4"
    );
    assert!(begun.elapsed() < Duration::from_secs(120), "they waited for each other");
}

/// A file whose statements each leave a line and then take a while, so that each can be met at work.
fn slow_statements() -> String {
    let slow = |n: u32| {
        format!("WITH line AS (INSERT INTO ran VALUES ({n}) RETURNING 1) SELECT pg_sleep(0.4) FROM line;\n")
    };
    format!(
        "-- no-transaction\nCREATE TABLE ran (version int);\n{}SET work_mem = '5MB';\n{}BEGIN;\n{}{}COMMIT;\n{}",
        slow(1),
        slow(2),
        slow(3),
        slow(4),
        slow(5)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_killed_at_any_statement_goes_on_there() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    ground.file("0001_slow.sql", slow_statements());
    let server = ground.server.as_ref().unwrap();
    for statement in 1..=5 {
        server.psql("DROP TABLE IF EXISTS ran, schema_migrations").await.unwrap();
        let mut runner = ground.command(&["up"]).spawn().unwrap();
        let working = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%VALUES ({statement})%' AND pid <> pg_backend_pid())"
        );
        server.until("the statement to be at work", &working).await.unwrap();
        runner.kill().unwrap();
        runner.wait().unwrap();
        let told = ground.exits(9, &["status"]);
        assert!(told.contains("ended in the middle") && told.contains("dm migrate resume"), "{told}");
        let refused = ground.exits(1, &["up"]);
        assert!(refused.contains("ended in the middle"), "{refused}");
        ground.exits(0, &["resume"]);
        let lines = ground.ask("SELECT string_agg(version::text, ',' ORDER BY version) FROM ran");
        assert_eq!(lines, "1,2,3,4,5", "killed at {statement}");
        ground.exits(0, &["status"]);
    }
}

/// The same on SQLite, where the runner is the server: what it was at dies with it, and SQLite undoes it.
#[test]
fn a_file_on_sqlite_that_was_killed_at_any_statement_goes_on_there() {
    let ground = Ground::sqlite("");
    let counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n";
    let slow = |n: u32| format!("INSERT INTO ran SELECT {n} FROM ({counted});\n");
    let steps: String = (1..=4).map(slow).collect();
    let text =
        format!("-- no-transaction\nCREATE TABLE ran (version int);\nPRAGMA foreign_keys = OFF;\n{steps}");
    ground.file("0001_slow.sql", text);
    for statement in 1..=4_u32 {
        ground.ask("DROP TABLE IF EXISTS ran; DROP TABLE IF EXISTS schema_migrations; VACUUM");
        let mut runner = ground.command(&["up"]).spawn().unwrap();
        dm_testkit::wait_until("the statement to be at work", || {
            let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'ran'";
            ground.ask(there) == "1" && ground.ask("SELECT count(*) + 1 FROM ran") == statement.to_string()
        });
        runner.kill().unwrap();
        runner.wait().unwrap();
        assert!(ground.exits(9, &["status"]).contains("ended in the middle"), "killed at {statement}");
        ground.exits(0, &["resume"]);
        let lines =
            ground.ask("SELECT group_concat(version) FROM (SELECT version FROM ran ORDER BY version)");
        assert_eq!(lines, "1,2,3,4", "killed at {statement}");
        ground.exits(0, &["status"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_a_killed_runner_left_is_found_and_built_anew() {
    let Some(ground) = Ground::postgres(15, "lock_timeout = \"60s\"") else { return };
    let server = ground.server.as_ref().unwrap();
    ground.file("0001_table.sql", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i;");
    ground.exits(0, &["up"]);
    ground.file(
        "0002_index.sql",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY t_i ON t (i);\nCREATE TABLE after_it ();\n",
    );
    // Somebody's old transaction keeps the index from its end.
    let mut old = server.program("psql", "postgres");
    old.args(["-X", "-c", "BEGIN; INSERT INTO t VALUES (0); SELECT pg_sleep(3600)"]);
    let mut old = old
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    server.until("the old transaction", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND state = 'active' AND pid <> pg_backend_pid())").await.unwrap();
    let mut runner = ground.command(&["up"]).spawn().unwrap();
    server
        .until("the index to wait", "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index)")
        .await
        .unwrap();
    runner.kill().unwrap();
    runner.wait().unwrap();
    // What it left at work on the server is no longer waited for by anybody: it ends by itself, and keeps the lock until then.
    server
        .until("the server to notice", "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_create_index)")
        .await
        .unwrap();
    assert_eq!(ground.ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass"), "f");
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()").await.unwrap();
    old.wait().await.unwrap();
    let told = ground.exits(9, &["status"]);
    assert!(told.contains("the index t_i on t is not valid"), "{told}");
    let resumed = ground.exits(0, &["resume"]);
    assert!(resumed.contains("was not valid and was dropped"), "{resumed}");
    assert_eq!(
        ground.ask("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid"),
        "1"
    );
    ground.exits(0, &["status"]);
}

#[test]
fn a_migration_that_fails_leaves_nothing_and_no_lock() {
    for ground in [Some(Ground::sqlite("")), Ground::postgres(15, "")].into_iter().flatten() {
        ground.file("0001_good.sql", "CREATE TABLE good (a int);");
        ground.file("0002_bad.sql", "CREATE TABLE half (a int);\n\nCREATE TABL broken (a int);\n");
        let told = ground.exits(1, &["up"]);
        for part in ["0002_bad.sql", "line 3", "statement 2", "syntax error"] {
            assert!(told.contains(part), "no \"{part}\" in {told}");
        }
        ground.exits(9, &["status"]);
        assert_eq!(ground.ask("SELECT count(*) FROM schema_migrations WHERE state = 'applied'"), "1");
        ground.file("0002_bad.sql", "CREATE TABLE half (a int);\nCREATE TABLE mended (a int);\n");
        ground.exits(0, &["up"]);
        ground.exits(0, &["status"]);
    }
}

#[test]
fn the_server_s_own_hint_and_the_way_out_are_said() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    ground.file("0001_items.sql", "CREATE TABLE items (id int PRIMARY KEY, name text);\n");
    ground.exits(0, &["up"]);
    ground.file(
        "0002_wrong.sql",
        "ALTER TABLE items ADD COLUMN n int;\nUPDATE items\n   SET n = length(nam);\n",
    );
    let told = ground.exits(1, &["up"]);
    for part in ["0002_wrong.sql", "statement 2 on line 3", "\"nam\" does not exist", "items.name"] {
        assert!(told.contains(part), "no \"{part}\" in {told}");
    }
    // What needs to be alone, in a file with others: refused before anything is done, by the server and with the way out.
    ground.file(
        "0002_wrong.sql",
        "ALTER TABLE items ADD COLUMN n int;\nCREATE INDEX CONCURRENTLY i ON items (n);\n",
    );
    let told = ground.exits(1, &["up"]);
    for part in ["statement 2 on line 2", "cannot run inside a transaction block", "\"-- no-transaction\""] {
        assert!(told.contains(part), "no \"{part}\" in {told}");
    }
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 0";
    assert_eq!(ground.ask(columns), "2", "nothing of it stays");
    assert_eq!(
        ground.ask("SELECT state FROM schema_migrations WHERE version = 2"),
        "failed",
        "and it is on record"
    );
    ground.file("0002_wrong.sql", "ALTER TABLE items ADD COLUMN n int;\n");
    ground.file("0003_index.sql", "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON items (n);\n");
    ground.exits(0, &["up"]);
}

#[test]
fn a_failed_statement_of_many_is_mended_and_gone_on_with() {
    for ground in [Some(Ground::sqlite("")), Ground::postgres(15, "")].into_iter().flatten() {
        ground.file("0001_steps.sql", "-- no-transaction\nCREATE TABLE one (a int);\nINSERT INTO nowhere VALUES (1);\nCREATE TABLE three (a int);\n");
        let told = ground.exits(1, &["up"]);
        assert!(told.contains("statement 2 on line 3") && told.contains("resume"), "{told}");
        let told = ground.exits(9, &["status"]);
        assert!(told.contains("failed after 1 of its statements"), "{told}");
        // What is done must stay as it was.
        ground.file("0001_steps.sql", "-- no-transaction\nCREATE TABLE other (a int);\nINSERT INTO one VALUES (1);\nCREATE TABLE three (a int);\n");
        let told = ground.exits(1, &["resume"]);
        assert!(told.contains("statement 1 was edited"), "{told}");
        ground.file("0001_steps.sql", "-- no-transaction\nCREATE TABLE one (a int);\nINSERT INTO one VALUES (1);\nCREATE TABLE three (a int);\n");
        ground.exits(0, &["resume"]);
        assert_eq!(ground.ask("SELECT count(*) FROM one"), "1");
        ground.exits(0, &["status"]);
        let told = ground.exits(4, &["resume"]);
        assert!(told.contains("no migration is unfinished"), "{told}");
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    for ground in [Some(Ground::sqlite("")), Ground::postgres(15, "")].into_iter().flatten() {
        ground.file("0002_b.sql", "CREATE TABLE b (a int);");
        ground.file("0003_c.sql", "CREATE TABLE c (a int);");
        ground.exits(0, &["up"]);
        let judge = |what: &str| {
            for (code, args) in [(9, ["status"].as_slice()), (9, &["plan"]), (1, &["up"])] {
                let told = ground.exits(code, args);
                assert!(told.contains(what), "{args:?} does not say \"{what}\": {told}");
            }
        };
        ground.file("0001_a.sql", "CREATE TABLE a (a int);");
        judge("0001_a.sql is out of order");
        ground.exits(0, &["up", "--out-of-order"]);
        ground.file("0002_b.sql", "CREATE TABLE b (a int, more int);");
        judge("0002_b.sql was edited after it was applied");
        // A line's end is no edit.
        ground.file("0002_b.sql", "CREATE TABLE b (a int);  \r\n");
        ground.exits(0, &["status"]);
        ground.remove("0003_c.sql");
        judge("the file of version 3 (c) is missing");
        ground.file("0003_c.sql", "CREATE TABLE c (a int);");
        ground.file("3_again.sql", "SELECT 1;");
        judge("0003_c.sql and 3_again.sql have the same version 3");
        ground.remove("3_again.sql");
        ground.file("0004_latin.sql", b"SELECT 'caf\xE9';");
        judge("0004_latin.sql is not UTF-8");
        ground.file("0004_latin.sql", "-- nothing\n");
        judge("the file has no statement");
        ground.file("0004_latin.sql", "SELECT 'open;\n");
        judge("string that begins on line 1 does not end");
        ground.file("0004_latin.sql", "CREATE TABLE d (a int);\nCOMMIT;\n");
        judge("line 2 has COMMIT");
        ground.remove("0004_latin.sql");
        ground.exits(0, &["status"]);
    }
}

#[test]
fn the_way_back_is_known_before_anything_runs() {
    for ground in [Some(Ground::sqlite("")), Ground::postgres(15, "")].into_iter().flatten() {
        ground.file("0001_a.sql", "CREATE TABLE a (a int);");
        ground.file("0002_b.up.sql", "CREATE TABLE b (a int);");
        ground.file("0002_b.down.sql", "DROP TABLE b;");
        ground.exits(0, &["up"]);
        let told = ground.exits(1, &["down", "--to", "0", "--yes"]);
        assert!(told.contains("there is no down script for 1 (a); nothing was undone"), "{told}");
        assert_eq!(ground.ask("SELECT count(*) FROM b"), "0", "and so it is");
        ground.exits(3, &["down"]);
        ground.exits(0, &["down", "--yes"]);
        let told = ground.exits(9, &["status"]);
        assert!(told.contains("pending (undone)"), "{told}");
        ground.exits(0, &["up"]);
        // The file is gone; the history has the script.
        ground.remove("0002_b.down.sql");
        ground.exits(0, &["redo", "--yes"]);
        ground.exits(0, &["resolve", "2", "--rolled-back", "--reason", "dropped by hand", "--yes"]);
        ground.ask("DROP TABLE b");
        ground.exits(2, &["resolve", "2", "--applied", "--yes"]);
        ground.exits(0, &["up", "--to", "2"]);
        ground.exits(4, &["up", "--to", "77"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_writes_nothing() {
    let files = |ground: &Ground| {
        ground.file("0001_a.sql", "CREATE TABLE a (a int);");
        ground.exits(9, &["status"]);
        ground.exits(0, &["up"]);
        ground.file("0002_b.sql", "CREATE INDEX b ON a (a);");
    };
    let looks: [&[&str]; 4] = [&["status"], &["plan"], &["lint"], &["plan", "--json"]];
    let ground = Ground::sqlite("keep_sqlx = true");
    files(&ground);
    let before = std::fs::read(ground.path("shop.db")).unwrap();
    looks.iter().for_each(|look| drop(ground.run(look)));
    ground.exits(0, &["up", "--dry-run"]);
    assert_eq!(before, std::fs::read(ground.path("shop.db")).unwrap());

    let Some(ground) = Ground::postgres(15, "keep_sqlx = true") else { return };
    files(&ground);
    // Every transaction that writes anything at all takes a number.
    let digest = "SELECT pg_current_xact_id_if_assigned() IS NULL, pg_snapshot_xmax(pg_current_snapshot()), \
                  (SELECT string_agg(h::text, '') FROM schema_migrations h)";
    let before = ground.ask(digest);
    looks.iter().for_each(|look| drop(ground.run(look)));
    ground.exits(0, &["up", "--dry-run"]);
    assert_eq!(before, ground.ask(digest));
    // The judge can tell.
    ground.exits(0, &["up"]);
    assert_ne!(before, ground.ask(digest));
}
