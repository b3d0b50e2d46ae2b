-- Times are milliseconds since the Unix epoch.

CREATE TABLE sandboxes (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL,
    reason TEXT,
    -- The sandbox as asked for, in JSON: it is only ever read as a whole.
    spec TEXT NOT NULL,
    -- No foreign key: a key can be removed while the sandboxes that it made live on.
    key_id TEXT NOT NULL,
    idempotency_key TEXT,
    idempotency_fingerprint BLOB,
    host_id TEXT,
    guest_ip TEXT,
    host_ip TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    last_active_at INTEGER,
    last_updated INTEGER NOT NULL,
    deleting INTEGER NOT NULL DEFAULT FALSE,
    CHECK ((idempotency_key IS NULL) = (idempotency_fingerprint IS NULL))
) STRICT;

-- Pages of the list, newest first.
CREATE INDEX sandboxes_by_age ON sandboxes (created_at, id);

-- One row for one idempotency key; any number of rows without one, since NULLs differ from each other.
CREATE UNIQUE INDEX sandboxes_by_idempotency_key ON sandboxes (key_id, idempotency_key);

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;
