//! The recovery plan: hooks around the restore, the application's own questions, what it cost.

use std::path::Path;

use chrono::TimeDelta;
use dm_backup::{
    ApplyOptions, Assertion, Hook, HookPhase, Hooks, RestoreReport, Selector, StartWhen, Unproven,
};
use dm_core::{BackupKind, Effect, Engine, ErrorKind, Result};

use crate::engine::Faults;
use crate::{World, target, to};

/// Hooks that write down what they were told.
fn hooks(log: &Path) -> Hooks {
    let line = format!("echo $DM_PHASE $DM_OUTCOME $DM_LOCATION $DM_BACKUP >> {}", log.display());
    Hooks {
        stop: Some(Hook::shell(&line)),
        start: Some(Hook::shell(&line)),
        start_when: StartWhen::OnSuccess,
    }
}

fn said(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .map(|l| l.rsplit_once(' ').unwrap().0.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

async fn recover(world: &World, name: &str, options: ApplyOptions) -> Result<RestoreReport> {
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to(name)).await.unwrap();
    world.service.apply_restore(&world.ctx, &world.engine, &plan, options).await
}

#[tokio::test]
async fn the_application_is_stopped_and_started_and_the_cost_is_told() {
    let world = World::new().await;
    let made = world.run(BackupKind::Full).await.unwrap().backup;
    world.clock.forward(5);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let failed_at = made.consistency.at + TimeDelta::hours(2);
    let options = ApplyOptions {
        hooks: hooks(&log),
        failed_at: Some(failed_at),
        assertions: vec![Assertion::new("users", "count public.users").expecting("120".parse().unwrap())],
        ..ApplyOptions::default()
    };
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("copy")).await.unwrap();
    assert_eq!(plan.loss.lost_ms, 5 * 3600 * 1000, "what is lost is stated before");
    let report = world.service.apply_restore(&world.ctx, &world.engine, &plan, options).await.unwrap();
    assert_eq!(said(&log), ["stop copy", "start restored copy"]);
    assert!(report.equal && report.released && report.hooks.iter().all(|h| h.ok));
    assert_eq!(report.assertions[0].found.as_deref(), Some("120"));
    assert_eq!(report.reached, made.consistency);
    assert_eq!((report.recovery.loss.from, report.recovery.loss.to), (made.consistency.at, failed_at));
    assert_eq!(report.recovery.loss.lost_ms, 2 * 3600 * 1000);
    let steps: Vec<&str> = report.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        steps,
        ["look", "stop hook", "open", "write", "finish", "compare", "ask", "release", "start hook"]
    );
}

#[tokio::test]
async fn a_plan_that_cannot_be_applied_stops_nothing() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    world.prove("copy").await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let options = ApplyOptions { hooks: hooks(&log), ..ApplyOptions::default() };
    let error = recover(&world, "copy", options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(said(&log).is_empty());
}

#[tokio::test]
async fn a_stop_hook_that_fails_or_hangs_ends_the_recovery_before_anything_is_restored() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (stop, word) in
        [(Hook::shell("echo no; exit 3"), "exit code 3"), (Hook::shell("sleep 600").within(1), "1 s")]
    {
        for (start_when, starts) in [(StartWhen::OnSuccess, false), (StartWhen::Always, true)] {
            let log = folder.path().join("log");
            let hooks = Hooks { stop: Some(stop.clone()), start_when, ..hooks(&log) };
            let error =
                recover(&world, "copy", ApplyOptions { hooks, ..ApplyOptions::default() }).await.unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::CheckFailed, Effect::None), "{error:?}");
            assert!(
                error.to_string().contains("stop hook failed") && error.to_string().contains(word),
                "{error}"
            );
            assert_eq!(said(&log).len(), usize::from(starts));
            let stands = if starts { "was started again" } else { "not started again" };
            assert!(error.hint().unwrap().contains(stands), "{error:?}");
            if starts {
                assert_eq!(said(&log), ["start failed copy"]);
                std::fs::remove_file(&log).unwrap();
            }
        }
    }
    assert!(world.engine.state().databases.is_empty() && world.engine.state().sealed.is_empty());
    let hooks = Hooks { stop: Some(Hook::shell("exit 1").warning_only()), ..Hooks::default() };
    let report = recover(&world, "copy", ApplyOptions { hooks, ..ApplyOptions::default() }).await.unwrap();
    assert!(report.released && !report.hooks[0].ok);
    assert!(report.warnings.iter().any(|w| w.contains("stop hook")), "{:?}", report.warnings);
}

#[tokio::test]
async fn after_a_failed_restore_the_start_hook_follows_its_policy() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    world.engine.set_faults(Faults { spoil: true, ..Faults::default() });
    let with = |start_when| ApplyOptions {
        unproven: Unproven::Discard,
        hooks: Hooks { start_when, ..hooks(&log) },
        ..ApplyOptions::default()
    };
    let error = recover(&world, "a", with(StartWhen::OnSuccess)).await.unwrap_err();
    assert!(error.hint().unwrap().contains("start it by hand"), "{error:?}");
    assert_eq!(said(&log), ["stop a"]);
    let error = recover(&world, "b", with(StartWhen::Always)).await.unwrap_err();
    assert!(error.hint().unwrap().contains("was started again"), "{error:?}");
    assert_eq!(said(&log), ["stop a", "stop b", "start failed b"]);
}

