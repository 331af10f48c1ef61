//! A script cut into what is run at once.

use dm_core::{Error, MigrationTarget, Result, ScriptStatement, StatementKind};

use crate::files::Script;

/// Something that is run and recorded as one: a statement, or a transaction that the script itself spells out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// What is run.
    pub(crate) text: String,
    /// Byte offset of the text in the script.
    pub(crate) offset: usize,
    /// The number of its first statement, from 1.
    pub(crate) first: u32,
    /// The number of its last statement.
    pub(crate) last: u32,
    /// It only sets something for the session.
    pub(crate) is_setting: bool,
}

/// A script as it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// As one transaction: the text between BEGIN and COMMIT, where the script has such, and its offset.
    Whole { text: String, offset: usize, statements: Vec<ScriptStatement> },
    /// One after the other.
    Steps(Vec<Unit>),
}

/// Cuts a script by how it wants to be run.
///
/// # Errors
/// `Invalid`, about the file.
pub(crate) fn cut(target: &dyn MigrationTarget, script: &Script) -> Result<Cut> {
    let statements = target.split(&script.text).map_err(|e| e.about(script.file.clone()))?;
    if statements.is_empty() {
        return Err(Error::invalid("the file has no statement")
            .about(script.file.clone())
            .with_hint("write one, or remove the file"));
    }
    match script.no_transaction || !target.is_transactional() {
        true => units(script, &statements).map(Cut::Steps),
        false => whole(script, statements, target.comment()),
    }
}

fn whole(script: &Script, statements: Vec<ScriptStatement>, comment: &str) -> Result<Cut> {
    use StatementKind::{Begin, Commit, Rollback};
    let control: Vec<&ScriptStatement> =
        statements.iter().filter(|s| matches!(s.kind, Begin | Commit | Rollback)).collect();
    let (first, last) = (statements.first(), statements.last());
    match control[..] {
        [] => Ok(Cut::Whole { text: script.text.clone(), offset: 0, statements }),
        // The transaction that it asks for is the one that it is run in.
        [begin, commit] if begin.kind == Begin && commit.kind == Commit && Some(begin) == first && Some(commit) == last => {
            let (from, to) = (begin.offset + begin.text.len(), commit.offset);
            let inner = script.text.get(from..to).unwrap_or_default();
            let inner = inner.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
            let offset = to - inner.len();
            let text = inner.to_owned();
            if statements.len() == 2 {
                return Err(Error::invalid("the file has no statement between BEGIN and COMMIT").about(script.file.clone()));
            }
            Ok(Cut::Whole { text, offset, statements })
        }
        [one, ..] => Err(Error::invalid(format!(
            "line {} has {}, and the file is run as one transaction already",
            one.line,
            first_word(&one.text)
        ))
        .about(script.file.clone())
        .with_hint(format!(
            "remove it, or write \"{comment} no-transaction\" on the file's first line to run it statement by statement"
        ))),
    }
}

fn units(script: &Script, statements: &[ScriptStatement]) -> Result<Vec<Unit>> {
    let refuse = |statement: &ScriptStatement, why: &str| {
        Error::invalid(format!("{} of line {} {why}", first_word(&statement.text), statement.line))
            .about(script.file.clone())
    };
    let mut units = Vec::new();
    let mut open: Option<(&ScriptStatement, u32)> = None;
    for (number, statement) in (1_u32..).zip(statements) {
        match (statement.kind, open) {
            (StatementKind::Begin, Some(_)) => return Err(refuse(statement, "is inside of a transaction")),
            (StatementKind::Begin, None) => open = Some((statement, number)),
            (StatementKind::Commit, Some((begin, first))) => {
                let from = begin.offset + begin.text.len();
                let inner = script.text.get(from..statement.offset).unwrap_or_default();
                let inner = inner.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
                units.push(Unit {
                    text: inner.to_owned(),
                    offset: statement.offset - inner.len(),
                    first,
                    last: number,
                    is_setting: false,
                });
                open = None;
            }
            (StatementKind::Commit, None) => return Err(refuse(statement, "ends no transaction")),
            (StatementKind::Rollback, _) => {
                return Err(refuse(statement, "would undo what the record says is done"));
            }
            (_, Some(_)) => {}
            (kind, None) => units.push(Unit {
                text: statement.text.clone(),
                offset: statement.offset,
                first: number,
                last: number,
                is_setting: kind == StatementKind::Session,
            }),
        }
    }
    match open {
        Some((begin, _)) => Err(refuse(begin, "has no COMMIT")),
        None => Ok(units),
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

/// The line of an offset, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}
