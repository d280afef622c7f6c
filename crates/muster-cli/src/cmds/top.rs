//! `muster top`: the list of devices, or one device's usage, kept on the screen.
//!
//! While somebody looks at one device the hub asks it for a sample per second; that wish ends by itself soon after.

mod screen;
mod view;

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Device, Sample, WatchRequest};
use tokio::time::Instant;

use super::devices::Filter;
use crate::cli::Globals;
use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::devices::table;
use crate::output::time::now;
use screen::{Key, Screen};
use view::{History, summary};

/// One wish to watch lasts so long, in seconds: each is in the audit log, and the last outlives the screen by at most this.
const WATCH_S: u32 = 60;
/// It is renewed so soon, which leaves time for a hub that is away for a moment.
const RENEW: Duration = Duration::from_secs(45);
/// Samples fetched first, so that the curves do not start empty.
const SEED: usize = 60;
/// Longest pause between two attempts while the hub does not answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// `muster top`
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q quits, arrows and Page Up/Down scroll.
Where standard output is no terminal, and with --once or --json, it prints once.

Examples:
  muster top
  muster top robot-7
  muster top --once | head -3")]
pub struct TopArgs {
    /// Show this device's usage, a sample per second
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(complete::devices))]
    device: Option<String>,
    /// Print once and end
    #[arg(long)]
    once: bool,
    /// Time between two looks; by default 2s for the list, 1s for a device
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    interval: Option<Duration>,
    /// The order of the list: name, cpu, mem or seen
    #[arg(long, value_parser = ["name", "cpu", "mem", "seen"], default_value = "name", value_name = "BY")]
    sort: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    match crate::output::time::parse_span(text)? {
        0 => Err("it must be at least 1s".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// The order of the list as the hub takes it.
fn order(by: &str) -> &'static str {
    match by {
        "cpu" => "-cpu,name",
        "mem" => "-mem,name",
        "seen" => "-last_seen,name",
        _ => "name",
    }
}

/// What is shown, and how it is renewed.
trait Source {
    async fn refresh(&mut self) -> Result<(), Failure>;
    fn lines(&self, width: usize, color: bool) -> Vec<String>;
    fn footer(&self) -> String;
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: &TopArgs) -> Result<u8, Failure> {
    let out = &context.out;
    let once = args.once || out.json || out.width.is_none();
    let Some(name) = &args.device else {
        let mut source = List { context, globals, filter: Filter::sorted_by(order(&args.sort)), devices: Vec::new() };
        source.refresh().await?;
        if once {
            out.list(&source.devices, "no devices", |devices| table(devices, now()))?;
            return Ok(0);
        }
        return live(source, args.interval.unwrap_or(Duration::from_secs(2)), out.color).await;
    };
    let device = context.device(name).await?;
    let mut source = One {
        context,
        path: context.device_path(device.uid.as_str(), "").await?,
        device,
        history: History::default(),
        watched: None,
        note: None,
    };
    if once {
        if out.json {
            out.json(&source.device)?;
        } else {
            out.raw(&format!("{}\n", source.lines(out.width.unwrap_or(80), out.color).join("\n")))?;
        }
        return Ok(0);
    }
    let mut seed: Vec<Sample> = context.hub().list(&format!("{}/usage", source.path), Some(SEED)).await?;
    seed.sort_by_key(|sample| sample.t);
    seed.iter().for_each(|sample| source.history.add(sample));
    source.refresh().await?;
    live(source, args.interval.unwrap_or(Duration::from_secs(1)), out.color).await
}

/// `muster devices --watch`.
///
/// # Errors
/// As every call.
pub async fn list(context: &Context, globals: &Globals, filter: &Filter) -> Result<u8, Failure> {
    let mut source = List { context, globals, filter: filter.clone(), devices: Vec::new() };
    source.refresh().await?;
    if context.out.json || context.out.width.is_none() {
        context.out.list(&source.devices, "no such devices", |devices| table(devices, now()))?;
        return Ok(0);
    }
    live(source, Duration::from_secs(2), context.out.color).await
}

/// Shows and renews until a person has seen enough.
async fn live(mut source: impl Source, every: Duration, color: bool) -> Result<u8, Failure> {
    let mut screen = Screen::open()?;
    let (mut top, mut trouble, mut pause) = (0usize, None::<String>, every);
    loop {
        let next = Instant::now() + pause;
        loop {
            let footer = trouble.clone().unwrap_or_else(|| source.footer());
            top = screen.draw(&source.lines(screen.width(), color), top, &footer)?;
            let page = screen.rows().saturating_sub(2).max(1);
            match tokio::time::timeout_at(next, screen.key()).await {
                Err(_) => break,
                Ok(Key::Quit) => return Ok(0),
                Ok(Key::Refresh) => break,
                Ok(Key::Up) => top = top.saturating_sub(1),
                Ok(Key::Down) => top += 1,
                Ok(Key::PageUp) => top = top.saturating_sub(page),
                Ok(Key::PageDown) => top += page,
                Ok(Key::Redraw) => {}
            }
        }
        // A hub that does not answer must not keep the person from leaving.
        let mut refreshing = std::pin::pin!(source.refresh());
        let outcome = loop {
            tokio::select! {
                outcome = &mut refreshing => break outcome,
                key = screen.key() => if key == Key::Quit { return Ok(0) },
            }
        };
        (trouble, pause) = match outcome {
            Ok(()) => (None, every),
            Err(failure) if failure.exit == Exit::Unreachable as u8 => {
                (Some(format!("trying again: {failure}")), (pause * 2).min(PATIENCE.max(every)))
            }
            Err(failure) => return Err(failure),
        };
    }
}

struct List<'a> {
    context: &'a Context,
    globals: &'a Globals,
    filter: Filter,
    devices: Vec<Device>,
}

impl Source for List<'_> {
    async fn refresh(&mut self) -> Result<(), Failure> {
        self.devices = self.filter.fetch(self.context, self.globals, None).await?;
        Ok(())
    }

    fn lines(&self, width: usize, color: bool) -> Vec<String> {
        table(&self.devices, now()).render(Some(width), color).lines().map(str::to_owned).collect()
    }

    fn footer(&self) -> String {
        format!("{}   q quits", summary(&self.devices))
    }
}

struct One<'a> {
    context: &'a Context,
    path: String,
    device: Device,
    history: History,
    watched: Option<Instant>,
    /// Why there is no sample per second.
    note: Option<String>,
}

impl Source for One<'_> {
    async fn refresh(&mut self) -> Result<(), Failure> {
        let due = self.watched.is_none_or(|at| at.elapsed() >= RENEW);
        if due {
            self.watched = Some(Instant::now());
            let wish = WatchRequest { seconds: WATCH_S };
            let asked = self.context.hub().post::<serde::de::IgnoredAny>(&format!("{}/watch", self.path), &wish).await;
            self.note = match asked {
                Ok(_) => None,
                Err(failure) if failure.exit == Exit::Unreachable as u8 => return Err(failure),
                Err(failure) => Some(failure.message),
            };
        }
        self.device = self.context.hub().get(&self.path).await?;
        if let Some(sample) = &self.device.usage {
            self.history.add(sample);
        }
        Ok(())
    }

    fn lines(&self, width: usize, color: bool) -> Vec<String> {
        view::device(&self.device, &self.history, now(), width, color)
    }

    fn footer(&self) -> String {
        self.note.clone().unwrap_or_else(|| "a sample per second while this is open   q quits".to_owned())
    }
}
