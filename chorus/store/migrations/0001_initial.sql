-- Times are Unix seconds. JSON columns hold what strictjson reads back.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The local journal (chorus/tasks/journal.py). Fence of an entry: (0, the start it was written in, its index).
CREATE TABLE journal (
    entry_index INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    subject     TEXT NOT NULL,
    body        TEXT NOT NULL,
    time        REAL NOT NULL
);

CREATE TABLE journal_starts (
    start       INTEGER PRIMARY KEY,
    first_index INTEGER NOT NULL
);

-- At most one row: the machine after entry_index, which replaces the entries up to there.
CREATE TABLE journal_snapshot (
    only        INTEGER PRIMARY KEY CHECK (only = 1),
    entry_index INTEGER NOT NULL,
    data        BLOB NOT NULL
);

-- A task's history as watchers see it; ids grow by one per task from 1.
CREATE TABLE task_events (
    task_id TEXT NOT NULL,
    id      INTEGER NOT NULL,
    type    TEXT NOT NULL,
    time    REAL NOT NULL,
    data    TEXT NOT NULL,
    PRIMARY KEY (task_id, id)
) WITHOUT ROWID;

-- The executor's side: attempts this node has taken on, until their scheduler has acknowledged the result.
CREATE TABLE runs (
    task_id    TEXT NOT NULL,
    fence      TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    scheduler  TEXT NOT NULL,
    spec       TEXT NOT NULL,
    state      TEXT NOT NULL,
    result     TEXT,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (task_id, fence)
) WITHOUT ROWID;

-- Index of the files under blobs/, each with its manifest (chorus/protocols/blobs.py); a row is written after its file
-- is durable.
CREATE TABLE blobs (
    sha256     BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    size       INTEGER NOT NULL,
    manifest   BLOB NOT NULL,
    created_at REAL NOT NULL,
    used_at    REAL NOT NULL
) WITHOUT ROWID;
