//! Bad input, from people and from the network: a clear error with a code, a line in the log, nothing lost, nothing down.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::device::Device;
use crate::devices::now_ms;
use crate::https;
use crate::lab::{Lab, Plan, SOON, fails, rows};
use crate::netns::Host;
use crate::programs;
use crate::traffic::random;
use crate::wait::eventually;

/// Runs a command that must fail, whatever its code; gives all that it wrote.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded: {text}");
    assert!(!text.contains("panicked at"), "{text}");
    text
}

#[test]
fn a_broken_configuration_names_all_its_mistakes_at_once() {
    let lab = Lab::prepared(Plan::default());
    let daemon = lab.folder().join("broken-daemon.toml");
    fs::write(&daemon, "state_dir = \"here\"\ncolour = \"red\"\n[usage]\nsample_every_s = \"often\"\n[mqtt]\ntransport = \"udp\"\n")
        .unwrap();
    let hub = lab.folder().join("broken-hub.toml");
    fs::write(&hub, "listen = \"nowhere\"\npublic_url = \"ftp://x\"\ncolour = \"red\"\n[log]\nlevel = 7\n").unwrap();
    for (program, path, keys) in [
        (programs::musterd(), daemon, ["state_dir", "colour", "usage.sample_every_s", "mqtt.transport"]),
        (programs::muster_hub(), hub, ["listen", "public_url", "colour", "log.level"]),
    ] {
        for command in ["check-config", if program == programs::musterd() { "run" } else { "serve" }] {
            let told = refused(lab.marked(&program).arg("--config").arg(&path).arg(command));
            for key in keys {
                assert!(told.contains(key), "{command} does not name {key}: {told}");
            }
        }
    }
    // And the examples that the programs print are without mistakes.
    for (program, name) in [(programs::musterd(), "daemon"), (programs::muster_hub(), "hub")] {
        let example = crate::lab::ok(lab.marked(&program).arg("example-config")).stdout;
        let path = lab.folder().join(format!("example-{name}.toml"));
        fs::write(&path, example).unwrap();
        crate::lab::ok(lab.marked(&program).arg("--config").arg(&path).arg("check-config"));
    }
}

#[test]
fn keys_that_others_can_read_are_told_and_closed_at_the_start() {
    let lab = Lab::prepared(Plan::default());
    let key = lab.data.join("ca.key");
    let mode = || fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let told = fails(lab.marked(&programs::muster_hub()).arg("--config").arg(lab.data.join("hub.toml")).arg("check-config"), 1);
    assert!(told.contains("ca.key (mode 644)") && told.contains("chmod 600"), "{told}");
    assert_eq!(mode(), 0o644, "a check changes nothing");
    lab.start_hub();
    assert_eq!(mode(), 0o600);
    assert!(lab.hub().log().contains("could be read by others (mode 644)"), "{}", lab.hub().log());
}

#[test]
fn making_a_hub_again_makes_no_second_token() {
    let lab = Lab::prepared(Plan::default());
    let mut init = lab.marked(&programs::muster_hub());
    init.arg("init").arg("--data-dir").arg(&lab.data).args(["--public-url", &lab.url, "--owner", crate::lab::OWNER, "--org", "acme"]);
    let output = crate::lab::ok(&mut init);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout.is_empty() && told.contains("there already") && told.contains("user password"), "{told}");
}

