-- No STRICT and no AUTOINCREMENT: an application with an older library must be able to open the file, and nothing may be
-- left behind that cannot be removed.

CREATE TABLE IF NOT EXISTS dm_capture_tables (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL,
    columns  TEXT NOT NULL,
    excluded TEXT NOT NULL,
    masked   TEXT NOT NULL,
    since    INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS dm_capture_changes (
    ordinal    INTEGER PRIMARY KEY,
    id         TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    table_name TEXT NOT NULL,
    operation  TEXT NOT NULL,
    before     TEXT,
    after      TEXT,
    changed    TEXT,
    acting     TEXT,
    tx         TEXT
);

-- For whom the application acts: a row that it writes first in its transaction and deletes last. A transaction that
-- forgets the second cannot commit where foreign keys are enforced: no table has the number 0.
CREATE TABLE IF NOT EXISTS dm_capture_session (
    user TEXT NOT NULL,
    tx   TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    left_open INTEGER NOT NULL DEFAULT 0 REFERENCES dm_capture_tables (id) DEFERRABLE INITIALLY DEFERRED
);
