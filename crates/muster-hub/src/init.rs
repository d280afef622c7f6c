//! The first things in a hub: data directory, configuration, owner, organization, project, token. Safe to run again.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use muster_proto::api::{ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::Transaction;
use serde_json::json;

use crate::audit::Entry;
use crate::ca::{Ca, files};
use crate::config::Config;
use crate::store::{self, Store, accounts, orgs, tokens};
use crate::{api, clock, random, serve};

/// What `muster-hub init` was asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Where everything goes.
    pub data_dir: PathBuf,
    /// How the hub is reached.
    pub public_url: String,
    /// Where HTTPS listens.
    pub listen: String,
    /// Where MQTT listens.
    pub mqtt_listen: String,
    /// Where the configuration goes; `hub.toml` in the data directory if absent.
    pub config: Option<PathBuf>,
    /// The first owner.
    pub first: First,
}

impl Wanted {
    /// A hub for this machine alone, below a folder, on ports that are free: to be measured or tried.
    pub fn on_loopback(folder: &Path, first: First) -> Self {
        Self {
            data_dir: folder.join("data"),
            public_url: "https://127.0.0.1:0".into(),
            listen: "127.0.0.1:0".into(),
            mqtt_listen: "127.0.0.1:0".into(),
            config: None,
            first,
        }
    }
}

/// The first people and places.
#[derive(Debug, Clone)]
pub struct First {
    /// The owner's e-mail, in lower case.
    pub owner: String,
    /// The organization.
    pub org: Option<OrgId>,
    /// A project in it.
    pub project: Option<ProjectId>,
    /// What the owner's token is called.
    pub token_name: String,
}

/// What `muster-hub init` made.
#[derive(Debug)]
pub struct Made {
    /// The configuration's file.
    pub config: PathBuf,
    /// Whether it was there before.
    pub kept: bool,
    /// The token of an owner who had no account before. Nobody gets another one by running this again.
    pub token: Option<String>,
}

/// Makes what is not there yet, with a token for an owner who is new.
///
/// # Errors
/// When the directory is not usable or the configuration has mistakes.
pub fn init(wanted: Wanted, environment: impl IntoIterator<Item = (String, String)>) -> Result<Made> {
    let path = wanted.config.clone().unwrap_or_else(|| wanted.data_dir.join("hub.toml"));
    let kept = path.exists();
    let text = if kept { std::fs::read_to_string(&path)? } else { configuration(&wanted) };
    // Before anything is made: a mistake must not leave half a hub.
    let config = Config::parse(&text, &path.display().to_string(), environment)?;
    serve::make_private_dir(&wanted.data_dir)?;
    if !kept {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        // It may get a broker's password later.
        files::write_private(&path, text.as_bytes())?;
    }
    let (ca, store) = serve::open(&config)?;
    let email = wanted.first.owner.clone();
    let known = store.read_blocking(move |db| accounts::by_email(db, &email))?.is_some();
    let token = if known {
        made(&store, wanted.first)?;
        None
    } else {
        Some(first(&store, &ca, wanted.first)?)
    };
    Ok(Made { config: path, kept, token })
}

fn configuration(wanted: &Wanted) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let dir = std::path::absolute(&wanted.data_dir).unwrap_or_else(|_| wanted.data_dir.clone());
    format!(
        "# Written by `muster-hub init`. `muster-hub example-config` shows all keys.\n\
         data_dir = {}\nlisten = {}\npublic_url = {}\n\n[mqtt]\nlisten = {}\n",
        quoted(&dir.display().to_string()),
        quoted(&wanted.listen),
        quoted(&wanted.public_url),
        quoted(&wanted.mqtt_listen),
    )
}

/// Makes the first account, organization and project where they are not there, and a token. Must not run on an async thread.
///
/// # Errors
/// When the database fails.
pub fn first(store: &Store, ca: &Ca, first: First) -> Result<String> {
    let (token, shown) = api::new_token(ca.pin(), first.token_name.clone(), 360, clock::now());
    let text = token.to_string();
    let work = move |tx: &Transaction<'_>| {
        let account = people_and_places(tx, &first)?;
        tokens::insert(tx, account, random::sha256(token.secret.as_bytes()), &shown)?;
        Entry::of_hub(None, "hub.init", first.owner.as_str()).with(json!({ "token": shown.id, "org": first.org })).ok(tx)
    };
    store.write_blocking(work)?;
    Ok(text)
}

/// The same without a token.
fn made(store: &Store, first: First) -> Result<()> {
    Ok(store.write_blocking(move |tx| people_and_places(tx, &first).map(drop))?)
}

