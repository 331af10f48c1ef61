//! Every operation of the facade leaves its records: of success, of failure, of denial.
//!
//! The list is the facade's own, and the match below does not compile until it knows a new one.

use std::path::Path;
use std::time::Duration;

use data_manager::audit_trail::LogFilter;
use data_manager::backup::ExportFormat;
use data_manager::repository::{CopyOptions, Identity, RewrapRequest, VerifyLevel};
use data_manager::{
    Actor, AuditOutcome, AuditVerifyOptions, BackfillPace, BackfillRequest, BackupKind, BackupOptions,
    CaptureRequest, DataManager, Direction, DrainOptions, DrillOptions, EngineId, ErrorKind, FetchLogOptions,
    ForeignTool, MigrateOptions, MigrationSource, OpContext, OperationKind, Page, Period, PushLogOptions,
    Resolution, RestoreOptions, Result, ShipLogOptions, Statement, TableName,
};
use dm_testkit::postgres::{Options, Server};
use dm_testkit::require;

use crate::support::execute;

struct World {
    folder: tempfile::TempDir,
    dm: DataManager,
    shop: EngineId,
    pg: EngineId,
}

impl World {
    async fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut pg =
            data_manager::config::EngineConfig::for_url(data_manager::Secret::new(server.url("postgres")));
        pg.bin_dir = Some(server.bin_dir().to_owned());
        let owner = Identity::generate();
        let dm = DataManager::builder()
            .engine("main", format!("sqlite://{}?mode=rwc", at("shop.db")))
            .unwrap()
            .engine_with("pg", pg)
            .unwrap()
            .repository(at("backups"))
            .second_place("far", at("far"))
            .encrypt_to([owner.recipient()], Identity::generate())
            .identity(owner)
            .state(at("state.db"))
            .build()
            .unwrap();
        execute(&dm, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)").await;
        execute(&dm, "INSERT INTO users (name) VALUES ('Ada')").await;
        let (shop, pg) = (EngineId::new("main").unwrap(), EngineId::new("pg").unwrap());
        let world = Self { folder, dm, shop, pg };
        for _ in 0..2 {
            world.backup().await;
        }
        world
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn admin(&self) -> OpContext {
        self.dm.context()
    }

    /// A folder with a migration that goes both ways.
    fn files(&self, name: &str) -> std::path::PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1_a.up.sql"), "CREATE TABLE IF NOT EXISTS a (a INTEGER);").unwrap();
        if name == "migrations" {
            std::fs::write(folder.join("1_a.down.sql"), "DROP TABLE a;").unwrap();
        }
        folder
    }

    /// Makes a full backup and gives its id.
    async fn backup(&self) -> String {
        let options = BackupOptions {
            engine: Some(self.shop.clone()),
            kind: Some(BackupKind::Full),
            ..BackupOptions::default()
        };
        self.dm.backup().run(&self.admin(), &options).await.unwrap().backup.id.to_string()
    }

    fn restore_to(&self, name: &str) -> RestoreOptions {
        RestoreOptions {
            engine: Some(self.shop.clone()),
            to: Some(self.path(name).display().to_string()),
            ..RestoreOptions::default()
        }
    }

    /// An event of the trail that has details, is sealed, and was not erased.
    async fn some_event(&self) -> String {
        self.dm.audit().verify(&self.admin(), &AuditVerifyOptions::default()).await.unwrap();
        let filter = LogFilter { action_prefix: Some("query:execute".into()), ..LogFilter::default() };
        let events = self.dm.audit().log(&self.admin(), &filter, &Page::default()).await.unwrap();
        let event = events.iter().find(|e| e.seq.is_some() && !e.details.is_null()).unwrap();
        event.event_id.to_string()
    }
}

