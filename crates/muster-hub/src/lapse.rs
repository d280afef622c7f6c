//! Ends at once what somebody does by a right that is gone: a live session, a run, a stream of records.
//!
//! The store tells which organizations' rights, which devices and which access tokens a commit touched ([`crate::store::touched`]).
//! What lives there is then looked at again with the rights as they are now; whatever nobody may do any more ends with a sentence that
//! says why. Only that a token's time runs out is told by no commit, and looked for.
//! So it does not matter who changed what, and by which request: leaving, a lower role, a team, an archive, a device that moved.
//!
//! It decides nothing itself: what is needed stands in `rights`, what is had in `standings`.

mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use muster_proto::api::{OrgRole, ProjectRole};
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use muster_proto::problem::{Code, Problem};
use rusqlite::Connection;
use tokio::sync::{Notify, broadcast};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::rights::{self, Action};
use crate::standings::Standings;
use crate::store::accounts::{self, Account};
use crate::store::tokens::{self, State as TokenState};
use crate::store::touched::{Observer, Touched};
use crate::store::{self, Store, projects};

pub use sessions::Sessions;

/// After a look that failed, the next one follows so much later.
const AGAIN: Duration = Duration::from_millis(200);
/// How often it is looked for access tokens whose time has run out: so much longer may a session last.
const RUN_OUT: Duration = Duration::from_secs(5);
/// Changes that a stream may fall behind by; one that falls behind further looks again all the same.
const BEHIND: usize = 256;

/// Something that somebody does to a device by a right in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the holder calls it: a session's or a run's id.
    pub id: String,
    /// Where.
    pub org: OrgId,
    /// In the name of which project.
    pub project: ProjectId,
    /// To which device.
    pub uid: DeviceUid,
    /// What the device was called when it began.
    pub device_name: String,
    /// Who: the account's e-mail.
    pub email: String,
    /// The access token that it was asked for with; `None` from before this was kept.
    pub token: Option<ByToken>,
    /// The right that it needs all the time.
    pub needs: Action,
}

/// How long something lives by its access token: its public name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByToken {
    /// Only while the token is good: a live session is access, and an access token's end is the end of access.
    WhileGood(String),
    /// Until the token is withdrawn: a run was ordered while the token was good, and has an end of its own.
    UntilWithdrawn(String),
}

impl ByToken {
    fn id(&self) -> &str {
        let (Self::WhileGood(id) | Self::UntilWithdrawn(id)) = self;
        id
    }
}

/// Whoever has living things of this kind: the relay has sessions. Runs have their own.
pub trait Holder: Send + Sync {
    /// What lives in an organization at this moment, or in all; `db` is a fresh snapshot to read from.
    ///
    /// # Errors
    /// When the database fails.
    fn held(&self, db: &Connection, org: Option<&OrgId>) -> store::Result<Vec<Held>>;

    /// Ends one of them, without waiting for its end. The problem's code is for programs, its detail for the person.
    fn end(&self, held: &Held, why: &Problem);
}

/// The watch over rights. Clones share it.
#[derive(Clone)]
pub struct Lapses(Arc<Inner>);

struct Inner {
    store: Store,
    standings: Standings,
    holders: RwLock<Vec<Arc<dyn Holder>>>,
    due: Arc<Due>,
}

impl fmt::Debug for Lapses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lapses")
    }
}

/// What has to be looked at. Held by the store's observer too, and so knows no store.
struct Due {
    what: Mutex<What>,
    wake: Notify,
    changes: broadcast::Sender<Option<OrgId>>,
}

#[derive(Debug, Default)]
struct What {
    everything: bool,
    /// Rights of the whole organization (`None`), or only these devices.
    orgs: BTreeMap<OrgId, Option<BTreeSet<DeviceUid>>>,
    /// Access tokens that have ended.
    tokens: BTreeSet<String>,
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, What> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Due {
    fn committed(&self, _: &Connection, touched: &Touched) -> store::Result<()> {
        {
            let mut what = self.lock();
            what.everything |= touched.everything;
            what.tokens.extend(touched.tokens.iter().cloned());
            for (org, in_org) in &touched.orgs {
                if in_org.rights {
                    what.orgs.insert(org.clone(), None);
                } else if !in_org.devices.is_empty()
                    && let Some(devices) = what.orgs.entry(org.clone()).or_insert_with(|| Some(BTreeSet::new()))
                {
                    devices.extend(in_org.devices.iter().cloned());
                }
            }
        }
        self.wake.notify_one();
        // Nobody may be listening.
        if touched.everything || !touched.tokens.is_empty() {
            let _ = self.changes.send(None);
        }
        for (org, _) in touched.orgs.iter().filter(|(_, in_org)| in_org.rights) {
            let _ = self.changes.send(Some(org.clone()));
        }
        Ok(())
    }
}

/// What is found of somebody and a device when it is looked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// The account may be used.
    account: bool,
    /// What became of the access token.
    token: TokenState,
    /// There is anything at all that the account has in the organization.
    belongs: bool,
    /// The role in the organization.
    org: Option<OrgRole>,
    /// The role in the project, and whether the project is archived.
    project: Option<(ProjectRole, bool)>,
    /// Whether the device is in the project; `None` if the organization has no such device.
    device: Option<bool>,
}

