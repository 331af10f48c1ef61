//! What runs before, during and after a backup, and what its failures mean.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dm_backup::{BackupHook, Hook, HookAction, HookFailure, HookPhase, Notice, RunOptions, RunReport, Stage};
use dm_core::{BackupKind, Effect, Error, ErrorKind, OpContext, Result};

use crate::{World, target};

/// Another system that is told, or does not answer, or refuses.
#[derive(Debug, Default)]
struct Chat {
    heard: Mutex<Vec<serde_json::Value>>,
    hangs: bool,
    refuses: bool,
}

#[async_trait]
impl Notice for Chat {
    fn name(&self) -> &str {
        "https://chat.example"
    }

    async fn send(&self, _: &OpContext, event: &serde_json::Value) -> Result<()> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.refuses {
            return Err(Error::new(ErrorKind::Unreachable, "the webhook cannot be reached"));
        }
        self.heard.lock().unwrap().push(event.clone());
        Ok(())
    }
}

fn command(name: &str, when: HookPhase, hook: Hook) -> BackupHook {
    BackupHook { name: name.into(), when, action: HookAction::Run(hook) }
}

fn notice(when: HookPhase, notice: &Arc<Chat>, on_failure: HookFailure) -> BackupHook {
    let action = HookAction::Notify { notice: notice.clone(), timeout_s: Some(1), on_failure };
    BackupHook { name: "chat".into(), when, action }
}

async fn run(world: &World, hooks: Vec<BackupHook>) -> Result<RunReport> {
    let options = RunOptions { hooks, ..World::options(BackupKind::Full) };
    world.service.run(&world.ctx, &world.engine, options).await
}

async fn backups(world: &World) -> usize {
    world.service.list(&world.ctx, None).await.unwrap().backups.len()
}

#[tokio::test]
async fn each_phase_knows_what_it_is_about_and_stands_in_the_report() {
    let world = World::new().await;
    let chat = Arc::new(Chat::default());
    let line = "echo $DM_PHASE $DM_TARGET $DM_KIND ${DM_BACKUP:-none} ${DM_OUTCOME:-none}";
    let hooks = vec![
        command("freeze", HookPhase::Before, Hook::shell(line)),
        command("thaw", HookPhase::During, Hook::shell(line)),
        command("tell", HookPhase::After, Hook::shell(line)),
        notice(HookPhase::After, &chat, HookFailure::Warn),
        command("alarm", HookPhase::Failed, Hook::shell("echo no")),
    ];
    let report = run(&world, hooks).await.unwrap();
    let id = report.backup.id;
    let said: Vec<_> = report.hooks.iter().map(|h| h.output.trim().to_owned()).collect();
    assert_eq!(said[0], "before shop full none none");
    assert_eq!(said[1], format!("during shop full {id} none"));
    assert_eq!(said[2], format!("after shop full {id} done"));
    let steps: Vec<_> = report.steps.iter().map(|s| (s.stage, s.name.as_str())).collect();
    let order = [
        (Stage::Pre, "preflight"),
        (Stage::Pre, "hook freeze"),
        (Stage::Pre, "open"),
        (Stage::During, "hook thaw"),
        (Stage::During, "read"),
        (Stage::During, "commit"),
        (Stage::Post, "hook tell"),
        (Stage::Post, "hook chat"),
    ];
    assert_eq!(steps, order);
    let heard = chat.heard.lock().unwrap();
    assert_eq!(heard[0]["backup"], id.to_string());
    assert_eq!(
        (&heard[0]["outcome"], &heard[0]["text"]),
        (&"done".into(), &"full backup of shop is done".into())
    );
}

#[tokio::test]
async fn a_hook_that_fails_before_or_during_stops_the_backup_and_those_who_asked_are_told() {
    for when in [HookPhase::Before, HookPhase::During] {
        let world = World::new().await;
        let chat = Arc::new(Chat::default());
        let hooks = vec![
            command("freeze", when, Hook::shell("echo cannot freeze; exit 3")),
            notice(HookPhase::Failed, &chat, HookFailure::Warn),
            command("after", HookPhase::After, Hook::shell("exit 0")),
        ];
        let error = run(&world, hooks).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::CheckFailed, Effect::None));
        assert!(error.to_string().contains("exit code 3 (it said: cannot freeze)"), "{error}");
        assert_eq!(backups(&world).await, 0);
        let heard = chat.heard.lock().unwrap().clone();
        assert_eq!((heard.len(), &heard[0]["outcome"]), (1, &"failed".into()));
        assert!(heard[0]["error"].as_str().unwrap().contains("cannot freeze"));
        // The way is free for the next one.
        run(&world, Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn a_hook_that_fails_afterwards_takes_nothing_back() {
    let world = World::new().await;
    let chat = Arc::new(Chat::default());
    let hooks = vec![
        command("check", HookPhase::After, Hook::shell("exit 1")),
        notice(HookPhase::Failed, &chat, HookFailure::Warn),
    ];
    let error = run(&world, hooks).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Applied);
    assert!(error.hint().unwrap().contains("is committed"), "{error:?}");
    assert_eq!(backups(&world).await, 1);
    assert!(chat.heard.lock().unwrap().is_empty(), "there is a backup");
}

#[tokio::test]
async fn warnings_stand_in_the_report_and_hanging_ones_are_ended() {
    let world = World::new().await;
    let began = Instant::now();
    let hangs = Arc::new(Chat { hangs: true, ..Chat::default() });
    let refuses = Arc::new(Chat { refuses: true, ..Chat::default() });
    let hooks = vec![
        command("slow", HookPhase::Before, Hook::shell("sleep 600").within(1).warning_only()),
        notice(HookPhase::During, &hangs, HookFailure::Warn),
        notice(HookPhase::After, &refuses, HookFailure::Warn),
    ];
    let report = run(&world, hooks).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(report.hooks.iter().all(|h| !h.ok));
    for said in ["did not end within 1 s", "not answered within 1 s", "cannot be reached"] {
        assert!(report.warnings.iter().any(|w| w.contains(said)), "{said}: {:?}", report.warnings);
    }
    // The same where it matters.
    let error = run(&world, vec![notice(HookPhase::Before, &refuses, HookFailure::Fail)]).await.unwrap_err();
    assert!(error.to_string().contains("the before hook failed"), "{error}");
    assert_eq!(backups(&world).await, 1);
}

#[tokio::test]
async fn the_backups_own_failure_is_told_and_stays_the_error() {
    let world = World::new().await;
    let chat = Arc::new(Chat::default());
    let refuses = Arc::new(Chat { refuses: true, ..Chat::default() });
    let hooks = vec![
        notice(HookPhase::Failed, &chat, HookFailure::Warn),
        notice(HookPhase::Failed, &refuses, HookFailure::Fail),
    ];
    let options = RunOptions { hooks, ..RunOptions::full(target()).of_kind(BackupKind::Incremental) };
    let error = world.service.run(&world.ctx, &world.engine, options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "no base: {error}");
    assert!(error.hint().unwrap().contains("the failed hook failed"), "{error:?}");
    assert_eq!(chat.heard.lock().unwrap().len(), 1);
}
