-- What the end of a sandbox means, and how long it runs from each start or resume on.
ALTER TABLE sandboxes ADD COLUMN end_policy TEXT NOT NULL DEFAULT 'stop';
ALTER TABLE sandboxes ADD COLUMN run_ms BIGINT;
-- Until when a control plane is pausing it because its end has come.
ALTER TABLE sandboxes ADD COLUMN pausing_until BIGINT;
