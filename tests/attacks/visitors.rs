//! One visitor against another: terminals, homes, shared folders, processes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::ground::{EVE, Ground, PI, ROBOT, processes_of};
use crate::lab::SOON;
use crate::people::Person;
use crate::programs;
use crate::table::Table;
use crate::wait::{eventually, pause};

/// What the victim types, and what the attacker writes.
const SECRET: &str = "the-password-of-pi";
const FORGED: &str = "forged-on-your-screen";

/// Somebody at a real terminal: `script` gives `muster shell` one.
struct AtTerminal {
    child: Child,
    screen: std::path::PathBuf,
}

impl AtTerminal {
    fn sits_down(ground: &Ground<'_>, person: &Person) -> Self {
        let screen = ground.lab.folder().join("screen");
        let muster = person.muster(ground.lab, &[]);
        let line = format!("{} shell {ROBOT}", programs::muster().display());
        let mut command = Command::new(programs::system("script"));
        command.args(["--quiet", "--flush", "--return", "--command", &line]).arg(&screen);
        command.envs(muster.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, screen }
    }

    fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap_or_default()).into_owned()
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    terminals(ground, table);
    homes(ground, table);
}

fn terminals(ground: &mut Ground<'_>, table: &mut Table) {
    let (owner, eve) = (ground.owner.clone(), ground.eve.clone());
    let mut victim = AtTerminal::sits_down(ground, &owner);
    victim.types("echo ready-$((6*7)); tty\n");
    eventually("the victim has a shell", SOON, || victim.screen().contains("ready-42").then_some(()));
    let tty = eventually("the victim has a terminal", SOON, || {
        victim.screen().lines().find_map(|line| line.trim().strip_prefix("/dev/pts/")?.parse::<u32>().ok())
    });
    let parts = ground.parts();
    let shell = processes_of(PI)[0].as_raw_nonzero().get();
    victim.types("stty -echo; cat > /dev/null\n");

    // Wherever its terminal could have a name: in the system's own folder, and in the session's through /proc.
    let places = [
        format!("/dev/pts/{tty}"),
        format!("/proc/{shell}/fd/0"),
        format!("/proc/{shell}/root/dev/pts/{tty}"),
        format!("/proc/{}/root/dev/pts/{tty}", parts.privileged),
        format!("/proc/{}/root/dev/pts/{tty}", parts.side),
    ];
    let mut attacks = Vec::new();
    for place in &places {
        let short =
            place.replace(&shell.to_string(), "PID").replace(&parts.privileged.to_string(), "PRIV").replace(&parts.side.to_string(), "NET");
        attacks.push((format!("write on {short}"), format!("echo {FORGED} > {place}")));
        attacks.push((format!("read the keys at {short}"), format!("timeout 1 head -c 10 {place} | grep -q .")));
        attacks.push((
            format!("push keys into {short} (TIOCSTI)"),
            format!("perl -e 'open T, \"<\", \"{place}\" or die $!; ioctl T, 0x5412, $_ or die $! for split //, \"id\\n\"'"),
        ));
    }
    attacks.push(("write(1) to the other".into(), format!("echo {FORGED} | write {PI}")));
    attacks.push(("the other's environment".into(), format!("cat /proc/{shell}/environ | grep -q .")));
    attacks.push((
        "a descriptor that was left open for it".into(),
        "perl -e 'opendir D, \"/proc/self/fd\"; @o = grep { $_ > 2 && readlink(\"/proc/self/fd/$_\") !~ m{^/proc/} } grep /^\\d+$/, readdir D; \
         print \"@o\"; exit !@o'"
            .into(),
    ));
    let attacks: Vec<(&str, String)> = attacks.iter().map(|(what, line)| (what.as_str(), line.clone())).collect();
    // The victim types while they listen.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (victim, done) = (&mut victim, &done);
        scope.spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                victim.types(&format!("{SECRET}\n"));
                pause(Duration::from_millis(100));
            }
        });
        eve.tries(ground, table, 3, &attacks);
        // From outside of any session, as any local user.
        for (what, line) in &attacks[..9] {
            let (code, said) = ground.as_user(EVE, line);
            table.row(3, format!("{what}, without a session"), EVE, said, code != 0);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let seen = victim.screen().contains(FORGED);
    table.row(3, "what the other's screen shows afterwards", EVE, if seen { "the forged line" } else { "nothing foreign" }, !seen);
    drop(victim);
    ground.clear();
}

