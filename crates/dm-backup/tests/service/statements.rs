//! Statements to the memory engine's sealed places: `count <table>`, `broken`, `hang`.

use async_trait::async_trait;
use dm_core::{
    AccessMode, Error, ErrorKind, Finding, LogFile, LogHead, LogName, LogRequest, LogSession, LogSource,
    OpContext, QueryPort, Result, Row, RowStream, Statement, Transaction, TransactionOptions, Value,
};

use crate::engine::Database;

pub(crate) struct Answers(pub(crate) Database);

#[async_trait]
impl QueryPort for Answers {
    async fn query(&self, _: &OpContext, _: Statement) -> Result<RowStream> {
        Err(Error::internal("questions are asked in a transaction"))
    }

    async fn execute(&self, _: &OpContext, _: Statement) -> Result<u64> {
        Err(Error::internal("a question changes nothing"))
    }

    async fn begin(&self, _: &OpContext, options: TransactionOptions) -> Result<Box<dyn Transaction>> {
        assert_eq!(options.access, AccessMode::ReadOnly);
        Ok(Box::new(Asking(self.0.clone())))
    }
}

struct Asking(Database);

#[async_trait]
impl Transaction for Asking {
    async fn query(&mut self, _: &OpContext, statement: Statement) -> Result<Vec<Row>> {
        let text = statement.text.as_str();
        match text.split_once(' ') {
            Some(("count", table)) => {
                let rows = self.0.tables.get(table).map_or(0, Vec::len);
                let columns = std::sync::Arc::from([String::from("count")]);
                Ok(vec![Row { columns, values: vec![Value::Int(rows as i64)] }])
            }
            _ if text == "hang" => std::future::pending().await,
            _ => Err(Error::new(ErrorKind::Invalid, "syntax error")),
        }
    }

    async fn execute(&mut self, _: &OpContext, _: Statement) -> Result<u64> {
        Err(Error::internal("a question changes nothing"))
    }

    async fn savepoint(&mut self, _: &OpContext, _: &str) -> Result<()> {
        Ok(())
    }

    async fn rollback_to(&mut self, _: &OpContext, _: &str) -> Result<()> {
        Ok(())
    }

    async fn commit(self: Box<Self>, _: &OpContext) -> Result<()> {
        Err(Error::internal("a question is not committed"))
    }

    async fn rollback(self: Box<Self>, _: &OpContext) -> Result<()> {
        Ok(())
    }
}

/// A log that is there and was never shipped.
pub(crate) struct NoLog;

fn none<T>() -> Result<T> {
    Err(Error::unsupported("nothing follows this log"))
}

#[async_trait]
impl LogSource for NoLog {
    async fn preflight(&self, _: &OpContext, _: &LogRequest) -> Result<Vec<Finding>> {
        none()
    }
    async fn stream_id(&self, _: &OpContext) -> Result<String> {
        none()
    }
    async fn head(&self, _: &OpContext, _: &str) -> Result<LogHead> {
        none()
    }
    async fn follow(&self, _: &OpContext, _: &LogRequest) -> Result<Box<dyn LogSession>> {
        none()
    }
    async fn read_file(&self, _: &OpContext, _: &std::path::Path) -> Result<LogFile> {
        none()
    }
    fn locate(&self, _: &str, _: Option<&[u8]>) -> Result<LogName> {
        none()
    }
    async fn drop_holder(&self, _: &OpContext, _: &str) -> Result<bool> {
        none()
    }
}
