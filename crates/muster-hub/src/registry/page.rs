//! A page of the list: which rows pass, in which order, from which place on.
//!
//! A page begins behind the last row of the one before, by that row's keys and uid: rows that come and go meanwhile neither
//! repeat nor hide others. An order by something live, such as `-cpu`, is that of the moment; a device may move over the place.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use muster_proto::api::{Admission, Field, OrgRole, PresenceState, ProjectRole};
use muster_proto::id::{DeviceUid, ProjectId};
use serde::{Deserialize, Serialize};

use super::List;
use super::entry::Entry;
use crate::ingest::{Live, Look, Seen};
use crate::query::order::Kept;
use crate::query::{Column, Key, Plan, Row, SortBy, Value};
use crate::rights::{self, Action};
use crate::standings::Standing;

/// Rows looked at before devices may speak again.
const AT_ONCE: usize = 256;

/// Who looks, and what is known besides the list.
#[derive(Debug)]
pub struct Viewer<'a> {
    /// What the person has in the organization.
    pub standing: &'a Standing,
    /// What devices say.
    pub live: &'a Live,
    /// Sessions by device.
    pub sessions: HashMap<DeviceUid, usize>,
}

/// The last row of a page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    #[serde(rename = "k")]
    keys: Vec<Kept>,
    #[serde(rename = "u")]
    uid: DeviceUid,
}

/// What to list.
#[derive(Debug)]
pub struct Listing<'a> {
    /// Which devices.
    pub plan: &'a Plan,
    /// In which order.
    pub order: &'a [SortBy],
    /// From behind which place on.
    pub after: Option<&'a Place>,
    /// How many at most.
    pub limit: usize,
}

/// A page.
#[derive(Debug)]
pub struct Found {
    /// The devices, in order.
    pub uids: Vec<DeviceUid>,
    /// How many there are on all pages.
    pub total: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<Place>,
}

