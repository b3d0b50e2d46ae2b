-- Creates and deletions of one snapshot's name come one after the other: each holds the name until it has ended, or
-- until it has not renewed its lock for a while. Times are milliseconds by the clock of the database.
CREATE TABLE snapshot_locks (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- As all other tables, STRICT, which the step before had left out.
ALTER TABLE snapshots RENAME TO snapshots_before;
CREATE TABLE snapshots (
    name TEXT NOT NULL PRIMARY KEY,
    team_id TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO snapshots (name, team_id, created_at)
    SELECT CAST(name AS TEXT), CAST(team_id AS TEXT), CAST(created_at AS INTEGER) FROM snapshots_before;
DROP TABLE snapshots_before;
