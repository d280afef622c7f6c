//! Shell completion: the shell asks this program itself, so devices, projects and saved logins are completed too.
//!
//! Names come from devices and end up on a person's command line: only those that no shell interprets are offered,
//! other devices by their uid. Whatever goes wrong here offers nothing, and says nothing.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use muster_proto::api::{Device, Field, Me, Page, Project, Run, Team, View};

use crate::cli::Globals;
use crate::context::Context;
use crate::output::{devices::state, text::is_plain};
use crate::profile::Book;

/// The variable by which the shell's script asks.
pub const VARIABLE: &str = "MUSTER_COMPLETE";
/// A person who pressed Tab waits no longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Candidates taken from the hub.
const MOST: usize = 500;

/// Answers the shell, if it is the shell that asks.
pub fn answer() -> bool {
    let asked = clap_complete::CompleteEnv::with_factory(crate::cli::command).var(VARIABLE);
    asked.try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref()).unwrap_or(true)
}

/// Names of devices.
pub fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<Device> = context.hub().get(&format!("{}?limit={MOST}", context.org_path("/devices").await.ok()?)).await.ok()?;
        Some(page.items)
    });
    let listed = listed.unwrap_or_default();
    // `user@device`, as ssh takes it.
    let (user, typed) = match current.to_str().and_then(|text| text.rsplit_once('@')) {
        Some((user, typed)) => (format!("{user}@"), typed),
        None => (String::new(), current.to_str().unwrap_or_default()),
    };
    let names = listed.iter().map(|device| {
        let several = listed.iter().filter(|other| other.name == device.name).count() > 1;
        let name = if is_plain(&device.name) && !several { device.name.as_str() } else { device.uid.as_str() };
        (name, state(device).0)
    });
    candidates(names.filter(|(name, _)| name.starts_with(typed)).map(|(name, help)| (format!("{user}{name}"), help)))
}

/// Ids of projects.
pub fn projects(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<Project> = context.hub().get(&context.org_path("/projects").await.ok()?).await.ok()?;
        Some(page.items)
    });
    starting(current, listed.unwrap_or_default().into_iter().map(|project| (project.id.to_string(), project.name)))
}

/// Ids of the newest runs.
pub fn runs(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<Run> = context.hub().get(&context.org_path("/runs?limit=50").await.ok()?).await.ok()?;
        Some(page.items)
    });
    let help = |run: Run| (run.id.to_string(), format!("{} on {}", run.state.as_str(), run.device_name));
    starting(current, listed.unwrap_or_default().into_iter().map(help))
}

/// Ids of teams.
pub fn teams(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<Team> = context.hub().get(&context.org_path("/teams").await.ok()?).await.ok()?;
        Some(page.items)
    });
    starting(current, listed.unwrap_or_default().into_iter().map(|team| (team.id.to_string(), team.name)))
}

/// Names of saved views.
pub fn views(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<View> = context.hub().get(&context.org_path("/views").await.ok()?).await.ok()?;
        Some(page.items)
    });
    starting(current, listed.unwrap_or_default().into_iter().map(|view| (view.name, view.filter)))
}

/// Keys of custom fields.
pub fn fields(current: &OsStr) -> Vec<CompletionCandidate> {
    let listed = ask(async |context: &Context| {
        let page: Page<Field> = context.hub().get(&context.org_path("/fields").await.ok()?).await.ok()?;
        Some(page.items)
    });
    starting(current, listed.unwrap_or_default().into_iter().map(|field| (field.key, field.title)))
}

/// Ids of organizations.
pub fn orgs(current: &OsStr) -> Vec<CompletionCandidate> {
    let me = ask(async |context: &Context| context.hub().get::<Me>("/v1/me").await.ok());
    starting(current, me.map(|me| me.orgs).unwrap_or_default().into_iter().map(|org| (org.id.to_string(), org.name)))
}

/// Names of saved logins.
pub fn profiles(current: &OsStr) -> Vec<CompletionCandidate> {
    let book = Book::path().ok().and_then(|path| Book::load(&path).ok()).unwrap_or_default();
    starting(current, book.profiles.into_iter().map(|(name, profile)| (name, profile.hub)))
}

fn starting(current: &OsStr, found: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let typed = current.to_str().unwrap_or_default().to_owned();
    candidates(found.filter(|(name, _)| is_plain(name) && name.starts_with(&typed)))
}

fn candidates(found: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    found
        .take(MOST)
        .map(|(name, help)| {
            let help = crate::output::text::clean(&help).into_owned();
            CompletionCandidate::new(name).help((!help.is_empty()).then(|| help.into()))
        })
        .collect()
}

/// Asks the hub with the login of the environment or the saved one. Flags on the half-typed line are not known here.
fn ask<T>(question: impl AsyncFnOnce(&Context) -> Option<T>) -> Option<T> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let globals = Globals {
        hub: given("MUSTER_HUB"),
        token: given("MUSTER_TOKEN"),
        org: given("MUSTER_ORG"),
        project: given("MUSTER_PROJECT"),
        profile: given("MUSTER_PROFILE"),
        ..Globals::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let context = Context::with_timeout(&globals, Some(PATIENCE)).ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(&context)).await.ok().flatten() });
    runtime.shutdown_background();
    answer
}
