//! The ground: one device whose parts run as users of their own, and the users whom its visitors become.
//!
//! All users but `musterd-net` (which the package makes) exist for this test alone, and are removed with all of their processes.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;
use serde_json::Value;

use crate::lab::{HEARTBEAT_S, Lab, SOON, ok};
use crate::people::Person;
use crate::process::Process;
use crate::programs;
use crate::wait::{eventually, pause};

/// The device in the list.
pub const ROBOT: &str = "robot-1";
/// Whom admins and operators become.
pub const PI: &str = "muster-t-pi";
/// Whom everybody else becomes.
pub const GUEST: &str = "muster-t-guest";
/// Whom one person becomes.
pub const EVE: &str = "muster-t-eve";
/// The daemon's user.
pub const DAEMON: &str = "muster-t-daemon";
/// The user of the network side, as the package makes it.
pub const NET: &str = "musterd-net";
/// The person who becomes [`EVE`].
pub const EVE_PERSON: &str = "eve@example.org";

const USERS: [&str; 4] = [PI, GUEST, EVE, DAEMON];
/// One suite at a time: the users are the same ones.
const ONE_AT_A_TIME: &str = "/run/lock/muster-attacks.lock";

/// The device.
pub struct Ground<'a> {
    /// The hub and its people.
    pub lab: &'a Lab,
    folder: tempfile::TempDir,
    daemon: Option<Process>,
    service: Option<Process>,
    /// The organization's owner, who becomes [`PI`].
    pub owner: Person,
    /// Who becomes [`EVE`].
    pub eve: Person,
    /// Who becomes [`GUEST`].
    pub guest: Person,
    _alone: File,
}

