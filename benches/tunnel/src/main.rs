//! `bench-tunnel`: what a tunnelled byte, keystroke and connection cost, beside every public tunnel on the PATH, in one run.
//!
//! It starts a hub, a device and `muster forward` from the programs in `--bin` folders (built for release before), the peers with their
//! defaults, and measures all of them in turn over several rounds: the machine is never quiet, so only ratios within one run mean much.
//! CPU time counts every process of a tunnel, both ends and the relay, and not the measuring pair.
//! It prints one table in Markdown.

#![expect(clippy::disallowed_methods, reason = "blocking threads that pause are what measures; nothing else runs here")]

mod load;
mod muster;
mod peers;
mod procs;
mod shell;
mod table;
mod tunnel;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use muster::{Muster, Programs};
use tunnel::{Effort, Figures, Tunnel};

const USAGE: &str = "\
bench-tunnel [--bin FOLDER]... [--rounds N] [--megabytes N] [--held N] [--only WORD]... [--quick]
  --bin        where muster-hub, muster and musterd (beside it musterd-session) are; the first folder that has one wins
  --rounds     rounds over all tunnels (3)
  --megabytes  size of each bulk transfer (512)
  --held       connections held for the memory figure (1000)
  --only       only tunnels whose name holds the word, such as muster
  --quick      one small round: does it run?";

struct Arguments {
    folders: Vec<PathBuf>,
    effort: Effort,
    only: Vec<String>,
}

fn arguments() -> Result<Arguments> {
    let effort = Effort { rounds: 3, bytes: 512_000_000, trips: 1000, connections: 200, held: 1000 };
    let mut parsed = Arguments { folders: Vec::new(), effort, only: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().with_context(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--bin" => parsed.folders.push(value()?.into()),
            "--rounds" => parsed.effort.rounds = value()?.parse()?,
            "--megabytes" => parsed.effort.bytes = value()?.parse::<u64>()? * 1_000_000,
            "--held" => parsed.effort.held = value()?.parse()?,
            "--only" => parsed.only.push(value()?),
            "--quick" => parsed.effort = Effort { rounds: 1, bytes: 64_000_000, trips: 200, connections: 20, held: 100 },
            _ => bail!("{USAGE}"),
        }
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    raise_open_files();
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    let programs = Programs {
        hub: find(&arguments.folders, "muster-hub")?,
        daemon: find(&arguments.folders, "musterd")?,
        cli: find(&arguments.folders, "muster")?,
    };
    let target = load::serve()?;
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|word| name.contains(word.as_str()));

    let direct = Tunnel { name: "raw loopback TCP".into(), entry: target, roots: Vec::new(), _processes: Vec::new() };
    let (system, ours) = Muster::start(folder.path(), &programs)?.forward(target)?;
    let (theirs, mut notes) = if arguments.only.iter().all(|word| word == "muster") && !arguments.only.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        peers::start(folder.path(), target)
    };
    let mut tunnels: Vec<(Tunnel, Figures)> = [direct, ours].into_iter().chain(theirs).map(|tunnel| (tunnel, Figures::default())).collect();
    tunnels.retain(|(tunnel, _)| wanted(&tunnel.name) || tunnel.roots.is_empty());

    for round in 1..=arguments.effort.rounds {
        for (tunnel, figures) in &mut tunnels {
            eprintln!("round {round} of {}: {}", arguments.effort.rounds, tunnel.name);
            if let Err(error) = tunnel.round(arguments.effort, figures) {
                notes.push(format!("{error:#}"));
            }
        }
    }
    for (tunnel, figures) in &mut tunnels {
        eprintln!("memory: {}", tunnel.name);
        if let Err(error) = tunnel.memory(arguments.effort, figures) {
            notes.push(format!("{error:#}"));
        }
    }
    let times = (arguments.effort.connections / 10).max(5);
    let login = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let shells: [(&str, &dyn Fn() -> Command); 3] = [
        ("`muster shell DEVICE -- sh`", &|| with(system.command(), &["shell", "bench", "--", "sh"])),
        ("`muster shell DEVICE`, the account's login shell", &|| with(system.command(), &["shell", "bench"])),
        ("that login shell without us", &|| with(Command::new(&login), &["-l"])),
    ];
    let mut prompts = Vec::new();
    for (name, command) in shells {
        match (0..times).map(|_| shell::prompt(&mut command())).collect::<Result<Vec<_>>>() {
            Ok(took) => prompts.push((name, took)),
            Err(error) => notes.push(format!("{name}: {error:#}")),
        }
    }
    table::print(&tunnels, &prompts, &notes, arguments.effort);
    Ok(())
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .or_else(|| procs::on_path(name))
        .with_context(|| format!("{name} is in no --bin folder and not on the PATH; build it for release first"))
}

/// A thousand held connections need several file descriptors each, in every process; children inherit the bound.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let bound = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: bound.maximum, maximum: bound.maximum });
}
