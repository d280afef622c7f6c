-- Runs: one command on one device, its output and what it used.
-- Times are milliseconds since the epoch by the hub's clock.

CREATE TABLE runs (
    n             INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    org           TEXT NOT NULL REFERENCES orgs (id),
    uid           TEXT NOT NULL,              -- no foreign key: the record outlives the device
    device_name   TEXT NOT NULL,
    project       TEXT NOT NULL,
    role          TEXT NOT NULL,
    account       INTEGER NOT NULL,           -- who asked; no foreign key: the record outlives the account
    email         TEXT NOT NULL,
    address       TEXT,
    command       TEXT NOT NULL,              -- JSON: {"argv": [...]} or {"shell": "..."}
    run_as        TEXT,
    cwd           TEXT,
    env           TEXT NOT NULL,              -- JSON array of names; the values are only in the order
    timeout_s     INTEGER NOT NULL,
    output_max    INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled', 'timed_out', 'expired', 'refused', 'lost')),
    by_hub        INTEGER NOT NULL DEFAULT 0, -- 1: ended by the hub alone; what the device says later is truer
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    accepted_at   INTEGER,                    -- the device took it
    started_at    INTEGER,
    ended_at      INTEGER,
    cancelled_at  INTEGER,                    -- somebody asked for its end
    cancelled_by  TEXT,
    exit_code     INTEGER,
    signal        TEXT,
    end_code      TEXT,
    end_reason    TEXT,
    stdout        INTEGER NOT NULL DEFAULT 0,
    stderr        INTEGER NOT NULL DEFAULT 0,
    dropped       INTEGER NOT NULL DEFAULT 0,
    kept          INTEGER NOT NULL DEFAULT 0, -- bytes in run_output
    cpu_us        INTEGER NOT NULL DEFAULT 0,
    mem_byte_ms   INTEGER NOT NULL DEFAULT 0,
    mem_peak      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX runs_by_org ON runs (org, n);
CREATE INDEX runs_by_device ON runs (uid, n);
CREATE INDEX runs_by_account ON runs (org, account, n);
-- Those that somebody or something has to come back to.
CREATE INDEX runs_alive ON runs (n) WHERE state IN ('waiting', 'running');
CREATE INDEX runs_with_output ON runs (ended_at) WHERE kept > 0;

-- Pieces of output by their number: the same piece twice is one.
CREATE TABLE run_output (
    run    INTEGER NOT NULL REFERENCES runs (n) ON DELETE CASCADE,
    n      INTEGER NOT NULL,
    t      INTEGER NOT NULL,
    stream INTEGER NOT NULL CHECK (stream IN (1, 2)),
    at     INTEGER NOT NULL,                  -- place of the first byte in its stream
    bytes  BLOB NOT NULL,
    PRIMARY KEY (run, n)
) STRICT, WITHOUT ROWID;
