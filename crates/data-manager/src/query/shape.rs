//! What a statement is, without the values in it: for the record of who read what.
//!
//! Literals become `?`, comments go, and the tables that the statement names are listed. It is read word by word and not
//! understood: what a view or a function reads is not seen. Whatever could be a value is cut; rather too much than too little.

/// The most characters of a statement that are kept.
const MOST: usize = 2000;

/// A statement without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) statement: String,
    pub(super) tables: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or a name as it stands.
    Word(String),
    /// A name in quotes, with them.
    Quoted(String),
    /// A placeholder, or a value that was cut.
    Value(String),
    Sign(char),
}

pub(super) fn shape(text: &str) -> Shape {
    let tokens = tokens(text);
    let mut statement = String::new();
    for (i, token) in tokens.iter().enumerate() {
        let close = matches!(token, Token::Sign(',' | ')' | ';' | '.')) || i == 0;
        let open = i > 0 && matches!(tokens[i - 1], Token::Sign('(' | '.'));
        let call = matches!(token, Token::Sign('(')) && i > 0 && matches!(tokens[i - 1], Token::Word(_));
        let operator = |t: &Token| matches!(t, Token::Sign(c) if "<>=!|&+-*/%^~#:@".contains(*c));
        let within = i > 0 && operator(token) && operator(&tokens[i - 1]);
        if !(close || open || call || within) {
            statement.push(' ');
        }
        match token {
            Token::Word(text) | Token::Quoted(text) | Token::Value(text) => statement.push_str(text),
            Token::Sign(sign) => statement.push(*sign),
        }
    }
    if let Some((end, _)) = statement.char_indices().nth(MOST) {
        statement.truncate(end);
        statement.push('…');
    }
    Shape { statement, tables: tables(&tokens) }
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let cut = || Token::Value("?".to_owned());
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        match c {
            c if c.is_whitespace() => at += 1,
            '-' if next == Some('-') => at = end_of(&chars, at, '\n'),
            '/' if next == Some('*') => at = end_of_comment(&chars, at),
            '\'' => {
                // E'', B'', X'', U&'' and the like: the letter goes with the value.
                let escapes = matches!(tokens.last(), Some(Token::Word(w)) if w.eq_ignore_ascii_case("e"))
                    && at > 0
                    && chars[at - 1].is_ascii_alphabetic();
                if at > 0 && chars[at - 1].is_ascii_alphabetic() {
                    tokens.pop();
                }
                at = end_of_quoted(&chars, at, '\'', escapes);
                tokens.push(cut());
            }
            '"' | '`' => {
                let end = end_of_quoted(&chars, at, c, false);
                let name: String = chars[at..end].iter().collect();
                // SQLite takes a name in quotes that it does not know for a text.
                let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$' | '"' | '`');
                let named = name.chars().all(plain) && name.chars().count() <= 65;
                tokens.push(if named { Token::Quoted(name) } else { cut() });
                at = end;
            }
            '$' if dollar_quote(&chars, at).is_some() => {
                at = dollar_quote(&chars, at).unwrap_or(chars.len());
                tokens.push(cut());
            }
            '$' | ':' | '@' | '?' if next.is_some_and(char::is_alphanumeric) && c != ':' || c == '?' => {
                let end = run(&chars, at + 1, |c| c.is_alphanumeric() || c == '_');
                tokens.push(Token::Value(chars[at..end].iter().collect()));
                at = end;
            }
            c if c.is_ascii_digit() || c == '.' && next.is_some_and(|n| n.is_ascii_digit()) => {
                at = run(&chars, at, |c| c.is_alphanumeric() || matches!(c, '.' | '_'));
                tokens.push(cut());
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = run(&chars, at, |c| c.is_alphanumeric() || matches!(c, '_' | '$'));
                tokens.push(Token::Word(chars[at..end].iter().collect()));
                at = end;
            }
            c => {
                tokens.push(Token::Sign(c));
                at += 1;
            }
        }
    }
    tokens
}

