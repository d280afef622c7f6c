-- Who became a member of an organization by the domain of the e-mail: once for each. Whoever is taken out stays out.
CREATE TABLE auto_joins (
    org       TEXT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    account   INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    joined_at INTEGER NOT NULL,
    PRIMARY KEY (org, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX auto_joins_by_account ON auto_joins (account);
