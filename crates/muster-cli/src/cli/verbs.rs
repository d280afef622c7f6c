//! Other words for the same: a person who types `delete` where the command is called `revoke` means it.
//!
//! Hidden: help and completion show one name for each. A word that a noun uses itself keeps its own meaning there,
//! as `muster team add`, which puts people into a team.

use clap::Command;

/// Words for one thing. The first that a noun has is what the others mean there.
const SAME: &[&[&str]] = &[
    &["list", "ls"],
    &["show", "info", "get"],
    &["create", "add", "new", "make"],
    &["delete", "remove", "revoke", "close", "rm"],
    &["end", "cancel", "stop", "kill"],
    &["edit", "set", "change", "update"],
];

/// Commands whose word for it is their own.
const OWN: &[(&str, &str, &[&str])] =
    &[("view", "save", &["create", "add", "new", "edit", "set", "change", "update"]), ("invitation", "resend", &["renew"])];

/// Gives every noun of the tree the other words for its verbs.
pub(super) fn with_other_words(noun: Command) -> Command {
    let (taken, mut found): (Vec<String>, Vec<(String, &str)>) = (words(&noun), Vec::new());
    for (of, verb, others) in OWN {
        if *of == noun.get_name() {
            found.extend(others.iter().map(|other| ((*verb).to_owned(), *other)));
        }
    }
    for group in SAME {
        if let Some(meant) = group.iter().find(|word| noun.get_subcommands().any(|sub| sub.get_name() == **word)) {
            found.extend(group.iter().map(|other| ((*meant).to_owned(), *other)));
        }
    }
    found.retain(|(_, other)| !taken.iter().any(|word| word == other));
    // The first that asks for a word has it.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|(_, other)| seen.insert(*other));
    noun.mut_subcommands(|sub| {
        let others: Vec<&str> = found.iter().filter(|(verb, _)| verb == sub.get_name()).map(|(_, other)| *other).collect();
        with_other_words(sub.aliases(others))
    })
}

fn words(noun: &Command) -> Vec<String> {
    let each = noun.get_subcommands();
    each.flat_map(|sub| std::iter::once(sub.get_name()).chain(sub.get_all_aliases()).map(str::to_owned).collect::<Vec<_>>()).collect()
}
