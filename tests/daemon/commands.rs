//! The commands that need no hub.

use serde_json::Value;

use crate::device::{Device, text};
use crate::hub::StubHub;

#[test]
fn check_config_names_all_mistakes_of_both_files() {
    let device = Device::new("[mqtt]\ntransport = \"pigeon\"\n[spool]\nmax_bytes = 1\n");
    std::fs::write(device.path("policy.toml"), "[tcp]\nallow = [\"x\"]\n").unwrap();
    let output = device.musterd(&["check-config"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    for key in ["mqtt.transport", "spool.max_bytes"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    // `run` says the same and does not start.
    let output = device.musterd(&["run"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("mqtt.transport"));

    let device = Device::new("");
    std::fs::write(device.path("policy.toml"), "[tcp]\nallow = [\"x\", \"y:0\"]\n[nope]\n").unwrap();
    let output = device.musterd(&["check-config"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(said.matches("tcp.allow").count(), 2, "{said}");
    assert!(said.contains("nope") && said.contains("The configuration is valid."), "{said}");
    let policy = device.path("policy.toml");
    assert!(said.contains(&format!("policy {}: ", policy.display())), "{said}");
}

#[test]
fn enrol_takes_a_hubs_url_and_nothing_behind_it() {
    let device = Device::new("");
    for (url, why) in [
        ("http://hub.example.com", "only encrypted connections are made"),
        ("wss://hub.example.com", "starts with https://"),
        ("https://hub.example.com/v1/hub", "ends with the host or its port"),
        ("https://hub.example.com?x=1", "ends with the host or its port"),
    ] {
        let output = device.musterd(&["enrol", url, "mt1.x"]);
        assert_eq!(output.status.code(), Some(1), "{url}");
        assert!(text(&output).contains(why), "{url}: {}", text(&output));
    }
}

#[test]
fn examples_are_valid() {
    let device = Device::new("");
    for which in ["config", "policy"] {
        let output = device.musterd(&["example-config", which]);
        assert!(output.status.success() && !output.stdout.is_empty());
        std::fs::write(device.path(&format!("{which}.toml")), &output.stdout).unwrap();
    }
    assert!(device.musterd(&["check-config"]).status.success());
}

#[test]
fn status_without_a_daemon_says_so() {
    let device = Device::new("");
    let output = device.musterd(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("musterd does not run"));
    let json: Value = serde_json::from_slice(&device.musterd(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["running"], false);
}

#[test]
fn the_doctor_finds_the_step_that_failed() {
    let device = Device::new("");
    let steps = |device: &Device| -> (Option<i32>, Value) {
        let output = device.musterd(&["doctor", "--json"]);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    };
    let failed = |report: &Value| -> Vec<String> {
        let steps = report["steps"].as_array().unwrap().iter().filter(|step| step["verdict"] == "failed");
        steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect()
    };
    let (code, report) = steps(&device);
    assert_eq!((code, failed(&report)), (Some(1), vec!["identity".to_owned()]));

    let hub = StubHub::start();
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    // A hub at an address where nothing listens, under a name that no resolver knows, with another authority.
    let path = device.path("state/identity.json");
    let identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let cases = [
        ("hub", "https://127.0.0.1:1".to_owned(), "route"),
        ("hub", "https://muster.invalid".to_owned(), "dns"),
        ("pin", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), "tls"),
    ];
    for (key, value, step) in cases {
        let mut changed = identity.clone();
        changed[key] = value.into();
        std::fs::write(&path, changed.to_string()).unwrap();
        let (code, report) = steps(&device);
        assert_eq!(code, Some(1));
        assert!(failed(&report).contains(&step.to_owned()), "{step}: {report}");
    }
}

#[test]
fn only_one_daemon_runs_with_one_configuration() {
    let mut device = Device::new("");
    device.start();
    let _ = device.status();
    let second = device.musterd(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("another musterd runs already"), "{}", text(&second));
}
