//! Backups in an S3 bucket (or anything that speaks S3), encrypted to a key that the backing-up host does not hold.
//!
//! `S3_URL=s3://bucket/prefix S3_ENDPOINT=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… cargo run --example custom_storage_s3`
#![allow(clippy::print_stdout)]

use data_manager::repository::{Identity, StoreOptions};
use data_manager::{BackupOptions, DataManager, RestoreOptions, Result, Secret, Statement};

#[tokio::main]
async fn main() -> Result<()> {
    let Ok(bucket) = std::env::var("S3_URL") else {
        println!("set S3_URL, for example s3://my-backups/shop");
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = |name| std::env::var(name).ok().map(Secret::new);
    let store = StoreOptions {
        endpoint: std::env::var("S3_ENDPOINT").ok(),
        region: Some(std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned())),
        access_key: secret("AWS_ACCESS_KEY_ID"),
        secret_key: secret("AWS_SECRET_ACCESS_KEY"),
        allow_http: std::env::var("S3_ENDPOINT").is_ok_and(|e| e.starts_with("http://")),
        ..StoreOptions::default()
    };

    // The private key stays with whoever restores; the host that backs up needs its public half and the index key.
    let owner = Identity::generate();
    let index = Identity::generate();
    let builder = || -> Result<_> {
        Ok(DataManager::builder()
            .engine("shop", format!("sqlite://{}?mode=rwc", folder.path().join("shop.db").display()))?
            .repository(&bucket)
            .store_options(store.clone())
            .encrypt_to([owner.recipient()], index.clone())
            .state(folder.path().join("state.db").display().to_string()))
    };

    let host = builder()?.build()?;
    host.execute(&host.context(), Statement::new("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"))
        .await?;
    host.execute(&host.context(), Statement::new("INSERT INTO notes (text) VALUES (?)").bind("hello"))
        .await?;
    let report = host.backup().run(&host.context(), &BackupOptions::default()).await?;
    println!("backed up {} to {bucket}", report.backup.id);
    host.close().await;

    let restorer = builder()?.identity(owner).build()?;
    let to = folder.path().join("restored.db").display().to_string();
    let plan = restorer
        .plan_restore(&restorer.context(), &RestoreOptions { to: Some(to), ..RestoreOptions::default() })
        .await?;
    let restored = restorer.apply_restore(&restorer.context(), plan).await?;
    println!("restored to {}, proven: {}", restored.location, restored.equal);
    restorer.close().await;
    Ok(())
}
