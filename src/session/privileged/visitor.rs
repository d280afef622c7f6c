//! A process that becomes the visitor's user: a login shell, a command, or one that opens a connection and hands it over.
//!
//! Everything is prepared before the process is made; between `fork` and `exec` there are only system calls, in this order: join the
//! control group, take its OOM score, lead a session, take the terminal, give up groups, group and user, go home.

use std::ffi::{CString, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use musterd::account::Account;
use musterd::descriptors::set_non_blocking;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fchmod, fchown};
use rustix::process::{Gid, Pid, Signal, Uid, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Where programs are looked for; a login shell's own files add to it.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Files with variables of every login, as PAM's `pam_env` reads them.
const ENVIRONMENT_FILES: [&str; 2] = ["/etc/environment", "/etc/default/locale"];
/// Longest time from a new process to its program.
const START: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Longest time of a process that opens a connection, in seconds: more than a TCP connection is tried for.
const OPEN_S: libc::c_uint = 12;
/// The group of terminals, where the system has it: `write(1)` and `mesg(1)` go by it.
const TTY: &str = "tty";

/// In the place of an error's number, on the way from the new process: it could not enter the directory that was asked for.
const NO_DIRECTORY: i32 = 0x1000;

/// Whether a process did not begin for want of its directory.
pub(super) fn is_of_directory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(NO_DIRECTORY)
}

/// A user to become, and the bounds of what they start.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) account: Account,
    /// Through su and its PAM stack, instead of plainly.
    pub(super) through_su: bool,
    /// Whether we are to change at all; not where all runs as one user.
    pub(super) change: bool,
    pub(super) oom_score: i16,
    /// For the process's environment.
    pub(super) variables: Vec<(String, String)>,
}

/// How a process talks.
#[derive(Debug)]
pub(super) enum Ends {
    /// A terminal of this size.
    Terminal { cols: u16, rows: u16, term: String },
    /// Pipes: input (or none), output, and errors of their own (or with the output).
    Pipes { input: bool, errors: bool },
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) leader: Pid,
    /// Our ends: of the terminal; or input, output, errors as far as they are.
    pub(super) fds: Vec<OwnedFd>,
}

