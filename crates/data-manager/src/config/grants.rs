//! Roles as the file writes them: `["backup:*", { action = "*:list", resource = "shop-*", forbid = true }]`.

use dm_core::Grant;

use super::kind::Raw;
use super::nearest::nearest;

const FIELDS: [&str; 4] = ["action", "resource", "forbid", "read_only"];

/// The grants, or what there was and, where the general form is not enough, what was expected.
pub(super) fn read(items: &[Raw]) -> Result<Vec<Grant>, (String, Option<String>)> {
    items.iter().map(one).collect()
}

fn one(item: &Raw) -> Result<Grant, (String, Option<String>)> {
    let mut grant =
        Grant { action: String::new(), resource: "*".to_owned(), forbid: false, read_only: false };
    match item {
        Raw::Text(action) => grant.action.clone_from(action),
        Raw::Table(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("action", Raw::Text(text)) => grant.action.clone_from(text),
                    ("resource", Raw::Text(text)) => grant.resource.clone_from(text),
                    ("forbid", Raw::Flag(on)) => grant.forbid = *on,
                    ("read_only", Raw::Flag(on)) => grant.read_only = *on,
                    (known, other) if FIELDS.contains(&known) => {
                        let form =
                            if known == "action" || known == "resource" { "text" } else { "true or false" };
                        return Err((
                            format!("a grant whose {known} is {}", other.describe()),
                            Some(format!("{known} to be {form}")),
                        ));
                    }
                    (unknown, _) => {
                        let expected = match nearest(unknown, FIELDS) {
                            Some(near) => near.to_owned(),
                            None => format!("only {}", FIELDS.join(", ")),
                        };
                        return Err((format!("a grant with the unknown key {unknown}"), Some(expected)));
                    }
                }
            }
        }
        other => return Err((format!("a list with {} in it", other.describe()), None)),
    }
    let part = |word: &str| {
        let stem = word.strip_suffix('*').unwrap_or(word);
        !word.is_empty() && stem.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'))
    };
    match grant.action.split_once(':') {
        Some((area, verb)) if part(area) && part(verb) => Ok(grant),
        _ => Err((
            format!("a grant of \"{}\"", grant.action),
            Some("an action such as \"backup:run\", \"backup:*\" or \"*:list\"".to_owned()),
        )),
    }
}

/// A grant in one word or two.
pub(super) fn show(grant: &Grant) -> String {
    let forbid = if grant.forbid { "not " } else { "" };
    let read_only = if grant.read_only { " (reading)" } else { "" };
    let resource = if grant.resource == "*" { String::new() } else { format!(" on {}", grant.resource) };
    format!("{forbid}{}{resource}{read_only}", grant.action)
}
