//! Demands on being backed up.

use std::collections::BTreeSet;

use dm_core::{
    BackupRequest, Error, ErrorKind, Layout, Level, MemberKind, MemberSpec, RestoreRequest, TenantFilter,
};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::collect::{read_all, source};
use super::{Subject, collect, context};

/// Small blocks, so that members have several.
pub(super) fn request() -> BackupRequest {
    BackupRequest { digest_key: [7; 32], block_bytes: 64 << 10, ..BackupRequest::default() }
}

/// Names are unique, `/`-separated and the same in the next backup; tables of members are among the facts.
pub async fn members_are_named_once_and_in_order(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let first = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let names: Vec<_> = first.members.iter().map(|(spec, _)| spec.name.clone()).collect();
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "a member's name is unique: {names:?}");
    for name in &names {
        let good =
            !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        assert!(good, "\"{name}\" is a path without empty parts");
    }
    let tables: BTreeSet<_> = first.summary.tables.iter().map(|facts| facts.table.as_str()).collect();
    for (spec, _) in first.members.iter().filter(|(spec, _)| spec.kind == MemberKind::Rows) {
        let table = spec.table.as_deref().expect("a member of rows names its table");
        assert!(tables.contains(table), "{table} has facts: {tables:?}");
    }
    let again = collect(engine.as_ref(), &ctx, &request()).await.expect("another backup");
    let names_again: Vec<_> = again.members.iter().map(|(spec, _)| spec.name.clone()).collect();
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>(),
        names_again.iter().collect::<BTreeSet<_>>(),
        "names are stable from one backup to the next"
    );
}

/// Blocks are small, not empty, and stand where the layout wants them; somewhere there are several.
pub async fn blocks_are_laid_out_as_said(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let backup = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let mut most = 0;
    for (spec, blocks) in &backup.members {
        let mut end = 0;
        most = most.max(blocks.len());
        for (number, block) in blocks.iter().enumerate() {
            let length = block.length();
            assert!(length > 0 && length <= 4 << 20, "{}: a block of {length} bytes", spec.name);
            match spec.layout {
                Layout::Stream => assert_eq!(block.offset(), end, "{}: no gap in a stream", spec.name),
                Layout::Pages { page_bytes } => {
                    let page = u64::from(page_bytes);
                    assert!(
                        block.offset() >= end && block.offset().is_multiple_of(page),
                        "{}: at a page",
                        spec.name
                    );
                    let last = number + 1 == blocks.len();
                    assert!(last || length.is_multiple_of(page), "{}: a whole number of pages", spec.name);
                }
            }
            end = block.offset() + length;
        }
    }
    assert!(most > 1, "the subject has a member of several blocks");
}

/// Two backups of the same content record the same facts: rows and digests, in any order.
pub async fn facts_are_repeatable(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let first = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let again =
        collect(engine.as_ref(), &ctx, &BackupRequest { jobs: 1, ..request() }).await.expect("a backup");
    assert!(first.summary.tables.len() >= 2, "the subject has two tables");
    assert!(first.summary.tables.iter().all(|facts| facts.digest.is_some()), "every table has a digest");
    assert!(first.summary.tables.iter().any(|facts| facts.rows > 0), "the subject has rows");
    assert_eq!(sorted(&first), sorted(&again));
    let without = BackupRequest { content_digests: false, ..request() };
    let without = collect(engine.as_ref(), &ctx, &without).await.expect("a backup without digests");
    assert_eq!(without.summary.tables.len(), first.summary.tables.len());
}

/// Another key gives other digests of the same rows.
pub async fn digests_depend_on_the_key(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let one = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let other = BackupRequest { digest_key: [8; 32], ..request() };
    let other = collect(engine.as_ref(), &ctx, &other).await.expect("a backup");
    for (one, other) in sorted(&one).iter().zip(&sorted(&other)) {
        assert_eq!((&one.table, one.rows), (&other.table, other.rows));
        if one.rows > 0 {
            assert_ne!(one.digest, other.digest, "{} has the same digest under two keys", one.table);
        }
    }
}

/// What changes after `open` is not in the backup.
pub async fn a_snapshot_does_not_move(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let before = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let session = source(engine.as_ref()).open(&ctx, &request()).await.expect("a session");
    subject.change().await;
    let during = read_all(session, &ctx, 2).await.expect("a backup");
    assert_eq!(sorted(&before), sorted(&during), "the snapshot was taken before the change");
    let after = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    assert_ne!(sorted(&before), sorted(&after), "the change is in the next backup");
}

/// `finish` refuses when a member was not read to its end.
pub async fn an_unread_member_is_no_backup(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let session = source(engine.as_ref()).open(&ctx, &request()).await.expect("a session");
    let error = session.finish(&ctx).await.expect_err("nothing was read");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
}

