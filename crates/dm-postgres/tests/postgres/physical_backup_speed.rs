//! How fast files are read. Figures, not a test: run by hand with `--release --ignored --nocapture`.

use std::time::{Duration, Instant};

use dm_core::Block;
use dm_testkit::postgres::{Options, Server};
use dm_testkit::require;
use futures::{StreamExt, TryStreamExt};

use crate::physical_backup_support::{Reading, engine, physical};
use crate::support::context;

/// Reads and drops all files of a session; gives bytes and time.
async fn drained(server: &Server, jobs: usize) -> (u64, Duration) {
    let engine = engine(server);
    let mut request = physical();
    request.jobs = jobs;
    let reading = Reading::begin(&engine, &request).await.expect("a beginning");
    let (session, ctx) = (reading.session(), context());
    let began = Instant::now();
    let bytes = futures::stream::iter(session.members().to_vec())
        .map(|spec| {
            let ctx = ctx.clone();
            async move {
                let blocks = session.read(&ctx, &spec).await.expect("a stream");
                blocks.try_fold(0, async |sum, block: Block| Ok(sum + block.length())).await.expect("blocks")
            }
        })
        .buffer_unordered(jobs)
        .fold(0, async |sum: u64, bytes| sum + bytes)
        .await;
    (bytes, began.elapsed())
}

fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_ascii_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[expect(clippy::print_stderr, reason = "figures for whoever asked for them")]
fn say(what: &str, bytes: u64, time: Duration) {
    let rate = bytes as f64 / time.as_secs_f64() / 1e6;
    eprintln!(
        "{what}: {} MB in {time:.2?}, {rate:.0} MB/s, at most {} MB resident",
        bytes >> 20,
        resident_megabytes()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn how_fast_files_are_read() {
    for major in [15, 18] {
        let server = require!(Server::private(major, &Options::physical(major)));
        server.pgbench_database("bench", 100).await.expect("pgbench");
        server.psql("CHECKPOINT").await.expect("a checkpoint");
        for _ in 0..3 {
            for jobs in [1, 2] {
                let (bytes, time) = drained(&server, jobs).await;
                say(&format!("PostgreSQL {major}, {jobs} connections"), bytes, time);
            }
            let began = Instant::now();
            let peer = server
                .program("pg_basebackup", "postgres")
                .args(["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .await
                .expect("pg_basebackup");
            assert!(peer.success());
            say("  pg_basebackup into nothing", server_bytes(&server).await, began.elapsed());
        }
    }
}

async fn server_bytes(server: &Server) -> u64 {
    let text = server.psql("SELECT sum(pg_database_size(oid)) FROM pg_database").await.expect("a size");
    text.parse().expect("a number")
}

/// A hundred thousand small files, in bounded memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn how_fast_a_hundred_thousand_files_are_read() {
    let options = Options::physical(15).with_setting("max_locks_per_transaction", "512");
    let server = require!(Server::private(15, &options));
    for batch in 0..50 {
        let tables = format!(
            "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE t_%s_%s (id int PRIMARY KEY)', {batch}, i);
               EXECUTE format('INSERT INTO t_%s_%s VALUES (1)', {batch}, i); END LOOP; END $$"
        );
        server.psql(&tables).await.expect("tables");
    }
    server.psql("CHECKPOINT").await.expect("a checkpoint");
    let before = resident_megabytes();
    for jobs in [1, 2] {
        let (bytes, time) = drained(&server, jobs).await;
        say(&format!("100,000 files, {jobs} connections, {before} MB before"), bytes, time);
    }
}
