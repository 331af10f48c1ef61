//! New columns that look like personal data.

use crate::lint::{Findings, View};
use crate::model::{Action, Column, Kind, Statement};

/// Words that name personal data when a column's name has them, in English as schemas use it.
const WORDS: &[&str] = &[
    "address",
    "bic",
    "birth",
    "birthday",
    "birthdate",
    "city",
    "dob",
    "email",
    "ethnicity",
    "firstname",
    "gender",
    "iban",
    "ip",
    "lastname",
    "latitude",
    "longitude",
    "mail",
    "mobile",
    "nationality",
    "passport",
    "phone",
    "postcode",
    "religion",
    "salary",
    "sex",
    "ssn",
    "street",
    "surname",
    "telephone",
    "username",
    "zip",
    "zipcode",
];

/// Pairs of neighbouring words that do so together.
const PAIRS: &[(&str, &str)] = &[
    ("first", "name"),
    ("last", "name"),
    ("full", "name"),
    ("family", "name"),
    ("given", "name"),
    ("middle", "name"),
    ("maiden", "name"),
    ("user", "name"),
    ("credit", "card"),
    ("card", "number"),
    ("tax", "id"),
    ("national", "id"),
    ("social", "security"),
    ("user", "agent"),
    ("postal", "code"),
    ("bank", "account"),
    ("health", "insurance"),
    ("license", "plate"),
    ("device", "id"),
];

pub(super) fn check(view: &View<'_>, findings: &mut Findings<'_>) {
    for (_, statement) in view.each() {
        match &statement.kind {
            Kind::CreateTable(table) if !table.temporary => {
                table.columns.iter().for_each(|c| judge(view, statement, &table.name, c, findings));
            }
            Kind::AlterTable { table, actions } => {
                for action in actions {
                    if let Action::AddColumn(column) = action {
                        judge(view, statement, table, column, findings);
                    }
                }
            }
            _ => {}
        }
    }
}

fn judge(view: &View<'_>, statement: &Statement, table: &str, column: &Column, findings: &mut Findings<'_>) {
    if !is_personal(&column.name)
        || is_flag(&column.data_type)
        || view.context.is_classified(table, &column.name)
    {
        return;
    }
    let name = &column.name;
    findings.add(
        "personal-data-unclassified",
        statement,
        Some(table),
        format!("{table}.{name} looks like personal data"),
        format!("classify {table}.{name} in the configuration ([migrate] classified), or say with -- dm:ignore why it is none"),
    );
}

/// A truth value or a date of something says when or whether, not what.
fn is_flag(data_type: &str) -> bool {
    matches!(data_type, "bool" | "boolean") || data_type.starts_with("timestamp")
}

fn is_personal(name: &str) -> bool {
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    // `city_id` refers to a city, it holds none; `ip` alone does hold one.
    let refers = words.len() > 1 && words.last() == Some(&"id");
    let pair = words.windows(2).any(|w| matches!(w, [a, b] if PAIRS.contains(&(a, b))));
    pair || !refers && words.iter().any(|w| WORDS.contains(w))
}

#[cfg(test)]
mod tests {
    use super::is_personal;

    #[test]
    fn words_count_and_parts_of_words_do_not() {
        for name in
            ["email", "billing_email", "first_name", "ip", "date_of_birth", "credit_card_last4", "tax_id"]
        {
            assert!(is_personal(name), "{name}");
        }
        for name in [
            "id",
            "title",
            "shipped_at",
            "city_id",
            "zipped",
            "name",
            "description",
            "ship_mode",
            "mailbox_count",
        ] {
            assert!(!is_personal(name), "{name}");
        }
    }
}
