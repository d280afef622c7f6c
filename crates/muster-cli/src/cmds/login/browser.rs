//! Login through a browser on this computer (RFC 8252): it opens the hub, which sends it to the provider of single sign-on, and comes back
//! to a port of the loopback with a code. The code is worth nothing without the verifier that never leaves this program.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use muster_link::http::CallError;
use muster_proto::api::{AccessToken, LoginCode};
use muster_proto::problem::Code;
use muster_proto::token::{Pin, Token};
use ring::rand::SecureRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{checked, token_name};
use crate::client::{Hub, query};
use crate::failure::{Exit, Failure};
use crate::output::note;

/// As long as the hub keeps a login that was begun.
const PATIENCE: Duration = Duration::from_secs(600);
/// A browser sends its request at once.
const REQUEST: Duration = Duration::from_secs(10);
/// Largest head of a browser's request.
const HEAD_MAX: usize = 16 * 1024;

/// Logs in; `open` opens the address, or says that nothing can.
pub(super) async fn by_browser(url: &str, pin: Pin, provider: &str, open: impl FnOnce(&str) -> bool) -> Result<Token, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.map_err(|error| failed(format!("no port of the loopback can be listened on: {error}")))?;
    let port = listener.local_addr().map_err(|error| failed(error.to_string()))?.port();
    let redirect_uri = format!("http://127.0.0.1:{port}/");
    let (verifier, state) = (secret()?, secret()?);
    let challenge = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
    let asked = [
        ("redirect_uri", Some(redirect_uri.clone())),
        ("challenge", Some(BASE64_URL_SAFE_NO_PAD.encode(challenge))),
        ("state", Some(state.clone())),
    ];
    let address = format!("{url}/v1/login/oidc/start{}", query(asked));
    if open(&address) {
        note(format!(
            "A browser opens to log in with {provider}. If it does not, open this address in a browser on this computer:\n\n  {address}\n"
        ));
    } else {
        note(format!("Open this address in a browser on this computer to log in with {provider}:\n\n  {address}\n"));
    }
    let came = timeout(PATIENCE, wait(listener, &state)).await;
    let (told, browser) = came.map_err(|_| failed("nobody logged in within ten minutes".to_owned()))??;
    let outcome = match told {
        Told::Code(code) => trade(url, pin, LoginCode { code, verifier, redirect_uri, token_name: Some(token_name()) }).await,
        Told::Error { code, why } => {
            let exit = if code == Code::Unavailable.as_str() { Exit::Unreachable } else { Exit::Denied };
            Err(Failure::new(exit, why))
        }
    };
    // The page is a courtesy: the login does not depend on it.
    let page = match &outcome {
        Ok(_) => "You are logged in: muster has what it needs. You can close this page.\n".to_owned(),
        Err(failure) => format!("You are not logged in: {failure}. You can close this page.\n"),
    };
    answer(browser, "200 OK", &page).await;
    outcome
}

async fn trade(url: &str, pin: Pin, wanted: LoginCode) -> Result<Token, Failure> {
    match Hub::new(url, pin, None, None)?.try_call::<AccessToken>("POST", "/v1/login/code", Some(&wanted)).await {
        Ok(made) => checked(made, pin),
        Err(CallError::Problem(problem)) if problem.is(Code::Unauthenticated) => Err(Failure::new(Exit::Denied, problem.detail)),
        Err(error) => Err(error.into()),
    }
}

/// What the browser brought.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Code(String),
    Error { code: String, why: String },
}

/// The browser that comes back with our state. Whatever else knocks is answered and forgotten.
async fn wait(listener: TcpListener, state: &str) -> Result<(Told, TcpStream), Failure> {
    let (found, mut came) = mpsc::channel(1);
    let mut knocking = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|error| failed(format!("the loopback cannot be listened on: {error}")))?;
                let (found, state) = (found.clone(), state.to_owned());
                knocking.spawn(async move {
                    if let Ok(Some(told)) = timeout(REQUEST, hear(stream, &state)).await {
                        // The second one of the same state is late.
                        let _ = found.try_send(told);
                    }
                });
            }
            Some(_) = knocking.join_next(), if !knocking.is_empty() => {}
            Some(told) = came.recv() => return Ok(told),
        }
    }
}

