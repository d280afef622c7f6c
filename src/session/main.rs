//! `musterd-session`: one remote session, or one run, on this device.
//!
//! | command | runs as | is |
//! |---|---|---|
//! | `serve` | root (or the trial's own user) | the privileged part; descriptor 0 is the daemon's connection |
//! | `net` | `musterd-net` | the network side of a session; descriptor 0 is its channel |
//! | `collect` | `musterd-net` | the collector of a run's output; descriptor 0 is its channel |
//! | `listen` | root | what the socket unit of systemd does, elsewhere |
//! | `clean` | root | ends what a killed `serve` left in scopes of logind; systemd starts it after the unit's end |
//!
//! It knows nothing of MQTT, and nothing of the daemon but what stands in `musterd::handoff`.

#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic: see `muster_link::print`

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use musterd::handoff::{ANCHOR, RUN_DIR, STATE_DIR};

mod channel;
mod collector;
mod network;
mod privileged;

/// Wrong usage.
const USAGE: u8 = 2;
const HELP: &str = "\
musterd-session: serves one remote session or one run on this device; musterd, systemd or `musterd sessiond` start it

Usage: musterd-session serve|listen [--policy FILE] [--anchor FILE] [--run-dir DIR] [--state-dir DIR] [--group NUMBER]
       musterd-session net|collect      (started by `serve`)
       musterd-session clean            (started by systemd when `serve` has ended)
       musterd-session --help|--version
";

/// Where the owner's files are, and where this program keeps its own. Never what the daemon says.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The device's policy.
    pub(crate) policy: PathBuf,
    /// Which hub is obeyed.
    pub(crate) anchor: PathBuf,
    /// Sockets; gone after a reboot.
    pub(crate) run: PathBuf,
    /// Used orders; survives a reboot.
    pub(crate) state: PathBuf,
}

impl Places {
    /// The same as arguments.
    pub(crate) fn arguments(&self) -> [&std::ffi::OsStr; 8] {
        let path = |path: &'static str| std::ffi::OsStr::new(path);
        [
            path("--policy"),
            self.policy.as_os_str(),
            path("--anchor"),
            self.anchor.as_os_str(),
            path("--run-dir"),
            self.run.as_os_str(),
            path("--state-dir"),
            self.state.as_os_str(),
        ]
    }
}

/// Closes what whoever started us left open: nothing of it is to reach a visitor.
#[expect(unsafe_code, reason = "descriptors that belong to nobody in this program")]
fn close_strange() {
    // SAFETY: nothing of ours is open yet but the standard three.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Linux before 5.9.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: see above; the one that listed them is closed already, which is an error and no harm.
        unsafe { libc::close(fd) };
    }
}

/// Descriptor 0, by which whoever started this process speaks with it. Nothing that is started later has it by accident.
pub(crate) fn take_stdin() -> std::io::Result<OwnedFd> {
    let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    Ok(fd)
}

fn main() -> ExitCode {
    close_strange();
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let mut places =
        Places { policy: "/etc/musterd/policy.toml".into(), anchor: ANCHOR.into(), run: RUN_DIR.into(), state: STATE_DIR.into() };
    let mut group = None;
    while let Some(name) = arguments.next() {
        let Some(value) = arguments.next() else { return usage() };
        match name.to_str() {
            Some("--policy") => places.policy = value.into(),
            Some("--anchor") => places.anchor = value.into(),
            Some("--run-dir") => places.run = value.into(),
            Some("--state-dir") => places.state = value.into(),
            Some("--group") => match value.to_str().and_then(|number| number.parse().ok()) {
                Some(number) => group = Some(number),
                None => return usage(),
            },
            _ => return usage(),
        }
    }
    match command.to_str() {
        Some("serve") => privileged::serve(&places),
        Some("listen") => privileged::listen(&places, group),
        Some("clean") => {
            privileged::end_recorded(&places);
            ExitCode::SUCCESS
        }
        Some("net") => network::run(),
        Some("collect") => collector::run(),
        Some("--help" | "-h" | "help") => {
            print(HELP);
            ExitCode::SUCCESS
        }
        Some("--version" | "-V") => {
            print(concat!("musterd-session ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), HELP.as_bytes());
    ExitCode::from(USAGE)
}

fn print(text: &str) {
    // Nobody may read it.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}
