-- The Merkle tree over the sealed leaves, its signed heads, and where those were taken to. docs/audit.md defines them.

-- Up to 256 hashes of 32 bytes. A full tile never changes.
CREATE TABLE audit_tiles (
    level      INTEGER NOT NULL,
    tile_index INTEGER NOT NULL,
    hashes     BLOB    NOT NULL,
    PRIMARY KEY (level, tile_index)
) STRICT;

CREATE TABLE audit_checkpoints (
    size   INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    root   BLOB    NOT NULL,
    -- The signed note, as it is handed on.
    note   TEXT    NOT NULL
) STRICT;

-- The public keys that signed, each from the size on at which it took over.
CREATE TABLE audit_keys (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    vkey  TEXT    NOT NULL UNIQUE,
    since INTEGER NOT NULL,
    at    INTEGER NOT NULL
) STRICT;

-- How far each place outside the store has the checkpoints, and why not further.
CREATE TABLE audit_anchors (
    anchor   TEXT    NOT NULL PRIMARY KEY,
    size     INTEGER NOT NULL,
    at       INTEGER,
    tried_at INTEGER NOT NULL,
    failure  TEXT
) STRICT;
