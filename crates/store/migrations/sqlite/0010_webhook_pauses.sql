-- Time before which nothing is sent to a webhook, by the clock of the database: its receiver failed, or asked for it.
ALTER TABLE webhooks ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;

-- Of an event of the installation, which operators alone see.
ALTER TABLE webhook_deliveries ADD COLUMN is_installation INTEGER NOT NULL DEFAULT 0;
UPDATE webhook_deliveries SET is_installation = 1
WHERE kind <> 'webhook.test' AND payload NOT LIKE '%"team_id":"%';
-- Keys that may not see these events have changed where the webhook leads.
DELETE FROM webhook_deliveries
WHERE is_installation AND webhook_id IN (SELECT id FROM webhooks WHERE NOT with_installation);
