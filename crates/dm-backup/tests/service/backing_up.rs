//! Making backups: kinds and bases, preflight, failures of the engine, cancellation, several at once.

use dm_backup::{BackupPrefix, DiskCheck, RunOptions, Selector, Stage, VerifyScope};
use dm_core::{BackupKind, BackupMode, Effect, ErrorKind, Finding, Level};
use dm_repository::VerifyLevel;

use crate::engine::{Faults, MemoryEngine, PAGE};
use crate::{World, target};

#[tokio::test]
async fn run_verify_restore() {
    let world = World::new().await;
    let options = RunOptions { verify_after: Some(VerifyLevel::Full), ..World::options(BackupKind::Full) };
    let report = world.service.run(&world.ctx, &world.engine, options).await.unwrap();
    assert_eq!((report.tables, report.rows), (3, 1020));
    assert!(report.verification.as_ref().unwrap().ok);
    assert!(report.warnings.iter().any(|w| w == "a warning of the engine"));
    let stages: Vec<Stage> = report.steps.iter().map(|s| s.stage).collect();
    assert!(stages.is_sorted_by_key(|s| *s as u8), "{stages:?}");
    world.prove("copy").await;

    let list = world.service.list(&world.ctx, Some(&target())).await.unwrap();
    assert_eq!(list.backups.len(), 1);
    assert_eq!(list.backups[0].verified_level, Some(VerifyLevel::Full));
    assert!(list.problems.is_empty());
    let shown = world.service.show(&world.ctx, &Selector::latest(target())).await.unwrap();
    assert_eq!(shown.members.unwrap().len(), 8);
    assert_eq!(shown.tables.len(), 3);
}

#[tokio::test]
async fn an_incremental_stores_only_what_changed_and_restores_in_one_go() {
    let world = World::new().await;
    let full = world.run(BackupKind::Full).await.unwrap();
    world.engine.state().live.pages[5 * PAGE + 17] = 99;
    world.engine.state().live.tables.get_mut("public.users").unwrap().push("users\t120\tnew".into());
    let second = world.run(BackupKind::Incremental).await.unwrap();
    assert_eq!(second.backup.parent, Some(full.backup.id));
    assert_eq!(second.backup.references, [full.backup.id]);
    assert!(second.reused_bytes > 100_000, "{}", second.reused_bytes);
    assert!(second.backup.sizes.logical > 150_000);
    world.engine.state().live.pages[9 * PAGE] = 98;
    let third = world.run(BackupKind::Incremental).await.unwrap();
    assert_eq!(third.backup.parent, Some(second.backup.id));
    let differential = world.run(BackupKind::Differential).await.unwrap();
    assert_eq!(differential.backup.parent, Some(full.backup.id));
    assert_eq!(differential.backup.references, [full.backup.id]);
    world.prove("newest").await;
    let sizes = world.service.size(&world.ctx, None).await.unwrap();
    let of = &sizes.targets[0];
    assert_eq!(of.backups.len(), 4);
    assert_eq!(of.backups[0].unique_bytes, 0);
    assert_eq!(of.backups[3].unique_bytes, of.backups[3].stored_bytes);
    assert_eq!(of.pinned_by_reference_bytes, of.backups[0].stored_bytes + of.backups[1].stored_bytes);
}

#[tokio::test]
async fn there_is_no_silent_full_backup() {
    let world = World::new().await;
    for kind in [BackupKind::Incremental, BackupKind::Differential] {
        let error = world.run(kind).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.hint().unwrap().contains("kind full"), "{error:?}");
    }
    world.run(BackupKind::Full).await.unwrap();
    world.engine.state().system = "system-2".into();
    let error = world.run(BackupKind::Incremental).await.unwrap_err();
    assert!(error.to_string().contains("another database"), "{error}");
    assert!(error.hint().unwrap().contains("kind full"));

    world.engine.state().can.incrementals = false;
    let error = world.run(BackupKind::Incremental).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let list = world.service.list(&world.ctx, None).await.unwrap();
    assert_eq!(list.backups.len(), 1, "nothing of it was committed");
}

#[tokio::test]
async fn the_base_is_of_the_same_mode_even_when_a_newer_one_is_not() {
    let world = World::new().await;
    let logical = world.run(BackupKind::Full).await.unwrap();
    world.engine.state().mode = BackupMode::Physical;
    let physical = world.run(BackupKind::Full).await.unwrap();
    world.engine.state().mode = BackupMode::Logical;
    let child = world.run(BackupKind::Incremental).await.unwrap();
    assert_eq!(child.backup.parent, Some(logical.backup.id));
    assert_ne!(child.backup.parent, Some(physical.backup.id));
    world.prove("copy").await;
}

