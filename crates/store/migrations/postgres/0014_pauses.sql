-- Sandboxes that are being paused, by the time at which another control plane takes that over.
CREATE INDEX sandboxes_by_pause ON sandboxes (pausing_until) WHERE pausing_until IS NOT NULL;

-- Other control planes hear of pauses that are given up.
DROP TRIGGER sandbox_updated ON sandboxes;
CREATE TRIGGER sandbox_updated AFTER UPDATE ON sandboxes
    FOR EACH ROW WHEN (
        OLD.state <> NEW.state OR OLD.deleting <> NEW.deleting OR OLD.ends_at IS DISTINCT FROM NEW.ends_at
        OR OLD.pausing_until IS NOT NULL AND NEW.pausing_until IS NULL
    )
    EXECUTE FUNCTION sandbox_changed();
