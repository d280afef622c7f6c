//! The policy file: who could write it, what happens when it is gone, and that living sessions see it too.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Stdio;

use crate::ground::{DAEMON, EVE, Ground, NET, PI, ROBOT, gid, id};
use crate::hostile::{self, Answer, Signer, hand_over};
use crate::lab::{SOON, fails, ok};
use crate::table::Table;

/// Lets everybody become root.
const WIDE_OPEN: &str = "[users]\ndefault = \"root\"\n[tcp]\nallow = [\"*:*\"]\n";

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    rewriting(ground, table);
    places(ground, table);
    contents(ground, table);
    while_a_session_lives(ground, table);
}

fn rewriting(ground: &mut Ground<'_>, table: &mut Table) {
    let eve = ground.eve.clone();
    let (policy, etc) = (ground.policy_path(), ground.at("etc"));
    let before = fs::read(&policy).unwrap();
    let (policy, etc) = (policy.display(), etc.display());
    eve.tries(
        ground,
        table,
        6,
        &[
            ("write into the policy", format!("echo '# mine' >> {policy}")),
            ("put another one in its place", format!("echo x > ~/p; mv -f ~/p {policy}")),
            ("remove it", format!("rm -f {policy}")),
            ("a new directory in the place of its own", format!("mv {etc} {etc}.old && mkdir {etc}")),
            ("unlock, lock, or explain away", format!("touch {etc}/locked || rm {etc}/locked")),
            ("chmod 666, as in 0.1", format!("chmod 666 {policy}")),
        ],
    );
    let held = fs::read(ground.policy_path()).unwrap() == before;
    table.row(6, "what all of that left in the policy", EVE, if held { "nothing" } else { "a change" }, held);
}

/// The anchor lies in the same directory, and is looked at first.
/// A policy that others may write says what they like: it refuses everything.
fn places(ground: &mut Ground<'_>, table: &mut Table) {
    let (policy, etc) = (ground.policy_path(), ground.at("etc"));
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let theirs = ground.at(&format!("homes/{EVE}/policy.toml"));
    fs::write(&theirs, WIDE_OPEN).unwrap();
    chown(&theirs, Some(id(EVE)), Some(gid(EVE))).unwrap();
    for bad in [0o666, 0o664, 0o646, 0o622] {
        mode(&policy, bad);
        refuses(ground, table, &format!("a policy with mode {bad:o}"), "policy_broken");
        mode(&policy, 0o644);
    }
    chown(&policy, Some(id(EVE)), None).unwrap();
    refuses(ground, table, "a policy that belongs to a visitor", "policy_broken");
    chown(&policy, Some(0), None).unwrap();
    for bad in [0o777, 0o775] {
        mode(&etc, bad);
        refuses(ground, table, &format!("a directory with mode {bad:o} around it"), "no_anchor");
        mode(&etc, 0o755);
    }
    chown(&etc, Some(id(EVE)), None).unwrap();
    refuses(ground, table, "a visitor's directory around it", "no_anchor");
    chown(&etc, Some(0), None).unwrap();
    let kept = etc.join("kept.toml");
    fs::rename(&policy, &kept).unwrap();
    refuses(ground, table, "no policy at all", "policy_missing");
    for (what, target) in
        [("a link to a visitor's file", theirs.clone()), ("a link to a link that a visitor can turn", ground.at("proof/turn"))]
    {
        if target != theirs {
            symlink(&kept, &target).unwrap();
            std::os::unix::fs::lchown(&target, Some(id(EVE)), None).unwrap();
        }
        symlink(&target, &policy).unwrap();
        refuses(ground, table, what, "policy_broken");
        fs::remove_file(&policy).unwrap();
    }
    fs::create_dir(&policy).unwrap();
    refuses(ground, table, "a directory in its place", "policy_broken");
    fs::remove_dir(&policy).unwrap();
    fs::rename(&kept, &policy).unwrap();
    // The same rule for the anchor.
    let anchor = ground.at("etc/hub.json");
    mode(&anchor, 0o666);
    refuses(ground, table, "an anchor with mode 666", "no_anchor");
    mode(&anchor, 0o644);
    opens(ground);
}

