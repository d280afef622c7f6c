//! The figures, as one table with the goals.

use std::time::Duration;

use crate::measure::{Figures, PAGES};

/// What is promised for ten thousand devices.
const PAGE: Duration = Duration::from_millis(20);
const CHECK: Duration = Duration::from_micros(50);
const ASSIGN: Duration = Duration::from_secs(2);
const GROWTH: f64 = 3.0;

struct Row {
    name: String,
    few: String,
    many: String,
    growth: String,
    goal: String,
    met: Option<bool>,
}

/// Prints the table; returns how many goals are missed.
pub(crate) fn print(devices: usize, few: &Figures, many: &Figures) -> usize {
    let mut rows = Vec::new();
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let us = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
    let pages = PAGES
        .iter()
        .map(|page| page.0)
        .zip(few.pages.iter().zip(&many.pages))
        .chain([("the last page, by its cursor", (&few.deep, &many.deep))]);
    for (name, (small, large)) in pages {
        let growth = large.as_secs_f64() / small.as_secs_f64();
        rows.push(Row {
            name: format!("page of 50: {name}"),
            few: ms(*small),
            many: ms(*large),
            growth: format!("{growth:.1}"),
            goal: "20 ms, growth 3".into(),
            met: Some(*large <= PAGE && growth <= GROWTH),
        });
    }
    for (name, small, large) in [
        ("permission check: owner, warm", few.warm[0], many.warm[0]),
        ("permission check: 200 projects, warm", few.warm[1], many.warm[1]),
        ("permission check: owner, after another's rights changed", few.others[0], many.others[0]),
        ("permission check: 200 projects, after another's rights changed", few.others[1], many.others[1]),
        ("permission check: owner, after the own rights changed", few.own[0], many.own[0]),
        ("permission check: 200 projects, after the own rights changed", few.own[1], many.own[1]),
        ("permission check: owner, after everybody's rights changed", few.everybody[0], many.everybody[0]),
        ("permission check: 200 projects, after everybody's rights changed", few.everybody[1], many.everybody[1]),
        ("permission check: the slowest of 500 people, after everybody's rights changed", few.slowest, many.slowest),
    ] {
        rows.push(Row {
            name: name.into(),
            few: us(small),
            many: us(large),
            growth: String::new(),
            goal: "50 us".into(),
            met: Some(large <= CHECK),
        });
    }
    for (n, name) in ["into a project", "out of it"].into_iter().enumerate() {
        rows.push(Row {
            name: format!("{} devices {name}", many.assigned),
            few: format!("{} ({})", ms(few.assign[n]), few.assigned),
            many: ms(many.assign[n]),
            growth: String::new(),
            goal: "2 s".into(),
            met: Some(many.assign[n] <= ASSIGN),
        });
    }
    let plain = |name: &str, small: String, large: String| Row {
        name: name.into(),
        few: small,
        many: large,
        growth: String::new(),
        goal: String::new(),
        met: None,
    };
    rows.push(plain("longest wait of another write meanwhile", ms(few.waited), ms(many.waited)));
    for (n, name) in ["touches no rights", "changes one person's, and they are read again", "changes everybody's, and they are read again"]
        .into_iter()
        .enumerate()
    {
        rows.push(plain(&format!("a write that {name}"), us(few.rebuilt[n]), us(many.rebuilt[n])));
    }
    rows.push(plain("list of the projects, with their numbers", ms(few.projects), ms(many.projects)));
    rows.push(plain("all devices as a CSV file", ms(few.export), ms(many.export)));
    rows.push(plain("index, bytes per device", few.index.to_string(), many.index.to_string()));
    rows.push(plain("hub's start", ms(few.started), ms(many.started)));

    println!("\nThe device list with 200 projects, 500 people, 90 days of presence history in SQLite; medians of server time\n");
    println!("| | {} devices | {devices} devices | growth | goal | met |\n|---|--:|--:|--:|--:|---|", devices / 10);
    for row in &rows {
        let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
        println!("| {} | {} | {} | {} | {} | {met} |", row.name, row.few, row.many, row.growth, row.goal);
    }
    rows.iter().filter(|row| row.met == Some(false)).count()
}
