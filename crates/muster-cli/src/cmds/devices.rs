//! `muster devices`: the organization's list.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Admission, Device, Field, Page, PresenceState, View};
use muster_proto::wildcard::Wildcard;

use super::sheet;

use crate::cli::{Globals, one_of};
use crate::client::query;
use crate::complete;
use crate::context::{Context, is_close};
use crate::failure::Failure;
use crate::output::columns::{BUILT_IN, chosen_table};
use crate::output::devices::table;
use crate::output::note;
use crate::output::time::now;

const ADMISSIONS: &[(&str, Admission)] = &[
    ("pending", Admission::Pending),
    ("admitted", Admission::Admitted),
    ("rejected", Admission::Rejected),
    ("revoked", Admission::Revoked),
];
const PRESENCES: &[(&str, PresenceState)] =
    &[("online", PresenceState::Online), ("offline", PresenceState::Offline), ("never", PresenceState::Never)];

/// `muster devices`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
--filter takes comparisons joined by and, or, not and parentheses: = != < <= > >= ~ (contains), in (...), is empty.
Columns are the built-in ones (name, id, admission, online, project, label, cpu, mem, disk, last_seen, os, agent ...),
the organization's own fields by their keys (`muster field list`), and fact.NAME and usage.NAME. docs/cli.md has it all.

--project on the command line shows that project's devices; MUSTER_PROJECT and the saved project do not narrow the list,
so that no pending device is overlooked.

JSON: an array of devices with id (serial number), uid, name, admission, presence, why, last_seen, projects, labels,
fields, facts, usage (the newest sample), pairing_code, sessions and more; times are milliseconds since 1970 (UTC).

Examples:
  muster devices
  muster devices --pending
  muster devices 'robot-*' --offline
  muster devices --filter 'online = true and site = berlin and cpu > 80%' --sort -cpu
  muster devices --filter 'certificate < now+14d' --columns name,site,last_seen,certificate
  muster devices --view night-shift --limit 20
  muster devices export --filter 'label = spare' > spare.csv
  muster devices import new-devices.csv --dry-run
  muster devices --json | jq -r '.[] | [.name, .presence, .usage.values.cpu] | @tsv'"
)]
pub struct DevicesArgs {
    #[command(subcommand)]
    command: Option<sheet::SheetCommand>,
    #[command(flatten)]
    filter: Filter,
    /// Columns instead of the usual ones, separated by commas: built-in names, keys of fields, fact.NAME, usage.NAME
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Keep the list on the screen
    #[arg(long, short, conflicts_with_all = ["columns", "limit"])]
    watch: bool,
}

/// Which devices, in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Filter {
    /// Only devices whose name, serial number or uid contains this; `*` stands for anything
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Only devices for which this is true, such as 'online = true and site = berlin'
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    /// Only devices with this label; several times for several labels
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// A saved view: its filter, order and columns (`muster view list`)
    #[arg(long, value_name = "VIEW", add = ArgValueCompleter::new(complete::views))]
    view: Option<String>,
    /// Only devices with this admission
    #[arg(long, value_parser = one_of(ADMISSIONS), value_name = "ADMISSION")]
    admission: Option<Admission>,
    /// Only devices with this presence
    #[arg(long, value_parser = one_of(PRESENCES), value_name = "PRESENCE")]
    presence: Option<PresenceState>,
    /// Only devices that wait for a decision
    #[arg(long, conflicts_with = "admission")]
    pending: bool,
    /// Only devices that are online
    #[arg(long, conflicts_with_all = ["presence", "offline"])]
    online: bool,
    /// Only admitted devices that are not online
    #[arg(long, conflicts_with_all = ["presence", "admission", "pending"])]
    offline: bool,
    /// The order: columns separated by commas, highest first with a hyphen, such as -cpu,name
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true)]
    sort: Option<String>,
}

impl Filter {
    /// All devices, in an order.
    pub fn sorted_by(order: &str) -> Self {
        Self { sort: Some(order.to_owned()), ..Self::default() }
    }

