//! The whole system on a real Mosquitto, set up by what `muster-hub broker-config mosquitto` writes.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::fence::raw_client;
use crate::lab::{Lab, Plan, SOON, ok};
use crate::netns::Host;
use crate::process::Process;
use crate::programs;
use crate::spool;
use crate::wait::eventually;

/// A laboratory whose hub embeds no MQTT endpoint, and the Mosquitto that takes its place on the same address.
pub fn lab_on_mosquitto() -> (Lab, Process) {
    let mut lab = Lab::prepared(Plan::default());
    let folder = lab.folder().join("mosquitto");
    let mut write = lab.marked(&programs::muster_hub());
    write.arg("--config").arg(lab.data.join("hub.toml")).args(["broker-config", "mosquitto", "--bind", "127.0.0.1"]);
    write.args(["--port", &lab.mqtt.port().to_string(), "--state", &format!("{}/", folder.display())]).arg("--write").arg(&folder);
    ok(&mut write);
    let mut conf = folder.join("mosquitto.conf");
    if rustix::process::geteuid().is_root() {
        // Started by root, Mosquitto would become its own user, who may not read a test's folder.
        let text = fs::read_to_string(&conf).unwrap();
        conf = folder.join("as-root.conf");
        fs::write(&conf, format!("user root\nlog_type all\n{text}")).unwrap();
    }
    let mut command = lab.marked(&programs::system("mosquitto"));
    command.arg("-c").arg(conf);
    let mut mosquitto = Process::start("mosquitto", lab.folder(), command);
    eventually("mosquitto listens", SOON, || {
        mosquitto.assert_alive();
        TcpStream::connect(lab.mqtt).ok()
    });
    lab.hub_environment.push(("MUSTER_HUB_MQTT_BROKER".into(), format!("mqtts://{}", lab.mqtt)));
    lab.start_hub();
    (lab, mosquitto)
}

#[test]
fn on_mosquitto_a_device_reports_is_reached_is_fenced_and_is_cut_off() {
    let (lab, mut mosquitto) = lab_on_mosquitto();
    let mut device = Device::online(&lab, "robot-1");
    lab.row_becomes("robot-1", "online with a sample", SOON, |row| row["usage"].is_object());
    assert_eq!(lab.run(&["shell", "robot-1", "--", "echo", "over mosquitto"]).trim(), "over mosquitto");

    // Gone by the will, and back.
    device.daemon().kill();
    lab.row_becomes("robot-1", "offline", Duration::from_secs(5), |row| row["presence"] == "offline");
    device.start();
    lab.online("robot-1");

    // Another device of the fleet, with a valid key, joins the hub's shared group and speaks in the first one's name.
    let thief = Device::new(&lab, Host::default(), "thief", "");
    thief.enrol();
    let victim = lab.device_row("robot-1").unwrap()["uid"].as_str().unwrap().to_owned();
    let mut steal = raw_client(&lab, &thief, "mosquitto_sub");
    steal.args(["-q", "1", "-v", "-t", "$share/muster-hub/muster/v1/+/up/#", "-t", "#", "-t", &format!("muster/v1/{victim}/#")]);
    let mut stealing = Process::start("stealing", lab.folder(), steal);
    let mut forge = raw_client(&lab, &thief, "mosquitto_pub");
    forge.args([
        "-i",
        "other",
        "-q",
        "1",
        "-r",
        "-t",
        &format!("muster/v1/{victim}/up/presence"),
        "-m",
        r#"{"online":false,"link":99999999999}"#,
    ]);
    let _ = forge.output();
    device.has_taken(device.own_samples().len() + 6, SOON);
    spool::compare(&lab, &device);
    assert_eq!(lab.device_row("robot-1").unwrap()["presence"], "online", "a forged farewell changes nothing");
    let stolen = stealing.log();
    assert!(!stolen.contains("muster/v1/"), "stolen: {stolen}");
    stealing.kill();

    // The broker goes away and comes back: nothing is lost.
    let ready = || lab.api("GET", "/readyz", None).status;
    assert_eq!(ready(), 200);
    mosquitto.stop();
    crate::wait::eventually("the hub is not ready without its broker", SOON, || (ready() == 503).then_some(()));
    device.has_taken(device.own_samples().len() + 3, SOON);
    let mut again = lab.marked(&programs::system("mosquitto"));
    let folder = lab.folder().join("mosquitto");
    let as_root = folder.join("as-root.conf");
    again.arg("-c").arg(if as_root.exists() { as_root } else { folder.join("mosquitto.conf") });
    let _mosquitto = Process::start("mosquitto-again", lab.folder(), again);
    lab.online("robot-1");
    assert_eq!(ready(), 200);
    spool::compare(&lab, &device);

    // Revoked: link and live session within a second.
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo here; exec sleep 302"]));
    shell.says("here", SOON);
    lab.run(&["device", "revoke", "robot-1", "--yes", "--reason", "sold"]);
    let revoked = Instant::now();
    assert!(!shell.ended(Duration::from_secs(1)).success());
    let left = Duration::from_secs(1).saturating_sub(revoked.elapsed()).max(Duration::from_millis(300));
    lab.row_becomes("robot-1", "offline", left, |row| row["presence"] == "offline");
    crate::wait::throughout("it stays out", Duration::from_secs(3), || lab.device_row("robot-1").unwrap()["presence"] == "offline");
    // The broker itself gives no reasons: the hub's word came before the cut, and stands.
    let output = device.musterd(&["status"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("revoked by an owner of acme: sold"), "{said}{}", device.daemon().log());
}
