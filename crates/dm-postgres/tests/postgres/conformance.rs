//! The suite that every engine passes.

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{Destination, Engine, Restored};
use dm_testkit::conformance::Subject;
use dm_testkit::postgres::{Server, TestDatabase};

use crate::support::{engine, engine_at, fresh_name, shared};

struct Postgres {
    db: TestDatabase,
    server: &'static Server,
}

async fn start() -> Option<Postgres> {
    let server = dm_testkit::available(Server::shared(15))?;
    let db = server.database("conformance").await.expect("a database");
    db.psql(
        "CREATE TABLE large (id int PRIMARY KEY, body text);
         INSERT INTO large SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, 20000) g;
         CREATE TABLE small (id serial PRIMARY KEY, large_id int REFERENCES large);
         INSERT INTO small (large_id) SELECT g FROM generate_series(1, 10) g",
    )
    .await
    .expect("content");
    Some(Postgres { db, server })
}

#[async_trait]
impl Subject for Postgres {
    fn engine(&self) -> Arc<dyn Engine> {
        shared(engine(&self.db))
    }

    fn secret(&self) -> Option<String> {
        Some(self.server.password().to_owned())
    }

    async fn fresh_destination(&self) -> Destination {
        Destination::New(Some(fresh_name("fresh")))
    }

    async fn taken_destination(&self) -> Destination {
        let name = fresh_name("taken");
        self.db.psql_in("postgres", &format!("CREATE DATABASE {name}")).await.expect("a database");
        self.db.psql_in(&name, "CREATE TABLE something (id int)").await.expect("a table");
        Destination::New(Some(name))
    }

    async fn change(&self) {
        self.db.psql("INSERT INTO large VALUES (-1, 'new')").await.expect("a change");
    }

    async fn open_restored(&self, restored: &Restored) -> Arc<dyn Engine> {
        let name = restored.location.rsplit('/').next().expect("a name");
        shared(engine_at(&self.db, self.db.url_of(name)))
    }
}

dm_testkit::conformance_tests!(start());
