//! Which backup leads to a point.

use chrono::{DateTime, TimeDelta, Utc};
use dm_backup::{RestorePlan, Selector};
use dm_core::{
    BackupKind, BackupMode, Destination, ErrorKind, Level, LogPiece, RecoveryPoint, RestoreRequest, Result,
};
use dm_repository::{BackupHeader, VerifyLevel};

use crate::engine::Faults;
use crate::{World, target, to};

async fn plan(world: &World, selector: &Selector, request: &RestoreRequest) -> Result<RestorePlan> {
    world.service.plan_restore(&world.ctx, &world.engine, selector, request).await
}

fn at(point: DateTime<Utc>) -> RestoreRequest {
    RestoreRequest { until: RecoveryPoint::Time(point), ..to("copy") }
}

async fn backups(world: &World, mode: BackupMode, log: Option<u64>, number: u64) -> Vec<BackupHeader> {
    let mut made = Vec::new();
    for i in 0..number {
        {
            let mut state = world.engine.state();
            state.mode = mode;
            state.log = log.map(|first| first + i * 100);
        }
        made.push(world.run(BackupKind::Full).await.unwrap().backup);
    }
    made
}

/// A piece of the log, so that there is one.
async fn ship(world: &World) {
    let piece =
        LogPiece { timeline: 1, start: 0x1000, sealed_at: world.ctx.now(), bytes: vec![7; 4096].into() };
    let system = world.engine.state().system.clone();
    world.service.repository.put_log(&world.ctx, &target(), &system, &piece).await.unwrap();
}

fn said(plan: &RestorePlan) -> String {
    plan.preview.findings.iter().filter(|f| f.check == "selection").map(|f| f.message.clone()).collect()
}

