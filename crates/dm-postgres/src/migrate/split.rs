//! Cutting a script into statements, by the rules of the server's lexer and of psql.
//!
//! Strings (plain, escape, dollar-quoted), quoted names, nested comments and parentheses hide a semicolon, and so does the
//! body of a function that begins with `BEGIN ATOMIC`. Sources: "Lexical Structure" in the PostgreSQL manual, and psql's
//! documentation for where a statement ends.

use dm_core::{Error, Result, ScriptStatement, StatementKind};

/// Cuts a script.
pub(super) fn split(script: &str) -> Result<Vec<ScriptStatement>> {
    let mut lexer = Lexer { bytes: script.as_bytes(), at: 0 };
    let mut statements = Vec::new();
    let mut open = Open::default();
    while let Some((token, start)) = lexer.next()? {
        let end = lexer.at;
        let text = script.get(start..end).unwrap_or_default();
        match token {
            Token::Semicolon if open.is_whole() => {
                open.finish(script, &mut statements)?;
            }
            Token::Backslash if open.start.is_none() => {
                let command: String = script[start..].chars().take_while(|c| !c.is_whitespace()).collect();
                let line = line_of(script, start);
                return Err(Error::invalid(format!(
                    "line {line} has {command}, which is a command of psql and not SQL"
                ))
                .with_hint(
                    "remove the line; a dump made with pg_dump --inserts has data that any tool can run",
                ));
            }
            _ => open.take(token, text, start, end),
        }
    }
    open.finish(script, &mut statements)?;
    Ok(statements)
}

/// The line of an offset, from 1.
pub(super) fn line_of(script: &str, offset: usize) -> usize {
    script.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The first words of a statement in lower case, comments left out.
pub(super) fn words(statement: &str, most: usize) -> Vec<String> {
    let mut lexer = Lexer { bytes: statement.as_bytes(), at: 0 };
    let mut words = Vec::new();
    while words.len() < most
        && let Ok(Some((token, start))) = lexer.next()
    {
        let text = statement.get(start..lexer.at).unwrap_or_default();
        words.push(if token == Token::Word { text.to_ascii_lowercase() } else { text.to_owned() });
    }
    words
}

/// The statement that is being read.
#[derive(Default)]
struct Open {
    start: Option<usize>,
    end: usize,
    parentheses: u32,
    /// How many `BEGIN` and `CASE` wait for their `END` in the body of a function.
    blocks: u32,
    /// The first words, to know a function's definition.
    head: Vec<String>,
}

impl Open {
    /// Whether a semicolon ends it.
    fn is_whole(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }

    fn take(&mut self, token: Token, text: &str, start: usize, end: usize) {
        self.start.get_or_insert(start);
        self.end = end;
        match token {
            Token::Open => self.parentheses += 1,
            Token::Close => self.parentheses = self.parentheses.saturating_sub(1),
            Token::Word => {
                let word = text.to_ascii_lowercase();
                if self.parentheses == 0 && self.defines_routine() {
                    match word.as_str() {
                        "begin" => self.blocks += 1,
                        "case" if self.blocks > 0 => self.blocks += 1,
                        "end" => self.blocks = self.blocks.saturating_sub(1),
                        _ => {}
                    }
                }
                if self.head.len() < 4 {
                    self.head.push(word);
                }
            }
            _ => {}
        }
    }

    fn defines_routine(&self) -> bool {
        let mut words = self.head.iter().map(String::as_str);
        let is = |word: Option<&str>| matches!(word, Some("function" | "procedure"));
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("create"), Some("or"), Some("replace"), word) => is(word),
            (Some("create"), word, ..) => is(word),
            _ => false,
        }
    }

    fn finish(&mut self, script: &str, into: &mut Vec<ScriptStatement>) -> Result<()> {
        let open = std::mem::take(self);
        let Some(offset) = open.start else { return Ok(()) };
        let line = line_of(script, offset);
        if !open.is_whole() {
            let what = if open.parentheses > 0 { "a parenthesis" } else { "BEGIN ATOMIC" };
            return Err(Error::invalid(format!("the statement of line {line} does not end: {what} is open")));
        }
        let text = script.get(offset..open.end).unwrap_or_default().to_owned();
        let kind = kind_of(&text, line)?;
        into.push(ScriptStatement { text, offset, line, kind });
        Ok(())
    }
}

