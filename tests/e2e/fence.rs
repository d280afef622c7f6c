//! The fence, attacked with Mosquitto's own clients: a device's key opens its own lane and nothing else;
//! without a key, knowing everything about a device opens nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::device::Device;
use crate::https;
use crate::lab::{Lab, SOON, ok, rows};
use crate::netns::Host;
use crate::process::Process;
use crate::programs;

/// A raw MQTT client of the system with a device's own key, not our code.
pub fn raw_client(lab: &Lab, device: &Device<'_>, program: &str) -> Command {
    let (certificate, key) = device.credentials();
    let paths = [("certificate", certificate), ("key", key)].map(|(name, text)| {
        let path = lab.folder().join(format!("{}-{name}.pem", device.id));
        fs::write(&path, text).unwrap();
        path
    });
    let mut command = with_certificate(lab, program, &paths[0], &paths[1]);
    command.args(["-i", &uid_in(&paths[0])]);
    command
}

fn with_certificate(lab: &Lab, program: &str, certificate: &Path, key: &Path) -> Command {
    let mut command = without_certificate(lab, program);
    command.arg("--cert").arg(certificate).arg("--key").arg(key);
    command
}

fn without_certificate(lab: &Lab, program: &str) -> Command {
    let ca = lab.folder().join("hub-ca.pem");
    fs::write(&ca, lab.ca()).unwrap();
    let mut command = lab.marked(&programs::system(program));
    command.args(["-V", "5", "-h", "127.0.0.1", "-p", &lab.mqtt.port().to_string(), "--cafile"]).arg(ca);
    command
}

/// The uid that a certificate names.
fn uid_in(certificate: &Path) -> String {
    let output =
        ok(Command::new(programs::system("openssl")).args(["x509", "-noout", "-subject", "-nameopt", "multiline", "-in"]).arg(certificate));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("commonName")).unwrap_or_else(|| panic!("no CN: {text}"));
    line.split('=').nth(1).unwrap().trim().to_owned()
}

/// A sample that no device ever took.
const FORGED: &str = r#"{"boot":"f0f0f0f0f0f0f0f0","first_seq":0,"n":1,"t0":1700000000000,"step_s":1,"c":{"cpu":0.5}}"#;