#[tokio::test]
async fn without_a_log_the_points_are_the_backups() {
    let world = World::new().await;
    let made = backups(&world, BackupMode::Logical, None, 3).await;
    let latest = Selector::latest(target());
    for (offset, index) in [(-1, 0), (0, 1), (30, 1)] {
        let point = made[1].consistency.at + TimeDelta::minutes(offset);
        let plan = plan(&world, &latest, &at(point)).await.unwrap();
        assert_eq!(plan.backup.id, made[index].id, "{offset}");
        assert_eq!(plan.until, RecoveryPoint::Backup);
        let lost = said(&plan).contains("is lost");
        assert_eq!(lost, offset != 0, "{}", said(&plan));
    }
    let exclusive = RestoreRequest { exclusive: true, ..at(made[1].consistency.at) };
    assert_eq!(plan(&world, &latest, &exclusive).await.unwrap().backup.id, made[0].id);
    let error = plan(&world, &latest, &at(made[0].consistency.at - TimeDelta::hours(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("earliest"), "{error:?}");
    let end = RestoreRequest { until: RecoveryPoint::End, ..to("copy") };
    assert_eq!(plan(&world, &latest, &end).await.unwrap().backup.id, made[2].id);
    for until in [
        RecoveryPoint::Position("0/1".into()),
        RecoveryPoint::Name("x".into()),
        RecoveryPoint::Transaction("7".into()),
    ] {
        let error = plan(&world, &latest, &RestoreRequest { until, ..to("copy") }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let error = plan(&world, &Selector::id(made[2].id), &at(made[2].consistency.at)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "a backup without a log shows one moment");
}

#[tokio::test]
async fn a_damaged_backup_is_passed_over_on_the_way_to_a_point() {
    let world = World::new().await;
    let made = backups(&world, BackupMode::Logical, None, 2).await;
    for pack in world.keys(&format!("{}/packs", made[1].id)).await {
        world.spoil(&pack).await;
    }
    world.service.repository.verify(&world.ctx, &made[1], VerifyLevel::Stored).await.unwrap();
    let point = at(made[1].consistency.at + TimeDelta::minutes(5));
    let latest = Selector::latest(target());
    assert_eq!(plan(&world, &latest, &point).await.unwrap().backup.id, made[0].id);
}

#[tokio::test]
async fn with_a_log_the_newest_backup_before_the_point_is_taken() {
    let world = World::new().await;
    let made = backups(&world, BackupMode::Physical, Some(0x1000), 3).await;
    let latest = Selector::latest(target());
    let error = plan(&world, &latest, &at(made[1].consistency.at)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "nothing was shipped: {error:?}");
    ship(&world).await;
    let chosen = |plan: &RestorePlan| made.iter().position(|b| b.id == plan.backup.id).unwrap();
    for (minutes, index) in [(-1, 0), (0, 1), (30, 1)] {
        let point = made[1].consistency.at + TimeDelta::minutes(minutes);
        let plan = plan(&world, &latest, &at(point)).await.unwrap();
        assert_eq!((chosen(&plan), &plan.until), (index, &RecoveryPoint::Time(point)));
    }
    for (position, index) in [("0/1063", 0), ("0/1064", 1), ("0/10C7", 1), ("0/10C8", 2), ("1/0", 2)] {
        let until = RecoveryPoint::Position(position.into());
        let plan = plan(&world, &latest, &RestoreRequest { until, ..to("copy") }).await.unwrap();
        assert_eq!(chosen(&plan), index, "{position}");
    }
    for until in [RecoveryPoint::End, RecoveryPoint::Name("before".into())] {
        let plan = plan(&world, &latest, &RestoreRequest { until, ..to("copy") }).await.unwrap();
        assert_eq!(chosen(&plan), 2);
    }
    let error = plan(&world, &latest, &at(made[0].consistency.at - TimeDelta::hours(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("the first shows"), "{error}");
    // One that was named is taken at its word.
    let early = at(made[2].consistency.at - TimeDelta::minutes(1));
    let error = plan(&world, &Selector::id(made[2].id), &early).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(chosen(&plan(&world, &Selector::id(made[0].id), &early).await.unwrap()), 0);
}

#[tokio::test]
async fn a_backup_of_a_history_that_was_left_is_passed_over() {
    let world = World::new().await;
    let made = backups(&world, BackupMode::Physical, Some(0x1000), 3).await;
    let latest = Selector::latest(target());
    let point = at(made[2].consistency.at + TimeDelta::minutes(1));
    ship(&world).await;
    world.engine.set_faults(Faults {
        log_ends_after: vec![made[2].consistency.at, made[1].consistency.at],
        ..Faults::default()
    });
    assert_eq!(plan(&world, &latest, &point).await.unwrap().backup.id, made[0].id);
    world.engine.set_faults(Faults {
        log_ends_after: made.iter().map(|b| b.consistency.at).collect(),
        ..Faults::default()
    });
    let stuck = plan(&world, &latest, &point).await.unwrap();
    assert_eq!(stuck.backup.id, made[2].id, "the newest says why not");
    assert!(stuck.preview.findings.iter().any(|f| f.check == "log" && f.level == Level::Error));
}

#[tokio::test]
async fn rows_and_files_of_one_target_are_not_mixed_up() {
    let world = World::new().await;
    let rows = backups(&world, BackupMode::Logical, None, 1).await.remove(0);
    let files = backups(&world, BackupMode::Physical, Some(0x1000), 1).await.remove(0);
    let latest = Selector::latest(target());
    let to_name = plan(&world, &latest, &to("copy")).await.unwrap();
    assert_eq!(to_name.backup.id, rows.id);
    assert!(said(&to_name).contains("a physical one of"), "that another one is newer is told");
    let to_folder = RestoreRequest::to(Destination::New(Some("/srv/copy".into())));
    assert_eq!(plan(&world, &latest, &to_folder).await.unwrap().backup.id, files.id);
    let mut one_table = RestoreRequest { tables: vec!["public.users".into()], ..to_folder };
    assert_eq!(plan(&world, &latest, &one_table).await.unwrap().backup.id, rows.id);
    one_table.until = RecoveryPoint::Time(files.consistency.at);
    assert_eq!(plan(&world, &latest, &one_table).await.unwrap().backup.id, rows.id);
    let only = |mode| Selector::Latest { target: target(), verified_only: false, mode: Some(mode) };
    assert_eq!(plan(&world, &only(BackupMode::Physical), &to("copy")).await.unwrap().backup.id, files.id);
    assert_eq!(plan(&world, &only(BackupMode::Logical), &to("copy")).await.unwrap().backup.id, rows.id);
}