#[test]
fn a_token_that_is_wrong_used_up_or_from_another_hub_is_refused_with_the_reason() {
    let (lab, other) = (Lab::new(), Lab::new());
    let device = |id| Device::new(&lab, Host::default(), id, "");
    let enrol = |id, url: &str, token: &str| refused(&mut device(id).musterd(&["enrol", url, token, "--no-wait"]));

    let good = lab.enrolment_token(&["--admit", "auto", "--uses", "1"]);
    let parts: Vec<&str> = good.split('.').collect();
    let told = enrol("bad-1", &lab.url, "hello");
    assert!(told.contains("not a Muster token"), "{told}");
    let told = enrol("bad-1", &lab.url, &good[..good.len() - 3]);
    assert!(told.contains("damaged"), "{told}");
    let told = enrol("bad-1", &lab.url, &lab.token);
    assert!(told.contains("enrolment token"), "a personal token: {told}");
    let unknown = format!("{}.{}.{}.{}", parts[0], parts[1], "a".repeat(32), parts[3]);
    let told = enrol("bad-1", &lab.url, &unknown);
    assert!(told.contains("token"), "{told}");
    // A token that trusts another hub: the daemon does not even ask this one.
    let told = enrol("bad-1", &other.url, &good);
    assert!(told.contains("fingerprint") || told.contains("another hub") || told.contains("not the hub"), "{told}");
    assert_eq!(rows(other.json(&["devices"])).len(), 0);

    device("good-1").enrol_with(&good);
    let told = enrol("bad-2", &lab.url, &good);
    assert!(told.contains("used up") || told.contains("as many devices"), "{told}");
    let limited = lab.folder().join("serials");
    fs::write(&limited, "good-2\ngood-3\n").unwrap();
    let limited = lab.enrolment_token(&["--admit", "auto", "--serials", &limited.display().to_string()]);
    let told = enrol("bad-3", &lab.url, &limited);
    assert!(told.contains("serial"), "{told}");
    device("good-2").enrol_with(&limited);

    let mut listed: Vec<String> = rows(lab.json(&["devices"])).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    listed.sort();
    assert_eq!(listed, ["good-1", "good-2"], "nothing refused left a row");
    // An owner reads in the audit why.
    let audit = lab.api("GET", "/v1/orgs/acme/audit?limit=100", None).json();
    let results: Vec<&str> = audit["items"].as_array().unwrap().iter().filter_map(|event| event["result"].as_str()).collect();
    for code in ["token_used_up", "token_serial"] {
        assert!(results.contains(&code), "{code} in the audit: {results:?}");
    }
}

#[test]
fn an_expired_token_is_refused_with_the_reason() {
    let lab = Lab::new();
    // A minute is the shortest life that the hub gives.
    let made = lab.api("POST", "/v1/orgs/acme/enrolment-tokens", Some(&serde_json::json!({"expires_s": 60, "admit": "auto"})));
    assert!(made.status < 300, "{made:?}");
    let (token, expires) = (made.json()["token"].as_str().unwrap().to_owned(), made.json()["expires_at"].as_i64().unwrap());
    let short = lab.api("POST", "/v1/orgs/acme/enrolment-tokens", Some(&serde_json::json!({"expires_s": 1})));
    assert_eq!((short.status, short.problem().as_str()), (400, "invalid"));
    eventually("the minute is over", Duration::from_secs(70), || (now_ms() > expires + 100).then_some(()));
    let device = Device::new(&lab, Host::default(), "late", "");
    let told = refused(&mut device.musterd(&["enrol", &lab.url, &token, "--no-wait"]));
    assert!(told.contains("expired") || told.contains("past its date"), "{told}");
    assert_eq!(rows(lab.json(&["devices"])).len(), 0);
}

#[test]
fn the_command_line_tells_what_is_wrong_and_by_which_code() {
    let lab = Lab::new();
    let told = fails(&mut lab.muster(&["device", "show", "nobody"]), 4);
    assert!(told.contains("nobody"), "{told}");
    let told = fails(&mut lab.muster(&["shell", "nobody", "--", "true"]), 4);
    assert!(told.contains("nobody"), "{told}");
    fails(&mut lab.muster(&["devices", "--no-such-flag"]), 2);
    fails(lab.muster(&["devices"]).env("MUSTER_TOKEN", "mp1.nonsense"), 2);
    let parts: Vec<&str> = lab.token.split('.').collect();
    let unknown = format!("mp1.{}.{}.{}", parts[1], "a".repeat(32), parts[3]);
    let told = fails(lab.muster(&["devices"]).env("MUSTER_TOKEN", &unknown), 3);
    assert!(told.contains("token"), "{told}");
    fails(lab.muster(&["devices"]).env("MUSTER_ORG", "elsewhere"), 4);
    let told = fails(lab.muster(&["devices"]).env("MUSTER_HUB", "https://127.0.0.1:9"), 6);
    assert!(told.contains("127.0.0.1:9"), "{told}");
    let other = Lab::new();
    let told = fails(lab.muster(&["devices"]).env("MUSTER_HUB", &other.url), 6);
    assert!(told.to_lowercase().contains("fingerprint") || told.contains("certificate") || told.contains("another hub"), "{told}");

    let offline = Device::new(&lab, Host::default(), "asleep", "");
    offline.enrol();
    let told = fails(&mut lab.muster(&["shell", "asleep", "--", "true"]), 5);
    assert!(told.contains("asleep"), "{told}");
}

