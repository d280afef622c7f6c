//! Who may do what: the one table, `role x action`, where it is decided.
//!
//! Pure: roles go in, yes or no comes out. `docs/permissions.md` is generated from it, and a test holds the page to it.
//! An action asks for a least role in the organization, or a least role in a project; having either is enough.

use muster_proto::api::{OrgRole, ProjectRole, TokenScope, Visibility};

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident: $text:literal, $kind:ident, org $org:ident, project $project:ident;)*) => {
        /// Everything that somebody may be allowed to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As the documentation and refusals call it.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it does, for the scopes of access tokens.
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// The least roles, of which one is needed.
            pub fn least(self) -> Least {
                match self { $(Self::$name => Least { org: actions!(@org $org), project: actions!(@project $project) },)* }
            }
        }
    };
    (@org nobody) => { None };
    (@org $role:ident) => { Some(OrgRole::$role) };
    (@project nobody) => { None };
    (@project $role:ident) => { Some(ProjectRole::$role) };
}

actions! {
    /// Rows of the device list; a collaborator sees those of the own projects.
    SeeDevices: "see the organization's devices: names, fields, labels, presence (collaborators: only in their projects)", Read, org Viewer, project View;
    /// Tokens with which devices are admitted at once.
    MakeAutoToken: "create or revoke an enrolment token that approves automatically", Change, org Owner, project nobody;
    /// Tokens with which devices wait for an owner.
    MakeManualToken: "list enrolment tokens; create or revoke one that leaves devices pending", Change, org Member, project nobody;
    /// Admit, reject, revoke, replace.
    DecideDevice: "admit, reject, revoke, replace a device", Change, org Owner, project nobody;
    /// Name, fields, labels.
    EditDevice: "edit a device's name, fields and labels", Change, org Member, project nobody;
    /// Rows without a daemon; import.
    AddDevice: "add devices manually, import devices", Change, org Member, project nobody;
    /// Into and out of a project.
    AssignDevice: "add a device to a project, or remove it", Change, org Member, project Maintain;
    /// Off the list, for one that belonged.
    DeleteDevice: "delete a device", Change, org Owner, project nobody;
    /// Off the list, for one that never belonged.
    DeleteUnadmitted: "delete a device that was never admitted", Change, org Member, project nobody;
    /// Views of the list that everybody sees.
    ShareView: "save, change or delete a shared view of the device list", Change, org Member, project nobody;
    /// What fields a device has.
    ManageFields: "define, change and delete custom fields", Change, org Owner, project nobody;
    /// Name, description, logo, deletion.
    ManageOrg: "change the organization's settings; delete it", Change, org Owner, project nobody;
    /// What is the organization's own, to look at: members, teams, shared views, custom fields that one's own devices do not have.
    SeeMembers: "see the organization's members, teams, shared views and all its custom fields", Read, org Viewer, project nobody;
    /// Members, invitations, service accounts.
    ManageMembers: "invite, change and remove members; create service accounts", Change, org Owner, project nobody;
    /// Teams and who is in them.
    ManageTeams: "create, change and delete teams", Change, org Owner, project nobody;
    /// Usage and balance of the organization.
    SeeBilling: "see usage, limits and billing of the organization", Read, org Owner, project nobody;
    /// The organization's own limits.
    SetLimits: "set the organization's own limits", Change, org Owner, project nobody;
    /// The audit log.
    ReadAudit: "read the audit log", Read, org Owner, project nobody;
    /// A project that is not there yet.
    CreateProject: "create a project", Change, org Member, project nobody;
    /// Settings, visibility, archive.
    ManageProject: "change a project's settings and visibility, archive it", Change, org Owner, project Admin;
    /// Participants and collaborators.
    ManageParticipants: "change a project's participants, invite collaborators to it", Change, org Owner, project Maintain;
    /// Participants, to look at.
    SeeProject: "see a project and its participants", Read, org Owner, project View;
    /// What a project used and spent.
    SeeProjectUsage: "see what a project used and spent", Read, org Owner, project Admin;
    /// Run commands, copy to the device.
    Operate: "run commands on a device, copy files to it", Reach, org nobody, project Operate;
    /// Terminal, ssh, forward, copy from the device.
    Connect: "open a terminal, an SSH connection or a forward; copy files from a device", Reach, org nobody, project Connect;
    /// What the list shows of a device only then: `Column::is_detail`; and its history.
    ViewDevice: "see what a device reports, its usage, history, policy, sessions and runs", Read, org Owner, project View;
    /// A session or a run of another person.
    EndSession: "end another person's session or run", Change, org Owner, project Maintain;
    /// One sample per second for a while.
    WatchDevice: "ask a device for one sample per second for a while", Reach, org Owner, project View;
}

