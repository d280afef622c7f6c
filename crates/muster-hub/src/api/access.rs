//! What a person has in the organization that a path names: roles, projects, and the devices that they show.
//!
//! An organization, project or device that somebody may not know of is answered like one that is not there.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use muster_proto::api::{OrgRole, ProjectRole};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use rusqlite::Transaction;
use serde_json::Value;

use super::{ApiError, ApiResult, Trail};
use crate::audit::Entry;
use crate::auth::Person;
use crate::rights::{self, Action};
use crate::standings::{ProjectAccess, Standing, Standings};
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};
use crate::store::{self, orgs, proviso};

/// A person in an organization: an extractor for paths with `{org}`. Role and projects are those of its [`Standing`].
#[derive(Debug, Clone)]
pub struct OrgAccess {
    /// Who.
    pub person: Person,
    /// Where.
    pub org: OrgId,
    /// What the person has there.
    pub standing: Arc<Standing>,
}

impl Deref for OrgAccess {
    type Target = Standing;

    fn deref(&self) -> &Standing {
        &self.standing
    }
}

/// A project that a device is in, and the person's role there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectOn {
    /// Which.
    pub project: ProjectId,
    /// The role.
    pub role: ProjectRole,
    /// Whether it is read-only.
    pub archived: bool,
}

impl FromRequestParts<AppState> for OrgAccess {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let person = Person::from_request_parts(parts, state).await?;
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::new(Code::NotFound, "there is nothing of this name: the path is not UTF-8"))?;
        let text = params.iter().find(|(name, _)| *name == "org").map(|(_, value)| value.to_owned()).unwrap_or_default();
        let access = Self::load(state, person, &text).await?;
        if let Some(trail) = parts.extensions.get::<Trail>() {
            trail.set_org(&access.org);
        }
        // For the body, which comes later.
        parts.extensions.insert(access.clone());
        let about = params.iter().find(|(name, _)| *name == "project").and_then(|(_, text)| access.project(text).ok());
        if let Some((project, _)) = about.filter(|(_, project)| !project.archived) {
            let org = access.org.clone();
            proviso::add(move |tx| match orgs::project_is_open(tx, &org, &project)? {
                true => Ok(()),
                false => Err(store::problem(Code::Archived, format!("project {project} was archived just now; nothing was changed"))),
            });
        }
        Ok(access)
    }
}

impl OrgAccess {
    /// Reads what a person has in an organization.
    ///
    /// # Errors
    /// `not_found` when there is no such organization or the person has nothing there.
    pub async fn load(state: &AppState, person: Person, text: &str) -> ApiResult<Self> {
        let missing = || ApiError::not_found("organization", text);
        let org: OrgId = text.parse().map_err(|_| missing())?;
        // Said of any other id, whether there is such an organization or not.
        if let Some(only) = person.only_org.as_ref().filter(|only| **only != org) {
            return Err(ApiError::new(Code::Forbidden, format!("this token is limited to the organization {only}")));
        }
        let mut standing = state.standings.get(&state.store, &org, person.account).await?.ok_or_else(missing)?;
        if let Some(only) = &person.only_project {
            // What the account has in the project, and no role in the organization: as a collaborator.
            standing = standing.in_project(only).map(Arc::new).ok_or_else(missing)?;
        }
        let access = Self { person, org, standing };
        let then = access.clone();
        proviso::add(move |tx| then.unchanged(tx));
        Ok(access)
    }

    /// The same person in the same organization, as a transaction sees them.
    ///
    /// # Errors
    /// `not_found` when nothing is left to them there.
    pub(super) fn inside(&self, tx: &Transaction<'_>) -> store::Result<Self> {
        let standing = Standings::inside(tx, &self.org, self.person.account)?;
        let standing = match &self.person.only_project {
            Some(only) => standing.and_then(|standing| standing.in_project(only)),
            None => standing,
        };
        let gone = || store::problem(Code::NotFound, format!("there is no organization {} for you any more", self.org));
        Ok(Self { standing: Arc::new(standing.ok_or_else(gone)?), ..self.clone() })
    }

