//! Statements against the engines. Each leaves a line in the trail that says what was read, and how much.

mod record;
mod shape;

use dm_core::{
    AccessMode, Engine, EngineId, Error, OpContext, QueryPort, Result, Row, RowStream, Statement,
    Transaction, TransactionOptions,
};
use std::sync::Arc;

use crate::DataManager;
use crate::operations::OperationKind;
use crate::pipeline::{Notes, Operation};

const QUERY: OperationKind = OperationKind::Query;
const EXECUTE: OperationKind = OperationKind::Execute;

impl DataManager {
    /// Runs a statement that gives rows on the only (or first) engine, and collects them.
    ///
    /// # Errors
    /// As [`dm_core::QueryPort::query`].
    pub async fn query(&self, ctx: &OpContext, statement: Statement) -> Result<Vec<Row>> {
        let engine = self.engine(None)?;
        self.collect(ctx, &engine, statement).await
    }

    /// The same on a named engine.
    ///
    /// # Errors
    /// As [`query`](Self::query); `NotFound` for an unknown engine.
    pub async fn query_on(
        &self,
        ctx: &OpContext,
        engine: &EngineId,
        statement: Statement,
    ) -> Result<Vec<Row>> {
        let engine = self.engine(Some(engine))?;
        self.collect(ctx, &engine, statement).await
    }

    /// Runs a statement and gives its rows as they arrive, for results that do not fit in memory. The trail records
    /// that it was begun.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn query_stream(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        statement: Statement,
    ) -> Result<RowStream> {
        let engine = self.engine(engine)?;
        let port = port(&engine)?;
        let details = record::details(&statement);
        let operation = Operation::new(QUERY, engine.id().as_str()).with_details(details.clone());
        self.operate(ctx, operation, async { Ok(()) }).await?;
        let recorder = self.recorder(ctx, QUERY, &engine).await?;
        Ok(record::counted(port.query(ctx, statement).await?, recorder, details))
    }

    /// Runs a statement for its effect on the only (or first) engine; gives the number of rows affected.
    ///
    /// # Errors
    /// As [`dm_core::QueryPort::execute`].
    pub async fn execute(&self, ctx: &OpContext, statement: Statement) -> Result<u64> {
        let engine = self.engine(None)?;
        self.run_statement(ctx, &engine, statement).await
    }

    /// The same on a named engine.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); `NotFound` for an unknown engine.
    pub async fn execute_on(&self, ctx: &OpContext, engine: &EngineId, statement: Statement) -> Result<u64> {
        let engine = self.engine(Some(engine))?;
        self.run_statement(ctx, &engine, statement).await
    }

    /// Begins a transaction. The trail records that it was begun, and each of its statements.
    ///
    /// # Errors
    /// As [`dm_core::QueryPort::begin`].
    pub async fn begin(
        &self,
        ctx: &OpContext,
        engine: Option<&EngineId>,
        options: TransactionOptions,
    ) -> Result<Box<dyn Transaction>> {
        let engine = self.engine(engine)?;
        let port = port(&engine)?;
        let action = match options.access {
            AccessMode::ReadOnly => QUERY,
            AccessMode::ReadWrite => EXECUTE,
        };
        let details = serde_json::json!({ "transaction": "begin" });
        let operation = Operation::new(action, engine.id().as_str()).with_details(details);
        self.operate(ctx, operation, async { Ok(()) }).await?;
        let recorder = self.recorder(ctx, action, &engine).await?;
        Ok(Box::new(record::Recorded { inner: port.begin(ctx, options).await?, recorder }))
    }

    async fn recorder(
        &self,
        ctx: &OpContext,
        kind: OperationKind,
        engine: &Arc<dyn Engine>,
    ) -> Result<record::Recorder> {
        let (audit, engine) = (self.audit_log(ctx).await?.clone(), engine.id().to_string());
        Ok(record::Recorder { audit, ctx: ctx.clone(), kind, engine })
    }

    async fn collect(
        &self,
        ctx: &OpContext,
        engine: &Arc<dyn Engine>,
        statement: Statement,
    ) -> Result<Vec<Row>> {
        use futures::TryStreamExt;
        let port = port(engine)?;
        let mut rows = Vec::new();
        let notes = Notes::default();
        let operation = Operation::new(QUERY, engine.id().as_str())
            .with_details(record::details(&statement))
            .noting(&notes);
        let work = async {
            rows = port.query(ctx, statement).await?.try_collect::<Vec<Row>>().await?;
            notes.put("rows", rows.len());
            Ok(rows.len())
        };
        self.operate(ctx, operation, work).await?;
        Ok(rows)
    }

    async fn run_statement(
        &self,
        ctx: &OpContext,
        engine: &Arc<dyn Engine>,
        statement: Statement,
    ) -> Result<u64> {
        let port = port(engine)?;
        let notes = Notes::default();
        let operation = Operation::new(EXECUTE, engine.id().as_str())
            .with_details(record::details(&statement))
            .noting(&notes);
        let work = async {
            let rows = port.execute(ctx, statement).await?;
            notes.put("rows", rows);
            Ok(rows)
        };
        self.operate(ctx, operation, work).await
    }
}

fn port(engine: &Arc<dyn Engine>) -> Result<Arc<dyn QueryPort>> {
    engine.query().ok_or_else(|| {
        Error::unsupported(format!("the {} engine takes no statements", engine.kind()))
            .on_engine(engine.kind())
    })
}
