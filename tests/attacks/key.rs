//! The device's key and the memory of the three parts, from inside a session and beside one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use crate::ground::{DAEMON, EVE, Ground, NET, id};
use crate::table::Table;

/// Reads the first kilobyte that a process has mapped, through its memory file.
const READ_MEMORY: &str = "perl -e 'open M, \"<\", \"/proc/$ARGV[0]/mem\" or die $!; open A, \"<\", \"/proc/$ARGV[0]/maps\" or die $!; \
                           $_ = <A>; /^([0-9a-f]+)/ or die \"no maps\"; sysseek M, hex $1, 0; sysread(M, $b, 1024) or die $!'";
/// ptrace(2) with PTRACE_SEIZE (0x4206), which stops nothing. The number of the system call differs between machines.
fn ptrace() -> String {
    let number = if cfg!(target_arch = "x86_64") { 101 } else { 117 };
    format!("perl -e 'syscall({number}, 0x4206, $ARGV[0] + 0, 0, 0) == 0 or die $!'")
}
/// process_vm_readv(2) at the start of the program's own mapping.
fn read_other() -> String {
    let number = if cfg!(target_arch = "x86_64") { 310 } else { 270 };
    format!(
        "perl -e '$b = \"x\" x 64; $l = pack \"PQ\", $b, 64; $r = pack \"QQ\", 0x1000, 64; \
         syscall({number}, $ARGV[0] + 0, $l, 1, $r, 1, 0); die $! if $!{{EPERM}} || $!{{ESRCH}}'"
    )
}

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let (owner, eve) = (ground.owner.clone(), ground.eve.clone());
    // Somebody else's session, whose parts are the aim.
    let _other = owner.shell(lab, "other", "echo here; exec sleep 600");
    let parts = ground.parts();
    let (state, daemon) = (ground.at("state"), ground.daemon().pid().as_raw_nonzero().get());
    let (dir, key) = (state.display(), state.join("key.pem").display().to_string());
    let before = fs::read(&key).unwrap();

    let mut readings = vec![("read the key", format!("head -c 1 {key} | grep -q .")), ("list the state directory", format!("ls {dir}"))];
    let mut tampering = vec![
        ("chmod the state directory and the key, as in 0.1", format!("chmod 755 {dir} && chmod 644 {key}")),
        ("chown the key", format!("chown $(id -u) {key}")),
        ("a hard link to the key", format!("ln {key} ~/linked && head -c 1 ~/linked | grep -q .")),
        ("a symbolic link to the key", format!("ln -sf {key} ~/link; head -c 1 ~/link | grep -q .")),
        ("replace the key", format!("mv {key} {key}.old || (echo x > ~/k; mv ~/k {key})")),
        ("truncate the key", format!(": > {key}")),
        ("rename the state directory", format!("mv {dir} {dir}.old")),
        ("the daemon's group by sg", format!("sg {DAEMON} -c 'head -c 1 {key}' < /dev/null | grep -q .")),
        ("its group by a setgid copy", format!("cp /bin/cat ~/cat; chgrp {DAEMON} ~/cat && chmod g+s ~/cat && ~/cat {key} | grep -q .")),
        ("a core dump of the daemon", format!("ulimit -c unlimited; kill -ABRT {daemon}")),
        ("a core dump of the network side", format!("kill -SEGV {}", parts.side)),
        ("become the daemon's user by su", format!("su {DAEMON} -c true < /dev/null")),
    ];
    for (part, pid) in [("the daemon", daemon), ("the privileged part", parts.privileged), ("the network side", parts.side)] {
        for (what, line) in [
            ("memory by /proc", format!("{READ_MEMORY} {pid}")),
            ("memory by process_vm_readv", format!("{} {pid}", read_other())),
            ("environment", format!("cat /proc/{pid}/environ > /dev/null")),
            ("descriptors", format!("ls /proc/{pid}/fd/")),
            ("root and working directory", format!("ls /proc/{pid}/root/ || ls /proc/{pid}/cwd/")),
            ("ptrace", format!("{} {pid}", ptrace())),
        ] {
            let what: &'static str = format!("{part}: {what}").leak();
            if what.ends_with("ptrace") { tampering.push((what, line)) } else { readings.push((what, line)) }
        }
    }
    // What root can, so that a line with a mistake in it is no victory.
    for (what, line) in &readings {
        let (code, text) = root(line);
        assert_eq!(code, 0, "not even root: {what}: {text}");
    }
    eve.tries(ground, table, 1, &[readings, tampering].concat());
    let metadata = [fs::metadata(&state).unwrap(), fs::metadata(&key).unwrap()];
    let modes = metadata.each_ref().map(|metadata| metadata.permissions().mode() & 0o7777);
    let same = fs::read(&key).unwrap() == before && modes == [0o700, 0o600] && metadata.iter().all(|file| file.uid() == id(DAEMON));
    table.row(1, "what all of that left behind", EVE, format!("modes {:o} and {:o}", modes[0], modes[1]), same);

    // The network side is treated as taken over: it has its user, and no other process.
    let _second = eve.shell(lab, "second", "echo here; exec sleep 600");
    for (what, line) in [
        ("another network side: memory", format!("{READ_MEMORY} {}", parts.side)),
        ("another network side: environment", format!("cat /proc/{}/environ > /dev/null", parts.side)),
        ("another network side: descriptors", format!("ls /proc/{}/fd/", parts.side)),
        ("another network side: kill", format!("kill -KILL {}", parts.side)),
        ("the privileged part: kill", format!("kill -KILL {}", parts.privileged)),
        ("the device's key", format!("cat {key}")),
        ("used orders", format!("cat {0}/used || echo x >> {0}/used", ground.at("priv").display())),
        ("the start socket", connect(&ground.at("priv/start.sock"))),
        ("sudo and su", "su -c true < /dev/null || sudo -n true".to_owned()),
    ] {
        let (code, said) = as_network_side(ground, &line);
        table.row(1, what, NET, said, code != 0);
    }
    assert_eq!(ground.living().len(), 2, "both sessions still live");
    ground.clear();
}

/// In a process namespace of its own, as the real one.
fn as_network_side(ground: &Ground<'_>, line: &str) -> (i32, String) {
    let mut command = Command::new("unshare");
    let user = id(NET).to_string();
    command.args(["--pid", "--fork", "setpriv", "--reuid", &user, "--regid", &crate::ground::gid(NET).to_string(), "--clear-groups"]);
    command.args(["--no-new-privs", "--bounding-set=-all", "timeout", "5", "sh", "-c", line]).current_dir(ground.at("proof"));
    crate::ground::told(&command.output().unwrap())
}

/// A line of the shell that succeeds where a Unix socket can be connected to.
pub fn connect(path: &std::path::Path) -> String {
    format!("perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Peer => \"{}\") or die $!'", path.display())
}

fn root(line: &str) -> (i32, String) {
    crate::ground::told(&Command::new("sh").args(["-c", line]).output().unwrap())
}
