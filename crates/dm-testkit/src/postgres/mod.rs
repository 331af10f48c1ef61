//! Throwaway PostgreSQL servers of majors 15 to 18.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use dm_testkit::postgres::Server;
//! let server = dm_testkit::require!(Server::shared(15), Ok(()));
//! let db = server.database("orders").await?;
//! db.psql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await?;
//! assert_eq!(db.psql("SELECT count(*) FROM t").await?, "1");
//! # Ok(())
//! # }
//! ```
//!
//! A server listens on a free port of 127.0.0.1 only, asks for passwords (SCRAM), runs as an unprivileged user,
//! writes without fsync into a temporary folder, and goes away with the process that started it.

//!
//! For physical backups there are servers on directories that something else wrote ([`Server::on_directory`]), standbys,
//! loads ([`Load`], [`Churn`]), and judges that know nothing of ours: row sums, index-only counts, `pg_checksums`,
//! `pg_amcheck`, pages compared one by one ([`pages`]).

mod churn;
mod database;
mod install;
mod judges;
mod load;
pub mod pages;
mod place;
mod pooler;
mod programs;
mod server;
mod shared;
mod standby;

pub use churn::Churn;
pub use database::{Role, TestDatabase};
pub use install::Install;
pub use judges::Fingerprint;
pub use load::{Load, LoadReport};
pub use place::Place;
pub use pooler::{Lending, Pooler};
pub use server::{Options, Server, StopMode};
