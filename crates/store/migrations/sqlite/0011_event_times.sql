-- Where the history of a time begins.
CREATE INDEX events_by_time ON events (created_at, cursor);
