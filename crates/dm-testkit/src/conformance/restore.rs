//! Demands on being restored into.

use std::collections::BTreeSet;
use std::sync::Arc;

use dm_core::{
    Comparison, Destination, Engine, EngineKind, Error, ErrorKind, Level, OpContext, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, RestoreTarget, Restored, Result,
};
use futures::{StreamExt as _, TryStreamExt as _};

use super::backup::{request, sorted};
use super::{Collected, Subject, collect, context};
use crate::FixedClock;

fn restore_request(destination: Destination) -> RestoreRequest {
    RestoreRequest { digest_key: [7; 32], ..RestoreRequest::to(destination) }
}

fn target(engine: &dyn Engine) -> Arc<dyn RestoreTarget> {
    engine.restore().expect("the engine can be restored into")
}

async fn backup(subject: &dyn Subject, ctx: &OpContext) -> Collected {
    collect(subject.engine().as_ref(), ctx, &request()).await.expect("a backup")
}

/// Previews, opens and writes everything, up to `finish`.
async fn written(
    subject: &dyn Subject,
    ctx: &OpContext,
    backup: &Collected,
    request: &RestoreRequest,
) -> (Box<dyn RestoreSession>, RestorePreview) {
    let manifest = backup.manifest();
    let engine = subject.engine();
    let target = target(engine.as_ref());
    let preview = target.preview(ctx, request, &manifest).await.expect("a preview");
    let errors: Vec<_> = preview.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "a fresh destination has no errors: {errors:?}");
    let session = target.open(ctx, request, &manifest, &preview).await.expect("a sealed place");
    write_all(session.as_ref(), ctx, backup, &manifest).await.expect("everything is written");
    session.finish(ctx).await.expect("a finish");
    (session, preview)
}

async fn write_all(
    session: &dyn RestoreSession,
    ctx: &OpContext,
    backup: &Collected,
    manifest: &RestoreManifest,
) -> Result<()> {
    for stage in session.stages() {
        futures::stream::iter(stage)
            .map(|index| async move {
                let (spec, _) = &manifest.members[index];
                session.write(ctx, spec, backup.content(index)).await
            })
            .buffer_unordered(2)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

/// What was backed up stands there again, compares equal, and can be backed up with the same facts.
pub async fn a_restore_gives_everything_back(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let request = restore_request(subject.fresh_destination().await);
    let (session, preview) = written(subject, &ctx, &backup, &request).await;
    let comparison: Comparison = session.compare(&ctx, &backup.summary.tables).await.expect("a comparison");
    assert_eq!(comparison.tables.len(), backup.summary.tables.len(), "every table is compared");
    assert!(comparison.is_proven(), "{comparison:?}");
    let restored: Restored = session.release(&ctx).await.expect("a release");
    assert!(!restored.location.is_empty() && !preview.location.is_empty(), "the place is named");
    if let Some(secret) = subject.secret() {
        let shown = format!("{restored:?} {preview:?}");
        assert!(!shown.contains(&secret), "the secret is shown: {shown}");
    }
    let engine = subject.open_restored(&restored).await;
    let again =
        collect(engine.as_ref(), &ctx, &super::backup::request()).await.expect("a backup of the restored");
    assert_eq!(sorted(&backup), sorted(&again));
    engine.close().await;
}

/// The stages hold every member of the preview exactly once, and nothing else.
pub async fn stages_hold_each_member_once(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let request = restore_request(subject.fresh_destination().await);
    let (session, preview) = written(subject, &ctx, &backup, &request).await;
    let all: Vec<usize> = session.stages().concat();
    let unique: BTreeSet<usize> = all.iter().copied().collect();
    assert_eq!(all.len(), unique.len(), "a member is written once");
    assert_eq!(unique, preview.members.iter().copied().collect(), "stages and preview agree");
    session.discard(&ctx).await.expect("a discard");
}

/// A plan is looked at twice, the second time by the run that applies it: it must find the same place and consequences at
/// the same moment, also where the adapter chooses the name.
pub async fn a_second_look_sees_the_same_plan(subject: &dyn Subject) {
    let planned_at = context().now();
    let look = async |destination: &Destination, backup: &Collected| {
        let ctx = context().with_clock(Arc::new(FixedClock::new(planned_at)));
        let target = target(subject.engine().as_ref());
        let request = restore_request(destination.clone());
        target.preview(&ctx, &request, &backup.manifest()).await.expect("a preview")
    };
    let backup = backup(subject, &context()).await;
    for destination in [Destination::New(None), Destination::InPlace] {
        let (first, second) = (look(&destination, &backup).await, look(&destination, &backup).await);
        assert_eq!(first.location, second.location, "{destination:?}");
        assert_eq!(first.consequences, second.consequences, "{destination:?}");
        assert_eq!(first.members, second.members, "{destination:?}");
    }
}

/// A destination that holds something is an error of the preview, and `open` makes nothing of it.
pub async fn a_taken_destination_is_refused(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let request = restore_request(subject.taken_destination().await);
    let engine = subject.engine();
    let target = target(engine.as_ref());
    let preview = target.preview(&ctx, &request, &backup.manifest()).await.expect("a preview");
    assert!(
        preview.findings.iter().any(|finding| finding.level == Level::Error),
        "the preview finds the destination taken: {:?}",
        preview.findings
    );
    match target.open(&ctx, &request, &backup.manifest(), &preview).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}"),
        Ok(_) => panic!("a taken destination is not opened"),
    }
}

