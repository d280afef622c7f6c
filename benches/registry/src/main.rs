//! What the device list costs: a page by filter and order, a permission check, a change to thousands of devices at once.
//!
//! `bench-registry [--devices 10000] [--rounds 200]`. Builds an organization of that size in SQLite, with 200 projects, 500 people and
//! 90 days of presence history, starts a whole hub on it in this process, lets every device report once, and asks the HTTP router
//! as its port would, without TLS. The same again with a tenth of the devices, for the growth.
//!
//! Prints one table with goals and verdicts. The exit code is 0 where all goals are met, 1 where some are missed, and 2 where
//! nothing could be measured: an answer that is not what it should be fails the run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

mod measure;
mod table;
mod town;

use measure::Figures;
use town::Town;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut devices, mut rounds) = (10_000, 200);
    while let Some(arg) = args.next() {
        let value = args.next();
        let number = value.as_deref().and_then(|value| value.parse::<usize>().ok());
        match (arg.as_str(), number, value) {
            ("--devices", Some(number), _) => devices = number.max(1000),
            ("--rounds", Some(number), _) => rounds = number.max(10),
            // By itself, in a process of its own: what the index takes.
            ("--index", _, Some(path)) => {
                return told(measure::index_bytes(path.as_ref()).map(|bytes| {
                    println!("{bytes}");
                    0
                }));
            }
            _ => return told(Err(anyhow::anyhow!("usage: bench-registry [--devices 10000] [--rounds 200]"))),
        }
    }
    told(run(devices, rounds))
}

fn told(missed: Result<usize>) -> ExitCode {
    match missed {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-registry: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(devices: usize, rounds: usize) -> Result<usize> {
    let few = measured(devices / 10, rounds)?;
    let many = measured(devices, rounds)?;
    let missed = table::print(devices, &few, &many);
    eprintln!("bench-registry: {missed} goals missed");
    Ok(missed)
}

/// A hub of its own runtime for each size, so that the second finds nothing of the first.
fn measured(devices: usize, rounds: usize) -> Result<Figures> {
    eprintln!("bench-registry: building {devices} devices, {} projects, {} people ...", town::PROJECTS, town::PEOPLE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let town = Town::build(devices).context("the organization could not be built")?;
    let index = index_bytes(&town)?;
    let figures = runtime.block_on(async {
        let hub = town.open().await?;
        let figures = measure::all(&hub, devices, rounds, index).await;
        hub.running.stop().await;
        figures
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    figures
}

fn index_bytes(town: &Town) -> Result<u64> {
    let out = std::process::Command::new(std::env::current_exe()?).arg("--index").arg(town.database()).output()?;
    if !out.status.success() {
        bail!("the index could not be weighed: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().parse()?)
}