async fn hear(mut stream: TcpStream, state: &str) -> Option<(Told, TcpStream)> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 2048];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&piece[..read]);
        if head.len() > HEAD_MAX {
            return None;
        }
    }
    match told(&head, state) {
        Some(told) => Some((told, stream)),
        None => {
            answer(stream, "404 Not Found", "There is nothing here: muster waits for the login that it began.\n").await;
            None
        }
    }
}

/// What a request says, if it is the one that is waited for.
fn told(head: &[u8], state: &str) -> Option<Told> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let target = line.strip_prefix("GET /?")?.strip_suffix(" HTTP/1.1")?;
    let mut fields: HashMap<&str, String> = HashMap::new();
    for pair in target.split('&') {
        let (name, value) = pair.split_once('=')?;
        fields.entry(name).or_insert(decoded(value)?);
    }
    if fields.remove("state")? != state {
        return None;
    }
    match (fields.remove("code"), fields.remove("error")) {
        (Some(code), _) => Some(Told::Code(code)),
        (None, Some(code)) => {
            let why = fields.remove("error_description").unwrap_or_else(|| code.clone());
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
            Some(Told::Error { code, why: why.trim_end_matches('.').to_owned() })
        }
        (None, None) => None,
    }
}

/// A value of a query, without its percent signs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Answers a browser, as well as that goes.
async fn answer(mut stream: TcpStream, status: &str, text: &str) {
    let page = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let _ = timeout(REQUEST, async {
        stream.write_all(page.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// The person's browser: `BROWSER`, or what opens addresses on this desktop, if it is one.
fn opener() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    if let Some(named) = set("BROWSER") {
        return named.split(':').next().map(str::to_owned);
    }
    if cfg!(target_os = "macos") {
        return Some("open".to_owned());
    }
    let desktop = set("DISPLAY").or_else(|| set("WAYLAND_DISPLAY"))?;
    let path = std::env::var_os("PATH")?;
    let there = std::env::split_paths(&path).any(|folder| folder.join("xdg-open").is_file());
    (!desktop.is_empty() && there).then(|| "xdg-open".to_owned())
}

/// Whether there is a browser to open.
pub(super) fn can_open() -> bool {
    opener().is_some()
}

/// Opens an address in the person's browser, and says whether that could be begun.
pub(super) fn open(address: &str) -> bool {
    let Some(line) = opener() else { return false };
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else { return false };
    // It lives as long as the person likes: nobody waits for it.
    Command::new(program).args(words).arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
}

fn secret() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| failed("the system gives no random numbers".to_owned()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn failed(why: String) -> Failure {
    Failure::new(Exit::Failed, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_that_is_waited_for_is_heard() {
        let hear = |line: &str| told(format!("{line}\r\nHost: x\r\n\r\n").as_bytes(), "s-1");
        assert_eq!(hear("GET /?code=abc&state=s-1 HTTP/1.1"), Some(Told::Code("abc".into())));
        let no = Told::Error { code: "forbidden".into(), why: "not you, Zoë: x".into() };
        assert_eq!(hear("GET /?error=forbidden&error_description=not+you%2C%20Zo%C3%AB:%0ax.&state=s-1 HTTP/1.1"), Some(no));
        for other in [
            "GET /?code=abc&state=s-2 HTTP/1.1",
            "GET /?code=abc HTTP/1.1",
            "GET /?state=s-1 HTTP/1.1",
            "POST /?code=abc&state=s-1 HTTP/1.1",
            "GET /x?code=abc&state=s-1 HTTP/1.1",
            "GET /favicon.ico HTTP/1.1",
            "GET /?code=%zz&state=s-1 HTTP/1.1",
            "GET /?state=s-2&code=abc&state=s-1 HTTP/1.1",
        ] {
            assert_eq!(hear(other), None, "{other}");
        }
    }
}
