//! The triggers of a table, as text.

use crate::capture::PREFIX;
use crate::schema::quote;

/// How a column stands in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    Clear,
    Masked,
    Excluded,
}

/// A column and its treatment.
pub(super) struct Treated {
    pub(super) name: String,
    pub(super) treatment: Treatment,
}

/// A text literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The name of a trigger.
pub(super) fn name(id: i64, operation: &str) -> String {
    format!("{PREFIX}{id}_{operation}")
}

/// The definitions of the three triggers, as SQLite keeps them.
pub(super) fn definitions(id: i64, table: &str, columns: &[Treated]) -> Vec<(String, String)> {
    let before = image("OLD", columns);
    let after = image("NEW", columns);
    let differs = |c: &Treated| format!("OLD.{0} IS NOT NEW.{0}", quote(&c.name));
    let any = columns.iter().map(differs).collect::<Vec<_>>().join(" OR ");
    let changed: Vec<_> = columns
        .iter()
        .map(|c| {
            let word = format!(",{}", serde_json::Value::String(c.name.clone()));
            format!("CASE WHEN {} THEN {} ELSE '' END", differs(c), literal(&word))
        })
        .collect();
    let changed = format!("'[' || substr({}, 2) || ']'", changed.join(" || "));
    [
        ("insert", String::new(), "NULL", after.as_str(), "NULL"),
        ("update", format!("WHEN {any} "), before.as_str(), after.as_str(), changed.as_str()),
        ("delete", String::new(), before.as_str(), "NULL", "NULL"),
    ]
    .into_iter()
    .map(|(operation, when, before, after, changed)| {
        let name = name(id, operation);
        let text = format!(
            "CREATE TRIGGER {} AFTER {} ON {} {when}BEGIN INSERT INTO dm_capture_changes \
             (table_name, operation, before, after, changed, acting, tx) \
             VALUES ({}, '{operation}', {before}, {after}, {changed}, \
             (SELECT user FROM dm_capture_session ORDER BY rowid DESC LIMIT 1), \
             (SELECT tx FROM dm_capture_session ORDER BY rowid DESC LIMIT 1)); END",
            quote(&name),
            operation.to_uppercase(),
            quote(table),
            literal(table),
        );
        (name, text)
    })
    .collect()
}

/// A row as JSON, put together as text: there is no limit of arguments, blobs become hexadecimal, and a number keeps all of
/// its digits.
fn image(side: &str, columns: &[Treated]) -> String {
    let fields: Vec<_> = columns
        .iter()
        .filter(|c| c.treatment != Treatment::Excluded)
        .map(|c| {
            let value = format!("{side}.{}", quote(&c.name));
            let key = literal(&format!("{}:", serde_json::Value::String(c.name.clone())));
            let shown = match c.treatment {
                Treatment::Masked => format!("CASE WHEN {value} IS NULL THEN 'null' ELSE '\"***\"' END"),
                _ => format!(
                    "CASE typeof({value}) WHEN 'blob' THEN '\"\\\\x' || lower(hex({value})) || '\"' \
                     WHEN 'real' THEN CASE WHEN abs({value}) <= 1.7976931348623157e308 \
                     THEN CASE WHEN CAST(printf('%!.15g', {value}) AS REAL) = {value} \
                     THEN printf('%!.15g', {value}) ELSE printf('%!.17g', {value}) END ELSE '\"' || {value} || '\"' END \
                     ELSE json_quote({value}) END"
                ),
            };
            format!("{key} || {shown}")
        })
        .collect();
    match fields.is_empty() {
        true => "'{}'".to_owned(),
        false => format!("'{{' || {} || '}}'", fields.join(" || ',' || ")),
    }
}