/// Does one of each, by whom and until when the context says. What it needs is made by somebody who may.
async fn call(kind: OperationKind, world: &World, ctx: &OpContext, name: &str) -> Result<()> {
    use OperationKind as K;
    let (dm, admin) = (&world.dm, &world.admin());
    let (audit, backup, capture, logs) = (dm.audit(), dm.backup(), dm.audit().capture(), dm.logs());
    let users = CaptureRequest::of(TableName::bare("users"));
    let shop = Some(&world.shop);
    let target = data_manager::TargetName::new("main").unwrap();
    let target = Some(&target);
    let migrate = dm.migrate();
    let source = MigrationSource::Folder(world.files("migrations"));
    let files = MigrateOptions { engine: shop.cloned(), source, ..MigrateOptions::default() };
    let select = || Statement::new("SELECT count(*) FROM users");
    match kind {
        K::AuditLog => audit.log(ctx, &LogFilter::default(), &Page::default()).await.map(drop),
        K::AuditVerify => audit.verify(ctx, &AuditVerifyOptions::default()).await.map(drop),
        K::AuditCheckpoint => audit.checkpoint(ctx).await.map(drop),
        K::AuditProve => audit.prove(ctx, "1", None, false).await.map(drop),
        K::AuditKey => audit.key(ctx).await.map(drop),
        K::AuditErase => audit.erase(ctx, &world.some_event().await).await.map(drop),
        K::AuditPlan => audit.plan_expire(ctx, Some(Period::days(30))).await.map(drop),
        K::AuditExpire => {
            let plan = audit.plan_expire(admin, Some(Period::days(30))).await?;
            audit.apply_expire(ctx, plan).await.map(drop)
        }
        K::AuditReplaceKey => audit.replace_key(ctx).await.map(drop),
        K::BackupPlan => backup.plan_expire(ctx, target, None).await.map(drop),
        K::BackupRun => {
            let options = BackupOptions { engine: Some(world.shop.clone()), ..BackupOptions::default() };
            backup.run(ctx, &options).await.map(drop)
        }
        K::BackupList => backup.list(ctx, target).await.map(drop),
        K::BackupShow => backup.show(ctx, target, "latest").await.map(drop),
        K::BackupVerify => backup.verify(ctx, target, Some("latest"), VerifyLevel::Quick).await.map(drop),
        K::BackupExpire => {
            let plan = backup.plan_expire(admin, target, None).await?;
            backup.apply_expire(ctx, &plan, false).await.map(drop)
        }
        K::BackupDelete => {
            // The newest verified one would be refused.
            let older = world.backup().await;
            world.backup().await;
            let plan = backup.plan_delete(admin, target, &older, "a test").await?;
            backup.apply_delete(ctx, &plan, false).await.map(drop)
        }
        K::BackupPin => backup.pin(ctx, target, "latest", "a test").await.map(drop),
        K::BackupUnpin => backup.unpin(ctx, target, "latest", "a test").await.map(drop),
        K::BackupExport => {
            let folder = world.path(&format!("export-{name}"));
            backup.export(ctx, target, "latest", &folder, ExportFormat::default()).await.map(drop)
        }
        K::BackupHold => backup.hold(ctx, target, "latest", Some("test"), "a test", None).await.map(drop),
        K::BackupRelease => backup.release(ctx, target, "latest", Some("test"), "a test").await.map(drop),
        K::BackupRewrite => {
            let plan = backup.plan_rewrite(admin, target, &[], false).await?;
            backup.apply_rewrite(ctx, &plan).await.map(drop)
        }
        K::BackupDrill => {
            let options = DrillOptions { engine: Some(world.shop.clone()), ..DrillOptions::default() };
            backup.drill(ctx, &options).await.map(drop)
        }
        K::BackupCopy => backup.copy(ctx, None, &CopyOptions::default()).await.map(drop),
        K::BackupRepair => {
            backup.copy(admin, None, &CopyOptions::default()).await?;
            backup.repair(ctx, target, None, Some("far")).await.map(drop)
        }
        K::CaptureInstall => capture.install(ctx, shop, &users).await.map(drop),
        K::CaptureStatus => capture.status(ctx, shop).await.map(drop),
        K::CaptureRemove => {
            capture.install(admin, shop, &users).await?;
            capture.remove(ctx, shop, &[]).await.map(drop)
        }
        K::CaptureDrain => capture.drain(ctx, shop, &DrainOptions::default()).await.map(drop),
        K::Doctor => dm.doctor(ctx).await.map(drop),
        K::Health => dm.health(ctx).await.map(drop),
        K::KeyNew => backup.new_key(ctx, &world.path(&format!("{name}.key")), None).await.map(drop),
        K::KeyList => backup.keys(ctx).await.map(drop),
        K::KeyPlan => backup.plan_rewrap(ctx, one_more()).await.map(drop),
        K::KeyRewrap => {
            let plan = backup.plan_rewrap(admin, one_more()).await?;
            backup.apply_rewrap(ctx, &plan).await.map(drop)
        }
        K::LogShip => {
            let options =
                ShipLogOptions { engine: Some(world.pg.clone()), once: true, ..ShipLogOptions::default() };
            logs.ship(ctx, &options).await.map(drop)
        }
        K::LogPush => {
            let options = PushLogOptions {
                engine: Some(world.pg.clone()),
                path: Path::new("/nowhere/000000010000000000000001").into(),
                ..PushLogOptions::default()
            };
            logs.push(ctx, &options).await.map(drop)
        }
        K::LogFetch => {
            let options = FetchLogOptions {
                engine: Some(world.pg.clone()),
                name: "nothing".into(),
                destination: world.path("fetched"),
                ..FetchLogOptions::default()
            };
            logs.fetch(ctx, &options).await.map(drop)
        }
        K::LogStatus => logs.status(ctx, None).await.map(drop),
        K::LogDropSlot => logs.drop_holder(ctx, Some(&world.pg), None).await.map(drop),
        K::MigrateStatus => migrate.status(ctx, &files).await.map(drop),
        K::MigratePlan => migrate.plan(ctx, &files, Direction::Up).await.map(drop),
        K::MigrateDrift => migrate.drift(ctx, &files).await.map(drop),
        K::MigrateLint => migrate.lint(ctx, &files, true).await.map(drop),
        K::MigrateNew => {
            let source = MigrationSource::Folder(world.path(&format!("new-{name}")));
            migrate.create(ctx, &MigrateOptions { source, ..files }, "add it", true).await.map(drop)
        }
        K::MigrateUp => migrate.up(ctx, &files, None).await.map(drop),
        K::MigrateDown => migrate.down(ctx, &files, None).await.map(drop),
        K::MigrateRedo => {
            migrate.up(admin, &files, None).await?;
            migrate.redo(ctx, &files, 1).await.map(drop)
        }
        K::MigrateResolve => migrate.resolve(ctx, &files, 1, Resolution::Applied, "a test").await.map(drop),
        K::MigrateBaseline => {
            let table = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, \
                         installed_on TIMESTAMP, success BOOLEAN, checksum BLOB, execution_time BIGINT)";
            execute(dm, table).await;
            migrate.adopt(ctx, &files, ForeignTool::Sqlx).await.map(drop)
        }
        K::MigrateSeed => {
            migrate.seed(ctx, shop, &MigrationSource::Folder(world.files("seeds"))).await.map(drop)
        }
        K::MigrateBackfill => {
            let request = BackfillRequest {
                name: format!("fill-{name}"),
                table: "users".into(),
                set: "name = name".into(),
                filter: None,
            };
            migrate.backfill(ctx, shop, &request, BackfillPace::default()).await.map(drop)
        }
        K::MigrateResume => {
            let file = world.path("migrations").join("2_half.sql");
            let begin = "-- no-transaction\nCREATE TABLE half (a);\n";
            std::fs::write(&file, format!("{begin}INSERT INTO nowhere VALUES (1);\n")).unwrap();
            migrate.up(admin, &files, None).await.unwrap_err();
            std::fs::write(&file, format!("{begin}INSERT INTO half VALUES (1);\n")).unwrap();
            migrate.resume(ctx, &files, None).await.map(drop)
        }
        K::Query => dm.query(ctx, select()).await.map(drop),
        K::Execute => dm.execute(ctx, Statement::new("UPDATE users SET name = 'Ada L.'")).await.map(drop),
        K::RestorePlan => dm.plan_restore(ctx, &world.restore_to(&format!("plan-{name}.db"))).await.map(drop),
        K::RestoreRun => {
            let plan = dm.plan_restore(admin, &world.restore_to(&format!("run-{name}.db"))).await?;
            dm.apply_restore(ctx, plan).await.map(drop)
        }
        K::RestoreRelease => {
            let options =
                RestoreOptions { keep_sealed: true, ..world.restore_to(&format!("sealed-{name}.db")) };
            let plan = dm.plan_restore(admin, &options).await?;
            let sealed = dm.apply_restore(admin, plan).await?;
            dm.release_sealed(ctx, shop, &sealed.location).await.map(drop)
        }
        K::Status => dm.status(ctx).await.map(drop),
    }
}

