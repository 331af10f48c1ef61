//! The n-th call to the store fails, for every n: the repository is in the old or the new state, and the next attempt
//! converges.

use chrono_tz::Tz;
use dm_backup::{Selector, VerifyScope};
use dm_core::BackupKind;
use dm_repository::VerifyLevel;
use dm_testkit::fault_store::Fault;

use crate::expiring::last;
use crate::{World, target};

/// The n-th call fails alone; the store is gone from there on; its disk is full.
const TROUBLES: [(Fault, bool); 3] = [(Fault::Deny, false), (Fault::Deny, true), (Fault::FullDisk, true)];

/// More calls than any of these operations makes.
const ENOUGH: u64 = 500;

async fn backups(world: &World) -> usize {
    world.service.list(&world.ctx, None).await.unwrap().backups.len()
}

async fn all_sound(world: &World) {
    let all = VerifyScope::All { target: None };
    let report = world.service.verify(&world.ctx, &all, VerifyLevel::Full).await.unwrap();
    report.check().unwrap();
}

#[tokio::test]
async fn a_run_is_whole_or_nothing() {
    for (fault, for_good) in TROUBLES {
        let mut failed = 0;
        let mut n = 1;
        loop {
            assert!(n < ENOUGH);
            let world = World::patient().await;
            world.run(BackupKind::Full).await.unwrap();
            world.engine.state().live.pages[1] = 9;
            world.trouble(n, fault, for_good);
            let result = world.run(BackupKind::Incremental).await;
            let hit = world.heal(n);
            if !hit {
                result.unwrap();
                break;
            }
            failed += u32::from(result.is_err());
            let there = backups(&world).await;
            // A failure behind the commit may hide that it is there; never the other way round.
            assert!(there == 1 || there == 2, "call {n}: {there}");
            assert!(result.is_err() || there == 2, "call {n}: a commit was claimed that is not there");
            all_sound(&world).await;
            world.run(BackupKind::Incremental).await.unwrap_or_else(|e| panic!("call {n}: {e:?}"));
            world.prove("copy").await;
            n += 1;
        }
        assert!(failed > 5, "the failures were felt: {failed} of {n}");
    }
}

#[tokio::test]
async fn an_expiry_loses_nothing_that_is_kept() {
    for (fault, for_good) in TROUBLES {
        let mut n = 1;
        loop {
            assert!(n < ENOUGH);
            let world = World::patient().await;
            world.run(BackupKind::Full).await.unwrap();
            world.run(BackupKind::Incremental).await.unwrap();
            world.run(BackupKind::Full).await.unwrap();
            let kept = world.run(BackupKind::Incremental).await.unwrap().backup.id;
            let plan = world
                .service
                .plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::UTC)
                .await
                .unwrap();
            assert_eq!(plan.deletions().count(), 2);
            world.trouble(n, fault, for_good);
            let result = world.service.apply_expire(&world.ctx, &plan, false).await;
            let hit = world.heal(n);
            let there = backups(&world).await;
            assert!((2..=4).contains(&there), "call {n}: {there}");
            all_sound(&world).await;
            assert!(world.restore(&Selector::id(kept), "copy").await.unwrap().equal);
            let plan = world
                .service
                .plan_expire(&world.ctx, &target(), &last(1), world.ctx.now(), Tz::UTC)
                .await
                .unwrap();
            world
                .service
                .apply_expire(&world.ctx, &plan, false)
                .await
                .unwrap_or_else(|e| panic!("call {n}: {e:?}"));
            assert_eq!(backups(&world).await, 2, "call {n}");
            if !hit {
                result.unwrap();
                break;
            }
            n += 1;
        }
    }
}

#[tokio::test]
async fn a_restore_is_proven_or_leaves_nothing() {
    for (fault, for_good) in TROUBLES {
        let world = World::patient().await;
        world.run(BackupKind::Full).await.unwrap();
        world.run(BackupKind::Incremental).await.unwrap();
        let mut n = 1;
        loop {
            assert!(n < ENOUGH);
            world.trouble(n, fault, for_good);
            let name = format!("copy{n}");
            let result = world.restore(&Selector::latest(target()), &name).await;
            let hit = world.heal(n);
            assert!(world.engine.state().sealed.is_empty(), "call {n}");
            assert_eq!(result.is_ok(), world.engine.state().databases.contains_key(&name), "call {n}");
            if let Ok(report) = &result {
                assert!(report.equal && report.released, "call {n}");
                assert_eq!(world.engine.restored(&name), world.engine.live());
            }
            if !hit {
                result.unwrap();
                break;
            }
            n += 1;
        }
        world.prove("last").await;
    }
}

#[tokio::test]
async fn a_lost_answer_is_no_failure() {
    // The call was made, only its answer did not arrive. Made again, it finds its own bytes.
    let world = World::patient().await;
    world.run(BackupKind::Full).await.unwrap();
    for n in [1, 3, 5, 8] {
        world.trouble(n, Fault::LoseAnswer, false);
        world.run(BackupKind::Incremental).await.unwrap();
        world.heal(n);
    }
    all_sound(&world).await;
    world.prove("copy").await;
}
