-- Memory: DHT records, pins of blobs, decisions. Times are Unix seconds. Only adds tables.

-- DHT

-- Pins and sealed blobs

-- Decisions and publications
CREATE TABLE publications (
    content    BLOB PRIMARY KEY CHECK (length(content) = 32),
    address    TEXT NOT NULL,
    task_id    TEXT,
    bundle     BLOB NOT NULL,
    state      TEXT NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID;