/// A planted defect: when a recorded fact is another one, the comparison says so, and names that table only.
pub async fn a_difference_is_seen(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let request = restore_request(subject.fresh_destination().await);
    let (session, _) = written(subject, &ctx, &backup, &request).await;
    let mut expected = backup.summary.tables.clone();
    let mut donor = expected.clone();
    let victim = expected.iter_mut().find(|facts| facts.rows > 0).expect("a table with rows");
    let other = donor.iter_mut().find(|facts| facts.digest != victim.digest).expect("another digest");
    victim.digest = other.digest;
    let victim = victim.table.clone();
    let comparison = session.compare(&ctx, &expected).await.expect("a comparison");
    assert!(!comparison.is_proven(), "a wrong digest is seen");
    let unequal: Vec<_> = comparison.tables.iter().filter(|t| !t.equal).map(|t| &t.expected.table).collect();
    assert_eq!(unequal, [&victim]);

    let mut expected = backup.summary.tables.clone();
    if let Some(facts) = expected.first_mut() {
        facts.rows += 1;
        facts.digest = None;
    }
    let comparison = session.compare(&ctx, &expected).await.expect("a comparison");
    assert!(!comparison.is_proven(), "a wrong count is seen without a digest too");
    session.discard(&ctx).await.expect("a discard");
}

/// A backup of another engine is `Unsupported`.
pub async fn another_engines_backup_is_refused(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let engine = subject.engine();
    let mut manifest = backup.manifest();
    manifest.source.engine = match engine.kind() {
        EngineKind::Redis => EngineKind::Mongodb,
        _ => EngineKind::Redis,
    };
    let request = restore_request(subject.fresh_destination().await);
    let answer = target(engine.as_ref()).preview(&ctx, &request, &manifest).await;
    let error = answer.expect_err("a backup of another engine");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

/// A named table that the backup lacks is `NotFound`; an engine that restores no single tables says `Unsupported`.
pub async fn an_unknown_table_is_not_restored(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let mut request = restore_request(subject.fresh_destination().await);
    request.tables = vec!["no_such_table_anywhere".into()];
    let engine = subject.engine();
    let answer = target(engine.as_ref()).preview(&ctx, &request, &backup.manifest()).await;
    let error = answer.expect_err("a table that the backup lacks");
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported), "{error:?}");
}

/// After a discard the same destination can be restored into.
pub async fn a_discarded_restore_leaves_nothing(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let request = restore_request(subject.fresh_destination().await);
    let (session, _) = written(subject, &ctx, &backup, &request).await;
    session.discard(&ctx).await.expect("a discard");
    let (session, _) = written(subject, &ctx, &backup, &request).await;
    session.release(&ctx).await.expect("a release after a discard");
}

/// An error of the content is the error of the write, whatever came before it.
pub async fn a_broken_content_is_not_swallowed(subject: &dyn Subject) {
    let ctx = context();
    let backup = backup(subject, &ctx).await;
    let manifest = backup.manifest();
    let request = restore_request(subject.fresh_destination().await);
    let engine = subject.engine();
    let target = target(engine.as_ref());
    let preview = target.preview(&ctx, &request, &manifest).await.expect("a preview");
    let session = target.open(&ctx, &request, &manifest, &preview).await.expect("a sealed place");
    // Largest content: the error comes when a part of it is written already.
    let broken = (0..manifest.members.len()).max_by_key(|i| manifest.members[*i].1).expect("a member");
    let mut seen = None;
    'stages: for stage in session.stages() {
        for index in stage {
            let (spec, _) = &manifest.members[index];
            let mut content = backup.content(index);
            if index == broken {
                let failing = futures::stream::once(async { Err(Error::corrupt("a planted defect")) });
                content = content.take(1).chain(failing).boxed();
            }
            if let Err(error) = session.write(&ctx, spec, content).await {
                assert_eq!(index, broken, "only the broken member fails: {error:?}");
                seen = Some(error);
                break 'stages;
            }
        }
    }
    let error = seen.expect("the broken member is not written as if nothing were wrong");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    session.discard(&ctx).await.expect("a discard after a failed write");
}
