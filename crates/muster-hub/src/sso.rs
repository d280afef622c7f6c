//! Single sign-on: what the hub asks a provider of OpenID Connect, and what it believes of the answers.
//!
//! Authorization code with PKCE (S256), state and nonce. The provider's documents are kept for a while and fetched anew when an ID token
//! names a key that is not among them, at most once a minute: nobody makes the hub hammer its provider.
//! Who may come in is decided in [`admit`], not here. A provider that is down stops nothing but logins.

pub(crate) mod admit;
mod fetch;

use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreIdTokenClaims, CoreJwsSigningAlgorithm, CoreProviderMetadata,
    CoreTokenResponse, CoreUserInfoClaims,
};
use openidconnect::url::Url;
use openidconnect::{
    AuthType, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, DiscoveryError, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, SignatureVerificationError, TokenResponse as _,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config::Oidc;
use fetch::Fetch;

/// How long the provider's documents are believed.
const KEEP: Duration = Duration::from_secs(3600);
/// Documents that could not be fetched anew are believed for so long more.
const KEEP_STALE: Duration = Duration::from_secs(24 * 3600);
/// Keys are fetched out of turn at most so often.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// After a failure nobody asks again for so long: those who wait would wait one after the other.
const AFTER_FAILURE: Duration = Duration::from_secs(3);
/// Longest wait for somebody else who asks the provider just now.
const QUEUE: Duration = Duration::from_secs(25);
/// The hub's place that the provider sends browsers back to.
pub(crate) const CALLBACK: &str = "/v1/login/oidc/callback";

type Client = CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

/// Why the provider did not say who it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// It cannot be asked now.
    #[error("the provider {name} at {issuer} does not answer: {why}")]
    Down {
        /// What people call it.
        name: String,
        /// The provider.
        issuer: String,
        /// In a few words.
        why: String,
    },
    /// It answered what cannot be believed, or no.
    #[error("the answer of the provider {name} is refused: {why}")]
    Refused {
        /// What people call it.
        name: String,
        /// In a few words.
        why: String,
    },
}

/// Who somebody is, by the provider's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// The provider.
    pub issuer: String,
    /// The person there: never changes, never given again.
    pub subject: String,
    /// The e-mail.
    pub email: Option<String>,
    /// Whether the provider knows that it is theirs.
    pub email_verified: bool,
    /// The display name.
    pub name: Option<String>,
}

/// A provider.
#[derive(Debug)]
pub struct Provider {
    settings: Oidc,
    redirect: RedirectUrl,
    fetch: Fetch,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    documents: Option<(Arc<CoreProviderMetadata>, Instant)>,
    failed: Option<(Failed, Instant)>,
    /// When keys were last fetched out of turn.
    keys: Option<Instant>,
}

/// The address that is registered at the provider, for a hub at this one.
///
/// # Errors
/// When it is no URL.
pub(crate) fn redirect_uri(hub: &str) -> Result<String, String> {
    // A URL leaves out the port that its scheme has anyway, and providers compare to the letter.
    let url = Url::parse(hub).and_then(|url| url.join(CALLBACK)).map_err(|error| format!("{hub:?} is not a URL: {error}"))?;
    Ok(url.to_string())
}

