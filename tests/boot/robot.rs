//! The device of these tests: the machine, the laboratory that it enrols at, and what people do with both.

use std::process::Output;
use std::time::Duration;

use crate::lab::Lab;
use crate::machine::{Machine, Parts};
use crate::shell::Shell;
use crate::steps::Seen;

/// Its serial number, the `id` in the list.
pub const ROBOT: &str = "robot-1";

/// The device.
pub struct Robot<'a> {
    /// Where its hub is, and where people work.
    pub lab: &'a Lab,
    parts: Parts,
    machine: Option<Machine>,
    state: String,
}

impl<'a> Robot<'a> {
    /// Switches a new one on. A boot that fails is tried once more: an emulated machine on a busy host sometimes stumbles.
    pub fn boot(lab: &'a Lab) -> Self {
        let parts = Parts::new(lab);
        let machine = Machine::boot(lab, &parts).or_else(|why| {
            eprintln!("the machine did not boot, once more: {why}");
            Machine::boot(lab, &parts)
        });
        let mut robot = Self { lab, parts, machine: Some(machine.unwrap_or_else(|why| panic!("{why}"))), state: String::new() };
        robot.state = robot.runs();
        robot
    }

    /// Root's shell inside.
    pub fn shell(&mut self) -> &mut Shell {
        &mut self.machine.as_mut().expect("the machine is on").shell
    }

    /// Waits until systemd has started everything, and expects that all of it went well.
    #[track_caller]
    pub fn runs(&mut self) -> String {
        let answer = self.shell().run_within("systemctl is-system-running --wait", Duration::from_secs(120));
        let failed = self.shell().run("systemctl --failed --no-legend").text;
        assert_eq!(answer.text, "running", "{failed}");
        answer.text
    }

    /// The power goes, and comes back.
    pub fn power_cut(&mut self) {
        self.machine.take().expect("the machine is on").cut_power();
        self.machine = Some(Machine::boot(self.lab, &self.parts).unwrap_or_else(|why| panic!("{why}")));
    }

    /// `muster ARGUMENTS...`, to its end.
    pub fn muster(&self, arguments: &[&str]) -> Output {
        self.lab.muster(arguments).output().expect("muster runs")
    }
}

impl Seen for Robot<'_> {
    fn seen(&self) -> String {
        self.state.clone()
    }
}
