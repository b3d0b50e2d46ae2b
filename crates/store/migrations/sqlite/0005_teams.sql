-- Who owns what. Everything of before belongs to the team that every installation has.

ALTER TABLE sandboxes ADD COLUMN team_id TEXT NOT NULL DEFAULT 'default';
ALTER TABLE keys ADD COLUMN team_id TEXT NOT NULL DEFAULT 'default';
-- Separated by spaces; 'admin' is all of them.
ALTER TABLE keys ADD COLUMN scopes TEXT NOT NULL DEFAULT 'admin';

-- Pages of a team's list, newest first. Rows in the order of all teams' ages are not asked for any more.
DROP INDEX sandboxes_by_age;
CREATE INDEX sandboxes_of_team_by_age ON sandboxes (team_id, created_at, id);

-- Owners of snapshots. The snapshots themselves are on hosts; one without a row belongs to the team 'default'.
CREATE TABLE snapshots (
    name TEXT NOT NULL PRIMARY KEY,
    team_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
