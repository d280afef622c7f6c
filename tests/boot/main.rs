//! A real boot: Debian 12 with systemd in an emulated machine, in which the shipped units run, people attack each other, and the power is cut.
//!
//! What other tests cannot see is seen here: the units' sandbox on a kernel with every controller, control groups that systemd delegates,
//! limits that the kernel enforces, `sudo` in a session, a disk after a power cut.
//! The hub and the command line are the real ones, on a host of their own (`netns`), to which the machine's only cable leads.
//! Each step is a row of the table that the test prints; a step that fails does not keep the others from running.
//!
//! Needs root, for the host and for the image of the machine (`packaging/boot/image`), which is made once and kept.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "one binary; `pub` says what a part of the harness offers to the steps")]

mod attacks;
mod limits;
mod logins;
mod machine;
mod power;
mod robot;
mod sessions;
mod shell;
mod steps;
mod units;
mod window;

// The laboratory is that of the end-to-end tests; not every part of it is wanted here.
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/https.rs"]
mod https;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/lab.rs"]
mod lab;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/netns.rs"]
mod netns;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/process.rs"]
mod process;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/programs.rs"]
mod programs;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/wait.rs"]
mod wait;
#[expect(dead_code, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../e2e/wire.rs"]
mod wire;

use lab::{Lab, Plan};
use netns::{Cable, HUB_ADDRESS};
use robot::Robot;
use steps::Steps;

#[test]
fn units_sessions_limits_attacks_and_a_power_cut_on_a_booted_machine() {
    let cable = Cable::new();
    let lab = Lab::planned(Plan { host: Some((cable.hub(), HUB_ADDRESS)), ..Plan::default() });
    let mut steps = Steps::default();
    let mut robot = steps.first("boots to `running`", || Robot::boot(&lab));
    units::steps(&mut steps, &mut robot);
    sessions::steps(&mut steps, &mut robot);
    limits::steps(&mut steps, &mut robot);
    logins::steps(&mut steps, &mut robot);
    attacks::steps(&mut steps, &mut robot);
    power::steps(&mut steps, &mut robot);
    steps.end();
}
