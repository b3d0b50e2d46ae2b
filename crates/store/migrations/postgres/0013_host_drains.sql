-- Drain of a host as a control plane saw it last: none, draining or drained.
ALTER TABLE hosts ADD COLUMN drain TEXT NOT NULL DEFAULT 'none';