/// What is started.
#[derive(Debug)]
pub(super) enum What<'a> {
    /// The user's login shell.
    Login,
    /// A line for the user's shell.
    Line(&'a str),
    /// A program with its arguments, as they are, in this directory if one is given.
    Program(&'a [String]),
}

impl Visitor {
    /// Starts a process as the visitor.
    ///
    /// # Errors
    /// When a part of it fails, such as a program that is not there.
    pub(super) fn start(&self, what: &What<'_>, cwd: Option<&str>, ends: &Ends, door: Option<OwnedFd>) -> io::Result<Started> {
        let mut command = self.command(what);
        command.env_clear().envs(self.environment());
        let mut fds = Vec::new();
        let controlling = match ends {
            Ends::Terminal { cols, rows, term } => {
                let (master, slave) = self.open_terminal(*cols, *rows)?;
                command.env("TERM", term).stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::from(slave));
                fds.push(master);
                true
            }
            Ends::Pipes { input, errors } => {
                if *input {
                    let (theirs, ours) = io::pipe()?;
                    command.stdin(theirs);
                    fds.push(OwnedFd::from(ours));
                } else {
                    command.stdin(Stdio::null());
                }
                let (ours, theirs) = io::pipe()?;
                fds.push(OwnedFd::from(ours));
                if *errors {
                    let (ours, for_errors) = io::pipe()?;
                    command.stderr(for_errors);
                    fds.push(OwnedFd::from(ours));
                } else {
                    command.stderr(theirs.try_clone()?);
                }
                command.stdout(theirs);
                false
            }
        };
        for fd in &fds {
            set_non_blocking(fd)?;
        }
        let become_user =
            Become::prepare(self, door, Some(cwd.map_or(self.account.home.as_path(), Path::new)), cwd.is_some(), controlling)?;
        become_user.before(&mut command);
        Ok(Started { leader: spawn(command)?, fds })
    }

    fn command(&self, what: &What<'_>) -> Command {
        let account = &self.account;
        if self.through_su {
            // Root is not asked for a password. PAM opens a session, with the system's limits and accounting.
            let mut command = Command::new("su");
            command.arg("-l");
            match what {
                What::Login => {}
                What::Line(line) => drop(command.args(["-c", line])),
                What::Program(argv) => {
                    command.args(["-s", "/bin/sh", "-c", "exec \"$@\"", "--", &account.name, "sh"]).args(*argv);
                    return command;
                }
            }
            command.args(["--", &account.name]);
            return command;
        }
        match what {
            What::Login => {
                let mut command = Command::new(&account.shell);
                // A dash in front of its name makes it a login shell.
                command.arg0(format!("-{}", account.shell.rsplit('/').next().unwrap_or("sh")));
                command
            }
            What::Line(line) => {
                let mut command = Command::new(&account.shell);
                command.args(["-c", line]);
                command
            }
            What::Program(argv) => {
                let mut command = Command::new(argv.first().map_or("", String::as_str));
                command.args(argv.iter().skip(1));
                command
            }
        }
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let account = &self.account;
        let mut environment: Vec<(OsString, OsString)> = vec![("PATH".into(), PATH.into())];
        for text in ENVIRONMENT_FILES.iter().filter_map(|path| std::fs::read_to_string(path).ok()) {
            environment.extend(assignments(&text).map(|(name, value)| (name.into(), value.into())));
        }
        let runtime = format!("/run/user/{}", account.uid);
        if Path::new(&runtime).is_dir() {
            environment.push(("XDG_RUNTIME_DIR".into(), runtime.into()));
        }
        environment.extend(self.variables.iter().map(|(name, value)| (name.into(), value.into())));
        environment.push(("HOME".into(), account.home.clone().into()));
        environment
            .extend([("USER", &account.name), ("LOGNAME", &account.name), ("SHELL", &account.shell)].map(|(k, v)| (k.into(), v.into())));
        environment
    }

    /// A terminal that belongs to the visitor.
    fn open_terminal(&self, cols: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        if self.change {
            let tty = tty_group();
            fchown(&slave, Some(Uid::from_raw(self.account.uid)), Some(Gid::from_raw(tty.unwrap_or(self.account.gid))))?;
            fchmod(&slave, Mode::from_raw_mode(if tty.is_some() { 0o620 } else { 0o600 }))?;
        }
        tcsetwinsize(&master, Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })?;
        Ok((master, slave))
    }

    /// Makes a process that becomes the visitor and does only this; its number. The closure must end.
    #[expect(unsafe_code, reason = "a process that opens one connection needs no program of its own; this program has one thread")]
    pub(super) fn fork(&self, door: Option<OwnedFd>, run: impl FnOnce() -> bool) -> io::Result<Pid> {
        let become_user = Become::prepare(self, door, None, false, false)?;
        // SAFETY: this process has a single thread, so the child's memory is whole, and it may do what its parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: the default of SIGALRM ends the child: neither a name nor a full queue holds it for longer.
                unsafe { libc::alarm(OPEN_S) };
                let done = become_user.now().is_ok() && run();
                // SAFETY: ends the child at once, without what its parent would do at its own end.
                unsafe { libc::_exit(i32::from(!done)) }
            }
            pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process without a number")),
        }
    }
}

