//! Backups written anew: what only references kept alive can go, interrupted runs are finished, and what is held stays.

use chrono_tz::Tz;
use dm_backup::keep::KeepRules;
use dm_backup::{HOLD_NAME, RewritePlan, Selector};
use dm_core::{BackupId, BackupKind, ErrorKind, Period};
use dm_testkit::fault_store::{Fault, Rule};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::engine::Database;
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
    let world = World::patient().await;
    let old = world.run(BackupKind::Full).await.unwrap().backup.id;
    world.clock.forward(72);
    let first = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    let second = world.run(BackupKind::Incremental).await.unwrap().backup.id;
    world.run(BackupKind::Full).await.unwrap();
    (world, [old, first, second])
}

/// Marks what goes; the sweep may have to wait for leases.
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

/// What each backup holds, by restoring it.
async fn contents(world: &World, which: &[BackupId]) -> Vec<(BackupId, Database)> {
    let mut contents = Vec::new();
    for id in which {
        let name = format!("was-{id}");
        world.restore(&Selector::id(*id), &name).await.unwrap();
        contents.push((*id, world.engine.restored(&name)));
    }
    contents
}

/// Whether a backup, or one that stands for it, restores to this content.
async fn restorable(world: &World, id: BackupId, content: &Database) -> bool {
    let list = world.service.list(&world.ctx, None).await.unwrap();
    for row in list.backups.iter().filter(|row| row.id == id || row.rewrites == Some(id)) {
        let name = format!("now-{}", world.engine.state().databases.len());
        let restored = world.restore(&Selector::id(row.id), &name).await;
        if restored.is_ok_and(|report| report.equal) && world.engine.restored(&name) == *content {
            return true;
        }
    }
    false
}

/// Removes an object by hand, and with a part of a backup the backup.
async fn remove(world: &World, key: &Path) {
    let parts: Vec<&str> = key.as_ref().split('/').collect();
    let gone = match parts.as_slice() {
        ["backups", _, backup, ..] => world.keys(backup).await,
        _ => world.keys(key.as_ref()).await,
    };
    for key in gone {
        world.store.inner().delete(&key).await.unwrap();
    }
}

/// A store that keeps half of what it is given, or something else, and says that all is well; that loses its answers; that does
/// everything twice: nothing that stood is given up for what cannot be restored, and the next run finishes.
#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_to_a_write_no_content_is_lost() {
    let mut noticed = 0;
    for fault in [Fault::Truncate, Fault::Corrupt, Fault::Repeat, Fault::LoseAnswer, Fault::Fail] {
        let mut n = 1;
        loop {
            let (world, [_, first, second]) = grown().await;
            let contents = contents(&world, &[first, second]).await;
            let before = plan(&world, &[]).await.unwrap();
            world.store.reset_log();
            world.store.inject(Rule::nth(n, fault).on_writes());
            let result = world.service.apply_rewrite(&world.ctx, &before).await;
            let log = world.store.log();
            let mut written = log.iter().filter(|call| call.operation.writes());
            let spoiled = written.clone().nth(usize::try_from(n - 1).unwrap()).map(|call| call.path.clone());
            let writes = written.by_ref().count() as u64;
            world.store.heal();
            noticed += u32::from(result.is_err());
            let at = format!("write {n}, {fault:?}: {result:?}");
            // The old one, or what stands for it.
            for (id, content) in &contents {
                assert!(restorable(&world, *id, content).await, "{at}");
            }
            // What the store spoiled is removed by hand, as hints say; then the next run does what is left.
            // A record of its own goes alone, and a page of a journal, which nobody needs any more, is none of them.
            let of_backup = spoiled.as_ref().is_some_and(|key| key.as_ref().starts_with("backups/"));
            if matches!(fault, Fault::Truncate | Fault::Corrupt)
                && let Some(spoiled) = spoiled.filter(|_| !of_backup || result.is_err())
            {
                remove(&world, &spoiled).await;
            }
            let again = plan(&world, &[]).await.unwrap();
            world.service.apply_rewrite(&world.ctx, &again).await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
            assert!(plan(&world, &[]).await.unwrap().entries.is_empty(), "{at}");
            for (id, content) in &contents {
                assert!(restorable(&world, *id, content).await, "{at}");
            }
            if writes < n {
                result.unwrap();
                break;
            }
            n += dm_testkit::count(3, 1);
        }
        assert!(n > 25, "only {n} writes");
    }
    assert!(noticed > 3, "the damage was felt: {noticed}");
}
