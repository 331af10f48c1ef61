//! What a database's schema is, object by object, and databases in which scripts are tried.
//!
//! A snapshot is made of what the engine itself says of each object, so that two databases which say the same are the same.
//! Differences are found here, once; what they look like in the engine's language is the adapter's business.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{OpContext, Result, Secret};

/// One object of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaObject {
    /// What it is: `table`, `column`, `index`.
    pub kind: String,
    /// Its name, unique among its kind.
    pub name: String,
    /// The table that it goes with; when that is gone, so is it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What makes it what it is, by name: `type`, `nullable`, `definition`.
    pub facets: BTreeMap<String, String>,
    /// The statements that make it, in the engine's language; empty when the engine's adapter does not write them.
    pub create: String,
    /// The statement that removes it.
    pub drop: String,
}

impl SchemaObject {
    /// `table orders`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// A schema at an instant, in the order in which its objects can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaSnapshot {
    /// The objects.
    pub objects: Vec<SchemaObject>,
}

/// How one object differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum SchemaChange {
    /// Only the second schema has it.
    Added {
        /// It.
        object: SchemaObject,
    },
    /// Only the first schema has it.
    Removed {
        /// It.
        object: SchemaObject,
    },
    /// Both have it, and it is not the same.
    Changed {
        /// In the first.
        before: SchemaObject,
        /// In the second.
        after: SchemaObject,
    },
}

impl SchemaChange {
    /// The object, as the second schema has it where it has it.
    #[must_use]
    pub fn object(&self) -> &SchemaObject {
        match self {
            Self::Added { object } | Self::Removed { object } => object,
            Self::Changed { after, .. } => after,
        }
    }

    /// The facets that differ: name, before, after.
    #[must_use]
    pub fn facets(&self) -> Vec<(&str, Option<&str>, Option<&str>)> {
        let Self::Changed { before, after } = self else { return Vec::new() };
        let mut names: Vec<&String> = before.facets.keys().chain(after.facets.keys()).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|n| {
                (
                    n.as_str(),
                    before.facets.get(n).map(String::as_str),
                    after.facets.get(n).map(String::as_str),
                )
            })
            .filter(|(_, a, b)| a != b)
            .collect()
    }
}

impl SchemaSnapshot {
    /// What has to be done to this schema so that it becomes `other`. Whatever goes with a table that comes or goes is not
    /// named for itself. In the order of the objects: what is removed first, in reverse.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<SchemaChange> {
        let key = |o: &SchemaObject| (o.kind.clone(), o.name.clone());
        let index = |s: &Self| s.objects.iter().map(|o| (key(o), o.clone())).collect::<BTreeMap<_, _>>();
        let (mine, theirs) = (index(self), index(other));
        // Tables that one side lacks; a view or a sequence goes with nothing.
        let lacks = |side: &BTreeMap<(String, String), SchemaObject>, o: &SchemaObject| {
            o.of.as_ref()
                .is_some_and(|table| !side.keys().any(|(kind, name)| name == table && is_relation(kind)))
        };
        let removed =
            self.objects.iter().rev().filter(|o| !theirs.contains_key(&key(o)) && !lacks(&theirs, o));
        let mut changes: Vec<SchemaChange> =
            removed.map(|o| SchemaChange::Removed { object: o.clone() }).collect();
        for object in &other.objects {
            match mine.get(&key(object)) {
                None if lacks(&mine, object) => {}
                None => changes.push(SchemaChange::Added { object: object.clone() }),
                Some(before) if before.facets != object.facets => {
                    changes.push(SchemaChange::Changed { before: before.clone(), after: object.clone() });
                }
                Some(_) => {}
            }
        }
        changes
    }
}

/// What changes an object from one form to another, or why nothing is written for it.
pub type Alteration<'a> = &'a dyn Fn(&SchemaObject, &SchemaObject) -> Result<Vec<String>, String>;

