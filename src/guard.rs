//! Keeps what visitors start on this device away from the device's key.
//!
//! Terminals and commands run as the daemon's own user where the policy names no other, and that user owns the key: file modes do not
//! help. So each of them is bound by the kernel (Landlock, Linux 5.13) before its program begins, and for good: neither it nor what it
//! starts can read or change anything below the state and runtime directories, nor look into processes outside.
//! This needs no privilege, only that the process gives up ever gaining one (`no_new_privs`), which the unit demands anyway.
//!
//! It guards nothing as root, who cannot be kept from anything here, nor for another user, whom file modes keep out.
//! Where the kernel has no Landlock, nothing is bound: `musterd doctor` says so.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::log::warn;

/// Below the state directory: the home of visitors whose account has the state directory for its own.
const HOME: &str = "home";

/// Rights on files that a bound process has only where a rule gives them (linux/landlock.h): write, read, remove, make.
/// Not among them: to execute, and to list a directory, which tells names and no content.
const HANDLED: u64 = 0b1_1111_1111_0110;
/// To move and link between directories, from version 2 on; without it the kernel forbids these for all that is bound.
const REFER: u64 = 1 << 13;
/// To cut a file, from version 3 on.
const TRUNCATE: u64 = 1 << 14;
/// What a rule on a file that is no directory may give.
const ON_FILES: u64 = 0b110 | TRUNCATE;
/// Asks for the version instead of making a ruleset.
const VERSION: libc::c_uint = 1;
/// A rule for all that is below a path.
const PATH_BENEATH: libc::c_uint = 1;

/// What is kept from visitors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hidden {
    dirs: Vec<PathBuf>,
    /// Below one of them, and theirs.
    home: PathBuf,
}

impl Hidden {
    /// The daemon's directories; the control socket lies in the one for running things. Nothing as root.
    pub(crate) fn of(account: &Account, state_dir: &Path, control: &Path) -> Self {
        if account.is_root {
            return Self::default();
        }
        Self::below([state_dir, control.parent().unwrap_or(state_dir)])
    }

    /// These directories, the first with the visitors' home in it.
    pub(crate) fn below(dirs: [&Path; 2]) -> Self {
        let real = dirs.iter().filter_map(|dir| dir.canonicalize().ok());
        let mut dirs: Vec<PathBuf> = real.filter(|dir| dir.parent().is_some()).collect();
        dirs.dedup();
        let home = dirs.first().map(|dir| dir.join(HOME)).unwrap_or_default();
        Self { dirs, home }
    }

    /// The account with a home that its visitors may use: not the state directory, which is the daemon's user's by `/etc/passwd`.
    pub(crate) fn at_home(&self, account: Account) -> Account {
        let hidden = account.home.canonicalize().is_ok_and(|home| self.dirs.contains(&home));
        if !hidden {
            return account;
        }
        let made = DirBuilder::new().mode(0o700).create(&self.home);
        if let Err(error) = made.as_ref().or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(&()) } else { Err(error) }) {
            warn!("the visitors' home {} cannot be made: {error}", self.home.display());
        }
        Account { home: self.home.clone(), ..account }
    }

    /// Binds a command that is about to be started.
    ///
    /// # Errors
    /// When the kernel could bind it and something else failed: then the command must not be started.
    pub(crate) fn bind(&self, command: &mut Command) -> io::Result<()> {
        if self.dirs.is_empty() {
            return Ok(());
        }
        match self.ruleset()? {
            Some(ruleset) => bind(command, ruleset),
            None => warn!("this kernel has no Landlock: what runs as the daemon's user can read the device's key"),
        }
        Ok(())
    }

    /// All that stays open, as rules; none where the kernel cannot.
    fn ruleset(&self) -> io::Result<Option<OwnedFd>> {
        let version = version();
        if version < 1 {
            return Ok(None);
        }
        let handled = HANDLED | if version >= 2 { REFER } else { 0 } | if version >= 3 { TRUNCATE } else { 0 };
        let ruleset = create(handled)?;
        let mut open = open_paths(&self.dirs, Path::new("/"), &mut |dir| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into()).collect()
        });
        open.extend(self.home.is_dir().then(|| self.home.clone()));
        for path in open {
            match allow(&ruleset, &path, handled) {
                Ok(()) => {}
                // It went meanwhile, or is not ours to look at: it stays shut.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{} cannot be left open: {error}", path.display()))),
            }
        }
        Ok(Some(ruleset))
    }
}

/// Whether this kernel can keep visitors from the key.
pub(crate) fn is_possible() -> bool {
    version() >= 1
}

/// All that is beside the hidden directories and their ancestors. Pure: `list` names what a directory holds.
fn open_paths(hidden: &[PathBuf], dir: &Path, list: &mut dyn FnMut(&Path) -> Vec<PathBuf>) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for name in list(dir) {
        let path = dir.join(name);
        if hidden.contains(&path) {
            continue;
        }
        if hidden.iter().any(|hidden| hidden.starts_with(&path)) {
            open.extend(open_paths(hidden, &path, list));
        } else {
            open.push(path);
        }
    }
    open
}

// ---- The kernel's part: linux/landlock.h ---------------------------------------------------------------------------

/// `struct landlock_ruleset_attr`, as far as version 1 has it.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: libc::c_int,
}

