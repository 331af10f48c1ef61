CREATE TABLE IF NOT EXISTS % (
    version             bigint      NOT NULL PRIMARY KEY,
    description         text        NOT NULL,
    state               text        NOT NULL CHECK (state IN ('running', 'applied', 'failed', 'rolled_back')),
    checksum            text        NOT NULL,
    text_checksum       text        NOT NULL,
    migration_sql       text        NOT NULL,
    rollback_sql        text,
    applied_at          timestamptz NOT NULL DEFAULT now(),
    applied_by          text        NOT NULL,
    execution_time_ms   bigint      NOT NULL DEFAULT 0,
    direction           text        NOT NULL DEFAULT 'up' CHECK (direction IN ('up', 'down')),
    finished_statements integer     NOT NULL DEFAULT 0,
    started_statement   integer,
    started_mark        text,
    error               text,
    remark              text
)
