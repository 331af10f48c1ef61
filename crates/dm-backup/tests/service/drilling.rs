//! Drills: proven, removed, and loud where something is wrong.

use std::sync::Arc;

use dm_backup::{Assertion, DrillOptions, DrillReport, Selector};
use dm_core::{BackupKind, BackupMode, ErrorKind, RecoveryPoint};

use crate::engine::Faults;
use crate::recovering::OnPhase;
use crate::{World, target};

fn options() -> DrillOptions {
    DrillOptions::of(Selector::latest(target()))
}

async fn drill(world: &World, options: &DrillOptions) -> DrillReport {
    world.service.drill(&world.ctx, &world.engine, options).await.unwrap()
}

fn nothing_is_left(world: &World) {
    let state = world.engine.state();
    assert!(state.sealed.is_empty(), "{:?}", state.sealed.keys());
    assert!(state.databases.is_empty(), "{:?}", state.databases.keys());
}

#[tokio::test]
async fn a_drill_proves_the_newest_backup_and_leaves_nothing() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let newest = world.run(BackupKind::Incremental).await.unwrap().backup;
    let assertions =
        vec![Assertion::new("orders", "count public.orders").expecting(">= 900".parse().unwrap())];
    let report = drill(&world, &DrillOptions { assertions, ..options() }).await;
    report.check().unwrap();
    assert!(report.ok && report.left.is_none() && report.backup.id == newest.id);
    assert_eq!((report.tables.len(), report.rows), (3, 1020));
    assert_eq!(report.assertions[0].found.as_deref(), Some("900"));
    let steps: Vec<&str> = report.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(steps, ["plan", "open", "write", "finish", "compare", "ask", "remove"]);
    nothing_is_left(&world);
    let again: DrillReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
}

#[tokio::test]
async fn planted_defects_make_a_drill_fail_and_it_is_removed_all_the_same() {
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap();

    world.engine.set_faults(Faults { spoil: true, ..Faults::default() });
    let report = drill(&world, &options()).await;
    assert!(!report.ok && report.complaint.as_ref().unwrap().contains("public.users has other contents"));
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::CheckFailed);
    nothing_is_left(&world);

    world.engine.set_faults(Faults { forget_to_compare: true, ..Faults::default() });
    assert!(!drill(&world, &options()).await.ok, "a table that was not compared is not proven");

    world.engine.set_faults(Faults::default());
    let assertions = vec![Assertion::new("enough", "count public.users").expecting("> 120".parse().unwrap())];
    let report = drill(&world, &DrillOptions { assertions, ..options() }).await;
    assert!(!report.ok && report.tables.iter().all(|t| t.equal));
    assert!(report.check().unwrap_err().to_string().contains("found 120 where > 120"), "{report:?}");
    nothing_is_left(&world);

    for pack in world.keys(&format!("{}/packs", made.backup.id)).await {
        world.spoil(&pack).await;
    }
    let report = drill(&world, &options()).await;
    assert!(!report.ok && report.failure.as_ref().unwrap().kind == ErrorKind::Corrupt, "{report:?}");
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::Corrupt);
    nothing_is_left(&world);
}

#[tokio::test]
async fn what_cannot_be_removed_is_named() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    world.engine.set_faults(Faults { fail_discard: true, ..Faults::default() });
    let report = drill(&world, &options()).await;
    assert!(report.ok, "the backup itself is sound");
    assert!(report.left.as_ref().unwrap().contains("sealed-restored"), "{report:?}");
    let error = report.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Partial);
    assert!(error.hint().unwrap().contains("sealed-restored"));

    let fail_write = Some("data/public.orders/0000000".to_owned());
    world.engine.set_faults(Faults { fail_discard: true, fail_write, ..Faults::default() });
    let report = drill(&world, &options()).await;
    assert!(report.left.as_ref().unwrap().contains("sealed-restored"), "{report:?}");
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::Exhausted);
}

#[tokio::test]
async fn a_cancelled_drill_is_removed_and_no_result() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    for phase in ["restoring", "finishing", "comparing", "asking"] {
        let ctx = world.ctx.child();
        let cancel = ctx.cancellation().clone();
        let ctx = ctx.with_progress(Arc::new(OnPhase(phase, cancel)));
        let assertions = vec![Assertion { timeout_s: Some(600), ..Assertion::new("slow", "hang") }];
        let options = DrillOptions { assertions, ..options() };
        let error = world.service.drill(&ctx, &world.engine, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{phase}: {error:?}");
        nothing_is_left(&world);
    }
}

#[tokio::test]
async fn without_a_backup_or_the_room_for_it_there_is_a_clear_word() {
    let world = World::new().await;
    let error = world.service.drill(&world.ctx, &world.engine, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.engine.state().mode = BackupMode::Physical;
    world.run(BackupKind::Full).await.unwrap();
    let mut small = options();
    small.scratch_dir = Some("/no/such/folder".into());
    small.disk.free = Some(Arc::new(|path| {
        assert!(path.starts_with("/no/such/folder"));
        Some(4096)
    }));
    let report = drill(&world, &small).await;
    let error = report.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("4.0 KiB are free") || error.to_string().contains("free"), "{error}");
    nothing_is_left(&world);
    small.disk.free = Some(Arc::new(|_| Some(u64::MAX)));
    let report = drill(&world, &small).await;
    report.check().unwrap();
    assert!(report.place.unwrap().contains("/no/such/folder/dm-drill-"));
}

#[tokio::test]
async fn a_damaged_backup_is_not_passed_over() {
    // A restore of the latest would warn; a drill exists to find out.
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap().backup;
    world.clock.forward(1);
    let report = drill(&world, &DrillOptions { until: RecoveryPoint::End, ..options() }).await;
    assert!(
        report.ok && report.until == RecoveryPoint::Backup,
        "without a log the end is the backup: {report:?}"
    );
    let tables = vec!["public.users".to_owned()];
    let report = drill(&world, &DrillOptions { tables, selector: Selector::id(made.id), ..options() }).await;
    assert_eq!((report.ok, report.tables.len()), (true, 1));
}
