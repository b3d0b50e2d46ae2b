-- Names, labels and ends of sandboxes, and why they stopped.

ALTER TABLE sandboxes ADD COLUMN name TEXT COLLATE "C";
-- A JSON object of strings.
ALTER TABLE sandboxes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sandboxes ADD COLUMN ends_at BIGINT;
ALTER TABLE sandboxes ADD COLUMN stop_reason TEXT;
-- That of the spec, for lists.
ALTER TABLE sandboxes ADD COLUMN template TEXT NOT NULL DEFAULT '';
-- Number of changes by users: two at once do not overwrite each other.
ALTER TABLE sandboxes ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
UPDATE sandboxes SET template = COALESCE(spec::json ->> 'template', '');

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
    sandbox_id TEXT COLLATE "C" NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    label_key TEXT COLLATE "C" NOT NULL,
    label_value TEXT COLLATE "C" NOT NULL,
    of_team TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, label_key)
);
CREATE INDEX sandbox_labels_by_value ON sandbox_labels (of_team, label_key, label_value, since, sandbox_id);
CREATE INDEX sandbox_labels_by_key ON sandbox_labels (of_team, label_key, since, sandbox_id);

CREATE FUNCTION sandbox_labels_replace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sandbox_labels WHERE sandbox_id = NEW.id;
    INSERT INTO sandbox_labels (sandbox_id, label_key, label_value, of_team, since)
        SELECT NEW.id, label.key, label.value, NEW.team_id, NEW.created_at
        FROM json_each_text(NEW.labels::json) AS label;
    RETURN NULL;
END
$$;
CREATE TRIGGER sandbox_labels_inserted AFTER INSERT ON sandboxes
    FOR EACH ROW WHEN (NEW.labels <> '{}') EXECUTE FUNCTION sandbox_labels_replace();
CREATE TRIGGER sandbox_labels_updated AFTER UPDATE OF labels ON sandboxes
    FOR EACH ROW WHEN (NEW.labels <> OLD.labels) EXECUTE FUNCTION sandbox_labels_replace();

-- Other control planes hear of changes that their users wait for.
CREATE FUNCTION sandbox_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn_sandboxes', COALESCE(NEW.id, OLD.id));
    RETURN NULL;
END
$$;
CREATE TRIGGER sandbox_inserted AFTER INSERT ON sandboxes
    FOR EACH ROW EXECUTE FUNCTION sandbox_changed();
CREATE TRIGGER sandbox_updated AFTER UPDATE ON sandboxes
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.deleting <> NEW.deleting OR OLD.ends_at IS DISTINCT FROM NEW.ends_at)
    EXECUTE FUNCTION sandbox_changed();
CREATE TRIGGER sandbox_deleted AFTER DELETE ON sandboxes
    FOR EACH ROW EXECUTE FUNCTION sandbox_changed();