/// Why something may not go on, if it may not.
fn lapsed(held: &Held, found: &Found) -> Option<Problem> {
    let Held { org, project, email, device_name, .. } = held;
    let gone = |why: String| Some(Problem::new(Code::Forbidden, why));
    if !found.account {
        return gone(format!("the account {email} is no longer in use"));
    }
    match (&held.token, found.token) {
        (None, _) | (Some(_), TokenState::Good) | (Some(ByToken::UntilWithdrawn(_)), TokenState::RunOut) => {}
        (Some(token), TokenState::Withdrawn) => return gone(format!("the access token {} of {email} was withdrawn", token.id())),
        (Some(token), TokenState::RunOut) => {
            return Some(Problem::new(Code::Expired, format!("the access token {} of {email} has expired; log in again", token.id())));
        }
    }
    if !found.belongs {
        return gone(format!("{email} no longer belongs to {org}"));
    }
    let Some((role, archived)) = found.project else { return gone(format!("{email} no longer has a role in project {project}")) };
    if archived && rights::changes_project(held.needs) {
        return Some(Problem::new(Code::Archived, format!("project {project} was archived: it is read-only now")));
    }
    if !rights::allows(held.needs, found.org, Some(role)) {
        let least = held.needs.least().project.map_or("another role", ProjectRole::as_str);
        return gone(format!("{email} has only the role {} in project {project} now, and this needs {least}", role.as_str()));
    }
    match found.device {
        Some(true) => None,
        Some(false) => gone(format!("device {device_name} was taken out of project {project}")),
        None => gone(format!("device {device_name} is no longer on the list of {org}")),
    }
}

impl Lapses {
    /// A watch over what this store tells. [`Lapses::run`] does the work.
    pub fn of(store: &Store, standings: &Standings) -> Self {
        // Whatever lived when the hub went down is looked at first: it may have gone down in between.
        let what = Mutex::new(What { everything: true, ..What::default() });
        let due = Arc::new(Due { what, wake: Notify::new(), changes: broadcast::channel(BEHIND).0 });
        store.observe(Arc::<Due>::clone(&due));
        Self(Arc::new(Inner { store: store.clone(), standings: standings.clone(), holders: RwLock::default(), due }))
    }

    /// Looks after these things too, from now on.
    pub fn watch(&self, holder: Arc<dyn Holder>) {
        self.0.holders.write().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// For a stream that goes on for long: tells each time when rights in an organization may have changed.
    /// Listen first, then check the right: then no change is missed.
    pub fn changes(&self, org: &OrgId) -> Changes {
        Changes { org: org.clone(), told: self.0.due.changes.subscribe() }
    }

    /// Why something that has just begun may not go on, if a right has gone since it was checked.
    ///
    /// Whoever lets something begin asks this after it can be found by [`Holder::held`]: a change that commits before is seen here,
    /// one that commits later finds it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lapsed(&self, held: Held) -> store::Result<Option<Problem>> {
        let standings = self.0.standings.clone();
        self.0.store.read(move |db| Ok(lapsed(&held, &find(db, &standings, &held, &mut HashMap::new())?))).await
    }

