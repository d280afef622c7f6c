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

/// Ends every process that carries `MARK=value`: session workers outlive their daemon on purpose.
pub fn end_marked(value: &str) {
    for pid in marked(value) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Processes that carry `MARK=value` and whose command line holds no test of ours.
pub fn marked(value: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={value}");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
}
