//! What a run would do, in full; reads only.

use std::collections::BTreeSet;

use dm_core::{Direction, PlanDigest, Result, ScriptStatement, TableSize};
use serde::Serialize;

use crate::problem::Problem;
use crate::select::Goal;

/// A statement of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStatement {
    /// Its number in the script, from 1.
    pub number: u32,
    /// The line on which it begins.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// The tables that are there now and that it names.
    pub tables: Vec<TableSize>,
    /// Whether they were found by its words alone, because no grammar could tell: too many rather than too few.
    pub tables_by_words: bool,
}

/// A migration of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedMigration {
    /// Its version.
    pub version: i64,
    /// Its description.
    pub description: String,
    /// The file of the script.
    pub file: String,
    /// The script's checksum.
    pub checksum: String,
    /// Whether it runs as one transaction.
    pub transaction: bool,
    /// Its statements.
    pub statements: Vec<PlannedStatement>,
}

/// What would run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationPlan {
    /// Forward or back.
    pub direction: Direction,
    /// How far.
    pub goal: Goal,
    /// Where the files come from.
    pub origin: String,
    /// What runs, in this order.
    pub migrations: Vec<PlannedMigration>,
    /// What stands against it.
    pub problems: Vec<Problem>,
}

impl MigrationPlan {
    /// The digest that a run compares with: other scripts than these are not run under this plan.
    ///
    /// # Errors
    /// `Internal` when the plan cannot be written down.
    pub fn digest(&self) -> Result<PlanDigest> {
        let body: Vec<_> = self.migrations.iter().map(|m| (m.version, &m.checksum)).collect();
        PlanDigest::of(&(self.direction, body))
    }
}

/// What a grammar says of a statement: the names of its tables and views, `name` or `schema.name`, or `None` when it cannot tell.
pub type Relations<'a> = dyn Fn(&str) -> Option<BTreeSet<String>> + Send + Sync + 'a;

impl PlannedStatement {
    pub(crate) fn of(
        number: u32,
        statement: ScriptStatement,
        sizes: &[TableSize],
        relations: &Relations<'_>,
    ) -> Self {
        let named = relations(&statement.text);
        let tables = match &named {
            Some(names) => sizes.iter().filter(|s| is_among(s, names)).cloned().collect(),
            None => by_words(&statement.text, sizes),
        };
        Self { number, line: statement.line, tables_by_words: named.is_none(), tables, text: statement.text }
    }
}

/// A name alone may mean a table of any schema: the search path decides.
fn is_among(size: &TableSize, names: &BTreeSet<String>) -> bool {
    let qualified =
        size.schema.as_ref().is_some_and(|schema| names.contains(&format!("{schema}.{}", size.name)));
    qualified
        || names.contains(&size.name)
        || size.schema.is_none() && names.contains(&size.name.to_lowercase())
}

/// The tables whose names stand in a statement as words.
fn by_words(text: &str, sizes: &[TableSize]) -> Vec<TableSize> {
    let lower = text.to_lowercase();
    let words: BTreeSet<&str> =
        lower.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).collect();
    sizes.iter().filter(|s| words.contains(s.name.to_lowercase().as_str())).cloned().collect()
}