impl List {
    /// One page.
    pub fn page(&self, viewer: &Viewer<'_>, listing: &Listing<'_>) -> Found {
        let (order, limit) = (listing.order, listing.limit.max(1));
        // The keys of candidates in one piece, and the candidates as their places in it. Whenever there are twice as many as wanted,
        // the better half stays, and its worst is what the others have to beat: most rows are compared once.
        let (mut keys, mut found, mut total) = (Vec::<Key<'_>>::new(), Vec::<(u32, &Entry)>::new(), 0);
        let (mut worst, enough) = (None::<(u32, &Entry)>, limit.saturating_mul(2).max(128));
        let after: Option<(Vec<Key<'_>>, &DeviceUid)> = listing
            .after
            .filter(|after| after.keys.len() == order.len())
            .map(|after| (after.keys.iter().map(Kept::key).collect(), &after.uid));
        self.each(viewer, listing.plan, |row| {
            total += 1;
            let begin = keys.len();
            let mut against = if worst.is_some() { Ordering::Equal } else { Ordering::Less };
            for (n, by) in order.iter().enumerate() {
                let key = by.key(row);
                if let Some((at, _)) = worst.filter(|_| against == Ordering::Equal) {
                    against = by.compare(&key, &keys[at as usize + n]);
                }
                if against == Ordering::Greater {
                    keys.truncate(begin);
                    return;
                }
                keys.push(key);
            }
            let beaten = against == Ordering::Equal && worst.is_some_and(|(_, worst)| row.entry.uid > worst.uid);
            let behind =
                after.as_ref().is_none_or(|(place, uid)| compare(order, &keys[begin..], &row.entry.uid, place, uid) == Ordering::Greater);
            if beaten || !behind {
                keys.truncate(begin);
                return;
            }
            found.push((u32::try_from(begin).unwrap_or(u32::MAX), row.entry));
            if found.len() >= enough {
                found.select_nth_unstable_by(limit - 1, |a, b| by_order(order, &keys, a, b));
                found.truncate(limit);
                worst = found.last().copied();
            }
        });
        let more = worst.is_some() || found.len() > limit;
        found.sort_unstable_by(|a, b| by_order(order, &keys, a, b));
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(begin, entry)| Place {
            keys: keys[*begin as usize..].iter().take(order.len()).map(Key::keep).collect(),
            uid: entry.uid.clone(),
        });
        Found { uids: found.into_iter().map(|(_, entry)| entry.uid.clone()).collect(), total, next }
    }

    /// The list as somebody may know it: a collaborator knows of those custom fields and choices that the own devices have.
    #[must_use]
    pub fn known_to(&self, standing: &Standing) -> Self {
        if rights::allows(Action::SeeMembers, standing.role, None) {
            return self.clone();
        }
        // Each field, whether a device has a value for it, and the choices that none was seen to have so far.
        let mut known: Vec<(i64, &Field, bool, Vec<&String>)> =
            self.fields.iter().map(|(id, field)| (*id, field, false, field.choices.iter().collect())).collect();
        let roles = Roles::of(standing);
        for entry in self.rows.iter().filter(|entry| roles.may(Action::SeeDevices, entry)) {
            let mut open = false;
            for (id, _, seen, choices) in known.iter_mut().filter(|(_, _, seen, choices)| !seen || !choices.is_empty()) {
                if let Some((_, cell)) = entry.values.iter().find(|(field, _)| field == id) {
                    *seen = true;
                    if let Value::Text(text) = cell.value() {
                        choices.retain(|choice| *choice != text);
                    }
                }
                open |= !*seen || !choices.is_empty();
            }
            if !open {
                break;
            }
        }
        let fields = known.into_iter().filter(|(_, _, seen, _)| *seen).map(|(id, field, _, unseen)| {
            let mut field = field.clone();
            field.choices.retain(|choice| !unseen.contains(&choice));
            (id, field)
        });
        let fields: Vec<(i64, Field)> = fields.collect();
        Self { fields: Arc::new(fields), rows: Arc::clone(&self.rows) }
    }

    /// How many devices each project has, and how many of these are online.
    pub fn by_project(&self, live: &Live) -> HashMap<&str, (u32, u32)> {
        let mut counts: HashMap<&str, (u32, u32)> = HashMap::new();
        for rows in self.rows.chunks(AT_ONCE) {
            let look = live.look();
            for entry in rows {
                let online = look.of(&entry.uid).is_some_and(|live| live.presence() == PresenceState::Online);
                for project in &entry.projects {
                    let (devices, there) = counts.entry(project).or_default();
                    (*devices, *there) = (*devices + 1, *there + u32::from(online));
                }
            }
        }
        counts
    }

    /// How many devices one project has, and how many of these are online.
    pub fn of_project(&self, live: &Live, project: &ProjectId) -> (u32, u32) {
        let (mut devices, mut online) = (0, 0);
        for entry in self.rows.iter().filter(|entry| entry.projects.iter().any(|of| **of == *project.as_str())) {
            (devices, online) = (devices + 1, online + u32::from(live.is_online(&entry.uid)));
        }
        (devices, online)
    }

    /// All that pass, in the order of their uids.
    pub fn matching(&self, viewer: &Viewer<'_>, plan: &Plan) -> Vec<DeviceUid> {
        let mut uids = Vec::new();
        self.each(viewer, plan, |row| uids.push(row.entry.uid.clone()));
        uids
    }

    /// Gives the values of columns for some devices, one after the other. One that is not listed any more is passed over.
    pub fn rows_of(&self, viewer: &Viewer<'_>, uids: &[DeviceUid], columns: &[&Column], mut take: impl FnMut(&[Value<'_>])) {
        let roles = Roles::of(viewer.standing);
        for uids in uids.chunks(AT_ONCE) {
            let look = viewer.live.look();
            for uid in uids {
                let Ok(at) = self.rows.binary_search_by(|entry| entry.uid.cmp(uid)) else { continue };
                let entry = &*self.rows[at];
                let row = Shown::of(entry, self, viewer, &roles, &look);
                let values: Vec<Value<'_>> = columns.iter().map(|column| row.value(column)).collect();
                take(&values);
            }
        }
    }

    fn each<'a>(&'a self, viewer: &Viewer<'a>, plan: &Plan, mut take: impl FnMut(&Shown<'a, '_>)) {
        let roles = Roles::of(viewer.standing);
        let all = rights::allows(Action::SeeDevices, viewer.standing.role, None);
        for rows in self.rows.chunks(AT_ONCE) {
            let look = viewer.live.look();
            for entry in rows {
                if !all && !roles.may(Action::SeeDevices, entry) {
                    continue;
                }
                let row = Shown::of(entry, self, viewer, &roles, &look);
                if plan.passes(&row) {
                    take(&row);
                }
            }
        }
    }
}

/// Compares candidates, each the place of its keys and its entry.
fn by_order(order: &[SortBy], keys: &[Key<'_>], a: &(u32, &Entry), b: &(u32, &Entry)) -> Ordering {
    compare(order, &keys[a.0 as usize..], &a.1.uid, &keys[b.0 as usize..], &b.1.uid)
}

/// Compares by the order's columns, then by the uid.
fn compare(order: &[SortBy], a: &[Key<'_>], a_uid: &DeviceUid, b: &[Key<'_>], b_uid: &DeviceUid) -> Ordering {
    let keys = order.iter().zip(a.iter().zip(b));
    keys.map(|(by, (a, b))| by.compare(a, b)).find(|found| found.is_ne()).unwrap_or_else(|| a_uid.cmp(b_uid))
}

/// What somebody has, made ready to be asked for thousands of rows.
struct Roles<'a> {
    org: Option<OrgRole>,
    projects: HashMap<&'a str, ProjectRole>,
}

impl<'a> Roles<'a> {
    fn of(standing: &'a Standing) -> Self {
        Self { org: standing.role, projects: standing.projects.iter().map(|(id, project)| (id.as_str(), project.role)).collect() }
    }

    /// Whether it is enough for a device, by the organization or by a project that it is in.
    fn may(&self, action: Action, entry: &Entry) -> bool {
        rights::allows(action, self.org, None)
            || entry.projects.iter().any(|project| {
                let role = self.projects.get(&**project).copied();
                role.is_some() && rights::allows(action, self.org, role)
            })
    }
}

