-- The audit log: leaves as they were appended, the queue of those that no seal covers yet, and the seals.
-- docs/audit.md defines the hashes. Merkle tiles and signed checkpoints come as tables of their own.

CREATE TABLE audit_leaves (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    version     INTEGER NOT NULL,
    event_id    TEXT    NOT NULL UNIQUE,
    at          INTEGER NOT NULL,
    actor       TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    resource    TEXT    NOT NULL,
    outcome     TEXT    NOT NULL,
    effect      TEXT    NOT NULL,
    duration_us INTEGER NOT NULL,
    run_id      TEXT    NOT NULL,
    -- The payload and its salt may be erased one day; the commitment and the leaf stay.
    details     TEXT,
    error       TEXT,
    salt        BLOB,
    commitment  BLOB    NOT NULL,
    leaf_hash   BLOB    NOT NULL
) STRICT;

CREATE INDEX audit_leaves_by_time ON audit_leaves (at);
CREATE INDEX audit_leaves_by_run ON audit_leaves (run_id);
CREATE INDEX audit_leaves_by_actor ON audit_leaves (actor, id);
CREATE INDEX audit_leaves_by_resource ON audit_leaves (resource, id);

-- A queue, because ids are given before they are committed: "everything above the last sealed id" would miss some.
CREATE TABLE audit_pending (
    leaf_id INTEGER PRIMARY KEY
) STRICT;

CREATE TRIGGER audit_leaf_waits AFTER INSERT ON audit_leaves
BEGIN
    INSERT INTO audit_pending (leaf_id) VALUES (NEW.id);
END;

-- event_id is a copy, so that a leaf that is gone can still be named. No foreign key: a seal outlives its leaf.
CREATE TABLE audit_seals (
    seq        INTEGER PRIMARY KEY,
    leaf_id    INTEGER NOT NULL UNIQUE,
    event_id   TEXT    NOT NULL,
    prev_hash  BLOB    NOT NULL,
    chain_hash BLOB    NOT NULL,
    sealed_at  INTEGER NOT NULL,
    epoch      INTEGER NOT NULL
) STRICT;