#[test]
fn requests_that_are_too_large_or_nonsense_get_a_problem_with_a_code() {
    let lab = Lab::new();
    let config = https::config(&lab.ca(), None);
    let ask = |method, path: &str, token: Option<&str>, body: Option<&[u8]>| {
        https::request(lab.https, config.clone(), method, path, token, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    };
    let token = Some(lab.token.as_str());
    let large = format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20));
    type Case<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a [u8]>, u16, &'a str);
    let cases: &[Case<'_>] = &[
        ("POST", "/v1/orgs", token, Some(large.as_bytes()), 413, "too_large"),
        ("POST", "/v1/enrol", None, Some(large.as_bytes()), 413, "too_large"),
        ("POST", "/v1/orgs", token, Some(b"{\"id\":"), 400, "invalid"),
        ("POST", "/v1/orgs", token, Some(b"{\"id\":\"UPPER CASE\"}"), 400, "invalid"),
        ("POST", "/v1/orgs", token, Some(b"{\"id\":\"ok\",\"colour\":1}"), 400, "invalid"),
        ("POST", "/v1/enrol", None, Some(b"[]"), 400, "invalid"),
        ("GET", "/v1/orgs/acme/devices", None, None, 401, "unauthenticated"),
        ("GET", "/v1/orgs/acme/devices", Some("mt1.x"), None, 401, "unauthenticated"),
        ("GET", "/v1/orgs/other/devices", token, None, 404, "not_found"),
        ("GET", "/v1/orgs/acme/devices/nobody", token, None, 404, "not_found"),
        ("GET", "/v1/orgs/acme/devices?limit=minus", token, None, 400, "invalid"),
        ("GET", "/nowhere", token, None, 404, "not_found"),
        ("PUT", "/v1/orgs", token, None, 405, "method_not_allowed"),
        ("POST", "/v1/device/renew", None, Some(b"{\"csr\":\"x\"}"), 401, "unauthenticated"),
        ("GET", "/v1/device/self", None, None, 401, "unauthenticated"),
    ];
    for (method, path, token, body, status, code) in cases {
        let answer = ask(method, path, *token, *body);
        assert_eq!((answer.status, answer.problem().as_str()), (*status, *code), "{method} {path}: {answer:?}");
    }
    assert_eq!(ask("GET", "/healthz", None, None).status, 200);
}

#[test]
fn garbage_on_every_port_takes_nothing_down() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    let since = lab.device_row("robot-1").unwrap()["presence_since"].clone();

    // Bytes that are no TLS at all, and connections that say nothing: many, held open.
    let mut held = Vec::new();
    for port in [lab.https, lab.mqtt] {
        for garbage in [random(4096), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"\x16\x03\x01\xff\xff".to_vec(), vec![0; 70_000], Vec::new()] {
            for _ in 0..20 {
                let mut connection = TcpStream::connect(port).unwrap();
                let _ = connection.write_all(&garbage);
                held.push(connection);
            }
        }
    }
    // TLS, and garbage inside. The MQTT port asks for a certificate first.
    let anybody = https::config(&lab.ca(), None);
    let (certificate, key) = device.credentials();
    let known = https::config(&lab.ca(), Some((&certificate, &key)));
    let inside: [(SocketAddr, &_, &[u8]); 6] = [
        (lab.https, &anybody, b"\0\0\0\0garbage\r\n\r\n"),
        (lab.https, &anybody, &[b'A'; 300_000]),
        (
            lab.https,
            &anybody,
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        ),
        (lab.mqtt, &known, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (lab.mqtt, &known, &[0xff; 70_000]),
        (lab.mqtt, &known, b"\x10\xff\xff\xff\x7f"),
    ];
    for (port, config, garbage) in inside {
        let mut stream = https::connect(port, config.clone()).unwrap();
        let _ = stream.write_all(garbage).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        // Whatever it answers, it comes to an end.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 64 * 1024, "{} bytes in answer to garbage", answer.len());
    }
    // The daemon's own sockets.
    for socket in fs::read_dir(device.folder.join("run")).unwrap().flatten().map(|entry| entry.path()) {
        for garbage in [random(200_000), b"{\"do\":\"event\"}\n".to_vec(), vec![b'\n'; 1000], Vec::new()] {
            if let Ok(mut connection) = UnixStream::connect(&socket) {
                let _ = connection.write_all(&garbage);
            }
        }
    }

    device.daemon().assert_alive();
    lab.hub().assert_alive();
    let row = lab.row_becomes("robot-1", "online with a new sample", SOON, |row| {
        row["presence"] == "online" && row["usage"]["t"].as_i64().is_some_and(|t| now_ms() - t < 5000)
    });
    assert_eq!(row["presence_since"], since, "its link was never touched");
    assert_eq!(lab.run(&["shell", "robot-1", "--", "echo", "still here"]).trim(), "still here");
    let log = lab.hub().log();
    assert!(!log.contains("panicked at"), "{log}");
    drop(held);
}

