-- Names, labels and ends of sandboxes, and why they stopped.

ALTER TABLE sandboxes ADD COLUMN name TEXT;
-- A JSON object of strings.
ALTER TABLE sandboxes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sandboxes ADD COLUMN ends_at INTEGER;
ALTER TABLE sandboxes ADD COLUMN stop_reason TEXT;
-- That of the spec, for lists.
ALTER TABLE sandboxes ADD COLUMN template TEXT NOT NULL DEFAULT '';
-- Number of changes by users: two at once do not overwrite each other.
ALTER TABLE sandboxes ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
UPDATE sandboxes SET template = COALESCE(json_extract(spec, '$.template'), '');

-- One living sandbox of a team has a name. What stopped keeps it for people to read.
CREATE UNIQUE INDEX sandboxes_by_name ON sandboxes (team_id, name)
    WHERE name IS NOT NULL AND NOT deleting AND state IN ('pending', 'running', 'paused');
CREATE INDEX sandboxes_by_end ON sandboxes (ends_at)
    WHERE ends_at IS NOT NULL AND NOT deleting AND state IN ('pending', 'running', 'paused');

-- Pages of filtered lists, newest first.
CREATE INDEX sandboxes_of_state_by_age ON sandboxes (team_id, state, created_at, id);
CREATE INDEX sandboxes_of_template_by_age ON sandboxes (team_id, template, created_at, id);
CREATE INDEX sandboxes_of_name ON sandboxes (team_id, name);

-- The labels once more, so that sandboxes are found by them. Triggers keep it as the column is. Team and age are
-- copies, which never change.
CREATE TABLE sandbox_labels (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    label_key TEXT NOT NULL,
    label_value TEXT NOT NULL,
    of_team TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (sandbox_id, label_key)
) STRICT;
CREATE INDEX sandbox_labels_by_value ON sandbox_labels (of_team, label_key, label_value, since, sandbox_id);
CREATE INDEX sandbox_labels_by_key ON sandbox_labels (of_team, label_key, since, sandbox_id);

CREATE TRIGGER sandbox_labels_inserted AFTER INSERT ON sandboxes WHEN NEW.labels <> '{}' BEGIN
    INSERT INTO sandbox_labels (sandbox_id, label_key, label_value, of_team, since)
        SELECT NEW.id, key, value, NEW.team_id, NEW.created_at FROM json_each(NEW.labels);
END;
CREATE TRIGGER sandbox_labels_updated AFTER UPDATE OF labels ON sandboxes WHEN NEW.labels <> OLD.labels BEGIN
    DELETE FROM sandbox_labels WHERE sandbox_id = NEW.id;
    INSERT INTO sandbox_labels (sandbox_id, label_key, label_value, of_team, since)
        SELECT NEW.id, key, value, NEW.team_id, NEW.created_at FROM json_each(NEW.labels);
END;