/// The version of Landlock; 0 where there is none, or it is switched off.
#[expect(unsafe_code, reason = "a system call that no library of ours has")]
fn version() -> libc::c_long {
    // SAFETY: with VERSION the kernel reads no attributes.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<RulesetAttr>(), 0_usize, VERSION) };
    version.max(0)
}

#[expect(unsafe_code, reason = "a system call that no library of ours has")]
fn create(handled: u64) -> io::Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs: handled };
    // SAFETY: the attributes are alive during the call and have the size that is said.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0_u32) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "a system call that no library of ours has")]
fn allow(ruleset: &OwnedFd, path: &Path, handled: u64) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    let allowed = match rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) {
        // What it points to is open by its own path, or is not.
        rustix::fs::FileType::Symlink => return Ok(()),
        rustix::fs::FileType::Directory => handled,
        _ => handled & ON_FILES,
    };
    let attr = PathBeneathAttr { allowed_access: allowed, parent_fd: opened.as_raw_fd() };
    // SAFETY: attributes and both descriptors are alive during the call.
    let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const attr, 0_u32) };
    if added == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: these two system calls are")]
fn bind(command: &mut Command, ruleset: OwnedFd) {
    let restrict = move || {
        // SAFETY: neither call reads memory of ours, and the descriptor lives in this closure.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(restrict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_open_but_what_is_hidden() {
        let mut list = |dir: &Path| -> Vec<PathBuf> {
            let names: &[&str] = match dir.to_str().unwrap() {
                "/" => &["etc", "run", "var"],
                "/run" => &["lock", "musterd", "musterd2"],
                "/var" => &["lib", "log"],
                "/var/lib" => &["dpkg", "musterd", "x"],
                other => panic!("{other} need not be looked into"),
            };
            names.iter().map(PathBuf::from).collect()
        };
        let hidden = ["/var/lib/musterd", "/run/musterd"].map(PathBuf::from);
        let open = open_paths(&hidden, Path::new("/"), &mut list);
        assert_eq!(open, ["/etc", "/run/lock", "/run/musterd2", "/var/lib/dpkg", "/var/lib/x", "/var/log"].map(PathBuf::from));
    }

    fn run(hidden: &Hidden, line: &str) -> (bool, String) {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        hidden.bind(&mut command).unwrap();
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    #[test]
    fn what_is_bound_reaches_all_but_the_daemons_directories() {
        if !is_possible() {
            assert_eq!(version(), 0, "the kernel has it, and it does not work");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (state, beside) = (dir.path().join("state"), dir.path().join("beside"));
        for made in [&state, &state.join("runs"), &state.join("home"), &beside, &dir.path().join("run")] {
            std::fs::create_dir(made).unwrap();
        }
        let key = state.join("key.pem");
        std::fs::write(&key, "secret").unwrap();
        std::fs::hard_link(&key, dir.path().join("run/link")).unwrap();
        std::os::unix::fs::symlink(&state, dir.path().join("way-in")).unwrap();
        let hidden = Hidden::below([&state, &dir.path().join("run")]);
        let at = dir.path().display();
        for line in [
            format!("cat {at}/state/key.pem"),
            format!("cat {at}/way-in/key.pem"),
            format!("cat {at}/run/link"),
            format!("cat /proc/self/root{at}/state/key.pem"),
            // Outside of what is bound, a process is not to be looked into. Of its memory see the daemon's tests: root reads it by another right.
            format!("cat /proc/{}/root{at}/state/key.pem", std::process::id()),
            format!("ln {at}/state/key.pem {at}/beside/key"),
            format!("mv {at}/state/key.pem {at}/beside/key"),
            format!("echo forged > {at}/state/runs/reports"),
            format!("rm {at}/state/key.pem"),
            format!("mkdir {at}/state/home2"),
            // What it starts is bound as well.
            format!("sh -c 'setsid cat {at}/state/key.pem'"),
        ] {
            let (well, said) = run(&hidden, &line);
            assert!(!well && !said.contains("secret"), "{line}: {said}");
        }
        for line in [
            "cat /etc/passwd".to_owned(),
            "ls / /proc/self && echo x > /dev/null".to_owned(),
            format!("echo x > {at}/beside/x && mkdir {at}/beside/d && mv {at}/beside/x {at}/beside/d/y && rm -r {at}/beside/d"),
            format!("echo x > {at}/state/home/.profile && cat {at}/state/home/.profile"),
            "sleep 100 & kill $!".to_owned(),
        ] {
            let (well, said) = run(&hidden, &line);
            assert!(well, "{line}: {said}");
        }
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "secret");
    }

    #[test]
    fn root_and_others_are_not_bound_and_a_home_that_is_hidden_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let account = |is_root| Account { name: "x".into(), home: dir.path().into(), shell: "/bin/sh".into(), is_root };
        let control = dir.path().join("control.sock");
        assert!(Hidden::of(&account(true), dir.path(), &control).dirs.is_empty());
        let hidden = Hidden::of(&account(false), dir.path(), &control);
        let home = hidden.at_home(account(false)).home;
        assert!(home.ends_with(HOME) && home.is_dir());
        assert_eq!(hidden.at_home(account(false)).home, home, "made once");
        let elsewhere = Account { home: "/".into(), ..account(false) };
        assert_eq!(hidden.at_home(elsewhere.clone()), elsewhere);
    }
}
