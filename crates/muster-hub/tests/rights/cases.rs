//! Every call that needs a right: which action it exercises, on what, and how one sees that it was done.

use muster_hub::rights::Action::{self, *};

use crate::grid::Archived;
use crate::targets::Fresh;

/// What must be seen for a refusal to be a 403: who does not see it gets a 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Org,
    /// What is the organization's own: hidden from whoever has no role in the organization itself.
    Own,
    Project,
    Device,
    /// A project and a device: whoever sees one of them only may get either.
    Both,
}

/// Who may, beside those with the right in the organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Nobody.
    Right,
    /// Owners of the hub, without belonging to the organization.
    RightOrHub,
    /// Owners of the hub, and nobody with a right.
    Hub,
}

/// One call. Path and body hold names of the target in braces; the path's are those of the route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) by: By,
    /// `None`: whoever has anything in the organization may.
    pub(crate) action: Option<Action>,
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) query: &'static str,
    pub(crate) body: &'static str,
    pub(crate) on: On,
    pub(crate) fresh: Fresh,
    pub(crate) seen: Option<Seen>,
    /// What an archived project refuses of it, where that is not what the grid says of the action.
    pub(crate) shut: Option<Archived>,
    /// The media type of the body.
    pub(crate) kind: &'static str,
    /// Other events that each success leaves beside its own.
    pub(crate) also: &'static [&'static str],
    /// Those who may do it come one after another, as there is only one to do it to.
    pub(crate) alone: bool,
    /// What those get who may: what it would do is refused by how things stand.
    pub(crate) but: Option<&'static str>,
}

/// How one sees that it was done: whether the page, or an item of it, has these values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) path: &'static str,
    /// `key=value`, separated by spaces; `key=*` for anything but null; an array has a value if one of its elements is it.
    pub(crate) has: &'static str,
    /// Whether it is there after the change, or gone.
    pub(crate) there: bool,
}

impl Case {
    const fn new(action: Option<Action>, on: On, fresh: Fresh, method: &'static str, route: &'static str) -> Self {
        Self {
            by: By::Right,
            action,
            method,
            route,
            query: "",
            body: "",
            on,
            fresh,
            seen: None,
            shut: None,
            kind: "application/json",
            also: &[],
            alone: false,
            but: None,
        }
    }