fn homes(ground: &mut Ground<'_>, table: &mut Table) {
    let (owner, eve) = (ground.owner.clone(), ground.eve.clone());
    let home = ground.at(&format!("homes/{PI}")).display().to_string();
    let proof = ground.at("proof/planted").display().to_string();
    let (private, run) = (ground.at("priv"), ground.at("run"));
    let _other = owner.shell(ground.lab, "linked", "echo here; umask 077; echo mine > /tmp/muster-t-mine; exec sleep 600");
    let live = ground.only_one();
    eve.tries(
        ground,
        table,
        3,
        &[
            ("plant ~/.profile of another user", format!("echo 'touch {proof}' >> {home}/.profile")),
            ("plant it through a new home", format!("mv {home} {home}.old && mkdir {home}")),
            ("plant ~/.ssh/authorized_keys", format!("mkdir -p {home}/.ssh && echo x >> {home}/.ssh/authorized_keys")),
            ("read the other's home", format!("ls {home}")),
            ("read the other's file in /tmp", "cat /tmp/muster-t-mine".into()),
            ("replace the other's file in /tmp", "mv -f /tmp/muster-t-mine /tmp/muster-t-theirs".into()),
            ("a link in place of the session's socket", format!("ln -sf /etc/shadow {}/live/{live}.sock", private.display())),
            ("a link in place of last words", format!("ln -s /etc/shadow {}/last/{live}.report", private.display())),
            ("a link in place of the used orders", format!("ln -sf /etc/shadow {}/used", private.display())),
            ("the other session's socket", crate::key::connect(&private.join(format!("live/{live}.sock")))),
            ("the list of living sessions", format!("ls {}/live", private.display())),
            ("the daemon's runtime directory: a link as metrics socket", format!("ln -sf /tmp/x {}/metrics.sock", run.display())),
        ],
    );
    owner.does(ground.lab, "exec sh -l -c true");
    let ran = fs::metadata(&proof).is_ok();
    table.row(3, "the planted ~/.profile runs as the next one", EVE, if ran { "it ran" } else { "it did not" }, !ran);
    let _ = fs::remove_file("/tmp/muster-t-mine");
    ground.clear();

    // Whom a visitor may become is the policy's word.
    for user in [PI, "root", "daemon", "#0", "musterd-net"] {
        let (code, said) =
            crate::ground::told(&eve.muster(ground.lab, &["shell", ROBOT, "--user", user, "--", "id -un"]).output().unwrap());
        table.row(3, format!("ask to become {user}"), EVE, said, code != 0);
    }
    let (code, said) = eve.does(ground.lab, "sudo -n true 2>&1 || su -c true < /dev/null");
    table.row(3, "sudo and su from a session", EVE, said, code != 0);

    // su runs as root: neither the program nor its loader may go by what a visitor says.
    ground.policy(&format!("pam = \"login\"\n{}", ground.usual_policy()));
    let trap = ground.at("proof/su");
    let root = ground.at("proof/as-root");
    fs::write(&trap, format!("#!/bin/sh\n[ $(id -u) = 0 ] && touch {}\nexec /bin/su \"$@\"\n", root.display())).unwrap();
    fs::set_permissions(&trap, PermissionsExt::from_mode(0o755)).unwrap();
    let folder = ground.at("proof").display().to_string();
    for (what, env) in [
        ("a su of one's own by PATH", format!("PATH={folder}:/bin")),
        ("a library in su by LD_PRELOAD", format!("LD_PRELOAD={folder}/evil.so")),
        ("a library in su by LD_AUDIT", format!("LD_AUDIT={folder}/evil.so")),
        ("a trace of su by LD_DEBUG_OUTPUT", format!("LD_DEBUG_OUTPUT={folder}/trace")),
    ] {
        library(&ground.at("proof/evil.so"), &root.display().to_string());
        let env = ["--env", env.as_str(), "--env", "LD_DEBUG=all"];
        let arguments = [&["run", ROBOT][..], &env, &["--", "id -un"]].concat();
        let (_, said) = crate::ground::told(&owner.muster(ground.lab, &arguments).output().unwrap());
        let trace = fs::read_dir(ground.at("proof")).unwrap().flatten().any(|entry| {
            use std::os::unix::fs::MetadataExt as _;
            entry.file_name().to_string_lossy().starts_with("trace") && entry.metadata().is_ok_and(|file| file.uid() == 0)
        });
        table.row(3, format!("pam = \"login\": {what}"), PI, said, !root.exists() && !trace);
        let _ = fs::remove_file(&root);
    }
    ground.policy(&ground.usual_policy());
}

/// A library that makes a file where it is loaded by a process of root's.
fn library(path: &std::path::Path, proof: &str) {
    if path.exists() {
        return;
    }
    let source = path.with_extension("c");
    let text = format!(
        "#include <unistd.h>\n#include <fcntl.h>\n__attribute__((constructor)) void begin(void) {{ if (getuid() == 0) close(open(\"{proof}\", O_CREAT|O_WRONLY, 0644)); }}\n\
         unsigned la_version(unsigned v) {{ return v; }}\n"
    );
    fs::write(&source, text).unwrap();
    let mut cc = Command::new(programs::system("cc"));
    crate::lab::ok(cc.args(["-shared", "-fPIC", "-o"]).arg(path).arg(&source));
    // As root it does what it is for.
    let status = Command::new("true").env("LD_PRELOAD", path).status().unwrap();
    assert!(status.success() && fs::metadata(proof).is_ok(), "the library works");
    fs::remove_file(proof).unwrap();
}
