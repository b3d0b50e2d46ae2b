-- Random values that all control planes of one installation share, such as the one that signs links to ports.

CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