fn run(chars: &[char], from: usize, of: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| !of(*c)).map_or(chars.len(), |n| from + n)
}

fn end_of(chars: &[char], from: usize, end: char) -> usize {
    chars[from..].iter().position(|c| *c == end).map_or(chars.len(), |n| from + n)
}

/// Comments in comments, as PostgreSQL has them: whoever has none ends earlier, and more is cut.
fn end_of_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from + 2, 1);
    while depth > 0 && at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn end_of_quoted(chars: &[char], from: usize, quote: char, escapes: bool) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if escapes => at += 2,
            c if c == quote && chars.get(at + 1) == Some(&quote) => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `$tag$…$tag$` that begins here.
fn dollar_quote(chars: &[char], from: usize) -> Option<usize> {
    let end = run(chars, from + 1, |c| c.is_alphanumeric() || c == '_');
    if chars.get(end) != Some(&'$') || chars.get(from + 1).is_some_and(char::is_ascii_digit) {
        return None;
    }
    let tag = &chars[from..=end];
    let body = end + 1;
    let close = chars[body..].windows(tag.len()).position(|window| window == tag);
    Some(close.map_or(chars.len(), |n| body + n + tag.len()))
}

fn is_word(token: Option<&Token>, words: &[&str]) -> bool {
    matches!(token, Some(Token::Word(w)) if words.iter().any(|word| w.eq_ignore_ascii_case(word)))
}

/// The tables that are named behind FROM, JOIN, INTO, UPDATE, TABLE; sorted, without those that WITH defines.
fn tables(tokens: &[Token]) -> Vec<String> {
    const BEGIN: [&str; 6] = ["from", "join", "into", "update", "table", "truncate"];
    const SKIP: [&str; 7] = ["only", "lateral", "if", "exists", "not", "table", "or"];
    const NOT_A_TABLE: [&str; 5] = ["select", "set", "values", "where", "nothing"];
    let mut found = Vec::new();
    // For each open parenthesis: whether it is of a function, and whether a list of tables was being read around it.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let (mut expecting, mut in_list) = (false, false);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Sign('(') => {
                let function = at > 0
                    && matches!(&tokens[at - 1], Token::Word(w)
                    if !is_clause(w) && !BEGIN.iter().chain(&SKIP).any(|word| w.eq_ignore_ascii_case(word)));
                open.push((function, in_list));
                (expecting, in_list) = (expecting && !function, in_list && !function);
            }
            Token::Sign(')') => {
                (expecting, in_list) = (false, open.pop().is_some_and(|(_, in_list)| in_list));
            }
            Token::Sign(',') if in_list => expecting = true,
            Token::Word(word) if BEGIN.iter().any(|w| word.eq_ignore_ascii_case(w)) => {
                let distinct = at > 0 && is_word(tokens.get(at - 1), &["distinct"]);
                let in_function = open.last().is_some_and(|(function, _)| *function);
                let conflict = at > 1 && is_word(tokens.get(at - 1), &["do", "for"]);
                expecting = !(distinct || in_function || conflict);
                in_list = expecting && word.eq_ignore_ascii_case("from");
            }
            Token::Word(word) if expecting && SKIP.iter().any(|w| word.eq_ignore_ascii_case(w)) => {}
            Token::Word(word) if expecting && NOT_A_TABLE.iter().any(|w| word.eq_ignore_ascii_case(w)) => {
                expecting = false;
            }
            Token::Word(_) | Token::Quoted(_) if expecting => {
                let mut name = text_of(&tokens[at]);
                while tokens.get(at + 1) == Some(&Token::Sign('.')) && tokens.len() > at + 2 {
                    name.push('.');
                    name.push_str(&text_of(&tokens[at + 2]));
                    at += 2;
                }
                expecting = false;
                let of_function = tokens.get(at + 1) == Some(&Token::Sign('('))
                    && !tokens.iter().take(at).any(|t| is_word(Some(t), &["insert", "create"]));
                if !of_function {
                    found.push(name);
                }
            }
            Token::Word(word) if is_clause(word) && !word.eq_ignore_ascii_case("as") => in_list = false,
            _ => {}
        }
        at += 1;
    }
    let defined: Vec<String> = tokens
        .windows(3)
        .filter(|w| is_word(w.get(1), &["as"]) && w[2] == Token::Sign('('))
        .map(|w| text_of(&w[0]))
        .collect();
    found.retain(|name| !defined.contains(name));
    found.sort();
    found.dedup();
    found
}