    /// Runs until cancelled.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut ends = interval(RUN_OUT);
        ends.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let what = std::mem::take(&mut *self.0.due.lock());
            if !what.everything && what.orgs.is_empty() && what.tokens.is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.0.due.wake.notified() => {}
                    _ = ends.tick() => self.look_for_ends().await,
                }
                continue;
            }
            if let Err(error) = self.look(what).await {
                tracing::error!(%error, "what lives by which right could not be looked at; all of it is, in a moment");
                self.0.due.lock().everything = true;
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }

    /// A token's time runs out without a commit that tells of it.
    async fn look_for_ends(&self) {
        match self.0.store.read(|db| tokens::run_out(db, clock::now())).await {
            Ok(ended) => self.0.due.lock().tokens.extend(ended),
            Err(error) => tracing::error!(%error, "it could not be looked which access tokens have expired; it is tried again"),
        }
    }

    async fn look(&self, what: What) -> store::Result<()> {
        let holders = self.0.holders.read().unwrap_or_else(PoisonError::into_inner).clone();
        let standings = self.0.standings.clone();
        let (looking, of) = (holders.clone(), what);
        let ends = self.0.store.read(move |db| over(db, &standings, &looking, &of)).await?;
        for (holder, held, why) in ends {
            tracing::info!(id = held.id, org = %held.org, user = held.email, device = %held.uid, "a right is gone: {why}");
            holders[holder].end(&held, &why);
        }
        Ok(())
    }
}

/// What has to end, by the place of its holder.
fn over(db: &Connection, standings: &Standings, holders: &[Arc<dyn Holder>], what: &What) -> store::Result<Vec<(usize, Held, Problem)>> {
    let mut ends = Vec::new();
    let mut accounts = HashMap::new();
    for (n, holder) in holders.iter().enumerate() {
        let mut look = |org: Option<&OrgId>, concerned: &dyn Fn(&Held) -> bool| -> store::Result<()> {
            for held in holder.held(db, org)? {
                if !concerned(&held) {
                    continue;
                }
                if let Some(why) = lapsed(&held, &find(db, standings, &held, &mut accounts)?) {
                    ends.push((n, held, why));
                }
            }
            Ok(())
        };
        if what.everything {
            look(None, &|_| true)?;
            continue;
        }
        for (org, devices) in &what.orgs {
            look(Some(org), &|held| devices.as_ref().is_none_or(|devices| devices.contains(&held.uid)))?;
        }
        if !what.tokens.is_empty() {
            look(None, &|held| held.token.as_ref().is_some_and(|token| what.tokens.contains(token.id())))?;
        }
    }
    Ok(ends)
}

/// Reads what there is now. `accounts` keeps who was looked up before: the account, if it may be used.
fn find(db: &Connection, standings: &Standings, held: &Held, accounts: &mut HashMap<String, Option<i64>>) -> store::Result<Found> {
    let account = match accounts.get(&held.email) {
        Some(known) => *known,
        None => {
            let account = accounts::by_email(db, &held.email)?.filter(Account::is_open).map(|account| account.id);
            accounts.insert(held.email.clone(), account);
            account
        }
    };
    let standing = account.map(|account| standings.get_on(db, &held.org, account)).transpose()?.flatten();
    let project = standing.as_ref().and_then(|standing| standing.projects.get(&held.project));
    Ok(Found {
        account: account.is_some(),
        token: held.token.as_ref().map_or(Ok(TokenState::Good), |token| tokens::state(db, token.id(), clock::now()))?,
        belongs: standing.is_some(),
        org: standing.as_ref().and_then(|standing| standing.role),
        project: project.map(|project| (project.role, project.archived)),
        device: projects::has_device(db, &held.org, &held.project, &held.uid)?,
    })
}

/// Changes of rights in one organization.
#[derive(Debug)]
pub struct Changes {
    org: OrgId,
    told: broadcast::Receiver<Option<OrgId>>,
}

