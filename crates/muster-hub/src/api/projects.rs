//! Projects, their settings, their participants and teams.

mod devices;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Page, Participant, ParticipantPut, Project, ProjectCreate, ProjectEdit, ProjectRole, ProjectTeam, ProjectTeamPut};
use muster_proto::id::{ProjectId, TeamId};
use muster_proto::problem::Code;
use rusqlite::Transaction;
use serde_json::json;

use super::orgs::{account, display_name, not_in};
use super::text::description;
use super::{ApiError, ApiResult, Body, Email, OrgAccess, Path, Route};
use crate::clock;
use crate::rights::Action;
use crate::standings::ProjectAccess;
use crate::state::AppState;
use crate::store::projects::{self, Edit, Numbers};
use crate::store::{self, accounts, orgs, problem, teams as stored_teams};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/projects", list),
        Route::post("/v1/orgs/{org}/projects", create).audited("project.create"),
        Route::get("/v1/orgs/{org}/projects/{project}", show),
        Route::get("/v1/orgs/{org}/projects/{project}/participants", participants),
        Route::put("/v1/orgs/{org}/projects/{project}/participants/{email}", put_participant).audited("participant.put"),
        Route::delete("/v1/orgs/{org}/projects/{project}/participants/{email}", delete_participant).audited("participant.delete"),
        Route::patch("/v1/orgs/{org}/projects/{project}", edit).audited("project.edit"),
        Route::post("/v1/orgs/{org}/projects/{project}/archive", archive).audited("project.archive"),
        Route::post("/v1/orgs/{org}/projects/{project}/restore", restore).audited("project.restore"),
        Route::post("/v1/orgs/{org}/projects/{project}/devices", devices::change).audited("project.devices"),
        Route::get("/v1/orgs/{org}/projects/{project}/teams", teams),
        Route::put("/v1/orgs/{org}/projects/{project}/teams/{team}", put_team).audited("project.team_put"),
        Route::delete("/v1/orgs/{org}/projects/{project}/teams/{team}", delete_team).audited("project.team_delete"),
    ]
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Project>>> {
    let org = access.org.clone();
    let (list, there) = (state.registry.list(&access.org), state.clone());
    let work = move |db: &rusqlite::Connection| {
        let (mut numbers, counts) = (projects::numbers(db, &org, None)?, list.by_project(there.ingest.live()));
        let filled = |(id, project): (&ProjectId, &ProjectAccess)| {
            filled(id, project, numbers.remove(id).unwrap_or_default(), counts.get(id.as_str()).copied().unwrap_or_default())
        };
        Ok(access.projects.iter().map(filled).collect())
    };
    Ok(Json(Page { items: state.store.read(work).await?, next: None }))
}

/// A project with its numbers: its devices, admitted or not, and those of them that are online.
fn filled(id: &ProjectId, project: &ProjectAccess, numbers: Numbers, (devices, online): (u32, u32)) -> Project {
    Project {
        id: id.clone(),
        name: project.name.clone(),
        description: numbers.description,
        visibility: project.visibility,
        role: project.role,
        devices,
        online,
        sessions: numbers.sessions,
        runs: numbers.runs,
        members: numbers.members,
        created_at: project.created_at,
        archived_at: numbers.archived_at,
    }
}

/// Changes a project in one transaction, which also says how it left the project to whoever changed it.
///
/// Read afterwards they may have no role in it any more, and a change that was made would be answered, and recorded, as refused.
async fn change(
    state: &AppState,
    access: OrgAccess,
    id: ProjectId,
    work: impl FnOnce(&Transaction<'_>) -> store::Result<()> + Send + 'static,
) -> ApiResult<Json<Project>> {
    let (of, org) = (id.clone(), access.org.clone());
    let work = move |tx: &Transaction<'_>| {
        work(tx)?;
        let access = access.inside(tx)?;
        let numbers = projects::numbers(tx, &access.org, Some(&of))?.remove(&of).unwrap_or_default();
        match access.projects.get(&of) {
            Some(project) => Ok((project.clone(), numbers)),
            None => Err(problem(Code::NotFound, format!("there is no project {of} for you any more"))),
        }
    };
    let (project, numbers) = state.store.write(work).await?;
    let counts = state.registry.list(&org).of_project(state.ingest.live(), &id);
    Ok(Json(filled(&id, &project, numbers, counts)))
}

