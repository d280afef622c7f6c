//! Processes under test: their output in files, printed when the test fails; ended by their id when it is over.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

/// The environment variable that every process of a laboratory carries, children of children too.
pub const MARK: &str = "MUSTER_E2E_LAB";

/// A process that runs beside the test.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `folder/name.log`, appended to.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log in the laboratory");
        let err = out.try_clone().expect("a second handle of the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} ({:?}) does not start: {error}", command.get_program()));
        Self { name: name.to_owned(), child, log }
    }

    /// Everything that it wrote, over restarts under the same name.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("{} is gone already: {error}", self.name));
    }

    /// Whether it still runs; panics with its output when it should.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be asked") {
            panic!("{} ended by itself with {status}:\n{}", self.name, self.log());
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, limit, || self.child.try_wait().expect("a child can be asked"))
    }

    /// SIGTERM, and the promise that it goes within five seconds without being told twice.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(Duration::from_secs(6))
    }

    /// SIGKILL: no farewell.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until a line of its output holds `text`, and gives the line.
    #[track_caller]
    pub fn says(&mut self, text: &str, limit: Duration) -> String {
        let what = format!("{} says {text:?}", self.name);
        eventually(&what, limit, || {
            let found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            if found.is_none() {
                self.assert_alive();
            }
            found
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(150).collect();
            eprintln!("---- {} ({}) ----", self.name, ended.map_or("running".to_owned(), |status| status.to_string()));
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
        if ended.is_none() {
            self.kill();
        }
    }
}

/// Ends every process of a laboratory: sessions outlive their daemon on purpose.
pub fn end_marked(value: &str) {
    // Whoever was killed may have started one more at that moment.
    for _ in 0..3 {
        for pid in marked(value) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Processes that carry `MARK=value`, and all their descendants: a visitor's processes begin with an environment of their own.
pub fn marked(value: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={value}");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<Pid> = processes.flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect();
    let (mut found, rest): (Vec<Pid>, Vec<Pid>) = all.into_iter().partition(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    });
    let mut rest: Vec<(Pid, Option<Pid>)> =
        rest.into_iter().map(|pid| (pid, stat(pid, 1).and_then(|parent| Pid::from_raw(parent.parse().ok()?)))).collect();
    let mut looked_at = 0;
    while let Some(parent) = found.get(looked_at).copied() {
        looked_at += 1;
        found.extend(rest.extract_if(.., |(_, of)| *of == Some(parent)).map(|(pid, _)| pid));
    }
    found
}

/// A field of `/proc/PID/stat`, counted from 0 behind the name (proc(5)): 1 is the parent, 19 the time of its start.
fn stat(pid: Pid, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(field).map(str::to_owned)
}

/// Processes that were seen once. They are known again wherever they hang by then.
pub struct Seen(Vec<(Pid, String)>);

impl Seen {
    /// These, as far as they live.
    pub fn now(pids: impl IntoIterator<Item = Pid>) -> Self {
        Self(pids.into_iter().filter_map(|pid| Some((pid, stat(pid, 19)?))).collect())
    }

    /// How many of them live.
    pub fn alive(&self) -> usize {
        self.0.iter().filter(|(pid, start)| stat(*pid, 19).as_ref() == Some(start)).count()
    }

    /// Waits until none of them lives.
    #[track_caller]
    pub fn all_end(&self, limit: Duration) {
        eventually(&format!("all of {} processes end", self.0.len()), limit, || (self.alive() == 0).then_some(()));
    }
}
