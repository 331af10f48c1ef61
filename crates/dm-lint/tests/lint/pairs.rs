//! Every rule has a file that it fires on and a neighbour that it does not.
//!
//! `fixtures/<rule>/fires.sql` and `quiet.sql`. What stands before a line `-- file` was applied earlier.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dm_lint::{Dialect, LintContext, LintFile, LintFinding, Rule, lint, rules};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint/fixtures")
}

pub(crate) fn file(text: &str) -> LintFile {
    let transaction = !text.lines().take(3).any(|l| l.trim() == "-- no-transaction");
    LintFile { path: "1_test.sql".to_owned(), text: text.to_owned(), transaction, judged: true }
}

/// What a runner with timeouts knows.
pub(crate) fn context() -> LintContext {
    LintContext { lock_timeout: true, statement_timeout: true, ..LintContext::default() }
}

fn findings(rule: &Rule, name: &str) -> Vec<LintFinding> {
    let path = folder().join(rule.name).join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| {
        panic!("the rule {} has no file {}: {e}", rule.name, path.display());
    });
    let mut files = Vec::new();
    let text = match text.split_once("-- file\n") {
        Some((earlier, text)) => {
            files.push(LintFile { judged: false, ..file(earlier) });
            text
        }
        None => &text,
    };
    files.push(LintFile { path: format!("{}/{name}", rule.name), ..file(text) });
    let timeouts = !rule.name.ends_with("timeout-missing");
    let context = LintContext { lock_timeout: timeouts, statement_timeout: timeouts, ..context() };
    lint(rule.dialects.first().copied().unwrap_or(Dialect::Postgres), &files, &context)
}

#[test]
fn every_rule_fires_on_its_file_and_not_on_the_neighbour() {
    for rule in rules() {
        let fired = findings(rule, "fires.sql");
        assert!(fired.iter().any(|f| f.rule == rule.name), "{} does not fire: {fired:#?}", rule.name);
        for finding in fired.iter().filter(|f| f.rule == rule.name) {
            assert!(!finding.rewrite.trim().is_empty(), "{} gives no way out", rule.name);
            assert!(finding.line > 0 && finding.column > 0 && !finding.statement.is_empty(), "{finding:?}");
        }
        let quiet = findings(rule, "quiet.sql");
        assert!(quiet.is_empty(), "{} has a neighbour that is not fine: {quiet:#?}", rule.name);
    }
}

#[test]
fn every_file_belongs_to_a_rule() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(rules().iter().any(|r| r.name == name), "there is no rule {name}");
    }
}

#[test]
fn findings_read_well() {
    let mut text = String::new();
    for rule in rules() {
        for f in findings(rule, "fires.sql") {
            let severity = format!("{:?}", f.severity).to_lowercase();
            writeln!(text, "{}:{}:{}: {severity}[{}]: {}", f.file, f.line, f.column, f.rule, f.message)
                .unwrap();
            writeln!(
                text,
                "  | {}\n  why: {}\n  instead: {}\n",
                f.statement,
                f.why,
                f.rewrite.replace('\n', "\n           ")
            )
            .unwrap();
        }
    }
    insta::assert_snapshot!("findings", text);
}
