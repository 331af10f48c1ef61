//! `[backup.hook.<name>]`: what runs before, during and after backups.

use dm_backup::{HookFailure, HookPhase};
use dm_core::Result;

use super::assemble::{Section, line_of};
use super::document::{Problem, dotted};
use super::resolve::Resolved;
use super::sections::{HookConfig, HookDoes};

/// The hooks of the file, by name.
pub(super) fn hooks(resolved: &Resolved, problems: &mut Vec<Problem>) -> Result<Vec<HookConfig>> {
    let mut hooks = Vec::new();
    for name in resolved.names(&["backup", "hook"]) {
        let section = Section::new(resolved, &["backup", "hook", &name]);
        let mut wrong = |text: String| {
            problems.push(Problem { line: line_of(resolved, &section.prefix), text });
        };
        let here = dotted(&section.prefix);
        let when: Option<String> = section.optional("when")?;
        let Some(when) = when.as_deref().and_then(phase) else {
            wrong(format!("{here} has no when: write before, during, after or failed"));
            continue;
        };
        let command = section.optional("command")?.map(HookDoes::Command);
        let webhook = section.optional("webhook")?.map(HookDoes::Webhook);
        if command.is_none() && webhook.is_none() {
            wrong(format!("{here} does nothing: write a command or a webhook"));
            continue;
        }
        let asked = section.optional::<String>("on_failure")?;
        let timeout = section.optional::<Option<std::time::Duration>>("timeout")?.flatten();
        for does in command.into_iter().chain(webhook) {
            let on_failure = match (asked.as_deref(), &does) {
                (Some("abort"), _) | (None, HookDoes::Command(_)) => HookFailure::Fail,
                // A notice that does not arrive is no reason to have no backup.
                (Some(_), _) | (None, HookDoes::Webhook(_)) => HookFailure::Warn,
            };
            hooks.push(HookConfig { name: name.clone(), when, does, timeout, on_failure });
        }
    }
    Ok(hooks)
}

fn phase(when: &str) -> Option<HookPhase> {
    match when {
        "before" => Some(HookPhase::Before),
        "during" => Some(HookPhase::During),
        "after" => Some(HookPhase::After),
        "failed" => Some(HookPhase::Failed),
        _ => None,
    }
}