#[tokio::test]
async fn a_damaged_base_is_passed_over() {
    let world = World::new().await;
    let first = world.run(BackupKind::Full).await.unwrap();
    let second = world.run(BackupKind::Full).await.unwrap();
    let pack = world.keys(&format!("{}/packs", second.backup.id)).await.remove(0);
    world.spoil(&pack).await;
    let scope = VerifyScope::One(Selector::id(second.backup.id));
    let report = world.service.verify(&world.ctx, &scope, VerifyLevel::Stored).await.unwrap();
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::CheckFailed);
    let child = world.run(BackupKind::Incremental).await.unwrap();
    assert_eq!(child.backup.parent, Some(first.backup.id));
    let verified = Selector::Latest { target: target(), verified_only: true, mode: None };
    assert_eq!(world.service.select(&world.ctx, &verified).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_preflight_says_everything_at_once() {
    let world = World::new().await;
    let error = |check, message: &str, mend| Finding::new(Level::Error, check, message).with_mend(mend);
    world.engine.set_faults(Faults {
        preflight: vec![
            error("privileges", "no right to read orders", "grant it"),
            error("client_tools", "pg_dump is too old", "install a newer one"),
        ],
        ..Faults::default()
    });
    let found = world.run(BackupKind::Full).await.unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Invalid);
    assert!(found.to_string().contains("no right to read orders; pg_dump is too old"), "{found}");
    assert_eq!(found.hint(), Some("grant it; install a newer one"));
    assert!(world.keys("backups/").await.is_empty(), "nothing was begun");

    world.engine.set_faults(Faults::default());
    world.engine.state().connections = Some((99, 100));
    let found = world.run(BackupKind::Full).await.unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Exhausted);
    world.engine.state().connections = Some((97, 100));
    let report = world.run(BackupKind::Full).await.unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("97 of 100")), "{:?}", report.warnings);
}

#[tokio::test]
async fn a_full_disk_is_seen_beforehand() {
    let world = World::new().await;
    let with = |bytes: u64, min_free_bytes| RunOptions {
        disk: DiskCheck {
            repository: Some("/backups".into()),
            free: Some(std::sync::Arc::new(move |_| Some(bytes))),
            min_free_bytes,
        },
        ..World::options(BackupKind::Full)
    };
    for (bytes, least) in [(1000, 0), (1 << 30, 1 << 30)] {
        let error = world.service.run(&world.ctx, &world.engine, with(bytes, least)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
    }
    let report = world.service.run(&world.ctx, &world.engine, with(100_000, 0)).await.unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("disk_space")), "{:?}", report.warnings);
}

#[tokio::test]
async fn an_engine_that_fails_leaves_no_commit_and_the_next_run_works() {
    let member = "data/public.orders/0000001".to_owned();
    let faults = [
        (Faults { fail_read: Some((member.clone(), 1)), ..Faults::default() }, ErrorKind::Unreachable),
        (Faults { panic_read: Some(member), ..Faults::default() }, ErrorKind::Internal),
        (Faults { fail_finish: true, ..Faults::default() }, ErrorKind::Conflict),
    ];
    for (faults, kind) in faults {
        let world = World::new().await;
        world.engine.set_faults(faults);
        let error = world.run(BackupKind::Full).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(error.effect(), Effect::None);
        assert!(world.service.list(&world.ctx, None).await.unwrap().backups.is_empty());
        assert!(world.keys("backup.json").await.is_empty());
        world.engine.set_faults(Faults::default());
        world.run(BackupKind::Full).await.unwrap();
        world.prove("copy").await;
    }
}

#[tokio::test]
async fn a_cancelled_run_leaves_no_commit_and_the_next_one_works() {
    let world = World::new().await;
    world.engine.set_faults(Faults { hang_read: Some("pages.db".into()), ..Faults::default() });
    let ctx = world.ctx.child();
    let (hanging, cancel) = (world.engine.hanging.clone(), ctx.cancellation().clone());
    let stopper = tokio::spawn(async move {
        hanging.notified().await;
        cancel.cancel();
    });
    let error = world.service.run(&ctx, &world.engine, World::options(BackupKind::Full)).await.unwrap_err();
    stopper.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    assert!(world.keys("backup.json").await.is_empty());
    world.engine.set_faults(Faults::default());
    world.run(BackupKind::Full).await.unwrap();
    world.prove("copy").await;
}

