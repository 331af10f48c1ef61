//! Differences as statements, and a dump as a migration.

use dm_core::SchemaObject;

use crate::sql::{quote_ident, quote_literal};

/// What changes an object into another form of it.
pub(super) fn alter(before: &SchemaObject, after: &SchemaObject) -> Result<Vec<String>, String> {
    let again = || match before.drop.is_empty() || after.create.is_empty() {
        true => Err("it has to be written by hand".to_owned()),
        false => Ok(vec![before.drop.clone(), after.create.clone()]),
    };
    match after.kind.as_str() {
        "column" => column(before, after),
        "table" => table(before, after),
        "enum" => enumeration(before, after),
        "function" | "procedure" | "comment" => Ok(vec![after.create.clone()]),
        "view" => Ok(vec![after.create.replacen("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)]),
        "sequence" if facet(before, "owned by") == facet(after, "owned by") => {
            let cycle = if facet(after, "cycle") == Some("true") { "" } else { " NO CYCLE" };
            Ok(vec![format!("{}{cycle}", after.create.replacen("CREATE", "ALTER", 1))])
        }
        "extension" if facet(before, "schema") == facet(after, "schema") => Ok(vec![format!(
            "ALTER EXTENSION {} UPDATE TO {}",
            after.name,
            quote_literal(facet(after, "version").unwrap_or_default())
        )]),
        "trigger" if facet(before, "definition") == facet(after, "definition") => {
            match facet(after, "enabled") {
                Some("O") => Ok(vec![enabling(after, "ENABLE")]),
                Some("D") => Ok(vec![enabling(after, "DISABLE")]),
                _ => Err("it fires for replicated changes".to_owned()),
            }
        }
        "constraint" | "index" | "materialized view" | "policy" | "rule" | "trigger" | "statistics"
        | "grant" => again(),
        _ => Err("it has to be written by hand".to_owned()),
    }
}

fn enabling(trigger: &SchemaObject, word: &str) -> String {
    let table = trigger.of.as_deref().unwrap_or_default();
    let name = trigger.name.strip_prefix(table).map_or("", |rest| rest.trim_start_matches('.'));
    format!("ALTER TABLE {table} {word} TRIGGER {name}")
}

fn facet<'a>(object: &'a SchemaObject, name: &str) -> Option<&'a str> {
    object.facets.get(name).map(String::as_str)
}

/// The names of the facets that differ.
fn differing(before: &SchemaObject, after: &SchemaObject) -> Vec<String> {
    let mut names: Vec<String> = before.facets.keys().chain(after.facets.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|n| before.facets.get(n) != after.facets.get(n));
    names
}

fn column(before: &SchemaObject, after: &SchemaObject) -> Result<Vec<String>, String> {
    let table = after.of.as_deref().unwrap_or_default();
    let name = after.name.strip_prefix(table).map_or("", |rest| rest.trim_start_matches('.'));
    let alter = format!("ALTER TABLE {table} ALTER COLUMN {name}");
    let differing = differing(before, after);
    let mut statements = Vec::new();
    let retyped = differing.iter().any(|d| d == "type");
    if retyped && facet(before, "default").is_some() {
        // A default is not converted along.
        statements.push(format!("{alter} DROP DEFAULT"));
    }
    if retyped {
        let data_type = facet(after, "type").unwrap_or_default();
        statements.push(format!("{alter} TYPE {data_type} USING {name}::{data_type}"));
    }
    for facet_name in &differing {
        match (facet_name.as_str(), facet(after, facet_name)) {
            ("type", _) => {}
            ("nullable", Some("no")) => statements.push(format!("{alter} SET NOT NULL")),
            ("nullable", _) => statements.push(format!("{alter} DROP NOT NULL")),
            ("default", None) if !retyped => statements.push(format!("{alter} DROP DEFAULT")),
            ("default", None) => {}
            ("default", Some(_)) if retyped => {}
            ("default", Some(value)) => statements.push(format!("{alter} SET DEFAULT {value}")),
            (other, _) => return Err(format!("its {other} has to be written by hand")),
        }
    }
    if retyped && let Some(value) = facet(after, "default") {
        statements.push(format!("{alter} SET DEFAULT {value}"));
    }
    Ok(statements)
}

fn table(before: &SchemaObject, after: &SchemaObject) -> Result<Vec<String>, String> {
    let alter = format!("ALTER TABLE {}", after.name);
    let mut statements = Vec::new();
    for name in differing(before, after) {
        match (name.as_str(), facet(after, &name)) {
            ("row security", None) => {
                statements.push(format!("{alter} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY"));
            }
            ("row security", Some("forced")) => {
                statements.push(format!("{alter} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"));
            }
            ("row security", Some(_)) => {
                statements.push(format!("{alter} ENABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"));
            }
            ("persistence", Some("u")) => statements.push(format!("{alter} SET UNLOGGED")),
            ("persistence", Some("p")) => statements.push(format!("{alter} SET LOGGED")),
            ("options", Some(options)) => statements.push(format!("{alter} SET ({options})")),
            ("replica identity", Some("f")) => statements.push(format!("{alter} REPLICA IDENTITY FULL")),
            ("replica identity", Some("d")) => statements.push(format!("{alter} REPLICA IDENTITY DEFAULT")),
            ("tablespace", place) => {
                statements
                    .push(format!("{alter} SET TABLESPACE {}", quote_ident(place.unwrap_or("pg_default"))));
            }
            (other, _) => return Err(format!("its {other} has to be written by hand")),
        }
    }
    Ok(statements)
}

/// Values are only ever added.
fn enumeration(before: &SchemaObject, after: &SchemaObject) -> Result<Vec<String>, String> {
    let values = |o: &SchemaObject| -> Vec<String> {
        facet(o, "values").map(|v| v.split(", ").map(str::to_owned).collect()).unwrap_or_default()
    };
    let (old, new) = (values(before), values(after));
    let kept: Vec<&String> = new.iter().filter(|v| old.contains(v)).collect();
    if kept.iter().copied().ne(old.iter()) {
        return Err("values of an enum are neither removed nor moved".to_owned());
    }
    let mut statements = Vec::new();
    let mut previous: Option<&String> = None;
    for value in &new {
        if !old.contains(value) {
            let place = match previous {
                Some(previous) => format!("AFTER {previous}"),
                None => format!("BEFORE {}", old.first().map_or("", String::as_str)),
            };
            statements.push(format!("ALTER TYPE {} ADD VALUE {value} {place}", after.name));
        }
        previous = Some(value);
    }
    Ok(statements)
}

/// Settings of `pg_dump`'s head that definitions depend on; kept, for the transaction alone.
const KEPT_SETTINGS: [&str; 4] =
    ["check_function_bodies", "default_table_access_method", "default_tablespace", "xmloption"];

/// A dump of definitions as a migration: without comments, without psql's commands, without what would stay set in the session.
pub(super) fn of_dump(dump: &str) -> String {
    let mut text = String::new();
    let mut quote: Option<String> = None;
    for line in dump.lines() {
        if quote.is_none() {
            if line.starts_with("--")
                || line.starts_with('\\')
                || line.starts_with("SELECT pg_catalog.set_config('search_path'")
            {
                continue;
            }
            if let Some(setting) = line.strip_prefix("SET ") {
                if KEPT_SETTINGS.iter().any(|k| setting.starts_with(k)) {
                    text.push_str(&format!("SET LOCAL {setting}\n"));
                }
                continue;
            }
            if line.is_empty() && (text.is_empty() || text.ends_with("\n\n")) {
                continue;
            }
        }
        follow_quotes(line, &mut quote);
        text.push_str(line);
        text.push('\n');
    }
    format!("{}\n", text.trim_end())
}

/// Keeps track of dollar quotes over lines.
fn follow_quotes(line: &str, quote: &mut Option<String>) {
    let mut rest = line;
    loop {
        match quote {
            Some(mark) => match rest.find(mark.as_str()) {
                Some(at) => {
                    rest = &rest[at + mark.len()..];
                    *quote = None;
                }
                None => return,
            },
            None => {
                let Some(at) = rest.find('$') else { return };
                let tail = &rest[at + 1..];
                let Some(end) = tail.find('$') else { return };
                if tail[..end].chars().all(|c| c.is_alphanumeric() || c == '_') {
                    *quote = Some(format!("${}$", &tail[..end]));
                    rest = &tail[end + 1..];
                } else {
                    rest = tail;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_becomes_a_migration() {
        let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET statement_timeout = 0;\nSET check_function_bodies = false;\n\
                    SELECT pg_catalog.set_config('search_path', '', false);\n\nCREATE FUNCTION public.f() AS $_$\nSET a = 1;\n-- kept\n$_$;\n\n\n\nCREATE TABLE t ();\n\\unrestrict x\n";
        assert_eq!(
            of_dump(dump),
            "SET LOCAL check_function_bodies = false;\n\nCREATE FUNCTION public.f() AS $_$\nSET a = 1;\n-- kept\n$_$;\n\nCREATE TABLE t ();\n"
        );
    }

    #[test]
    fn values_of_an_enum_are_added_where_they_belong() {
        let object = |values: &str| SchemaObject {
            kind: "enum".to_owned(),
            name: "public.mood".to_owned(),
            of: None,
            facets: [("values".to_owned(), values.to_owned())].into(),
            create: String::new(),
            drop: String::new(),
        };
        let written = enumeration(&object("'a', 'c'"), &object("'0', 'a', 'b', 'c'")).unwrap();
        assert_eq!(
            written,
            [
                "ALTER TYPE public.mood ADD VALUE '0' BEFORE 'a'",
                "ALTER TYPE public.mood ADD VALUE 'b' AFTER 'a'"
            ]
        );
        assert!(enumeration(&object("'a', 'c'"), &object("'a'")).is_err());
        assert!(enumeration(&object("'a', 'c'"), &object("'c', 'a'")).is_err());
    }
}
