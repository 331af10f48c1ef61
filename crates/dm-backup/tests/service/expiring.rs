//! Expiring and deleting in a repository.

use chrono_tz::Tz;
use dm_backup::keep::{KeepReason, KeepRules};
use dm_backup::{Decision, Selector, VerifyScope};
use dm_core::{BackupKind, ErrorKind};
use dm_repository::VerifyLevel;

use crate::{World, target};

pub(crate) fn last(number: u32) -> KeepRules {
    KeepRules { last: number, ..KeepRules::nothing() }
}

#[tokio::test]
async fn a_plan_says_of_every_backup_why_and_apply_does_just_that() {
    let world = World::new().await;
    let old = world.run(BackupKind::Full).await.unwrap().backup.id;
    let base = world.run(BackupKind::Full).await.unwrap().backup.id;
    let child = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    let newest = world.run(BackupKind::Full).await.unwrap().backup.id;
    world.service.pin(&world.ctx, &Selector::id(child), "for the auditors").await.unwrap();

    let plan = world
        .service
        .plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::Europe__Berlin)
        .await
        .unwrap();
    let of = |id| plan.entries.iter().find(|e| e.id == id).unwrap();
    assert_eq!(plan.deletions().collect::<Vec<_>>(), [old]);
    assert_eq!(
        of(base).decision,
        Decision::Keep { because: vec![KeepReason::ReferencedBy { backup: child }] }
    );
    assert_eq!(of(base).explain(), format!("kept because: referenced by {child}"));
    assert_eq!(of(base).pinned_bytes, of(base).stored_bytes);
    assert!(of(newest).explain().contains("newest"));
    assert_eq!(plan.freed_bytes, of(old).stored_bytes);

    let stored = serde_json::to_string(&plan).unwrap();
    let plan = serde_json::from_str(&stored).unwrap();
    let report = world.service.apply_expire(&world.ctx, &plan, true).await.unwrap();
    assert_eq!(report.deleted, [old]);
    assert_eq!(report.kept, 3);
    assert!(world.keys(&format!("backups/shop/{old}")).await.is_empty(), "{:?}", report.sweep);
    let again =
        world.service.plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::Europe__Berlin).await;
    assert_eq!(again.unwrap().deletions().count(), 0);
    let all = VerifyScope::All { target: None };
    world.service.verify(&world.ctx, &all, VerifyLevel::Full).await.unwrap().check().unwrap();
    world.prove("copy").await;
}

#[tokio::test]
async fn a_stale_plan_is_refused() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let second = world.run(BackupKind::Full).await.unwrap().backup.id;
    let plan =
        world.service.plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::UTC).await.unwrap();
    let delete = world.service.plan_delete(&world.ctx, &[Selector::id(second)], "wrong").await.unwrap();
    world.run(BackupKind::Incremental).await.unwrap();
    let error = world.service.apply_expire(&world.ctx, &plan, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // The new one rests on what would be deleted.
    let error = world.service.apply_delete(&world.ctx, &delete, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(world.keys("tombstones/").await.is_empty());
    assert_eq!(world.service.list(&world.ctx, None).await.unwrap().backups.len(), 3);
}

#[tokio::test]
async fn an_incremental_after_its_base_expired_is_refused_clearly() {
    let world = World::new().await;
    let base = world.run(BackupKind::Full).await.unwrap().backup.id;
    let delete = world.service.plan_delete(&world.ctx, &[Selector::id(base)], "by mistake").await.unwrap();
    world.service.apply_delete(&world.ctx, &delete, false).await.unwrap();
    let error = world.run(BackupKind::Incremental).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.hint().unwrap().contains("kind full"), "{error:?}");
    world.run(BackupKind::Full).await.unwrap();
    world.run(BackupKind::Incremental).await.unwrap();
    world.prove("copy").await;
}

#[tokio::test]
async fn what_must_not_be_deleted_is_refused_with_the_mend() {
    let world = World::new().await;
    let base = world.run(BackupKind::Full).await.unwrap().backup.id;
    let child = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    let one = |id| vec![Selector::id(id)];
    let plan = |of: Vec<Selector>| {
        let (service, ctx) = (world.service.clone(), world.ctx.clone());
        async move { service.plan_delete(&ctx, &of, "tidying up").await }
    };

    let error = plan(one(base)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&format!("needed by 1 other backups, {child}")), "{error}");
    assert_eq!(plan([one(base), one(child)].concat()).await.unwrap().entries[0].id, child, "children first");

    world.service.pin(&world.ctx, &Selector::id(child), "kept").await.unwrap();
    let error = plan(one(child)).await.unwrap_err();
    assert!(error.to_string().contains("pinned") && error.hint().unwrap().contains("unpin"), "{error:?}");
    world.service.unpin(&world.ctx, &Selector::id(child), "no more").await.unwrap();

    let full = world.run(BackupKind::Full).await.unwrap().backup.id;
    let scope = VerifyScope::One(Selector::id(full));
    world.service.verify(&world.ctx, &scope, VerifyLevel::Stored).await.unwrap().check().unwrap();
    let error = plan(one(full)).await.unwrap_err();
    assert!(error.to_string().contains("last verified full"), "{error}");

    let gone = plan([one(base), one(child)].concat()).await.unwrap();
    world.service.apply_delete(&world.ctx, &gone, true).await.unwrap();
    assert_eq!(world.service.list(&world.ctx, None).await.unwrap().backups.len(), 1);
    world.prove("copy").await;
}

#[tokio::test]
async fn an_unreadable_backup_stops_all_deleting() {
    let world = World::new().await;
    let first = world.run(BackupKind::Full).await.unwrap().backup.id;
    let second = world.run(BackupKind::Full).await.unwrap().backup.id;
    world.run(BackupKind::Full).await.unwrap();
    let commit = world.keys(&format!("{second}/backup.json")).await.remove(0);
    world.spoil(&commit).await;
    let plan =
        world.service.plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::UTC).await.unwrap();
    assert_eq!(plan.deletions().count(), 0);
    assert!(!plan.problems.is_empty());
    let error = world.service.plan_delete(&world.ctx, &[Selector::id(first)], "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
