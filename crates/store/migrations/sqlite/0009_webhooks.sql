-- Receivers of events, and what is sent to them: see crates/store/src/webhooks. Times are milliseconds since the Unix
-- epoch; leases and due times are by the clock of the database.

CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    team_id TEXT NOT NULL,
    -- Events of the installation, too: an operator made it.
    with_installation INTEGER NOT NULL,
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    -- Filters of types, a JSON array of texts; empty: all.
    kinds TEXT NOT NULL,
    -- Events up to this cursor are not sent.
    after_cursor INTEGER NOT NULL,
    -- In clear: it signs.
    secret TEXT NOT NULL,
    -- The secret before, which signs as well for a time.
    previous_secret TEXT,
    previous_expires_at INTEGER,
    enabled INTEGER NOT NULL,
    disabled_reason TEXT,
    -- Time of the first attempt that failed since one that did not.
    failing_since INTEGER,
    -- The last attempt failed or took long.
    is_slow INTEGER NOT NULL,
    -- Who sends to it at this moment.
    lease TEXT,
    leased_until INTEGER NOT NULL,
    served_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX webhooks_of_team ON webhooks (team_id, created_at);

CREATE TABLE webhook_deliveries (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- The header field webhook-id, the same at each attempt.
    message_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    -- 'pending', 'delivered' or 'dead'.
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    last_attempt_at INTEGER,
    last_status INTEGER,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    UNIQUE (webhook_id, message_id)
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at, position) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_of_state ON webhook_deliveries (webhook_id, state, position);
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (position) WHERE state = 'dead';

-- The last event of which deliveries were made.
CREATE TABLE webhook_progress (cursor INTEGER NOT NULL) STRICT;
INSERT INTO webhook_progress (cursor) VALUES (0);
