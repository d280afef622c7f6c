//! Two hosts on one machine: network namespaces of this test's own, joined by a cable that can be pulled.
//!
//! Needs root, as `ip netns` does. Without it the test fails and says so; nothing is skipped in silence.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::programs;

/// Where a process runs: on this machine as it is, or on a host of its own.
#[derive(Clone, Debug, Default)]
pub struct Host(Option<String>);

impl Host {
    /// A command that runs on this host. `ip netns exec` becomes the program, so its process id is the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.0 {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new(programs::system("ip"));
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

/// The hub's host and the device's host, with one cable between them.
pub struct Cable {
    hub: String,
    device: String,
}

/// The hub's address on the cable. The namespaces have no other route, so nothing leaves them.
pub const HUB_ADDRESS: &str = "10.213.77.1";
const DEVICE_ADDRESS: &str = "10.213.77.2";

impl Cable {
    /// Makes both hosts and plugs the cable in.
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test needs root for its own network namespaces: run `sudo make check`, or run the others with `cargo test`"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("muster-{}-{number}-{side}", std::process::id());
        let cable = Self { hub: name("hub"), device: name("dev") };
        for host in [&cable.hub, &cable.device] {
            ip(&["netns", "add", host]);
            ip(&["-n", host, "link", "set", "lo", "up"]);
        }
        ip(&["link", "add", "cable", "netns", &cable.hub, "type", "veth", "peer", "name", "cable", "netns", &cable.device]);
        for (host, address) in [(&cable.hub, HUB_ADDRESS), (&cable.device, DEVICE_ADDRESS)] {
            ip(&["-n", host, "address", "add", &format!("{address}/30"), "dev", "cable"]);
            ip(&["-n", host, "link", "set", "cable", "up"]);
        }
        cable
    }

    /// The hub's host; people work there too.
    pub fn hub(&self) -> Host {
        Host(Some(self.hub.clone()))
    }

    /// The device's host.
    pub fn device(&self) -> Host {
        Host(Some(self.device.clone()))
    }

    /// Pulls the cable: no reset, no farewell, no answer.
    pub fn pull(&self) {
        ip(&["-n", &self.device, "link", "set", "cable", "down"]);
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        ip(&["-n", &self.device, "link", "set", "cable", "up"]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for host in [&self.hub, &self.device] {
            let _ = Command::new(programs::system("ip")).args(["netns", "delete", host]).status();
        }
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new(programs::system("ip")).args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}
