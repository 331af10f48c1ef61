//! `dm-migrate drift`, `baseline --from schema`, `new --from-diff`, `plan --trace`, `lint` as processes, and that none of those that
//! only look writes anything.

use serde_json::Value;

use crate::migrating_place::Ground;

fn shop(ground: &Ground) {
    ground.file("0001_shop.sql", "CREATE TABLE items (id integer PRIMARY KEY, name text NOT NULL);\nCREATE INDEX items_name ON items (name);\n");
    ground.exits(0, &["up"]);
}

fn both(test: impl Fn(&Ground)) {
    test(&Ground::sqlite(""));
    for major in [15, 18] {
        if let Some(ground) = Ground::postgres(major, "") {
            test(&ground);
        }
    }
}

/// Every object of the live database with its file, and the history; for SQLite the file itself.
fn digest(ground: &Ground) -> String {
    match &ground.server {
        Some(_) => ground.ask(
            "SELECT md5(string_agg(concat_ws(' ', oid, relname, relfilenode, relnatts), ',' ORDER BY oid)) \
             || (SELECT md5(string_agg(h::text, ',')) FROM schema_migrations h) \
             || (SELECT count(*) FROM pg_database) FROM pg_class",
        ),
        None => format!("{:?}", std::fs::read(ground.path("shop.db")).unwrap()),
    }
}

fn json(ground: &Ground, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut all = arguments.to_vec();
    all.push("--json");
    let output = ground.command(&all).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", crate::place::said(&output)));
    (output.status.code(), value)
}

#[test]
fn drift_is_found_and_settled_by_a_written_migration() {
    both(|ground| {
        shop(ground);
        assert_eq!(json(ground, &["drift"]).0, Some(0), "a clean schema has drifted");
        ground.ask("CREATE TABLE stray (id integer PRIMARY KEY)");
        let (code, report) = json(ground, &["drift"]);
        assert_eq!(code, Some(9));
        let changes = report["drift"]["changes"].as_array().unwrap();
        assert_eq!(changes.len(), 1, "{changes:#?}");
        assert_eq!(changes[0]["change"], "added");
        let (code, written) = json(ground, &["new", "take in the stray", "--from-diff"]);
        assert_eq!(code, Some(0), "{written}");
        ground.ask("DROP TABLE stray");
        ground.exits(0, &["up"]);
        assert_eq!(json(ground, &["drift"]).0, Some(0));
        ground.exits(0, &["down", "--yes"]);
        assert_eq!(json(ground, &["drift"]).0, Some(0));
    });
}

#[test]
fn a_schema_without_a_history_gets_one() {
    both(|ground| {
        ground.ask("CREATE TABLE items (id integer PRIMARY KEY, name text DEFAULT 'x')");
        ground.ask("CREATE VIEW named AS SELECT id FROM items WHERE name <> 'x'");
        ground.exits(0, &["baseline", "--from", "schema"]);
        assert_eq!(json(ground, &["drift"]).0, Some(0));
        assert_eq!(json(ground, &["status"]).0, Some(0));
        let (code, _) = json(ground, &["baseline", "--from", "schema"]);
        assert_ne!(code, Some(0), "a second first migration");
    });
}

#[test]
fn looking_writes_nothing() {
    both(|ground| {
        shop(ground);
        ground.file(
            "0002_more.sql",
            "ALTER TABLE items ADD COLUMN price integer;\nCREATE INDEX items_price ON items (price);\n",
        );
        let before = digest(ground);
        assert_eq!(json(ground, &["drift"]).0, Some(0));
        assert_eq!(json(ground, &["plan", "--trace"]).0, Some(9));
        json(ground, &["lint"]);
        assert_eq!(digest(ground), before);
        // The judge can tell.
        ground.exits(0, &["up"]);
        assert_ne!(digest(ground), before);
    });
}

#[test]
fn a_plan_names_the_locks_and_the_trace_those_really_taken() {
    for major in [15, 18] {
        let Some(ground) = Ground::postgres(major, "") else { return };
        shop(&ground);
        ground.file("0002_more.sql", "ALTER TABLE items ALTER COLUMN id TYPE bigint;\n");
        let (code, plan) = json(&ground, &["plan", "--trace"]);
        assert_eq!(code, Some(9));
        let planned = &plan["locks"][0]["effects"][0];
        assert_eq!(
            (planned["object"].as_str(), planned["lock"].as_str(), planned["rewrites"].as_bool()),
            (Some("items"), Some("access_exclusive"), Some(true))
        );
        let taken = plan["traced"][0]["statements"][0]["locks"].as_array().unwrap();
        let items = taken.iter().find(|l| l["object"] == "items").unwrap();
        assert_eq!(
            (items["mode"].as_str(), items["rewritten"].as_bool()),
            (Some("ACCESS EXCLUSIVE"), Some(true))
        );
    }
}

#[test]
fn a_shadow_that_is_the_live_database_is_refused_and_nothing_is_lost() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    shop(&ground);
    ground.ask("INSERT INTO items VALUES (1, 'kept')");
    let before = digest(&ground);
    for url in [ground.url(), ground.url().replace("127.0.0.1", "localhost")] {
        for args in [["drift"].as_slice(), &["plan", "--trace"], &["new", "x", "--from-diff"]] {
            let ran = ground.command(args).env("SHADOW_DATABASE_URL", &url).output().unwrap();
            let told = crate::place::said(&ran);
            assert_eq!(ran.status.code(), Some(2), "{args:?}: {told}");
            assert!(told.contains("is the live database") && told.contains("hint"), "{args:?}: {told}");
        }
    }
    assert_eq!(digest(&ground), before);
    assert_eq!(ground.ask("SELECT name FROM items"), "kept");
}

#[test]
fn an_accepted_finding_of_a_rule_that_is_none_is_told() {
    both(|ground| {
        shop(ground);
        ground.file("0002_drop.sql", "-- dm:ignore drop-tabel: it is empty\nDROP TABLE items;\n");
        let (code, lint) = json(ground, &["lint"]);
        assert_eq!(code, Some(9));
        let rules: Vec<&str> =
            lint["findings"].as_array().unwrap().iter().filter_map(|f| f["rule"].as_str()).collect();
        assert!(rules.contains(&"unknown-ignore") && rules.contains(&"drop-table"), "{rules:?}");
        assert!(ground.exits(9, &["lint"]).contains("drop-table"), "the nearest is named");
        ground.file("0002_drop.sql", "-- dm:ignore drop-table: it is empty\nDROP TABLE items;\n");
        ground.exits(0, &["lint"]);
    });
}

#[test]
fn a_plan_says_of_which_tables_and_how_it_knows() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    shop(&ground);
    ground.ask("CREATE TABLE notes (id int)");
    ground
        .file("0002_more.sql", "UPDATE items SET name = 'notes';\nDO $$ BEGIN DELETE FROM items; END $$;\n");
    let (_, plan) = json(&ground, &["plan"]);
    let statements = plan["plan"]["migrations"][0]["statements"].as_array().unwrap();
    let tables = |i: usize| {
        let names = statements[i]["tables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>().join(" "), statements[i]["tables_by_words"].as_bool().unwrap())
    };
    assert_eq!(tables(0), ("items".to_owned(), false), "a word in a string is no table");
    assert_eq!(tables(1), ("items".to_owned(), true));
    assert!(ground.exits(9, &["plan"]).contains("(named by a word)"));
}
