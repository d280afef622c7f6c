-- Remote sessions: who reached which device, when, and how much passed.
-- A row without `ended_at` is alive: a hub that starts takes it up again and gives both ends the grace time to come back.

CREATE TABLE sessions (
    n             INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    org           TEXT NOT NULL REFERENCES orgs (id),
    uid           TEXT NOT NULL,              -- no foreign key: the record outlives the device
    device_name   TEXT NOT NULL,
    project       TEXT NOT NULL,
    role          TEXT NOT NULL,
    email         TEXT NOT NULL,
    address       TEXT,
    want          TEXT,
    reason        TEXT,
    client_ticket BLOB NOT NULL,              -- SHA-256 of the ticket
    device_ticket BLOB NOT NULL,
    client_used   INTEGER NOT NULL DEFAULT 0, -- 1: was used in time, and serves resumptions now
    device_used   INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    opened_at     INTEGER,                    -- both ends had met
    ended_at      INTEGER,
    end_code      TEXT,
    end_reason    TEXT,
    ended_by      TEXT,
    to_device     INTEGER NOT NULL DEFAULT 0,
    to_client     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX sessions_by_org ON sessions (org, n);
CREATE INDEX sessions_by_device ON sessions (uid, n);
CREATE INDEX sessions_alive ON sessions (n) WHERE ended_at IS NULL;
