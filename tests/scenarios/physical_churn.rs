//! Physical backups of PostgreSQL while the cluster changes in every way that moves, makes and removes its files.
//!
//! Every backup of a run restores, starts and passes judges that know nothing of ours: `pg_checksums`, `pg_amcheck`,
//! counts by index-only scans (which believe the visibility map), row sums, and an incremental backup's files compared
//! page by page with a full one's of the same quiet moment. Then the log is replayed to a point behind them.
//!
//! `scripts/test --seeds N` tries N seeds on each major, `--full` seventy; the seed is said when one fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_manager::{
    BackupId, BackupKind, BackupMode, BackupOptions, CheckDepth, DataManager, RecoveryPoint, RestoreOptions,
    ShipLogOptions,
};
use dm_testkit::postgres::{Churn, Fingerprint, Options, Place as Folders, Server, StopMode, pages};
use dm_testkit::{Failure, require, seeds};

use crate::support::Place;

/// A server, and our backups of it.
struct Story {
    server: Server,
    dm: DataManager,
    folders: Folders,
    _state: tempfile::TempDir,
    restored: u32,
}

impl Story {
    fn begin(server: Server, folders: Folders) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut place = Place::folder(&state.path().join("backups"));
        place.bin_dir = Some(server.bin_dir().to_owned());
        let dm = place.manager(&server.url("postgres"), state.path());
        Self { server, dm, folders, _state: state, restored: 0 }
    }

    async fn back_up(&self, kind: BackupKind) -> BackupId {
        let options = BackupOptions {
            mode: Some(BackupMode::Physical),
            kind: Some(kind),
            jobs: Some(2),
            skip_verify: true,
            ..BackupOptions::default()
        };
        let report = Box::pin(self.dm.backup().run(&self.dm.context(), &options)).await;
        let backup = report.unwrap_or_else(|error| panic!("{kind} backup: {error:?}")).backup;
        assert_eq!(backup.kind, kind, "what was asked for is what was made");
        backup.id
    }

    /// Ships what there is of the log.
    async fn ship(&self) {
        let once = ShipLogOptions { once: true, ..ShipLogOptions::default() };
        let report = Box::pin(self.dm.logs().ship(&self.dm.context(), &once)).await.expect("shipping");
        assert!(report.gaps.is_empty(), "{report:?}");
    }

    /// Writes a backup's files into a new data directory; nothing is started.
    async fn restore(&mut self, backup: &BackupId) -> PathBuf {
        self.restore_until(backup, RecoveryPoint::Backup).await
    }

    /// The same, and replays the log up to a point where one is asked for.
    async fn restore_until(&mut self, backup: &BackupId, until: RecoveryPoint) -> PathBuf {
        self.restored += 1;
        let to = self.folders.folder(&format!("restored_{}", self.restored)).unwrap().join("data");
        let checks = match until {
            RecoveryPoint::Backup => CheckDepth::None,
            _ => CheckDepth::Standard,
        };
        let options = RestoreOptions {
            which: backup.to_string(),
            mode: Some(BackupMode::Physical),
            to: Some(to.display().to_string()),
            until,
            checks: Some(checks),
            jobs: Some(2),
            ..RestoreOptions::default()
        };
        let plan = Box::pin(self.dm.plan_restore(&self.dm.context(), &options)).await.expect("a plan");
        Box::pin(self.dm.apply_restore(&self.dm.context(), plan)).await.expect("a restore");
        to
    }

    /// Starts what was restored and asks every judge; gives its row sums.
    async fn judge(&self, data_dir: &Path) -> Fingerprint {
        self.ask(data_dir).await.unwrap_or_else(|Failure(said)| panic!("{}: {said}", data_dir.display()))
    }

    async fn ask(&self, data_dir: &Path) -> Result<Fingerprint, Failure> {
        let quiet = Options::default().with_setting("autovacuum", "off");
        let copy = Server::on_directory(self.server.major(), data_dir, self.server.password(), &quiet)
            .map_err(|error| Failure(error.to_string()))?;
        copy.until_recovered().await?;
        let counted = copy.index_only_counts().await?;
        assert!(counted > 10, "too little was counted: {counted}");
        let sums = copy.fingerprint().await?;
        copy.amcheck().await?;
        copy.stop(StopMode::Fast)?;
        copy.install().checksums(data_dir).await?;
        Ok(sums)
    }
}

async fn survives_churn(major: u32, seed: u64) {
    let options = Options::physical(major).with_setting("autovacuum_naptime", "1s");
    let server = require!(Server::private(major, &options));
    let mut story = Story::begin(server, require!(Folders::new("churn")));
    story.server.pgbench_database("bench", 1).await.unwrap();
    let history = Box::pin(under_churn(&mut story, seed)).await;
    assert!(history.len() > 50, "{history:#?}");
    story.dm.close().await;
}

