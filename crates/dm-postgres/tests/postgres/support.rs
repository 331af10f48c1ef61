//! What the tests share.

use std::sync::Arc;

use dm_core::{
    Actor, BackupRequest, Comparison, Destination, Engine, EngineId, Level, OpContext, RestoreRequest,
    RestoreSession, Restored, Secret,
};
use dm_postgres::{PostgresEngine, PostgresOptions};
use dm_testkit::conformance::{Collected, collect};
use dm_testkit::postgres::TestDatabase;
use futures::{StreamExt, TryStreamExt};

pub(crate) fn context() -> OpContext {
    OpContext::new(Actor::local_user("test"))
}

pub(crate) fn options(db: &TestDatabase) -> PostgresOptions {
    PostgresOptions { bin_dir: Some(db.bin_dir().to_owned()), ..PostgresOptions::default() }
}

pub(crate) fn engine_at(db: &TestDatabase, url: String) -> PostgresEngine {
    let id = EngineId::new("main").expect("a name");
    PostgresEngine::connect(id, &Secret::new(url), options(db)).expect("a url")
}

pub(crate) fn engine(db: &TestDatabase) -> PostgresEngine {
    engine_at(db, db.url())
}

pub(crate) fn request() -> BackupRequest {
    BackupRequest { digest_key: [9; 32], block_bytes: 64 << 10, ..BackupRequest::default() }
}

pub(crate) fn into(destination: Destination) -> RestoreRequest {
    RestoreRequest { digest_key: [9; 32], ..RestoreRequest::to(destination) }
}

pub(crate) async fn backup(engine: &dyn Engine, request: &BackupRequest) -> Collected {
    let preflight =
        engine.backup().expect("a source").preflight(&context(), request).await.expect("a preflight");
    let errors: Vec<_> = preflight.findings.iter().filter(|f| f.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    collect(engine, &context(), request).await.expect("a backup")
}

/// Writes everything and finishes; the place is still sealed.
pub(crate) async fn sealed(
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
) -> Box<dyn RestoreSession> {
    sealed_by(context(), engine, backup, request).await
}

/// The same in a run of the caller's, by which the sealed place is named.
pub(crate) async fn sealed_by(
    ctx: OpContext,
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
) -> Box<dyn RestoreSession> {
    let target = engine.restore().expect("a target");
    let manifest = backup.manifest();
    let preview = target.preview(&ctx, request, &manifest).await.expect("a preview");
    let errors: Vec<_> = preview.findings.iter().filter(|f| f.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let session = target.open(&ctx, request, &manifest, &preview).await.expect("a place");
    for stage in session.stages() {
        let (session, manifest, ctx) = (&session, &manifest, &ctx);
        futures::stream::iter(stage)
            .map(|index| async move {
                session.write(ctx, &manifest.members[index].0, backup.content(index)).await
            })
            .buffer_unordered(request.jobs)
            .try_collect::<()>()
            .await
            .expect("everything is written");
    }
    session.finish(&ctx).await.expect("a finish");
    session
}

/// All the way: written, compared with these facts, released.
pub(crate) async fn restore(
    engine: &dyn Engine,
    backup: &Collected,
    request: &RestoreRequest,
) -> (Comparison, Restored) {
    let session = sealed(engine, backup, request).await;
    let expected: Vec<_> = backup
        .summary
        .tables
        .iter()
        .filter(|t| request.tables.is_empty() || request.tables.iter().any(|p| t.table.ends_with(p)))
        .cloned()
        .collect();
    let comparison = session.compare(&context(), &expected).await.expect("a comparison");
    let restored = session.release(&context()).await.expect("a release");
    (comparison, restored)
}

/// A database name that no other test uses.
pub(crate) fn fresh_name(word: &str) -> String {
    format!("{word}_{}", OpContext::new(Actor::local_user("t")).run_id().as_uuid().simple())
}

/// Drops databases at the end of a test.
pub(crate) struct Leftovers<'a>(pub(crate) &'a TestDatabase, pub(crate) Vec<String>);

impl Leftovers<'_> {
    pub(crate) async fn drop_all(self) {
        for name in self.1 {
            self.0
                .psql_in("postgres", &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"))
                .await
                .expect("a drop");
        }
    }
}

/// The independent oracle: a plain `pg_dump` of a database, without what differs from run to run.
pub(crate) async fn plain_dump(db: &TestDatabase, database: &str) -> String {
    let output = db.program("pg_dump").args(["--dbname", database]).output().await.expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn shared(engine: PostgresEngine) -> Arc<dyn Engine> {
    Arc::new(engine)
}
