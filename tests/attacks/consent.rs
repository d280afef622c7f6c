//! `[ask]`: a person at the device says yes, and a visitor cannot say it for them, even as a user who may.

use std::fs;
use std::time::Duration;

use crate::ground::{EVE, GUEST, Ground, PI};
use crate::lab::SOON;
use crate::process::Process;
use crate::table::Table;
use crate::wait::eventually;

/// Says yes at a socket: with the word as `musterd approve` says it, and then waits for the answer.
const SAY_YES: &str = "$s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; syswrite $s, \"approve\\n\"; $_ = <$s>; print; exit !/^ok/";

/// The line of the shell that tries it at this socket.
type Attempt = fn(&str) -> String;

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let owner = ground.owner.clone();
    // A visitor's own user may approve: then only where they are says whether it is a person at the device.
    let asking = format!("{}[ask]\nask = true\napprovers = [\"{PI}\"]\n", ground.usual_policy());
    let work = "echo here; n=0; while :; do if [ -e /tmp/muster-t-go-$n ]; then timeout 10 sh /tmp/muster-t-go-$n > ~/said 2>&1; \
                mv ~/said /tmp/muster-t-said-$n; n=$((n+1)); fi; sleep 0.05; done";
    let _inside = owner.shell(lab, "inside", work);
    let attempts: [(&str, &str, Attempt); 5] = [
        ("from inside a session, as a user who may", PI, |socket| format!("perl -MIO::Socket::UNIX -e '{SAY_YES}' {socket}")),
        ("from inside, apart from its parents", PI, |socket| {
            format!("setsid sh -c 'perl -MIO::Socket::UNIX -e \"$0\" \"$1\"; true' '{SAY_YES}' {socket} & wait")
        }),
        // Many that are asked first give the last one the time to go.
        ("from inside, by a process that is gone when it is looked at", PI, |socket| {
            format!(
                "perl -MIO::Socket::UNIX -e '$SIG{{CHLD}} = \"IGNORE\"; for (1 .. 100) {{ push @all, IO::Socket::UNIX->new(Peer => $ARGV[0]) }} \
                 pipe R, W; if (!fork) {{ $s = IO::Socket::UNIX->new(Peer => $ARGV[0]); syswrite $s, \"approve\\n\"; \
                 if (!fork) {{ $_ = <$s>; print; exit }} exit }} sleep 2' {socket}"
            )
        }),
        ("by another local user", EVE, |socket| format!("perl -MIO::Socket::UNIX -e '{SAY_YES}' {socket}")),
        ("by a socket of one's own in its place", GUEST, |socket| format!("rm -f {socket} && touch {socket}")),
    ];
    for (number, (what, by, attempt)) in attempts.into_iter().enumerate() {
        ground.policy(&asking);
        let mut waiting = Process::start(
            &format!("waiting-{number}"),
            lab.folder(),
            owner.muster(lab, &["shell", crate::ground::ROBOT, "--", "echo it-is-open; sleep 600"]),
        );
        let folder = ground.at("priv-ask");
        let socket = eventually("somebody waits for a person", SOON, || fs::read_dir(&folder).ok()?.flatten().next()).path();
        let line = attempt(&socket.display().to_string());
        let said = if by == PI {
            let [script, go, said] = ["script", "go", "said"].map(|name| format!("/tmp/muster-t-{name}-{number}"));
            fs::write(&script, &line).unwrap();
            fs::rename(&script, &go).unwrap();
            let text = eventually("the attempt was made", SOON, || fs::read_to_string(&said).ok());
            let _ = (fs::remove_file(go), fs::remove_file(said));
            text
        } else {
            ground.as_user(by, &line).1
        };
        let opened = std::iter::repeat_with(|| {
            crate::wait::pause(Duration::from_millis(50));
            waiting.log().contains("it-is-open")
        })
        .take(10)
        .any(|opened| opened);
        table.row(4, format!("approve a session {what}"), by, said, !opened);
        // So that the next one waits with a code of its own.
        let name =
            ground.living().into_iter().find(|live| !live["waits"].is_null()).and_then(|live| Some(live["name"].as_str()?.to_owned()));
        if let Some(name) = name {
            crate::lab::ok(&mut ground.musterd(&["end", &name]));
        }
        waiting.kill();
        eventually("nobody waits any more", SOON, || fs::read_dir(&folder).unwrap().next().is_none().then_some(()));
    }
    ground.policy(&ground.usual_policy());
    ground.clear();
}
