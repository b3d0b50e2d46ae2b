-- Disks as hosts report them: what they are made of, MiB, and bytes allocated on the host.

ALTER TABLE sandboxes ADD COLUMN disk_backend TEXT;
ALTER TABLE sandboxes ADD COLUMN disk_mb BIGINT;
ALTER TABLE sandboxes ADD COLUMN disk_used_bytes BIGINT;
