//! Statements against the engines.

use dm_core::{
    AccessMode, Action, Engine, EngineId, Error, OpContext, QueryPort, Result, Row, RowStream, Statement,
    Transaction, TransactionOptions,
};
use std::sync::Arc;

use crate::DataManager;
use crate::pipeline::Operation;

const QUERY: Action = Action::read("query", "query");
const EXECUTE: Action = Action::write("query", "execute");

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
        self.operate(ctx, Operation::new(QUERY, engine.id().as_str()), async { Ok(()) }).await?;
        port.query(ctx, statement).await
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

    /// Begins a transaction. Its statements are the caller's; the trail records that it was begun.
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
        self.operate(ctx, Operation::new(action, engine.id().as_str()), async { Ok(()) }).await?;
        port.begin(ctx, options).await
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
        let operation = Operation::new(QUERY, engine.id().as_str());
        let work = async {
            rows = port.query(ctx, statement).await?.try_collect::<Vec<Row>>().await?;
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
        self.operate(ctx, Operation::new(EXECUTE, engine.id().as_str()), port.execute(ctx, statement)).await
    }
}

fn port(engine: &Arc<dyn Engine>) -> Result<Arc<dyn QueryPort>> {
    engine.query().ok_or_else(|| {
        Error::unsupported(format!("the {} engine takes no statements", engine.kind()))
            .on_engine(engine.kind())
    })
}
