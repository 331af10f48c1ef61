CREATE TABLE IF NOT EXISTS % (
    version             INTEGER NOT NULL PRIMARY KEY,
    description         TEXT    NOT NULL,
    state               TEXT    NOT NULL CHECK (state IN ('running', 'applied', 'failed', 'rolled_back')),
    checksum            TEXT    NOT NULL,
    text_checksum       TEXT    NOT NULL,
    migration_sql       TEXT    NOT NULL,
    rollback_sql        TEXT,
    applied_at          TEXT    NOT NULL,
    applied_by          TEXT    NOT NULL,
    execution_time_ms   INTEGER NOT NULL DEFAULT 0,
    direction           TEXT    NOT NULL DEFAULT 'up' CHECK (direction IN ('up', 'down')),
    finished_statements INTEGER NOT NULL DEFAULT 0,
    started_statement   INTEGER,
    started_mark        TEXT,
    error               TEXT,
    remark              TEXT
)