impl<'a> Ground<'a> {
    /// Makes users, folders and policy, enrols, and starts everything.
    pub fn new(lab: &'a Lab) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this suite needs root, because it makes users and becomes them: run `sudo make check`, or run the others with `cargo test`"
        );
        let alone = File::create(ONE_AT_A_TIME).unwrap();
        flock(&alone, FlockOperation::LockExclusive).unwrap();
        let folder = tempfile::Builder::new().prefix("muster-attacks-").tempdir().unwrap();
        let owner = Person::owner(lab, PI);
        let [eve, guest] = [(EVE_PERSON, EVE), ("guest@example.org", GUEST)].map(|(email, user)| Person::collaborator(lab, email, user));
        let mut ground = Self { lab, folder, daemon: None, service: None, owner, eve, guest, _alone: alone };
        ground.make_users();
        ground.make_folders();
        ground.policy(&ground.usual_policy());
        let token = lab.enrolment_token(&["--project", "lab", "--admit", "auto", "--uses", "1"]);
        ok(&mut ground.musterd(&["enrol", &lab.url, &token]));
        ground.start_service();
        ground.start_daemon();
        lab.online(ROBOT);
        ground
    }

    /// A path of the device.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn make_users(&self) {
        fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in USERS {
            // One that a killed run left.
            remove_user(name);
            let home = self.at(&format!("homes/{name}"));
            useradd(&["--user-group", "--no-create-home", "--shell", "/bin/sh", "--home-dir"], Some(&home), name);
            fs::create_dir_all(&home).unwrap();
            chown(&home, Some(id(name)), Some(gid(name))).unwrap();
            fs::set_permissions(&home, PermissionsExt::from_mode(0o750)).unwrap();
        }
        if find(NET).is_none() {
            useradd(&["--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"], None, NET);
        }
    }

    fn make_folders(&self) {
        for (dir, mode, owner) in
            [("bin", 0o755, "root"), ("etc", 0o755, "root"), ("proof", 0o1777, "root"), ("state", 0o700, DAEMON), ("run", 0o755, DAEMON)]
        {
            let path = self.at(dir);
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(id(owner)), Some(gid(owner))).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let built = programs::musterd();
        for program in ["musterd", "musterd-session"] {
            // Where every user can start them; the build may lie in somebody's home.
            fs::copy(built.with_file_name(program), self.at("bin").join(program)).unwrap();
        }
        let at = self.folder.path().display();
        let config = format!(
            "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\npolicy = \"{at}/etc/policy.toml\"\nanchor = \"{at}/etc/hub.json\"\n\
             session_dir = \"{at}/priv\"\n[identity]\nserial = \"{ROBOT}\"\n[heartbeat]\nevery_s = {HEARTBEAT_S}\n[log]\nlevel = \"debug\"\n"
        );
        fs::write(self.at("etc/config.toml"), config).unwrap();
    }

    /// The policy of the suite, without sections but `[users]`.
    pub fn users(&self) -> String {
        format!(
            "[users]\ndefault = \"{GUEST}\"\n[users.roles]\nadmin = \"{PI}\"\noperate = \"{PI}\"\n[users.people]\n\"{EVE_PERSON}\" = \"{EVE}\"\n"
        )
    }

    /// What stands in the policy between attacks.
    pub fn usual_policy(&self) -> String {
        format!("{}[run]\nat_once = 4\n[tcp]\nallow = []\n", self.users())
    }

    /// Writes the policy as its owner would.
    pub fn policy(&self, text: &str) {
        let path = self.policy_path();
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    }

    /// Where the policy is.
    pub fn policy_path(&self) -> PathBuf {
        self.at("etc/policy.toml")
    }

    /// `musterd ARGUMENTS...` on the device as root, not run yet.
    pub fn musterd(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.marked(&self.at("bin/musterd"));
        command.arg("--config").arg(self.at("etc/config.toml")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Starts the daemon as its own user.
    pub fn start_daemon(&mut self) {
        let mut command = self.musterd(&["run"]);
        command.uid(id(DAEMON)).gid(gid(DAEMON));
        self.daemon = Some(Process::start("daemon", self.folder.path(), command));
    }

    /// Starts the service for sessions as root.
    pub fn start_service(&mut self) {
        let command = self.lab.marked(&self.at("bin/musterd-session"));
        self.start_service_as(command);
    }

    /// The same where no control groups are to be had: in a mount namespace without that file system.
    pub fn start_service_without_groups(&mut self) {
        let mut command = self.lab.marked(&programs::system("unshare"));
        let unmount = "for at in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount -l $at; done; exec \"$0\" \"$@\"";
        command.args(["--mount", "sh", "-c", unmount]).arg(self.at("bin/musterd-session"));
        self.start_service_as(command);
    }

    fn start_service_as(&mut self, mut command: Command) {
        command.arg("listen").arg("--policy").arg(self.policy_path()).arg("--anchor").arg(self.at("etc/hub.json"));
        command.arg("--run-dir").arg(self.at("priv")).arg("--state-dir").arg(self.at("privstate"));
        command.args(["--group", &gid(DAEMON).to_string()]);
        self.service = Some(Process::start("service", self.folder.path(), command));
        let socket = self.at("priv/start.sock");
        eventually("the service for sessions listens", SOON, || std::os::unix::net::UnixStream::connect(&socket).ok());
    }

    /// Stops the service as a supervisor would.
    pub fn stop_service(&mut self) {
        assert!(self.service().stop().success());
    }

    /// The service for sessions.
    pub fn service(&mut self) -> &mut Process {
        self.service.as_mut().unwrap()
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Process {
        self.daemon.as_mut().unwrap()
    }

    /// What lives on the device, as root sees it.
    pub fn living(&self) -> Vec<Value> {
        let output = ok(&mut self.musterd(&["sessions", "--json"]));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    }

    /// Waits until nothing of a visitor is left: neither a session nor a process.
    pub fn is_empty(&self, limit: Duration) -> bool {
        self.is_empty_without(&[], limit)
    }

    /// The same, and that these processes of ours are collected, too.
    pub fn is_empty_without(&self, parts: &[i32], limit: Duration) -> bool {
        let until = std::time::Instant::now() + limit;
        while std::time::Instant::now() < until {
            let visitors = [PI, GUEST, EVE].iter().all(|user| processes_of(user).is_empty());
            if visitors && self.living().is_empty() && !parts.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                return true;
            }
            pause(Duration::from_millis(20));
        }
        false
    }

    /// Ends what lives, as root, and expects that nothing is left: what a scene leaves is not the next one's.
    #[track_caller]
    pub fn clear(&self) {
        ok(&mut self.musterd(&["end", "--all"]));
        assert!(self.is_empty(SOON), "{:?} is left of {:?}", self.living(), [PI, GUEST, EVE].map(processes_of));
    }

    /// Runs a line of the shell as another user of the device, without a session: its exit code and what it wrote.
    pub fn as_user(&self, user: &str, line: &str) -> (i32, String) {
        let mut command = Command::new(programs::system("timeout"));
        command.args(["10", "sh", "-c", line]).current_dir("/").stdin(Stdio::null()).env("PATH", std::env::var_os("PATH").unwrap());
        command.uid(id(user)).gid(gid(user));
        told(&command.output().unwrap())
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill();
        }
        drop(self.daemon.take());
        drop(self.service.take());
        USERS.into_iter().for_each(remove_user);
    }
}

