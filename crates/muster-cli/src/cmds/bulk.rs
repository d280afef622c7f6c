//! Doing something to all devices that a filter matches: counted first, asked, then done if the number is still the same.

use muster_proto::api::{BulkAction, BulkRequest, BulkResult};

use super::confirm;
use super::sheet::count;
use crate::context::Context;
use crate::failure::Failure;

/// Which devices are changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meant {
    /// Those for which a filter is true.
    Matching(String),
    /// Every one.
    All,
}

impl Meant {
    /// From `--filter` and `--all`; nothing where neither was given.
    pub(super) fn given(filter: Option<String>, all: bool) -> Option<Self> {
        if all { Some(Self::All) } else { filter.map(Self::Matching) }
    }
}

/// A filter of a change: an empty one, as from a variable that is not set, does not mean every device.
pub(super) fn filter(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the filter is empty. To mean every device, use --all".to_owned());
    }
    Ok(text.to_owned())
}

/// A request that is still to be filled.
pub(super) fn of(action: BulkAction, meant: Meant) -> BulkRequest {
    BulkRequest {
        action,
        all: matches!(meant, Meant::All),
        filter: match meant {
            Meant::All => None,
            Meant::Matching(filter) => Some(filter),
        },
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
