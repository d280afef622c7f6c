//! `muster shell DEVICE -- COMMAND` as a part of a pipeline: bytes go where they belong, and the end is told as what it is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use crate::device::Device;
use crate::lab::{Lab, SOON, fails, ok};
use crate::netns::Host;
use crate::process::Process;
use crate::traffic::{random, sha256};
use crate::wait::eventually;
use crate::wire::Wire;

#[test]
fn standard_error_is_apart_and_bytes_stay_what_they_are() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let shell = |line: &str| lab.muster(&["shell", "robot-1", "--", line]);

    let output = shell("echo out; echo err >&2; echo out2; exit 7").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\nout2\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(output.status.code(), Some(7));
    // All of it, also where it ends at once and much is under way on both.
    let output = ok(&mut shell("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero"));
    assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_000, 3_000_000));
    // As a person's shell would: both into one file, in the order in which they were written.
    let both = fs::File::create(lab.folder().join("both")).unwrap();
    let status = shell("echo one; echo two >&2").stdout(both.try_clone().unwrap()).stderr(both).status().unwrap();
    assert!(status.success());
    let mut lines: Vec<String> = fs::read_to_string(lab.folder().join("both")).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["one", "two"]);

    // An archive on its way out, while tar complains.
    let bytes = random(2_000_000);
    fs::write(lab.folder().join("data"), &bytes).unwrap();
    let line =
        format!("cat > /tmp/muster-{0}; sha256sum < /tmp/muster-{0} >&2; cat /tmp/muster-{0}; rm /tmp/muster-{0}", std::process::id());
    let mut back = shell(&line)
        .stdin(fs::File::open(lab.folder().join("data")).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut got = Vec::new();
    back.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    let mut said = String::new();
    back.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(back.wait().unwrap().success(), "{said}");
    assert_eq!(sha256(&got), sha256(&bytes));
    assert!(said.starts_with(&sha256(&bytes)), "{said}");
}

#[test]
fn a_process_in_the_background_does_not_hold_the_command_and_its_errors() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let line = "sleep 600 & echo out; echo err >&2";
    let mut shell = Process::start("background", lab.folder(), lab.muster(&["shell", "robot-1", "--", line]));
    assert!(shell.ended(SOON).success());
    let log = shell.log();
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
}

#[test]
fn a_reader_that_has_enough_and_a_full_disk_are_told_as_what_they_are() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    for name in ["output", "errors"] {
        let line = if name == "output" { "yes" } else { "yes >&2" };
        let mut command = lab.muster(&["shell", "robot-1", "--", line]);
        let mut yes = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut output, mut errors) = (yes.stdout.take().unwrap(), yes.stderr.take().unwrap());
        let mut some = [0; 4];
        let mut rest = String::new();
        if name == "output" {
            output.read_exact(&mut some).unwrap();
            drop(output);
            errors.read_to_string(&mut rest).unwrap();
        } else {
            errors.read_exact(&mut some).unwrap();
            drop(errors);
            output.read_to_string(&mut rest).unwrap();
        }
        assert_eq!((&some, rest.as_str()), (b"y\ny\n", ""), "{name}");
        assert_eq!(yes.wait().unwrap().code(), Some(141), "{name}");
        // What nobody reads ends on the device, too.
        eventually("nothing writes on", SOON, || {
            crate::process::marked(&lab.folder().display().to_string())
                .into_iter()
                .all(|pid| !fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"yes\0"))
                .then_some(())
        });
    }
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let said = fails(lab.muster(&["shell", "robot-1", "--", "yes"]).stdout(full()), 1);
    assert_eq!(said, "muster: can't write to standard output: No space left on device\n");
    let said = fails(lab.muster(&["devices"]).stdout(full()), 1);
    assert!(said.contains("can't write to standard output: No space left on device"), "{said}");
    // A closed one.
    let status = lab.muster(&["shell", "robot-1", "--", "yes >&2"]).stderr(full()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn input_ends_where_it_ends() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let mut command = lab.muster(&["shell", "robot-1", "--", "wc -c; echo over >&2"]);
    let mut wc = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wc.stdin.take().unwrap().write_all(&[b'x'; 100_000]).unwrap();
    let output = wc.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100000");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "over\n");
}

#[test]
fn a_session_takes_the_way_by_which_the_hub_was_reached() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    // A tunnel to the hub under another port, as `ssh -L` makes one; the hub knows nothing of it.
    let tunnel = Wire::to(lab.https);
    let mut shell = lab.muster(&["shell", "robot-1", "--", "head -c 1000000 /dev/zero"]);
    let output = ok(shell.env("MUSTER_HUB", format!("https://{}", tunnel.address())));
    assert_eq!(output.stdout.len(), 1_000_000);
    assert!(tunnel.carried() > 1_000_000, "{} bytes went through the tunnel", tunnel.carried());
}

#[test]
fn a_hub_is_named_with_its_scheme_or_without_and_a_proxy_that_cannot_serve_is_named() {
    let lab = Lab::new();
    let device = Device::new(&lab, Host::default(), "robot-1", "");
    let token = lab.enrolment_token(&["--admit", "auto"]);
    let host = lab.url.strip_prefix("https://").unwrap();
    ok(&mut device.musterd(&["enrol", host, &token]));
    ok(lab.muster(&["devices"]).env("MUSTER_HUB", host));
    ok(&mut lab.muster(&["whoami", "--hub", host]));

    // Loopback needs no proxy; any other host does.
    let elsewhere = |variable: &str, url: &str| {
        let mut command = lab.muster(&["devices"]);
        command.env("MUSTER_HUB", "https://hub.invalid:8443").env(variable, url);
        command
    };
    for variable in ["HTTPS_PROXY", "ALL_PROXY"] {
        let said = fails(&mut elsewhere(variable, "socks5://127.0.0.1:1080"), 2);
        assert!(said.contains(&format!("{variable}: ")) && said.contains("SOCKS proxies are not supported"), "{said}");
    }
    let said = fails(elsewhere("HTTPS_PROXY", "socks5://127.0.0.1:1080").env("NO_PROXY", "hub.invalid"), 6);
    assert!(!said.contains("SOCKS"), "{said}");
}
