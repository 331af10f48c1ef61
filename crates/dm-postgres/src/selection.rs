//! Which tables a caller means: names and patterns against the catalog.

use dm_core::Error;

/// A name or pattern as the caller wrote it. `*` stands for any text; a pattern without a dot is a table of any
/// schema; a name may also be written with the quotes that the engine itself would print.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// Wraps what the caller wrote.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// What the caller wrote.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether it means this table. `display` is the qualified name as the engine quotes it.
    pub(crate) fn matches(&self, schema: &str, name: &str, display: &str) -> bool {
        self.0 == display || glob(&self.0, &format!("{schema}.{name}")) || glob(&self.0, name)
    }
}

/// The error for patterns that mean nothing.
pub(crate) fn nothing_matches(patterns: &[String]) -> Error {
    Error::not_found(format!("no table matches {}", listed(patterns)))
        .with_hint("name tables as schema.table; * stands for any text")
}

/// `"a", "b" and 3 more`
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut text = names.iter().take(SHOWN).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let middle: Vec<&str> = parts.collect();
    let Some((last, between)) = middle.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_quotes() {
        let matches = |p: &str, s: &str, n: &str, d: &str| Pattern::new(p).matches(s, n, d);
        assert!(matches("orders", "public", "orders", "public.orders"));
        assert!(matches("public.orders", "public", "orders", "public.orders"));
        assert!(matches("public.*", "public", "orders", "public.orders"));
        assert!(matches("*.log_*", "app", "log_1", "app.log_1"));
        assert!(matches("public.\"Big One\"", "public", "Big One", "public.\"Big One\""));
        assert!(matches("public.Big One", "public", "Big One", "public.\"Big One\""));
        assert!(!matches("order", "public", "orders", "public.orders"));
        assert!(!matches("public.orders", "app", "orders", "app.orders"));
        assert!(glob("a*b*c", "a-b-b-c") && !glob("a*b*c", "a-c") && !glob("ab*ba", "aba"));
    }
}
