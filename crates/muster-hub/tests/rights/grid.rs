//! The table of rights, written a second time and by hand, and the people who stand in every place of it.
//!
//! Nothing here is computed from the hub's own table: a wrong cell there must differ from one here.

use muster_hub::rights::Action::{self, *};

/// What a token's scope must reach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Read,
    Reach,
    Full,
}

/// What an archived project refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archived {
    /// Nothing of this.
    Open,
    /// This, to everybody.
    Shut,
    /// This, to those who have the right from the project alone.
    ShutByProject,
}

use Archived::{Open, Shut, ShutByProject};
use Scope::{Full, Reach, Read};

/// One row: the action, the scope that it needs, who may, and whether an archived project refuses it.
/// The columns: owner, member, viewer of the organization; admin, maintain, operate, connect, view in the project.
pub(crate) type Row = (Action, Scope, &'static str, Archived);

#[rustfmt::skip]
pub(crate) const GRID: &[Row] = &[
    //                          o m v  a m o c v
    (SeeDevices,         Read,  "+ + +  + + + + +", Open),
    (MakeAutoToken,      Full,  "+ - -  - - - - -", Open),
    (MakeManualToken,    Full,  "+ + -  - - - - -", Open),
    (DecideDevice,       Full,  "+ - -  - - - - -", Open),
    (EditDevice,         Full,  "+ + -  - - - - -", Open),
    (AddDevice,          Full,  "+ + -  - - - - -", Open),
    (AssignDevice,       Full,  "+ + -  + + - - -", Shut),
    (DeleteDevice,       Full,  "+ - -  - - - - -", Open),
    (DeleteUnadmitted,   Full,  "+ + -  - - - - -", Open),
    (ShareView,          Full,  "+ + -  - - - - -", Open),
    (ManageFields,       Full,  "+ - -  - - - - -", Open),
    (ManageOrg,          Full,  "+ - -  - - - - -", Open),
    (SeeMembers,         Read,  "+ + +  - - - - -", Open),
    (ManageMembers,      Full,  "+ - -  - - - - -", Open),
    (ManageTeams,        Full,  "+ - -  - - - - -", Open),
    (SeeBilling,         Read,  "+ - -  - - - - -", Open),
    (SetLimits,          Full,  "+ - -  - - - - -", Open),
    (ReadAudit,          Read,  "+ - -  - - - - -", Open),
    (CreateProject,      Full,  "+ + -  - - - - -", Open),
    (ManageProject,      Full,  "+ - -  + - - - -", Open),
    (ManageParticipants, Full,  "+ - -  + + - - -", Shut),
    (SeeProject,         Read,  "+ - -  + + + + +", Open),
    (SeeProjectUsage,    Read,  "+ - -  + - - - -", Open),
    (Operate,            Reach, "- - -  + + + - -", Shut),
    (Connect,            Reach, "- - -  + + + + -", Shut),
    (ViewDevice,         Read,  "+ - -  + + + + +", Open),
    (EndSession,         Full,  "+ - -  + + - - -", Open),
    (WatchDevice,        Reach, "+ - -  + + + + +", ShutByProject),
];

const COLUMNS: [&str; 8] = ["owner", "member", "viewer", "admin", "maintain", "operate", "connect", "view"];

/// Whether somebody with one of these roles may, by the grid.
pub(crate) fn may(row: &Row, hats: &str) -> bool {
    let cells: Vec<&str> = row.2.split_whitespace().collect();
    assert_eq!(cells.len(), COLUMNS.len(), "{row:?}");
    hats.split_whitespace().any(|hat| cells[COLUMNS.iter().position(|column| *column == hat).unwrap()] == "+")
}

/// Roles of the organization among these.
pub(crate) fn of_org(hats: &str) -> String {
    hats.split_whitespace().filter(|hat| COLUMNS[..3].contains(hat)).collect::<Vec<_>>().join(" ")
}

/// Roles in the project among these.
pub(crate) fn of_project(hats: &str) -> String {
    hats.split_whitespace().filter(|hat| COLUMNS[3..].contains(hat)).collect::<Vec<_>>().join(" ")
}

/// The project `vault` is private, `hall` internal, `attic` private and archived; `shed` is private, with none of the targets.
pub(crate) const PLACES: [(&str, &str); 4] = [("vault", "private"), ("hall", "internal"), ("attic", "private"), ("shed", "private")];

/// How somebody proves who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A token, with its scope and the organization and project that it is limited to, if any.
    Token(Scope, &'static str, &'static str),
    /// A token of an account that this was done to, in SQL; and the code that tells it.
    Dead(&'static str, &'static str),
    /// Nothing at all.
    Nothing,
}

