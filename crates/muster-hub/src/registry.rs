//! The device list in memory: what filters and orders look at, so that a page of a long list costs no walk through the database.
//!
//! The store has the truth and tells what a commit touched before whoever wrote gets an answer ([`Observer`]); what devices say all
//! day is read from [`Live`] at the moment of the question. Whoever looks takes a copy of the list's pointers: nobody waits for a
//! page, and a page never sees half a change. It knows no HTTP and no roles: who sees what comes in as an argument.

mod entry;
mod page;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::api::Field;
use muster_proto::id::{DeviceUid, OrgId};
use rusqlite::Connection;

pub use entry::Entry;
use entry::Texts;
pub use page::{Found, Listing, Place, Viewer};

use crate::store::touched::{Observer, Touched};
use crate::store::{self, Store, devices, fields};

/// All lists of the hub. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    orgs: HashMap<OrgId, List>,
    texts: Texts,
}

/// One organization's list, as it was at one moment. A clone is two pointers.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// The custom fields, with their numbers.
    pub fields: Arc<Vec<(i64, Field)>>,
    /// The devices, by uid.
    pub rows: Arc<Vec<Arc<Entry>>>,
}

impl Registry {
    /// Loads everything, and follows every commit from then on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: &Store) -> store::Result<Self> {
        let registry = Self::default();
        store.observe(Arc::new(registry.clone()));
        // On the writer's thread: nothing is committed between the reading and the following.
        let loading = registry.clone();
        store.write(move |tx| loading.load(tx)).await?;
        Ok(registry)
    }

    /// An organization's list now.
    pub fn list(&self, org: &OrgId) -> List {
        self.0.read().unwrap_or_else(PoisonError::into_inner).orgs.get(org).cloned().unwrap_or_default()
    }

    fn load(&self, db: &Connection) -> store::Result<()> {
        let orgs: Vec<String> =
            db.prepare_cached("SELECT id FROM orgs")?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut inner = Inner::default();
        for org in orgs {
            let org: OrgId = org.parse()?;
            let mut rows = Vec::new();
            devices::each(db, &org, |row| {
                rows.push(Arc::new(Entry::of(row, &mut inner.texts)));
                Ok(())
            })?;
            let fields = Arc::new(fields::list(db, &org)?);
            inner.orgs.insert(org, List { fields, rows: Arc::new(rows) });
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = inner;
        Ok(())
    }

    fn follow(&self, db: &Connection, org: &OrgId, touched: &BTreeSet<DeviceUid>, defined: bool) -> store::Result<()> {
        let defined = if defined { Some(Arc::new(fields::list(db, org)?)) } else { None };
        let mut read = Vec::with_capacity(touched.len());
        for uid in touched {
            // A uid is never used again, and never changes its organization.
            read.push((uid, devices::by_uid(db, uid)?));
        }
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        let list = inner.orgs.entry(org.clone()).or_default();
        if let Some(defined) = defined {
            list.fields = defined;
        }
        if read.is_empty() {
            return Ok(());
        }
        // In place, unless somebody looks at it just now.
        let rows = Arc::make_mut(&mut list.rows);
        let (mut gone, mut new) = (BTreeSet::new(), Vec::new());
        for (uid, row) in read {
            let at = rows.binary_search_by(|entry| entry.uid.cmp(uid));
            match (at, row) {
                (Ok(at), Some(row)) => rows[at] = Arc::new(Entry::of(row, &mut inner.texts)),
                (Err(_), Some(row)) => new.push(Arc::new(Entry::of(row, &mut inner.texts))),
                (Ok(_), None) => drop(gone.insert(uid)),
                (Err(_), None) => {}
            }
        }
        if !gone.is_empty() {
            rows.retain(|entry| !gone.contains(&entry.uid));
        }
        if !new.is_empty() {
            rows.extend(new);
            rows.sort_by(|a, b| a.uid.cmp(&b.uid));
        }
        inner.texts.tidy();
        Ok(())
    }
}

impl Observer for Registry {
    fn committed(&self, db: &Connection, touched: &Touched) -> store::Result<()> {
        if touched.everything {
            return self.load(db);
        }
        for (org, what) in touched.orgs.iter().filter(|(_, what)| what.fields || !what.devices.is_empty()) {
            self.follow(db, org, &what.devices, what.fields)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
