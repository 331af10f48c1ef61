//! The table of locks, held against servers: each statement runs in a transaction, and `pg_locks` says what it took.
//!
//! Every predicted lock must be exactly the strongest one taken, every table that is locked against other changes must be
//! predicted, and what is predicted to be rewritten must have another file afterwards, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dm_lint::{Dialect, LockMode, effects};
use dm_testkit::postgres::Server;
use dm_testkit::require;

const SCHEMA: &str = "
    CREATE TABLE parents (id bigint PRIMARY KEY, name text);
    CREATE TABLE things (id bigint PRIMARY KEY, parent_id bigint REFERENCES parents, name varchar(20) NOT NULL, total int, other_id bigint);
    CREATE TABLE plain (id bigint NOT NULL, code text);
    CREATE UNIQUE INDEX plain_ready ON plain (id);
    CREATE INDEX things_total ON things (total);
    ALTER TABLE things ADD CONSTRAINT total_positive CHECK (total > 0) NOT VALID;
    ALTER TABLE plain ADD CONSTRAINT code_set CHECK (code IS NOT NULL);
    INSERT INTO parents VALUES (1, 'one');
    INSERT INTO things VALUES (1, 1, 'a', 1, 1);
    INSERT INTO plain VALUES (1, 'x');
    CREATE TABLE days (day date, n int) PARTITION BY RANGE (day);
    CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE days_2 (day date, n int);
    CREATE TABLE elders (id bigint NOT NULL, code text);
    CREATE TABLE kin (id bigint NOT NULL, code text);
    CREATE MATERIALIZED VIEW totals AS SELECT parent_id, count(*) AS n FROM things GROUP BY parent_id;
    CREATE UNIQUE INDEX totals_key ON totals (parent_id);
    CREATE VIEW seen AS SELECT 1 AS one;
    CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION touched();
    CREATE RULE quiet AS ON DELETE TO kin DO INSTEAD NOTHING;
";

/// One a line; those that cannot run inside a transaction are not here.
const STATEMENTS: &str = "
ALTER TABLE things ADD COLUMN note text
ALTER TABLE things ADD COLUMN note text NOT NULL DEFAULT 'x'
ALTER TABLE things ADD COLUMN seen timestamptz DEFAULT now()
ALTER TABLE things ADD COLUMN token uuid DEFAULT gen_random_uuid()
ALTER TABLE things ADD COLUMN number bigserial
ALTER TABLE things ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY
ALTER TABLE things ADD COLUMN twice int GENERATED ALWAYS AS (total * 2) STORED
ALTER TABLE things ADD COLUMN also_id bigint REFERENCES parents
ALTER TABLE things DROP COLUMN name
ALTER TABLE things ALTER COLUMN total SET NOT NULL
ALTER TABLE things ALTER COLUMN name DROP NOT NULL
ALTER TABLE things ALTER COLUMN total TYPE bigint
ALTER TABLE things ALTER COLUMN total SET DEFAULT 5
ALTER TABLE things ALTER COLUMN total SET STATISTICS 200
ALTER TABLE things ALTER COLUMN name SET STORAGE plain
ALTER TABLE things SET (fillfactor = 80)
ALTER TABLE things SET UNLOGGED
ALTER TABLE things RENAME TO stuff
ALTER TABLE things RENAME COLUMN total TO amount
ALTER TABLE things RENAME CONSTRAINT total_positive TO total_is_positive
ALTER TABLE things ADD CONSTRAINT name_short CHECK (length(name) < 30)
ALTER TABLE things ADD CONSTRAINT name_short CHECK (length(name) < 30) NOT VALID
ALTER TABLE things ADD CONSTRAINT other_fkey FOREIGN KEY (other_id) REFERENCES parents
ALTER TABLE things ADD CONSTRAINT other_fkey FOREIGN KEY (other_id) REFERENCES parents NOT VALID
ALTER TABLE things VALIDATE CONSTRAINT total_positive
ALTER TABLE things DROP CONSTRAINT total_positive
ALTER TABLE things ADD UNIQUE (name)
ALTER TABLE plain ADD PRIMARY KEY (id)
ALTER TABLE plain ADD CONSTRAINT plain_key PRIMARY KEY USING INDEX plain_ready
ALTER TABLE plain ALTER COLUMN code SET NOT NULL
ALTER TABLE plain ADD EXCLUDE USING btree (id WITH =)
ALTER TABLE things DISABLE TRIGGER touch
ALTER TABLE things ENABLE ROW LEVEL SECURITY
ALTER TABLE things REPLICA IDENTITY FULL
ALTER TABLE things CLUSTER ON things_pkey
ALTER TABLE kin DISABLE RULE quiet
ALTER TABLE kin INHERIT elders
ALTER TABLE days ATTACH PARTITION days_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
ALTER TABLE days DETACH PARTITION days_1
ALTER TABLE things ADD COLUMN a int, ALTER COLUMN total TYPE bigint
CREATE TABLE more (id bigint REFERENCES parents)
CREATE TABLE more (id bigint, FOREIGN KEY (id) REFERENCES parents)
CREATE TABLE days_3 PARTITION OF days FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')
CREATE TABLE more () INHERITS (plain)
CREATE INDEX ON things (name)
CREATE UNIQUE INDEX ON plain (code)
DROP INDEX things_total
REINDEX TABLE plain
DROP TABLE kin
DROP VIEW seen
TRUNCATE kin
UPDATE things SET total = 2
DELETE FROM plain
INSERT INTO plain VALUES (2, 'y')
REFRESH MATERIALIZED VIEW totals
REFRESH MATERIALIZED VIEW CONCURRENTLY totals
CLUSTER plain USING plain_ready
ANALYZE things
LOCK TABLE things IN SHARE MODE
LOCK things
CREATE TRIGGER again BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION touched()
DROP TRIGGER touch ON things
CREATE POLICY all_of_it ON things USING (true)
CREATE RULE loud AS ON DELETE TO plain DO INSTEAD NOTHING
COMMENT ON TABLE things IS 'x'
COMMENT ON COLUMN things.total IS 'x'
ALTER INDEX things_total RENAME TO things_amount
ALTER INDEX things_total SET TABLESPACE pg_default
";

