//! What people have in organizations, in memory: a warm permission check asks no database.
//!
//! What is per organization is shared; an account holds its roles alone. The store tells what a commit touched, before whoever
//! wrote gets an answer: an organization whose rights changed is forgotten whole and read again at the next question.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_proto::Millis;
use muster_proto::api::{OrgRole, ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::{Connection, Transaction};

use crate::rights;
use crate::store::touched::{Observer, Touched};
use crate::store::{self, Store, orgs};

/// Most accounts held over all organizations. When more are asked for, all are forgotten: they are cheap to read again.
const HELD_MAX: usize = 20_000;

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

/// The cache. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Standings(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    orgs: HashMap<OrgId, InOrg>,
    accounts: usize,
    /// Grows with every change: what was read before one is not kept after it.
    changes: u64,
}

#[derive(Debug, Default)]
struct InOrg {
    projects: HashMap<ProjectId, Arc<ProjectAbout>>,
    accounts: HashMap<i64, Arc<Standing>>,
}

impl Standings {
    /// A cache of this store.
    pub fn of(store: &Store) -> Self {
        let standings = Self::default();
        store.observe(Arc::new(standings.clone()));
        standings
    }

    /// What an account has in an organization; `None` if that is nothing, or there is no such organization.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, store: &Store, org: &OrgId, account: i64) -> store::Result<Option<Arc<Standing>>> {
        if let Some(held) = self.held(org, account) {
            return Ok(Some(held));
        }
        let (this, org) = (self.clone(), org.clone());
        // The snapshot is younger than this count: a change that it does not show has counted on before the answer is kept.
        let changes = self.lock().changes;
        store.read(move |db| this.load(db, &org, account, changes)).await
    }

    /// [`Standings::get`] where a connection is at hand, on a thread that may block, outside of a write.
    ///
    /// # Errors
    /// When the database fails.
    pub fn get_on(&self, db: &Connection, org: &OrgId, account: i64) -> store::Result<Option<Arc<Standing>>> {
        match self.held(org, account) {
            Some(held) => Ok(Some(held)),
            // The connection's snapshot may be older than the last change: it is not kept.
            None => Ok(read(db, org, account, &HashMap::new())?.map(Arc::new)),
        }
    }

    /// What somebody has as a transaction sees it; nothing of it is kept, as it may never be committed.
    ///
    /// # Errors
    /// When the database fails.
    pub fn inside(tx: &Transaction<'_>, org: &OrgId, account: i64) -> store::Result<Option<Standing>> {
        read(tx, org, account, &HashMap::new())
    }

    fn held(&self, org: &OrgId, account: i64) -> Option<Arc<Standing>> {
        self.lock().orgs.get(org)?.accounts.get(&account).cloned()
    }

    fn load(&self, db: &Connection, org: &OrgId, account: i64, changes: u64) -> store::Result<Option<Arc<Standing>>> {
        let known = self.lock().orgs.get(org).map(|held| held.projects.clone()).unwrap_or_default();
        let Some(standing) = read(db, org, account, &known)?.map(Arc::new) else { return Ok(None) };
        let mut held = self.lock();
        if held.changes == changes {
            if held.accounts >= HELD_MAX {
                held.orgs.clear();
                held.accounts = 0;
            }
            let entry = held.orgs.entry(org.clone()).or_default();
            for project in &standing.projects.0 {
                entry.projects.entry(project.id.clone()).or_insert_with(|| Arc::clone(&project.about));
            }
            if entry.accounts.insert(account, Arc::clone(&standing)).is_none() {
                held.accounts += 1;
            }
        }
        Ok(Some(standing))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(db: &Connection, org: &OrgId, account: i64, known: &HashMap<ProjectId, Arc<ProjectAbout>>) -> store::Result<Option<Standing>> {
    let Some(standing) = orgs::standing(db, org, account)? else { return Ok(None) };
    let mut projects: Vec<ProjectAccess> = standing
        .projects
        .into_iter()
        .filter_map(|project| {
            let role = rights::project_role(standing.role, project.visibility, project.participant)?;
            let (id, name, visibility) = (project.id, project.name, project.visibility);
            let about = ProjectAbout { id, name, visibility, archived: project.archived, created_at: project.created_at };
            let shared = known.get(&about.id).filter(|shared| ***shared == about).cloned();
            Some(ProjectAccess { about: shared.unwrap_or_else(|| Arc::new(about)), role })
        })
        .collect();
    projects.sort_by(|a, b| a.id.cmp(&b.id));
    if standing.role.is_none() && projects.is_empty() {
        return Ok(None);
    }
    Ok(Some(Standing {
        name: standing.name,
        created_at: standing.created_at,
        role: standing.role,
        projects: Projects(projects.into_boxed_slice()),
    }))
}

impl Observer for Standings {
    fn committed(&self, _db: &Connection, touched: &Touched) -> store::Result<()> {
        let mut held = self.lock();
        if touched.everything {
            held.orgs.clear();
            (held.accounts, held.changes) = (0, held.changes + 1);
        }
        for (org, _) in touched.orgs.iter().filter(|(_, what)| what.rights) {
            let gone = held.orgs.remove(org).map_or(0, |gone| gone.accounts.len());
            held.accounts -= gone;
            held.changes += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::problem::Code;

    use super::*;
    use crate::store::accounts;

    async fn acme() -> (tempfile::TempDir, Store, Standings, OrgId) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let standings = Standings::of(&store);
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
