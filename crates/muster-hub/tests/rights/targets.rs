//! Something fresh for each call to act on, made as its owner would make it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::caller::Answer;
use crate::cases::IMAGE;
use crate::stage::Stage;

/// What a call needs to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// Only a name that is not taken.
    Nothing,
    /// An admitted device in the place.
    Device,
    /// An admitted device in the place that has told its policy.
    Policy,
    /// A device in the place that waits to be admitted.
    Pending,
    /// An admitted device whose place another key asks for.
    Claimed,
    /// The place's device that has an MQTT link; it is shared.
    Linked,
    /// A session of the owner to the place's linked device.
    Session,
    /// A viewer of the organization.
    Member,
    /// A viewer of the organization who has `view` in the place.
    Participant,
    /// A team with an avatar and one person in it; and a viewer who is not in it.
    Team,
    /// A team, and the one of its two people who is no collaborator.
    TeamMember,
    /// A team that has `view` in the place.
    ProjectTeam,
    /// An invitation to the organization.
    Invitation,
    /// An invitation to the place.
    ProjectInvitation,
    /// A run of the owner's on the place's linked device.
    Run,
    /// A service account with a token.
    Service,
    /// A custom field.
    Field,
    /// A view that all see.
    View,
    /// The organization has a logo.
    Logo,
    /// The place is not archived.
    Open,
    /// The place is archived.
    Archived,
    /// An enrolment token that admits by itself.
    AutoToken,
    /// An enrolment token that leaves devices pending.
    ManualToken,
}

/// The names of a target, as routes and bodies call them.
pub(crate) type Target = BTreeMap<&'static str, String>;

/// A text with the target's names in place of theirs in braces.
pub(crate) fn filled(text: &str, target: &Target) -> String {
    target.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Makes it, in a project.
pub(crate) async fn fresh(stage: &Stage, what: Fresh, place: &str) -> Target {
    let count = stage.count.fetch_add(1, Ordering::Relaxed);
    let (new, number) = (format!("n{count}"), (1_000_000 + count).to_string());
    let mut target = Target::from([("org", "acme".to_owned()), ("project", place.to_owned()), ("new", new.clone()), ("number", number)]);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned();
    match what {
        Fresh::Nothing => {}
        Fresh::Device | Fresh::Policy | Fresh::Claimed => {
            let uid = text(&enrol(stage, &stage.tokens[place].0, &new).await["identity"], "uid");
            target.insert("device", uid.clone());
            if what == Fresh::Policy {
                let sql = "INSERT INTO device_policies (uid, text, own_user, t, told_at) VALUES (?1, '', 0, 1, 1)";
                assert_eq!(stage.write(move |tx| tx.execute(sql, [uid])).await, 1);
            }
            if what == Fresh::Claimed {
                let state = enrol(stage, &stage.tokens[place].0, &new).await;
                assert_eq!(state["state"], "replacement", "{state}");
            }
        }
        Fresh::Pending => {
            let state = enrol(stage, &stage.tokens[place].1, &new).await;
            assert_eq!(state["state"], "pending", "{state}");
            let device = stage.owner.get(&format!("/v1/orgs/acme/devices/{new}")).await;
            target.insert("device", text(&device, "uid"));
        }
        Fresh::Linked => drop(target.insert("device", stage.linked[place].uid.clone())),
        Fresh::Session => {
            let path = format!("/v1/orgs/acme/devices/{}/sessions", stage.linked[place].uid);
            let ticket = stage.owner.post(&path, json!({ "reason": new, "project": place })).await;
            target.insert("id", text(&ticket, "session"));
        }
        Fresh::Member | Fresh::Participant => {
            let email = stage.member();
            if what == Fresh::Participant {
                let path = format!("/v1/orgs/acme/projects/{place}/participants/{email}");
                stage.owner.put(&path, json!({ "role": "view" })).await;
            }
            target.insert("email", email);
        }
        Fresh::Team | Fresh::TeamMember | Fresh::ProjectTeam => {
            team(stage, what, place, &new).await;
            target.insert("team", new);
            target.insert("email", stage.member());
            if what == Fresh::TeamMember {
                stage.owner.put(&format!("/v1/orgs/acme/teams/{}/members/{}", target["team"], target["email"]), json!({})).await;
            }
        }
        Fresh::Invitation | Fresh::ProjectInvitation => {
            let email = format!("{new}@invited.example");
            let wanted = match what {
                Fresh::Invitation => json!({ "email": email, "role": "viewer" }),
                _ => json!({ "email": email, "project": place, "project_role": "view" }),
            };
            let made = stage.owner.post("/v1/orgs/acme/invitations", wanted).await;
            target.insert("id", text(&made, "id"));
        }
        Fresh::Run => {
            let path = format!("/v1/orgs/acme/devices/{}/runs", stage.linked[place].uid);
            let run = stage.owner.post(&path, json!({ "command": { "argv": ["true"] }, "project": place })).await;
            target.insert("id", text(&run, "id"));
        }
        Fresh::Service => {
            stage.owner.post("/v1/orgs/acme/service-accounts", json!({ "name": new })).await;
            let made = stage.owner.post(&format!("/v1/orgs/acme/service-accounts/{new}/tokens"), json!({ "name": "first" })).await;
            target.insert("id", text(&made, "id"));
            target.insert("name", new);
        }
        Fresh::Field => {
            stage.owner.post("/v1/orgs/acme/fields", json!({ "key": new, "kind": "text" })).await;
            target.insert("field", new);
        }
        Fresh::View => {
            stage.owner.post("/v1/orgs/acme/views", json!({ "name": new, "shared": true })).await;
            target.insert("view", new);
        }
        Fresh::Logo => drop(stage.owner.send("PUT", "/v1/orgs/acme/logo", IMAGE).await.ok()),
        Fresh::Open | Fresh::Archived => stage.set_archived(place, what == Fresh::Archived).await,
        Fresh::AutoToken | Fresh::ManualToken => {
            let admit = if what == Fresh::AutoToken { "auto" } else { "manual" };
            let made = stage.owner.post("/v1/orgs/acme/enrolment-tokens", json!({ "admit": admit })).await;
            target.insert("id", text(&made, "id"));
        }
    }
    target
}

/// The project where it is made, for those who need only one: what makes it archived must not archive the others'.
pub(crate) fn place_of(what: Fresh) -> &'static str {
    if what == Fresh::Archived { "attic" } else { "vault" }
}

/// A team with an avatar and one person in it.
async fn team(stage: &Stage, what: Fresh, place: &str, id: &str) {
    stage.owner.post("/v1/orgs/acme/teams", json!({ "id": id })).await;
    stage.owner.send("PUT", &format!("/v1/orgs/acme/teams/{id}/avatar"), IMAGE).await.ok();
    stage.owner.put(&format!("/v1/orgs/acme/teams/{id}/members/{}", stage.member()), json!({})).await;
    if what == Fresh::ProjectTeam {
        stage.owner.put(&format!("/v1/orgs/acme/projects/{place}/teams/{id}"), json!({ "role": "view" })).await;
    }
}

/// A device asks for a place on the list, with a new key, and gets it or a number to wait with.
async fn enrol(stage: &Stage, token: &str, serial: &str) -> Value {
    ask_to_enrol(stage, token, serial).await.ok()
}

/// A device asks for a place on the list, with a new key.
pub(crate) async fn ask_to_enrol(stage: &Stage, token: &str, serial: &str) -> Answer {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let body = json!({ "token": token, "serial": serial, "csr": csr, "facts": { "hostname": serial, "agent": "test" } });
    stage.nobody.send("POST", "/v1/enrol", &body.to_string()).await
}