impl Action {
    /// What a person who may not do it tried: goes after "You can't".
    pub fn deed(self) -> &'static str {
        match self {
            Self::SeeDevices => "see the devices",
            Self::MakeAutoToken => "create enrolment tokens that admit devices at once",
            Self::MakeManualToken => "manage enrolment tokens",
            Self::DecideDevice => "admit, reject, revoke or replace devices",
            Self::EditDevice => "edit devices",
            Self::AddDevice => "add or import devices",
            Self::AssignDevice => "add devices to a project or remove them from one",
            Self::DeleteDevice | Self::DeleteUnadmitted => "delete this device",
            Self::ShareView => "change shared views",
            Self::ManageFields => "change custom fields",
            Self::ManageOrg => "change this organization",
            Self::SeeMembers => "see the members of this organization",
            Self::ManageMembers => "invite or change members",
            Self::ManageTeams => "change teams",
            Self::SeeBilling => "see usage and billing",
            Self::SetLimits => "set limits",
            Self::ReadAudit => "read the audit log",
            Self::CreateProject => "create projects",
            Self::ManageProject => "change this project's settings",
            Self::ManageParticipants => "change who is in this project",
            Self::SeeProject => "see this project",
            Self::SeeProjectUsage => "see what this project used",
            Self::Operate => "run commands on this device",
            Self::Connect => "connect to this device",
            Self::ViewDevice => "see this device's details",
            Self::EndSession => "end other people's sessions and runs",
            Self::WatchDevice => "watch this device live",
        }
    }
}

/// What an action does, for the scopes of access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It only looks.
    Read,
    /// It reaches a device, and changes nothing in the organization.
    Reach,
    /// It changes the organization.
    Change,
}

/// The least roles for an action, of which one is needed. `None`: no role of that kind is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Least {
    /// In the organization.
    pub org: Option<OrgRole>,
    /// In a project that it concerns.
    pub project: Option<ProjectRole>,
}

/// Whether somebody with these roles may do it.
pub fn allows(action: Action, org: Option<OrgRole>, project: Option<ProjectRole>) -> bool {
    let least = action.least();
    let enough = least.org.is_some_and(|least| org.is_some_and(|role| role >= least));
    enough || least.project.is_some_and(|least| project.is_some_and(|role| role >= least))
}

/// Whether a token of this scope may be used for it, by somebody who may do it.
pub fn covers(scope: TokenScope, action: Action) -> bool {
    match action.kind() {
        Kind::Read => true,
        Kind::Reach => scope >= TokenScope::Reach,
        Kind::Change => scope >= TokenScope::Full,
    }
}

/// Whether it changes something in a project, and so is refused once the project is archived.
pub fn changes_project(action: Action) -> bool {
    match action {
        Action::AssignDevice | Action::ManageParticipants | Action::Operate | Action::Connect | Action::WatchDevice => true,
        Action::SeeDevices
        | Action::MakeAutoToken
        | Action::MakeManualToken
        | Action::DecideDevice
        | Action::EditDevice
        | Action::AddDevice
        | Action::DeleteDevice
        | Action::DeleteUnadmitted
        | Action::ShareView
        | Action::ManageFields
        | Action::ManageOrg
        | Action::SeeMembers
        | Action::ManageMembers
        | Action::ManageTeams
        | Action::SeeBilling
        | Action::SetLimits
        | Action::ReadAudit
        | Action::CreateProject
        | Action::ManageProject
        | Action::SeeProject
        | Action::SeeProjectUsage
        | Action::EndSession
        | Action::ViewDevice => false,
    }
}

