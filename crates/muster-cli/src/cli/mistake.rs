//! What a person is told who typed a command that is none.
//!
//! clap says what is wrong; this adds what clap cannot know: that here the noun comes first (`muster device show vm`),
//! and leaves out of the usage line what it put there by itself, such as variables of the environment that are set.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Nouns that are named when a verb stands alone.
const MOST: usize = 5;

/// The mistake with what helps.
pub(super) fn explained(mut error: Error, args: &[OsString]) -> Error {
    if !error.use_stderr() {
        return error;
    }
    let mut root = super::command();
    let words: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    let (path, rest) = path(&root, &words);
    let meant = descend(&mut root, &path);
    if error.kind() == ErrorKind::MissingSubcommand {
        let why = format!("muster {} needs a command behind it\n\n{}", path.join(" "), meant.render_help());
        return Error::raw(ErrorKind::MissingSubcommand, why).with_cmd(&Command::new("muster").disable_help_flag(true));
    }
    if error.get(ContextKind::Usage).is_some() {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(meant.render_usage()));
    }
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand).cloned()
    {
        let rest = rest.strip_prefix(&[word.as_str()]).unwrap_or_default().to_vec();
        if let Some(tip) = tip(&root, &path, &word, &rest) {
            // A word that is nearly one of the noun's own is a slip of the finger; at the root it may only look like one.
            if path.is_empty() || !tip.contains(" knows ") {
                error.remove(ContextKind::SuggestedSubcommand);
            }
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
    }
    error
}

/// The commands that were typed up to the first word that is none, and what comes from there on.
fn path<'a>(root: &Command, words: &[&'a str]) -> (Vec<String>, Vec<&'a str>) {
    let (mut at, mut path, mut words) = (root, Vec::new(), words);
    while let Some((word, rest)) = words.split_first() {
        if let Some(sub) = at.find_subcommand(word) {
            path.push(sub.get_name().to_owned());
            at = sub;
        } else if let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) {
            // `--hub URL`: the value is no command.
            let flag = flag.trim_start_matches('-');
            let takes = |arg: &&clap::Arg| arg.get_long() == Some(flag) && arg.get_action().takes_values();
            if at.get_arguments().any(|arg| takes(&arg)) {
                words = rest.get(1..).unwrap_or_default();
                continue;
            }
        } else if !(at.has_subcommands() && at.get_positionals().next().is_some()) {
            break;
        }
        words = rest;
    }
    (path, words.to_vec())
}

fn descend<'a>(root: &'a mut Command, path: &[String]) -> &'a mut Command {
    path.iter().fold(root, |at, name| at.find_subcommand_mut(name).expect("the path was found in this tree"))
}

/// What the person may have meant.
fn tip(root: &Command, path: &[String], word: &str, rest: &[&str]) -> Option<String> {
    let at = path.iter().try_fold(root, |at, name| at.find_subcommand(name))?;
    let more = |words: &[&str]| {
        // Only what can be shown as it was typed.
        let plain = words.iter().take_while(|word| crate::output::text::is_plain(word));
        plain.fold(String::new(), |line, word| format!("{line} {word}"))
    };
    match path {
        [] if super::groups::habit(word).is_some() => super::groups::habit(word).map(str::to_owned),
        [] => {
            let nouns = root.get_subcommands().filter_map(|noun| Some((noun.get_name(), noun.find_subcommand(word)?.get_name())));
            let mut lines: Vec<String> = nouns.map(|(noun, verb)| format!("muster {noun} {verb}")).collect();
            // Devices are what most commands are about.
            lines.sort_by_key(|line| !line.starts_with("muster device "));
            let first = lines.first_mut()?;
            first.push_str(&more(rest));
            let others = lines.len() > MOST;
            lines.truncate(MOST);
            Some(format!("name the thing first: {}{}", lines.join(", "), if others { ", ..." } else { "" }))
        }
        path => {
            let noun = path.join(" ");
            let behind = rest.first().and_then(|verb| at.find_subcommand(verb)).filter(|verb| verb.get_name() != "help");
            if let Some(verb) = behind {
                return Some(format!("the verb comes first: muster {noun} {}{}{}", verb.get_name(), more(&[word]), more(&rest[1..])));
            }
            let verbs: Vec<&str> = at.get_subcommands().map(Command::get_name).filter(|name| *name != "help").collect();
            let invite =
                matches!((path, word), ([noun], "add" | "invite" | "create" | "send" | "new") if noun == "member" || noun == "invitation");
            if invite {
                return Some("people are invited: muster invite EMAIL".to_owned());
            }
            Some(format!("muster {noun} knows {}", verbs.join(", ")))
        }
    }
}