fn one_more() -> RewrapRequest {
    RewrapRequest {
        add: vec![Identity::generate().recipient()],
        reason: "a test".into(),
        ..RewrapRequest::default()
    }
}

/// How the newest event of this action by this actor ended, its intents left out.
async fn ended(world: &World, kind: OperationKind, actor: &str) -> Option<AuditOutcome> {
    let filter = LogFilter {
        actor: Some(actor.to_owned()),
        actions: vec![kind.action().to_string()],
        ..LogFilter::default()
    };
    let events = world.dm.audit().log(&world.admin(), &filter, &Page::default()).await.unwrap();
    events.iter().map(|e| e.outcome).find(|outcome| *outcome != AuditOutcome::Intent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_leaves_a_record_of_success_failure_and_denial() {
    let server = require!(Server::private(15, &Options::physical(15)));
    let world = World::new(&server).await;
    let mut problems = Vec::new();
    for kind in OperationKind::ALL.iter().copied() {
        let action = kind.action();
        // What a server calls for every file records no success, and "there is none" is an answer.
        let quiet = matches!(kind, OperationKind::LogPush | OperationKind::LogFetch);
        // Each place is an operation of its own; what became of it is in the report.
        let in_report = kind == OperationKind::BackupCopy;
        let stranger = OpContext::new(Actor::local_user("stranger").with_roles(["nothing"]));
        let hasty = OpContext::new(Actor::local_user("hasty")).with_timeout(Duration::ZERO);
        let able = OpContext::new(Actor::local_user("able"));
        let refused = |result: Result<()>, kind: ErrorKind| match result {
            Err(error) if error.kind() == kind => None,
            Ok(()) if in_report => None,
            other => Some(format!("{action} should be {kind:?}: {other:?}")),
        };
        let denied = call(kind, &world, &stranger, "denied").await;
        problems.extend(refused(denied, ErrorKind::Denied));
        let failed = call(kind, &world, &hasty, "failed").await;
        problems.extend(refused(failed, ErrorKind::Timeout));
        let done = call(kind, &world, &able, "done").await;
        if !quiet && let Err(error) = done {
            problems.push(format!("{action} should succeed: {error:?}"));
        }
        for (actor, expected) in [
            ("user:stranger", AuditOutcome::Denied),
            ("user:hasty", AuditOutcome::Failure),
            ("user:able", AuditOutcome::Success),
        ] {
            let found = ended(&world, kind, actor).await;
            if found != Some(expected) && !(quiet && expected == AuditOutcome::Success) {
                problems.push(format!("{action} by {actor}: {found:?} is on record"));
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
    let result = world.dm.audit().verify(&world.admin(), &AuditVerifyOptions::default()).await.unwrap();
    assert!(result.ok, "{result:?}");
}
