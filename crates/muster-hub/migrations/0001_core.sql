-- People, organizations, projects, devices, enrolment, audit.
-- Times are milliseconds since the epoch (UTC). Digests are SHA-256.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE accounts (
    id         INTEGER PRIMARY KEY,
    email      TEXT NOT NULL UNIQUE,          -- lower case
    name       TEXT NOT NULL,
    password   TEXT,                          -- argon2id in PHC form; NULL: cannot log in with a password
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE access_tokens (
    id         TEXT PRIMARY KEY,
    account    INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    digest     BLOB NOT NULL,                 -- of the secret
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT;
CREATE INDEX access_tokens_by_account ON access_tokens (account);

CREATE TABLE orgs (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    org     TEXT NOT NULL REFERENCES orgs (id),
    account INTEGER NOT NULL REFERENCES accounts (id),
    role    TEXT NOT NULL CHECK (role IN ('owner', 'member', 'viewer')),
    since   INTEGER NOT NULL,
    PRIMARY KEY (org, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_account ON members (account);

CREATE TABLE projects (
    org         TEXT NOT NULL REFERENCES orgs (id),
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    visibility  TEXT NOT NULL CHECK (visibility IN ('private', 'internal')),
    created_at  INTEGER NOT NULL,
    archived_at INTEGER,
    PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE participants (
    org     TEXT NOT NULL,
    project TEXT NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (id),
    role    TEXT NOT NULL CHECK (role IN ('admin', 'maintain', 'operate', 'connect', 'view')),
    since   INTEGER NOT NULL,
    PRIMARY KEY (org, project, account),
    FOREIGN KEY (org, project) REFERENCES projects (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX participants_by_account ON participants (account, org);

CREATE TABLE enrolment_tokens (
    id         TEXT PRIMARY KEY,
    org        TEXT NOT NULL REFERENCES orgs (id),
    digest     BLOB NOT NULL,                 -- of the secret
    project    TEXT,
    uses       INTEGER,                       -- NULL: without a limit
    used       INTEGER NOT NULL DEFAULT 0,
    admit      TEXT NOT NULL CHECK (admit IN ('auto', 'manual')),
    limited    INTEGER NOT NULL,              -- 1: only the serials of enrolment_token_serials
    note       TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CHECK (uses IS NULL OR used <= uses)
) STRICT;
CREATE INDEX enrolment_tokens_by_org ON enrolment_tokens (org, created_at);

CREATE TABLE enrolment_token_serials (
    token  TEXT NOT NULL REFERENCES enrolment_tokens (id) ON DELETE CASCADE,
    serial TEXT NOT NULL,
    PRIMARY KEY (token, serial)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    uid                    TEXT PRIMARY KEY,
    org                    TEXT NOT NULL REFERENCES orgs (id),
    serial                 TEXT NOT NULL,
    name                   TEXT NOT NULL,
    admission              TEXT NOT NULL CHECK (admission IN ('pending', 'admitted', 'rejected', 'revoked')),
    reason                 TEXT,              -- of a rejection or revocation, in its author's words
    facts                  TEXT NOT NULL,     -- JSON object
    agent                  TEXT,
    created_at             INTEGER NOT NULL,
    decided_at             INTEGER,
    decided_by             TEXT,
    admitted_at            INTEGER,           -- first admission; NULL: never was
    certificate_expires_at INTEGER,
    UNIQUE (org, serial)
) STRICT;
CREATE INDEX devices_by_name ON devices (org, name);

CREATE TABLE device_projects (
    uid     TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    org     TEXT NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (uid, project),
    FOREIGN KEY (org, project) REFERENCES projects (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX device_projects_by_project ON device_projects (org, project);

-- Every key that ever spoke for a device, by the digest of its SubjectPublicKeyInfo.
-- No foreign key: a retired key still raises the alarm after its device was deleted.
CREATE TABLE device_keys (
    key    BLOB PRIMARY KEY,
    uid    TEXT NOT NULL,
    org    TEXT NOT NULL,
    state  TEXT NOT NULL CHECK (state IN ('current', 'next', 'retired')),
    since  INTEGER NOT NULL,
    -- Why it was retired: 'replaced', 'renewed', 'deleted'.
    reason TEXT,
    alarm_at INTEGER                          -- when its use last raised an alarm
) STRICT, WITHOUT ROWID;
CREATE INDEX device_keys_by_uid ON device_keys (uid);

-- One row for each key that asked for a place on the list.
CREATE TABLE enrolments (
    request      TEXT PRIMARY KEY,
    uid          TEXT NOT NULL REFERENCES devices (uid) ON DELETE CASCADE,
    org          TEXT NOT NULL,
    serial       TEXT NOT NULL,
    key          BLOB NOT NULL,               -- digest of the SubjectPublicKeyInfo
    spki         BLOB NOT NULL,               -- the public key itself: the certificate is for this and nothing else
    token        TEXT NOT NULL,
    pairing_code TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'replacement', 'admitted', 'rejected', 'superseded')),
    facts        TEXT NOT NULL,
    certificate  TEXT,
    certificate_expires_at INTEGER,
    created_at   INTEGER NOT NULL,
    UNIQUE (org, serial, key)
) STRICT;
CREATE INDEX enrolments_by_uid ON enrolments (uid, state);

-- What happened. Append-only: the triggers hold that even against the hub's own mistakes.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    t       INTEGER NOT NULL,
    org     TEXT,                             -- NULL: of the hub as a whole
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL,
    address TEXT,
    result  TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_org ON audit (org, id);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'audit events are never changed');
END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'audit events are never deleted');
END;
