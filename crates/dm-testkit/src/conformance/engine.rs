//! Demands on the engine itself.

use dm_core::{ErrorKind, Level};

use super::{Subject, context};

/// It answers, says what it is, and shows no secret.
pub async fn describes_itself(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    let version = engine.version(&ctx).await.expect("a version");
    assert!(!version.text.is_empty(), "the version has a text");
    let health = engine.ping(&ctx).await.expect("a ping");
    assert!(health.reachable, "a ping that succeeds says reachable");
    let findings = engine.diagnose(&ctx).await;
    let errors: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "a healthy engine has no findings of level error: {errors:?}");
    if let Some(secret) = subject.secret() {
        let shown = format!("{} {:?} {findings:?} {version:?}", engine.location(), engine);
        assert!(!shown.contains(&secret), "the secret is shown: {shown}");
    }
}

/// Closing twice is fine, and using it afterwards is `Unreachable`.
pub async fn a_closed_engine_is_unreachable(subject: &dyn Subject) {
    let (engine, ctx) = (subject.engine(), context());
    engine.close().await;
    engine.close().await;
    let error = engine.version(&ctx).await.expect_err("a closed engine answers nothing");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}
