//! Projects and their participants.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Page, Participant, ParticipantPut, Project, ProjectCreate, ProjectRole};
use muster_proto::id::ProjectId;
use muster_proto::problem::Code;
use serde_json::json;

use super::orgs::{account, display_name};
use super::{ApiResult, Body, OrgAccess, Path, Route};
use crate::clock;
use crate::rights::Action;
use crate::standings::ProjectAccess;
use crate::state::AppState;
use crate::store::{orgs, problem};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/projects", list),
        Route::post("/v1/orgs/{org}/projects", create).audited("project.create"),
        Route::get("/v1/orgs/{org}/projects/{project}", show),
        Route::get("/v1/orgs/{org}/projects/{project}/participants", participants),
        Route::put("/v1/orgs/{org}/projects/{project}/participants/{email}", put_participant).audited("participant.put"),
        Route::delete("/v1/orgs/{org}/projects/{project}/participants/{email}", delete_participant).audited("participant.delete"),
    ]
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Project>>> {
    let mut items = Vec::new();
    for (id, project) in access.projects.iter() {
        items.push(filled(&state, &access, id, project).await?);
    }
    Ok(Json(Page { items, next: None }))
}

/// A project with its numbers.
async fn filled(state: &AppState, access: &OrgAccess, id: &ProjectId, project: &ProjectAccess) -> ApiResult<Project> {
    let (org, of) = (access.org.clone(), id.clone());
    let devices = state.store.read(move |db| orgs::project_devices(db, &org, &of)).await?;
    let live = state.ingest.live();
    let online = devices.iter().filter(|uid| uid.parse().is_ok_and(|uid| live.is_online(&uid))).count();
    Ok(Project {
        id: id.clone(),
        name: project.name.clone(),
        visibility: project.visibility,
        role: project.role,
        devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
        online: u32::try_from(online).unwrap_or(u32::MAX),
        created_at: project.created_at,
    })
}

async fn create(
    State(state): State<AppState>,
    access: OrgAccess,
    Body(wanted): Body<ProjectCreate>,
) -> ApiResult<(StatusCode, Json<Project>)> {
    access.require(Action::CreateProject)?;
    let project = Project {
        name: display_name(wanted.name, wanted.id.as_str())?,
        id: wanted.id,
        visibility: wanted.visibility,
        role: ProjectRole::Admin,
        devices: 0,
        online: 0,
        created_at: clock::now(),
    };
    let entry = access.entry("project.create", project.id.as_str()).with(json!({ "visibility": project.visibility }));
    let row = project.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        orgs::create_project(tx, &access.org, &row.id, &row.name, row.visibility, row.created_at)?;
        orgs::set_participant(tx, &access.org, &row.id, access.person.account, ProjectRole::Admin, row.created_at)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(project)))
}

async fn show(State(state): State<AppState>, access: OrgAccess, Path((_, project)): Path<(String, String)>) -> ApiResult<Json<Project>> {
    access.require_in(Action::SeeProject, &project)?;
    let (id, project) = access.project(&project)?;
    Ok(Json(filled(&state, &access, &id, project).await?))
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
    Path((_, project, email)): Path<(String, String, String)>,
    Body(wanted): Body<ParticipantPut>,
) -> ApiResult<Json<Participant>> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let role = wanted.role;
    // Nobody gives away more than is his own.
    let own = access.projects.get(&project).map(|project| project.role);
    if own.is_none_or(|own| own < role) {
        let why =
            format!("you have no more than {} in {project} and cannot give {}", own.map_or("nothing", ProjectRole::as_str), role.as_str());
        return Err(super::ApiError::new(Code::Forbidden, why));
    }
    let entry = access.entry("participant.put", format!("{project}/{email}")).with(json!({ "role": role }));
    let participant = state.store.write(move |tx| {
        let account = account(tx, &email)?;
        keep_those_above(tx, &access, &project, &account.email, own)?;
        orgs::set_participant(tx, &access.org, &project, account.id, role, clock::now())?;
        entry.ok(tx)?;
        Ok(Participant { email: account.email, role })
    });
    Ok(Json(participant.await?))
}

/// Nobody changes a participant who has more than himself.
fn keep_those_above(
    connection: &rusqlite::Connection,
    access: &OrgAccess,
    project: &ProjectId,
    email: &str,
    own: Option<ProjectRole>,
) -> crate::store::Result<()> {
    let present = orgs::participants(connection, &access.org, project)?.into_iter().find(|participant| participant.email == email);
    match present {
        Some(present) if own.is_none_or(|own| present.role > own) => {
            Err(problem(Code::Forbidden, format!("{email} has the role {} in {project}, which is above yours", present.role.as_str())))
        }
        _ => Ok(()),
    }
}

async fn delete_participant(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project, email)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let project = access.require_in(Action::ManageParticipants, &project)?;
    let own = access.projects.get(&project).map(|project| project.role);
    let entry = access.entry("participant.delete", format!("{project}/{email}"));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let account = account(tx, &email)?;
        keep_those_above(tx, &access, &project, &account.email, own)?;
        if !orgs::remove_participant(tx, &access.org, &project, account.id)? {
            return Err(problem(Code::NotFound, format!("{email} is no participant of {project}")));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