fn kind_of(text: &str, line: usize) -> Result<StatementKind> {
    let words = words(text, 4);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    Ok(match (word(0), word(1)) {
        ("commit" | "rollback", "prepared") | ("rollback", "to") => StatementKind::Plain,
        ("rollback", "work" | "transaction") if word(2) == "to" => StatementKind::Plain,
        ("begin", "" | "work") | ("begin" | "start", "transaction") if word(2).is_empty() => {
            StatementKind::Begin
        }
        // What it asks for would be lost: the transaction is the runner's.
        ("begin", _) | ("start", "transaction") => {
            return Err(Error::invalid(format!("line {line} begins a transaction with modes of its own"))
                .with_hint("set them with SET TRANSACTION as the first statement in it"));
        }
        ("commit" | "end", _) => StatementKind::Commit,
        ("rollback" | "abort", _) => StatementKind::Rollback,
        ("prepare", "transaction") => {
            return Err(Error::invalid(format!(
                "line {line} prepares a transaction, which nobody would end"
            )));
        }
        ("set", "local" | "constraints" | "transaction") => StatementKind::Plain,
        ("set" | "reset", _) => StatementKind::Session,
        ("select", "set_config") => StatementKind::Session,
        ("select", "pg_catalog") if word(3) == "set_config" => StatementKind::Session,
        ("copy", _) if is_copy_from_stdin(text) => {
            return Err(Error::invalid(format!("line {line} copies from stdin, and a migration has none"))
                .with_hint(
                    "write the rows as INSERT statements (pg_dump --inserts), or load them with a backfill",
                ));
        }
        _ => StatementKind::Plain,
    })
}

