//! Where comments are, and lines and columns.
//!
//! Finds `--` comments that are really comments: not inside a string, a quoted name, a dollar quote or a block comment.
//! Both dialects agree on these; dollar quotes do no harm in SQLite, where a `$` cannot begin a quoted text.

/// A `--` comment: where it begins, and its text without the dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comment<'a> {
    pub(crate) offset: usize,
    pub(crate) text: &'a str,
}

/// All line comments of a text, in order.
pub(crate) fn line_comments(text: &str) -> Vec<Comment<'_>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        at += match byte {
            b'\'' => {
                let escapes = text.get(..at).is_some_and(|before| {
                    before.ends_with(['e', 'E']) && !before[..before.len() - 1].ends_with(is_word)
                });
                quoted(rest, '\'', escapes)
            }
            b'"' => quoted(rest, '"', false),
            b'`' => quoted(rest, '`', false),
            b'$' => dollar_quoted(rest).unwrap_or(1),
            b'-' if rest.starts_with("--") => {
                let end = rest.find('\n').unwrap_or(rest.len());
                let comment = rest.get(2..end).unwrap_or_default();
                found.push(Comment { offset: at, text: comment.trim_end_matches('\r') });
                end
            }
            b'/' if rest.starts_with("/*") => block(rest),
            _ => 1,
        };
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The length of a quoted text with its quotes; a doubled quote closes and opens again, which comes to the same.
fn quoted(rest: &str, quote: char, escapes: bool) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if escapes => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn dollar_quoted(rest: &str) -> Option<usize> {
    let inner = rest.get(1..)?;
    let close = inner.find('$')?;
    let tag = inner.get(..close)?;
    if tag.contains(|c: char| !is_word(c) || c == '$') || tag.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mark = rest.get(..close + 2)?;
    let end = rest.get(mark.len()..)?.find(mark).map(|found| found + 2 * mark.len());
    Some(end.unwrap_or(rest.len()))
}

/// Block comments nest, in PostgreSQL; in SQLite the first end ends them, and nobody nests them.
fn block(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (at, depth) = (at + 2, depth + 1),
            Some(b"*/") => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Line and column of an offset, both from 1, columns in characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The offset of a line and a column in bytes, both from 1.
pub(crate) fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut offset = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// How much of an offset's following text is blank or comment.
pub(crate) fn skip_blank(text: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        at += blank;
        if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block(rest);
        } else {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_are_comments() {
        let text = "-- one\nSELECT '-- no', \"-- no\", E'\\'-- no', $$ -- no $$, $a$ -- no $$ $a$ /* -- no /* */ -- no */ -- two\r\n--three";
        let found: Vec<_> = line_comments(text).iter().map(|c| c.text).collect();
        assert_eq!(found, [" one", " two", "three"]);
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("a\néß x", "a\néß ".len()), (2, 4));
        assert_eq!(offset_of("a\nbc", 2, 2), 3);
        assert_eq!(skip_blank(" -- x\n /* y */ z", 0), 15);
    }
}
