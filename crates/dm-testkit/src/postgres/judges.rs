//! What tells whether two servers hold the same, and whether an index agrees with its table. Plain SQL through psql:
//! nothing of what is being tested takes part.

use std::collections::BTreeMap;
use std::fmt;

use super::Server;
use crate::Failure;

const ROW_SUMS: &str = include_str!("row_sums.sql");
const INDEX_ONLY: &str = include_str!("index_only.sql");
const READ_ALL: &str = include_str!("read_all.sql");
const DATABASES: &str = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1";

/// Row counts and row sums of every permanent table of every database, and the names of databases, roles and
/// tablespaces.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// What differs from another, line by line; empty when nothing does.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let nothing = String::from("nothing");
        let mut lines: Vec<String> = self
            .0
            .iter()
            .filter(|(name, sum)| other.0.get(*name) != Some(sum))
            .map(|(name, sum)| format!("{name}: {sum} here, {} there", other.0.get(name).unwrap_or(&nothing)))
            .collect();
        lines.extend(
            other
                .0
                .iter()
                .filter(|(name, _)| !self.0.contains_key(*name))
                .map(|(name, sum)| format!("{name}: nothing here, {sum} there")),
        );
        lines
    }

    /// How many tables it covers.
    #[must_use]
    pub fn tables(&self) -> usize {
        self.0.keys().filter(|name| name.contains('/')).count()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl Server {
    /// The databases that can be connected to.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn databases(&self) -> Result<Vec<String>, Failure> {
        Ok(self.psql(DATABASES).await?.lines().map(str::to_owned).collect())
    }

    /// Sums of all rows of all permanent tables. Comparable only while nobody writes.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn fingerprint(&self) -> Result<Fingerprint, Failure> {
        let mut sums = BTreeMap::new();
        for database in self.databases().await? {
            for line in self.psql_in(&database, ROW_SUMS).await?.lines() {
                let (table, sum) = line
                    .rsplit_once('=')
                    .ok_or_else(|| Failure(format!("row_sums.sql of {database} said \"{line}\"")))?;
                sums.insert(format!("{database}/{table}"), sum.to_owned());
            }
            sums.insert(format!("database {database}"), "there".to_owned());
        }
        let names = "SELECT 'role ' || rolname FROM pg_roles UNION ALL SELECT 'tablespace ' || spcname FROM pg_tablespace";
        sums.extend(self.psql(names).await?.lines().map(|name| (name.to_owned(), "there".to_owned())));
        Ok(Fingerprint(sums))
    }

    /// Counts the rows of every table (catalogs too) by an index-only scan, which believes the visibility map, and by
    /// reading the table; gives how many tables were compared. A scan marks the entries of dead rows in the index, which
    /// hides a wrong visibility map from then on: count on the copy only, and once.
    ///
    /// # Errors
    /// With the tables whose counts differ.
    pub async fn index_only_counts(&self) -> Result<usize, Failure> {
        let (mut compared, mut wrong) = (0, Vec::new());
        for database in self.databases().await? {
            let said = self.psql_in(&database, INDEX_ONLY).await?;
            let (number, tables) = said.split_once('|').unwrap_or((&said, ""));
            compared += number
                .parse::<usize>()
                .map_err(|_| Failure(format!("index_only.sql of {database} said \"{said}\"")))?;
            if !tables.is_empty() {
                wrong.push(format!("{database}: {tables}"));
            }
        }
        if wrong.is_empty() { Ok(compared) } else { Err(Failure(wrong.join("\n"))) }
    }

    /// Reads every table of every database, catalogs too, so that hint bits which reading sets are set: from here on
    /// reading changes no page.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn read_everything(&self) -> Result<(), Failure> {
        for database in self.databases().await? {
            self.psql_in(&database, READ_ALL).await?;
        }
        Ok(())
    }
}
