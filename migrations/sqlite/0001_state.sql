-- Runs, recovery proofs and leases. Times are microseconds of UTC since 1970; JSON is text.

CREATE TABLE runs (
    run_id      TEXT    NOT NULL PRIMARY KEY,
    action      TEXT    NOT NULL,
    resource    TEXT    NOT NULL,
    actor       TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    state       TEXT    NOT NULL
                CHECK (state IN ('running', 'success', 'partial', 'failure', 'denied', 'interrupted')),
    effect      TEXT    NOT NULL CHECK (effect IN ('none', 'applied', 'partial', 'unknown')),
    error       TEXT,
    report      TEXT
) STRICT;

CREATE INDEX runs_by_start ON runs (started_at, run_id);
CREATE INDEX runs_by_resource ON runs (resource, started_at, run_id);

-- What was proven of a backup: a verify, a restore, a drill.
CREATE TABLE recovery_tests (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    backup_id       TEXT    NOT NULL,
    target          TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('restore', 'drill', 'verify')),
    ok              INTEGER NOT NULL CHECK (ok IN (0, 1)),
    restore_time_ms INTEGER,
    results         TEXT    NOT NULL
) STRICT;

CREATE INDEX recovery_tests_by_target ON recovery_tests (target, at, id);

-- The epoch of a name only grows, also across a release: it is the fence of whoever holds the lease.
CREATE TABLE leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    holder     TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