impl Changes {
    /// Returns when rights in the organization changed, or may have.
    pub async fn changed(&mut self) {
        loop {
            match self.told.recv().await {
                Ok(Some(org)) if org != self.org => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The hub goes down; its streams end with it.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(needs: Action) -> Held {
        Held {
            id: "s1".into(),
            org: "acme".parse().unwrap(),
            project: "lab".parse().unwrap(),
            uid: "daaaaaaaaaaaaaaa".parse().unwrap(),
            device_name: "robot-7".into(),
            email: "ben@acme.example".into(),
            token: Some(ByToken::WhileGood("t1".into())),
            needs,
        }
    }

    const ALL: Found = Found {
        account: true,
        token: TokenState::Good,
        belongs: true,
        org: Some(OrgRole::Member),
        project: Some((ProjectRole::Operate, false)),
        device: Some(true),
    };

    #[test]
    fn what_is_gone_is_said() {
        let cases = [
            (ALL, Action::Connect, ""),
            (ALL, Action::Operate, ""),
            (Found { org: None, ..ALL }, Action::Operate, ""),
            (Found { project: Some((ProjectRole::Connect, false)), ..ALL }, Action::Connect, ""),
            (Found { project: Some((ProjectRole::Connect, false)), ..ALL }, Action::Operate, "only the role connect in project lab now"),
            (Found { project: Some((ProjectRole::View, false)), ..ALL }, Action::Connect, "this needs connect"),
            (Found { project: Some((ProjectRole::Admin, true)), ..ALL }, Action::Connect, "project lab was archived"),
            // What only looks goes on in an archived project.
            (Found { project: Some((ProjectRole::View, true)), ..ALL }, Action::ViewDevice, ""),
            (Found { project: None, ..ALL }, Action::Connect, "no longer has a role in project lab"),
            (Found { belongs: false, org: None, project: None, ..ALL }, Action::Connect, "ben@acme.example no longer belongs to acme"),
            (Found { account: false, belongs: false, org: None, project: None, ..ALL }, Action::Connect, "no longer in use"),
            (Found { device: Some(false), ..ALL }, Action::Connect, "robot-7 was taken out of project lab"),
            (Found { device: None, ..ALL }, Action::Connect, "no longer on the list of acme"),
            // An owner of the organization has no right to connect but through a project, where he is admin.
            (Found { org: Some(OrgRole::Owner), project: Some((ProjectRole::Admin, false)), ..ALL }, Action::Connect, ""),
        ];
        for (found, needs, says) in cases {
            let why = lapsed(&held(needs), &found);
            assert_eq!(why.is_none(), says.is_empty(), "{found:?} {needs:?}: {why:?}");
            if let Some(why) = why {
                assert!(why.detail.contains(says), "{found:?} {needs:?}: {why:?}");
                assert_eq!(why.is(Code::Archived), says.contains("archived"), "{why:?}");
            }
        }
    }

    #[test]
    fn a_session_ends_with_its_token_and_a_run_only_with_one_that_was_withdrawn() {
        let by = |token: Option<ByToken>, state| {
            let held = Held { token, ..held(Action::Connect) };
            lapsed(&held, &Found { token: state, ..ALL }).map(|why| why.detail)
        };
        let (session, run) = (|| Some(ByToken::WhileGood("t1".into())), || Some(ByToken::UntilWithdrawn("t1".into())));
        for (token, state, says) in [
            (session(), TokenState::Good, ""),
            (session(), TokenState::RunOut, "the access token t1 of ben@acme.example has expired"),
            (session(), TokenState::Withdrawn, "the access token t1 of ben@acme.example was withdrawn"),
            (run(), TokenState::Good, ""),
            (run(), TokenState::RunOut, ""),
            (run(), TokenState::Withdrawn, "was withdrawn"),
            (None, TokenState::Withdrawn, ""),
        ] {
            let why = by(token.clone(), state);
            assert_eq!(why.is_none(), says.is_empty(), "{token:?} {state:?}: {why:?}");
            assert!(why.is_none_or(|why| why.contains(says)), "{token:?} {state:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_hears_of_its_own_organization_and_of_everything() {
        let due = Due { what: Mutex::default(), wake: Notify::new(), changes: broadcast::channel(BEHIND).0 };
        let mut changes = Changes { org: "acme".parse().unwrap(), told: due.changes.subscribe() };
        let db = Connection::open_in_memory().unwrap();
        let touched = |org: &str, rights: bool| {
            let in_org = store::touched::InOrg { rights, ..Default::default() };
            Touched { orgs: [(org.parse().unwrap(), in_org)].into(), ..Touched::default() }
        };
        let mut hears = async || tokio::time::timeout(Duration::from_millis(20), changes.changed()).await.is_ok();
        due.committed(&db, &touched("zeta", true)).unwrap();
        due.committed(&db, &touched("acme", false)).unwrap();
        assert!(!hears().await);
        due.committed(&db, &touched("acme", true)).unwrap();
        assert!(hears().await);
        due.committed(&db, &Touched { everything: true, ..Touched::default() }).unwrap();
        assert!(hears().await);
        for _ in 0..2 * BEHIND {
            due.committed(&db, &touched("zeta", true)).unwrap();
        }
        assert!(hears().await, "one that fell behind looks again");
        assert_eq!(due.lock().orgs.len(), 2);
    }
}
