//! `GET /invite`: the page behind an invitation's link. The secret stands behind the `#`, which a browser keeps to itself;
//! the page's script reads it, asks the hub what the invitation is, and offers the form where there is no account yet.

use super::Route;
use super::page::Page;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/invite", show)]
}

const BODY: &str = "<p id=what>This page needs JavaScript to read the invitation. Without it, accept on the command line:</p>\
<p>On the command line:</p><span class=code id=command>muster invitation accept 'THE WHOLE LINK'</span>\
<form id=new hidden><p>You have no account here yet. Create one:</p>\
<label for=name>Your name</label><input id=name autocomplete=name required maxlength=100>\
<label for=password>A password, at least 10 characters</label><input id=password type=password autocomplete=new-password required minlength=10>\
<label for=again>The password again</label><input id=again type=password autocomplete=new-password required>\
<button>Accept the invitation</button></form><p id=said></p>";

const SCRIPT: &str = r#"(() => {
const at = id => document.getElementById(id);
let token = location.hash.slice(1);
try { token = decodeURIComponent(token); } catch { /* not whole, as is said below */ }
const link = location.origin + '/invite#' + token;
const say = (text, bad) => { at('said').textContent = text; at('said').className = bad ? 'bad' : ''; };
const call = async (path, body) => {
  const answer = await fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail);
  return told;
};
if (!/^mi1\.[a-z2-7]+\.[a-z2-7]+\.[A-Za-z0-9_-]+$/.test(token)) {
  at('what').textContent = 'This link is not whole: copy it again, with everything behind the #.';
  at('what').className = 'bad';
  return;
}
at('command').textContent = "muster invitation accept '" + link + "'";
call('/v1/invitations/look', {token}).then(told => {
  const place = told.project ? 'the project ' + told.project_name + ' of ' + told.org_name + ' with the ' + told.project_role + ' role'
    : told.org_name + ' (' + told.org + ') with the ' + told.role + ' role';
  at('what').textContent = told.invited_by + ' invites ' + told.email + ' to ' + place
    + '. The link is good until ' + new Date(told.expires_at).toLocaleString() + '.';
  if (told.has_account) say(told.email + ' has an account here: log in with muster login, then use the command above.');
  else if (told.password_login) at('new').hidden = false;
  else say('This hub has single sign-on: log in with muster login, then use the command above.');
}).catch(error => { at('what').textContent = error.message; at('what').className = 'bad'; });
at('new').addEventListener('submit', event => {
  event.preventDefault();
  if (at('password').value !== at('again').value) return say('The two passwords differ.', true);
  call('/v1/invitations/accept', {token, name: at('name').value, password: at('password').value}).then(told => {
    at('new').hidden = true;
    history.replaceState(null, '', '/invite');
    say('Your account ' + told.email + ' is ready. Log in with: muster login ' + location.origin);
  }).catch(error => say(error.message, true));
});
})();"#;

async fn show() -> Page {
    Page { script: SCRIPT, ..Page::new("Invitation to Muster", BODY.to_owned()) }
}
