//! Settings files that stand outside of the data directory, as Debian lays them out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dm_core::{MemberKind, Result};
use serde::Serialize;
use sqlx::postgres::PgConnection;

use super::session::{Reading, plain};
use crate::error::reading;
use dm_core::MemberSpec;

/// The most that a settings file may have.
const MOST_BYTES: i64 = 4 << 20;

/// A settings file outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OutsideFile {
    /// What it is: `config_file`, `hba_file`, `ident_file`, `included`.
    name: String,
    /// Where it is, as far as the server tells the role.
    path: Option<String>,
    /// The member that has its content, where it could be read.
    member: Option<String>,
}

/// What was found.
#[derive(Default)]
pub(super) struct Outside {
    pub(super) files: Vec<OutsideFile>,
    pub(super) members: Vec<(MemberSpec, Reading)>,
    pub(super) warnings: Vec<String>,
}

/// Looks for them, and reads what may be read. `inside` are the files of the data directory.
pub(super) async fn find(connection: &mut PgConnection, inside: &BTreeSet<&str>) -> Result<Outside> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, setting FROM pg_catalog.pg_settings
          WHERE name IN ('data_directory', 'config_file', 'hba_file', 'ident_file') AND setting IS NOT NULL",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    let included: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading)?;
    let known: BTreeMap<&str, &str> = rows.iter().map(|(n, s)| (n.as_str(), s.as_str())).collect();
    let folder = known.get("data_directory").map(|folder| format!("{}/", folder.trim_end_matches('/')));
    let mut found = Outside::default();
    let mut seen = BTreeSet::new();
    for (name, usual) in
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
    {
        match (known.get(name), &folder) {
            (Some(path), Some(folder)) if path.starts_with(folder.as_str()) => {}
            (Some(path), _) if seen.insert((*path).to_owned()) => {
                found.take(connection, name, path).await?;
            }
            // The role is not told; then the usual place tells.
            (None, _) if !inside.contains(usual) => {
                found.missing(name, None, usual, "the role may not know where it is");
            }
            _ => {}
        }
    }
    for path in included {
        let is_inside = folder.as_ref().is_some_and(|folder| path.starts_with(folder.as_str()));
        if !is_inside && seen.insert(path.clone()) {
            found.take(connection, "included", &path).await?;
        }
    }
    Ok(found)
}

impl Outside {
    async fn take(&mut self, connection: &mut PgConnection, name: &str, path: &str) -> Result<()> {
        let read = sqlx::query_scalar::<_, Option<Vec<u8>>>(
            "SELECT pg_catalog.pg_read_binary_file($1, 0, $2, true)",
        )
        .bind(path)
        .bind(MOST_BYTES)
        .fetch_one(connection)
        .await;
        match read {
            Ok(Some(bytes)) => {
                let base = path.rsplit('/').next().unwrap_or(path);
                let mut member = format!("outside/{base}");
                let mut number = 1;
                while self.members.iter().any(|(spec, _)| spec.name == member) {
                    number += 1;
                    member = format!("outside/{number}-{base}");
                }
                let spec = plain(&member, MemberKind::File, Some(bytes.len() as u64));
                self.members.push((spec, Reading::Memory(Bytes::from(bytes))));
                self.files.push(OutsideFile {
                    name: name.to_owned(),
                    path: Some(path.to_owned()),
                    member: Some(member),
                });
            }
            Ok(None) => self.missing(name, Some(path), path, "it is not there"),
            // Mostly: an absolute path, and the role is not a member of pg_read_server_files.
            Err(e) if e.as_database_error().is_some() => {
                self.missing(name, Some(path), path, &reading(e).to_string());
            }
            Err(e) => return Err(reading(e)),
        }
        Ok(())
    }

    fn missing(&mut self, name: &str, path: Option<&str>, shown: &str, why: &str) {
        self.warnings.push(format!(
            "the settings file {shown} stands outside of the data directory and is not in the backup: {why}"
        ));
        self.files.push(OutsideFile { name: name.to_owned(), path: path.map(str::to_owned), member: None });
    }
}
