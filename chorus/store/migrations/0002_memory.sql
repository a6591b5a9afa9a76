-- Memory: DHT records, pins of blobs, decisions. Times are Unix seconds. Only adds tables.

-- DHT
-- `sender` and `publisher` are '' for this node's own records; a copy that a holder passes on has another publisher than
-- its sender. `names` is the key of another record that this one needs.
CREATE TABLE dht_records (
    key          BLOB NOT NULL CHECK (length(key) <= 80),
    digest       BLOB NOT NULL CHECK (length(digest) = 16),
    value        BLOB NOT NULL,
    author       TEXT,
    sender       TEXT NOT NULL,
    publisher    TEXT NOT NULL,
    stored_at    REAL NOT NULL,
    expires_at   REAL,
    published_at REAL,
    names        BLOB,
    PRIMARY KEY (key, digest)
) WITHOUT ROWID;
CREATE INDEX dht_records_expiring ON dht_records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX dht_records_naming ON dht_records (names) WHERE names IS NOT NULL;
CREATE INDEX dht_records_own ON dht_records (published_at) WHERE published_at IS NOT NULL;

CREATE TABLE dht_providers (
    key          BLOB NOT NULL CHECK (length(key) <= 80),
    peer         TEXT NOT NULL,
    addresses    TEXT NOT NULL,
    stored_at    REAL NOT NULL,
    published_at REAL,
    PRIMARY KEY (key, peer)
) WITHOUT ROWID;
CREATE INDEX dht_providers_by_age ON dht_providers (stored_at);
CREATE INDEX dht_providers_own ON dht_providers (published_at) WHERE published_at IS NOT NULL;

-- `who` is '' for all records, 's:' + a sender, 'c:' + a sender of copies, 'a:' + an author, 'p:' + a provider, 'p:' for all providers.
CREATE TABLE dht_usage (
    who     TEXT PRIMARY KEY,
    records INTEGER NOT NULL,
    bytes   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE dht_peers (
    peer      TEXT PRIMARY KEY,
    addresses TEXT NOT NULL
) WITHOUT ROWID;

-- Pins and sealed blobs

-- A pinned blob is not removed. `by_peer` is the member that pushed it, '' for this node itself; a pin with an end guards
-- a blob that is on its way.
CREATE TABLE pins (
    sha256  BLOB NOT NULL CHECK (length(sha256) = 32),
    reason  TEXT NOT NULL,
    by_peer TEXT NOT NULL,
    size    INTEGER NOT NULL,
    until   REAL,
    PRIMARY KEY (sha256, reason, by_peer)
) WITHOUT ROWID;
CREATE INDEX pins_by_peer ON pins (by_peer, size);

-- Blobs that are age ciphertext, made here or pushed here.
CREATE TABLE sealed (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32)
) WITHOUT ROWID;

-- Decisions and publications
CREATE TABLE publications (
    content    BLOB PRIMARY KEY CHECK (length(content) = 32),
    address    TEXT NOT NULL,
    task_id    TEXT,
    bundle     BLOB NOT NULL,
    state      TEXT NOT NULL,
    holders    INTEGER NOT NULL DEFAULT 0,
    wanted     INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    seq        INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX publications_by_address ON publications (address);

-- Numbers of attempts that were dropped: their schedulers have heads under them, so no other decision may have one.
CREATE TABLE dropped_numbers (
    id      INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    seq     INTEGER NOT NULL
);
CREATE INDEX dropped_numbers_by_address ON dropped_numbers (address, seq);

-- The index: address fields of all decisions that this node knows of. `seq` numbers the versions under one address.
CREATE TABLE decisions (
    id      INTEGER PRIMARY KEY,
    content BLOB NOT NULL UNIQUE CHECK (length(content) = 32),
    agent   TEXT NOT NULL,
    role    TEXT NOT NULL,
    project TEXT NOT NULL,
    task    TEXT NOT NULL,
    path    TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL
);
CREATE INDEX decisions_chain ON decisions (task, agent, project, role, path, seq);
CREATE INDEX decisions_by_time ON decisions (time, id);
CREATE INDEX decisions_by_task ON decisions (task, time, id);
CREATE INDEX decisions_by_project ON decisions (project, time, id);
CREATE INDEX decisions_by_agent ON decisions (agent, time, id);
CREATE INDEX decisions_by_role ON decisions (role, time, id);

-- Text of those that this node may read, encrypted with the key of their role: without that row it is gone.
CREATE TABLE decision_keys (
    role TEXT PRIMARY KEY,
    key  BLOB NOT NULL CHECK (length(key) = 32)
) WITHOUT ROWID;
CREATE TABLE decision_texts (
    id     INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
    role   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    words  BLOB NOT NULL
);
CREATE INDEX decision_texts_by_role ON decision_texts (role);
CREATE TABLE decision_words (
    word INTEGER NOT NULL,
    id   INTEGER NOT NULL,
    PRIMARY KEY (word, id)
) WITHOUT ROWID;
