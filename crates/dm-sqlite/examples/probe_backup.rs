//! How long a backup's parts take on a database of one's own: `probe_backup <database> [<scratch folder>]`.

use std::time::Instant;

use dm_core::{Actor, BackupRequest, Engine, EngineId, OpContext, Result};
use dm_sqlite::{SqliteEngine, SqliteLocation, SqliteOptions};
use futures::StreamExt;

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "shop.db".to_owned());
    let scratch_dir = arguments.next().map(Into::into);
    let engine =
        SqliteEngine::open(EngineId::new("probe")?, SqliteLocation::parse(&path)?, SqliteOptions::default())?;
    let Some(source) = engine.backup() else { return Ok(()) };
    let ctx = OpContext::new(Actor::local_user("probe"));
    for content_digests in [true, false] {
        let begun = Instant::now();
        let request =
            BackupRequest { scratch_dir: scratch_dir.clone(), content_digests, ..BackupRequest::default() };
        let session = source.open(&ctx, &request).await?;
        let copied = begun.elapsed();
        let mut bytes = 0_u64;
        for member in session.members().to_vec() {
            let mut blocks = session.read(&ctx, &member).await?;
            while let Some(block) = blocks.next().await {
                bytes += block?.length();
            }
        }
        let read = begun.elapsed();
        let summary = session.finish(&ctx).await?;
        let rows: u64 = summary.tables.iter().map(|t| t.rows).sum();
        println!(
            "digests {content_digests}: copied after {copied:.2?}, read after {read:.2?}, done after {:.2?} \
             ({bytes} bytes, {rows} rows)",
            begun.elapsed()
        );
    }
    Ok(())
}
