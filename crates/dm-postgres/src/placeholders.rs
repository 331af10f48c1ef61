//! Finding the placeholders of a statement: `$n`, and `?` for those who write it.
//!
//! Text in strings, quoted names, comments and dollar quotes is left alone. `?` is also a letter of operators (`?|`, `?&`,
//! `@?`, and `?` itself on jsonb): beside another operator's letter of that sort it is no placeholder, `??` is always the
//! operator `?`, and when the count of the rest does not fit the parameters the statement is refused rather than guessed at.

use std::borrow::Cow;

use dm_core::{Error, Result};

/// A piece of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// `$n` at these bytes.
    Dollar { start: usize, end: usize, number: usize },
    /// A `?` that can be a placeholder.
    Question(usize),
    /// `??`, an operator in disguise.
    Escaped(usize),
}

/// The statement with every `?` placeholder turned into `$n`.
pub(crate) fn numbered(text: &str, parameters: usize) -> Result<Cow<'_, str>> {
    if parameters == 0 || !text.contains('?') {
        return Ok(Cow::Borrowed(text));
    }
    let tokens = scan(text);
    if tokens.iter().any(|t| matches!(t, Token::Dollar { .. })) {
        return Ok(Cow::Borrowed(text));
    }
    let questions = tokens.iter().filter(|t| matches!(t, Token::Question(_))).count();
    if questions != parameters {
        return Err(Error::invalid(format!(
            "the statement has {questions} placeholders for {parameters} parameters"
        ))
        .with_hint("write the operator ? as ??, or use $1, $2 ... as placeholders"));
    }
    let mut out = String::with_capacity(text.len() + 2 * questions);
    let (mut from, mut number) = (0, 0);
    for token in tokens {
        let (at, length) = match token {
            Token::Question(at) => (at, 1),
            Token::Escaped(at) => (at, 2),
            Token::Dollar { .. } => continue,
        };
        out.push_str(text.get(from..at).unwrap_or_default());
        if length == 1 {
            number += 1;
            out.push_str(&format!("${number}"));
        } else {
            out.push('?');
        }
        from = at + length;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

/// The statement with some `$n` replaced: `cast(n)` gives the type that the parameter is to be read as from text.
pub(crate) fn with_casts(text: &str, cast: impl Fn(usize) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    let mut from = 0;
    for token in scan(text) {
        let Token::Dollar { start, end, number } = token else { continue };
        let Some(name) = cast(number) else { continue };
        out.push_str(text.get(from..start).unwrap_or_default());
        out.push_str(&format!("(${number}::pg_catalog.text::{name})"));
        from = end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// The statement without its final semicolon and what follows it, and whether there is only this one statement.
pub(crate) fn first_word(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let skipped = skip_quiet(bytes, i);
        if skipped > i {
            i = skipped;
        } else if bytes[i].is_ascii_whitespace() || bytes[i] == b'(' {
            i += 1;
        } else {
            break;
        }
    }
    text.get(i..)
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Skips a comment at `i`, if there is one.
fn skip_quiet(bytes: &[u8], i: usize) -> usize {
    match bytes.get(i..) {
        Some([b'-', b'-', ..]) => {
            bytes[i..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| i + n + 1)
        }
        Some([b'/', b'*', ..]) => block_comment(bytes, i),
        _ => i,
    }
}

/// The end of a block comment; they nest.
fn block_comment(bytes: &[u8], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0_usize);
    while i < bytes.len() {
        match bytes.get(i..) {
            Some([b'/', b'*', ..]) => {
                depth += 1;
                i += 2;
            }
            Some([b'*', b'/', ..]) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

fn scan(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let skipped = skip_quiet(bytes, i);
        if skipped > i {
            i = skipped;
            continue;
        }
        match bytes[i] {
            b'\'' => {
                let escapes =
                    i > 0 && matches!(bytes[i - 1], b'e' | b'E') && !is_word_at(bytes, i.wrapping_sub(2));
                i = quoted(bytes, i, b'\'', escapes);
            }
            b'"' => i = quoted(bytes, i, b'"', false),
            // A dollar inside a name (`a$1`) is part of the name.
            b'$' if i > 0 && is_word_at(bytes, i - 1) => i += 1,
            b'$' => {
                let digits = bytes[i + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
                if digits > 0 {
                    let end = i + 1 + digits;
                    if let Some(number) = text.get(i + 1..end).and_then(|n| n.parse().ok()) {
                        tokens.push(Token::Dollar { start: i, end, number });
                    }
                    i = end;
                } else {
                    i = dollar_quoted(bytes, i);
                }
            }
            b'?' => {
                let after = bytes.get(i + 1).copied().unwrap_or(b' ');
                let before = if i > 0 { bytes[i - 1] } else { b' ' };
                if after == b'?' {
                    tokens.push(Token::Escaped(i));
                    i += 2;
                } else if matches!(after, b'|' | b'&' | b'#' | b'-') || matches!(before, b'@' | b'#' | b'?') {
                    i += 1;
                    while matches!(bytes.get(i), Some(b'|' | b'&' | b'#' | b'-')) {
                        i += 1;
                    }
                } else {
                    tokens.push(Token::Question(i));
                    i += 1;
                }
            }
            _ => i += 1,
        }
    }
    tokens
}

fn is_word_at(bytes: &[u8], i: usize) -> bool {
    bytes.get(i).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || *b >= 0x80)
}

fn quoted(bytes: &[u8], start: usize, quote: u8, escapes: bool) -> usize {
    let mut i = start + 1;
    while i < bytes.len() {
        if escapes && bytes[i] == b'\\' {
            i += 2;
        } else if bytes[i] == quote {
            // A doubled quote is the next string as far as this matters.
            return i + 1;
        } else {
            i += 1;
        }
    }
    bytes.len()
}

fn dollar_quoted(bytes: &[u8], start: usize) -> usize {
    let tag = bytes[start + 1..]
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80)
        .count();
    let open = start + 1 + tag;
    if bytes.get(open) != Some(&b'$') {
        return start + 1;
    }
    let mark = &bytes[start..=open];
    bytes[open + 1..]
        .windows(mark.len())
        .position(|w| w == mark)
        .map_or(bytes.len(), |n| open + 1 + n + mark.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, n: usize) -> String {
        numbered(text, n).unwrap().into_owned()
    }

    #[test]
    fn question_marks_become_numbers_outside_of_quotes() {
        assert_eq!(number("SELECT ? + ?", 2), "SELECT $1 + $2");
        assert_eq!(
            number("a='?' AND \"b?\"=? -- ?\n/* ? /* ? */ ? */ AND $$?$$=$t$?$t$ AND c=E'\\'?' AND d=?", 2),
            "a='?' AND \"b?\"=$1 -- ?\n/* ? /* ? */ ? */ AND $$?$$=$t$?$t$ AND c=E'\\'?' AND d=$2"
        );
        assert_eq!(number("x=?AND y=(?)", 2), "x=$1AND y=($2)");
        assert_eq!(number("it''s '' ''?'' ' ? '", 0), "it''s '' ''?'' ' ? '");
    }

    #[test]
    fn operators_stay() {
        assert_eq!(
            number("a ?| b AND c ?& d AND e @? f AND g ?? ?", 1),
            "a ?| b AND c ?& d AND e @? f AND g ? $1"
        );
        assert_eq!(number("a ? $1", 1), "a ? $1");
        assert_eq!(number("data ? 'k'", 0), "data ? 'k'");
        assert!(numbered("data ? 'k' AND x = ?", 1).is_err());
        assert!(numbered("SELECT ?", 2).is_err());
    }

    #[test]
    fn casts_go_to_the_numbers_asked_for() {
        let cast =
            with_casts("SELECT $1, $12, '$1', a$1 /* $1 */", |n| (n == 1).then(|| "numeric".to_owned()));
        assert_eq!(cast, "SELECT ($1::pg_catalog.text::numeric), $12, '$1', a$1 /* $1 */");
        assert_eq!(first_word("-- x\n /* y */ (SELECT 1)"), "select");
    }
}
