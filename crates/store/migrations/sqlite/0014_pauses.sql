-- Sandboxes that are being paused, by the time at which another control plane takes that over.
CREATE INDEX sandboxes_by_pause ON sandboxes (pausing_until) WHERE pausing_until IS NOT NULL;
