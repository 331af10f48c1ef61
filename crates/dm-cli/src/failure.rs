//! How an error is told: what failed, why, whether anything changed, and the way out.

use std::error::Error as StdError;

use data_manager::{Effect, Error, ErrorKind};
use serde::Serialize;

/// The document of an error, `dm.error/1`.
#[derive(Serialize)]
pub(crate) struct ErrorDocument {
    kind: ErrorKind,
    message: String,
    effect: Effect,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    causes: Vec<String>,
}

impl ErrorDocument {
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: message(error),
            effect: error.effect(),
            hint: hint(error),
            causes: causes(error),
        }
    }
}

/// The lines for a person.
pub(crate) fn lines(error: &Error) -> Vec<String> {
    let mut lines = vec![format!("error: {}", message(error))];
    lines.extend(causes(error).into_iter().map(|cause| format!("  caused by: {cause}")));
    if let Some(changed) = changed(error) {
        lines.push(format!("  changed: {changed}"));
    }
    if let Some(hint) = hint(error) {
        let mut parts = hint.lines();
        lines.extend(parts.next().map(|first| format!("  hint: {first}")));
        lines.extend(parts.map(|more| format!("        {more}")));
    }
    lines
}

/// The error and its first cause in one line, for lists of findings.
pub(crate) fn line(error: &Error) -> String {
    let mut parts = vec![message(error)];
    parts.extend(causes(error).into_iter().take(1));
    parts.join(": ")
}

fn message(error: &Error) -> String {
    match error.engine() {
        Some(engine) if !error.to_string().to_lowercase().contains(&engine.to_string()) => {
            format!("{engine}: {error}")
        }
        _ => error.to_string(),
    }
}

/// The chain of causes, each said once: a link that only repeats what a line above says is left out.
fn causes(error: &Error) -> Vec<String> {
    let mut said = vec![message(error)];
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string().trim().replace('\n', " ");
        if !text.is_empty() && !said.iter().any(|line| line.contains(&text)) {
            said.push(text.clone());
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

/// Whether anything changed, where a person may wonder.
fn changed(error: &Error) -> Option<&'static str> {
    match error.effect() {
        Effect::Applied => Some("everything asked for was done before this failed"),
        Effect::Partial => Some("partly"),
        Effect::Unknown => Some("unknown; look before trying again"),
        Effect::None => match error.kind() {
            ErrorKind::Interrupted
            | ErrorKind::Timeout
            | ErrorKind::Conflict
            | ErrorKind::ConfirmationNeeded
            | ErrorKind::Exhausted
            | ErrorKind::Unreachable => Some("nothing"),
            _ => None,
        },
    }
}

/// The error's own way out, or the one that the nearest cause of ours knows.
fn hint(error: &Error) -> Option<String> {
    if let Some(hint) = error.hint() {
        return Some(hint.to_owned());
    }
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(hint) = cause.downcast_ref::<Error>().and_then(Error::hint) {
            return Some(hint.to_owned());
        }
        next = cause.source();
    }
    match error.kind() {
        ErrorKind::Interrupted => {
            Some("run the same command again: it begins anew, and nothing is done twice".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_thing_once_and_ends_with_the_way_out() {
        let inner = Error::new(ErrorKind::Unreachable, "connection refused").with_hint("start the server");
        let outer = Error::new(ErrorKind::Unreachable, "cannot connect: connection refused")
            .about("db.example:5432")
            .with_source(Error::internal("socket closed").with_source(inner));
        assert_eq!(
            lines(&outer),
            [
                "error: db.example:5432: cannot connect: connection refused",
                "  caused by: socket closed",
                "  changed: nothing",
                "  hint: start the server",
            ]
        );
    }
}
