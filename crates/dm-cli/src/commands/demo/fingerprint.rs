//! A second opinion: the content of a database, read row by row in order, apart from anything that backup and restore do.

use data_manager::{DataManager, OpContext, Result, Statement};
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::Value;

/// The tables of the shop and how their rows are put in order.
pub(super) const TABLES: [&str; 3] = ["users", "orders", "sessions"];

/// One table's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fingerprint {
    /// The table.
    pub(super) table: String,
    /// Its rows.
    pub(super) rows: u64,
    /// BLAKE3 over every row as JSON, one a line, in order of the primary key.
    pub(super) digest: String,
}

/// Reads the whole database.
pub(super) async fn take(dm: &DataManager, ctx: &OpContext) -> Result<Vec<Fingerprint>> {
    let mut all = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        // The names are constants of this file.
        let statement = Statement::new(format!("SELECT * FROM {table} ORDER BY id"));
        let mut stream = dm.query_stream(ctx, None, statement).await?;
        let mut hasher = blake3::Hasher::new();
        let mut rows = 0;
        while let Some(row) = stream.try_next().await? {
            let values: Vec<Value> = row.values.iter().map(data_manager::Value::to_json).collect();
            hasher.update(Value::Array(values).to_string().as_bytes());
            hasher.update(b"\n");
            rows += 1;
        }
        all.push(Fingerprint {
            table: table.to_owned(),
            rows,
            digest: hasher.finalize().to_hex().to_string(),
        });
    }
    Ok(all)
}