/// Somebody, somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) name: &'static str,
    /// Where the targets are.
    pub(crate) place: &'static str,
    /// The role in the organization that is given; "left" for somebody who was a member.
    pub(crate) org: &'static str,
    /// The role in the place that is given to the person.
    pub(crate) part: &'static str,
    /// The role in the place that is given to a team that the person is in.
    pub(crate) team: &'static str,
    /// What all of it makes of the person there, written by hand: columns of the grid.
    pub(crate) hats: &'static str,
    /// What it makes of the person in the organization as a whole, where that is more.
    pub(crate) elsewhere: &'static str,
    pub(crate) hub_owner: bool,
    /// No person, but a service account of the organization.
    pub(crate) service: bool,
    pub(crate) proof: Proof,
}

impl Standing {
    const fn team(self, role: &'static str) -> Self {
        Self { team: role, ..self }
    }

    const fn elsewhere(self, hats: &'static str) -> Self {
        Self { elsewhere: hats, ..self }
    }

    const fn token(self, scope: Scope, org: &'static str, project: &'static str) -> Self {
        Self { proof: Proof::Token(scope, org, project), ..self }
    }

    const fn dead(self, how: &'static str, code: &'static str) -> Self {
        Self { proof: Proof::Dead(how, code), ..self }
    }

    const fn service(self) -> Self {
        Self { service: true, ..self }
    }

    const fn hub_owner(self) -> Self {
        Self { hub_owner: true, ..self }
    }
}

const fn stands(name: &'static str, place: &'static str, org: &'static str, part: &'static str, hats: &'static str) -> Standing {
    let proof = Proof::Token(Full, "", "");
    Standing { name, place, org, part, team: "", hats, elsewhere: "", hub_owner: false, service: false, proof }
}