/// Somebody's role in a project: what the project gives, what its visibility gives to the organization's roles; the highest wins.
pub fn project_role(org: Option<OrgRole>, visibility: Visibility, participant: Option<ProjectRole>) -> Option<ProjectRole> {
    let by_org = match (org, visibility) {
        (Some(OrgRole::Owner), _) => Some(ProjectRole::Admin),
        (Some(OrgRole::Member), Visibility::Internal) => Some(ProjectRole::Operate),
        (Some(OrgRole::Viewer), Visibility::Internal) => Some(ProjectRole::View),
        (Some(OrgRole::Member | OrgRole::Viewer), Visibility::Private) | (None, _) => None,
    };
    by_org.max(participant)
}

const ORG_ROLES: [OrgRole; 3] = [OrgRole::Owner, OrgRole::Member, OrgRole::Viewer];
const PROJECT_ROLES: [ProjectRole; 5] =
    [ProjectRole::Admin, ProjectRole::Maintain, ProjectRole::Operate, ProjectRole::Connect, ProjectRole::View];

/// The documentation's page, from the table.
pub fn document() -> String {
    let mut page = String::from(
        "# Permissions\n\n\
         This page is generated from the table in `crates/muster-hub/src/rights.rs`, and a test compares the two.\n\n\
         You need one of the roles marked `yes`: a role in the organization, or a role in a project that contains the device.\n\
         Owners are `admin` in every project.\n\
         In an internal project, members have `operate` and viewers have `view`. In a private project, only participants and owners have a role.\n\
         The highest role counts.\n\
         An archived project is read-only.\n\
         If you have no access to something, the answer is the same as if it didn't exist (404).\n\n\
         | action | owner | member | viewer | admin | maintain | operate | connect | view |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for action in Action::ALL {
        page.push_str("| ");
        page.push_str(action.text());
        for role in ORG_ROLES {
            page.push_str(if allows(*action, Some(role), None) { " | yes" } else { " | –" });
        }
        for role in PROJECT_ROLES {
            page.push_str(if allows(*action, None, Some(role)) { " | yes" } else { " | –" });
        }
        page.push_str(" |\n");
    }
    page.push_str(
        "\n`owner`, `member` and `viewer` are roles in the organization. `admin` to `view` are roles in a project.\n\
         Anyone with an account can create an organization and becomes its owner.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agreed table, written a second time and by hand: action, least in the organization, least in a project.
    const AGREED: &[(Action, &str, &str)] = &[
        (Action::SeeDevices, "viewer", "view"),
        (Action::MakeAutoToken, "owner", "-"),
        (Action::MakeManualToken, "member", "-"),
        (Action::DecideDevice, "owner", "-"),
        (Action::EditDevice, "member", "-"),
        (Action::AddDevice, "member", "-"),
        (Action::ShareView, "member", "-"),
        (Action::ManageFields, "owner", "-"),
        (Action::ManageMembers, "owner", "-"),
        (Action::ManageTeams, "owner", "-"),
        (Action::SeeBilling, "owner", "-"),
        (Action::SetLimits, "owner", "-"),
        (Action::SeeProjectUsage, "owner", "admin"),
        (Action::AssignDevice, "member", "maintain"),
        (Action::DeleteDevice, "owner", "-"),
        (Action::DeleteUnadmitted, "member", "-"),
        (Action::ManageOrg, "owner", "-"),
        (Action::SeeMembers, "viewer", "-"),
        (Action::ReadAudit, "owner", "-"),
        (Action::CreateProject, "member", "-"),
        (Action::ManageProject, "owner", "admin"),
        (Action::ManageParticipants, "owner", "maintain"),
        (Action::SeeProject, "owner", "view"),
        (Action::Operate, "-", "operate"),
        (Action::Connect, "-", "connect"),
        (Action::ViewDevice, "owner", "view"),
        (Action::WatchDevice, "owner", "view"),
        (Action::EndSession, "owner", "maintain"),
    ];

    #[test]
    fn every_cell_is_as_agreed() {
        assert_eq!(AGREED.len(), Action::ALL.len());
        let org_rank = |role: &str| ["viewer", "member", "owner"].iter().position(|known| *known == role);
        let project_rank = |role: &str| ["view", "connect", "operate", "maintain", "admin"].iter().position(|known| *known == role);
        let org_roles = [None, Some(OrgRole::Viewer), Some(OrgRole::Member), Some(OrgRole::Owner)];
        let project_roles = [None].into_iter().chain(PROJECT_ROLES.into_iter().rev().map(Some)).collect::<Vec<_>>();
        let mut cells = 0;
        for (action, org_least, project_least) in AGREED {
            for org in org_roles {
                for project in &project_roles {
                    let by_org =
                        org.and_then(|role| org_rank(role.as_str())).zip(org_rank(org_least)).is_some_and(|(have, need)| have >= need);
                    let by_project = project
                        .and_then(|role| project_rank(role.as_str()))
                        .zip(project_rank(project_least))
                        .is_some_and(|(have, need)| have >= need);
                    assert_eq!(allows(*action, org, *project), by_org || by_project, "{action:?} {org:?} {project:?}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 28 * 4 * 6);
    }

    #[test]
    fn scopes_of_tokens() {
        for action in Action::ALL {
            assert!(covers(TokenScope::Full, *action), "{action:?}");
            let changes = !matches!(action.kind(), Kind::Read | Kind::Reach);
            assert_eq!(covers(TokenScope::Reach, *action), !changes, "{action:?}");
            assert_eq!(covers(TokenScope::Read, *action), action.kind() == Kind::Read, "{action:?}");
        }
        assert!(covers(TokenScope::Reach, Action::Connect) && !covers(TokenScope::Read, Action::Connect));
        assert!(!covers(TokenScope::Reach, Action::EditDevice) && covers(TokenScope::Read, Action::SeeDevices));
    }

    #[test]
    fn who_has_no_role_may_do_nothing() {
        for action in Action::ALL {
            assert!(!allows(*action, None, None), "{action:?}");
        }
    }

    #[test]
    fn roles_in_a_project() {
        use OrgRole::{Member, Owner, Viewer};
        use ProjectRole::{Admin, Connect, Maintain, Operate, View};
        for (org, visibility, participant, role) in [
            (Some(Owner), Visibility::Private, None, Some(Admin)),
            (Some(Owner), Visibility::Internal, Some(View), Some(Admin)),
            (Some(Member), Visibility::Internal, None, Some(Operate)),
            (Some(Member), Visibility::Private, None, None),
            (Some(Member), Visibility::Internal, Some(Maintain), Some(Maintain)),
            (Some(Member), Visibility::Internal, Some(View), Some(Operate)),
            (Some(Viewer), Visibility::Internal, None, Some(View)),
            (Some(Viewer), Visibility::Private, Some(Connect), Some(Connect)),
            (None, Visibility::Internal, None, None),
            (None, Visibility::Private, Some(Operate), Some(Operate)),
        ] {
            assert_eq!(project_role(org, visibility, participant), role, "{org:?} {visibility:?} {participant:?}");
        }
    }

    #[test]
    fn the_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/permissions.md");
        if std::env::var_os("MUSTER_WRITE_DOCS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == document(),
            "docs/permissions.md is not what the table gives; write it with MUSTER_WRITE_DOCS=1 cargo test -p muster-hub rights"
        );
    }
}
