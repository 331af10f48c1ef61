//! `-- dm:ignore <rule>[, <rule>]: <reason>`: a finding that somebody looked at, and why it is fine here.
//!
//! It stands before the statement that it is about, or on one of its lines. Somebody else reads it later, so the reason is
//! not optional.

use crate::comments::{Comment, line_comments};
use crate::rules;

const MARK: &str = "dm:ignore";

/// One such comment.
#[derive(Clone, Debug)]
pub(crate) struct Ignore<'a> {
    pub(crate) offset: usize,
    /// The rules that exist.
    pub(crate) rules: Vec<&'static str>,
    /// What was named and does not exist.
    pub(crate) unknown: Vec<&'a str>,
    pub(crate) has_reason: bool,
}

/// All of a text.
pub(crate) fn ignores(text: &str) -> Vec<Ignore<'_>> {
    line_comments(text).into_iter().filter_map(ignore).collect()
}

fn ignore(comment: Comment<'_>) -> Option<Ignore<'_>> {
    let rest = comment.text.trim_start().strip_prefix(MARK)?;
    if rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_') {
        return None;
    }
    let (names, reason) = rest.split_once(':').unwrap_or((rest, ""));
    let mut found = Ignore {
        offset: comment.offset,
        rules: Vec::new(),
        unknown: Vec::new(),
        has_reason: !reason.trim().is_empty(),
    };
    for name in names.split(',').map(str::trim) {
        match rules::named(name) {
            Some(rule) if !rule.always => found.rules.push(rule.name),
            _ => found.unknown.push(name),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_reasons_are_read() {
        let read = |text: &'static str| ignores(text).pop().map(|i| (i.rules, i.unknown, i.has_reason));
        assert_eq!(
            read("-- dm:ignore drop-table: nobody reads it"),
            Some((vec!["drop-table"], vec![], true))
        );
        assert_eq!(read("--dm:ignore drop-table, nope :"), Some((vec!["drop-table"], vec!["nope"], false)));
        assert_eq!(read("-- dm:ignore"), Some((vec![], vec![""], false)));
        assert_eq!(read("-- dm:ignored drop-table: x"), None);
        assert_eq!(read("SELECT '-- dm:ignore drop-table: x'"), None);
        // What cannot be read cannot be excused.
        assert_eq!(read("-- dm:ignore syntax-error: x"), Some((vec![], vec!["syntax-error"], true)));
    }
}