impl Provider {
    /// The provider of a configuration, for a hub at this address. Dials nobody.
    ///
    /// # Errors
    /// When an authority or an address cannot be used.
    pub fn new(settings: Oidc, hub: &str) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let fetch = Fetch::new(&settings.issuer, settings.authorities.as_deref()).context("oidc.ca_file: an authority cannot be used")?;
        let redirect = RedirectUrl::new(redirect_uri(hub).map_err(anyhow::Error::msg)?).context("oidc: the hub's address")?;
        Ok(Self { settings, redirect, fetch, known: Mutex::default() })
    }

    /// The configuration.
    pub(crate) fn settings(&self) -> &Oidc {
        &self.settings
    }

    /// Where to send a browser.
    pub(crate) async fn authorize(&self, state: &str, nonce: &str, verifier: &str) -> Result<String, Failed> {
        let documents = self.documents().await?;
        let client = self.client(&documents)?;
        let (state, nonce) = (CsrfToken::new(state.to_owned()), Nonce::new(nonce.to_owned()));
        let verifier = PkceCodeVerifier::new(verifier.to_owned());
        let (url, _, _) = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || state, || nonce)
            .add_scopes(["email", "profile"].map(|scope| Scope::new(scope.to_owned())))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        // What the browser is told to go to is the provider's word.
        let plain = self.settings.issuer.starts_with("http://") && url.host_str().is_some_and(crate::config::is_loopback);
        if url.scheme() != "https" && !(url.scheme() == "http" && plain) {
            return Err(self.refused("its page for logins is not https"));
        }
        Ok(url.to_string())
    }

    /// Trades the code that a browser brought for who it is.
    pub(crate) async fn exchange(&self, code: &str, nonce: &str, verifier: &str) -> Result<Who, Failed> {
        let mut documents = self.documents().await?;
        let client = self.client(&documents)?;
        let request = client.exchange_code(AuthorizationCode::new(code.to_owned())).map_err(|error| self.refused(error))?;
        let tokens = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned())).request_async(&self.fetch).await;
        let tokens: CoreTokenResponse = tokens.map_err(|error| match error {
            RequestTokenError::Request(error) => self.down(&error),
            RequestTokenError::ServerResponse(told) => self.refused(format_args!("it does not take the code ({told})")),
            RequestTokenError::Parse(error, _) => self.refused(format_args!("not tokens: {error}")),
            RequestTokenError::Other(why) => self.refused(why),
        })?;
        let nonce = Nonce::new(nonce.to_owned());
        let claims = match self.claims(&documents, &tokens, &nonce) {
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey)) => {
                // The provider changed its keys, or somebody makes names of keys up.
                documents = self.newer(&documents).await?;
                self.claims(&documents, &tokens, &nonce)
            }
            other => other,
        };
        let claims = claims.map_err(|error| self.refused(told(&error)))?;
        let who = self.who(&claims);
        if who.email.is_some() { Ok(who) } else { self.ask_more(&documents, &tokens, who).await }
    }

    /// The ID token's claims: signature by a key of the provider's, issuer, audience, end, nonce.
    fn claims(
        &self,
        documents: &CoreProviderMetadata,
        tokens: &CoreTokenResponse,
        nonce: &Nonce,
    ) -> Result<CoreIdTokenClaims, ClaimsVerificationError> {
        let other = |why: &str| ClaimsVerificationError::Other(why.to_owned());
        let token = tokens.id_token().ok_or_else(|| other("there is no ID token in it"))?;
        let client = self.client(documents).map_err(|error| other(&error.to_string()))?;
        let verifier = client
            .id_token_verifier()
            .set_allowed_algs([CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, CoreJwsSigningAlgorithm::EcdsaP256Sha256]);
        let claims = token.claims(&verifier, nonce)?;
        // The library leaves this one to its users (OpenID Connect Core, section 3.1.3.7).
        if claims.authorized_party().is_some_and(|party| party.as_str() != self.settings.client_id) {
            return Err(other("it was issued to another program (azp)"));
        }
        Ok(claims.clone())
    }

    fn who(&self, claims: &CoreIdTokenClaims) -> Who {
        Who {
            issuer: self.settings.issuer.clone(),
            subject: claims.subject().to_string(),
            email: claims.email().map(|email| email.to_string()),
            email_verified: claims.email_verified().unwrap_or(false),
            name: claims.name().and_then(|name| name.get(None)).map(|name| name.to_string()),
        }
    }

    /// Many providers keep the e-mail out of the ID token and tell it to whoever has the access token.
    async fn ask_more(&self, documents: &CoreProviderMetadata, tokens: &CoreTokenResponse, who: Who) -> Result<Who, Failed> {
        if documents.userinfo_endpoint().is_none() {
            return Ok(who);
        }
        let access = tokens.access_token();
        if !access.secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.refused("its access token is not one"));
        }
        let subject = openidconnect::SubjectIdentifier::new(who.subject.clone());
        let client = self.client(documents)?;
        // The answer must be about the same person.
        let request = client.user_info(access.clone(), Some(subject)).map_err(|error| self.refused(error))?;
        let claims: CoreUserInfoClaims = request.request_async(&self.fetch).await.map_err(|error| match error {
            openidconnect::UserInfoError::Request(error) => self.down(&error),
            openidconnect::UserInfoError::ClaimsVerification(error) => self.refused(told(&error)),
            other => self.refused(other),
        })?;
        Ok(Who {
            email: claims.email().map(|email| email.to_string()),
            email_verified: claims.email_verified().unwrap_or(false),
            name: who.name.or_else(|| claims.name().and_then(|name| name.get(None)).map(|name| name.to_string())),
            ..who
        })
    }

    fn client(&self, documents: &CoreProviderMetadata) -> Result<Client, Failed> {
        let (id, secret) = (&self.settings.client_id, &self.settings.client_secret);
        let secret = secret.as_ref().map(|secret| ClientSecret::new(secret.expose().to_owned()));
        if documents.token_endpoint().is_none() {
            return Err(self.refused("it has no token endpoint"));
        }
        // Basic is what a provider takes that names nothing (OpenID Connect Discovery, section 3).
        let basic = documents.token_endpoint_auth_methods_supported().is_none_or(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretBasic) || !methods.contains(&CoreClientAuthMethod::ClientSecretPost)
        });
        Ok(CoreClient::from_provider_metadata(documents.clone(), ClientId::new(id.clone()), secret)
            .set_redirect_uri(self.redirect.clone())
            .set_auth_type(if basic { AuthType::BasicAuth } else { AuthType::RequestBody }))
    }

    async fn documents(&self) -> Result<Arc<CoreProviderMetadata>, Failed> {
        let mut known = self.turn().await?;
        match &known.documents {
            Some((documents, at)) if at.elapsed() < KEEP => Ok(Arc::clone(documents)),
            _ => self.look(&mut known).await,
        }
    }

    /// The documents, fetched anew unless that was just done.
    async fn newer(&self, seen: &Arc<CoreProviderMetadata>) -> Result<Arc<CoreProviderMetadata>, Failed> {
        let mut known = self.turn().await?;
        match &known.documents {
            Some((documents, _)) if !Arc::ptr_eq(documents, seen) => return Ok(Arc::clone(documents)),
            Some((documents, _)) if known.keys.is_some_and(|at| at.elapsed() < KEYS_EVERY) => return Ok(Arc::clone(documents)),
            _ => {}
        }
        known.keys = Some(Instant::now());
        self.look(&mut known).await
    }

    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, Known>, Failed> {
        timeout(QUEUE, self.known.lock()).await.map_err(|_| self.down(&"many logins wait for it; try again in a moment"))
    }

    async fn look(&self, known: &mut Known) -> Result<Arc<CoreProviderMetadata>, Failed> {
        if let Some((failed, at)) = &known.failed
            && at.elapsed() < AFTER_FAILURE
        {
            return Err(failed.clone());
        }
        let issuer = IssuerUrl::new(self.settings.issuer.clone()).map_err(|error| self.refused(error))?;
        let found = CoreProviderMetadata::discover_async(issuer, &self.fetch).await;
        let failed = match found {
            Ok(documents) => {
                let documents = Arc::new(documents);
                known.documents = Some((Arc::clone(&documents), Instant::now()));
                known.failed = None;
                return Ok(documents);
            }
            Err(DiscoveryError::Request(error)) => self.down(&error),
            Err(DiscoveryError::Response(status, _, _)) => self.down(&format_args!("it answers with status {}", status.as_u16())),
            Err(error) => self.refused(format_args!("its documents cannot be used ({error})")),
        };
        tracing::warn!(%failed, "single sign-on");
        known.failed = Some((failed.clone(), Instant::now()));
        match &known.documents {
            Some((documents, at)) if at.elapsed() < KEEP + KEEP_STALE => Ok(Arc::clone(documents)),
            _ => Err(failed),
        }
    }

    fn down(&self, why: &dyn std::fmt::Display) -> Failed {
        Failed::Down { name: self.settings.name.clone(), issuer: self.settings.issuer.clone(), why: bounded(why) }
    }

    fn refused(&self, why: impl std::fmt::Display) -> Failed {
        Failed::Refused { name: self.settings.name.clone(), why: bounded(&why) }
    }
}

/// What a provider said may stand in a sentence, but not fill a page.
fn bounded(why: &dyn std::fmt::Display) -> String {
    why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// An error with its cause.
fn told(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_redirect_uri_is_the_one_that_a_browser_uses() {
        assert_eq!(redirect_uri("https://hub.example.com:443").unwrap(), "https://hub.example.com/v1/login/oidc/callback");
        assert_eq!(redirect_uri("https://hub.example.com:8443").unwrap(), "https://hub.example.com:8443/v1/login/oidc/callback");
    }
}
