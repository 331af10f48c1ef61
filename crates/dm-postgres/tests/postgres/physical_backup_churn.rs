//! Backups of a cluster that changes all the while, in every way in which its files can.

use std::time::Duration;

use dm_testkit::postgres::{Churn, Options, Place, Server, StopMode};
use dm_testkit::require;

use crate::physical_backup_support::{Copied, Reading, engine, judged, physical, started, write_out};

/// The original's tablespaces out of the way of a copy that replays their making, which names where the original has them.
fn hide_tablespaces(churn: &Churn<'_>, aside: &Place, round: usize) {
    for entry in std::fs::read_dir(churn.tablespaces().path()).expect("tablespaces") {
        let path = entry.expect("a tablespace").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("space_") {
            std::fs::rename(&path, aside.join(&format!("{name}.{round}"))).expect("out of the way");
            churn.tablespaces().folder(&name).expect("an empty one");
        }
    }
}

/// A full backup and two that build on it, under churn and pgbench; each starts and is what the original was at its end.
async fn a_chain_under_churn(seed: u64) {
    let major = [15, 18, 17, 16][usize::try_from(seed % 4).expect("less than four")];
    let mut options = Options::physical(major);
    if seed.is_multiple_of(3) {
        options = options.with_setting("summarize_wal", "off");
        options.settings.retain(|(name, _)| name != "summarize_wal" || major >= 17);
    }
    let server = require!(Server::private(major, &options));
    let (place, aside) = (require!(Place::new("churn")), require!(Place::new("aside")));
    let mut churn = Churn::begin(&server, seed).await.expect("churn");
    server.pgbench_database("bench", 1).await.expect("pgbench");
    let engine = engine(&server);
    let mut backups: Vec<(Copied, _)> = Vec::new();
    for _ in 0..3 {
        churn.run(15).await.expect("churn");
        let load = server.load("bench", 2, Duration::from_secs(120)).expect("a load");
        let base = backups.last().map(|(backup, _)| backup);
        let request = base.map_or_else(physical, Copied::next);
        let mut reading = Reading::begin(&engine, &request).await.expect("a beginning");
        churn.while_backing_up(true);
        let (files, changes) = tokio::join!(reading.files(), churn.run(12));
        changes.expect("churn");
        churn.while_backing_up(false);
        files.unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        load.stop().await.expect("the load ends");
        let idle = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'bench')";
        server.until("the load is gone", idle).await.expect("nobody works");
        let truth = server.fingerprint().await.expect("sums");
        let backup = reading.end(base).await.unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        let told = backup.summary.warnings.iter().find(|w| !w.contains("made or moved during the backup"));
        assert_eq!(told, None, "seed {seed}");
        backups.push((backup, truth));
    }
    server.stop(StopMode::Fast).expect("a stop");
    for (round, (backup, truth)) in backups.iter().enumerate().rev() {
        hide_tablespaces(&churn, &aside, round);
        let copy = started(major, &write_out(backup, &place, &format!("copy{round}")), &server).await;
        let told = || {
            format!(
                "seed {seed}, PostgreSQL {major}, backup {round} by {:?}\n{}\n{}",
                backup.changes_by(),
                churn.history().join("\n"),
                copy.log_tail()
            )
        };
        let sums = copy.fingerprint().await.unwrap_or_else(|e| panic!("{e}: {}", told()));
        let differences = sums.differences(truth);
        assert!(differences.is_empty(), "{differences:?}: {}", told());
        judged(copy).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_survive_churn() {
    for seed in dm_testkit::seeds(2, 200) {
        Box::pin(a_chain_under_churn(seed)).await;
    }
}
