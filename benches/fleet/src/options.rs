//! What the command line asks for, checked before anything is started.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "bench-fleet [--devices 10000] [--seconds 30] [--hub PATH] [--without-mosquitto]";
/// More is not what one machine can play and serve at once.
const DEVICES_MAX: usize = 100_000;
/// Descriptors beside those of the links: database, logs, listeners, enrolment.
const DESCRIPTORS_BESIDE: u64 = 200;

/// What to do.
#[derive(Debug)]
pub(crate) struct Options {
    /// How many devices.
    pub(crate) devices: usize,
    /// How long they report.
    pub(crate) seconds: u64,
    /// The hub's program.
    pub(crate) hub: PathBuf,
    /// Mosquitto's program, where there is one and it is wanted.
    pub(crate) mosquitto: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments, and lets this process and its children open as many sockets as they need.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("muster-hub");
        let mut options = Self { devices: 10_000, seconds: 30, hub: beside, mosquitto: find("mosquitto") };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value: {USAGE}"));
            match argument.as_str() {
                "--devices" => options.devices = number("--devices", &value()?, 1, DEVICES_MAX)?,
                "--seconds" => options.seconds = number("--seconds", &value()?, 10, 600)? as u64,
                "--hub" => options.hub = value()?.into(),
                "--without-mosquitto" => options.mosquitto = None,
                // `cargo bench` passes it to every benchmark.
                "--bench" => {}
                _ => bail!("unknown argument {argument:?}: {USAGE}"),
            }
        }
        if !options.hub.is_file() {
            bail!("{} is missing: cargo build --release -p muster-hub, or name it with --hub", options.hub.display());
        }
        raise_descriptors(options.devices)?;
        Ok(options)
    }
}

fn number(name: &str, text: &str, least: usize, most: usize) -> Result<usize> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.with_context(|| format!("{name} is a whole number from {least} to {most}, not {text:?}"))
}

fn raise_descriptors(devices: usize) -> Result<()> {
    let needed = devices as u64 + DESCRIPTORS_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    if let Some(most) = limit.maximum.filter(|most| *most < needed) {
        bail!("{devices} devices need {needed} open files and this shell may have {most} (ulimit -Hn): ask for fewer devices");
    }
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
            .context("cannot raise the limit of open files")?;
    }
    Ok(())
}

/// A program on the PATH, or where Debian keeps daemons.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|folder| folder.join(name)).find(|file| file.is_file())
}
