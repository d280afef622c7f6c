//! Mails invitations through the configured SMTP server.
//!
//! The queue stands in the database: a restart or a dead mail server loses nothing. It holds no secret: each attempt draws the secret
//! of its link anew and stores the digest, so that the newest mail's link works and the one that the inviter was shown stays good.
//! What people wrote goes through lettre's types, which encode or refuse line breaks: nobody adds a header.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use muster_proto::Millis;
use muster_proto::api::MailState;
use muster_proto::token::{Pin, Token, TokenKind};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, SECOND};
use crate::config::{Config, Security};
use crate::random;
use crate::store::invitations::{self, InvitationRow, Place};
use crate::store::{self, Store};

/// Attempts before a mail is given up; with the delays below a little over a day.
const ATTEMPTS: u32 = 16;
/// Delay after the first attempt; it doubles.
const FIRST_DELAY: Millis = 30 * SECOND;
/// Longest delay between two attempts.
const LONGEST_DELAY: Millis = 4 * 3600 * SECOND;
/// Bound of one attempt: dial, TLS, the whole exchange.
const ATTEMPT: Duration = Duration::from_secs(60);
/// Mails taken from the queue at once.
const BATCH: u32 = 20;
/// Longest text of a mail server that is kept, in characters.
const ERROR_MAX: usize = 300;

/// Sends what is queued. Clones share it.
#[derive(Clone)]
pub struct Mailer(Option<Arc<Inner>>);

struct Inner {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    wake: Notify,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Mailer" } else { "Mailer(off)" })
    }
}