/// A database whose pages fill several packs.
async fn large() -> World {
    let world = World::new().await;
    let mut state = 7_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    world.engine.state().live.pages = noise.take(2 << 20).collect();
    world
}

#[tokio::test]
async fn a_run_after_an_interruption_goes_on_from_it() {
    let pages = "pages.db".to_owned();
    let blocks = (2 << 20) / 8192;
    for faults in [
        Faults { fail_read: Some((pages.clone(), blocks * 3 / 4)), ..Faults::default() },
        Faults { panic_read: Some("schema.dump".into()), ..Faults::default() },
        Faults { fail_finish: true, ..Faults::default() },
    ] {
        let world = large().await;
        world.engine.set_faults(faults);
        world.run(BackupKind::Full).await.unwrap_err();
        assert!(world.service.list(&world.ctx, None).await.unwrap().backups.is_empty());
        world.engine.set_faults(Faults::default());
        // The database went on meanwhile: the backup shows what is there now.
        world.engine.state().live.pages[12_345] ^= 1;
        world.engine.state().live.tables.get_mut("public.orders").unwrap()[3].push('!');
        world.store.reset_log();
        let report = world.run(BackupKind::Full).await.unwrap();
        let resumed = report.resumed.expect("it went on");
        assert!(resumed.bytes > 1 << 20 && resumed.bytes < report.stored_bytes, "{resumed:?}");
        assert_eq!(report.backup.resumed, Some(resumed));
        assert_ne!(resumed.backup, report.backup.id);
        world.prove("copy").await;
        let all = VerifyScope::All { target: Some(target()) };
        world.service.verify(&world.ctx, &all, VerifyLevel::Full).await.unwrap().check().unwrap();
        // What it went on from is needed no more.
        assert!(
            world.keys("/journal/").await.iter().all(|k| !k.as_ref().contains(&report.backup.id.to_string()))
        );
        assert_eq!(world.run(BackupKind::Full).await.unwrap().resumed, None);
    }
}

#[tokio::test]
async fn a_run_that_is_to_begin_anew_does() {
    let world = large().await;
    world.engine.set_faults(Faults { fail_finish: true, ..Faults::default() });
    world.run(BackupKind::Full).await.unwrap_err();
    world.engine.set_faults(Faults::default());
    let anew = RunOptions { no_resume: true, ..World::options(BackupKind::Full) };
    let report = world.service.run(&world.ctx, &world.engine, anew).await.unwrap();
    assert_eq!(report.resumed, None);
    world.prove("copy").await;
}

#[tokio::test]
async fn runs_of_one_target_at_once_are_all_good() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let run = |kind| world.service.run(&world.ctx, &world.engine, World::options(kind));
    let results =
        futures::join!(run(BackupKind::Full), run(BackupKind::Incremental), run(BackupKind::Incremental));
    let ids = [results.0, results.1, results.2].map(|r| r.unwrap().backup.id);
    let scope = VerifyScope::All { target: Some(target()) };
    world.service.verify(&world.ctx, &scope, VerifyLevel::Full).await.unwrap().check().unwrap();
    for (i, id) in ids.into_iter().enumerate() {
        let report = world.restore(&Selector::id(id), &format!("copy{i}")).await.unwrap();
        assert!(report.equal);
    }
}

#[tokio::test]
async fn a_backup_is_named_by_the_beginning_of_its_id() {
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap().backup;
    let text = made.id.to_string();
    let by = |id: &str| Selector::Id { target: None, id: id.parse::<BackupPrefix>().unwrap() };
    assert_eq!(world.service.select(&world.ctx, &by(&text[..13])).await.unwrap().id, made.id);
    assert_eq!(world.service.select(&world.ctx, &by(&text.to_uppercase())).await.unwrap().id, made.id);
    // A part from the middle names nothing.
    assert_eq!(
        world.service.select(&world.ctx, &by(&text[24..])).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    for bad in ["", "0123456", "latest", "0123456g", &format!("{text}0")] {
        assert_eq!(bad.parse::<BackupPrefix>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
    }
    let other: MemoryEngine = MemoryEngine::new();
    let options = RunOptions { target: "other".parse().unwrap(), ..World::options(BackupKind::Full) };
    world.service.run(&world.ctx, &other, options).await.unwrap();
    // The first eight characters are the time to a minute: two backups of one minute share them.
    let error = world.service.select(&world.ctx, &by(&text[..8])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.hint().unwrap().contains(&text));
    let narrowed = Selector::Id { target: Some(target()), id: text[..8].parse().unwrap() };
    assert_eq!(world.service.select(&world.ctx, &narrowed).await.unwrap().id, made.id);
}
