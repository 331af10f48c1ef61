//! What runs before, during and after a backup: commands of the application's own, and notices to other systems.
//!
//! Commands run as those around a recovery do ([`hooks`](crate::hooks)): in a process group of their own, with a time limit.
//! Their environment: `DM_PHASE`, `DM_TARGET`, `DM_KIND`, `DM_RUN`, `DM_BACKUP` (not `before`), `DM_OUTCOME` (`after`: `done`,
//! `failed`: `failed`), `DM_ERROR` (`failed`). A notice carries the same as JSON.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use dm_core::{BackupId, BackupKind, Effect, Error, OpContext, Result, TargetName};

use crate::hooks::{self, Hook, HookFailure, HookPhase, HookReport};
use crate::run::{Stage, Steps, millis};

/// Where a notice goes.
#[async_trait]
pub trait Notice: fmt::Debug + Send + Sync {
    /// What it is called in reports: without secrets.
    fn name(&self) -> &str;

    /// Hands it over.
    ///
    /// # Errors
    /// What the other side answers; the caller sees to the time limit.
    async fn send(&self, ctx: &OpContext, event: &serde_json::Value) -> Result<()>;
}

/// What a hook of a backup does.
#[derive(Clone, Debug)]
pub enum HookAction {
    /// Runs a command.
    Run(Hook),
    /// Tells another system.
    Notify {
        /// Which.
        notice: Arc<dyn Notice>,
        /// How long that may take, in seconds; [`HOOK_TIMEOUT`](crate::HOOK_TIMEOUT) when `None`.
        timeout_s: Option<u64>,
        /// What it means when it fails.
        on_failure: HookFailure,
    },
}

impl HookAction {
    fn on_failure(&self) -> HookFailure {
        match self {
            Self::Run(hook) => hook.on_failure,
            Self::Notify { on_failure, .. } => *on_failure,
        }
    }
}

/// A hook of a backup.
#[derive(Clone, Debug)]
pub struct BackupHook {
    /// What it is called in the report.
    pub name: String,
    /// `Before`: after the checks, before anything is read. `During`: the snapshot stands, so that the application may go on.
    /// `After`: committed, and verified where that was asked for. `Failed`: no backup was made.
    pub when: HookPhase,
    /// What it does.
    pub action: HookAction,
}

/// The hooks of one run, and what came of them.
pub(crate) struct RunHooks<'a> {
    ctx: &'a OpContext,
    hooks: Vec<BackupHook>,
    target: TargetName,
    kind: BackupKind,
    pub(crate) backup: Option<BackupId>,
    pub(crate) reports: Vec<HookReport>,
}

impl<'a> RunHooks<'a> {
    pub(crate) fn new(
        ctx: &'a OpContext,
        hooks: Vec<BackupHook>,
        target: TargetName,
        kind: BackupKind,
    ) -> Self {
        Self { ctx, hooks, target, kind, backup: None, reports: Vec::new() }
    }

    /// Runs the hooks of a phase in their order, up to the first that fails and means it.
    ///
    /// # Errors
    /// `CheckFailed`, naming the hook.
    pub(crate) async fn at(&mut self, phase: HookPhase, steps: &mut Steps) -> Result<()> {
        let ctx = self.ctx.clone();
        self.run(&ctx, phase, None, steps).await
    }

    /// After a failure: tells those who asked to be told, and gives the error back. What is committed is no failure to them.
    pub(crate) async fn failed(&mut self, error: Error, steps: &mut Steps) -> Error {
        if error.effect() == Effect::Applied {
            return error;
        }
        // That somebody cancelled is no reason to tell nobody.
        let ctx = self.ctx.clone().with_cancellation(Default::default());
        let Err(second) = self.run(&ctx, HookPhase::Failed, Some(&error), steps).await else { return error };
        let hint = error.hint().map_or_else(|| second.to_string(), |first| format!("{first}; {second}"));
        error.with_hint(hint)
    }

    async fn run(
        &mut self,
        ctx: &OpContext,
        phase: HookPhase,
        error: Option<&Error>,
        steps: &mut Steps,
    ) -> Result<()> {
        let stage = match phase {
            HookPhase::Before | HookPhase::Stop => Stage::Pre,
            HookPhase::During => Stage::During,
            HookPhase::After | HookPhase::Failed | HookPhase::Start => Stage::Post,
        };
        for hook in self.hooks.iter().filter(|hook| hook.when == phase).cloned().collect::<Vec<_>>() {
            let facts = self.facts(phase, error);
            let step = format!("hook {}", hook.name);
            let report = match &hook.action {
                HookAction::Run(command) => {
                    steps.time(stage, &step, hooks::run(ctx, phase, command, &facts)).await
                }
                HookAction::Notify { notice, timeout_s, .. } => {
                    steps.time(stage, &step, notify(ctx, phase, notice.as_ref(), *timeout_s, &facts)).await
                }
            };
            let failed =
                (!report.ok && hook.action.on_failure() == HookFailure::Fail).then(|| report.error());
            self.reports.push(report);
            ctx.check()?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    fn facts(&self, phase: HookPhase, error: Option<&Error>) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("DM_PHASE", phase.to_string()),
            ("DM_TARGET", self.target.to_string()),
            ("DM_KIND", self.kind.to_string()),
            ("DM_RUN", self.ctx.run_id().to_string()),
        ];
        facts.extend(self.backup.map(|id| ("DM_BACKUP", id.to_string())));
        match error {
            Some(error) => {
                facts.push(("DM_OUTCOME", "failed".to_owned()));
                facts.push(("DM_ERROR", error.to_string()));
            }
            None if phase == HookPhase::After => facts.push(("DM_OUTCOME", "done".to_owned())),
            None => {}
        }
        facts
    }
}

/// Sends a notice within its time. Never fails: what went wrong is in the report.
async fn notify(
    ctx: &OpContext,
    phase: HookPhase,
    notice: &dyn Notice,
    timeout_s: Option<u64>,
    facts: &[(&'static str, String)],
) -> HookReport {
    let began = Instant::now();
    let mut event: serde_json::Map<String, serde_json::Value> = facts
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("DM_")?.to_lowercase(), value.clone().into())))
        .collect();
    let of = |name: &str| facts.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str());
    let text = match phase {
        HookPhase::Before => "begins".to_owned(),
        HookPhase::During => "is being made".to_owned(),
        HookPhase::Failed => format!("FAILED: {}", of("DM_ERROR")),
        _ => "is done".to_owned(),
    };
    // A sentence for people, where chats look for it.
    event.insert("text".to_owned(), format!("{} backup of {} {text}", of("DM_KIND"), of("DM_TARGET")).into());
    let limit = timeout_s.map_or(hooks::HOOK_TIMEOUT, std::time::Duration::from_secs);
    let within = ctx.clone().with_timeout(limit);
    let sent = within.run(notice.send(&within, &serde_json::Value::Object(event))).await;
    let problem = sent.err().map(|error| match error.kind() {
        dm_core::ErrorKind::Timeout => format!("it was not answered within {} s", limit.as_secs()),
        _ => error.to_string(),
    });
    HookReport {
        phase,
        command: notice.name().to_owned(),
        ok: problem.is_none(),
        exit_code: None,
        problem,
        output: String::new(),
        truncated: false,
        duration_ms: millis(began.elapsed()),
    }
}
