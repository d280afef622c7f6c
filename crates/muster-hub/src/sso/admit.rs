//! Whose account somebody is whom the provider named, and which organizations take them in by their mail domain. See decision 0020.
//!
//! A person is (issuer, subject). An e-mail links only once, and only where the provider knows that it is theirs.

use std::net::IpAddr;

use muster_proto::Millis;
use muster_proto::api::OrgRole;
use muster_proto::problem::Code;
use rusqlite::Transaction;
use serde_json::json;

use super::Who;
use crate::accounts;
use crate::api::display_name_of;
use crate::audit::Entry;
use crate::config::{NewAccounts, Oidc};
use crate::store::accounts::{self as stored, Account};
use crate::store::{self, limits, orgs, problem, sso};

/// Who came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The account.
    pub account: i64,
    /// Its e-mail.
    pub email: String,
    /// What the person should know, such as why an organization did not take them in.
    pub notes: Vec<String>,
}

/// Finds, makes or links the account, and lets organizations take it in.
pub(crate) fn admit(tx: &Transaction<'_>, who: &Who, settings: &Oidc, from: Option<IpAddr>, now: Millis) -> store::Result<Admitted> {
    let account = match sso::account_of(tx, &who.issuer, &who.subject)? {
        Some(id) => {
            let account = stored::by_id(tx, id)?.ok_or_else(|| problem(Code::Forbidden, "this account is gone"))?;
            may_enter(&account)?;
            sso::touch(tx, &who.issuer, &who.subject, now)?;
            account
        }
        None => link(tx, who, settings, from, now)?,
    };
    let notes = join(tx, who, settings, &account, from, now)?;
    Ok(Admitted { account: account.id, email: account.email, notes })
}

/// Whether anybody may log in to an account.
pub(crate) fn may_enter(account: &Account) -> store::Result<()> {
    let email = &account.email;
    if account.service {
        return Err(problem(Code::Forbidden, format!("{email} is a service account, and nobody logs in to it")));
    }
    if account.disabled_at.is_some() {
        return Err(problem(Code::Forbidden, format!("The account {email} is disabled. Ask an owner of the hub.")));
    }
    if account.closed_at.is_some() {
        let how = "an owner of the hub can open it again: muster-hub user enable";
        return Err(problem(Code::Forbidden, format!("the account {email} was closed by its person; {how} {email}")));
    }
    Ok(())
}

/// The e-mail, if the provider knows that it is this person's.
fn proved(who: &Who, name: &str) -> store::Result<String> {
    let Some(told) = &who.email else {
        return Err(problem(Code::Forbidden, format!("{name} did not return an e-mail address; the hub needs one to find your account")));
    };
    let email = accounts::parse_email(told)
        .map_err(|why| problem(Code::Forbidden, format!("{name} told an e-mail that the hub cannot use: {why}")))?;
    // Letters beyond ASCII that turn into others in lower case, such as the Kelvin sign, would make two addresses one.
    if told.trim().to_ascii_lowercase() != email {
        return Err(problem(
            Code::Forbidden,
            format!("{name} told an e-mail in letters that the hub cannot tell apart; write it in lower case there"),
        ));
    }
    if !who.email_verified {
        let why = format!("{name} has not verified that {email} is yours; verify it there, then log in again");
        return Err(problem(Code::Forbidden, why));
    }
    Ok(email)
}