async fn create(
    State(state): State<AppState>,
    access: OrgAccess,
    Body(wanted): Body<ProjectCreate>,
) -> ApiResult<(StatusCode, Json<Project>)> {
    access.require(Action::CreateProject)?;
    let name = display_name(wanted.name, wanted.id.as_str())?;
    let description = wanted.description.map(|text| description("description", text)).transpose()?.flatten();
    let (id, visibility) = (wanted.id, wanted.visibility);
    let entry = access.entry("project.create", id.as_str()).with(json!({ "visibility": visibility }));
    let (org, account, project) = (access.org.clone(), access.person.account, id.clone());
    let work = move |tx: &Transaction<'_>| {
        let now = clock::now();
        orgs::create_project(tx, &org, &project, &name, visibility, now)?;
        let edit = Edit { description: Some(description), ..Edit::default() };
        projects::edit(tx, &org, &project, &edit)?;
        orgs::set_participant(tx, &org, &project, account, ProjectRole::Admin, now)?;
        entry.ok(tx)
    };
    Ok((StatusCode::CREATED, change(&state, access, id, work).await?))
}

async fn show(State(state): State<AppState>, access: OrgAccess, Path((_, project)): Path<(String, String)>) -> ApiResult<Json<Project>> {
    let id = access.require_in(Action::SeeProject, &project)?;
    let (_, project) = access.project(id.as_str())?;
    let (org, of) = (access.org.clone(), id.clone());
    let numbers = state.store.read(move |db| projects::numbers(db, &org, Some(&of))).await?.remove(&id).unwrap_or_default();
    let counts = state.registry.list(&access.org).of_project(state.ingest.live(), &id);
    Ok(Json(filled(&id, project, numbers, counts)))
}

/// Settings. An archived project is read-only; its restoring is a request of its own.
async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project)): Path<(String, String)>,
    Body(wanted): Body<ProjectEdit>,
) -> ApiResult<Json<Project>> {
    let id = access.require_in(Action::ManageProject, &project)?;
    let edit = Edit {
        name: wanted.name.map(|name| display_name(Some(name), "")).transpose()?,
        description: match wanted.description {
            Some(Some(text)) => Some(description("description", text)?),
            cleared => cleared,
        },
        visibility: wanted.visibility,
    };
    let details = json!({ "name": edit.name, "description": edit.description.is_some(), "visibility": edit.visibility });
    let entry = access.entry("project.edit", id.as_str()).with(details);
    let (org, of) = (access.org.clone(), id.clone());
    let work = move |tx: &Transaction<'_>| {
        if !orgs::project_is_open(tx, &org, &of)? {
            return Err(problem(Code::Archived, format!("project {of} is archived: it is read-only; restore it first")));
        }
        projects::edit(tx, &org, &of, &edit)?;
        entry.ok(tx)
    };
    change(&state, access, id, work).await
}

async fn archive(State(state): State<AppState>, access: OrgAccess, Path((_, project)): Path<(String, String)>) -> ApiResult<Json<Project>> {
    let id = access.require_in(Action::ManageProject, &project)?;
    let entry = access.entry("project.archive", id.as_str());
    let (org, of, by) = (access.org.clone(), id.clone(), access.person.email.clone());
    // Twice is once: nothing changes, and nothing is recorded.
    let work = move |tx: &Transaction<'_>| {
        if projects::archive(tx, &org, &of, &by, clock::now())? { entry.ok(tx) } else { Ok(()) }
    };
    change(&state, access, id, work).await
}

async fn restore(State(state): State<AppState>, access: OrgAccess, Path((_, project)): Path<(String, String)>) -> ApiResult<Json<Project>> {
    let id = access.require_in(Action::ManageProject, &project)?;
    let entry = access.entry("project.restore", id.as_str());
    let (org, of) = (access.org.clone(), id.clone());
    let work = move |tx: &Transaction<'_>| if projects::restore(tx, &org, &of)? { entry.ok(tx) } else { Ok(()) };
    change(&state, access, id, work).await
}