fn is_copy_from_stdin(text: &str) -> bool {
    let words = words(text, usize::MAX);
    words.windows(2).any(|pair| matches!(pair, [a, b] if a == "from" && b == "stdin"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or a plain name.
    Word,
    Open,
    Close,
    Semicolon,
    /// What begins a command of psql.
    Backslash,
    /// Everything else: strings, quoted names, numbers, operators.
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

    /// The next token and where it begins; comments and blanks are passed over.
    fn next(&mut self) -> Result<Option<(Token, usize)>> {
        loop {
            let Some(byte) = self.peek(0) else { return Ok(None) };
            let start = self.at;
            match (byte, self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, _) => self.at += 1,
                (b'-', Some(b'-')) => self.line_comment(),
                (b'/', Some(b'*')) => self.block_comment()?,
                (b'\'', _) => return self.quoted(start, b'\'', false),
                (b'e' | b'E', Some(b'\'')) => {
                    self.at += 1;
                    return self.quoted(start, b'\'', true);
                }
                (b'"', _) => return self.quoted(start, b'"', false),
                (b'$', _) => return self.dollar(start),
                (b, _) if is_name_start(b) => {
                    while self.peek(0).is_some_and(is_name_part) {
                        self.at += 1;
                    }
                    return Ok(Some((Token::Word, start)));
                }
                (b, _) if b.is_ascii_digit() => {
                    // A number takes letters with it (`1e5`, `0xff`), so that none of them begins a string.
                    while self.peek(0).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'))
                    {
                        self.at += 1;
                    }
                    return Ok(Some((Token::Other, start)));
                }
                (b, _) => {
                    self.at += 1;
                    let token = match b {
                        b'(' => Token::Open,
                        b')' => Token::Close,
                        b';' => Token::Semicolon,
                        b'\\' => Token::Backslash,
                        _ => Token::Other,
                    };
                    return Ok(Some((token, start)));
                }
            }
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) -> Result<()> {
        let start = self.at;
        let mut depth = 0_u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(self.unended(start, "the comment")),
            }
        }
    }

    fn quoted(&mut self, start: usize, quote: u8, escapes: bool) -> Result<Option<(Token, usize)>> {
        self.at += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\\'), Some(_)) if escapes => self.at += 2,
                (Some(b), Some(next)) if b == quote && next == quote => self.at += 2,
                (Some(b), _) if b == quote => {
                    self.at += 1;
                    return Ok(Some((Token::Other, start)));
                }
                (Some(_), _) => self.at += 1,
                (None, _) => {
                    return Err(
                        self.unended(start, if quote == b'"' { "the quoted name" } else { "the string" })
                    );
                }
            }
        }
    }

    /// A dollar-quoted string, or a lonely dollar (`$1`).
    fn dollar(&mut self, start: usize) -> Result<Option<(Token, usize)>> {
        let rest = self.bytes.get(start + 1..).unwrap_or_default();
        let length = rest.iter().take_while(|b| is_name_part(**b) && **b != b'$').count();
        let begins_well = rest.first().is_none_or(|b| !b.is_ascii_digit());
        if rest.get(length) != Some(&b'$') || !begins_well {
            self.at += 1;
            return Ok(Some((Token::Other, start)));
        }
        let mark = self.bytes.get(start..start + length + 2).unwrap_or_default();
        let body = start + mark.len();
        let found = self.bytes.get(body..).unwrap_or_default().windows(mark.len()).position(|w| w == mark);
        match found {
            Some(at) => {
                self.at = body + at + mark.len();
                Ok(Some((Token::Other, start)))
            }
            None => Err(self.unended(start, "the dollar-quoted string")),
        }
    }

    fn unended(&self, start: usize, what: &str) -> Error {
        let line = self.bytes.iter().take(start).filter(|b| **b == b'\n').count() + 1;
        Error::invalid(format!("{what} that begins on line {line} does not end"))
    }
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
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
            "SELECT E'\\';'",
            "SELECT 'it''s;'",
            "SELECT \"a;\"\"b\"",
            "SELECT $$a;b$$",
            "SELECT $x$a;$$;$x$",
            "DO $body$ BEGIN PERFORM 1; END; $body$",
            "SELECT 1 /* a; /* b; */ c; */ + 1",
            "SELECT 1 -- a;\n + 1",
            "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); INSERT INTO b VALUES (2))",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END",
            "create or replace procedure p() begin atomic insert into t values (1); end",
            "SELECT a$1;".trim_end_matches(';'),
            "SELECT $1 + 1e5",
            "SELECT U&'\\0061;'",
            "CREATE TABLE \"end\" (\"begin\" int)",
        ];
        for text in whole {
            assert_eq!(texts(&format!("{text};\nSELECT 2")), [text, "SELECT 2"], "{text}");
        }
        assert_eq!(texts(" ;; -- nothing\n ; "), Vec::<String>::new());
        assert_eq!(texts("SELECT 1"), ["SELECT 1"]);
    }

    #[test]
    fn places_are_those_of_the_file() {
        let script = "-- a\n\nSELECT 1;\n  /* b */ SELECT\n 2;";
        let found: Vec<_> = split(script).unwrap().into_iter().map(|s| (s.line, s.offset)).collect();
        assert_eq!(found, [(3, 6), (4, 26)]);
    }

    #[test]
    fn kinds() {
        use StatementKind::{Begin, Commit, Plain, Rollback, Session};
        let cases = [
            ("BEGIN", Begin),
            ("start transaction", Begin),
            ("Begin Work", Begin),
            ("COMMIT", Commit),
            ("END", Commit),
            ("COMMIT PREPARED 'x'", Plain),
            ("ROLLBACK", Rollback),
            ("ROLLBACK TO s", Plain),
            ("SET lock_timeout = '1s'", Session),
            ("SET LOCAL x.y = 1", Plain),
            ("SELECT pg_catalog.set_config('search_path', '', false)", Session),
            ("CREATE TABLE begin_things (a int)", Plain),
        ];
        for (text, kind) in cases {
            assert_eq!(split(text).unwrap()[0].kind, kind, "{text}");
        }
        for text in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "start transaction read only"] {
            assert!(split(text).unwrap_err().to_string().contains("modes of its own"), "{text}");
        }
    }

    #[test]
    fn what_does_not_end_says_where_it_began() {
        let cases = [
            ("SELECT 1;\nSELECT 'a", "string that begins on line 2"),
            ("SELECT $f$ a $g$", "dollar-quoted string that begins on line 1"),
            ("\n/* /* */", "comment that begins on line 2"),
            ("SELECT \"a", "quoted name"),
            ("SELECT (1; SELECT 2", "parenthesis"),
            ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", "BEGIN ATOMIC"),
            ("\\restrict abc\nSELECT 1", "\\restrict, which is a command of psql"),
            ("COPY t (a) FROM stdin;\n1\n\\.\n", "copies from stdin"),
        ];
        for (script, expected) in cases {
            let error = split(script).unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
        }
    }
}
