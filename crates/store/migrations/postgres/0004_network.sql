-- Where a sandbox may connect to, as its host reported it last (JSON); before that it is as its spec says.

ALTER TABLE sandboxes ADD COLUMN network TEXT;