/// A row as somebody sees it now.
struct Shown<'a, 'l> {
    entry: &'a Entry,
    list: &'a List,
    roles: &'l Roles<'a>,
    look: &'l Look<'l>,
    /// What it says now; looked up where a column asks.
    live: OnceCell<Option<Seen<'l>>>,
    sessions: &'l HashMap<DeviceUid, usize>,
    /// Whether the person may view the device; looked at where a column asks.
    views: OnceCell<bool>,
}

impl<'a, 'l> Shown<'a, 'l> {
    fn of(entry: &'a Entry, list: &'a List, viewer: &'l Viewer<'a>, roles: &'l Roles<'a>, look: &'l Look<'l>) -> Self {
        let (live, views) = (OnceCell::new(), OnceCell::new());
        Self { entry, list, roles, look, live, sessions: &viewer.sessions, views }
    }

    fn live(&self) -> Option<Seen<'l>> {
        *self.live.get_or_init(|| self.look.of(&self.entry.uid))
    }

    /// Nothing that the person may not see, and no trace of it in a filter or an order.
    fn hides(&self, column: &Column) -> bool {
        column.is_detail() && !*self.views.get_or_init(|| self.roles.may(Action::ViewDevice, self.entry))
    }
}

impl<'a> Row<'a> for Shown<'a, '_> {
    fn value(&self, column: &Column) -> Value<'a> {
        if self.hides(column) {
            return Value::Absent;
        }
        let entry = self.entry;
        let text = |text: Option<&'a str>| text.map_or(Value::Absent, Value::Text);
        let time = |time: Option<i64>| time.map_or(Value::Absent, Value::Time);
        let number = |number: Option<f64>| number.map_or(Value::Absent, Value::Number);
        let presence = || self.live().map_or(PresenceState::Never, |live| live.presence());
        match column {
            Column::Name => Value::Text(&entry.name),
            Column::Id => Value::Text(&entry.serial),
            Column::Uid => Value::Text(entry.uid.as_str()),
            Column::Admission => Value::Text(match entry.admission {
                Admission::Pending => "pending",
                Admission::Admitted => "admitted",
                Admission::Rejected => "rejected",
                Admission::Revoked => "revoked",
            }),
            Column::Presence => Value::Text(match presence() {
                PresenceState::Online => "online",
                PresenceState::Offline => "offline",
                PresenceState::Never => "never",
            }),
            Column::Online => Value::Bool(presence() == PresenceState::Online),
            Column::Manual => Value::Bool(entry.by_hand),
            Column::Project => {
                // An owner is in all of them.
                let all = self.roles.org == Some(OrgRole::Owner);
                let seen = entry.projects.iter().filter(|project| all || self.roles.projects.contains_key(&***project));
                Value::List(seen.map(|project| &**project).collect())
            }
            Column::Label => Value::List(entry.labels.iter().map(|label| &**label).collect()),
            Column::Code => text(entry.code.as_deref()),
            Column::Replacement => Value::Bool(entry.replacement),
            // What the organization wants of its devices is no collaborator's business.
            Column::Missing if !rights::allows(Action::SeeMembers, self.roles.org, None) => Value::List(Vec::new()),
            Column::Missing => {
                let missing =
                    self.list.fields.iter().filter(|(id, field)| field.required && !entry.values.iter().any(|(has, _)| has == id));
                Value::List(missing.map(|(_, field)| field.key.as_str()).collect())
            }
            Column::Agent => text(entry.agent.as_deref()),
            Column::Created => Value::Time(entry.created_at),
            Column::Admitted => time(entry.admitted_at),
            Column::Certificate => time(entry.certificate_expires_at),
            Column::LastSeen => time(self.live().map(|live| live.last_seen())),
            Column::Since => time(self.live().and_then(|live| live.since())),
            #[allow(clippy::cast_precision_loss, reason = "counts of sessions and samples are small")]
            Column::Sessions => Value::Number(self.sessions.get(&entry.uid).copied().unwrap_or(0) as f64),
            #[allow(clippy::cast_precision_loss, reason = "counts of sessions and samples are small")]
            Column::Spooled => number(self.live().map(|live| live.spooled() as f64)),
            Column::Mem => number(self.live().and_then(|live| share(live.value("mem")?, live.value("mem_total")?))),
            Column::Disk => number(self.live().and_then(fullest)),
            Column::Temp => number(self.live().and_then(|live| live.values("temp:").map(|(_, value)| value).max_by(f64::total_cmp))),
            Column::Usage(name) => number(self.live().and_then(|live| live.value(name))),
            Column::Field(id) => entry.values.iter().find(|(field, _)| field == id).map_or(Value::Absent, |(_, cell)| cell.value()),
            Column::Fact(name) => entry.facts.iter().find(|(fact, _)| **fact == **name).map_or(Value::Absent, |(_, cell)| cell.value()),
        }
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// How full the fullest mount is.
fn fullest(live: Seen<'_>) -> Option<f64> {
    let mounts = live.values("disk:").filter_map(|(mount, used)| share(used, live.value(&format!("disk_total:{mount}"))?));
    mounts.max_by(f64::total_cmp)
}
