//! What people have in organizations, in memory: a permission check asks no database, also right after a change.
//!
//! What gives roles is held as the tables have it, and what an account has is made of it at its first question. The store tells
//! whose rights a commit touched before whoever wrote gets an answer: that is read again, and nothing else is.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_proto::Millis;
use muster_proto::api::{OrgRole, ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::Connection;

use crate::rights;
use crate::store::roles::{self, OfAccount, OfOrg};
use crate::store::touched::{Observer, Touched};
use crate::store::{self, Store};

/// Most standings that are kept over all organizations. When there are more, all are dropped: they are quick to make again.
const KEPT_MAX: usize = 20_000;

/// So many accounts of an organization are read again one by one; where more were touched, the organization is.
const ONE_BY_ONE_MAX: usize = 64;

/// What one account has in one organization.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    /// The organization's display name.
    pub name: String,
    /// When it was made.
    pub created_at: Millis,
    /// The role there; `None` for a collaborator.
    pub role: Option<OrgRole>,
    /// Projects in which the account has a role.
    pub projects: Projects,
}

impl Standing {
    /// Whether it has every role that `then` had: what others do in the organization meanwhile takes nothing from it.
    pub fn keeps(&self, then: &Self) -> bool {
        self.role >= then.role && then.projects.iter().all(|(id, had)| self.projects.get(id).is_some_and(|has| has.role >= had.role))
    }

    /// The same for a token that is limited to one project: the role there, and none in the organization.
    pub fn in_project(&self, only: &ProjectId) -> Option<Self> {
        let projects = self.projects.filtered(|project| project.id == *only);
        (!projects.is_empty()).then(|| Self { name: self.name.clone(), created_at: self.created_at, role: None, projects })
    }
}

/// A project, for all who have a role in it.
#[derive(Debug, PartialEq, Eq)]
pub struct ProjectAbout {
    /// Its id.
    pub id: ProjectId,
    /// Its display name.
    pub name: String,
    /// Who sees it.
    pub visibility: Visibility,
    /// Whether it is read-only.
    pub archived: bool,
    /// When made.
    pub created_at: Millis,
}

/// A person in a project: the project, and the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectAccess {
    about: Arc<ProjectAbout>,
    /// The person's role: the highest of all that give one.
    pub role: ProjectRole,
}

impl Deref for ProjectAccess {
    type Target = ProjectAbout;

    fn deref(&self) -> &ProjectAbout {
        &self.about
    }
}

/// Projects in the order of their ids, each with a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projects(Box<[ProjectAccess]>);

impl Projects {
    /// The role in a project, and the project.
    pub fn get(&self, id: &ProjectId) -> Option<&ProjectAccess> {
        self.0.binary_search_by(|project| project.id.cmp(id)).ok().map(|at| &self.0[at])
    }

    /// Whether there is a role in a project.
    pub fn contains_key(&self, id: &ProjectId) -> bool {
        self.get(id).is_some()
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ProjectId, &ProjectAccess)> {
        self.0.iter().map(|project| (&project.about.id, project))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that pass, such as the one project that a token is for.
    pub fn filtered(&self, mut keep: impl FnMut(&ProjectAccess) -> bool) -> Self {
        Self(self.0.iter().filter(|project| keep(project)).cloned().collect())
    }
}

/// All of it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Standings(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    orgs: HashMap<OrgId, InOrg>,
    /// Standings that are kept.
    kept: usize,
    /// Reading failed after a commit: the database is asked until it succeeds.
    stale: bool,
}

/// An organization: what gives roles there, and the standings that were made of it.
#[derive(Debug)]
struct InOrg {
    name: String,
    created_at: Millis,
    /// By id.
    projects: Vec<Arc<ProjectAbout>>,
    accounts: HashMap<i64, Given>,
    teams: HashMap<String, Vec<(usize, ProjectRole)>>,
    kept: HashMap<i64, Arc<Standing>>,
}