fn contents(ground: &mut Ground<'_>, table: &mut Table) {
    let usual = ground.usual_policy();
    for (what, text, code) in [
        ("half a policy", "[users]\ndefault = \"mus", "policy_broken"),
        ("a key that nobody knows", "allow_all = true\n", "policy_broken"),
        ("32 KiB of it and more", &format!("# {}\n{usual}", "x".repeat(33 * 1024)), "policy_broken"),
        ("an empty one: nobody is named", "", "policy_no_user"),
        ("own_user in a service that runs as root", "own_user = true\n", "policy_root"),
    ] {
        ground.policy(text);
        refuses(ground, table, what, code);
    }
    // Root must be named: not by its number under another name.
    ground.policy("[users]\ndefault = \"no-such-user\"\n");
    let owner = ground.owner.clone();
    let (code, said) = owner.does(ground.lab, "id -un");
    table.row(6, "a user whom the device does not have", "the policy's owner", said, code != 0);
    for user in [DAEMON, NET] {
        ground.policy(&format!("[users]\ndefault = \"{user}\"\n"));
        let (code, said) = owner.does(ground.lab, "id -un");
        let held = code != 0 && said.contains("the user that Muster itself runs as");
        table.row(6, format!("a policy that makes visitors {user}, whose files are Muster's"), "the policy's owner", said, held);
    }
    ground.policy(&format!("{usual}[limits]\nsessions = 0\n"));
    refuses(ground, table, "[limits] sessions = 0", "policy_sessions");
    ground.policy(&format!("{usual}[terminal]\nallow = false\n"));
    let (code, said) = owner.does(ground.lab, "id -un");
    table.row(6, "a terminal where none is allowed", PI, said, code != 0);
    let (code, said) = crate::ground::told(&owner.muster(ground.lab, &["run", ROBOT, "--", "id -un"]).output().unwrap());
    table.row(6, "a run where no terminal is allowed", PI, said, code != 0);
    ground.policy(&usual);
    let guest = ground.guest.clone();
    let (code, said) = crate::ground::told(&guest.muster(ground.lab, &["run", ROBOT, "--", "id -un"]).output().unwrap());
    table.row(6, "a run by somebody who may only connect", guest.user, said, code != 0);
    ok(&mut ground.musterd(&["lock", "--reason", "the robot works"]));
    refuses(ground, table, "a device that its owner locked", "policy_locked");
    ok(&mut ground.musterd(&["unlock"]));
    opens(ground);
}

/// A session that lives asks the policy at every stream.
fn while_a_session_lives(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let owner = ground.owner.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let allowing = format!("{}[tcp]\nallow = [\"localhost:{port}\"]\n", ground.users());
    ground.policy(&allowing);
    let local = crate::lab::free_port();
    let mut forward = owner.muster(lab, &["forward", ROBOT, &format!("{local}:{port}")]);
    let mut forward = forward.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let connects = || {
        let Ok(stream) = std::net::TcpStream::connect(("127.0.0.1", local)) else { return false };
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        BufReader::new(stream).read_line(&mut String::new()).is_ok_and(|read| read > 0)
    };
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"reached\n");
        }
    });
    crate::wait::eventually("the forwarded port works", SOON, || connects().then_some(()));
    let path = ground.policy_path();
    let changes: [(&str, &dyn Fn()); 4] = [
        ("the policy is removed", &|| fs::remove_file(&path).unwrap()),
        ("it is broken", &|| ground.policy("[tcp\n")),
        ("it no longer names the target", &|| ground.policy(&ground.usual_policy())),
        ("others may write it", &|| {
            ground.policy(&allowing);
            fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        }),
    ];
    for (what, change) in changes {
        change();
        let reached = connects();
        table.row(6, format!("a living session opens a target although {what}"), PI, if reached { "reached" } else { "refused" }, !reached);
        ground.policy(&allowing);
        assert!(connects(), "and afterwards it is as before");
    }
    ok(&mut ground.musterd(&["lock"]));
    let reached = connects();
    table.row(6, "a living session goes on although the device is locked", PI, if reached { "reached" } else { "refused" }, !reached);
    assert!(ground.is_empty(SOON));
    ok(&mut ground.musterd(&["unlock"]));
    let _ = forward.kill();
    let _ = forward.wait();
    ground.policy(&ground.usual_policy());
    let told = fails(&mut owner.muster(lab, &["shell", ROBOT, "--user", "root", "--", "true"]), 3);
    assert!(told.contains("root"), "{told}");
}

/// The real hub orders a session and a run, and neither begins.
fn refuses(ground: &Ground<'_>, table: &mut Table, what: &str, with: &str) {
    let hub = Signer::hub(ground);
    let session = hand_over(ground, hub.sign(&hostile::session(ground)));
    let run = hand_over(ground, hub.sign(&hostile::run(ground, "true")));
    let run_held = matches!(&run, Answer::Refused(..));
    table.row(6, what, "anybody", session.text(), session.is_refused(with) && (run_held || with == "policy_sessions"));
    ground.clear();
}

fn opens(ground: &Ground<'_>) {
    let answer = hand_over(ground, Signer::hub(ground).sign(&hostile::session(ground)));
    assert!(matches!(answer, Answer::Opened(_)), "what is good is let in: {}", answer.text());
    ground.clear();
}
