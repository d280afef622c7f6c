//! Who is meant when flags, environment and saved logins speak at once.

use super::*;
use crate::profile::Profile;

const TOKEN: &str = "mp1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";
const OTHER: &str = "mp1.bbbbbbbbbb.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";

fn book() -> Book {
    let profile = |hub: &str, org: &str| Profile {
        hub: hub.into(),
        token: TOKEN.into(),
        email: None,
        made_by_login: false,
        org: org.parse().ok(),
        project: "lab".parse().ok(),
    };
    Book {
        current: Some("acme".into()),
        profiles: [
            ("acme".to_owned(), profile("https://hub.acme.example", "acme")),
            ("other".to_owned(), profile("https://hub.other.example", "other")),
        ]
        .into(),
    }
}

fn globals(hub: Option<&str>, token: Option<&str>, profile: Option<&str>) -> Globals {
    Globals { hub: hub.map(str::to_owned), token: token.map(str::to_owned), profile: profile.map(str::to_owned), ..Globals::default() }
}

#[test]
fn the_saved_login_is_the_default() {
    let choice = choose(&globals(None, None, None), &|| Ok(book())).unwrap();
    assert_eq!((choice.url.as_str(), choice.source), ("https://hub.acme.example", Source::Saved("acme".into())));
    assert_eq!(choice.org.unwrap().as_str(), "acme");
    assert_eq!(choice.project.unwrap().as_str(), "lab");
}

#[test]
fn a_hub_alone_finds_its_login_and_never_lends_a_token() {
    let choice = choose(&globals(Some("hub.other.example/"), None, None), &|| Ok(book())).unwrap();
    assert_eq!(choice.source, Source::Saved("other".into()));
    let failure = choose(&globals(Some("https://evil.example"), None, None), &|| Ok(book())).unwrap_err();
    assert_eq!((failure.exit, failure.message.as_str()), (3, "not logged in to https://evil.example"));
    let failure = choose(&globals(Some("https://evil.example"), None, Some("acme")), &|| Ok(book())).unwrap_err();
    assert_eq!(failure.exit, 2);
}

#[test]
fn hub_and_token_need_no_home() {
    let choice = choose(&globals(Some("https://h.example"), Some(OTHER), None), &|| panic!("must not read the file")).unwrap();
    assert_eq!((choice.source, choice.token.id.as_str(), choice.org), (Source::Given, "bbbbbbbbbb", None));
}

#[test]
fn a_token_alone_goes_to_the_saved_hub() {
    let choice = choose(&globals(None, Some(OTHER), None), &|| Ok(book())).unwrap();
    assert_eq!((choice.url.as_str(), choice.token.id.as_str()), ("https://hub.acme.example", "bbbbbbbbbb"));
    let failure = choose(&globals(None, Some(OTHER), None), &|| Ok(Book::default())).unwrap_err();
    assert_eq!(failure.exit, 2);
}

#[test]
fn the_saved_project_belongs_to_the_saved_organization() {
    let mut other = globals(None, None, None);
    other.org = Some("other".into());
    let choice = choose(&other, &|| Ok(book())).unwrap();
    assert_eq!((choice.org.unwrap().as_str(), choice.project), ("other", None));
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let failure = choose(&globals(None, None, None), &|| Ok(Book::default())).unwrap_err();
    assert_eq!((failure.exit, failure.message.as_str()), (3, "not logged in"));
    let failure = choose(&globals(None, None, Some("nope")), &|| Ok(book())).unwrap_err();
    assert_eq!((failure.exit, failure.hint.as_deref()), (2, Some("saved are: acme, other")));
    let mt1 = TOKEN.replace("mp1", "mt1");
    let failure = choose(&globals(Some("https://h.example"), Some(&mt1), None), &|| Ok(book())).unwrap_err();
    assert!(failure.message.contains("an enrolment token (mt1...), but a personal access token"), "{failure}");
    let mut bad = globals(None, None, None);
    bad.org = Some("Bad Org".into());
    assert_eq!(choose(&bad, &|| Ok(book())).unwrap_err().exit, 2);
}

#[test]
fn one_organization_needs_no_name() {
    let org = |id: &str| Org {
        id: id.parse().unwrap(),
        name: id.into(),
        full_name: None,
        description: None,
        location: None,
        website: None,
        logo: None,
        role: None,
        created_at: 0,
    };
    assert_eq!(only_org(vec![org("acme")]).unwrap().as_str(), "acme");
    assert_eq!(only_org(vec![]).unwrap_err().exit, 4);
    let failure = only_org(vec![org("acme"), org("other")]).unwrap_err();
    assert_eq!(failure.exit, 2);
    assert!(failure.hint.unwrap().ends_with("acme, other"));
}

#[test]
fn typing_mistakes() {
    for (typed, name) in
        [("robto-7", "robot-7"), ("ROBOT-7", "robot-7"), ("robot", "robot-17"), ("robot-7.lan", "robot-7"), ("機器人一", "機器人二")]
    {
        assert!(is_close(typed, name), "{typed} {name}");
    }
    for (typed, name) in [("ab", "abc"), ("edge-box", "robot-7"), ("x", "y"), ("robot", "camera")] {
        assert!(!is_close(typed, name), "{typed} {name}");
    }
}
