-- The MQTT sessions of devices, their presence, samples and events.
-- Times are milliseconds since the epoch by the hub's clock, except `t`, which is the device's.

-- A device's MQTT session (MQTT 5, 4.1), linked or not.
CREATE TABLE mqtt_sessions (
    uid        TEXT PRIMARY KEY REFERENCES devices (uid) ON DELETE CASCADE,
    expiry_s   INTEGER NOT NULL,              -- as the device asked, bounded
    expires_at INTEGER,                       -- NULL: linked (or was, when the hub was killed)
    filters    TEXT NOT NULL                  -- JSON: [[filter, qos], ...]
) STRICT, WITHOUT ROWID;

-- QoS 1 messages for a device that it has not acknowledged.
CREATE TABLE mqtt_queue (
    id         INTEGER PRIMARY KEY,           -- given by the hub; the packet identifier is made of it
    uid        TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    topic      TEXT NOT NULL,
    payload    BLOB NOT NULL,
    retained   INTEGER NOT NULL,              -- 1: a wish; a newer one on the same topic takes its place
    sent       INTEGER NOT NULL DEFAULT 0,    -- 1: the next delivery says DUP
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX mqtt_queue_by_uid ON mqtt_queue (uid, id);

-- The organization's wishes: what a device gets when it subscribes.
CREATE TABLE mqtt_retained (
    uid     TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    topic   TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (uid, topic)
) STRICT, WITHOUT ROWID;

CREATE TABLE presence (
    uid       TEXT PRIMARY KEY REFERENCES devices (uid) ON DELETE CASCADE,
    online    INTEGER NOT NULL,
    since     INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    link      INTEGER NOT NULL,               -- the device's count of its connections
    boot      TEXT,
    last_seen INTEGER NOT NULL,
    sessions  INTEGER NOT NULL DEFAULT 0,
    spooled   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE presence_history (
    id     INTEGER PRIMARY KEY,
    uid    TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    t      INTEGER NOT NULL,                  -- the hub's clock
    online INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX presence_history_by_uid ON presence_history (uid, id);

-- One life of a device's daemon. A sample is known by this and its number, and by nothing else.
-- No foreign key: the samples of a deleted device are removed in slices, not in one long transaction.
CREATE TABLE usage_boots (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    uid      TEXT NOT NULL,
    boot     TEXT NOT NULL,
    received INTEGER NOT NULL,                -- when the oldest sample that is kept came
    dropped  INTEGER NOT NULL DEFAULT 0,      -- samples that the device had to drop from its spool
    UNIQUE (uid, boot)
) STRICT;
CREATE INDEX usage_boots_by_age ON usage_boots (received);

-- The column names of samples, once instead of in every row.
CREATE TABLE usage_columns (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    uid   TEXT NOT NULL,
    names TEXT NOT NULL,                      -- JSON array, sorted
    UNIQUE (uid, names)
) STRICT;

-- One b-tree, appended to at each life's end: an insert touches one page.
CREATE TABLE usage_samples (
    boot     INTEGER NOT NULL,                -- usage_boots.id
    seq      INTEGER NOT NULL,
    t        INTEGER NOT NULL,                -- when taken, by the device's clock
    received INTEGER NOT NULL,
    columns  INTEGER NOT NULL,                -- usage_columns.id
    vals     BLOB NOT NULL,                   -- 64-bit floats, little endian; NaN: not read
    PRIMARY KEY (boot, seq)
) STRICT, WITHOUT ROWID;

-- What devices reported.
CREATE TABLE device_events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    uid      TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    digest   BLOB NOT NULL,                   -- of the payload: the same event twice is one
    t        INTEGER NOT NULL,
    received INTEGER NOT NULL,
    body     TEXT NOT NULL,                   -- JSON as it came
    UNIQUE (uid, digest)
) STRICT;
CREATE INDEX device_events_by_uid ON device_events (uid, id);