#[test]
fn an_oversized_mqtt_message_costs_its_sender_the_link_and_nobody_else() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    let _other = Device::online(&lab, "robot-2");
    let uid = lab.device_row("robot-1").unwrap()["uid"].as_str().unwrap().to_owned();
    device.stop();
    lab.row_becomes("robot-1", "offline", SOON, |row| row["presence"] == "offline");

    // With the device's own key and certificate, but not our code.
    let (certificate, key) = device.credentials();
    let files = [("ca", lab.ca()), ("certificate", certificate), ("key", key)].map(|(name, text)| {
        let path = lab.folder().join(format!("{name}.pem"));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    let publish = |topic: &str, payload: &[u8]| {
        let file = lab.folder().join("payload");
        fs::write(&file, payload).unwrap();
        let mut client = Command::new(programs::system("mosquitto_pub"));
        client.args(["-V", "5", "-q", "1", "-i", &uid, "-h", "127.0.0.1", "-p", &lab.mqtt.port().to_string()]);
        client.args(["--cafile", &files[0], "--cert", &files[1], "--key", &files[2], "-t", &format!("muster/v1/{uid}/up/{topic}"), "-f"]);
        client.arg(&file).output().unwrap()
    };
    let before = lab.samples("robot-1").len();
    let known = https::config(&files_of(&files[0]), Some((&files_of(&files[1]), &files_of(&files[2]))));
    let mut raw = https::connect(lab.mqtt, known).unwrap();
    raw.write_all(&mqtt_connect(&uid)).unwrap();
    let mut acknowledged = [0; 2];
    raw.read_exact(&mut acknowledged).unwrap();
    assert_eq!(acknowledged[0], 0x20, "CONNACK");
    let _ = raw.write_all(&mqtt_publish(&format!("muster/v1/{uid}/up/usage"), &vec![b'x'; 100_000]));
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer);
    let farewell = &answer[usize::from(acknowledged[1])..];
    assert!(farewell.len() >= 3 && farewell[0] == 0xe0 && farewell[2] == 0x95, "DISCONNECT, packet too large: {farewell:02x?}");
    // Within the size, but nonsense: taken off the wire, logged, not stored.
    for nonsense in [
        &b"{}"[..],
        b"nonsense",
        b"[1,2",
        &[0xff; 100],
        br#"{"boot":"0123456789abcdef","first_seq":18446744073709551615,"n":600,"t0":0,"step_s":1,"c":{}}"#,
    ] {
        publish("usage", nonsense);
        publish("presence", nonsense);
        publish("heartbeat", nonsense);
        publish("event", nonsense);
    }
    assert_eq!(lab.samples("robot-1").len(), before);
    let log = lab.hub().log();
    assert!(log.contains("robot-1") || log.contains(&uid), "the log names the sender: {log}");
    assert!(!log.contains("panicked at"), "{log}");
    assert_eq!(lab.device_row("robot-2").unwrap()["presence"], "online");
    device.start();
    lab.online("robot-1");
}

fn files_of(path: &str) -> String {
    fs::read_to_string(path).unwrap()
}

/// CONNECT of MQTT 5, clean start, one minute (MQTT 5, 3.1), for a client id of 16 characters.
fn mqtt_connect(client: &str) -> Vec<u8> {
    let mut packet = b"\x10\x1d\0\x04MQTT\x05\x02\0\x3c\0\0\x10".to_vec();
    assert_eq!(client.len(), 16);
    packet.extend_from_slice(client.as_bytes());
    packet
}

/// PUBLISH of MQTT 5, QoS 0, without properties (MQTT 5, 3.3).
fn mqtt_publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let (mut packet, mut rest) = (vec![0x30], 2 + topic.len() + 1 + payload.len());
    loop {
        let digit = u8::try_from(rest % 128).unwrap();
        rest /= 128;
        packet.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(&u16::try_from(topic.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    packet.push(0);
    packet.extend_from_slice(payload);
    packet
}