    /// The query of these parameters, for the list and for its file.
    ///
    /// # Errors
    /// When the project named is none.
    pub fn pairs(&self, globals: &Globals) -> Result<Vec<(&'static str, Option<String>)>, Failure> {
        let admission = if self.pending { Some(Admission::Pending) } else { self.admission };
        let presence = if self.online { Some(PresenceState::Online) } else { self.presence };
        let of = ADMISSIONS.iter().find(|(_, known)| Some(*known) == admission).map(|(name, _)| (*name).to_owned());
        let there = PRESENCES.iter().find(|(_, known)| Some(*known) == presence).map(|(name, _)| (*name).to_owned());
        let mut all: Vec<String> = self.label.iter().map(|label| format!("label = {}", quoted(label))).collect();
        if self.offline {
            all.push("admission = admitted and online = false".to_owned());
        }
        let filter = match (self.filter.clone().filter(|filter| !filter.trim().is_empty()), all.is_empty()) {
            (filter, true) => filter,
            (None, false) => Some(all.join(" and ")),
            (Some(filter), false) => Some(format!("({filter}) and {}", all.join(" and "))),
        };
        Ok(vec![
            ("filter", filter),
            ("sort", self.sort.clone()),
            ("view", self.view.clone()),
            ("project", if globals.project_on_line { globals.project()?.map(String::from) } else { None }),
            ("admission", of),
            ("presence", there),
        ])
    }

    /// Whether it leaves anything out.
    fn is_narrow(&self, globals: &Globals) -> bool {
        let everything = Self { sort: self.sort.clone(), ..Self::default() };
        globals.project_on_line || *self != everything
    }

    /// Whether patterns have to be looked at here: the hub does not know them.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The devices that pass, in order; at most `limit`.
    ///
    /// # Errors
    /// As every call.
    pub async fn fetch(&self, context: &Context, globals: &Globals, limit: Option<usize>) -> Result<Vec<Device>, Failure> {
        let path = format!("{}{}", context.org_path("/devices").await?, query(self.pairs(globals)?));
        if self.patterns.is_empty() {
            return context.hub().list(&path, limit).await;
        }
        let most = limit.unwrap_or(usize::MAX);
        context.hub().list_while(&path, most, |device: &Device| (self.passes(device), true)).await
    }

    fn passes(&self, device: &Device) -> bool {
        let named =
            |pattern: &String| [device.name.as_str(), device.id.as_str(), device.uid.as_str()].iter().any(|name| matches(pattern, name));
        self.patterns.is_empty() || self.patterns.iter().any(named)
    }

