-- What the recording of changes needs in the database. Everything is in this schema; the triggers alone are on the tables.

CREATE SCHEMA IF NOT EXISTS dm_capture;

-- The key of the digests. It never leaves the database.
CREATE TABLE IF NOT EXISTS dm_capture.installation (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    version  integer NOT NULL,
    salt     bytea   NOT NULL
);
INSERT INTO dm_capture.installation (version, salt)
SELECT 1, sha256((gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text)::bytea)
 WHERE NOT EXISTS (SELECT FROM dm_capture.installation);

-- What is recorded. A line outlives the recording as long as changes wait that name it.
CREATE TABLE IF NOT EXISTS dm_capture.tables (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid     NOT NULL,
    schema   text    NOT NULL,
    name     text    NOT NULL,
    -- The columns as they were at the installation: whatever came or was renamed since is masked where anything is kept out.
    columns  text[]  NOT NULL,
    excluded text[]  NOT NULL,
    masked   text[]  NOT NULL,
    digested text[]  NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    removed  boolean NOT NULL DEFAULT false
);

-- The outbox. No sequence numbers it: a trigger must not change what lastval() tells the application. No constraint guards
-- it: a change of a table never fails by it. Rows are kept as json, not jsonb: text that nobody has to take apart here.
CREATE TABLE IF NOT EXISTS dm_capture.changes (
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    transaction xid8        NOT NULL DEFAULT pg_current_xact_id(),
    ordinal     bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    captured    integer     NOT NULL,
    relation    oid         NOT NULL,
    operation   text        NOT NULL,
    before      json,
    after       json,
    changed     text[],
    -- The application's user; empty where it named none.
    acting      text,
    -- The user of the session, and the role that it took: `none` where it took none.
    role        text        NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_in_order ON dm_capture.changes (transaction, ordinal);
