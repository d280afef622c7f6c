//! What devices tell of their policies. It is kept for people to read, and the hub decides nothing by it.

use muster_proto::api::DevicePolicy;
use muster_proto::id::DeviceUid;
use muster_proto::mqtt::PolicyReport;

use super::{Ingest, Refused};
use crate::clock;
use crate::store::{policies, telemetry};
use crate::words::{lines, plain};

/// A refusal's code, in characters.
const CODE_MAX: usize = 64;
/// A refusal's sentence, in characters: it stands in each row of the device list.
const FAULT_MAX: usize = 500;

impl Ingest {
    pub(super) async fn policy(&self, uid: &DeviceUid, payload: &[u8]) -> Result<(), Refused> {
        let report = PolicyReport::decode(payload)?;
        let policy = DevicePolicy {
            text: report.text.map(|text| lines(&text)),
            code: report.code.map(|code| plain(&code, CODE_MAX)),
            fault: report.fault.map(|fault| plain(&fault, FAULT_MAX)),
            own_user: report.own_user,
            t: report.t,
            told_at: clock::now(),
        };
        let (owner, live) = (uid.clone(), self.0.live.clone());
        let written = self.0.store.write_patiently(move |tx| {
            if !telemetry::is_admitted(tx, &owner)? {
                return Ok(false);
            }
            policies::put(tx, &owner, &policy)?;
            // In the writer's order, so that the list ends where the store ends.
            live.put_policy(&owner, policy.own_user, policy.fault.or(policy.code));
            Ok(true)
        });
        if !written.await? {
            return Err(Refused::NotAdmitted);
        }
        self.heard(uid, None).await?;
        Ok(())
    }
}
