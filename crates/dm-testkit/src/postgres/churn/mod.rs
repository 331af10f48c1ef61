//! Changes of every kind that move, make and remove a cluster's files, in an order that a seed decides: what a physical
//! backup has to survive.
//!
//! Works on databases of its own (`churn_<n>`); what it made it remembers, so that every statement is expected to succeed.

mod model;
mod operations;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::model::Cluster;
use self::operations::{KINDS, Operation};
use super::{Place, Server};
use crate::Failure;

/// A cluster under seeded changes.
#[derive(Debug)]
pub struct Churn<'a> {
    server: &'a Server,
    tablespaces: Place,
    cluster: Cluster,
    rng: StdRng,
    /// Whether databases may be copied and moved.
    done: Vec<String>,
}

impl<'a> Churn<'a> {
    /// Makes the first database with some tables in it.
    ///
    /// # Errors
    /// With what psql said, or when there is no temporary folder for tablespaces.
    pub async fn begin(server: &'a Server, seed: u64) -> Result<Self, Failure> {
        let tablespaces = Place::new("tablespaces").map_err(|error| Failure(error.to_string()))?;
        let extension = server
            .psql("SELECT name FROM pg_available_extensions WHERE name IN ('pg_trgm', 'vector') ORDER BY 1 LIMIT 1")
            .await?;
        let mut churn = Self {
            server,
            tablespaces,
            cluster: Cluster {
                extension: Some(extension).filter(|name| !name.is_empty()),
                ..Cluster::default()
            },
            rng: StdRng::seed_from_u64(seed),
            done: Vec::new(),
        };
        server.psql("CREATE TABLE churn_prepared (id int PRIMARY KEY, word text)").await?;
        churn.perform(Operation::CreateDatabase).await?;
        for kind in [
            Operation::CreateTablespace,
            Operation::CreateTable,
            Operation::CreateTable,
            Operation::CreateTable,
            Operation::Insert,
        ] {
            churn.perform(kind).await?;
        }
        Ok(churn)
    }

    /// Makes so many changes.
    ///
    /// # Errors
    /// With the statement and what psql said of it.
    pub async fn run(&mut self, changes: usize) -> Result<(), Failure> {
        for _ in 0..changes {
            self.step().await?;
        }
        Ok(())
    }

    /// Makes one change; says which.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn step(&mut self) -> Result<&str, Failure> {
        loop {
            // Not every kind is possible at every moment.
            let kind = operations::choose(&mut self.rng, KINDS);
            if self.perform(kind).await? {
                break;
            }
        }
        Ok(self.done.last().map_or("", String::as_str))
    }

    /// Whether a backup runs beside the changes: what PostgreSQL itself cannot replay upon a copy that was made meanwhile
    /// is left out then ("Caveats" of its chapter on continuous archiving). It replays `CREATE DATABASE ... STRATEGY
    /// file_copy` and `ALTER DATABASE ... SET TABLESPACE` by copying files again, out of a source that may have been
    /// changed or removed since, and `CREATE TABLESPACE` at the original's own place. Copies of `template1`, which nobody
    /// changes, stay.
    pub fn while_backing_up(&mut self, running: bool) {
        self.cluster.backed_up = running;
    }

    /// Everything that was done, in order, for whoever looks into a failure.
    #[must_use]
    pub fn history(&self) -> &[String] {
        &self.done
    }

    /// Where its tablespaces are: a restored copy must not use these.
    #[must_use]
    pub fn tablespaces(&self) -> &Place {
        &self.tablespaces
    }

    /// Ends what prepared transactions hold, so that nothing waits for them.
    ///
    /// # Errors
    /// With what psql said.
    pub async fn settle(&mut self) -> Result<(), Failure> {
        while self.perform(Operation::EndPrepared).await? {}
        Ok(())
    }

    async fn perform(&mut self, kind: Operation) -> Result<bool, Failure> {
        let Some(change) = operations::plan(kind, &mut self.cluster, &mut self.rng, &self.tablespaces)?
        else {
            return Ok(false);
        };
        let database = change.database.as_deref().unwrap_or("postgres");
        self.done.push(format!("{kind:?} in {database}: {}", change.sql));
        self.server
            .psql_in(database, &change.sql)
            .await
            .map_err(|Failure(said)| Failure(format!("{kind:?} in {database}: {}\n{said}", change.sql)))?;
        Ok(true)
    }
}
