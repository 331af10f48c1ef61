//! What a restore decided in its preview, and keeps to.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{BackupMode, EngineKind, Error, RestoreManifest, RestorePreview, Result, TenantFilter};
use serde::{Deserialize, Serialize};

use crate::catalog::{DatabaseProperties, ObjectCounts};
use crate::notes;
use crate::selection::{Pattern, nothing_matches};
use crate::tenant::ForeignKey;

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A database that is made and gets its name last.
    Database,
    /// Single tables that are missing, into the engine's own database.
    Tables,
    /// Rows into tables of the engine's own database, in one transaction.
    Merge,
}

/// The decisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// The final name of the database.
    pub(super) database: String,
    /// The name under which what stands at the final name is kept.
    pub(super) kept_as: Option<String>,
    /// The tables that were asked for, all when `None`.
    pub(super) tables: Option<BTreeSet<String>>,
    /// Tables of the database that stay: foreign keys between them and the restored ones are made again.
    pub(super) existing: BTreeSet<String>,
    /// Whether owners are restored.
    pub(super) owners: bool,
    /// Whether privileges are restored.
    pub(super) privileges: bool,
    /// Only this tenant's rows are restored.
    #[serde(default)]
    pub(super) tenant: Option<TenantFilter>,
}

const ATTRIBUTE: &str = "plan";

impl Plan {
    /// Writes it into a preview.
    pub(super) fn store(&self, attributes: &mut BTreeMap<String, serde_json::Value>) -> Result<()> {
        notes::store(attributes, ATTRIBUTE, self)
    }

    /// Reads it back.
    pub(super) fn load(preview: &RestorePreview) -> Result<Self> {
        notes::load(preview, ATTRIBUTE)
    }

    /// Whether a table's definition and rows are restored.
    pub(super) fn wants(&self, table: &str) -> bool {
        self.tables.as_ref().is_none_or(|t| t.contains(table))
    }
}

/// What a backup says of its source.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) database: DatabaseProperties,
    pub(super) counts: ObjectCounts,
    pub(super) materialised_views: Vec<(String, String)>,
    pub(super) left_out: BTreeSet<String>,
    pub(super) tool_major: u32,
    pub(super) families: Vec<Family>,
    /// `None` in backups that do not record them.
    pub(super) foreign_keys: Option<Vec<ForeignKey>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Family {
    schema: String,
    name: String,
    pub(super) table: String,
    pub(super) parents: Vec<String>,
}

/// A table with rows in the backup.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TableMember {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    #[serde(default)]
    pub(super) condition: String,
}

impl Source {
    /// Reads a manifest, refusing what is not a logical backup of PostgreSQL.
    pub(super) fn read(manifest: &RestoreManifest) -> Result<Self> {
        let source = &manifest.source;
        if source.engine != EngineKind::Postgres {
            return Err(Error::unsupported(format!(
                "a backup of {} cannot be restored into postgres",
                source.engine
            ))
            .with_hint("restore it into an engine of its own kind"));
        }
        if source.mode != BackupMode::Logical {
            return Err(Error::unsupported("a physical backup is not restored through a running server"));
        }
        let attribute = |name: &str| source.attributes.get(name).cloned().unwrap_or_default();
        let broken = |name: &'static str| {
            move |e: serde_json::Error| {
                Error::corrupt(format!("the backup's description lacks {name}")).with_source(e)
            }
        };
        Ok(Self {
            database: serde_json::from_value(attribute("database")).map_err(broken("the database"))?,
            counts: serde_json::from_value(attribute("counts")).map_err(broken("the counts"))?,
            materialised_views: serde_json::from_value(attribute("materialised_views"))
                .map_err(broken("the materialised views"))?,
            left_out: serde_json::from_value(attribute("left_out")).map_err(broken("what was left out"))?,
            tool_major: serde_json::from_value(attribute("tool_major"))
                .map_err(broken("the tool's version"))?,
            families: serde_json::from_value(attribute("families")).map_err(broken("the families"))?,
            foreign_keys: serde_json::from_value(attribute("foreign_keys"))
                .map_err(broken("the foreign keys"))?,
        })
    }

    /// Works patterns out; `None` when there are none.
    ///
    /// # Errors
    /// `NotFound` when a pattern means no table of the backup.
    pub(super) fn select(
        &self,
        patterns: &[String],
        members: &BTreeMap<String, TableMember>,
    ) -> Result<Option<BTreeSet<String>>> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let mut chosen = BTreeSet::new();
        let mut unmatched = Vec::new();
        for pattern in patterns.iter().map(|p| Pattern::new(p)) {
            let rows = members
                .iter()
                .filter(|(t, m)| pattern.matches(&m.schema, &m.name, t))
                .map(|(t, _)| t.clone());
            let above = self
                .families
                .iter()
                .filter(|f| pattern.matches(&f.schema, &f.name, &f.table))
                .map(|f| f.table.clone());
            let found: BTreeSet<String> = rows.chain(above).collect();
            if found.is_empty() {
                unmatched.push(pattern.text().to_owned());
            }
            chosen.extend(found);
        }
        if !unmatched.is_empty() {
            return Err(nothing_matches(&unmatched));
        }
        // Who names a parent means its children's rows too; and a child cannot be made without its parents.
        loop {
            let before = chosen.len();
            for family in &self.families {
                if family.parents.iter().any(|p| chosen.contains(p)) {
                    chosen.insert(family.table.clone());
                }
            }
            if chosen.len() == before {
                break;
            }
        }
        loop {
            let before = chosen.len();
            for family in &self.families {
                if chosen.contains(&family.table) {
                    chosen.extend(family.parents.iter().cloned());
                }
            }
            if chosen.len() == before {
                break;
            }
        }
        Ok(Some(chosen))
    }
}

/// The tables of the members by their quoted names.
pub(super) fn table_members(manifest: &RestoreManifest) -> Result<BTreeMap<String, TableMember>> {
    let mut tables = BTreeMap::new();
    for (spec, _) in &manifest.members {
        if let Some(table) = &spec.table {
            let attributes = serde_json::Value::Object(spec.attributes.clone().into_iter().collect());
            let member = TableMember::deserialize(attributes).map_err(|e| {
                Error::corrupt("the backup does not say which table a member is of")
                    .about(&spec.name)
                    .with_source(e)
            })?;
            tables.insert(table.clone(), member);
        }
    }
    Ok(tables)
}