#[test]
fn a_devices_key_opens_no_lane_but_its_own() {
    let lab = Lab::new();
    let mut victim = Device::online(&lab, "victim");
    let uid = lab.device_row("victim").unwrap()["uid"].as_str().unwrap().to_owned();
    let neighbour = Device::new(&lab, Host::default(), "neighbour", "");
    neighbour.enrol();
    lab.run(&["org", "create", "elsewhere"]);
    let token =
        lab.json(&["token", "create", "--org", "elsewhere", "--no-project", "--admit", "auto"])["token"].as_str().unwrap().to_owned();
    let foreigner = Device::new(&lab, Host::default(), "foreigner", "");
    foreigner.enrol_with(&token);

    let lane = format!("muster/v1/{uid}");
    let order = format!(
        r#"{{"do":"open","session":"saaaaaaaaaaaaaaa","relay":"wss://127.0.0.1:9/v1/sessions/saaaaaaaaaaaaaaa/device","ticket":"x","user":"x","project":"lab","role":"admin","t":{}}}"#,
        crate::devices::now_ms()
    );
    let attacks =
        [("up/presence", r#"{"online":false,"link":9999999999999}"#), ("up/usage", FORGED), ("down/session", &order), ("up/event", "{}")];
    let mut spies = Vec::new();
    for attacker in [&neighbour, &foreigner] {
        let mut spy = raw_client(&lab, attacker, "mosquitto_sub");
        spy.args(["-q", "1", "-v", "-t", &format!("{lane}/#"), "-t", "#", "-t", "$share/muster-hub/muster/v1/+/up/#", "-t", "$SYS/#"]);
        // Who only asks for what is not his is thrown out; the spy also asks for what is.
        spies.push(Process::start(&format!("spy-{}", attacker.id), lab.folder(), spy));
        for (topic, payload) in attacks {
            for retain in [&[][..], &["-r"]] {
                let mut publish = raw_client(&lab, attacker, "mosquitto_pub");
                publish.args(["-q", "1", "-t", &format!("{lane}/{topic}"), "-m", payload]).args(retain);
                publish.output().unwrap();
            }
        }
        // A will in the victim's lane, left by a client that dies.
        let mut will = raw_client(&lab, attacker, "mosquitto_sub");
        will.args(["-t", "x", "--will-topic", &format!("{lane}/up/presence"), "--will-payload", attacks[0].1, "--will-qos", "1"]);
        let mut dying = Process::start(&format!("will-{}", attacker.id), lab.folder(), will);
        victim.has_taken(victim.own_samples().len() + 1, SOON);
        dying.kill();
    }

    // Its own reports still arrive, and nothing else does.
    victim.has_taken(victim.own_samples().len() + 4, SOON);
    crate::spool::compare(&lab, &victim);
    assert!(lab.samples("victim").iter().all(|sample| sample["boot"] != "f0f0f0f0f0f0f0f0"), "a forged sample was stored");
    let history = rows(lab.api("GET", "/v1/orgs/acme/devices/victim/presence?limit=50", None).json());
    assert_eq!(history.len(), 1, "only its own birth: {history:#?}");
    assert!(!victim.daemon().log().contains("saaaaaaaaaaaaaaa"), "a forged order reached the device");
    for spy in &spies {
        assert!(!spy.log().contains("muster/v1/"), "a spy heard: {}", spy.log());
    }
}

#[test]
fn without_a_devices_key_nothing_works_anywhere() {
    let lab = Lab::new();
    let mut victim = Device::online(&lab, "victim");
    let row = lab.device_row("victim").unwrap();
    let uid = row["uid"].as_str().unwrap().to_owned();

    // No certificate at all, and one that says the same as the victim's, from an authority of the attacker's own.
    let (key, certificate): (PathBuf, PathBuf) = (lab.folder().join("own-key.pem"), lab.folder().join("own-certificate.pem"));
    let mut make = Command::new(programs::system("openssl"));
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    ok(make.args(["-subj", &format!("/O=acme/CN={uid}"), "-keyout"]).arg(&key).arg("-out").arg(&certificate));
    // The victim's real certificate, which is no secret, with a key that does not belong to it, ends in the TLS library already.
    for mut client in [without_certificate(&lab, "mosquitto_sub"), with_certificate(&lab, "mosquitto_sub", &certificate, &key)] {
        client.args(["-i", &uid, "-u", &uid, "-P", "victim", "-t", &format!("muster/v1/{uid}/down/#"), "-W", "5"]);
        let output = client.output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }

    let (own_certificate, own_key) = (fs::read_to_string(&certificate).unwrap(), fs::read_to_string(&key).unwrap());
    let strangers = [https::config(&lab.ca(), None), https::config(&lab.ca(), Some((&own_certificate, &own_key)))];
    let session = "saaaaaaaaaaaaaaa";
    let mut refused = 0;
    for config in strangers {
        for (method, path, body) in [
            ("GET", "/v1/device/self".to_owned(), None),
            ("POST", "/v1/device/renew".to_owned(), Some(&b"{\"csr\":\"x\"}"[..])),
            ("GET", "/mqtt".to_owned(), None),
            ("GET", format!("/v1/sessions/{session}/device"), None),
            ("GET", format!("/v1/sessions/{session}/client"), None),
            ("GET", "/v1/orgs/acme/devices/victim".to_owned(), None),
        ] {
            // A stranger's certificate may end the handshake; otherwise the answer is no.
            if let Ok(answer) = https::request(lab.https, config.clone(), method, &path, None, body) {
                assert!(matches!(answer.status, 400..=499), "{method} {path}: {answer:?}");
            }
            refused += 1;
        }
    }
    assert_eq!(refused, 12);
    // Its facts and serial with a valid token and another key: a request, and nothing changes.
    let mut now = lab.device_row("victim").unwrap();
    for field in ["uid", "admission", "presence", "presence_since"] {
        assert_eq!(now[field], row[field], "{field}");
    }
    assert_eq!(now["sessions"].take(), Value::from(0));
    victim.daemon().assert_alive();
}
