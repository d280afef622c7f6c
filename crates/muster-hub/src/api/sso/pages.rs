//! The pages of a login through the browser: what it is for, and a yes or a no.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use muster_proto::Millis;
use muster_proto::problem::Problem;

use super::super::page::{Page, escape};
use crate::clock::SECOND;
use crate::store::sso::DeviceRow;

const TITLE: &str = "Muster login";

/// Says why it came to nothing.
pub(super) fn refused(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Page { status, ..Page::new(TITLE, format!("<p class=bad>{}</p>", escape(&sentence(&problem.detail)))) }.into_response()
}

/// Says something.
pub(super) fn told(what: &str) -> Response {
    Page::new(TITLE, format!("<p>{}</p>", escape(what))).into_response()
}

/// Asks for the code of a login by device code.
pub(super) fn ask_code() -> Response {
    let body = "<p>Type the code that <code>muster login --device-code</code> shows.</p>\
                <form method=get action=/login/device><label for=code>Code</label>\
                <input id=code name=code class=big placeholder=ABCD-2345 autocomplete=off autofocus required maxlength=20>\
                <button>Go on</button></form>";
    Page { form: "'self'".to_owned(), ..Page::new(TITLE, body.to_owned()) }.into_response()
}

/// The way to the provider, as a link: a form may not lead elsewhere.
pub(super) fn go_on(user_code: &str, provider: &str) -> Response {
    let (code, provider) = (escape(user_code), escape(provider));
    let body = format!(
        "<p>A program asks to log in with the code</p><p class=big>{code}</p>\
         <p>Log in to see which machine it is, and to decide.</p>\
         <p><a href=\"/v1/login/oidc/start?user_code={code}\">Go on to {provider}</a></p>"
    );
    Page::new(TITLE, body).into_response()
}

/// Asks whether the command line on this computer may log in.
pub(super) fn confirm_loopback(redirect: &str, hub: &str, email: &str, notes: &[String], secret: &str) -> Response {
    let body = format!(
        "<p><code>muster</code> on this computer asks to log in to {} as <b>{}</b>.</p>\
         <p>Go on only if you have just run <code>muster login</code> yourself.</p>{}{}",
        escape(hub),
        escape(email),
        listed(notes),
        buttons(secret)
    );
    // The answer to the form leads to the loopback, and a browser looks whether it may.
    let form = format!("'self' {}", redirect.trim_end_matches('/'));
    Page { form, ..Page::new(TITLE, body) }.into_response()
}

/// Asks whether the program that shows a device code may log in.
pub(super) fn confirm_device(device: &DeviceRow, email: &str, notes: &[String], secret: &str, now: Millis) -> Response {
    let ago = (now - device.created_at).max(0) / SECOND;
    let body = format!(
        "<p>A program asks to log in as <b>{}</b>. It shows the code</p><p class=big>{}</p>\
         <p>It calls itself <b>{}</b>, and asks from the address <b>{}</b>, since {ago} s.</p>\
         <p class=bad>Go on only if you started it yourself, and it shows this very code. \
         If someone sent you a code or this address, they would get in as you.</p>{}{}",
        escape(email),
        escape(&device.user_code),
        escape(&device.token_name),
        escape(device.address.as_deref().unwrap_or("unknown")),
        listed(notes),
        buttons(secret)
    );
    Page { form: "'self'".to_owned(), ..Page::new(TITLE, body) }.into_response()
}

fn listed(notes: &[String]) -> String {
    notes.iter().map(|note| format!("<p>{}</p>", escape(&sentence(note)))).collect()
}

fn buttons(secret: &str) -> String {
    format!(
        "<form method=post action=/v1/login/oidc/confirm><input type=hidden name=secret value=\"{}\">\
         <button name=decision value=yes>Log it in</button><button name=decision value=no>No</button></form>",
        escape(secret)
    )
}

/// A sentence begins with a capital and ends.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let dot = if text.ends_with(['.', '!', '?', ')']) { "" } else { "." };
    format!("{first}{}{dot}", letters.as_str())
}