    async fn view(&self, context: &Context) -> Result<Option<View>, Failure> {
        match &self.view {
            Some(name) => Ok(super::view::all(context).await?.into_iter().find(|view| view.name == *name)),
            None => Ok(None),
        }
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: &DevicesArgs) -> Result<u8, Failure> {
    if let Some(command) = &args.command {
        return sheet::run(context, globals, command).await;
    }
    if args.watch {
        return super::top::list(context, globals, &args.filter).await;
    }
    let devices = args.filter.fetch(context, globals, args.limit.map(|limit| limit as usize)).await?;
    let chosen = match (&args.columns, context.out.json) {
        (columns, _) if !columns.is_empty() => columns.clone(),
        (_, true) => Vec::new(),
        _ => args.filter.view(context).await?.map(|view| view.columns).unwrap_or_default(),
    };
    if !args.columns.is_empty() {
        check_columns(context, &devices, &args.columns).await?;
    }
    let nothing = if args.filter.is_narrow(globals) {
        "No devices match."
    } else {
        "No devices yet. To enrol one, create a token: muster token create"
    };
    context.out.list(
        &devices,
        nothing,
        |devices| if chosen.is_empty() { table(devices, now()) } else { chosen_table(devices, &chosen, now()) },
    )?;
    if !context.out.json && context.out.width.is_some() {
        let pending = devices.iter().filter(|device| device.admission == Admission::Pending).count();
        let replaced = devices.iter().filter(|device| device.replacement.is_some()).count();
        if pending > 0 {
            note(format!("\n{pending} pending: compare the code with the one on the device, then `muster device admit CODE`."));
        }
        if replaced > 0 {
            note(format!("\n{replaced} with another key that asks to take over: see `muster help device replace`."));
        }
    }
    Ok(0)
}

/// A text in a filter.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Refuses a column that is neither built in nor a field of the organization.
async fn check_columns(context: &Context, devices: &[Device], columns: &[String]) -> Result<(), Failure> {
    let known = |name: &str, fields: &[String]| {
        let field = name.strip_prefix("field.").unwrap_or(name);
        BUILT_IN.contains(&name) || name.starts_with("fact.") || name.starts_with("usage.") || fields.iter().any(|key| key == field)
    };
    let mut fields: Vec<String> = devices.iter().flat_map(|device| device.fields.keys().cloned()).collect();
    if columns.iter().all(|name| known(name.trim(), &fields)) {
        return Ok(());
    }
    // A field that is empty everywhere is one all the same.
    let page: Page<Field> = context.hub().get(&context.org_path("/fields").await?).await?;
    fields.extend(page.items.into_iter().map(|field| field.key));
    fields.sort();
    fields.dedup();
    match columns.iter().map(|name| name.trim()).find(|name| !known(name, &fields)) {
        None => Ok(()),
        Some(name) => {
            let all: Vec<&str> = BUILT_IN.into_iter().chain(fields.iter().map(String::as_str)).collect();
            let close: Vec<&str> = all.iter().copied().filter(|known| is_close(name, known)).take(3).collect();
            let meant = if close.is_empty() { String::new() } else { format!("did you mean {}?\n", close.join(" or ")) };
            Err(Failure::usage(format!("there is no column {name:?}"))
                .hint(format!("{meant}columns: {}, fact.NAME, usage.NAME", all.join(", "))))
        }
    }
}

/// Whether a name contains the pattern; with `*` in it, whether it is the pattern. Case does not matter.
fn matches(pattern: &str, name: &str) -> bool {
    match Wildcard::parse(pattern) {
        Some(pattern) => pattern.matches(name),
        None => name.to_lowercase().contains(&pattern.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::devices::tests::device;

    #[test]
    fn patterns() {
        for (pattern, name, yes) in [
            ("bot", "robot-7", true),
            ("BOT", "robot-7", true),
            ("robot-*", "robot-7", true),
            ("robot-*", "my-robot-7", false),
            ("*-7", "robot-7", true),
            ("r*t*7", "robot-7", true),
            ("r*t*8", "robot-7", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("ü*", "Über", true),
            ("", "x", true),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn flags_become_parameters() {
        let pairs = |filter: Filter| {
            let pairs = filter.pairs(&Globals::default()).unwrap();
            query(pairs)
        };
        assert_eq!(pairs(Filter::default()), "");
        assert_eq!(pairs(Filter { pending: true, ..Filter::sorted_by("-cpu") }), "?sort=-cpu&admission=pending");
        assert_eq!(pairs(Filter { filter: Some(" ".into()), ..Filter::default() }), "", "everything, for looking");
        let labelled = Filter { label: vec!["demo".into(), "a \"b\"".into()], ..Filter::default() };
        assert_eq!(labelled.pairs(&Globals::default()).unwrap()[0].1.as_deref(), Some(r#"label = "demo" and label = "a \"b\"""#));
        assert!(labelled.is_narrow(&Globals::default()) && !Filter::sorted_by("name").is_narrow(&Globals::default()));
        let both = Filter { filter: Some("a = b or c".into()), offline: true, ..Filter::default() };
        assert_eq!(pairs(both), "?filter=%28a%20%3D%20b%20or%20c%29%20and%20admission%20%3D%20admitted%20and%20online%20%3D%20false");
        let device = device("robot-10", Admission::Admitted, PresenceState::Offline);
        assert!(Filter { patterns: vec!["bot".into()], ..Filter::default() }.passes(&device));
    }
}
