//! The few pages that the hub serves to a browser: small, without external resources, under a strict content security policy.
//!
//! A page's style and script stand in it and are allowed by their digests alone. What people wrote is set as text by the script.

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode, header};

use super::text::is_hidden;
use crate::random;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
h1{font-size:1.4rem}code,.code{font:14px/1.4 ui-monospace,monospace;background:#f2f2f2;padding:.2rem .4rem;border-radius:4px;overflow-wrap:anywhere}\
.code{display:block;padding:.6rem}label{display:block;margin:.8rem 0 .2rem}input{font:inherit;padding:.4rem;width:100%;box-sizing:border-box}\
button{font:inherit;margin:1rem .6rem 0 0;padding:.4rem 1rem}.bad{color:#a00}.big{font-size:1.6rem;letter-spacing:.1em}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}code,.code{background:#2a2a2a}.bad{color:#f88}}";

/// A page: its body is trusted HTML; what anybody else wrote comes into it through [`escape`] alone.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) body: String,
    /// Allowed by its digest.
    pub(super) script: &'static str,
    /// Where forms of the page may lead (`form-action`).
    pub(super) form: String,
}

impl Page {
    /// A page that only says something.
    pub(super) fn new(title: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, title, body, script: "", form: "'none'".to_owned() }
    }

    fn policy(&self) -> String {
        let digest = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(random::sha256(text.as_bytes())));
        let script = if self.script.is_empty() { "'none'".to_owned() } else { digest(self.script) };
        let form = &self.form;
        format!(
            "default-src 'none'; style-src {}; script-src {script}; connect-src 'self'; form-action {form}; base-uri 'none'; \
             frame-ancestors 'none'",
            digest(STYLE)
        )
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let policy = self.policy();
        let script = if self.script.is_empty() { String::new() } else { format!("<script>{}</script>", self.script) };
        let html = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{0}</title><style>{STYLE}</style><h1>{0}</h1>{1}{script}",
            self.title, self.body
        );
        let fixed = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
        ];
        let mut response = (self.status, html).into_response();
        let headers = response.headers_mut();
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let policy = HeaderValue::from_str(&policy).expect("the policy is ASCII");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        response
    }
}

/// A text inside HTML, between tags or in a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c != '\n' && is_hidden(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_text() {
        assert_eq!(escape("<b title='\"'>&ü\u{202e}"), "&lt;b title=&#39;&quot;&#39;&gt;&amp;ü\\u{202e}");
    }

    #[test]
    fn nothing_from_outside() {
        let page = Page { script: "1", ..Page::new("x", String::new()) };
        let response = page.into_response();
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-") && policy.contains("script-src 'sha256-a4ayc/80/OGda4BO"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
