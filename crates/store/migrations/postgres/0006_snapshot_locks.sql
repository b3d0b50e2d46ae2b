-- Creates and deletions of one snapshot's name come one after the other: each holds the name until it has ended, or
-- until it has not renewed its lock for a while. Times are milliseconds by the clock of the database.
CREATE TABLE snapshot_locks (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
