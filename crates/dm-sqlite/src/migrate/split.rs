//! Cutting a script into statements, by SQLite's own rule: a semicolon ends a statement, but in `CREATE TRIGGER` only the one
//! behind `END` that follows a semicolon. Source: <https://www.sqlite.org/c3ref/complete.html>.

use dm_core::{Error, Result, ScriptStatement, StatementKind};

/// Cuts a script.
pub(super) fn split(script: &str) -> Result<Vec<ScriptStatement>> {
    let mut lexer = Lexer { bytes: script.as_bytes(), at: 0 };
    let mut statements = Vec::new();
    let mut open = Open::default();
    while let Some((token, start)) = lexer.next()? {
        let text = script.get(start..lexer.at).unwrap_or_default();
        match token {
            Token::Semicolon if !open.is_trigger() || open.end_seen => {
                open.finish(script, &mut statements)?;
            }
            _ => open.take(token, text, start, lexer.at),
        }
    }
    open.finish(script, &mut statements)?;
    Ok(statements)
}

/// The first words of a statement in lower case.
pub(super) fn first_words(statement: &str, most: usize) -> Vec<String> {
    let mut lexer = Lexer { bytes: statement.as_bytes(), at: 0 };
    let mut words = Vec::new();
    while words.len() < most
        && let Ok(Some((_, start))) = lexer.next()
    {
        words.push(statement.get(start..lexer.at).unwrap_or_default().to_ascii_lowercase());
    }
    words
}

#[derive(Default)]
struct Open {
    start: Option<usize>,
    end: usize,
    head: Vec<String>,
    after_semicolon: bool,
    /// The last token was the `END` of a trigger.
    end_seen: bool,
}

impl Open {
    fn is_trigger(&self) -> bool {
        let mut words = self.head.iter().map(String::as_str).skip_while(|w| *w == "explain");
        match (words.next(), words.next(), words.next()) {
            (Some("create"), Some("temp" | "temporary"), word) => word == Some("trigger"),
            (Some("create"), word, _) => word == Some("trigger"),
            _ => false,
        }
    }

    fn take(&mut self, token: Token, text: &str, start: usize, end: usize) {
        self.start.get_or_insert(start);
        self.end = end;
        self.end_seen = token == Token::Word && self.after_semicolon && text.eq_ignore_ascii_case("end");
        self.after_semicolon = token == Token::Semicolon;
        if token == Token::Word && self.head.len() < 4 {
            self.head.push(text.to_ascii_lowercase());
        }
    }

    fn finish(&mut self, script: &str, into: &mut Vec<ScriptStatement>) -> Result<()> {
        let open = std::mem::take(self);
        let Some(offset) = open.start else { return Ok(()) };
        let line = script.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
        if open.is_trigger() && !open.end_seen {
            return Err(Error::invalid(format!(
                "the trigger of line {line} does not end: \"END;\" is missing"
            )));
        }
        let text = script.get(offset..open.end).unwrap_or_default().to_owned();
        let kind = kind_of(&text);
        into.push(ScriptStatement { text, offset, line, kind });
        Ok(())
    }
}

fn kind_of(text: &str) -> StatementKind {
    let words = first_words(text, 3);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    match word(0) {
        "begin" => StatementKind::Begin,
        "commit" | "end" => StatementKind::Commit,
        "rollback" if word(1) != "to" && word(2) != "to" => StatementKind::Rollback,
        "pragma" | "attach" | "detach" => StatementKind::Session,
        _ => StatementKind::Plain,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Word,
    Semicolon,
    Other,
}

struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Result<Option<(Token, usize)>> {
        loop {
            let Some(byte) = self.peek(0) else { return Ok(None) };
            let start = self.at;
            match (byte, self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0C, _) => self.at += 1,
                (b'-', Some(b'-')) => {
                    while self.peek(0).is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                // Not nested; one that does not end goes to the end of the script.
                (b'/', Some(b'*')) => {
                    self.at += 2;
                    while self.peek(0).is_some() && (self.peek(0), self.peek(1)) != (Some(b'*'), Some(b'/')) {
                        self.at += 1;
                    }
                    self.at = (self.at + 2).min(self.bytes.len());
                }
                (b'\'' | b'"' | b'`', _) => return self.quoted(start, byte).map(Some),
                (b'[', _) => return self.quoted(start, b']').map(Some),
                (b';', _) => {
                    self.at += 1;
                    return Ok(Some((Token::Semicolon, start)));
                }
                (b, _) if is_name(b) => {
                    while self.peek(0).is_some_and(is_name) {
                        self.at += 1;
                    }
                    return Ok(Some((Token::Word, start)));
                }
                _ => {
                    self.at += 1;
                    return Ok(Some((Token::Other, start)));
                }
            }
        }
    }

    fn quoted(&mut self, start: usize, end: u8) -> Result<(Token, usize)> {
        self.at += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                // Brackets know no doubling.
                (Some(b), Some(next)) if b == end && next == end && end != b']' => self.at += 2,
                (Some(b), _) if b == end => {
                    self.at += 1;
                    return Ok((Token::Other, start));
                }
                (Some(_), _) => self.at += 1,
                (None, _) => {
                    let line = self.bytes.iter().take(start).filter(|b| **b == b'\n').count() + 1;
                    let what = if end == b'\'' { "string" } else { "quoted name" };
                    return Err(Error::invalid(format!(
                        "the {what} that begins on line {line} does not end"
                    )));
                }
            }
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<String> {
        split(script).unwrap().into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn a_semicolon_ends_a_statement_only_where_it_is_one() {
        let whole = [
            "SELECT ';'",
            "SELECT 'it''s;'",
            "SELECT \"a;\"\"b\", `c;`, [d;]",
            "SELECT 1 /* a; */ + 1",
            "SELECT 1 -- a;\n + 1",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES (1); SELECT CASE WHEN 1 THEN 2 END; END",
            "create temp trigger t after insert on a begin delete from b; end",
            "CREATE TABLE \"trigger\" (a)",
        ];
        for text in whole {
            assert_eq!(texts(&format!("{text};\nSELECT 2")), [text, "SELECT 2"], "{text}");
        }
        assert_eq!(texts(" ;; -- nothing\n ; /* open"), Vec::<String>::new());
    }

    #[test]
    fn kinds_and_places() {
        use StatementKind::{Begin, Commit, Plain, Rollback, Session};
        let script = "PRAGMA foreign_keys = OFF;\nBEGIN;\n SELECT 1;\nCOMMIT; ROLLBACK; ROLLBACK TO s;";
        let found: Vec<_> = split(script).unwrap().into_iter().map(|s| (s.line, s.kind)).collect();
        assert_eq!(found, [(1, Session), (2, Begin), (3, Plain), (4, Commit), (4, Rollback), (4, Plain)]);
    }

    #[test]
    fn what_does_not_end_says_where_it_began() {
        for (script, expected) in [
            ("SELECT 1;\nSELECT 'a", "string that begins on line 2"),
            ("SELECT [a", "quoted name that begins on line 1"),
            ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;", "\"END;\" is missing"),
        ] {
            let error = split(script).unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
        }
    }
}