/// What an account was given: with the places of projects in the list of them.
#[derive(Debug)]
struct Given {
    role: Option<OrgRole>,
    projects: Vec<(usize, ProjectRole)>,
    teams: Vec<String>,
}

impl Standings {
    /// Loads what gives roles, and follows every commit from then on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: &Store) -> store::Result<Self> {
        let standings = Self::default();
        store.observe(Arc::new(standings.clone()));
        // On the writer's thread: nothing is committed between the reading and the following.
        let loading = standings.clone();
        store.write(move |tx| loading.load(tx)).await?;
        Ok(standings)
    }

    /// What an account has in an organization; `None` if that is nothing, or there is no such organization.
    ///
    /// # Errors
    /// When the database has to be asked, and fails.
    pub async fn get(&self, store: &Store, org: &OrgId, account: i64) -> store::Result<Option<Arc<Standing>>> {
        if let Some(held) = self.held(org, account) {
            return Ok(held);
        }
        let org = org.clone();
        store.read(move |db| Ok(read(db, &org, account)?.map(Arc::new))).await
    }

    /// [`Standings::get`] where a connection is at hand, on a thread that may block.
    ///
    /// # Errors
    /// When the database has to be asked, and fails.
    pub fn get_on(&self, db: &Connection, org: &OrgId, account: i64) -> store::Result<Option<Arc<Standing>>> {
        match self.held(org, account) {
            Some(held) => Ok(held),
            None => Ok(read(db, org, account)?.map(Arc::new)),
        }
    }

    /// What somebody has as this connection sees it, in a transaction as well; nothing of it is kept, as it may never be committed.
    ///
    /// # Errors
    /// When the database fails.
    pub fn inside(db: &Connection, org: &OrgId, account: i64) -> store::Result<Option<Standing>> {
        read(db, org, account)
    }

    /// What memory says: nothing while it is not in line with the database.
    #[allow(clippy::option_option, reason = "outside: whether it is known; inside: whether there is something")]
    fn held(&self, org: &OrgId, account: i64) -> Option<Option<Arc<Standing>>> {
        let mut held = self.lock();
        let held = &mut *held;
        if held.stale {
            return None;
        }
        let Some(in_org) = held.orgs.get(org) else { return Some(None) };
        if let Some(kept) = in_org.kept.get(&account) {
            return Some(Some(Arc::clone(kept)));
        }
        let Some(standing) = in_org.standing(account).map(Arc::new) else { return Some(None) };
        if held.kept >= KEPT_MAX {
            held.orgs.values_mut().for_each(|in_org| in_org.kept.clear());
            held.kept = 0;
        }
        if let Some(in_org) = held.orgs.get_mut(org) {
            in_org.kept.insert(account, Arc::clone(&standing));
            held.kept += 1;
        }
        Some(Some(standing))
    }

    fn load(&self, db: &Connection) -> store::Result<()> {
        let mut orgs = HashMap::new();
        for org in roles::orgs(db)? {
            if let Some(found) = roles::of_org(db, &org, None)? {
                orgs.insert(org, InOrg::of(found));
            }
        }
        *self.lock() = Held { orgs, kept: 0, stale: false };
        Ok(())
    }

    fn follow(&self, db: &Connection, touched: &Touched) -> store::Result<()> {
        if touched.everything || self.lock().stale {
            return self.load(db);
        }
        for (org, what) in touched.orgs.iter().filter(|(_, what)| what.rights) {
            if what.everyone || what.accounts.len() > ONE_BY_ONE_MAX {
                let found = roles::of_org(db, org, None)?.map(InOrg::of);
                let mut held = self.lock();
                let before = match found {
                    Some(found) => held.orgs.insert(org.clone(), found),
                    None => held.orgs.remove(org),
                };
                held.kept -= before.map_or(0, |before| before.kept.len());
                continue;
            }
            for account in &what.accounts {
                let found = roles::of_account(db, org, *account)?;
                let mut held = self.lock();
                let held = &mut *held;
                if let Some(in_org) = held.orgs.get_mut(org) {
                    let given = in_org.given(found);
                    in_org.accounts.insert(*account, given);
                    held.kept -= usize::from(in_org.kept.remove(account).is_some());
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Standings {
    /// Whose rights were touched is read again before whoever wrote gets an answer, and nobody else is.
    fn committed(&self, db: &Connection, touched: &Touched) -> store::Result<()> {
        let followed = self.follow(db, touched);
        if followed.is_err() {
            self.lock().stale = true;
        }
        followed
    }
}

impl InOrg {
    fn of(found: OfOrg) -> Self {
        let about = |project: roles::Project| {
            let roles::Project { id, name, visibility, created_at, archived } = project;
            Arc::new(ProjectAbout { id, name, visibility, archived, created_at })
        };
        let mut projects: Vec<Arc<ProjectAbout>> = found.projects.into_iter().map(about).collect();
        projects.sort_by(|a, b| a.id.cmp(&b.id));
        let (name, created_at) = (found.name, found.created_at);
        let mut this = Self { name, created_at, projects, accounts: HashMap::new(), teams: HashMap::new(), kept: HashMap::new() };
        this.accounts = found.accounts.into_iter().map(|(account, of)| (account, this.given(of))).collect();
        this.teams = found.teams.into_iter().map(|(team, roles)| (team, this.places(&roles))).collect();
        this
    }

    fn given(&self, of: OfAccount) -> Given {
        Given { role: of.role, projects: self.places(&of.projects), teams: of.teams }
    }

    fn places(&self, roles: &[(ProjectId, ProjectRole)]) -> Vec<(usize, ProjectRole)> {
        let place = |project: &ProjectId| self.projects.binary_search_by(|about| about.id.cmp(project)).ok();
        roles.iter().filter_map(|(project, role)| Some((place(project)?, *role))).collect()
    }

    fn standing(&self, account: i64) -> Option<Standing> {
        let given = self.accounts.get(&account)?;
        let mut in_projects: Vec<Option<ProjectRole>> = vec![None; self.projects.len()];
        let by_team = given.teams.iter().filter_map(|team| self.teams.get(team)).flatten();
        for (at, role) in given.projects.iter().chain(by_team) {
            in_projects[*at] = in_projects[*at].max(Some(*role));
        }
        let projects = self.projects.iter().zip(in_projects).filter_map(|(about, participant)| {
            let role = rights::project_role(given.role, about.visibility, participant)?;
            Some(ProjectAccess { about: Arc::clone(about), role })
        });
        let projects: Box<[ProjectAccess]> = projects.collect();
        if given.role.is_none() && projects.is_empty() {
            return None;
        }
        Some(Standing { name: self.name.clone(), created_at: self.created_at, role: given.role, projects: Projects(projects) })
    }
}

fn read(db: &Connection, org: &OrgId, account: i64) -> store::Result<Option<Standing>> {
    let found = roles::of_org(db, org, Some(account))?;
    Ok(found.and_then(|found| InOrg::of(found).standing(account)))
}

#[cfg(test)]
mod tests {
    use muster_proto::problem::Code;

    use super::*;
    use crate::store::{accounts, orgs};

    async fn acme() -> (tempfile::TempDir, Store, Standings, OrgId) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let standings = Standings::open(&store).await.unwrap();
        let org: OrgId = "acme".parse().unwrap();
        let made = org.clone();
        let work = move |tx: &rusqlite::Transaction<'_>| {
            for email in ["ada@acme.example", "bob@acme.example"] {
                accounts::create(tx, email, "x", None, 0)?;
            }
            orgs::create(tx, &made, "Acme", 1, 0)?;
            orgs::create_project(tx, &made, &"lab".parse()?, "Lab", Visibility::Private, 0)
        };
        store.write(work).await.unwrap();
        (dir, store, standings, org)
    }

    #[tokio::test]
    async fn whoever_changed_rights_finds_them_changed() {
        let (_dir, store, standings, org) = acme().await;
        let lab: ProjectId = "lab".parse().unwrap();
        assert!(standings.get(&store, &org, 2).await.unwrap().is_none());
        for role in [ProjectRole::View, ProjectRole::Operate, ProjectRole::Admin] {
            let (of, project) = (org.clone(), lab.clone());
            store.write(move |tx| orgs::set_participant(tx, &of, &project, 2, role, 0)).await.unwrap();
            let found = standings.get(&store, &org, 2).await.unwrap().unwrap();
            assert_eq!((found.role, found.projects.get(&lab).unwrap().role), (None, role));
            // Warm: the same copy.
            assert!(Arc::ptr_eq(&found, &standings.get(&store, &org, 2).await.unwrap().unwrap()));
        }
        // A write that fails changes nothing and forgets nothing.
        let before = standings.get(&store, &org, 2).await.unwrap().unwrap();
        let (of, project) = (org.clone(), lab.clone());
        let failed = store.write(move |tx| {
            orgs::remove_participant(tx, &of, &project, 2)?;
            Err::<(), _>(store::problem(Code::Conflict, "no"))
        });
        assert!(failed.await.is_err());
        assert!(Arc::ptr_eq(&before, &standings.get(&store, &org, 2).await.unwrap().unwrap()));
        let of = org.clone();
        store.write(move |tx| orgs::remove_participant(tx, &of, &lab, 2)).await.unwrap();
        assert!(standings.get(&store, &org, 2).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn only_those_are_made_again_whose_rights_changed() {
        let (_dir, store, standings, org) = acme().await;
        let held = |account| standings.held(&org, account).unwrap();
        let sizes = || {
            let held = standings.lock();
            (held.kept, held.orgs.len())
        };
        let set = async |account, role| {
            let of = org.clone();
            store.write(move |tx| orgs::set_member(tx, &of, account, role, 0)).await.unwrap();
        };
        set(2, OrgRole::Viewer).await;
        let (one, two) = (held(1).unwrap(), held(2).unwrap());
        set(2, OrgRole::Member).await;
        assert!(Arc::ptr_eq(&one, &held(1).unwrap()));
        assert_eq!((two.role, held(2).unwrap().role), (Some(OrgRole::Viewer), Some(OrgRole::Member)));
        // What may be anybody's is everybody's.
        store.write(|tx| Ok(tx.execute("UPDATE projects SET visibility = 'internal'", [])?)).await.unwrap();
        assert_eq!(held(2).unwrap().projects.len(), 1);
        assert!(!Arc::ptr_eq(&one, &held(1).unwrap()));
        let of = org.clone();
        store.write(move |tx| orgs::remove_member(tx, &of, 2)).await.unwrap();
        assert!(held(2).is_none());
        assert_eq!(sizes(), (1, 1));
        store
            .write(|tx| Ok(tx.execute_batch("DELETE FROM participants; DELETE FROM members; DELETE FROM projects; DELETE FROM orgs")?))
            .await
            .unwrap();
        assert!(held(1).is_none());
        assert_eq!(sizes(), (0, 0));
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_asked_of_the_database() {
        let (_dir, store, standings, org) = acme().await;
        assert_eq!(standings.held(&org, 1).unwrap().unwrap().role, Some(OrgRole::Owner));
        // A role that no version knows: nobody is let in by it, nor by what was held before.
        store.write(|tx| Ok(tx.execute_batch("PRAGMA ignore_check_constraints = ON; UPDATE members SET role = 'king'")?)).await.unwrap();
        assert!(standings.held(&org, 1).is_none());
        assert!(standings.get(&store, &org, 1).await.is_err());
        store.write(|tx| Ok(tx.execute_batch("UPDATE members SET role = 'viewer'; PRAGMA ignore_check_constraints = OFF")?)).await.unwrap();
        assert_eq!(standings.held(&org, 1).unwrap().unwrap().role, Some(OrgRole::Viewer));
    }

    /// Memory, brought in line change by change, against all of it read afresh.
    #[tokio::test]
    async fn it_says_what_the_database_says() {
        let (_dir, store, standings, org) = acme().await;
        let mut compared = 0;
        for (step, lab, hall) in [
            ("INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'hall', 'Hall', 'internal', 0)", None, None),
            ("INSERT INTO participants VALUES ('acme', 'hall', 2, 'connect', 0)", None, Some(ProjectRole::Connect)),
            ("INSERT INTO members VALUES ('acme', 2, 'member', 0)", None, Some(ProjectRole::Operate)),
            ("INSERT INTO teams (org, id, name, created_at) VALUES ('acme', 'crew', 'Crew', 0)", None, Some(ProjectRole::Operate)),
            ("INSERT INTO team_members VALUES ('acme', 'crew', 2, 0)", None, Some(ProjectRole::Operate)),
            (
                "INSERT INTO project_teams (org, project, team, role, since) VALUES ('acme', 'lab', 'crew', 'maintain', 0)",
                Some(ProjectRole::Maintain),
                Some(ProjectRole::Operate),
            ),
            ("DELETE FROM members WHERE account = 2", Some(ProjectRole::Maintain), Some(ProjectRole::Connect)),
            ("UPDATE projects SET archived_at = 1 WHERE id = 'hall'", Some(ProjectRole::Maintain), Some(ProjectRole::Connect)),
            ("UPDATE participants SET role = 'admin' WHERE account = 2", Some(ProjectRole::Maintain), Some(ProjectRole::Admin)),
            ("UPDATE project_teams SET role = 'operate'", Some(ProjectRole::Operate), Some(ProjectRole::Admin)),
            ("DELETE FROM team_members", None, Some(ProjectRole::Admin)),
            ("DELETE FROM participants", None, None),
        ] {
            store.write(move |tx| Ok(tx.execute_batch(step)?)).await.unwrap();
            let held = standings.held(&org, 2).unwrap();
            let role_in = |id: &str| held.as_ref()?.projects.get(&id.parse().unwrap()).map(|project| project.role);
            assert_eq!((role_in("lab"), role_in("hall")), (lab, hall), "{step}");
            for account in [1, 2, 3] {
                let of = org.clone();
                let there = store.read(move |db| read(db, &of, account)).await.unwrap().map(Arc::new);
                assert_eq!(standings.held(&org, account).unwrap(), there, "{account} after {step}");
                compared += usize::from(there.is_some());
            }
        }
        assert!(compared > 20, "{compared}");
    }

    #[tokio::test]
    async fn projects_are_held_once_for_all_who_have_a_role() {
        let (_dir, store, standings, org) = acme().await;
        let of = org.clone();
        store.write(move |tx| orgs::set_member(tx, &of, 2, OrgRole::Owner, 0)).await.unwrap();
        let one = standings.get(&store, &org, 1).await.unwrap().unwrap();
        let two = standings.get(&store, &org, 2).await.unwrap().unwrap();
        assert_eq!(one.projects.len(), 1);
        assert!(Arc::ptr_eq(&one.projects.0[0].about, &two.projects.0[0].about));
    }

    #[tokio::test]
    async fn what_another_process_wrote_is_noticed() {
        let (dir, store, standings, org) = acme().await;
        assert_eq!(standings.get(&store, &org, 1).await.unwrap().unwrap().role, Some(OrgRole::Owner));
        let other = rusqlite::Connection::open(dir.path().join("hub.db")).unwrap();
        other.execute("UPDATE members SET role = 'viewer' WHERE account = 1", []).unwrap();
        let seen = async {
            while standings.get(&store, &org, 1).await.unwrap().unwrap().role != Some(OrgRole::Viewer) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), seen).await.unwrap();
    }
}
