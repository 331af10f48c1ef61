//! Backups written anew: what only references kept alive can go, interrupted runs are finished, and what is held stays.

use chrono_tz::Tz;
use dm_backup::keep::KeepRules;
use dm_backup::{HOLD_NAME, RewritePlan, Selector};
use dm_core::{BackupId, BackupKind, ErrorKind, Period};
use dm_testkit::fault_store::Fault;

use crate::{World, target};

/// Incremental ones of the last hours are kept, full ones not.
fn rules() -> KeepRules {
    KeepRules { last: 1, incremental_within: Some(Period::days(1)), ..KeepRules::nothing() }
}

async fn plan(world: &World, which: &[BackupId]) -> dm_core::Result<RewritePlan> {
    let selectors: Vec<Selector> = which.iter().map(|id| Selector::id(*id)).collect();
    let now = dm_core::Clock::now(&*world.clock);
    world.service.plan_rewrite(&world.ctx, &target(), &selectors, &rules(), now, Tz::UTC, false).await
}

/// An old full backup, and two incremental ones upon it that a rule keeps; a newer full one stands beside them.
async fn grown() -> (World, [BackupId; 3]) {
    let world = World::new().await;
    let old = world.run(BackupKind::Full).await.unwrap().backup.id;
    world.clock.forward(72);
    let first = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    let second = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    world.run(BackupKind::Full).await.unwrap();
    (world, [old, first, second])
}

/// Marks what goes; the sweep may wait for leases of a second.
async fn expire(world: &World) -> Vec<BackupId> {
    let now = dm_core::Clock::now(&*world.clock);
    let plan = world.service.plan_expire(&world.ctx, &target(), &rules(), now, Tz::UTC).await.unwrap();
    world.service.apply_expire(&world.ctx, &plan, false).await.unwrap().deleted
}

#[tokio::test]
async fn what_keeps_alive_what_no_rule_wants_is_written_anew_and_frees_it() {
    let (world, [old, first, second]) = grown().await;
    assert!(expire(&world).await.is_empty(), "the incremental ones keep it");
    let plan = plan(&world, &[]).await.unwrap();
    assert_eq!(plan.entries.iter().map(|e| e.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(plan.freed, [old, first, second]);
    let report = world.service.apply_rewrite(&world.ctx, &plan).await.unwrap();
    assert_eq!(report.deleted, [second, first]);
    let list = world.service.list(&world.ctx, None).await.unwrap();
    let of = |id: BackupId| list.backups.iter().find(|row| row.rewrites == Some(id)).unwrap();
    assert_eq!((of(first).kind, of(second).kind), (BackupKind::Full, BackupKind::Incremental));
    assert_eq!(of(first).referenced_by, [of(second).id], "they share what they have in common");
    assert_eq!(expire(&world).await, [old]);
    for id in [of(first).id, of(second).id] {
        let report = world.restore(&Selector::id(id), &format!("copy-{id}")).await.unwrap();
        assert!(report.equal, "{report:?}");
    }
    // Again: nothing is left to do.
    assert!(self::plan(&world, &[]).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn held_and_independent_backups_are_left_and_a_stale_plan_is_refused() {
    let (world, [old, first, second]) = grown().await;
    world.service.hold(&world.ctx, &Selector::id(first), HOLD_NAME, "a case", None).await.unwrap();
    let stale = plan(&world, &[second]).await.unwrap();
    let all = plan(&world, &[old, first, second]).await.unwrap();
    assert_eq!(all.entries.iter().map(|e| e.id).collect::<Vec<_>>(), [second]);
    assert_eq!(all.left.iter().map(|l| l.id).collect::<Vec<_>>(), [old, first]);
    assert!(all.left[1].reason.contains("a case"), "{:?}", all.left);
    world.service.apply_rewrite(&world.ctx, &all).await.unwrap();
    let error = world.service.apply_rewrite(&world.ctx, &stale).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // The hold keeps what it needs, and is no obstacle to anything else.
    assert!(expire(&world).await.iter().all(|id| ![old, first].contains(id)));
    let (header, name) =
        world.service.release_hold(&world.ctx, &Selector::id(first), None, "settled").await.unwrap();
    assert_eq!((header.id, name.as_str()), (first, HOLD_NAME));
    world.prove("copy").await;
}

#[tokio::test]
async fn killed_anywhere_a_rewriting_is_finished_by_the_next() {
    let mut n = 1;
    loop {
        let (world, [old, first, second]) = grown().await;
        world.service.pin(&world.ctx, &Selector::id(first), "kept").await.unwrap();
        let before = plan(&world, &[]).await.unwrap();
        world.trouble(n, Fault::FullDisk, true);
        let result = world.service.apply_rewrite(&world.ctx, &before).await;
        let happened = world.heal(n);
        // Whatever is listed is whole, and the old ones are there as long as nothing stands for them.
        let list = world.service.list(&world.ctx, None).await.unwrap();
        assert!(list.problems.is_empty(), "call {n}: {:?}", list.problems);
        for id in [first, second] {
            assert!(list.backups.iter().any(|row| row.id == id || row.rewrites == Some(id)), "call {n}");
        }
        if happened {
            result.unwrap_err();
            let again = plan(&world, &[]).await.unwrap();
            world.service.apply_rewrite(&world.ctx, &again).await.unwrap();
        } else {
            result.unwrap();
        }
        let list = world.service.list(&world.ctx, None).await.unwrap();
        let stands: Vec<_> = list.backups.iter().filter(|row| row.rewrites.is_some()).collect();
        assert!(stands.iter().any(|row| row.rewrites == Some(first) && row.pinned), "call {n}: {list:?}");
        assert!(
            !expire(&world).await.is_empty() || !list.backups.iter().any(|row| row.id == old),
            "call {n}"
        );
        for row in stands {
            let name = format!("copy-{n}-{}", row.id);
            assert!(world.restore(&Selector::id(row.id), &name).await.unwrap().equal, "call {n}");
        }
        if !happened {
            break;
        }
        n += 4;
    }
    assert!(n > 60, "only {n} calls");
}
