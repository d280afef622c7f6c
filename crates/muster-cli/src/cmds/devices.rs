//! `muster devices`: the organization's list.

use clap::{Args, ValueEnum};
use muster_proto::api::{Admission, Device, PresenceState};

use crate::cli::{Globals, one_of};
use crate::client::query;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::devices::{share, table};
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
#[command(after_help = "\
--project on the command line shows that project's devices; MUSTER_PROJECT and the saved project do not narrow the list,
so that no pending device is overlooked.

JSON: an array of devices with id (serial number), uid, name, admission, presence, why, last_seen, projects, facts,
usage (the newest sample), pairing_code, sessions and more; times are milliseconds since 1970 (UTC).

Examples:
  muster devices
  muster devices --pending
  muster devices 'robot-*' --offline
  muster devices --project lab --sort cpu
  muster devices --json | jq -r '.[] | [.name, .presence, .usage.values.cpu] | @tsv'")]
pub struct DevicesArgs {
    #[command(flatten)]
    filter: Filter,
    /// Keep the list on the screen, as `muster top` does
    #[arg(long, short)]
    watch: bool,
}

/// Which devices, in which order.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only devices whose name, serial number or uid contains this; `*` stands for anything
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
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
    /// The order
    #[arg(long, value_enum, default_value_t, value_name = "BY")]
    sort: Order,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Order {
    #[default]
    Name,
    Seen,
    Cpu,
    Mem,
    Created,
}

impl Filter {
    /// All devices, in an order that is given by its name.
    pub fn sorted_by(order: &str) -> Self {
        Self { sort: Order::from_str(order, true).unwrap_or_default(), ..Self::default() }
    }

    /// The devices that pass, in order.
    ///
    /// # Errors
    /// As every call.
    pub async fn fetch(&self, context: &Context, globals: &Globals) -> Result<Vec<Device>, Failure> {
        let admission = if self.pending { Some(Admission::Pending) } else { self.admission };
        let presence = if self.online { Some(PresenceState::Online) } else { self.presence };
        let name_of =
            |list: &[(&'static str, Admission)], value| list.iter().find(|(_, known)| *known == value).map(|(name, _)| (*name).to_owned());
        let asked = query([
            ("project", if globals.project_on_line { globals.project()?.map(String::from) } else { None }),
            ("admission", admission.and_then(|value| name_of(ADMISSIONS, value))),
            (
                "presence",
                presence.and_then(|value| PRESENCES.iter().find(|(_, known)| *known == value).map(|(name, _)| (*name).to_owned())),
            ),
        ]);
        let mut devices: Vec<Device> = context.hub().list(&format!("{}{asked}", context.org_path("/devices").await?), None).await?;
        devices.retain(|device| self.passes(device));
        self.order(&mut devices);
        Ok(devices)
    }

    fn passes(&self, device: &Device) -> bool {
        let named =
            |pattern: &String| [device.name.as_str(), device.id.as_str(), device.uid.as_str()].iter().any(|name| matches(pattern, name));
        let offline = device.admission == Admission::Admitted && device.presence != PresenceState::Online;
        (self.patterns.is_empty() || self.patterns.iter().any(named)) && (!self.offline || offline)
    }

    fn order(&self, devices: &mut [Device]) {
        let value = |device: &Device, name: &str| device.usage.as_ref().and_then(|sample| sample.values.get(name).copied());
        let mem = |device: &Device| device.usage.as_ref().and_then(|sample| share(sample, "mem", "mem_total"));
        // By name first: the later sorts keep that order among equals.
        devices.sort_by_cached_key(|device| natural(&device.name));
        let highest = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        match self.sort {
            Order::Name => {}
            Order::Seen => devices.sort_by_key(|device| std::cmp::Reverse(device.last_seen)),
            Order::Created => devices.sort_by_key(|device| std::cmp::Reverse(device.created_at)),
            Order::Cpu => devices.sort_by(|a, b| highest(value(a, "cpu"), value(b, "cpu"))),
            Order::Mem => devices.sort_by(|a, b| highest(mem(a), mem(b))),
        }
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: &DevicesArgs) -> Result<u8, Failure> {
    if args.watch {
        return super::top::list(context, globals, &args.filter).await;
    }
    let devices = args.filter.fetch(context, globals).await?;
    context.out.list(&devices, "no such devices: `muster token create` makes a token that enrols one", |devices| table(devices, now()))?;
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

/// Whether a name contains the pattern; with `*` in it, whether it is the pattern. Case does not matter.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_lowercase(), name.to_lowercase());
    if !pattern.contains('*') {
        return name.contains(&pattern);
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.len() >= part.len() && rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// A key by which `robot-2` stands before `robot-10`.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - text);
        // A text before its number: names that share the text are ordered by the number.
        key.push((0, rest[..text].to_lowercase()));
        if digits > 0 {
            key.push((rest[text..text + digits].parse().unwrap_or(u64::MAX), String::new()));
        }
        rest = &rest[text + digits..];
    }
    key
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
    fn numbers_in_order() {
        let mut names = ["robot-10", "robot-2", "edge", "robot", "Robot-1", "9", "99999999999999999999999"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["9", "99999999999999999999999", "edge", "robot", "Robot-1", "robot-2", "robot-10"]);
    }

    #[test]
    fn filters_and_orders() {
        let filter =
            Filter { patterns: vec![], admission: None, presence: None, pending: false, online: false, offline: true, sort: Order::Cpu };
        let mut list = [
            device("robot-10", Admission::Admitted, PresenceState::Offline),
            device("robot-2", Admission::Admitted, PresenceState::Never),
            device("robot-1", Admission::Admitted, PresenceState::Online),
        ];
        assert_eq!(list.iter().filter(|device| filter.passes(device)).count(), 2);
        list[0].usage = None;
        filter.order(&mut list);
        assert_eq!(list.map(|device| device.name), ["robot-1", "robot-2", "robot-10"]);
    }
}
