//! Restores of the whole file: to a new place, in place, refused.

use std::os::unix::fs::PermissionsExt;

use dm_core::{Destination, Engine, EngineKind, ErrorKind, Level, RestoreBlock, Statement};
use dm_sqlite::{FreeSpace, SqliteOptions};
use rusqlite::Connection;

use crate::support::{back_up, bring_back, ctx, engine, engine_with, number, place, restore_request};

const SHOP: &str = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);";

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_place_is_chosen_and_private() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let (restored, _) = bring_back(&engine, &backup, Destination::New(None), &[]).await.unwrap();
    assert!(restored.location.contains("shop.db.restored-"), "{}", restored.location);
    assert_eq!(restored.previous, None);
    assert_eq!(mode(restored.location.as_ref()), 0o600);
    assert_eq!(place.listing().len(), 2, "nothing hidden is left: {:?}", place.listing());
}

#[tokio::test]
async fn until_its_release_it_is_hidden_and_private() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let (ctx, port) = (ctx(), engine.restore().unwrap());
    let request = restore_request(Destination::New(Some("new.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    let session = port.open(&ctx, &request, &backup.manifest, &preview).await.unwrap();
    let hidden = place.listing().into_iter().find(|n| n.starts_with(".new.db.restore-")).unwrap();
    assert_eq!(mode(&place.file(&hidden)), 0o600);
    assert!(!place.file("new.db").exists());
    assert_eq!(session.finish(&ctx).await.unwrap_err().kind(), ErrorKind::Internal, "nothing is written yet");
    session.discard(&ctx).await.unwrap();
    assert_eq!(place.listing(), ["shop.db"]);
}

#[tokio::test]
async fn a_place_with_content_is_refused_twice() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let (ctx, port) = (ctx(), engine.restore().unwrap());
    std::fs::write(place.file("full.db"), "precious").unwrap();
    let request = restore_request(Destination::New(Some("full.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    let finding = preview.findings.iter().find(|f| f.level == Level::Error).unwrap();
    assert_eq!(finding.check, "destination");
    assert!(finding.mend.is_some());
    assert!(port.open(&ctx, &request, &backup.manifest, &preview).await.is_err());

    // Taken between the preview and the release: the sealed file stays, the stranger's too.
    let request = restore_request(Destination::New(Some("late.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    let session = port.open(&ctx, &request, &backup.manifest, &preview).await.unwrap();
    let blocks: Vec<_> = backup
        .blocks
        .iter()
        .map(|b| Ok(RestoreBlock { offset: b.offset(), bytes: b.bytes().unwrap().clone() }))
        .collect();
    let member = backup.manifest.members[0].0.clone();
    session.write(&ctx, &member, Box::pin(futures::stream::iter(blocks))).await.unwrap();
    session.finish(&ctx).await.unwrap();
    std::fs::write(place.file("late.db"), "precious").unwrap();
    let error = session.release(&ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.hint().unwrap().contains(".late.db.restore-"));
    assert_eq!(std::fs::read(place.file("late.db")).unwrap(), b"precious");
    assert!(place.listing().iter().any(|n| n.starts_with(".late.db.restore-")));
}

#[tokio::test]
async fn previews_say_what_is_wrong() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    let (ctx, port) = (ctx(), engine.restore().unwrap());

    std::fs::write(place.file("n.db-wal"), "a stranger's log").unwrap();
    let request = restore_request(Destination::New(Some("n.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    assert!(preview.findings.iter().any(|f| f.level == Level::Error && f.message.contains("n.db-wal")));

    let mut foreign = backup.manifest.clone();
    foreign.source.engine = EngineKind::Postgres;
    let error = port.preview(&ctx, &request, &foreign).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let own = restore_request(Destination::New(Some(place.db.display().to_string())), &[]);
    assert_eq!(port.preview(&ctx, &own, &backup.manifest).await.unwrap_err().kind(), ErrorKind::Invalid);

    let full = SqliteOptions { free_space: FreeSpace::new(|_| Ok(1000)), ..SqliteOptions::default() };
    let port = engine_with(&place.db, full).restore().unwrap();
    let request = restore_request(Destination::New(Some("m.db".into())), &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    assert!(preview.findings.iter().any(|f| f.level == Level::Error && f.check == "disk_space"));

    let read_only = SqliteOptions { read_only: true, ..SqliteOptions::default() };
    let port = engine_with(&place.db, read_only).restore().unwrap();
    let request = restore_request(Destination::InPlace, &[]);
    let preview = port.preview(&ctx, &request, &backup.manifest).await.unwrap();
    assert!(preview.findings.iter().any(|f| f.level == Level::Error && f.message.contains("read-only")));
}

#[tokio::test]
async fn in_place_keeps_what_was_there() {
    for journal in ["WAL", "DELETE", "PERSIST"] {
        let place = place(&format!("PRAGMA journal_mode={journal}; {SHOP}"));
        std::fs::set_permissions(&place.db, std::fs::Permissions::from_mode(0o640)).unwrap();
        let engine = engine(&place.db);
        let query = engine.query().unwrap();
        let backup = back_up(&engine, &place.request()).await.unwrap();
        // Through the engine's own pool, which then has the file open; with a log that was not checkpointed.
        query.execute(&ctx(), Statement::new("DELETE FROM t WHERE a = 1")).await.unwrap();
        let (restored, comparison) = bring_back(&engine, &backup, Destination::InPlace, &[]).await.unwrap();
        assert!(comparison.is_proven(), "{comparison:?}");
        assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 2, "{journal}");
        assert_eq!(mode(&place.db), 0o640);
        let kept = restored.previous.unwrap();
        assert!(kept.contains("shop.db.before-restore-"), "{kept}");
        assert_eq!(number(kept.as_ref(), "SELECT count(*) FROM t"), 1, "{journal}");
        // The pool goes on with the new file.
        let changed = query.execute(&ctx(), Statement::new("UPDATE t SET a = a + 10")).await.unwrap();
        assert_eq!(changed, 2);
        engine.close().await;
        assert_eq!(number(&place.db, "SELECT min(a) FROM t"), 11);
        assert!(place.listing().iter().all(|n| !n.starts_with('.')), "{:?}", place.listing());
        let integrity: String = Connection::open(&place.db)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        assert_eq!(integrity, "ok");
    }
}

#[tokio::test]
async fn in_place_with_another_user_is_busy_and_changes_nothing() {
    for (journal, hold) in [("WAL", "SELECT * FROM t"), ("DELETE", "BEGIN; SELECT * FROM t")] {
        let place = place(&format!("PRAGMA journal_mode={journal}; {SHOP}"));
        let options =
            SqliteOptions { busy_timeout: std::time::Duration::from_millis(50), ..SqliteOptions::default() };
        let engine = engine_with(&place.db, options);
        let backup = back_up(&engine, &place.request()).await.unwrap();
        let other = Connection::open(&place.db).unwrap();
        other.execute_batch(hold).unwrap();
        let error = bring_back(&engine, &backup, Destination::InPlace, &[]).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy, "{journal} {error:?}");
        assert!(error.hint().is_some());
        assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 2);
        let mode: String =
            Connection::open(&place.db).unwrap().query_row("PRAGMA journal_mode", [], |r| r.get(0)).unwrap();
        assert_eq!(mode, journal.to_lowercase());
        assert!(place.listing().iter().any(|n| n.starts_with(".shop.db.restore-")), "the sealed file stays");
    }
}

#[tokio::test]
async fn in_place_of_a_missing_and_of_a_broken_database() {
    let place = place(SHOP);
    let engine = engine(&place.db);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    std::fs::remove_file(&place.db).unwrap();
    let (restored, _) = bring_back(&engine, &backup, Destination::InPlace, &[]).await.unwrap();
    assert_eq!(restored.previous, None);
    assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 2);

    std::fs::write(&place.db, "overwritten by something else, long enough to be no database".repeat(50))
        .unwrap();
    std::fs::write(place.file("shop.db-wal"), "a log").unwrap();
    let (restored, comparison) = bring_back(&engine, &backup, Destination::InPlace, &[]).await.unwrap();
    assert!(comparison.is_proven());
    assert_eq!(number(&place.db, "SELECT count(*) FROM t"), 2);
    let kept = restored.previous.unwrap();
    assert!(std::fs::read_to_string(&kept).unwrap().starts_with("overwritten"));
    assert_eq!(std::fs::read_to_string(format!("{kept}-wal")).unwrap(), "a log");
}

#[tokio::test]
async fn a_link_is_followed() {
    let place = place(SHOP);
    let link = place.file("link.db");
    std::os::unix::fs::symlink(&place.db, &link).unwrap();
    let engine = engine(&link);
    let backup = back_up(&engine, &place.request()).await.unwrap();
    bring_back(&engine, &backup, Destination::InPlace, &[]).await.unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!std::fs::symlink_metadata(&place.db).unwrap().is_symlink());
    assert_eq!(number(&link, "SELECT count(*) FROM t"), 2);
}