impl SchemaScript {
    /// Puts the adapter's statements into an order in which they can run: what is removed first, then what is made and changed. A
    /// table brings its own indexes, constraints and triggers along.
    #[must_use]
    pub fn between(from: &SchemaSnapshot, to: &SchemaSnapshot, alter: Alteration<'_>) -> Self {
        let mut script = Self::default();
        script.up = script.steps(from, to, alter, "");
        script.down = script.steps(to, from, alter, "on the way back: ");
        script
    }

    fn steps(
        &mut self,
        from: &SchemaSnapshot,
        to: &SchemaSnapshot,
        alter: Alteration<'_>,
        way: &str,
    ) -> Vec<String> {
        let mut statements = Vec::new();
        let mut made: Vec<(usize, &SchemaObject)> = Vec::new();
        let changes = from.diff(to);
        let place = |object: &SchemaObject| to.objects.iter().position(|o| o == object);
        for change in &changes {
            match change {
                SchemaChange::Removed { object } => {
                    if object.drop.is_empty() {
                        self.not_written.push(format!("{way}the removal of the {}", object.title()));
                    } else {
                        statements.push(object.drop.clone());
                    }
                }
                SchemaChange::Added { object } => {
                    let parts = to
                        .objects
                        .iter()
                        .filter(|o| o.of.as_ref() == Some(&object.name) && o.kind != "column");
                    // What a partition has, it mostly has from its parent.
                    let partition = object.facets.contains_key("partition");
                    let parts =
                        parts.filter(|o| !partition || !matches!(o.kind.as_str(), "constraint" | "index"));
                    for object in std::iter::once(object).chain(parts.filter(|_| is_relation(&object.kind))) {
                        if object.create.is_empty() {
                            self.not_written.push(format!("{way}the {}", object.title()));
                        } else {
                            made.extend(place(object).map(|at| (at, object)));
                        }
                    }
                }
                SchemaChange::Changed { .. } => {}
            }
        }
        made.sort_by_key(|(at, _)| *at);
        made.dedup_by_key(|(at, _)| *at);
        statements.extend(made.into_iter().map(|(_, object)| object.create.clone()));
        for change in &changes {
            if let SchemaChange::Changed { before, after } = change {
                match alter(before, after) {
                    Ok(written) => statements.extend(written),
                    Err(why) => {
                        self.not_written.push(format!("{way}the change of the {}: {why}", after.title()));
                    }
                }
            }
        }
        statements
    }
}

fn is_relation(kind: &str) -> bool {
    matches!(kind, "table" | "view" | "materialized view" | "foreign table" | "virtual table")
}

/// A difference in the engine's language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaScript {
    /// Statements that bring the first schema to the second.
    pub up: Vec<String>,
    /// Statements that bring it back.
    pub down: Vec<String>,
    /// What has to be written by hand, and why.
    pub not_written: Vec<String>,
}

/// Where a shadow database is made.
#[derive(Clone, Debug)]
pub enum ShadowPlace {
    /// Beside the live one, under a name of its own, removed at the end.
    Temporary,
    /// A database that is there for this; its content is removed.
    Given(Secret),
}

/// A script to be tried.
#[derive(Clone, Debug)]
pub struct ShadowScript {
    /// What it is called in errors.
    pub name: String,
    /// Its statements, with the lines on which they begin.
    pub statements: Vec<(usize, String)>,
    /// Whether they are one transaction.
    pub transaction: bool,
}

/// A lock that a statement took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedLock {
    /// The table, index or view.
    pub object: String,
    /// The strongest mode, as the engine names it: `ACCESS EXCLUSIVE`.
    pub mode: String,
    /// The object's rows were written anew.
    pub rewritten: bool,
}

/// What a statement did while it was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedStatement {
    /// The line, from 1.
    pub line: usize,
    /// The statement.
    pub statement: String,
    /// The locks on objects that were there before it; `None` when they cannot be seen, because the statement has to run outside
    /// of a transaction.
    pub locks: Option<Vec<TracedLock>>,
    /// It was passed over, because it is about the whole server: a role, a database, a tablespace.
    pub skipped: bool,
}

