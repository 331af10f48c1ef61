//! A database that did not change: its facts come from the base, when the pages were found to be the base's, and only then.

use std::sync::Arc;

use async_trait::async_trait;
use dm_core::{BackupRequest, BaseBackup, Engine, MemberSpec, OpContext, SourceDescription, TableFacts};
use futures::StreamExt;

use crate::support::{Backup, back_up, ctx, engine, place};

/// An earlier backup whose facts can be told from those of the database.
#[derive(Debug)]
struct Earlier {
    source: SourceDescription,
    tables: Vec<TableFacts>,
    warnings: Vec<String>,
}

#[async_trait]
impl BaseBackup for Earlier {
    fn source(&self) -> &SourceDescription {
        &self.source
    }

    async fn member(&self, _: &OpContext, _: &str) -> dm_core::Result<Option<(MemberSpec, u64)>> {
        Ok(None)
    }

    fn tables(&self) -> &[TableFacts] {
        &self.tables
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn earlier(backup: &Backup) -> Earlier {
    let mut tables = backup.summary.tables.clone();
    tables.iter_mut().for_each(|facts| facts.rows += 1000);
    Earlier { source: backup.manifest.source.clone(), tables, warnings: vec!["of the base".to_owned()] }
}

/// The rows of `t` and the warnings in a backup with this base, where the writer says of the member what it says.
async fn rows_with(
    engine: &dyn Engine,
    request: BackupRequest,
    base: Earlier,
    unchanged: bool,
) -> (u64, Vec<String>) {
    let request = BackupRequest { base: Some(Arc::new(base)), ..request };
    let session = engine.backup().unwrap().open(&ctx(), &request).await.unwrap();
    let member = session.members()[0].clone();
    let mut blocks = session.read(&ctx(), &member).await.unwrap();
    while let Some(block) = blocks.next().await {
        block.unwrap();
    }
    if unchanged {
        session.member_unchanged(&member);
    }
    let summary = session.finish(&ctx()).await.unwrap();
    (summary.tables.iter().find(|t| t.table == "t").unwrap().rows, summary.warnings)
}

#[tokio::test]
async fn facts_come_from_the_base_only_where_they_say_the_same() {
    let place = place("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);");
    let engine = engine(&place.db);
    let first = back_up(&engine, &place.request()).await.unwrap();

    let lent = rows_with(&engine, place.request(), earlier(&first), true).await;
    assert_eq!(lent, (1002, vec!["of the base".to_owned()]));

    let counted = (2, Vec::new());
    assert_eq!(
        rows_with(&engine, place.request(), earlier(&first), false).await,
        counted,
        "pages that differ"
    );

    let mut other = earlier(&first);
    other.source.attributes.insert("row_encoding".to_owned(), serde_json::json!(0));
    assert_eq!(rows_with(&engine, place.request(), other, true).await, counted, "another encoding of rows");

    let mut bare = earlier(&first);
    bare.tables.iter_mut().for_each(|facts| facts.digest = None);
    assert_eq!(rows_with(&engine, place.request(), bare, true).await, counted, "counts without digests");

    let none = Earlier { tables: Vec::new(), ..earlier(&first) };
    assert_eq!(rows_with(&engine, place.request(), none, true).await, counted, "no facts at all");
}
