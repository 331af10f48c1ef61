//! Restoring: proven, sealed until then, and removed when it fails.

use dm_backup::{ApplyOptions, Selector, Unproven};
use dm_core::{BackupKind, Effect, ErrorKind};

use crate::engine::{Faults, PAGE};
use crate::{World, target, to};

#[tokio::test]
async fn a_single_table_is_compared_alone() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let mut request = to("one");
    request.tables = vec!["public.users".into()];
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &request).await.unwrap();
    let report =
        world.service.apply_restore(&world.ctx, &world.engine, &plan, ApplyOptions::default()).await.unwrap();
    assert_eq!(report.tables.len(), 1);
    assert!(report.equal && report.released);
    assert!(report.bytes > 0 && report.bytes == plan.preview.bytes);
}

#[tokio::test]
async fn a_planted_defect_is_found_and_the_place_stays_sealed() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let latest = Selector::latest(target());
    let defects = [
        Faults { spoil: true, ..Faults::default() },
        Faults { forget_to_compare: true, ..Faults::default() },
    ];
    for (i, faults) in defects.into_iter().enumerate() {
        world.engine.set_faults(faults);
        let error = world.restore(&latest, &format!("bad{i}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckFailed, "{error:?}");
        assert_eq!(error.effect(), Effect::Partial);
        let sealed = format!("sealed-bad{i}");
        assert!(error.to_string().contains(&sealed), "{error}");
        assert!(world.engine.state().sealed.contains_key(&sealed));
        assert!(world.engine.state().databases.is_empty());
    }
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("bad3")).await.unwrap();
    world.engine.set_faults(Faults { spoil: true, ..Faults::default() });
    let apply = |unproven| {
        world.service.apply_restore(
            &world.ctx,
            &world.engine,
            &plan,
            ApplyOptions { unproven, ..ApplyOptions::default() },
        )
    };
    let error = apply(Unproven::Discard).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::CheckFailed, Effect::None));
    assert!(!world.engine.state().sealed.contains_key("sealed-bad3"));
    let report = apply(Unproven::Release).await.unwrap();
    assert!(!report.equal && report.released);
    assert!(world.engine.state().databases.contains_key("bad3"));
}

#[tokio::test]
async fn a_delta_fetches_only_what_differs() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let whole = world.restore(&Selector::latest(target()), "whole").await.unwrap();
    let mut present = world.engine.live().pages;
    present[5 * PAGE + 7] ^= 1;
    world.engine.state().present = Some(present);
    let mut request = to("delta");
    request.delta = true;
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &request).await.unwrap();
    let apply = world.service.apply_restore(&world.ctx, &world.engine, &plan, ApplyOptions::default());
    let report = apply.await.unwrap();
    assert_eq!(world.engine.restored("delta"), world.engine.live());
    let saved = whole.bytes - report.bytes;
    assert!(saved as usize >= world.engine.live().pages.len() * 3 / 4, "{saved} bytes fewer");
}

#[tokio::test]
async fn a_failure_on_the_way_removes_the_sealed_place() {
    let member = Some("data/public.orders/0000000".to_owned());
    let faults = [
        (Faults { fail_write: member.clone(), ..Faults::default() }, ErrorKind::Exhausted),
        (Faults { lazy_write: member.clone(), ..Faults::default() }, ErrorKind::Internal),
    ];
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let latest = Selector::latest(target());
    for (faults, kind) in faults {
        world.engine.set_faults(faults);
        let error = world.restore(&latest, "copy").await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error:?}");
        assert!(world.engine.state().sealed.is_empty());
    }
    world.engine.set_faults(Faults { fail_write: member, fail_discard: true, ..Faults::default() });
    let error = world.restore(&latest, "copy").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Exhausted, Effect::Partial));
    assert!(error.hint().unwrap().contains("sealed-copy"), "{error:?}");
}

#[tokio::test]
async fn a_plan_does_not_grow_stale_by_time_alone() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let latest = Selector::latest(target());
    // The engine puts the time into what it says.
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("copy")).await.unwrap();
    world.clock.forward(3);
    let apply = world.service.apply_restore(&world.ctx, &world.engine, &plan, ApplyOptions::default());
    assert!(apply.await.unwrap().released);
}

#[tokio::test]
async fn a_stale_plan_is_refused() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("copy")).await.unwrap();
    let plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    // Somebody takes the name meanwhile.
    world.prove("copy").await;
    let apply = world.service.apply_restore(&world.ctx, &world.engine, &plan, ApplyOptions::default());
    assert_eq!(apply.await.unwrap_err().kind(), ErrorKind::Conflict);
    let error = world.restore(&latest, "copy").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    assert!(error.to_string().contains("copy exists already"));
}

#[tokio::test]
async fn damage_on_the_way_back_is_an_error_and_never_a_short_success() {
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap();
    for pack in world.keys(&format!("{}/packs", made.backup.id)).await {
        world.spoil(&pack).await;
    }
    let error = world.restore(&Selector::latest(target()), "copy").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(world.engine.state().sealed.is_empty() && world.engine.state().databases.is_empty());
}

#[tokio::test]
async fn a_cancelled_restore_removes_its_place() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("copy")).await.unwrap();
    let ctx = world.ctx.child();
    let cancel = ctx.cancellation().clone();
    let ctx = ctx.with_progress(std::sync::Arc::new(OnItem(cancel)));
    let apply = world.service.apply_restore(&ctx, &world.engine, &plan, ApplyOptions::default());
    assert_eq!(apply.await.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(world.engine.state().sealed.is_empty());
    world.prove("copy").await;
}

/// Cancels when the first member is done.
struct OnItem(tokio_util::sync::CancellationToken);

impl dm_core::ProgressSink for OnItem {
    fn report(&self, progress: dm_core::Progress) {
        if matches!(progress, dm_core::Progress::Item(_)) {
            self.0.cancel();
        }
    }
}
