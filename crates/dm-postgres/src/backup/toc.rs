//! What is in the archive of definitions, and which table each entry belongs to.
//!
//! `pg_restore --list` gives one line an entry: `215; 1259 16391 TABLE public accounts owner` — the entry's number, the
//! catalog and oid of the object, then text. The oids lead to the table; only where they are zero does the text.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::catalog::{Belonging, Relation, RelationKind};

/// The member that holds the map.
pub(crate) const MEMBER: &str = "schema/toc.json";

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListLine {
    pub(crate) id: i64,
    catalog: i64,
    oid: i64,
    text: String,
}

/// An entry that belongs to a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TocEntry {
    /// The entry's number in the archive.
    pub(crate) id: i64,
    /// What it is: `TABLE`, `INDEX`, `CONSTRAINT`, `FK CONSTRAINT` ...
    pub(crate) what: String,
    /// The relation, as the server quotes it.
    pub(crate) relation: String,
    /// The other table of a foreign key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) needs: Option<String>,
}

/// The map of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toc {
    /// The major version of the programs that wrote the archive.
    pub(crate) tool_major: u32,
    /// Entries that belong to a relation.
    pub(crate) entries: Vec<TocEntry>,
}

/// Kinds of entries, longer before the shorter that they begin with.
const KINDS: [&str; 24] = [
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "INDEX ATTACH",
    "INDEX",
    "TABLE ATTACH",
    "TABLE DATA",
    "TABLE",
    "FOREIGN TABLE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SEQUENCE",
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "VIEW",
    "ROW SECURITY",
    "DEFAULT",
    "TRIGGER",
    "POLICY",
    "RULE",
    "STATISTICS",
    "COMMENT",
    "SECURITY LABEL",
    "ACL",
];

/// Reads a list.
pub(crate) fn parse_list(text: &str) -> Vec<ListLine> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<ListLine> {
    let (id, rest) = line.split_once("; ")?;
    let mut words = rest.splitn(3, ' ');
    Some(ListLine {
        id: id.trim().parse().ok()?,
        catalog: words.next()?.parse().ok()?,
        oid: words.next()?.parse().ok()?,
        text: words.next()?.to_owned(),
    })
}

impl Toc {
    /// Builds the map.
    pub(crate) fn build(
        tool_major: u32,
        lines: &[ListLine],
        relations: &[Relation],
        belongings: &BTreeMap<(i64, i64), Belonging>,
    ) -> Self {
        let by_oid: HashMap<i64, &Relation> = relations.iter().map(|r| (r.oid, r)).collect();
        // A sequence goes with the table that owns it.
        let home = |relation: &Relation| match relation.owned_by.and_then(|t| by_oid.get(&t)) {
            Some(table) => Some(table.display.clone()),
            None if relation.kind == RelationKind::Sequence => None,
            None => Some(relation.display.clone()),
        };
        let display = |oid: i64| by_oid.get(&oid).and_then(|r| home(r));
        let mut by_text: HashMap<String, String> = HashMap::new();
        for relation in relations {
            let Some(home) = home(relation) else { continue };
            let (schema, name) = (&relation.schema, &relation.name);
            let word = match relation.kind {
                RelationKind::Sequence => "SEQUENCE",
                RelationKind::View => "VIEW",
                RelationKind::MaterialisedView => "MATERIALIZED VIEW",
                RelationKind::Foreign => "FOREIGN TABLE",
                RelationKind::Table | RelationKind::Partitioned => "TABLE",
            };
            // Privileges of every relation are listed as privileges of a TABLE.
            for head in [
                format!("ACL {schema} {word} {name}"),
                format!("ACL {schema} TABLE {name}"),
                format!("ACL {schema} COLUMN {name}."),
                format!("COMMENT {schema} {word} {name}"),
                format!("COMMENT {schema} COLUMN {name}."),
                format!("TABLE ATTACH {schema} {name}"),
            ] {
                by_text.insert(head, home.clone());
            }
        }
        for belonging in belongings.values() {
            if let (Some(name), Some(home)) = (&belonging.name, display(belonging.relation)) {
                by_text.insert(format!("INDEX ATTACH {name}"), home.clone());
            }
        }
        let mut entries = Vec::new();
        for line in lines {
            let Some(what) =
                KINDS.iter().find(|k| line.text.strip_prefix(**k).is_some_and(|r| r.starts_with(' ')))
            else {
                continue;
            };
            let key = (line.catalog, line.oid);
            let belonging = belongings.get(&key);
            let relation = match (line.oid, belonging) {
                (0, _) => by_beginning(&by_text, &line.text),
                (_, Some(b)) => display(b.relation),
                (oid, None) if line.catalog == 1259 => display(oid),
                _ => None,
            };
            if let Some(relation) = relation {
                let needs = belonging.and_then(|b| b.needs).and_then(display);
                entries.push(TocEntry { id: line.id, what: (*what).to_owned(), relation, needs });
            }
        }
        Self { tool_major, entries }
    }
}

/// Finds the longest known beginning of a text that ends at a blank or a dot.
fn by_beginning(known: &HashMap<String, String>, text: &str) -> Option<String> {
    text.char_indices()
        .rev()
        .find_map(|(at, c)| match c {
            ' ' => known.get(text.get(..at)?),
            '.' => known.get(text.get(..=at)?),
            _ => None,
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_list() {
        let text = ";\n; Archive created at 2026-01-01\n215; 1259 16391 TABLE public accounts me\n\
                    3333; 0 0 ACL public TABLE my table me\n7; 2615 2200 SCHEMA - public me\n";
        let lines = parse_list(text);
        assert_eq!(lines.iter().map(|l| l.id).collect::<Vec<_>>(), [215, 3333, 7]);
        assert_eq!((lines[0].catalog, lines[0].oid), (1259, 16391));
        let known = HashMap::from([("ACL public TABLE my table".to_owned(), "x".to_owned())]);
        assert_eq!(by_beginning(&known, &lines[1].text).as_deref(), Some("x"));
        assert_eq!(by_beginning(&known, "ACL public TABLE my tab me"), None);
    }
}