/// An engine whose schema can be read and tried.
#[async_trait]
pub trait SchemaSource: Send + Sync {
    /// Reads the schema, and writes nothing. Tables named in `leave_out` (`name` or `schema.name`), and what goes with them,
    /// are left out.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    async fn snapshot(&self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot>;

    /// The schema as one script that makes it again.
    ///
    /// # Errors
    /// `Unsupported` where a program is missing; `Unreachable`, `Denied`.
    async fn dump(&self, ctx: &OpContext, leave_out: &[String]) -> Result<String>;

    /// Writes the difference between two schemas as statements, as far as it can be written.
    fn script(&self, from: &SchemaSnapshot, to: &SchemaSnapshot) -> SchemaScript;

    /// Makes an empty database in which scripts are tried.
    ///
    /// # Errors
    /// `Invalid` when the place is the live database, holds something that was not made here, or another version of the engine;
    /// `Unreachable`, `Denied`.
    async fn shadow(&self, ctx: &OpContext, place: &ShadowPlace) -> Result<Box<dyn Shadow>>;
}

/// A database in which scripts are tried. Dropping it without [`close`](Self::close) may leave it behind; the next one made
/// in the same place removes it.
#[async_trait]
pub trait Shadow: Send {
    /// Where it is, for people.
    fn location(&self) -> String;

    /// Runs a script; with `trace` it is found out which locks each statement takes.
    ///
    /// # Errors
    /// Whatever the engine says, about `<script>:<line>`.
    async fn replay(
        &mut self,
        ctx: &OpContext,
        script: &ShadowScript,
        trace: bool,
    ) -> Result<Vec<TracedStatement>>;

    /// Its schema.
    ///
    /// # Errors
    /// `Unreachable`.
    async fn snapshot(&mut self, ctx: &OpContext, leave_out: &[String]) -> Result<SchemaSnapshot>;

    /// Removes it.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`; it may be left behind then.
    async fn close(self: Box<Self>, ctx: &OpContext) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, of: Option<&str>, facet: &str) -> SchemaObject {
        SchemaObject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            of: of.map(str::to_owned),
            facets: BTreeMap::from([("definition".to_owned(), facet.to_owned())]),
            create: String::new(),
            drop: String::new(),
        }
    }

    fn told(a: &[SchemaObject], b: &[SchemaObject]) -> Vec<String> {
        let (a, b) = (SchemaSnapshot { objects: a.to_vec() }, SchemaSnapshot { objects: b.to_vec() });
        a.diff(&b)
            .iter()
            .map(|c| {
                let sign = match c {
                    SchemaChange::Added { .. } => '+',
                    SchemaChange::Removed { .. } => '-',
                    SchemaChange::Changed { .. } => '~',
                };
                format!("{sign}{}", c.object().title())
            })
            .collect()
    }

    #[test]
    fn what_goes_with_a_table_is_not_named_for_itself() {
        let a = [object("table", "a", None, ""), object("column", "a.x", Some("a"), "int")];
        let b = [object("table", "a", None, ""), object("column", "a.x", Some("a"), "text")];
        assert_eq!(told(&a, &b), ["~column a.x"]);
        assert_eq!(told(&[], &a), ["+table a"]);
        assert_eq!(told(&a, &[]), ["-table a"]);
        assert_eq!(told(&a[..1], &a), ["+column a.x"]);
        assert_eq!(told(&a, &a), [""; 0]);
    }

    #[test]
    fn the_facets_that_differ_are_named() {
        let (before, after) = (object("view", "v", None, "one"), object("view", "v", None, "two"));
        let change = SchemaChange::Changed { before, after };
        assert_eq!(change.facets(), [("definition", Some("one"), Some("two"))]);
    }
}
