//! The one place where text is put into statements: identifiers and literals, quoted.

use sqlx::AssertSqlSafe;

/// A statement that was put together in this crate out of constant text, quoted names and quoted literals — or that
/// is the caller's own statement, handed through the query port unchanged.
pub(crate) fn dynamic(text: impl Into<String>) -> AssertSqlSafe<String> {
    AssertSqlSafe(text.into())
}

/// An identifier, always in double quotes.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A qualified name, each part in double quotes.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// A literal. The escape form is used when there is a backslash, so that `standard_conforming_strings` cannot matter.
pub(crate) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// A value of a libpq connection string.
pub(crate) fn quote_conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A table as a pattern of `pg_dump` that matches this table alone: inside double quotes nothing is special but them.
pub(crate) fn dump_pattern(schema: &str, name: &str) -> String {
    qualified(schema, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out() {
        assert_eq!(quote_ident("we\"ird; DROP TABLE x"), "\"we\"\"ird; DROP TABLE x\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(quote_conninfo("a'b\\c"), "'a\\'b\\\\c'");
    }
}
