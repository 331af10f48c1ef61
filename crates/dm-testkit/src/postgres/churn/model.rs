//! What the churn made so far.

/// A table of the churn: `(id bigint PRIMARY KEY, n int, word text)`.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) last_id: u64,
    pub(super) unlogged: bool,
    pub(super) tablespace: Option<String>,
    /// Indexes stay where they are when their table moves.
    pub(super) index_tablespace: Option<String>,
}

impl Table {
    fn uses(&self, tablespace: &str) -> bool {
        [&self.tablespace, &self.index_tablespace].into_iter().flatten().any(|name| name == tablespace)
    }
}

/// A database of the churn.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) tables: Vec<Table>,
    pub(super) extension: bool,
    pub(super) tablespace: Option<String>,
}

impl Database {
    pub(super) fn uses(&self, tablespace: &str) -> bool {
        self.tablespace.as_deref() == Some(tablespace)
            || self.tables.iter().any(|table| table.uses(tablespace))
    }
}

/// The cluster as far as the churn made it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) databases: Vec<Database>,
    pub(super) tablespaces: Vec<String>,
    pub(super) prepared: Vec<u32>,
    /// See [`super::Churn::while_backing_up`].
    pub(super) backed_up: bool,
    /// One that the server has, and that nothing depends on.
    pub(super) extension: Option<String>,
    pub(super) counter: u32,
}

impl Cluster {
    /// A number that nothing has in its name yet.
    pub(super) fn number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }
}
