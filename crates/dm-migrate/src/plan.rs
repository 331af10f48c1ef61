//! What a run would do, in full; reads only.

use dm_core::{Direction, PlanDigest, Result, TableSize};
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

/// The tables that a statement names: their names stand in it as words.
pub(crate) fn named<'a>(text: &str, sizes: &'a [TableSize]) -> Vec<&'a TableSize> {
    let lower = text.to_lowercase();
    let words: std::collections::HashSet<&str> =
        lower.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).collect();
    sizes.iter().filter(|s| words.contains(s.name.to_lowercase().as_str())).collect()
}