    const fn with(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    const fn then(self, path: &'static str, has: &'static str) -> Self {
        Self { seen: Some(Seen { path, has, there: true }), ..self }
    }

    const fn archived(self, shut: Archived) -> Self {
        Self { shut: Some(shut), ..self }
    }

    const fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    const fn asking(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    const fn by(self, by: By) -> Self {
        Self { by, ..self }
    }

    const fn but(self, code: &'static str) -> Self {
        Self { but: Some(code), ..self }
    }

    const fn gone(self, path: &'static str, has: &'static str) -> Self {
        Self { seen: Some(Seen { path, has, there: false }), ..self }
    }

    pub(crate) fn changes(&self) -> bool {
        self.method != "GET"
    }
}

const fn call(action: Action, on: On, fresh: Fresh, method: &'static str, route: &'static str) -> Case {
    Case::new(Some(action), on, fresh, method, route)
}

/// For whoever has anything in the organization.
const fn all(method: &'static str, route: &'static str) -> Case {
    Case::new(None, On::Org, Fresh::Nothing, method, route)
}

const ORG: &str = "/v1/orgs/{org}";
const MEMBERS: &str = "/v1/orgs/{org}/members";
const MEMBER: &str = "/v1/orgs/{org}/members/{email}";
const PROJECTS: &str = "/v1/orgs/{org}/projects";
const PROJECT: &str = "/v1/orgs/{org}/projects/{project}";
const PARTICIPANTS: &str = "/v1/orgs/{org}/projects/{project}/participants";
const PARTICIPANT: &str = "/v1/orgs/{org}/projects/{project}/participants/{email}";
const TOKENS: &str = "/v1/orgs/{org}/enrolment-tokens";
const TOKEN: &str = "/v1/orgs/{org}/enrolment-tokens/{id}";
const DEVICES: &str = "/v1/orgs/{org}/devices";
const DEVICE: &str = "/v1/orgs/{org}/devices/{device}";
const SESSIONS: &str = "/v1/orgs/{org}/sessions";
const LOGO: &str = "/v1/orgs/{org}/logo";
const TEAMS: &str = "/v1/orgs/{org}/teams";
const TEAM: &str = "/v1/orgs/{org}/teams/{team}";
const TEAM_MEMBER: &str = "/v1/orgs/{org}/teams/{team}/members/{email}";
const AVATAR: &str = "/v1/orgs/{org}/teams/{team}/avatar";
const PROJECT_TEAMS: &str = "/v1/orgs/{org}/projects/{project}/teams";
const PROJECT_TEAM: &str = "/v1/orgs/{org}/projects/{project}/teams/{team}";
const PROJECT_DEVICES: &str = "/v1/orgs/{org}/projects/{project}/devices";
/// A WebP image of one pixel, as far as it is looked at; it happens to be text.
pub(crate) const IMAGE: &str = "RIFF\u{1a}\0\0\0WEBPVP8L\u{d}\0\0\0/\0\0\0\0\0\0\0\0\0\0\0\0";
const LEDGER: &str = "/v1/orgs/{org}/ledger";
const LIMITS: &str = "/v1/orgs/{org}/limits";
const INVITATIONS: &str = "/v1/orgs/{org}/invitations";
const INVITATION: &str = "/v1/orgs/{org}/invitations/{id}";
const RESEND: &str = "/v1/orgs/{org}/invitations/{id}/resend";
const FIELDS: &str = "/v1/orgs/{org}/fields";
const FIELD: &str = "/v1/orgs/{org}/fields/{field}";
const VIEWS: &str = "/v1/orgs/{org}/views";
const VIEW: &str = "/v1/orgs/{org}/views/{view}";
const BULK: &str = "/v1/orgs/{org}/devices/bulk";
const RUNS: &str = "/v1/orgs/{org}/runs";
const RUN: &str = "/v1/orgs/{org}/runs/{id}";
const SERVICES: &str = "/v1/orgs/{org}/service-accounts";
const SERVICE: &str = "/v1/orgs/{org}/service-accounts/{name}";
const SERVICE_TOKENS: &str = "/v1/orgs/{org}/service-accounts/{name}/tokens";
const SERVICE_TOKEN: &str = "/v1/orgs/{org}/service-accounts/{name}/tokens/{id}";
const SESSION: &str = "/v1/orgs/{org}/sessions/{id}";

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    all("GET", ORG),
    call(SeeMembers, On::Org, Fresh::Nothing, "GET", MEMBERS),
    call(ManageMembers, On::Org, Fresh::Member, "PUT", MEMBER).with(r#"{"role":"member"}"#).then(MEMBERS, "email={email} role=member"),
    call(ManageMembers, On::Org, Fresh::Member, "DELETE", MEMBER).gone(MEMBERS, "email={email}"),
    call(ReadAudit, On::Org, Fresh::Nothing, "GET", "/v1/orgs/{org}/audit"),

    call(ManageParticipants, On::Org, Fresh::Nothing, "GET", INVITATIONS).archived(Archived::ShutByProject),
    call(ManageMembers, On::Org, Fresh::Nothing, "POST", INVITATIONS).with(r#"{"email":"{new}@new.example","role":"viewer"}"#)
        .then(INVITATIONS, "email={new}@new.example"),
    call(ManageParticipants, On::Project, Fresh::Nothing, "POST", INVITATIONS)
        .with(r#"{"email":"{new}@new.example","project":"{project}","project_role":"view"}"#).then(INVITATIONS, "email={new}@new.example"),
    call(ManageMembers, On::Org, Fresh::Invitation, "POST", RESEND),
    call(ManageParticipants, On::Project, Fresh::ProjectInvitation, "POST", RESEND),
    call(ManageMembers, On::Org, Fresh::Invitation, "DELETE", INVITATION).gone(INVITATIONS, "id={id}"),
    call(ManageParticipants, On::Project, Fresh::ProjectInvitation, "DELETE", INVITATION).archived(Archived::Open).gone(INVITATIONS, "id={id}"),

    call(ManageOrg, On::Org, Fresh::Nothing, "PATCH", ORG).with(r#"{"description":"{new}"}"#).then(ORG, "description={new}").alone(),
    call(ManageOrg, On::Org, Fresh::Nothing, "DELETE", ORG).asking("?confirm={org}").but("conflict"),
    Case::new(None, On::Org, Fresh::Logo, "GET", LOGO),
    call(ManageOrg, On::Org, Fresh::Nothing, "PUT", LOGO).with(IMAGE),
    call(ManageOrg, On::Org, Fresh::Logo, "DELETE", LOGO).gone(ORG, "logo=*").alone(),

    call(SeeMembers, On::Org, Fresh::Nothing, "GET", "/v1/orgs/{org}/collaborators"),
    call(SeeMembers, On::Org, Fresh::Nothing, "GET", TEAMS),
    call(SeeMembers, On::Org, Fresh::Team, "GET", TEAM),
    call(SeeMembers, On::Org, Fresh::Team, "GET", AVATAR),
    call(ManageTeams, On::Org, Fresh::Nothing, "POST", TEAMS).with(r#"{"id":"{new}"}"#).then(TEAMS, "id={new}"),
    call(ManageTeams, On::Org, Fresh::Team, "PATCH", TEAM).with(r#"{"description":"other-{new}"}"#).then(TEAM, "description=other-{new}"),
    call(ManageTeams, On::Org, Fresh::Team, "DELETE", TEAM).gone(TEAM, "id={team}"),
    call(ManageTeams, On::Org, Fresh::Team, "PUT", TEAM_MEMBER).then(TEAM, "members=2"),
    call(ManageTeams, On::Org, Fresh::TeamMember, "DELETE", TEAM_MEMBER).then(TEAM, "members=1"),
    call(ManageTeams, On::Org, Fresh::Team, "PUT", AVATAR).with(IMAGE),
    call(ManageTeams, On::Org, Fresh::Team, "DELETE", AVATAR).gone(TEAM, "avatar=*"),

    call(SeeBilling, On::Org, Fresh::Nothing, "GET", "/v1/orgs/{org}/usage"),
    call(SeeBilling, On::Org, Fresh::Nothing, "GET", "/v1/orgs/{org}/billing"),
    call(SeeBilling, On::Org, Fresh::Nothing, "GET", LEDGER),
    call(SeeBilling, On::Org, Fresh::Nothing, "GET", LIMITS).by(By::RightOrHub),
    call(SetLimits, On::Org, Fresh::Nothing, "PATCH", LIMITS).with(r#"{"limits":[{"name":"runs","most":{number}}]}"#)
        .then(LIMITS, "name=runs own={number}").alone(),
    call(SetLimits, On::Org, Fresh::Nothing, "PATCH", LIMITS).with(r#"{"scope":"hub","limits":[{"name":"runs","most":{number}}]}"#)
        .then(LIMITS, "name=runs hub={number}").alone().by(By::Hub),
    call(SeeBilling, On::Org, Fresh::Nothing, "POST", "/v1/orgs/{org}/credits").with(r#"{"credits":"1.5","note":"{new}"}"#)
        .then(LEDGER, "note={new}").by(By::Hub),
    call(SeeProjectUsage, On::Project, Fresh::Nothing, "GET", "/v1/orgs/{org}/projects/{project}/usage"),

    all("GET", PROJECTS),
    call(CreateProject, On::Org, Fresh::Nothing, "POST", PROJECTS).with(r#"{"id":"{new}"}"#).then(PROJECTS, "id={new}"),
    call(SeeProject, On::Project, Fresh::Nothing, "GET", PROJECT),
    call(ManageProject, On::Project, Fresh::Nothing, "PATCH", PROJECT).with(r#"{"description":"{new}"}"#)
        .then(PROJECT, "description={new}").archived(Archived::Shut).alone(),
    call(ManageProject, On::Project, Fresh::Open, "POST", "/v1/orgs/{org}/projects/{project}/archive").then(PROJECT, "archived_at=*").alone(),
    call(ManageProject, On::Project, Fresh::Archived, "POST", "/v1/orgs/{org}/projects/{project}/restore").gone(PROJECT, "archived_at=*").alone(),
    call(AssignDevice, On::Project, Fresh::Device, "POST", PROJECT_DEVICES).with(r#"{"add":["{device}"]}"#),
    call(AssignDevice, On::Project, Fresh::Device, "POST", PROJECT_DEVICES).with(r#"{"remove":["{device}"]}"#).gone(DEVICE, "projects={project}"),
    call(SeeProject, On::Project, Fresh::Nothing, "GET", PROJECT_TEAMS),
    call(ManageParticipants, On::Project, Fresh::Team, "PUT", PROJECT_TEAM).with(r#"{"role":"connect"}"#).then(PROJECT_TEAMS, "id={team} role=connect"),
    call(ManageParticipants, On::Project, Fresh::ProjectTeam, "DELETE", PROJECT_TEAM).gone(PROJECT_TEAMS, "id={team}"),
    call(SeeProject, On::Project, Fresh::Nothing, "GET", PARTICIPANTS),
    call(ManageParticipants, On::Project, Fresh::Participant, "PUT", PARTICIPANT).with(r#"{"role":"connect"}"#)
        .then(PARTICIPANTS, "email={email} role=connect"),
    call(ManageParticipants, On::Project, Fresh::Member, "PUT", PARTICIPANT).with(r#"{"role":"view"}"#)
        .then(PARTICIPANTS, "email={email} role=view"),
    call(ManageParticipants, On::Project, Fresh::Participant, "DELETE", PARTICIPANT).gone(PARTICIPANTS, "email={email}"),

    call(MakeManualToken, On::Org, Fresh::Nothing, "GET", TOKENS),
    call(MakeManualToken, On::Org, Fresh::Nothing, "POST", TOKENS).with(r#"{"admit":"manual","note":"{new}"}"#).then(TOKENS, "note={new}"),
    call(MakeAutoToken, On::Org, Fresh::Nothing, "POST", TOKENS).with(r#"{"admit":"auto","note":"{new}"}"#).then(TOKENS, "note={new}"),
    call(MakeManualToken, On::Org, Fresh::ManualToken, "DELETE", TOKEN).then(TOKENS, "id={id} revoked_at=*"),
    call(MakeAutoToken, On::Org, Fresh::AutoToken, "DELETE", TOKEN).then(TOKENS, "id={id} revoked_at=*"),

    call(SeeDevices, On::Org, Fresh::Nothing, "GET", DEVICES),
    call(SeeDevices, On::Device, Fresh::Device, "GET", DEVICE),
    call(EditDevice, On::Device, Fresh::Device, "PATCH", DEVICE).with(r#"{"name":"called-{new}"}"#).then(DEVICE, "name=called-{new}"),
    call(AssignDevice, On::Both, Fresh::Device, "PATCH", DEVICE).with(r#"{"add_projects":["{project}"]}"#),
    call(AssignDevice, On::Both, Fresh::Device, "PATCH", DEVICE).with(r#"{"remove_projects":["{project}"]}"#).gone(DEVICE, "projects={project}"),
    call(AddDevice, On::Org, Fresh::Nothing, "POST", DEVICES).with(r#"{"id":"{new}"}"#).then("/v1/orgs/{org}/devices/{new}", "id={new}"),
    call(AddDevice, On::Org, Fresh::Nothing, "POST", "/v1/orgs/{org}/devices/import").with("id,name\n{new},{new}\n").of_kind("text/csv")
        .also(&["device.add"]).then("/v1/orgs/{org}/devices/{new}", "id={new}"),
    call(SeeDevices, On::Org, Fresh::Nothing, "GET", "/v1/orgs/{org}/devices/export"),
    call(DecideDevice, On::Device, Fresh::Pending, "POST", BULK).with(r#"{"action":"admit","devices":["{device}"]}"#)
        .also(&["device.admit"]).then(DEVICE, "admission=admitted"),
    call(DecideDevice, On::Device, Fresh::Device, "POST", BULK).with(r#"{"action":"revoke","devices":["{device}"],"expect":1}"#)
        .also(&["device.revoke"]).then(DEVICE, "admission=revoked"),
    call(EditDevice, On::Device, Fresh::Device, "POST", BULK).with(r#"{"action":"edit","devices":["{device}"],"add_labels":["{new}"]}"#)
        .also(&["device.edit"]).then(DEVICE, "labels={new}"),
    call(AssignDevice, On::Both, Fresh::Device, "POST", BULK).with(r#"{"action":"unassign","devices":["{device}"],"projects":["{project}"]}"#)
        .also(&["device.edit"]).gone(DEVICE, "projects={project}"),
    call(DeleteDevice, On::Device, Fresh::Device, "POST", BULK).with(r#"{"action":"delete","devices":["{device}"]}"#)
        .also(&["device.delete"]).gone(DEVICE, ""),
    call(DeleteUnadmitted, On::Device, Fresh::Pending, "POST", BULK).with(r#"{"action":"delete","devices":["{device}"]}"#)
        .also(&["device.delete"]).gone(DEVICE, ""),
    call(EditDevice, On::Device, Fresh::Device, "PATCH", DEVICE).with(r#"{"add_labels":["{new}"]}"#).then(DEVICE, "labels={new}"),
    call(DecideDevice, On::Device, Fresh::Device, "POST", "/v1/orgs/{org}/devices/{device}/renew"),

    all("GET", FIELDS),
    call(ManageFields, On::Org, Fresh::Nothing, "POST", FIELDS).with(r#"{"key":"{new}","kind":"text"}"#).then(FIELDS, "key={new}"),
    call(ManageFields, On::Org, Fresh::Field, "PATCH", FIELD).with(r#"{"title":"called-{new}"}"#).then(FIELDS, "title=called-{new}"),
    call(ManageFields, On::Org, Fresh::Field, "DELETE", FIELD).gone(FIELDS, "key={field}"),
    all("GET", VIEWS),
    call(ShareView, On::Org, Fresh::Nothing, "POST", VIEWS).with(r#"{"name":"{new}","shared":true}"#).then(VIEWS, "name={new}"),
    call(ShareView, On::Own, Fresh::View, "PATCH", VIEW).with(r#"{"filter":"name = \"{new}\""}"#),
    call(ShareView, On::Own, Fresh::View, "DELETE", VIEW).gone(VIEWS, "name={view}"),

    call(DeleteDevice, On::Device, Fresh::Device, "DELETE", DEVICE).gone(DEVICE, ""),
    call(DeleteUnadmitted, On::Device, Fresh::Pending, "DELETE", DEVICE).gone(DEVICE, ""),
    call(DecideDevice, On::Device, Fresh::Pending, "POST", "/v1/orgs/{org}/devices/{device}/admit").then(DEVICE, "admission=admitted"),
    call(DecideDevice, On::Device, Fresh::Pending, "POST", "/v1/orgs/{org}/devices/{device}/reject").then(DEVICE, "admission=rejected"),
    call(DecideDevice, On::Device, Fresh::Device, "POST", "/v1/orgs/{org}/devices/{device}/revoke").then(DEVICE, "admission=revoked"),
    call(DecideDevice, On::Device, Fresh::Claimed, "POST", "/v1/orgs/{org}/devices/{device}/replace").gone(DEVICE, "replacement=*"),
    call(DecideDevice, On::Device, Fresh::Device, "POST", "/v1/orgs/{org}/devices/{device}/renew"),
    call(WatchDevice, On::Device, Fresh::Device, "POST", "/v1/orgs/{org}/devices/{device}/watch").with(r#"{"seconds":1}"#),
    call(ViewDevice, On::Device, Fresh::Device, "GET", "/v1/orgs/{org}/devices/{device}/presence"),
    call(ViewDevice, On::Device, Fresh::Device, "GET", "/v1/orgs/{org}/devices/{device}/usage"),
    call(ViewDevice, On::Device, Fresh::Policy, "GET", "/v1/orgs/{org}/devices/{device}/policy"),

    call(ManageMembers, On::Org, Fresh::Nothing, "GET", SERVICES),
    call(ManageMembers, On::Org, Fresh::Nothing, "POST", SERVICES).with(r#"{"name":"{new}","role":"viewer"}"#).then(SERVICES, "name={new}"),
    call(ManageMembers, On::Org, Fresh::Service, "DELETE", SERVICE).gone(SERVICES, "name={name}"),
    call(ManageMembers, On::Org, Fresh::Service, "GET", SERVICE_TOKENS),
    call(ManageMembers, On::Org, Fresh::Service, "POST", SERVICE_TOKENS).with(r#"{"name":"{new}"}"#).then(SERVICE_TOKENS, "name={new}"),
    call(ManageMembers, On::Org, Fresh::Service, "DELETE", SERVICE_TOKEN).gone(SERVICE_TOKENS, "id={id}"),

    call(Operate, On::Device, Fresh::Linked, "POST", "/v1/orgs/{org}/devices/{device}/runs")
        .with(r#"{"command":{"argv":["true"]},"cwd":"/{new}"}"#).then(RUNS, "cwd=/{new}"),
    all("GET", RUNS),
    call(ViewDevice, On::Project, Fresh::Run, "GET", RUN),
    call(ViewDevice, On::Project, Fresh::Run, "GET", "/v1/orgs/{org}/runs/{id}/output"),
    call(EndSession, On::Project, Fresh::Run, "POST", "/v1/orgs/{org}/runs/{id}/cancel").then(RUN, "cancelled_by=*"),

    call(Connect, On::Device, Fresh::Linked, "POST", "/v1/orgs/{org}/devices/{device}/sessions").with(r#"{"reason":"{new}"}"#)
        .then(SESSIONS, "reason={new}"),
    all("GET", SESSIONS),
    call(ViewDevice, On::Project, Fresh::Session, "GET", SESSION),
    call(EndSession, On::Project, Fresh::Session, "DELETE", SESSION).then(SESSION, "state=ended"),
];

/// Routes that need no role in an organization, each with the reason; `tests/api` and others play them.
pub(crate) const WITHOUT_A_ROLE: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "for load balancers"),
    ("GET", "/readyz", "for load balancers"),
    ("GET", "/metrics", "for Prometheus: from this machine, or with any token"),
    ("GET", "/v1/openapi.json", "the description of the API"),
    ("GET", "/v1/hub", "what anybody may know"),
    ("POST", "/v1/enrol", "the enrolment token is the right"),
    ("GET", "/v1/enrol/{request}", "the request's name is the right"),
    ("POST", "/v1/device/renew", "the device's key is the right"),
    ("GET", "/v1/device/self", "the device's key is the right"),
    ("GET", "/mqtt", "the device's key is the right"),
    ("POST", "/v1/login", "the password is the right"),
    ("GET", "/v1/login/oidc/start", "begins a login in a browser"),
    ("GET", "/v1/login/oidc/callback", "the provider's word is the right"),
    ("POST", "/v1/login/oidc/confirm", "the secret of the page and the browser's cookie are the right"),
    ("POST", "/v1/login/code", "the code and its verifier are the right"),
    ("POST", "/v1/login/device", "begins a login by device code"),
    ("POST", "/v1/login/device/token", "the device code is the right"),
    ("GET", "/login/device", "the page for a user code; it knows nothing"),
    ("POST", "/v1/invitations/look", "the link is the right"),
    ("POST", "/v1/invitations/accept", "the link is the right"),
    ("GET", "/invite", "the page that the link opens; it knows nothing"),
    ("GET", "/v1/me", "about the one who asks"),
    ("PATCH", "/v1/me", "one's own account"),
    ("DELETE", "/v1/me", "one's own account"),
    ("PUT", "/v1/me/password", "one's own account"),
    ("GET", "/v1/login/methods", "what anybody may know"),
    ("GET", "/v1/tokens", "one's own tokens"),
    ("POST", "/v1/tokens", "one's own tokens"),
    ("DELETE", "/v1/tokens/{id}", "one's own tokens"),
    ("GET", "/v1/orgs", "one's own organizations"),
    ("POST", "/v1/orgs", "everybody with an account may make one"),
    ("POST", "/v1/orgs/{org}/leave", "one's own membership: whoever has one may go"),
    ("GET", "/v1/sessions/{id}/client", "the ticket is the right"),
    ("GET", "/v1/sessions/{id}/device", "the ticket and the device's key are the right"),
];
