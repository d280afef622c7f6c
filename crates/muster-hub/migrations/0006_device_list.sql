-- Custom fields, labels, saved views, devices that were entered by hand.

-- 1: entered by hand, and no key has spoken for it yet.
ALTER TABLE devices ADD COLUMN by_hand INTEGER NOT NULL DEFAULT 0 CHECK (by_hand IN (0, 1));

-- What an organization wants to know of its devices.
CREATE TABLE fields (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    org         TEXT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    key         TEXT NOT NULL,                -- as the query language and the CSV file call it; never changes
    title       TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('text', 'number', 'choice', 'date', 'person')),
    choices     TEXT NOT NULL DEFAULT '[]',   -- JSON array of texts
    required    INTEGER NOT NULL CHECK (required IN (0, 1)),
    description TEXT NOT NULL DEFAULT '',
    created_at  INTEGER NOT NULL,
    UNIQUE (org, key)
) STRICT;

-- A value in its canonical text: 12.5, 2026-11-22, ada@acme.example. An empty value has no row.
CREATE TABLE device_values (
    uid   TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    field INTEGER NOT NULL REFERENCES fields (id) ON DELETE CASCADE,
    value TEXT NOT NULL,
    PRIMARY KEY (uid, field)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_values_by_field ON device_values (field, value);

CREATE TABLE device_labels (
    uid   TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    label TEXT NOT NULL,
    PRIMARY KEY (uid, label)
) STRICT, WITHOUT ROWID;

-- How somebody looks at the list.
CREATE TABLE views (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    org        TEXT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    account    INTEGER REFERENCES accounts (id) ON DELETE CASCADE, -- NULL: all of the organization see it
    name       TEXT NOT NULL,
    filter     TEXT NOT NULL,
    sort       TEXT NOT NULL,
    columns    TEXT NOT NULL,                 -- JSON array of texts
    changed_by TEXT NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX views_shared ON views (org, name) WHERE account IS NULL;
CREATE UNIQUE INDEX views_personal ON views (org, account, name) WHERE account IS NOT NULL;
CREATE INDEX views_by_account ON views (account) WHERE account IS NOT NULL;
