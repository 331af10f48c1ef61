//! `kill -9` of whoever takes recorded changes over into the trail, and of whoever seals it: no change is lost, none is there
//! twice, and the trail holds. The judges are the databases' own clients.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::migrating_place::Ground;
use crate::place::{Running, said};

const DRAIN: [&str; 3] = ["audit", "capture", "drain"];
/// Writers at once, and the rows that each writes, a transaction each.
const WRITERS: u64 = 3;

/// The table whose changes are recorded, and how its rows are seen in the trail.
struct Shop {
    ground: Ground,
    rows: u64,
}

impl Shop {
    fn new(ground: Ground) -> Self {
        let shop = Self { ground, rows: dm_testkit::count(400, 4000) };
        shop.ground.ask("CREATE TABLE orders (id bigint PRIMARY KEY, state text)");
        if shop.ground.server.is_none() {
            shop.ground.ask("PRAGMA journal_mode = WAL");
        }
        shop.succeeds(&["audit", "capture", "install", "orders"]);
        shop
    }

    fn dm(&self, args: &[&str]) -> Command {
        self.ground.program(env!("CARGO_BIN_EXE_dm"), args)
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let ran = self.dm(args).output().unwrap();
        assert!(ran.status.success(), "dm {}: {}", args.join(" "), said(&ran));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Takes over what waits; gives the report.
    #[track_caller]
    fn drain(&self) -> Value {
        let said: Value = serde_json::from_str(&self.succeeds(&[&DRAIN[..], &["--json"]].concat())).unwrap();
        said["report"].clone()
    }

    fn start(&self, args: &[&str]) -> Running {
        Running::start(self.dm(args), self.ground.path("log"))
    }

    /// What the trail holds, as the store's own engine says it.
    fn trail(&self, sql: &str) -> String {
        let store = self.ground.path(".dm/state.db");
        let ran =
            Command::new("sqlite3").args(["-cmd", ".timeout 10000"]).arg(store).arg(sql).output().unwrap();
        assert!(ran.status.success(), "{sql}: {}", said(&ran));
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    fn taken(&self) -> u64 {
        self.trail("SELECT count(*) FROM audit_leaves WHERE action = 'change:insert'").parse().unwrap()
    }

    fn outbox(&self) -> String {
        let table = if self.ground.server.is_some() { "dm_capture.changes" } else { "dm_capture_changes" };
        self.ground.ask(&format!("SELECT count(*) FROM {table}"))
    }

    /// A client that writes rows of its own, each in a transaction of its own.
    fn writer(&self, number: u64) -> Child {
        let mut script = String::new();
        for i in 0..self.rows {
            script.push_str(&format!("INSERT INTO orders VALUES ({}, 'new');\n", number * 1_000_000 + i));
        }
        let path = self.ground.path(&format!("writer-{number}.sql"));
        std::fs::write(&path, script).unwrap();
        self.client(Stdio::from(std::fs::File::open(path).unwrap()))
    }

    /// The database's own client, which does what its standard input says.
    fn client(&self, input: Stdio) -> Child {
        let mut command = match &self.ground.server {
            Some(server) => {
                let mut command = Command::new(server.bin_dir().join("psql"));
                command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &self.ground.url()]);
                command
            }
            None => {
                let mut command = Command::new("sqlite3");
                command.args(["-bail", "-cmd", ".timeout 30000"]).arg(self.ground.path("shop.db"));
                command
            }
        };
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Every row that is in the table is in the trail, once, and the trail holds.
    fn all_is_there_once(&self) {
        assert_eq!(self.outbox(), "0", "the outbox is empty");
        let truth = self.ground.ask("SELECT count(*), sum(id) FROM orders");
        let told = self.trail(
            "SELECT count(*), sum(json_extract(details, '$.after.id')) FROM audit_leaves WHERE action = 'change:insert'",
        );
        assert_eq!(told, truth);
        let different = self.trail(
            "SELECT count(DISTINCT json_extract(details, '$.after.id')) FROM audit_leaves WHERE action = 'change:insert'",
        );
        assert_eq!(Some(different.as_str()), truth.split('|').next(), "none is there twice");
        self.succeeds(&["audit", "verify"]);
        let gaps = self.trail("SELECT count(*) = max(seq) AND min(seq) = 1 FROM audit_seals");
        assert_eq!(gaps, "1", "the chain has no gap");
        let unsealed = self.trail("SELECT count(*) FROM audit_pending");
        // The end of the verification is itself a line that waits for its seal.
        assert!(unsealed.parse::<u64>().unwrap() <= 2, "{unsealed} wait for their seal");
    }
}

/// Killed between the trail and the outbox: everything is in both, and the next one knows it.
fn between_the_two(shop: &Shop, hold: impl FnOnce(&Shop) -> Child, release: impl FnOnce(&Shop)) {
    let ids = (1..=7).map(|i| format!("({i}, 'early')")).collect::<Vec<_>>().join(", ");
    shop.ground.ask(&format!("INSERT INTO orders VALUES {ids}"));
    let mut holder = hold(shop);
    // The trail is durable, and the outbox cannot be emptied: somebody holds it.
    let killed = shop.start(&DRAIN).kill_when("the changes to be in the trail", || shop.taken() == 7);
    assert!(killed, "it cannot have ended");
    release(shop);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(shop.outbox(), "7", "nothing was confirmed");
    let report = shop.drain();
    assert_eq!((&report["taken_over"], &report["known"]), (&0.into(), &7.into()), "{report}");
    shop.all_is_there_once();
}

/// Killed at many moments of its run while others write; then the sealer, and then once more to the end.
fn under_writers(shop: &Shop) {
    let began = Instant::now();
    shop.drain();
    let whole = began.elapsed().max(Duration::from_millis(50));
    let mut writers: Vec<_> = (1..=WRITERS).map(|number| shop.writer(number)).collect();
    let written = |writers: &mut Vec<Child>| writers.iter_mut().all(|w| w.try_wait().unwrap().is_some());
    let (mut killed, mut turn) = (0, 0);
    while turn < 12 || (turn < 200 && !written(&mut writers)) {
        // Spread over a run and a bit more, in no order.
        let part = turn * 37 % 120;
        let command: &[&str] = if turn % 4 == 3 { &["audit", "checkpoint"] } else { &DRAIN };
        let began = Instant::now();
        let moment = || began.elapsed() >= whole * part / 100;
        killed += u32::from(shop.start(command).kill_when("the moment", moment));
        turn += 1;
    }
    for writer in writers {
        let ended = writer.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", said(&ended));
    }
    assert!(killed >= 6, "only {killed} of {turn} were killed");
    // The lease of a sealer that was killed runs out by itself: 30 s, which nobody waits for here.
    shop.trail("UPDATE leases SET expires_at = 0 WHERE name = 'audit-sealer'");
    shop.drain();
    let rows: u64 = shop.ground.ask("SELECT count(*) FROM orders").parse().unwrap();
    assert_eq!(rows, 7 + WRITERS * shop.rows);
    shop.all_is_there_once();
}

#[test]
fn a_killed_drain_of_postgres_loses_nothing_and_doubles_nothing() {
    let Some(ground) = Ground::postgres(15, "") else { return };
    let shop = Shop::new(ground);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM dm_capture%'";
    let hold = |shop: &Shop| {
        let path = shop.ground.path("hold.sql");
        std::fs::write(&path, "BEGIN; LOCK TABLE dm_capture.changes IN SHARE MODE; SELECT pg_sleep(600);\n")
            .unwrap();
        let holder = shop.client(Stdio::from(std::fs::File::open(path).unwrap()));
        dm_testkit::wait_until("the lock", || {
            shop.ground.ask("SELECT count(*) FROM pg_locks WHERE relation = 'dm_capture.changes'::regclass AND mode = 'ShareLock' AND granted") == "1"
        });
        holder
    };
    let release = |shop: &Shop| {
        // The dead program's session must not go on without it.
        dm_testkit::wait_until("the dead program's sessions to end", || {
            shop.ground.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'DELETE FROM dm_capture%' AND pid <> pg_backend_pid()");
            shop.ground.ask(waits) == "0"
        });
        shop.ground.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    };
    between_the_two(&shop, hold, release);
    under_writers(&shop);
}

#[test]
fn a_killed_drain_of_sqlite_loses_nothing_and_doubles_nothing() {
    let shop = Shop::new(Ground::sqlite(""));
    let hold = |shop: &Shop| {
        use std::io::Write;
        let mut holder = shop.client(Stdio::piped());
        let marker = shop.ground.path("held");
        let script = format!("BEGIN IMMEDIATE;\n.shell touch '{}'\n", marker.display());
        // Its input stays open, and its transaction with it.
        holder.stdin.as_mut().unwrap().write_all(script.as_bytes()).unwrap();
        dm_testkit::wait_until("the lock", || marker.exists());
        holder
    };
    between_the_two(&shop, hold, |_| {});
    under_writers(&shop);
}
