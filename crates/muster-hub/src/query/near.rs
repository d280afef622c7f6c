//! Names that a mistyped name may have meant.

/// ` did you mean ...?`, or what there is, or nothing.
pub(super) fn hint<'a>(typed: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let low = typed.to_lowercase();
    let mut close: Vec<(usize, &str)> = known
        .clone()
        .filter_map(|name| {
            let other = name.to_lowercase();
            let off = distance(&low, &other)?;
            let least = if low.chars().count() < 4 { 1 } else { 2 };
            let part = low.len() >= 3 && (other.starts_with(&low) || low.starts_with(&other) && other.len() >= 3);
            (off <= least || part).then_some((off, name))
        })
        .collect();
    close.sort_unstable();
    close.dedup();
    close.truncate(3);
    if close.is_empty() {
        let mut all: Vec<&str> = known.take(21).collect();
        all.sort_unstable();
        return match all.len() {
            0 => String::new(),
            n if n <= 20 => format!("; there are {}", quoted(&all)),
            _ => String::new(),
        };
    }
    let names: Vec<&str> = close.into_iter().map(|(_, name)| name).collect();
    format!("; did you mean {}?", quoted(&names).replace(", ", " or "))
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.chars().take(60).collect::<String>())).collect();
    quoted.join(", ")
}

/// Letters to change, add or drop; `None` for texts that are too long or too different to be worth it.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(65).collect(), b.chars().take(65).collect());
    if a.len() > 64 || b.len() > 64 {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied()
}
