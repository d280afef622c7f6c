//! What the device daemon costs when nothing happens, beside the floor, in one run against one broker.
//!
//! `footprint [--seconds 120] [--session-only] [--musterd PATH] [--session PATH] [--floor PATH]`; the programs default to
//! `target/cross/x86_64-unknown-linux-musl/`, where `MUSTER_CROSS_PROGRAMS="musterd musterd-session floor" scripts/cross
//! x86_64-unknown-linux-musl` puts them. Needs Mosquitto on the PATH.
//! The daemon runs with its defaults: sample each 10 s, batch each 60 s, heartbeat each 30 s, over mutual TLS.
//! Then one session with an open terminal, over a small relay of ours, idle: what its two processes of `musterd-session` add; and
//! how long a plain shell of another user takes to its prompt.
//! Prints one table. A goal that is missed ends it with exit code 1.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

mod figures;
mod place;
mod session;
mod wire;

use figures::{Figures, Session};
use place::Place;
use wire::Counter;

/// Until handshakes and first messages are over.
const SETTLE: Duration = Duration::from_secs(8);
/// Shells that are opened to their prompt.
const PROMPTS: u8 = 41;

struct Options {
    seconds: u64,
    /// Only the figures of a session, in seconds.
    session_only: bool,
    musterd: PathBuf,
    session: PathBuf,
    floor: PathBuf,
}

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<ExitCode> {
    let options = options()?;
    let needed = if options.session_only { vec![&options.session] } else { vec![&options.musterd, &options.session, &options.floor] };
    for program in needed {
        if !program.exists() {
            bail!(
                "{} is missing: MUSTER_CROSS_PROGRAMS=\"musterd musterd-session floor\" scripts/cross x86_64-unknown-linux-musl",
                program.display()
            );
        }
    }
    let place = Place::make()?;
    if options.session_only {
        return Ok(verdict(figures::print_session(&measure_session(&options.session, &place)?)));
    }
    let mut broker = Command::new("mosquitto");
    broker.arg("-c").arg(place.broker_config()).stdout(Stdio::null()).stderr(Stdio::null());
    broker.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    let _broker = Running(broker.spawn().context("cannot start mosquitto: is it installed?")?);
    place.wait_for_broker()?;
    place.listen_as_hub()?;

    // Each behind a relay of its own that counts.
    let (to_floor, to_musterd) = (Counter::start(place.broker_port)?, Counter::start(place.broker_port)?);
    // Pages of a file that was just written count as dirty memory of whoever runs it.
    Command::new("sync").status().context("sync")?;
    let floor = start(&options.floor, &place.floor_arguments(to_floor.port), &place)?;
    let musterd = start(&options.musterd, &place.musterd_arguments(to_musterd.port)?, &place)?;
    wait(SETTLE);

    let measure = |running: &Running, counter: &Counter, program: &Path| Figures::read(running.0.id(), counter.bytes(), program);
    let before = [measure(&floor, &to_floor, &options.floor)?, measure(&musterd, &to_musterd, &options.musterd)?];
    let start = Instant::now();
    eprintln!("footprint: measuring for {} s", options.seconds);
    wait(Duration::from_secs(options.seconds));
    let after = [measure(&floor, &to_floor, &options.floor)?, measure(&musterd, &to_musterd, &options.musterd)?];
    let seconds = start.elapsed().as_secs_f64();

    let [floor, musterd] = std::array::from_fn(|i| after[i].since(&before[i], seconds));
    if musterd.wire_per_hour == 0.0 || floor.wire_per_hour == 0.0 {
        bail!("a program sent nothing: it is not linked; see its messages above");
    }
    let session = measure_session(&options.session, &place)?;
    Ok(verdict(figures::print_table(&floor, &musterd, &session, seconds)))
}

fn measure_session(program: &Path, place: &Place) -> Result<Session> {
    let (binary, memory) = (std::fs::metadata(program)?.len(), session::memory(program, place)?);
    let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
    if !is_root {
        eprintln!("footprint: the way to a prompt is not measured, as only root can become another user");
    }
    let prompt = is_root.then(|| session::prompts(program, place, PROMPTS)).transpose()?.map(|times| times[times.len() / 2]);
    Ok(Session { binary, memory, prompt })
}

fn verdict(missed: usize) -> ExitCode {
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::disallowed_methods, reason = "the time itself is what is wanted: nothing may happen in it")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn options() -> Result<Options> {
    let built = PathBuf::from("target/cross/x86_64-unknown-linux-musl");
    let program = |name| built.join(name);
    let mut options = Options {
        seconds: 120,
        session_only: false,
        musterd: program("musterd"),
        session: program("musterd-session"),
        floor: program("floor"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => options.seconds = value()?.parse().context("--seconds is a whole number")?,
            "--session-only" => options.session_only = true,
            "--musterd" => options.musterd = value()?.into(),
            "--session" => options.session = value()?.into(),
            "--floor" => options.floor = value()?.into(),
            // `cargo bench` passes it to every benchmark.
            "--bench" => {}
            _ => bail!(
                "unknown argument {argument}: footprint [--seconds N] [--session-only] [--musterd PATH] [--session PATH] [--floor PATH]"
            ),
        }
    }
    Ok(options)
}

fn start(program: &Path, arguments: &[String], place: &Place) -> Result<Running> {
    let mut command = Command::new(std::fs::canonicalize(program)?);
    command.args(arguments).current_dir(place.dir()).stdin(Stdio::null());
    Ok(Running(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
}
