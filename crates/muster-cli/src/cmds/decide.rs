//! Deciding about devices: admit, reject, revoke, replace, renew, delete, one or many at once.
//!
//! Each device is resolved first, so that the question names what will be changed, and changed by its uid, so that it is that one.

use muster_proto::api::{Admission, Device, DeviceDecision, DeviceEdit, PresenceState};
use muster_proto::id::ProjectId;

use super::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;

/// Does something for each; one that fails does not stop the others. The exit code is that of the first failure.
///
/// # Errors
/// The only one's failure, or the last one's when several were wanted; earlier ones are told on standard error.
pub async fn each<T: AsRef<str>>(names: &[T], act: impl AsyncFn(&str) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut first = None;
    for name in names {
        match act(name.as_ref()).await {
            Ok(()) => {}
            // Nothing else will work either, or nobody reads.
            Err(failure) if names.len() == 1 || failure.exit == crate::failure::Exit::Unreachable as u8 || failure.message.is_empty() => {
                return Err(failure);
            }
            Err(failure) => {
                note(format!("muster: {}: {failure}", name.as_ref()));
                if let Some(hint) = &failure.hint {
                    note(hint);
                }
                first = first.or(Some(failure.exit));
            }
        }
    }
    Ok(first.unwrap_or(0))
}

/// What is decided.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It belongs.
    Admit {
        /// It joins these projects.
        projects: Vec<ProjectId>,
        /// It gets this name.
        name: Option<String>,
    },
    /// It does not belong.
    Reject {
        /// Why.
        reason: Option<String>,
    },
    /// It belongs no more.
    Revoke {
        /// Why.
        reason: Option<String>,
    },
    /// The new key takes the row over.
    Replace,
    /// It gets a new certificate now.
    Renew,
    /// The row goes.
    Delete,
}

impl Decision {
    fn question(&self, device: &Device) -> Option<String> {
        let what = format!("{} (serial {}, {})", device.name, device.id, crate::output::devices::state(device).0);
        match self {
            Self::Admit { .. } | Self::Reject { .. } | Self::Renew => None,
            Self::Revoke { .. } => Some(format!(
                "Revoke {what}? Its link and its sessions end at once. Its key is no longer accepted, unless you admit the device again."
            )),
            Self::Replace => Some(format!("Let the new key take over {what}? The old key never works again.")),
            Self::Delete => Some(format!("Delete {what} with its history?")),
        }
    }
}

/// Decides about each device.
///
/// # Errors
/// As every call.
pub async fn decide(context: &Context, names: &[String], decision: &Decision, yes: bool) -> Result<u8, Failure> {
    each(names, async |name| {
        let device = context.device(name).await?;
        if let Some(question) = decision.question(&device) {
            confirm(yes, &question)?;
        }
        one(context, &device, name, decision).await
    })
    .await
}

async fn one(context: &Context, device: &Device, named: &str, decision: &Decision) -> Result<(), Failure> {
    let (hub, out) = (context.hub(), &context.out);
    let path = context.device_path(device.uid.as_str(), "").await?;
    let reasoned = |reason: &Option<String>| DeviceDecision { reason: reason.clone() };
    match decision {
        Decision::Admit { projects, name } => {
            // First its place, then its admission: it never appears where it should not.
            if !projects.is_empty() || name.is_some() {
                let edit = DeviceEdit { name: name.clone(), add_projects: projects.clone(), ..DeviceEdit::default() };
                let _: Device = hub.patch(&path, &edit).await?;
            }
            let admitted: Device = hub.post(&format!("{path}/admit"), &DeviceDecision::default()).await?;
            let projects = admitted.projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let place = if projects.is_empty() {
                "in no project yet: see `muster project add-devices`".to_owned()
            } else {
                format!("in {projects}")
            };
            out.done(&admitted, format!("Admitted {} (serial {}), {place}.", admitted.name, admitted.id))?;
            warn_of_twins(context, &admitted).await
        }
        Decision::Reject { reason } => {
            let rejected: Device = hub.post(&format!("{path}/reject"), &reasoned(reason)).await?;
            let what = if device.replacement.is_some() && rejected.admission == Admission::Admitted {
                "Rejected the other key that asked for"
            } else {
                "Rejected"
            };
            out.done(&rejected, format!("{what} {} (serial {}).", rejected.name, rejected.id))
        }
        Decision::Revoke { reason } => {
            let revoked: Device = hub.post(&format!("{path}/revoke"), &reasoned(reason)).await?;
            out.done(&revoked, format!("Revoked {} (serial {}).", revoked.name, revoked.id))
        }
        Decision::Replace => {
            // Where several keys ask, the code says which; the hub asks for it otherwise.
            let code =
                (named != device.name && named != device.id.as_str() && named != device.uid.as_str()).then(|| named.to_ascii_uppercase());
            let replaced: Device = hub.post(&format!("{path}/replace"), &serde_json::json!({ "pairing_code": code })).await?;
            out.done(&replaced, format!("{} (serial {}) now has the new key.", replaced.name, replaced.id))
        }
        Decision::Renew => {
            let asked: Device = hub.post(&format!("{path}/renew"), &serde_json::json!({})).await?;
            let when = if asked.presence == PresenceState::Online { "now" } else { "when it is back, within a day" };
            out.done(&asked, format!("{} (serial {}) renews its certificate {when}.", asked.name, asked.id))
        }
        Decision::Delete => {
            hub.delete(&path).await?;
            out.done(device, format!("Deleted {} (serial {}).", device.name, device.id))
        }
    }
}

/// Says so where another device bears the same name: neither can be named by it then.
///
/// # Errors
/// As every call.
pub async fn warn_of_twins(context: &Context, device: &Device) -> Result<(), Failure> {
    let filter = format!("name = {}", super::devices::quoted(&device.name));
    let path = format!("{}{}", context.org_path("/devices").await?, crate::client::query([("filter", Some(filter))]));
    let same: Vec<Device> = context.hub().list(&path, Some(3)).await?;
    if same.len() > 1 {
        note(format!(
            "Warning: another device is called {}, too. Use the serial number ({}) or the uid ({}) for this one.",
            device.name, device.id, device.uid
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::failure::Exit;

    #[tokio::test]
    async fn one_that_fails_does_not_stop_the_others() {
        let seen = RefCell::new(Vec::new());
        let code = each(&["a", "b", "c"], async |name| {
            seen.borrow_mut().push(name.to_owned());
            if name == "b" { Err(Failure::new(Exit::NotFound, "no b")) } else { Ok(()) }
        })
        .await;
        assert_eq!((code.ok(), seen.take().len()), (Some(4), 3));
        let failure = each(&["a"], async |_| Err(Failure::new(Exit::Denied, "no"))).await;
        assert_eq!(failure.unwrap_err().exit, 3);
        let failure = each(&["a", "b"], async |_| Err(Failure::new(Exit::Unreachable, "gone"))).await;
        assert_eq!(failure.unwrap_err().exit, 6);
    }

    #[test]
    fn what_cannot_be_undone_asks() {
        let device = crate::output::devices::tests::device("robot-7", Admission::Admitted, PresenceState::Online);
        let asks = |decision: Decision| decision.question(&device).is_some();
        assert!(asks(Decision::Revoke { reason: None }) && asks(Decision::Delete) && asks(Decision::Replace));
        assert!(!asks(Decision::Admit { projects: Vec::new(), name: None }) && !asks(Decision::Reject { reason: None }));
    }
}