    /// Whether a transaction sees the person with all the roles of before.
    fn unchanged(&self, tx: &Transaction<'_>) -> store::Result<()> {
        if self.inside(tx)?.standing.keeps(&self.standing) {
            return Ok(());
        }
        let why = format!("your rights in {} were revoked just now; nothing was changed", self.org);
        Err(store::problem(Code::Forbidden, why))
    }

    /// An audit entry of this person in this organization.
    pub fn entry(&self, action: &'static str, target: impl Into<String>) -> Entry {
        Entry {
            org: Some(self.org.clone()),
            actor: self.person.email.clone(),
            action,
            target: target.into(),
            from: self.person.from,
            details: Value::Null,
        }
    }

    /// Lets only those go on who may do it in the organization as a whole.
    ///
    /// # Errors
    /// `forbidden`, with the role that is needed.
    pub fn require(&self, action: Action) -> ApiResult<()> {
        if self.covers(action) && rights::allows(action, self.role, None) { Ok(()) } else { Err(self.forbidden(action)) }
    }

    /// Lets only those tokens go on whose scope covers it, for what needs no role: one's own sessions.
    ///
    /// # Errors
    /// `forbidden`, with the scope that the token has.
    pub fn require_scope(&self, action: Action) -> ApiResult<()> {
        if self.covers(action) { Ok(()) } else { Err(self.forbidden(action)) }
    }

    /// A project that the person has a role in.
    ///
    /// # Errors
    /// `not_found`, also for a project that the person may not know of.
    pub fn project(&self, text: &str) -> ApiResult<(ProjectId, &ProjectAccess)> {
        let found = text.parse::<ProjectId>().ok().and_then(|id| self.projects.get(&id));
        found.map(|access| (access.id.clone(), access)).ok_or_else(|| ApiError::not_found("project", text))
    }

    /// Lets only those go on who may do it in a project. An archived project is read-only.
    ///
    /// # Errors
    /// `not_found`, `forbidden` or `archived`.
    pub fn require_in(&self, action: Action, text: &str) -> ApiResult<ProjectId> {
        let id = self.require_in_any(action, text)?;
        let (_, project) = self.project(text)?;
        if project.archived && rights::changes_project(action) {
            return Err(ApiError::new(Code::Archived, format!("project {id} is archived: it is read-only")));
        }
        Ok(id)
    }

    /// The same in an archived project too: for what only takes away, such as a door that would open again with the project.
    ///
    /// # Errors
    /// `not_found` or `forbidden`.
    pub fn require_in_any(&self, action: Action, text: &str) -> ApiResult<ProjectId> {
        let (id, project) = self.project(text)?;
        if !self.covers(action) || !rights::allows(action, self.role, Some(project.role)) {
            return Err(self.forbidden(action));
        }
        Ok(id)
    }

