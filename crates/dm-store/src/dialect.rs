//! The little that differs between the two engines outside the DDL.

/// Which engine the store is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// Begins a transaction that will write. SQLite takes its write lock at once: a transaction that reads first and
    /// then wants to write could otherwise fail where waiting would have done.
    pub(crate) fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        }
    }

    /// Sets up a new connection. `query_only` keeps SQLite's reading connections from ever writing.
    ///
    /// Durability is the point of an audit log: SQLite syncs at every commit, and a PostgreSQL whose default is not to
    /// wait for its log is asked to wait.
    pub(crate) fn on_connect(self, read_only: bool) -> &'static str {
        match (self, read_only) {
            (Self::Sqlite, false) => "PRAGMA busy_timeout = 30000; PRAGMA synchronous = FULL;",
            (Self::Sqlite, true) => "PRAGMA busy_timeout = 30000; PRAGMA query_only = 1;",
            (Self::Postgres, _) => {
                "SET search_path TO data_manager; SET lock_timeout = '30s'; \
                 SET idle_in_transaction_session_timeout = '60s'; \
                 SELECT set_config('synchronous_commit', 'on', false) \
                 WHERE current_setting('synchronous_commit') = 'off';"
            }
        }
    }

    /// Whether a statement with many values should not number them: SQLite looks each number up in a list of them all.
    pub(crate) fn values_in_order(self) -> bool {
        self == Self::Sqlite
    }

    /// Inserts a batch of seals: position of the first, the leaves' ids as a list in JSON, the chain hashes in one value with
    /// that of the link before in front, time, epoch. Few values however large the batch: a bind of its own for each column
    /// of each row took longer than everything else that sealing does.
    pub(crate) fn insert_seals(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "INSERT INTO audit_seals (seq, leaf_id, event_id, prev_hash, chain_hash, sealed_at, epoch) \
                 SELECT $1 + w.key, l.id, l.event_id, substr($3, 32 * w.key + 1, 32), \
                        substr($3, 32 * w.key + 33, 32), $4, $5 \
                   FROM json_each($2) w CROSS JOIN audit_leaves l WHERE l.id = w.value"
            }
            Self::Postgres => {
                "INSERT INTO audit_seals (seq, leaf_id, event_id, prev_hash, chain_hash, sealed_at, epoch) \
                 SELECT $1 + w.place - 1, l.id, l.event_id, substr($3, (32 * w.place - 31)::integer, 32), \
                        substr($3, (32 * w.place + 1)::integer, 32), $4, $5 \
                   FROM json_array_elements_text($2::json) WITH ORDINALITY w (id, place) \
                   JOIN audit_leaves l ON l.id = w.id::bigint"
            }
        }
    }

    /// One row with 1 when the store's place has a table of the name that is bound.
    pub(crate) fn has_table(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1",
            Self::Postgres => {
                "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'data_manager' AND c.relname = $1"
            }
        }
    }

    /// Rows when somebody else's tables stand where the store's would go.
    pub(crate) fn has_foreign_tables(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' LIMIT 1",
            Self::Postgres => {
                "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'data_manager' LIMIT 1"
            }
        }
    }

    /// Makes a transaction that prepares the place the only one. SQLite's `BEGIN IMMEDIATE` has done so already.
    pub(crate) fn lock_schema(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            // The number is "dm-store" in ASCII: one lock for this database, whatever the version.
            Self::Postgres => Some("SELECT pg_advisory_xact_lock(7236490150152204901)"),
        }
    }

    /// One row with 1 when the schema itself must be made first. Asked for, since `IF NOT EXISTS` wants the privilege
    /// to create it even when it is there.
    pub(crate) fn lacks_namespace(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(
                "SELECT 1 WHERE NOT EXISTS \
                 (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'data_manager')",
            ),
        }
    }
}
