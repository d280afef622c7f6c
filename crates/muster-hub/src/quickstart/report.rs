//! What the quickstart tells: what runs, the list, and commands that work as they are printed.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use muster_link::outln;
use muster_proto::api::{Admission, PresenceState, Sample};
use muster_proto::id::{DeviceUid, OrgId};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::files::{Folder, program, shell_quoted};
use crate::init::shorten;
use crate::serve::Running;
use crate::store::devices::{self, DeviceRow};

/// Devices that the list shows; it is for one machine.
const ROWS: usize = 50;

fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub(super) fn hub(folder: &Folder, hub: &Running) {
    let endpoints = &hub.state.endpoints;
    outln!("{}\n", bold("Muster quickstart"));
    outln!("  hub    {}, with its own certificate authority and database", endpoints.https);
    outln!("  MQTT   {}, and as WebSocket on the hub's port", endpoints.mqtt.url);
    outln!("  files  {}: everything that this makes is there", shorten(&folder.path));
    outln!("  logs   hub.log and musterd.log, there");
}

pub(super) fn policy(path: &Path, runs_as_root: bool) {
    let who = if runs_as_root { "root" } else { "you" };
    outln!("  policy {}: everyone in the project is {who} on this machine; for a trial, not for robots", shorten(path));
}

pub(super) fn waiting(name: &str) {
    outln!("  device {name}: enrolled and admitted; waiting for its first sample ...");
}

pub(super) async fn list(hub: &Running, org: &OrgId) -> Result<()> {
    let of = org.clone();
    let devices = hub.state.store.read(move |db| devices::page(db, &of, "", ROWS)).await?;
    let mut rows = vec![["NAME", "STATE", "CPU", "MEMORY", "LOAD", "PROJECTS"].map(str::to_owned)];
    rows.extend(devices.iter().map(|device| row(hub, device)));
    let widths: Vec<usize> = (0..6).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    outln!("\n{}\n", bold(&format!("Devices of {org}")));
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        outln!("  {}", cells.join("  ").trim_end());
    }
    Ok(())
}

fn row(hub: &Running, device: &DeviceRow) -> [String; 6] {
    let live = hub.state.ingest.live().get(&device.uid);
    let state = match (device.admission, live.presence) {
        (Admission::Admitted, PresenceState::Online) => "online",
        (Admission::Admitted, _) => "offline",
        (admission, _) => devices::admission_text(admission),
    };
    let value = |name: &str| live.usage.as_ref().and_then(|sample: &Sample| sample.values.get(name).copied());
    let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
    let memory = match (value("mem"), value("mem_total")) {
        (Some(used), Some(total)) => format!("{:.1} of {:.1} GiB", used / 1_073_741_824.0, total / 1_073_741_824.0),
        _ => "-".to_owned(),
    };
    let projects: Vec<&str> = device.projects.iter().map(AsRef::as_ref).collect();
    [
        harmless(&device.name),
        state.to_owned(),
        value("cpu").map_or_else(|| "-".to_owned(), percent),
        memory,
        value("load1").map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")),
        projects.join(", "),
    ]
}

/// A name from a device must not write to the terminal's controls.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if crate::words::is_hidden(c) { '?' } else { c }).collect()
}

pub(super) async fn try_next(folder: &Folder, hub: &Running, uid: &DeviceUid) -> Result<()> {
    let by_uid = uid.clone();
    let device = hub.state.store.read(move |db| devices::by_uid(db, &by_uid)).await?;
    let name = device.map(|device| shell_quoted(&device.name)).unwrap_or_else(|| uid.to_string());
    outln!("\n{}\n", bold("Try, in another terminal"));
    if program("muster").is_none() {
        outln!("  There is no `muster` beside this program nor on the PATH; build it first: cargo build --bins");
    }
    let port = hub.https.port();
    let mut commands = vec![
        (format!(". {}", shell_quoted(&shorten(&folder.env_file()))), "say who you are and where the hub is"),
        ("muster devices".to_owned(), "the list"),
        ("muster top".to_owned(), "the list, live"),
        (format!("muster device show {name}"), "all that is known of this machine"),
        (format!("muster shell {name} -- uname -a"), "one command there"),
        (format!("muster shell {name}"), "a terminal there"),
        (format!("muster forward {name} 10443:{port}"), "its port, here (this one is the hub's own)"),
    ];
    if answers(22).await {
        commands.push((format!("muster ssh {name}"), "plain OpenSSH, through the hub"));
    }
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    for (command, what) in commands {
        outln!("  {command:<width$}   # {what}");
    }
    outln!("\nCtrl-C stops hub and device, and ends open sessions. (Sessions survive a restart of a real hub.)");
    Ok(())
}

/// Whether something listens on this machine's loopback.
async fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    matches!(timeout(Duration::from_millis(500), TcpStream::connect(address)).await, Ok(Ok(_)))
}