fn is_clause(word: &str) -> bool {
    const CLAUSES: [&str; 24] = [
        "select",
        "where",
        "group",
        "order",
        "having",
        "limit",
        "offset",
        "union",
        "intersect",
        "except",
        "on",
        "using",
        "set",
        "values",
        "returning",
        "and",
        "or",
        "not",
        "in",
        "exists",
        "as",
        "from",
        "window",
        "fetch",
    ];
    CLAUSES.iter().any(|w| word.eq_ignore_ascii_case(w))
}

fn text_of(token: &Token) -> String {
    match token {
        Token::Word(text) | Token::Value(text) => text.clone(),
        Token::Quoted(text) => text.clone(),
        Token::Sign(sign) => sign.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_stays_and_the_tables_are_named() {
        for (text, statement, tables) in [
            ("SELECT * FROM users WHERE id = 5", "SELECT * FROM users WHERE id = ?", "users"),
            (
                "select 'it''s ''secret''', E'a\\'secret', x'00', $$secret$$, $t$ $$ secret $t$ from a.b as x, \"C\" c where n=$1",
                "select ?, ?, ?, ?, ? from a.b as x, \"C\" c where n = $1",
                "\"C\" a.b",
            ),
            ("SELECT 1 -- secret\n/* /* secret */ */ FROM t", "SELECT ? FROM t", "t"),
            (
                "WITH q AS (SELECT * FROM t) SELECT * FROM q JOIN (SELECT 1 FROM u) s ON s.x = 1.5e3",
                "",
                "t u",
            ),
            ("INSERT INTO t (a, b) VALUES (1, 'secret') ON CONFLICT DO UPDATE SET a = 1", "", "t"),
            ("UPDATE s.t SET a = -1 WHERE b IS DISTINCT FROM 'secret'", "", "s.t"),
            ("DELETE FROM ONLY t USING u WHERE extract(year FROM d) = 2020", "", "t"),
            (
                "SELECT * FROM generate_series(1, 5) g, t LEFT JOIN LATERAL (SELECT * FROM v) x ON true",
                "",
                "t v",
            ),
            ("SELECT \"a secret text\" FROM t", "SELECT ? FROM t", "t"),
            ("SELECT 'unfinished secret", "SELECT ?", ""),
            ("SELECT * FROM t WHERE a = ?1 AND b = :name FOR UPDATE", "", "t"),
            ("TRUNCATE TABLE t", "TRUNCATE TABLE t", "t"),
        ] {
            let said = shape(text);
            if !statement.is_empty() {
                assert_eq!(said.statement, statement, "{text}");
            }
            assert!(!said.statement.contains("secret") && !said.statement.contains("2020"), "{said:?}");
            assert_eq!(said.tables.join(" "), tables, "{text}");
        }
        assert!(shape(&"x ".repeat(5000)).statement.chars().count() <= MOST + 1);
    }

    #[test]
    fn nothing_makes_it_fail() {
        let mut random = 12345_u64;
        let alphabet: Vec<char> = "'\"$`-/*().,;:?@eEx0 9az_\n\\ü".chars().collect();
        for _ in 0..20_000 {
            let text: String = (0..random % 40)
                .map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    alphabet[usize::try_from(random >> 33).unwrap() % alphabet.len()]
                })
                .collect();
            shape(&text);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }
}