async fn teams(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project)): Path<(String, String)>,
) -> ApiResult<Json<Page<ProjectTeam>>> {
    let project = access.require_in(Action::SeeProject, &project)?;
    let items = state.store.read(move |db| projects::teams(db, &access.org, &project)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn put_team(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project, team)): Path<(String, String, String)>,
    Body(wanted): Body<ProjectTeamPut>,
) -> ApiResult<Json<ProjectTeam>> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let own = access.own_at_least(&project, wanted.role)?;
    let team = team_id(&team)?;
    let entry = access.entry("project.team_put", format!("{project}/{team}")).with(json!({ "role": wanted.role }));
    let work = move |tx: &Transaction<'_>| {
        if stored_teams::by_id(tx, &access.org, &team)?.is_none() {
            return Err(problem(Code::NotFound, format!("there is no team {team} in {}", access.org)));
        }
        keep_team_above(tx, &access, &project, &team, own)?;
        projects::set_team(tx, &access.org, &project, &team, wanted.role, clock::now())?;
        entry.ok(tx)?;
        let teams = projects::teams(tx, &access.org, &project)?;
        teams.into_iter().find(|known| known.id == team).ok_or_else(|| problem(Code::NotFound, "the team is gone already"))
    };
    Ok(Json(state.store.write(work).await?))
}

async fn delete_team(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project, team)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let own = access.own_at_least(&project, ProjectRole::View)?;
    let team = team_id(&team)?;
    let entry = access.entry("project.team_delete", format!("{project}/{team}"));
    let work = move |tx: &Transaction<'_>| {
        keep_team_above(tx, &access, &project, &team, own)?;
        if !projects::remove_team(tx, &access.org, &project, &team)? {
            return Err(problem(Code::NotFound, format!("team {team} has no role in {project}")));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn team_id(text: &str) -> ApiResult<TeamId> {
    text.parse().map_err(|_| ApiError::not_found("team", text))
}

/// Nobody changes a team that has more than himself.
fn keep_team_above(
    tx: &Transaction<'_>,
    access: &OrgAccess,
    project: &ProjectId,
    team: &TeamId,
    own: ProjectRole,
) -> crate::store::Result<()> {
    match projects::team_role(tx, &access.org, project, team)? {
        Some(given) if given > own => {
            Err(problem(Code::Forbidden, format!("team {team} has the role {} in {project}, which is above yours", given.as_str())))
        }
        _ => Ok(()),
    }
}

async fn participants(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project)): Path<(String, String)>,
) -> ApiResult<Json<Page<Participant>>> {
    let project = access.require_in(Action::SeeProject, &project)?;
    let items = state.store.read(move |db| orgs::participants(db, &access.org, &project)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn put_participant(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project, Email(email))): Path<(String, String, Email)>,
    Body(wanted): Body<ParticipantPut>,
) -> ApiResult<Json<Participant>> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let role = wanted.role;
    let own = access.own_at_least(&project, role)?;
    let entry = access.entry("participant.put", format!("{project}/{email}")).with(json!({ "role": role }));
    let participant = state.store.write(move |tx| {
        let account = account(tx, &email)?;
        if !stored_teams::belongs(tx, &access.org, account.id)? {
            return Err(not_in(&email));
        }
        keep_those_above(tx, &access, &project, &account.email, own)?;
        orgs::set_participant(tx, &access.org, &project, account.id, role, clock::now())?;
        entry.ok(tx)?;
        let participant = orgs::participants(tx, &access.org, &project)?.into_iter().find(|known| known.email == account.email);
        participant.ok_or_else(|| problem(Code::NotFound, "the participant is gone already"))
    });
    Ok(Json(participant.await?))
}

/// Nobody changes a participant who has more than himself.
fn keep_those_above(
    connection: &rusqlite::Connection,
    access: &OrgAccess,
    project: &ProjectId,
    email: &str,
    own: ProjectRole,
) -> crate::store::Result<()> {
    let present = orgs::participants(connection, &access.org, project)?.into_iter().find(|participant| participant.email == email);
    match present.and_then(|present| present.own) {
        Some(given) if given > own => {
            Err(problem(Code::Forbidden, format!("{email} has the role {} in {project}, which is above yours", given.as_str())))
        }
        _ => Ok(()),
    }
}

async fn delete_participant(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project, Email(email))): Path<(String, String, Email)>,
) -> ApiResult<StatusCode> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let own = access.own_at_least(&project, ProjectRole::View)?;
    let entry = access.entry("participant.delete", format!("{project}/{email}"));
    let work = move |tx: &Transaction<'_>| {
        // Of an account that is elsewhere on the hub no more is told than of none.
        let removed = match accounts::by_email(tx, &email)? {
            Some(account) => {
                keep_those_above(tx, &access, &project, &account.email, own)?;
                orgs::remove_participant(tx, &access.org, &project, account.id)?
            }
            None => false,
        };
        if !removed {
            let why = format!("{email} was given no role in {project} in person; what a team gives goes with the team");
            return Err(problem(Code::NotFound, why));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