    /// The own role in a project, if it is not below the one that is given or taken: nobody gives away more than they have.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn own_at_least(&self, project: &ProjectId, role: ProjectRole) -> ApiResult<ProjectRole> {
        let own = self.projects.get(project).map(|project| project.role);
        own.filter(|own| *own >= role).ok_or_else(|| {
            let have = own.map_or("nothing", ProjectRole::as_str);
            ApiError::new(Code::Forbidden, format!("your own role in {project} is {have}, so you can't give {}", role.as_str()))
        })
    }

    /// The projects that a device is in and the person has a role in, the highest role first.
    pub fn project_roles(&self, device: &DeviceRow) -> Vec<ProjectOn> {
        let mut roles: Vec<ProjectOn> = device
            .projects
            .iter()
            .filter_map(|id| {
                let project = self.projects.get(id)?;
                Some(ProjectOn { project: id.clone(), role: project.role, archived: project.archived })
            })
            .collect();
        roles.sort_by(|a, b| b.role.cmp(&a.role).then_with(|| a.project.cmp(&b.project)));
        roles
    }

    /// Whether the person sees a device at all.
    pub fn sees(&self, device: &DeviceRow) -> bool {
        self.allows_on(Action::SeeDevices, device)
    }

    /// Whether the person may do it to a device, in the organization or in a project that it is in.
    pub fn allows_on(&self, action: Action, device: &DeviceRow) -> bool {
        self.allows_among(action, &device.projects)
    }

    /// Whether the person may do it to a device that is in these projects.
    pub fn allows_among(&self, action: Action, projects: &BTreeSet<ProjectId>) -> bool {
        let known = projects.iter().filter_map(|project| self.projects.get(project));
        let open = known.filter(|project| !(project.archived && rights::changes_project(action)));
        self.covers(action) && rights::allows(action, self.role, open.map(|project| project.role).max())
    }

    /// Lets only those go on who may do it to a device.
    ///
    /// # Errors
    /// `forbidden`, with the role that is needed; `archived`.
    pub fn require_on(&self, action: Action, device: &DeviceRow) -> ApiResult<()> {
        if self.allows_on(action, device) {
            return Ok(());
        }
        // Nobody may, whatever their role: what helps is something else then.
        if action.least().org.is_none() && device.projects.is_empty() && self.covers(action) {
            let why = format!(
                "{0} is in no project, so nobody can connect to it yet. Add it to one: muster device edit {0} --add-project PROJECT",
                device.name
            );
            return Err(ApiError::new(Code::Forbidden, why));
        }
        // Where only the archive stands in the way, that is what is said.
        let best = self.project_roles(device).into_iter().filter(|project| project.archived).max_by_key(|project| project.role);
        match best {
            Some(best) if self.covers(action) && rights::allows(action, self.role, Some(best.role)) => {
                Err(ApiError::new(Code::Archived, format!("project {} is archived: it is read-only", best.project)))
            }
            _ => Err(self.forbidden(action)),
        }
    }

    /// The device that a text names: a uid, a serial number, a name or a pairing code.
    ///
    /// # Errors
    /// `not_found`, also for a device that the person may not know of; `conflict` when several bear the name.
    pub async fn device(&self, state: &AppState, text: &str) -> ApiResult<DeviceRow> {
        let (org, name) = (self.org.clone(), text.to_owned());
        let mut found = state.store.read(move |db| devices::named(db, &org, &name)).await?;
        found.retain(|device| self.sees(device));
        if found.len() > 1 {
            let list: Vec<String> = found.iter().map(|device| format!("{} (id {})", device.uid, device.serial)).collect();
            let why = format!("{} devices are called {text:?}: {}; name one by its id or uid", found.len(), list.join(", "));
            return Err(ApiError::new(Code::Conflict, why));
        }
        found.pop().ok_or_else(|| ApiError::not_found("device", text))
    }

    /// Whether the token's scope covers it: the one place where scopes are asked.
    fn covers(&self, action: Action) -> bool {
        rights::covers(self.person.scope, action)
    }

    fn forbidden(&self, action: Action) -> ApiError {
        if !self.covers(action) {
            let why = format!("You can't {} with this token: its scope is {}.", action.deed(), self.person.scope.as_str());
            return ApiError::new(Code::Forbidden, why);
        }
        let least = action.least();
        let mut needed = Vec::new();
        if let Some(role) = least.org {
            needed.push(format!("the {} role in {}", role.as_str(), self.org));
        }
        if let Some(role) = least.project {
            needed.push(format!("the {} role in one of its projects", role.as_str()));
        }
        let have = match self.role {
            None => "a collaborator",
            Some(OrgRole::Owner) => "an owner",
            Some(OrgRole::Member) => "a member",
            Some(OrgRole::Viewer) => "a viewer",
        };
        let why = format!("You can't {}: that takes {}, and you are {have} of {}.", action.deed(), needed.join(" or "), self.org);
        ApiError::new(Code::Forbidden, why)
    }
}