#[tokio::test]
async fn a_start_hook_that_fails_is_an_error_and_the_database_is_there() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let hooks = Hooks { start: Some(Hook::program(["false"])), ..Hooks::default() };
    let error = recover(&world, "copy", ApplyOptions { hooks, ..ApplyOptions::default() }).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::CheckFailed, Effect::Applied));
    assert!(error.hint().unwrap().contains("restored at copy"), "{error:?}");
    assert!(world.engine.state().databases.contains_key("copy"));
}

#[tokio::test]
async fn a_question_answered_wrongly_keeps_the_place_sealed() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    for (i, (sql, word)) in
        [("count public.empty", "found 0"), ("broken", "syntax error"), ("hang", "longer than 1 s")]
            .into_iter()
            .enumerate()
    {
        let question = Assertion { timeout_s: Some(1), ..Assertion::new("enough", sql) };
        let options = ApplyOptions { assertions: vec![question], ..ApplyOptions::default() };
        let name = format!("copy{i}");
        let error = recover(&world, &name, options).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::CheckFailed, Effect::Partial), "{error:?}");
        assert!(error.to_string().contains("\"enough\"") && error.to_string().contains(word), "{error}");
        assert!(world.engine.state().sealed.contains_key(&format!("sealed-{name}")));
    }
    assert!(world.engine.state().databases.is_empty());
    // A person who looked may still want it.
    let released = world.engine.restore().unwrap().release_sealed(&world.ctx, "sealed-copy0").await.unwrap();
    assert_eq!(released.location, "copy0");
}

#[tokio::test]
async fn a_proven_place_can_be_left_sealed() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let options = ApplyOptions { keep_sealed: true, hooks: hooks(&log), ..ApplyOptions::default() };
    let report = recover(&world, "copy", options).await.unwrap();
    assert!(report.equal && !report.released);
    assert_eq!(report.location, "sealed-copy");
    assert_eq!(said(&log), ["stop copy"], "nothing can be started on a sealed database");
    assert!(world.engine.state().databases.is_empty());
    let target = world.engine.restore().unwrap();
    assert_eq!(target.release_sealed(&world.ctx, &report.location).await.unwrap().location, "copy");
    assert_eq!(world.engine.restored("copy"), world.engine.live());
    assert_eq!(
        target.release_sealed(&world.ctx, &report.location).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_rehearsal_runs_no_hook_and_keeps_nothing() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let options = ApplyOptions { rehearse: true, hooks: hooks(&log), ..ApplyOptions::default() };
    let report = recover(&world, "copy", options.clone()).await.unwrap();
    assert!(report.equal && !report.released && report.hooks.is_empty() && said(&log).is_empty());
    assert!(world.engine.state().sealed.is_empty() && world.engine.state().databases.is_empty());
    let error = recover(&world, "copy", ApplyOptions { keep_sealed: true, ..options }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_cancelled_recovery_starts_the_application_where_that_is_always_wanted() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let latest = Selector::latest(target());
    let plan = world.service.plan_restore(&world.ctx, &world.engine, &latest, &to("copy")).await.unwrap();
    let ctx = world.ctx.child();
    let cancel = ctx.cancellation().clone();
    let question = Assertion { timeout_s: Some(600), ..Assertion::new("slow", "hang") };
    let hooks = Hooks { start_when: StartWhen::Always, ..hooks(&log) };
    let options = ApplyOptions { hooks, assertions: vec![question], ..ApplyOptions::default() };
    let ctx = ctx.with_progress(std::sync::Arc::new(OnPhase("asking", cancel)));
    let error = world.service.apply_restore(&ctx, &world.engine, &plan, options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    assert_eq!(said(&log), ["stop copy", "start failed copy"]);
    assert!(world.engine.state().sealed.is_empty());
}

/// Cancels when a phase begins.
pub(crate) struct OnPhase(pub(crate) &'static str, pub(crate) tokio_util::sync::CancellationToken);

impl dm_core::ProgressSink for OnPhase {
    fn report(&self, progress: dm_core::Progress) {
        if matches!(progress, dm_core::Progress::Phase { name, .. } if name == self.0) {
            self.1.cancel();
        }
    }
}

#[tokio::test]
async fn every_hook_report_names_its_phase() {
    let world = World::new().await;
    world.run(BackupKind::Full).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = ApplyOptions { hooks: hooks(&folder.path().join("log")), ..ApplyOptions::default() };
    let report = recover(&world, "copy", options).await.unwrap();
    let phases: Vec<HookPhase> = report.hooks.iter().map(|h| h.phase).collect();
    assert_eq!(phases, [HookPhase::Stop, HookPhase::Start]);
    let again: RestoreReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
}
