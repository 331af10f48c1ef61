CREATE TABLE IF NOT EXISTS % (
    name         text        NOT NULL PRIMARY KEY,
    request      text        NOT NULL,
    last_key     text        NOT NULL,
    seen_rows    bigint      NOT NULL,
    changed_rows bigint      NOT NULL,
    finished     boolean     NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
)