/// Reading a member that is not there is an error, here or as the stream's only item.
pub async fn an_unknown_member_is_refused(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let session = source(engine.as_ref()).open(&ctx, &request()).await.expect("a session");
    let model = session.members().first().cloned().expect("a member");
    let unknown = MemberSpec { name: "no/such/member".into(), ..model };
    let error = match session.read(&ctx, &unknown).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.expect("an item").expect_err("an unknown member"),
    };
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid), "{error:?}");
}

/// A preflight of a good request has no errors; a named table that does not exist is one.
pub async fn an_unknown_table_is_found_before_anything_starts(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let errors = async |request: BackupRequest| {
        let preflight = source(engine.as_ref()).preflight(&ctx, &request).await.expect("a preflight");
        preflight.findings.into_iter().filter(|finding| finding.level == Level::Error).collect::<Vec<_>>()
    };
    let good = errors(request()).await;
    assert!(good.is_empty(), "{good:?}");
    let nowhere = || vec!["no_such_table_anywhere".to_owned()];
    for bad in [
        BackupRequest { exclude_tables: nowhere(), ..request() },
        BackupRequest { include_tables: nowhere(), ..request() },
    ] {
        let found = errors(bad).await;
        assert!(
            found.iter().any(|finding| finding.message.contains("no_such_table_anywhere")),
            "a finding names the table: {found:?}"
        );
    }
}

/// An engine that cannot choose one tenant's rows refuses: it never takes, or gives back, everybody's instead. One that can
/// finds no table with a column that none has.
pub async fn a_tenant_is_never_ignored(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let tenant = Some(TenantFilter { column: "no_such_column_anywhere".into(), value: "1".into() });
    let asked = BackupRequest { tenant: tenant.clone(), ..request() };
    let refused = |error: Error| {
        assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound), "{error:?}");
        assert!(error.hint().is_some(), "the way out is named: {error:?}");
    };
    match source(engine.as_ref()).preflight(&ctx, &asked).await {
        Ok(preflight) => assert!(preflight.findings.iter().any(|f| f.level == Level::Error), "{preflight:?}"),
        Err(error) => refused(error),
    }
    match source(engine.as_ref()).open(&ctx, &asked).await {
        Ok(_) => panic!("a backup of a tenant that cannot be told"),
        Err(error) => refused(error),
    }
    let whole = collect(engine.as_ref(), &ctx, &request()).await.expect("a backup");
    let wish = RestoreRequest {
        tenant,
        digest_key: [7; 32],
        ..RestoreRequest::to(subject.fresh_destination().await)
    };
    let target = engine.restore().expect("the engine can be restored into");
    match target.preview(&ctx, &wish, &whole.manifest()).await {
        Ok(preview) => panic!("a restore of a tenant that cannot be told: {preview:?}"),
        Err(error) => refused(error),
    }
}

/// After a cancellation nothing more is opened, and a stream that is being read ends with `Interrupted`.
pub async fn a_cancelled_backup_stops(subject: &dyn Subject) {
    let engine = subject.engine();
    let cancel = CancellationToken::new();
    let ctx = context().with_cancellation(cancel.clone());
    let session = source(engine.as_ref()).open(&ctx, &request()).await.expect("a session");
    let largest = session.members().first().cloned().expect("a member");
    let mut stream = session.read(&ctx, &largest).await.expect("a stream");
    cancel.cancel();
    let mut last = None;
    let mut after = 0;
    while let Some(item) = stream.next().await {
        after += 1;
        assert!(last.is_none(), "a stream ends with its error");
        last = item.err();
    }
    // What was under way already may still come, but a stream that goes on to its end was not told. A member of a few
    // blocks may have been read whole before the cancellation.
    if let Some(error) = last {
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
    } else {
        assert!(after <= 16, "{after} blocks came after the cancellation");
    }
    match source(engine.as_ref()).open(&ctx, &request()).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}"),
        Ok(_) => panic!("a cancelled context opens nothing"),
    }
}

/// Sessions and streams that are dropped half-way do no harm to the next backup.
pub async fn a_dropped_backup_leaves_the_engine_usable(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    for _ in 0..5 {
        let session = source(engine.as_ref()).open(&ctx, &request()).await.expect("a session");
        let member = session.members().first().cloned().expect("a member");
        let mut stream = session.read(&ctx, &member).await.expect("a stream");
        let _ = stream.next().await;
        drop(session);
        drop(stream);
    }
    collect(engine.as_ref(), &ctx, &request()).await.expect("a backup after dropped ones");
}

pub(super) fn sorted(backup: &super::Collected) -> Vec<dm_core::TableFacts> {
    let mut tables = backup.summary.tables.clone();
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    tables
}
