-- Organization details, teams, projects in full, archive.
-- An image stands in a table of its own, so that reading an organization or a team does not carry it along.

ALTER TABLE orgs ADD COLUMN full_name TEXT;
ALTER TABLE orgs ADD COLUMN description TEXT;
ALTER TABLE orgs ADD COLUMN location TEXT;
ALTER TABLE orgs ADD COLUMN website TEXT;

CREATE TABLE org_logos (
    org        TEXT PRIMARY KEY REFERENCES orgs (id) ON DELETE CASCADE,
    media_type TEXT NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp')),
    digest     TEXT NOT NULL,                 -- of the image: its ETag
    image      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Ids of organizations that were deleted. Never given again: the records of the old one stay under it.
CREATE TABLE deleted_orgs (
    id         TEXT PRIMARY KEY,
    deleted_at INTEGER NOT NULL,
    deleted_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE teams (
    org         TEXT NOT NULL REFERENCES orgs (id),
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    description TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE team_avatars (
    org        TEXT NOT NULL,
    team       TEXT NOT NULL,
    media_type TEXT NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp')),
    digest     TEXT NOT NULL,
    image      BLOB NOT NULL,
    PRIMARY KEY (org, team),
    FOREIGN KEY (org, team) REFERENCES teams (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Members and collaborators of the organization. A team gives nothing in the organization itself.
CREATE TABLE team_members (
    org     TEXT NOT NULL,
    team    TEXT NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (id),
    since   INTEGER NOT NULL,
    PRIMARY KEY (org, team, account),
    FOREIGN KEY (org, team) REFERENCES teams (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX team_members_by_account ON team_members (account, org, team);

CREATE TABLE project_teams (
    org     TEXT NOT NULL,
    project TEXT NOT NULL,
    team    TEXT NOT NULL,
    role    TEXT NOT NULL CHECK (role IN ('admin', 'maintain', 'operate', 'connect', 'view')),
    since   INTEGER NOT NULL,
    PRIMARY KEY (org, project, team),
    FOREIGN KEY (org, project) REFERENCES projects (org, id) ON DELETE CASCADE,
    FOREIGN KEY (org, team) REFERENCES teams (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX project_teams_by_team ON project_teams (org, team);

ALTER TABLE projects ADD COLUMN description TEXT;
ALTER TABLE projects ADD COLUMN archived_by TEXT;

-- A device is in projects of its own organization only: now the schema says so too.
CREATE UNIQUE INDEX devices_of_org ON devices (uid, org);
CREATE TABLE device_projects_of_org (
    uid     TEXT NOT NULL,
    org     TEXT NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (uid, project),
    FOREIGN KEY (uid, org) REFERENCES devices (uid, org) ON DELETE CASCADE,
    FOREIGN KEY (org, project) REFERENCES projects (org, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO device_projects_of_org SELECT uid, org, project FROM device_projects;
DROP TABLE device_projects;
ALTER TABLE device_projects_of_org RENAME TO device_projects;
CREATE INDEX device_projects_by_project ON device_projects (org, project);

-- The living sessions of a project, for its homepage.
CREATE INDEX sessions_alive_by_project ON sessions (org, project) WHERE ended_at IS NULL;