/// Ends all that a user has, and removes the user, if there is one.
fn remove_user(user: &str) {
    let Some((uid, gid)) = find(user) else { return };
    for _ in 0..20 {
        // All at once: one after the other, some would always be missed that make a new process and end.
        let _ = Command::new("sh").args(["-c", "kill -KILL -1"]).uid(uid).gid(gid).stderr(Stdio::null()).status();
        if processes_of(user).is_empty() {
            break;
        }
        crate::wait::pause(Duration::from_millis(20));
    }
    let _ = Command::new(programs::system("userdel")).arg(user).stderr(Stdio::null()).status();
}

/// The exit code and all that was written.
pub fn told(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// The living processes of a user.
pub fn processes_of(user: &str) -> Vec<Pid> {
    let uid = id(user);
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_theirs = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let real = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
        real == Some(uid) && !status.contains("State:\tZ")
    };
    numbers.filter(is_theirs).filter_map(Pid::from_raw).collect()
}

/// The command line of a process.
pub fn command_line(pid: Pid) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default()).replace('\0', " ")
}

/// The number of a user.
pub fn id(user: &str) -> u32 {
    find(user).unwrap_or_else(|| panic!("no user {user}")).0
}

/// The number of a user's group.
pub fn gid(user: &str) -> u32 {
    find(user).unwrap_or_else(|| panic!("no user {user}")).1
}

fn find(user: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields[0] == user).then(|| (fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    })
}

fn useradd(options: &[&str], home: Option<&Path>, name: &str) {
    // A run that was killed may have left the group behind; and somebody else may hold the lock of /etc/passwd for a moment.
    if find(name).is_none() {
        let _ = Command::new(programs::system("groupdel")).arg(name).stderr(Stdio::null()).status();
    }
    eventually(&format!("the user {name} is made"), SOON, || {
        let mut command = Command::new(programs::system("useradd"));
        command.arg("--system").args(options).args(home).arg(name);
        command.stderr(Stdio::null()).status().unwrap().success().then_some(())
    });
}

/// The processes of a living session or run.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The privileged part.
    pub privileged: i32,
    /// The network side, or the collector.
    pub side: i32,
}

impl Ground<'_> {
    /// The processes of the only session that lives.
    pub fn parts(&self) -> Parts {
        self.parts_of(&self.only_one())
    }

    /// The name of the only session or run that lives, once those that just ended are gone.
    pub fn only_one(&self) -> String {
        let only = || <[Value; 1]>::try_from(self.living()).ok();
        let [live] = eventually("one session or run lives", SOON, only);
        live["name"].as_str().unwrap().to_owned()
    }

    /// The processes of this session or run.
    pub fn parts_of(&self, name: &str) -> Parts {
        let live = self.living().into_iter().find(|live| live["name"] == name).unwrap_or_else(|| panic!("{name} does not live"));
        let privileged = i32::try_from(live["pid"].as_i64().unwrap()).unwrap();
        let parent = format!("PPid:\t{privileged}\n");
        let is_child =
            |pid: &Pid| fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default().contains(&parent);
        let side = eventually("the unprivileged side lives", SOON, || processes_of(NET).into_iter().find(is_child));
        Parts { privileged, side: side.as_raw_nonzero().get() }
    }
}