fn people_and_places(tx: &Transaction<'_>, first: &First) -> store::Result<i64> {
    let account = account(tx, &first.owner)?;
    if !accounts::has_hub_owner(tx)? {
        accounts::set_hub_owner(tx, account, true)?;
    }
    if let Some(org) = &first.org {
        places(tx, account, org, first.project.as_ref())?;
    }
    Ok(account)
}

fn account(tx: &Transaction<'_>, email: &str) -> store::Result<i64> {
    match accounts::by_email(tx, email)? {
        Some(account) => Ok(account.id),
        None => accounts::create(tx, email, email.split('@').next().unwrap_or(email), None, clock::now()),
    }
}

fn places(tx: &Transaction<'_>, account: i64, org: &OrgId, project: Option<&ProjectId>) -> store::Result<()> {
    match orgs::role_in(tx, org, account)? {
        None => {
            orgs::create(tx, org, org.as_str(), account, clock::now())?;
            Entry::of_hub(Some(org.clone()), "org.create", org.as_str()).ok(tx)?;
        }
        // Whoever may write the database may do this; the records say that it was done here.
        Some(role) if role != Some(muster_proto::api::OrgRole::Owner) => {
            orgs::set_member(tx, org, account, muster_proto::api::OrgRole::Owner, clock::now())?;
            Entry::of_hub(Some(org.clone()), "member.put", account.to_string()).with(json!({ "role": "owner" })).ok(tx)?;
        }
        Some(_) => {}
    }
    let Some(project) = project else { return Ok(()) };
    if orgs::has_project(tx, org, project)? {
        return Ok(());
    }
    orgs::create_project(tx, org, project, project.as_str(), Visibility::Internal, clock::now())?;
    orgs::set_participant(tx, org, project, account, ProjectRole::Admin, clock::now())?;
    Entry::of_hub(Some(org.clone()), "project.create", project.as_str()).ok(tx)
}

/// Whether a path is inside another, for messages that show short names.
pub fn shorten(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&here) {
        Ok(inside) if !inside.as_os_str().is_empty() => format!("./{}", inside.display()),
        _ => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::api::OrgRole;

    fn wanted(dir: &Path) -> Wanted {
        Wanted::on_loopback(
            dir,
            First {
                owner: "ada@acme.example".into(),
                org: Some("acme".parse().unwrap()),
                project: Some("lab".parse().unwrap()),
                token_name: "init".into(),
            },
        )
    }

    #[test]
    fn makes_a_hub_and_running_it_again_makes_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = init(wanted(dir.path()), []).unwrap();
        let again = init(wanted(dir.path()), []).unwrap();
        assert!(!first.kept && again.kept);
        assert!(first.token.is_some() && again.token.is_none(), "whoever can run it once more is given no key for that");
        for (file, mode) in [("", 0o700), ("hub.toml", 0o600), ("hub.db", 0o600), ("ca.key", 0o600)] {
            let found = std::fs::metadata(dir.path().join("data").join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{file}");
        }
        let config = Config::load(&first.config, []).unwrap();
        let (_, store) = serve::open(&config).unwrap();
        let role = store.read_blocking(|db| orgs::role_in(db, &"acme".parse().unwrap(), 1)).unwrap();
        assert_eq!(role, Some(Some(OrgRole::Owner)));
        let count = |sql: &'static str| store.read_blocking(move |db| Ok(db.query_row(sql, [], |row| row.get::<_, i64>(0))?)).unwrap();
        assert_eq!(count("SELECT count(*) FROM projects WHERE org = 'acme'"), 1);
        assert_eq!((count("SELECT count(*) FROM accounts"), count("SELECT count(*) FROM access_tokens")), (1, 1));

        // Another owner gets an account and a token; and what was forgotten the first time is made.
        let mut later = wanted(dir.path());
        later.first.owner = "grace@acme.example".into();
        assert!(init(later, []).unwrap().token.is_some());
        let mut later = wanted(dir.path());
        later.first.project = Some("field".parse().unwrap());
        assert!(init(later, []).unwrap().token.is_none());
        assert_eq!(count("SELECT count(*) FROM projects"), 2);
    }

    #[test]
    fn a_mistake_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let bad = Wanted { listen: "nowhere".into(), public_url: "http://hub".into(), ..wanted(dir.path()) };
        let report = init(bad, []).unwrap_err().to_string();
        assert!(report.contains("listen:") && report.contains("public_url:"), "{report}");
        assert!(!dir.path().join("data").exists());
    }
}
