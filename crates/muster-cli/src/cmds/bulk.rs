//! Doing something to all devices that a filter matches: counted first, asked, then done if the number is still the same.

use muster_proto::api::{BulkAction, BulkRequest, BulkResult};

use super::confirm;
use super::sheet::count;
use crate::context::Context;
use crate::failure::Failure;

/// A request that is still to be filled.
pub(super) fn of(action: BulkAction, filter: String) -> BulkRequest {
    BulkRequest {
        action,
        filter: Some(filter),
        devices: None,
        expect: None,
        dry_run: false,
        reason: None,
        projects: Vec::new(),
        fields: std::collections::BTreeMap::new(),
        add_labels: Vec::new(),
        remove_labels: Vec::new(),
    }
}

/// Tries, asks, does.
pub(super) async fn run(context: &Context, mut wanted: BulkRequest, yes: bool) -> Result<u8, Failure> {
    let path = context.org_path("/devices/bulk").await?;
    wanted.dry_run = true;
    let tried: BulkResult = context.hub().post(&path, &wanted).await?;
    if tried.changed == 0 {
        let why = format!("{} match, and none of them would change.", count(tried.matched, "device"));
        context.out.done(&tried, why)?;
        return Ok(0);
    }
    let (verb, done) = words(wanted.action);
    let of = if tried.matched == tried.changed { String::new() } else { format!(" (of {} that match)", tried.matched) };
    confirm(yes, &format!("{verb} {}{of}?{}", count(tried.changed, "device"), warning(wanted.action)))?;
    wanted.dry_run = false;
    // What the person said yes to: another number is another question.
    wanted.expect = Some(tried.matched);
    let result: BulkResult = context.hub().post(&path, &wanted).await?;
    context.out.done(&result, format!("{done} {}.", count(result.changed, "device")))?;
    Ok(0)
}

fn words(action: BulkAction) -> (&'static str, &'static str) {
    match action {
        BulkAction::Admit => ("Admit", "Admitted"),
        BulkAction::Reject => ("Reject", "Rejected"),
        BulkAction::Revoke => ("Revoke", "Revoked"),
        BulkAction::Assign => ("Put into the project", "Put into the project:"),
        BulkAction::Unassign => ("Take out of the project", "Took out of the project:"),
        BulkAction::Edit => ("Change", "Changed"),
        BulkAction::Delete => ("Delete", "Deleted"),
    }
}

fn warning(action: BulkAction) -> &'static str {
    match action {
        BulkAction::Revoke => " Their links and sessions end at once.",
        BulkAction::Delete => " Their history goes with them.",
        BulkAction::Admit | BulkAction::Reject | BulkAction::Assign | BulkAction::Unassign | BulkAction::Edit => "",
    }
}
