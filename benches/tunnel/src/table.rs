//! The table.

use std::time::Duration;

use crate::tunnel::{Effort, Figures, Tunnel, median, percentile};

/// Prints everything.
pub(crate) fn print(tunnels: &[(Tunnel, Figures)], prompts: &[(&str, Vec<Duration>)], notes: &[String], effort: Effort) {
    println!(
        "\n{} rounds in turn, {} MB each way and time; medians. Two hops: engineer, relay, device, TLS on both.\n",
        effort.rounds,
        effort.bytes / 1_000_000
    );
    println!(
        "| tunnel | Gbit/s down / up, 1 connection | 8 connections | CPU s per GB down / up, 1 | 8 \
         | 64 bytes, p50 us | beside a bulk, p50 / p99 ms | new connection to first byte, p50 ms | KiB per held connection | MiB at rest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (tunnel, figures) in tunnels {
        let pair = |values: &[Vec<f64>; 4], at: usize| format!("{} / {}", number(median(&values[at])), number(median(&values[at + 1])));
        let cpu = |at| if tunnel.roots.is_empty() { "".to_owned() } else { pair(&figures.cpu, at) };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} / {} | {} | {} | {} |",
            tunnel.name,
            pair(&figures.speed, 0),
            pair(&figures.speed, 2),
            cpu(0),
            cpu(2),
            time(&figures.trips, 0.5, 1e6),
            time(&figures.beside, 0.5, 1e3),
            time(&figures.beside, 0.99, 1e3),
            time(&figures.first, 0.5, 1e3),
            figures.held.map_or(String::new(), |held| format!("{held:.1}")),
            figures.rest.map_or(String::new(), |rest| format!("{:.1}", rest as f64 / 1024.0)),
        );
    }
    println!();
    for (name, times) in prompts {
        if let Some(p50) = percentile(times, 0.5) {
            println!("- {name}, from its start to the prompt, p50 of {}: {:.0} ms", times.len(), p50.as_secs_f64() * 1e3);
        }
    }
    ratios(tunnels);
    for note in notes {
        println!("- {note}");
    }
}

/// The promises, as ratios to wstunnel in the same run.
fn ratios(tunnels: &[(Tunnel, Figures)]) {
    let find = |word: &str| tunnels.iter().find(|(tunnel, _)| tunnel.name.starts_with(word)).map(|(_, figures)| figures);
    let (Some(ours), Some(theirs)) = (find("muster"), find("wstunnel")) else { return };
    let ratio = |a: &[Vec<f64>; 4], b: &[Vec<f64>; 4], at: usize| match (median(&a[at]), median(&b[at])) {
        (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
        _ => "-".to_owned(),
    };
    println!("\nBeside wstunnel's two hops, down / up:");
    for (what, goal, at) in [("CPU per GB, 1 connection", "at most 0.8", 0), ("CPU per GB, 8 connections", "at most 0.7", 2)] {
        println!("- {what}: {} / {} ({goal})", ratio(&ours.cpu, &theirs.cpu, at), ratio(&ours.cpu, &theirs.cpu, at + 1));
    }
    println!(
        "- throughput, 1 connection: {} / {} (at least 1.2)",
        ratio(&ours.speed, &theirs.speed, 0),
        ratio(&ours.speed, &theirs.speed, 1)
    );
    if let (Some(a), Some(b)) = (percentile(&ours.trips, 0.5), percentile(&theirs.trips, 0.5)) {
        println!("- round trip of 64 bytes: {:.2} (at most 1)", a.as_secs_f64() / b.as_secs_f64());
    }
    println!();
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn time(values: &[Duration], share: f64, unit: f64) -> String {
    percentile(values, share).map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * unit))
}