/// Backups during changes, then two of the same quiet moment, then more changes of which the log tells.
async fn under_churn(story: &mut Story, seed: u64) -> Vec<String> {
    let mut backups = Vec::new();
    let history;
    let (truth, later);
    {
        let mut churn = Churn::begin(&story.server, seed).await.unwrap();
        churn.run(10).await.unwrap();
        churn.while_backing_up(true);
        for kind in
            [BackupKind::Full, BackupKind::Incremental, BackupKind::Differential, BackupKind::Incremental]
        {
            let load = story.server.load("bench", 2, Duration::from_secs(120)).unwrap();
            let (changed, backup) = tokio::join!(churn.run(12), Box::pin(story.back_up(kind)));
            changed.unwrap();
            backups.push(backup);
            load.stop().await.unwrap();
            churn.while_backing_up(false);
            churn.run(4).await.unwrap();
            churn.while_backing_up(true);
        }
        story.server.psql("ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf()").await.unwrap();
        no_vacuum_runs(&story.server).await;
        story.server.read_everything().await.unwrap();
        truth = story.server.fingerprint().await.unwrap();
        story.ship().await;
        backups.push(story.back_up(BackupKind::Incremental).await);
        backups.push(story.back_up(BackupKind::Full).await);
        churn.while_backing_up(true);
        let load = story.server.load("bench", 2, Duration::from_secs(120)).unwrap();
        churn.run(8).await.unwrap();
        load.stop().await.unwrap();
        let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'";
        story.server.until("the load's sessions to end", gone).await.unwrap();
        later = story.server.fingerprint().await.unwrap();
        story.server.psql("SELECT pg_create_restore_point('later')").await.unwrap();
        churn.run(4).await.unwrap();
        story.ship().await;
        history = churn.history().to_vec();
    }

    let mut quiet = Vec::new();
    for (number, backup) in backups.iter().enumerate() {
        let data_dir = story.restore(backup).await;
        if number + 2 >= backups.len() {
            quiet.push(data_dir);
        } else if let Err(Failure(said)) = story.ask(&data_dir).await {
            panic!("backup {} of {}: {said}\n{history:#?}", number + 1, backups.len());
        }
    }
    let differences = pages::compare(&quiet[0], &quiet[1]).unwrap();
    assert!(differences.is_empty(), "incremental and full differ: {}", pages::describe(&differences));
    for data_dir in &quiet {
        let differences = story.judge(data_dir).await.differences(&truth);
        assert!(differences.is_empty(), "restored and source differ: {differences:#?}");
    }
    let until = RecoveryPoint::Name("later".to_owned());
    let data_dir = story.restore_until(&backups[backups.len() - 2], until).await;
    let differences = story.judge(&data_dir).await.differences(&later);
    assert!(differences.is_empty(), "restored by the log and source differ: {differences:#?}\n{history:#?}");
    history
}

/// A vacuum that was under way when autovacuum was switched off still changes pages.
async fn no_vacuum_runs(server: &Server) {
    server
        .until(
            "autovacuum to end",
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'",
        )
        .await
        .unwrap();
}

async fn seeds_on(major: u32) {
    for seed in seeds(1, 70) {
        // Said before, so that the output of a failed test ends with the seed that failed.
        #[expect(clippy::print_stderr, reason = "the seed has to be seen when the test fails")]
        {
            eprintln!("PostgreSQL {major}, seed {seed} (DM_TEST_SEED={seed} begins here)");
        }
        Box::pin(survives_churn(major, seed)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15_under_churn() {
    seeds_on(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_17_under_churn() {
    seeds_on(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_under_churn() {
    seeds_on(18).await;
}

/// What clears a bit of the visibility map is not in the WAL summaries. The stock incremental backup of 18.4 restores the
/// old map, and an index-only scan then counts deleted rows; ours restores what a full one does.
#[tokio::test(flavor = "multi_thread")]
async fn visibility_maps_of_an_incremental_are_right_where_the_stock_one_is_not() {
    let server = require!(Server::private(18, &Options::physical(18).with_setting("autovacuum", "off")));
    let mut story = Story::begin(server, require!(Folders::new("stock")));
    story
        .server
        .psql(
            "CREATE TABLE t (id int PRIMARY KEY, word text);
             INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100000) i;
             VACUUM (FREEZE) t",
        )
        .await
        .unwrap();
    story.back_up(BackupKind::Full).await;
    let (base, increment, stock) =
        (story.folders.join("base"), story.folders.join("increment"), story.folders.join("stock"));
    story.server.basebackup(&base, &[]).await.unwrap();
    story.server.psql("DELETE FROM t WHERE id % 1000 = 0").await.unwrap();
    story.server.read_everything().await.unwrap();
    let ours = story.back_up(BackupKind::Incremental).await;
    let manifest = format!("--incremental={}", base.join("backup_manifest").display());
    story.server.basebackup(&increment, &[&manifest]).await.unwrap();
    let full = story.back_up(BackupKind::Full).await;
    story.server.install().combine(&[&base, &increment], &stock).await.unwrap();

    let (ours, full) = (story.restore(&ours).await, story.restore(&full).await);
    let differences = pages::compare(&ours, &full).unwrap();
    assert!(differences.is_empty(), "ours differs from a full backup: {}", pages::describe(&differences));
    // Everything but the maps is the same in the stock one.
    let differences = pages::compare(&stock, &full).unwrap();
    assert!(differences.iter().all(|d| d.is_fork("vm")), "{}", pages::describe(&differences));

    story.judge(&ours).await;
    if story.server.psql("SHOW server_version_num").await.unwrap() == "180004" {
        let copy = Server::on_directory(
            18,
            &stock,
            story.server.password(),
            &Options::default().with_setting("autovacuum", "off"),
        )
        .unwrap();
        copy.until_recovered().await.unwrap();
        let wrong = copy.index_only_counts().await.unwrap_err();
        assert!(wrong.0.contains("public.t: 100000 by the index, 99900 in the table"), "{wrong}");
    }
    story.dm.close().await;
}
