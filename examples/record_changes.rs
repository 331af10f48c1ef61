//! Every change of a table's rows in the audit trail: what was there before and after, who, when; and the proof of one of them.
//!
//! `cargo run --example record_changes` (an SQLite database of its own). With PostgreSQL the application says for whom it acts by
//! `SET LOCAL dm.actor = 'alice'`, and needs neither this crate nor anything else of it.
#![allow(clippy::print_stdout)]

use data_manager::audit_trail::LogFilter;
use data_manager::{
    AuditVerifyOptions, CaptureRequest, DataManager, DrainOptions, EventKind, Order, Page, Result, Statement,
    TableName, TransactionOptions,
};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let dm = DataManager::builder()
        .engine("shop", format!("sqlite://{}?mode=rwc", at("shop.db")))?
        .repository(at("backups"))
        .state(at("state.db"))
        .build()?;
    let ctx = dm.context();
    dm.execute(&ctx, Statement::new("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, card TEXT)"))
        .await?;

    // From here on the database itself records each change, in the transaction that makes it; of the card only that it changed.
    let request =
        CaptureRequest { mask: vec!["card".to_owned()], ..CaptureRequest::of(TableName::bare("customers")) };
    dm.audit().capture().install(&ctx, None, &request).await?;

    // What the application does, with whatever it uses.
    dm.execute(&ctx, Statement::new("INSERT INTO customers VALUES (1, 'Ann', '4111')")).await?;
    let mut transaction = dm.begin(&ctx, None, TransactionOptions::default()).await?;
    transaction
        .execute(&ctx, Statement::new("INSERT INTO dm_capture_session (user) VALUES ('alice')"))
        .await?;
    transaction.execute(&ctx, Statement::new("UPDATE customers SET name = 'Anne', card = '4222'")).await?;
    transaction.execute(&ctx, Statement::new("DELETE FROM dm_capture_session")).await?;
    transaction.commit(&ctx).await?;

    // Each change goes into the trail once, however often this is stopped and begun again. A service would follow instead.
    let report = dm.audit().capture().drain(&ctx, None, &DrainOptions::default()).await?;
    println!("{} changes taken over", report.taken_over);

    let mut filter = LogFilter::default();
    EventKind::Change.narrow(&mut filter);
    let page = Page { order: Order::Oldest, ..Page::default() };
    let changes = dm.audit().log(&ctx, &filter, &page).await?;
    for change in &changes {
        println!("{} by {}: {}", change.action, change.actor, change.details["changed"]);
        println!("  before {}, after {}", change.details["before"], change.details["after"]);
    }

    // Nobody changed it since, and it can be proven to somebody who has nothing but the public key.
    let verified = dm.audit().verify(&ctx, &AuditVerifyOptions::default()).await?;
    println!("the trail: {}", verified.statement);
    if let Some(change) = changes.last() {
        let proof = dm.audit().prove(&ctx, &change.event_id.to_string(), None, true).await?;
        println!("a proof of {} bytes by {}", proof.to_text()?.len(), dm.audit().key(&ctx).await?.vkey);
    }
    dm.close().await;
    Ok(())
}