#[rustfmt::skip]
pub(crate) const STANDINGS: &[Standing] = &[
    stands("owner",                   "vault", "owner",  "",         "owner admin"),
    stands("member",                  "vault", "member", "",         "member"),
    stands("viewer",                  "vault", "viewer", "",         "viewer"),
    stands("owner-internal",          "hall",  "owner",  "",         "owner admin"),
    stands("member-internal",         "hall",  "member", "",         "member operate"),
    stands("viewer-internal",         "hall",  "viewer", "",         "viewer view"),

    stands("admin",                   "vault", "",       "admin",    "admin"),
    stands("maintain",                "vault", "",       "maintain", "maintain"),
    stands("operate",                 "vault", "",       "operate",  "operate"),
    stands("connect",                 "vault", "",       "connect",  "connect"),
    stands("view",                    "vault", "",       "view",     "view"),
    stands("admin-internal",          "hall",  "",       "admin",    "admin"),
    stands("maintain-internal",       "hall",  "",       "maintain", "maintain"),
    stands("operate-internal",        "hall",  "",       "operate",  "operate"),
    stands("connect-internal",        "hall",  "",       "connect",  "connect"),
    stands("view-internal",           "hall",  "",       "view",     "view"),
    stands("admin-by-team",           "vault", "",       "",         "admin").team("admin"),
    stands("maintain-by-team",        "vault", "",       "",         "maintain").team("maintain"),
    stands("operate-by-team",         "vault", "",       "",         "operate").team("operate"),
    stands("connect-by-team",         "vault", "",       "",         "connect").team("connect"),
    stands("view-by-team",            "vault", "",       "",         "view").team("view"),
    stands("admin-by-team-internal",  "hall",  "",       "",         "admin").team("admin"),
    stands("maintain-by-team-inside", "hall",  "",       "",         "maintain").team("maintain"),
    stands("operate-by-team-inside",  "hall",  "",       "",         "operate").team("operate"),
    stands("connect-by-team-inside",  "hall",  "",       "",         "connect").team("connect"),
    stands("view-by-team-internal",   "hall",  "",       "",         "view").team("view"),

    stands("member-and-admin",        "vault", "member", "admin",    "member admin"),
    stands("viewer-and-maintain",     "vault", "viewer", "maintain", "viewer maintain"),
    stands("viewer-and-team",         "vault", "viewer", "view",     "viewer maintain").team("maintain"),
    stands("view-and-team",           "vault", "",       "view",     "operate").team("operate"),
    stands("operate-and-less-team",   "vault", "",       "operate",  "operate").team("view"),
    stands("member-and-view",         "hall",  "member", "view",     "member operate"),

    stands("owner-archived",          "attic", "owner",  "",         "owner admin"),
    stands("member-archived",         "attic", "member", "maintain", "member maintain"),
    stands("admin-archived",          "attic", "",       "admin",    "admin"),
    stands("operate-archived",        "attic", "",       "operate",  "operate"),
    stands("team-archived",           "attic", "",       "",         "operate").team("operate"),
    stands("connect-archived",        "attic", "",       "connect",  "connect"),
    stands("view-archived",           "attic", "",       "view",     "view"),

    // Scopes take away, and never give. A token of one project is as a collaborator's.
    stands("owner-who-reads",         "vault", "owner",  "admin",    "owner admin").token(Read, "", ""),
    stands("owner-who-reaches",       "vault", "owner",  "admin",    "owner admin").token(Reach, "", ""),
    stands("operate-who-reads",       "vault", "",       "operate",  "operate").token(Read, "", ""),
    stands("operate-who-reaches",     "vault", "",       "operate",  "operate").token(Reach, "", ""),
    stands("view-who-reaches",        "vault", "",       "view",     "view").token(Reach, "", ""),
    stands("owner-of-acme-only",      "vault", "owner",  "",         "owner admin").token(Full, "acme", ""),
    stands("owner-of-vault-only",     "vault", "owner",  "",         "admin").token(Full, "acme", "vault"),
    stands("owner-of-shed-only",      "vault", "owner",  "",         "").token(Full, "acme", "shed").elsewhere("admin"),
    stands("vault-only-who-reads",    "vault", "owner",  "",         "admin").token(Read, "acme", "vault"),

    stands("service-member",          "vault", "member", "",         "member").service(),
    stands("service-of-vault",        "vault", "",       "operate",  "operate").service(),
    stands("service-of-hall",         "hall",  "viewer", "maintain", "viewer maintain").service(),

    stands("collaborator-elsewhere",  "vault", "",       "",         "").elsewhere("maintain"),
    stands("left",                    "vault", "left",   "maintain", "").team("admin"),
    stands("outsider",                "vault", "",       "",         ""),
    stands("hub-owner",               "vault", "",       "",         "").hub_owner(),
    stands("hub-owner-who-reads",     "vault", "",       "",         "").hub_owner().token(Read, "", ""),
    stands("expired",                 "vault", "owner",  "",         "").dead("UPDATE access_tokens SET expires_at = 1 WHERE account = ?1", "expired"),
    stands("set-aside",               "vault", "owner",  "",         "").dead("UPDATE accounts SET disabled_at = 1 WHERE id = ?1", "unauthenticated"),
    stands("closed",                  "vault", "owner",  "",         "").dead("UPDATE accounts SET closed_at = 1 WHERE id = ?1", "unauthenticated"),
    Standing { proof: Proof::Nothing, ..stands("nobody", "vault", "", "", "") },
];
