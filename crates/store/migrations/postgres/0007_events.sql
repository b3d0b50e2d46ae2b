-- What changed, in the order in which readers see it: see crates/store/src/events. Times are milliseconds since the Unix
-- epoch.

CREATE SEQUENCE events_cursor;

-- Cursors are given out by one transaction at a time, which keeps its turn until it has committed: a reader that sees a
-- cursor has seen, or can see, all lower ones. The channel wakes readers of other processes.
CREATE FUNCTION next_event_cursor() RETURNS BIGINT LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7305809112);
    PERFORM pg_notify('wrenn_events', '');
    RETURN nextval('events_cursor');
END
$$;

CREATE TABLE events (
    cursor BIGINT NOT NULL PRIMARY KEY DEFAULT next_event_cursor(),
    kind TEXT NOT NULL,
    -- Empty: of the installation.
    team_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    sandbox_id TEXT,
    generation BIGINT,
    -- Id of an API key, 'operator' or 'system'.
    actor TEXT NOT NULL,
    address TEXT,
    request_id TEXT,
    data TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX events_of_team ON events (team_id, cursor);
CREATE INDEX events_of_sandbox ON events (sandbox_id, cursor) WHERE sandbox_id IS NOT NULL;

-- The last cursor that was deleted because of its age.
CREATE TABLE events_horizon (cursor BIGINT NOT NULL);
INSERT INTO events_horizon (cursor) VALUES (0);

-- Hosts as a control plane saw them last, so that events tell changes alone.
CREATE TABLE hosts (
    url TEXT NOT NULL PRIMARY KEY,
    host_id TEXT,
    connected BOOLEAN NOT NULL,
    changed_at BIGINT NOT NULL
);

-- Background commands whose end was not told yet.
CREATE TABLE open_commands (
    sandbox_id TEXT NOT NULL,
    command_id TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, command_id)
);
