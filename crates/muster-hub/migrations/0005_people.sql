-- Accounts in full: service accounts, token scopes, invitations, single sign-on.

-- An owner of the hub: tops up credits, sees to accounts. Not a role in any organization.
ALTER TABLE accounts ADD COLUMN hub_owner INTEGER NOT NULL DEFAULT 0;
-- A service account belongs to one organization and goes with it; its e-mail is NAME@ORG.service, which no person can have.
ALTER TABLE accounts ADD COLUMN kind TEXT NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'service'));
ALTER TABLE accounts ADD COLUMN org TEXT REFERENCES orgs (id) ON DELETE CASCADE;
ALTER TABLE accounts ADD COLUMN description TEXT;
ALTER TABLE accounts ADD COLUMN created_by TEXT;
-- Set aside by an owner of the hub: no token of it works.
ALTER TABLE accounts ADD COLUMN disabled_at INTEGER;
-- Closed by its person, or deleted (a service account): the row stays, as the records name it.
ALTER TABLE accounts ADD COLUMN closed_at INTEGER;
CREATE INDEX accounts_by_org ON accounts (org) WHERE org IS NOT NULL;
CREATE INDEX accounts_ended ON accounts (max(ifnull(disabled_at, 0), ifnull(closed_at, 0)))
    WHERE disabled_at IS NOT NULL OR closed_at IS NOT NULL;

-- What a token may do of what its account may: look, reach devices, everything; and where.
ALTER TABLE access_tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'full' CHECK (scope IN ('read', 'reach', 'full'));
ALTER TABLE access_tokens ADD COLUMN org TEXT;
ALTER TABLE access_tokens ADD COLUMN project TEXT CHECK (project IS NULL OR org IS NOT NULL);
ALTER TABLE access_tokens ADD COLUMN created_by TEXT;

CREATE TABLE invitations (
    id          TEXT PRIMARY KEY,
    org         TEXT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    project     TEXT,                         -- NULL: to the organization itself
    email       TEXT NOT NULL,                -- lower case
    role        TEXT NOT NULL CHECK (
        CASE WHEN project IS NULL THEN role IN ('owner', 'member', 'viewer')
             ELSE role IN ('admin', 'maintain', 'operate', 'connect', 'view') END),
    digest      BLOB NOT NULL,                -- of the secret of the link that the inviter was shown
    mail_digest BLOB,                         -- of the secret of the link that was mailed last
    invited_by  TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    renewed_at  INTEGER NOT NULL,             -- when the link was made, at first or again
    expires_at  INTEGER NOT NULL,
    accepted_at INTEGER,
    revoked_at  INTEGER,
    revoked_by  TEXT,
    -- Mail: 'none', or where the newest one stands.
    mail          TEXT NOT NULL DEFAULT 'none' CHECK (mail IN ('none', 'queued', 'sent', 'failed')),
    mail_attempts INTEGER NOT NULL DEFAULT 0,
    mail_next_at  INTEGER,
    mail_error    TEXT,
    FOREIGN KEY (org, project) REFERENCES projects (org, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX invitations_pending ON invitations (org, ifnull(project, ''), email)
    WHERE accepted_at IS NULL AND revoked_at IS NULL;
CREATE INDEX invitations_by_org ON invitations (org, created_at);
CREATE INDEX invitations_to_mail ON invitations (mail_next_at) WHERE mail = 'queued';

-- Who somebody is at a provider of single sign-on.
CREATE TABLE identities (
    issuer    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    account   INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    linked_at INTEGER NOT NULL,
    used_at   INTEGER,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_account ON identities (account);

-- Logins under way. All secrets as digests, but for what the hub itself must say again to the provider.
CREATE TABLE oidc_logins (
    state      BLOB PRIMARY KEY,              -- digest
    browser    BLOB NOT NULL,                 -- digest of the cookie of the browser that began it
    nonce      TEXT NOT NULL,
    verifier   TEXT NOT NULL,                 -- PKCE towards the provider
    goal       TEXT NOT NULL,                 -- JSON: what happens once it is known who it is
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX oidc_logins_by_end ON oidc_logins (expires_at);

-- A browser login of the command line that succeeded: a one-time code, worth nothing without the verifier.
CREATE TABLE login_codes (
    digest     BLOB PRIMARY KEY,
    account    INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    challenge  TEXT NOT NULL,                 -- PKCE (S256) of the command line
    redirect   TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Logins by device code (RFC 8628).
CREATE TABLE device_logins (
    digest     BLOB PRIMARY KEY,              -- of the device code
    user_code  TEXT NOT NULL UNIQUE,
    token_name TEXT NOT NULL,
    address    TEXT,                          -- of the program that asks
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    interval_s INTEGER NOT NULL,
    polled_at  INTEGER,
    account    INTEGER REFERENCES accounts (id) ON DELETE CASCADE,
    decision   TEXT CHECK (decision IN ('approved', 'denied'))
) STRICT, WITHOUT ROWID;
CREATE INDEX device_logins_by_end ON device_logins (expires_at);

-- The first account of a hub was made by `muster-hub init`: it owns the hub.
UPDATE accounts SET hub_owner = 1 WHERE id = (SELECT min(id) FROM accounts);
