-- What changed, in the order in which readers see it: see crates/store/src/events. Times are milliseconds since the Unix
-- epoch. AUTOINCREMENT: the cursor of a row that was deleted does not come again.

CREATE TABLE events (
    cursor INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    -- Empty: of the installation.
    team_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    sandbox_id TEXT,
    generation INTEGER,
    -- Id of an API key, 'operator' or 'system'.
    actor TEXT NOT NULL,
    address TEXT,
    request_id TEXT,
    data TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX events_of_team ON events (team_id, cursor);
CREATE INDEX events_of_sandbox ON events (sandbox_id, cursor) WHERE sandbox_id IS NOT NULL;

-- The last cursor that was deleted because of its age.
CREATE TABLE events_horizon (cursor INTEGER NOT NULL) STRICT;
INSERT INTO events_horizon (cursor) VALUES (0);

-- Hosts as a control plane saw them last, so that events tell changes alone.
CREATE TABLE hosts (
    url TEXT NOT NULL PRIMARY KEY,
    host_id TEXT,
    connected INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

-- Background commands whose end was not told yet.
CREATE TABLE open_commands (
    sandbox_id TEXT NOT NULL,
    command_id TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, command_id)
) STRICT;