const FILES: &str =
    "SELECT 'file ' || oid::regclass || ' ' || pg_catalog.pg_relation_filenode(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm')";
/// By number: a statement may have renamed or dropped what it locked.
const TAKEN: &str = "SELECT 'lock ' || relation::int8 || ' ' || mode FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation'";
const EXISTING: &str = "SELECT oid::int8 || ' ' || relname || ' ' || relkind::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace";

async fn agree(major: u32) {
    let server = require!(Server::shared(major));
    let database = server.database("locks").await.unwrap();
    database.psql(SCHEMA).await.unwrap();
    let existing = database.psql(EXISTING).await.unwrap();
    let existing: BTreeMap<&str, (&str, &str)> = existing
        .lines()
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [number, name, kind] => (number, (name, kind)),
            _ => panic!("{line}"),
        })
        .collect();
    let mut wrong = String::new();
    for statement in STATEMENTS.lines().filter(|l| !l.is_empty()) {
        let script = format!("BEGIN;\n{FILES};\nSELECT 'done';\n{statement};\n{TAKEN};\n{FILES};\nROLLBACK;");
        let said = database.psql(&script).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        let (before, after) = said.split_once("done").unwrap();
        // The earlier statements of the schema are what a history would know.
        let known = effects(Dialect::Postgres, &format!("{SCHEMA};\n{statement};"));
        let mut predicted: BTreeMap<&str, LockMode> = BTreeMap::new();
        let predictions = known.last().unwrap();
        predicted.extend(predictions.effects.iter().map(|e| (e.object.as_str(), e.lock)));
        let mut taken: BTreeMap<&str, LockMode> = BTreeMap::new();
        for line in after.lines().filter_map(|l| l.strip_prefix("lock ")) {
            let (number, mode) = line.split_once(' ').unwrap();
            let mode = LockMode::from_catalog(mode).unwrap();
            let Some((name, kind)) = existing.get(number) else { continue };
            // Indexes are locked along with their tables; a statement that is about one predicts it.
            if *kind != "i" || predicted.contains_key(name) {
                taken.entry(name).and_modify(|m| *m = (*m).max(mode)).or_insert(mode);
            }
        }
        for (object, lock) in &predicted {
            if taken.get(object) != Some(lock) {
                writeln!(wrong, "{statement}\n  {object}: predicted {lock:?}, taken {:?}", taken.get(object))
                    .unwrap();
            }
        }
        for (object, lock) in taken.iter().filter(|(_, l)| **l >= LockMode::ShareUpdateExclusive) {
            if !predicted.contains_key(object) {
                writeln!(wrong, "{statement}\n  {object}: taken {lock:?}, not predicted").unwrap();
            }
        }
        let files = |text: &str| -> BTreeMap<String, String> {
            text.lines()
                .filter_map(|l| l.strip_prefix("file ")?.split_once(' '))
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .collect()
        };
        let (before, after) = (files(before), files(after));
        for (object, file) in &before {
            let Some(now) = after.get(object) else { continue };
            let rewritten = predictions.effects.iter().any(|e| e.object == *object && e.rewrites);
            let emptied = statement.starts_with("TRUNCATE");
            if (file != now) != (rewritten || emptied && object == "kin") {
                writeln!(wrong, "{statement}\n  {object}: rewritten {}, predicted {rewritten}", file != now)
                    .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "PostgreSQL {major}:\n{wrong}");
}

#[tokio::test]
async fn postgres_15_takes_the_locks_that_are_predicted() {
    agree(15).await;
}

#[tokio::test]
async fn postgres_18_takes_the_locks_that_are_predicted() {
    agree(18).await;
}