/// Starts the command's program in a new process. `Command::spawn` would wait for as long as the visitor likes: between becoming
/// the visitor and its program, the process can be stopped by any other of theirs.
#[expect(unsafe_code, reason = "the wait for a new process must have a bound; this program has one thread")]
fn spawn(mut command: Command) -> io::Result<Pid> {
    let (mut failed, mut tell) = io::pipe()?;
    // SAFETY: this process has a single thread, so the child's memory is whole, and it may do what its parent may.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // Comes back only when it failed; otherwise the program's start closes the pipe.
            let code = command.exec().raw_os_error().unwrap_or(libc::EIO);
            let _ = tell.write_all(&code.to_ne_bytes());
            // SAFETY: ends the child at once, without what its parent would do at its own end.
            unsafe { libc::_exit(127) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process without a number"))?,
    };
    drop((tell, command));
    let mut code = [0; 4];
    let mut ready = [PollFd::new(&failed, PollFlags::IN)];
    match poll(&mut ready, Some(&START)) {
        Ok(1..) => match failed.read(&mut code)? {
            4 => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code))),
            _ => Ok(pid),
        },
        _ => {
            let _ = kill_process(pid, Signal::KILL);
            Err(io::Error::new(io::ErrorKind::TimedOut, "it was stopped before it began"))
        }
    }
}

/// All that is needed between `fork` and `exec`, allocated before.
struct Become {
    door: Option<OwnedFd>,
    home: Option<CString>,
    /// The directory was asked for: without it the process does not begin.
    strict: bool,
    controlling: bool,
    leads: bool,
    oom_score: CString,
    /// Groups, group, user; none where nothing changes, or su does it.
    identity: Option<(Vec<libc::gid_t>, libc::gid_t, libc::uid_t)>,
}

impl Become {
    fn prepare(visitor: &Visitor, door: Option<OwnedFd>, home: Option<&Path>, strict: bool, controlling: bool) -> io::Result<Self> {
        let account = &visitor.account;
        let identity = (visitor.change && !visitor.through_su).then(|| (account.groups.clone(), account.gid, account.uid));
        let home_path = home.map(|home| CString::new(home.as_os_str().as_bytes())).transpose()?;
        let oom_score = CString::new(visitor.oom_score.to_string())?;
        Ok(Self { door, home: home_path, strict, controlling, leads: home.is_some(), oom_score, identity })
    }

    #[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: these system calls are")]
    fn before(self, command: &mut Command) {
        // SAFETY: the closure makes system calls on memory that was allocated before, and takes no lock.
        unsafe {
            command.pre_exec(move || self.now());
        }
    }

    /// Allocates nothing.
    #[expect(unsafe_code, reason = "the libc calls whose safe forms allocate, change one thread only, or are not there")]
    fn now(&self) -> io::Result<()> {
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        if let Some(door) = &self.door {
            rustix::io::write(door.as_fd(), b"0")?;
        }
        if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            // Lower than ours needs a right that a trial's own user does not have.
            let _ = rustix::io::write(&file, self.oom_score.as_bytes());
        }
        // SAFETY: each call takes plain numbers, or pointers to memory that this value owns; the signal set is initialized by its call.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            done(libc::sigemptyset(&raw mut none))?;
            done(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
            // Whoever started us may have had some ignored; a shell could not give them back.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::umask(0o022);
            if self.leads && libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if self.controlling {
                done(libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0))?;
            }
            if let Some((groups, gid, uid)) = &self.identity {
                done(libc::setgroups(groups.len(), groups.as_ptr()))?;
                done(libc::setresgid(*gid, *gid, *gid))?;
                done(libc::setresuid(*uid, *uid, *uid))?;
                if *uid != 0 && libc::setresuid(0, 0, 0) == 0 {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
            }
            if let Some(home) = &self.home
                && libc::chdir(home.as_ptr()) != 0
            {
                if self.strict {
                    return Err(io::Error::from_raw_os_error(NO_DIRECTORY));
                }
                done(libc::chdir(c"/".as_ptr()))?;
            }
        }
        Ok(())
    }
}

/// The number of the group of terminals.
pub(super) fn tty_group() -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| line.strip_prefix(TTY)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok())
}

/// `NAME=value` lines, quotes taken off; anything else is left out.
fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.trim().trim_start_matches("export ").split_once('=')?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let quoted = |quote| value.strip_prefix(quote).and_then(|value: &str| value.strip_suffix(quote));
        plain.then(|| (name, quoted('"').or_else(|| quoted('\'')).unwrap_or(value)))
    })
}