/// The first login of a person.
fn link(tx: &Transaction<'_>, who: &Who, settings: &Oidc, from: Option<IpAddr>, now: Millis) -> store::Result<Account> {
    let email = proved(who, &settings.name)?;
    let (id, how) = match stored::by_email(tx, &email)? {
        None => {
            expected(tx, settings, &email, now)?;
            let name = display_name_of(who.name.as_deref(), &email);
            (stored::create(tx, &email, &name, None, now)?, "account.create")
        }
        Some(account) => {
            may_enter(&account)?;
            if sso::is_linked(tx, &who.issuer, account.id)? {
                // An address that was given to somebody else must not give them what its first person had.
                let why = format!("the account {email} belongs to another person at {}", settings.name);
                return Err(problem(Code::Forbidden, format!("{why}; an owner of the hub can decide: muster-hub user unlink {email}")));
            }
            if account.verified_at.is_some() {
                (account.id, "account.link")
            } else {
                // Whoever made it never proved to read this address: its person takes it over, and nothing of before works on.
                stored::hand_over(tx, account.id, &display_name_of(who.name.as_deref(), &email), None)?;
                stored::set_verified(tx, account.id, Some(now))?;
                (account.id, "account.take_over")
            }
        }
    };
    sso::link(tx, &who.issuer, &who.subject, id, now)?;
    let details = json!({ "issuer": who.issuer, "subject": who.subject });
    Entry { org: None, actor: email.clone(), action: how, target: email.clone(), from, details }.ok(tx)?;
    stored::by_id(tx, id)?.ok_or_else(|| problem(Code::Internal, "the account is gone"))
}

/// Whether somebody unknown gets an account.
fn expected(tx: &Transaction<'_>, settings: &Oidc, email: &str, now: Millis) -> store::Result<()> {
    let joins = settings.auto_join.iter().any(|rule| domain(email) == rule.domain);
    if settings.new_accounts == NewAccounts::Everyone || joins || sso::is_invited(tx, email, now)? {
        return Ok(());
    }
    Err(problem(
        Code::Forbidden,
        format!("{email} has no account at this hub, and nobody invited it; ask an owner of your organization to"),
    ))
}

fn domain(email: &str) -> &str {
    email.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Organizations that take in whoever has an e-mail of their domain: once, as a viewer. Whoever was taken out stays out.
fn join(
    tx: &Transaction<'_>,
    who: &Who,
    settings: &Oidc,
    account: &Account,
    from: Option<IpAddr>,
    now: Millis,
) -> store::Result<Vec<String>> {
    // The account's own address, as the provider knows it today.
    let today =
        who.email_verified && who.email.as_deref().and_then(|email| accounts::parse_email(email).ok()).as_ref() == Some(&account.email);
    let mut notes = Vec::new();
    for rule in settings.auto_join.iter().filter(|rule| today && rule.domain == domain(&account.email)) {
        let org = &rule.org;
        if orgs::show(tx, org, None)?.is_none() {
            tracing::warn!(%org, domain = rule.domain, "oidc.auto_join: there is no such organization");
            continue;
        }
        if sso::has_joined(tx, org, account.id)? {
            continue;
        }
        let entry = Entry {
            org: Some(org.clone()),
            actor: account.email.clone(),
            action: "member.join",
            target: account.email.clone(),
            from,
            details: json!({ "role": "viewer", "domain": rule.domain }),
        };
        if orgs::role(tx, org, account.id)?.is_some() {
            sso::note_joined(tx, org, account.id, now)?;
        } else if let Some(full) = over_limit(tx, org, &account.email)? {
            // It is tried again at the next login.
            entry.record(tx, &full.code)?;
            notes.push(format!("you are not in {org} yet: {}", full.detail));
        } else {
            orgs::set_member(tx, org, account.id, OrgRole::Viewer, now)?;
            sso::note_joined(tx, org, account.id, now)?;
            entry.ok(tx)?;
            notes.push(format!("you are now a viewer of {org}, by your address at {}", rule.domain));
        }
    }
    Ok(notes)
}

fn over_limit(tx: &Transaction<'_>, org: &muster_proto::id::OrgId, email: &str) -> store::Result<Option<muster_proto::problem::Problem>> {
    match limits::check_newcomer(tx, org, email) {
        Ok(()) => Ok(None),
        Err(store::Error::Problem(problem)) => Ok(Some(problem)),
        Err(error) => Err(error),
    }
}
