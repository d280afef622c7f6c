-- Metering, limits, rates, the ledger.
-- A day is the number of days since 1970-01-01 (UTC). Amounts are whole numbers in the base unit of their kind. Money is in nano-credits.

-- Every amount stands in exactly one row, so that no sum counts anything twice: what belongs to no one project has the project '',
-- what belongs to no device the uid ''. Usage outlives the device and the project, so there is no foreign key to them.
CREATE TABLE usage_days (
    org     TEXT NOT NULL,
    day     INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    project TEXT NOT NULL,
    uid     TEXT NOT NULL,
    amount  INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (org, day, kind, project, uid)
) STRICT, WITHOUT ROWID;

-- A device is active once a day, whatever becomes of its projects.
CREATE UNIQUE INDEX usage_active ON usage_days (day, uid) WHERE kind = 'active_devices';
CREATE INDEX usage_by_age ON usage_days (day);

-- Keys of amounts that were added: the same key adds nothing a second time.
CREATE TABLE usage_keys (
    key TEXT PRIMARY KEY,
    at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_keys_by_age ON usage_keys (at);

-- Living sessions: up to where each is metered. `steady` counts from the start of the machine (`boot`), whatever happens to the clock.
CREATE TABLE session_meters (
    session   TEXT PRIMARY KEY,
    wall      INTEGER NOT NULL,
    boot      TEXT NOT NULL,
    steady    INTEGER NOT NULL,
    to_device INTEGER NOT NULL,
    to_client INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What samples and events take, kept as they come and go: a size must not cost a scan of them.
ALTER TABLE usage_boots ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE usage_boots SET bytes = (SELECT coalesce(sum(length(vals) + 24), 0) FROM usage_samples WHERE usage_samples.boot = usage_boots.id);

CREATE TABLE event_sizes (
    uid   TEXT PRIMARY KEY REFERENCES devices (uid) ON DELETE CASCADE,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO event_sizes SELECT uid, sum(length(CAST(body AS BLOB)) + 64) FROM device_events GROUP BY uid;
CREATE TRIGGER device_events_come AFTER INSERT ON device_events BEGIN
    INSERT OR IGNORE INTO event_sizes VALUES (new.uid, 0);
    UPDATE event_sizes SET bytes = bytes + length(CAST(new.body AS BLOB)) + 64 WHERE uid = new.uid;
END;
CREATE TRIGGER device_events_go AFTER DELETE ON device_events BEGIN
    UPDATE event_sizes SET bytes = bytes - length(CAST(old.body AS BLOB)) - 64 WHERE uid = old.uid;
END;

-- Rates as the configuration had them, from `since` on; the newest of a kind is in force.
CREATE TABLE rates (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    kind  TEXT NOT NULL,
    nano  INTEGER NOT NULL CHECK (nano >= 0),  -- per priced unit: CPU-hour, GiB-hour, GB-month
    since INTEGER NOT NULL
) STRICT;
CREATE INDEX rates_by_kind ON rates (kind, id);

-- What has a price, at the rate that was in force when it was metered; and how much of it stands in the ledger.
CREATE TABLE charges (
    org         TEXT NOT NULL,
    day         INTEGER NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    rate        INTEGER NOT NULL,
    amount      INTEGER NOT NULL CHECK (amount >= 0),
    posted      INTEGER NOT NULL DEFAULT 0,
    posted_nano INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (org, day, project, kind, rate),
    CHECK (posted <= amount)
) STRICT, WITHOUT ROWID;
CREATE INDEX charges_to_post ON charges (org, day) WHERE posted < amount;

-- The ledger. Append-only: the triggers hold that even against the hub's own mistakes. The balance is the sum of `nano`.
CREATE TABLE ledger (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    t       INTEGER NOT NULL,
    org     TEXT NOT NULL,
    entry   TEXT NOT NULL CHECK (entry IN ('charge', 'top_up', 'correction')),
    nano    INTEGER NOT NULL,                 -- negative: taken away
    day     INTEGER,                          -- of a charge, as all that follow to `amount`
    project TEXT,
    kind    TEXT,
    rate    INTEGER,
    amount  INTEGER,
    actor   TEXT NOT NULL,
    note    TEXT,
    key     TEXT,                             -- the caller's name for a top-up: the same one is booked once
    UNIQUE (org, key)
) STRICT;
CREATE INDEX ledger_by_org ON ledger (org, id);
CREATE TRIGGER ledger_is_never_changed BEFORE UPDATE ON ledger BEGIN
    SELECT RAISE(ABORT, 'ledger lines are never changed');
END;
CREATE TRIGGER ledger_is_never_deleted BEFORE DELETE ON ledger BEGIN
    SELECT RAISE(ABORT, 'ledger lines are never deleted');
END;

-- Limits: of the hub's configuration (org ''), of a hub's owner for one organization ('hub'), of the organization's own ('own').
CREATE TABLE limits (
    org   TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('default', 'hub', 'own')),
    name  TEXT NOT NULL,
    most  INTEGER NOT NULL CHECK (most >= 0),
    PRIMARY KEY (org, scope, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_time ON audit (org, t);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