impl Mailer {
    /// The mailer of a configuration; dials nobody yet.
    ///
    /// # Errors
    /// When the authorities of `mail.ca_file` cannot be read.
    pub fn new(config: &Config) -> Result<Self> {
        let Some(mail) = &config.mail else { return Ok(Self(None)) };
        let tls = || -> Result<TlsParameters> {
            let mut tls = TlsParameters::builder(mail.host.clone());
            if let Some(path) = &mail.ca_file {
                let pem = std::fs::read(path).with_context(|| format!("mail.ca_file: cannot read {}", path.display()))?;
                let certificate =
                    Certificate::from_pem(&pem).with_context(|| format!("mail.ca_file: {} holds no certificate", path.display()))?;
                tls = tls.certificate_store(CertificateStore::None).add_root_certificate(certificate);
            }
            tls.build_rustls().context("mail: TLS cannot be set up")
        };
        let tls = match mail.security {
            Security::Tls => Tls::Wrapper(tls()?),
            Security::StartTls => Tls::Required(tls()?),
            Security::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
            .port(mail.port)
            .tls(tls)
            .hello_name(ClientId::Domain(config.public_url.host.clone()))
            .timeout(Some(ATTEMPT));
        if let (Some(username), Some(password)) = (&mail.username, &mail.password) {
            transport = transport.credentials(Credentials::new(username.clone(), password.expose().to_owned()));
        }
        Ok(Self(Some(Arc::new(Inner { transport: transport.build(), from: mail.from.clone(), wake: Notify::new() }))))
    }

    /// Where the mail of a new invitation stands.
    pub fn first_state(&self) -> MailState {
        if self.0.is_some() { MailState::Queued } else { MailState::None }
    }

    /// Something was queued.
    pub fn wake(&self) {
        if let Some(inner) = &self.0 {
            inner.wake.notify_one();
        }
    }

    /// Sends until the hub stops. A start tries everything that waits at once.
    pub async fn run(&self, store: Store, pin: Pin, hub: String, stop: CancellationToken) {
        let Some(inner) = &self.0 else { return stop.cancelled().await };
        let round = async {
            if let Err(error) = store.write(invitations::mail_anew).await {
                tracing::error!(%error, "the queue of mails could not be looked through");
            }
            loop {
                let wait = match inner.send_due(&store, pin, &hub).await {
                    Ok(wait) => wait,
                    Err(error) => {
                        tracing::error!(%error, "the queue of mails could not be worked on");
                        Some(FIRST_DELAY)
                    }
                };
                let wait = Duration::from_millis(wait.unwrap_or(LONGEST_DELAY).clamp(0, LONGEST_DELAY).unsigned_abs());
                tokio::select! {
                    () = inner.wake.notified() => {}
                    () = sleep(wait) => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = round => {}
        }
    }
}

impl Inner {
    /// Sends what is due, and says how long nothing is.
    async fn send_due(&self, store: &Store, pin: Pin, hub: &str) -> store::Result<Option<Millis>> {
        loop {
            let now = clock::now();
            let due = store.read(move |db| invitations::to_mail(db, now, BATCH)).await?;
            if due.is_empty() {
                let next = store.read(invitations::next_mail).await?;
                return Ok(next.map(|next| (next - clock::now()).max(0)));
            }
            for invitation in due {
                self.send(store, pin, hub, invitation).await?;
            }
        }
    }

    async fn send(&self, store: &Store, pin: Pin, hub: &str, invitation: InvitationRow) -> store::Result<()> {
        let drawn = Token::from_random(TokenKind::Invitation, random::bytes(), pin);
        let token = Token { id: invitation.id.clone(), ..drawn };
        let digest = random::sha256(token.secret.as_bytes());
        let (id, next) = (invitation.id.clone(), clock::now() + delay(invitation.mail_attempts));
        if !store.write(move |tx| invitations::mail_begins(tx, &id, digest, next)).await? {
            return Ok(());
        }
        let outcome = self.attempt(&invitation, &format!("{hub}/invite#{token}")).await;
        let last = invitation.mail_attempts + 1 >= ATTEMPTS || next >= invitation.expires_at;
        let (state, error) = match outcome {
            Ok(()) => (MailState::Sent, None),
            Err(Failed { for_good, why }) => {
                tracing::warn!(invitation = invitation.id, %why, "the mail of an invitation could not be sent");
                (if for_good || last { MailState::Failed } else { MailState::Queued }, Some(why))
            }
        };
        store.write(move |tx| invitations::mail_ended(tx, &invitation.id, digest, state, error.as_deref())).await
    }

    async fn attempt(&self, invitation: &InvitationRow, link: &str) -> Result<(), Failed> {
        let message = compose(&self.from, invitation, link).map_err(|why| Failed { for_good: true, why })?;
        match timeout(ATTEMPT, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failed { for_good: error.is_permanent(), why: told(&error) }),
            Err(_) => Err(Failed { for_good: false, why: format!("the mail server did not answer within {} s", ATTEMPT.as_secs()) }),
        }
    }
}

/// Why a mail did not go out.
struct Failed {
    for_good: bool,
    why: String,
}

/// An error with its causes, harmless in a list.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_MAX).collect()
}

/// From an attempt to the next one.
fn delay(attempts: u32) -> Millis {
    FIRST_DELAY.saturating_mul(1 << attempts.min(20)).min(LONGEST_DELAY)
}

fn compose(from: &Mailbox, invitation: &InvitationRow, link: &str) -> Result<Message, String> {
    let address: Address =
        invitation.email.parse().map_err(|error| format!("{} is not an address that mail can be sent to: {error}", invitation.email))?;
    let place = match &invitation.place {
        Place::Org(role) => format!("the organization {} with the {} role", invitation.org, role.as_str()),
        Place::Project(project, role) => {
            format!("project {project} of the organization {} with the {} role", invitation.org, role.as_str())
        }
    };
    let days = (invitation.expires_at - invitation.renewed_at) / clock::DAY;
    let body = format!(
        "{} invites you to {place}.\n\n\
         Open this link within {days} days to see the invitation and to accept it:\n\n  {link}\n\n\
         Or accept it with the command line:\n\n  muster invitation accept '{link}'\n\n\
         The link is only for you. If you do not expect it, ignore this mail: nothing happens unless you accept.\n",
        invitation.invited_by
    );
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, address))
        .subject(format!("Invitation to {} on Muster", invitation.org))
        .header(ContentType::TEXT_PLAIN)
        .body(body)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(email: &str) -> InvitationRow {
        InvitationRow {
            id: "abcdefghij".into(),
            org: "acme".parse().unwrap(),
            place: Place::Project("lab".parse().unwrap(), muster_proto::api::ProjectRole::Connect),
            email: email.into(),
            digest: Vec::new(),
            mail_digest: None,
            invited_by: "ada@acme.example".into(),
            created_at: 0,
            renewed_at: 0,
            expires_at: 7 * clock::DAY,
            accepted_at: None,
            revoked_at: None,
            mail: MailState::Queued,
            mail_attempts: 0,
            mail_error: None,
        }
    }

    #[test]
    fn retries_are_bounded_and_spread_over_a_day() {
        let delays: Vec<Millis> = (0..ATTEMPTS).map(delay).collect();
        assert_eq!((delays[0], delays[1]), (30 * SECOND, 60 * SECOND));
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]) && delays[15] == LONGEST_DELAY);
        let total: Millis = delays.iter().take(15).sum();
        assert!((24 * 3600 * SECOND..48 * 3600 * SECOND).contains(&total), "{total}");
    }

    #[test]
    fn nobody_adds_a_header() {
        let from: Mailbox = "Muster <m@hub.example>".parse().unwrap();
        let mail = compose(&from, &invitation("bob@acme.example"), "https://hub/invite#mi1.x").unwrap();
        let text = String::from_utf8(mail.formatted()).unwrap();
        assert!(text.contains("Subject: Invitation to acme on Muster\r\n") && text.contains("project lab"), "{text}");
        for evil in ["bob@acme.example\r\nBcc: eve@evil.example", "bob@acme.example\nX: y", "a@b, c@d", "<a@b> <c@d>"] {
            assert!(compose(&from, &invitation(evil), "x").is_err(), "{evil:?}");
        }
        let mut named = invitation("bob@acme.example");
        named.invited_by = "eve\r\nBcc: x@evil.example".into();
        let text = String::from_utf8(compose(&from, &named, "x").unwrap().formatted()).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.contains("Bcc"), "{head}");
    }
}
