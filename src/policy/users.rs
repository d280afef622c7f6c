//! Whom a visitor becomes on the device: `[users]`. Pure.
//!
//! A person's own line wins over the role's, which wins over the default. Lines are never added up:
//! whoever reads the file sees one line that decides.

use std::collections::BTreeMap;

use super::ROLES;
use crate::account::ROOT;
use crate::settings::{Section, Settings};

/// Longest user name, as in an order; names from a directory service may hold a domain.
const NAME_MAX: usize = 64;

/// The `[users]` section. No list in it is empty, but the default's may be: then it maps nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    default: Vec<String>,
    roles: BTreeMap<String, Vec<String>>,
    people: BTreeMap<String, Vec<String>>,
}

/// The line that maps a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapped<'a> {
    Person(&'a str),
    Role(&'a str),
    Default,
}

impl Mapped<'_> {
    /// The key in the file.
    pub(super) fn key(self) -> String {
        match self {
            Self::Person(account) => format!("users.people.{account:?}"),
            Self::Role(role) => format!("users.roles.{role}"),
            Self::Default => "users.default".into(),
        }
    }

    /// Whether the hub's word decides that this is the line.
    pub(super) fn on_hubs_word(self) -> bool {
        self != Self::Default
    }
}

impl Users {
    /// Reads the section. Under `own_user` there is nobody to become.
    pub(super) fn read(settings: &mut Settings, own_user: bool) -> Self {
        let mut section = settings.section("users");
        let default = section.text_or_texts("default").map(|names| listed(&mut section, "default", names));
        let mut roles = BTreeMap::new();
        for (role, users) in section.named_texts("roles") {
            let key = format!("roles.{role}");
            if !ROLES.contains(&role.as_str()) {
                section.mistake(&key, format!("{role:?} is none of {}", ROLES.join(", ")));
            }
            roles.insert(role, listed(&mut section, &key, users));
        }
        let mut people: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (account, users) in section.named_texts("people") {
            let key = format!("people.{account}");
            if account.trim() != account || account.is_empty() {
                section.mistake(&key, "must be an account's name, without spaces around it");
            }
            if people.keys().any(|other| same_account(other, &account)) {
                section.mistake(&key, "this account has two lines, which differ in capitals only: leave one");
            }
            people.insert(account, listed(&mut section, &key, users));
        }
        if own_user && (default.is_some() || !roles.is_empty() || !people.is_empty()) {
            section.mistake(
                "default",
                "own_user and [users] exclude each other: with own_user, everybody is the user that runs musterd; leave one of them out",
            );
        }
        Self { default: default.unwrap_or_default(), roles, people }
    }

    /// The users for a visitor, and the line that says so.
    pub(super) fn find(&self, account: &str, role: &str) -> Option<(Mapped<'_>, &[String])> {
        if let Some((name, users)) = self.people.iter().find(|(name, _)| same_account(name, account)) {
            return Some((Mapped::Person(name), users));
        }
        if let Some((name, users)) = self.roles.get_key_value(role) {
            return Some((Mapped::Role(name), users));
        }
        (!self.default.is_empty()).then_some((Mapped::Default, &*self.default))
    }

    /// The users of a role where no person's line says otherwise.
    pub(super) fn of_role(&self, role: &str) -> &[String] {
        self.roles.get(role).unwrap_or(&self.default)
    }

    /// Everybody with a line of their own.
    pub(super) fn people(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.people.iter().map(|(account, users)| (account.as_str(), &**users))
    }

    /// Every user that is named, each once.
    pub(super) fn all(&self) -> Vec<&str> {
        let lists = [&self.default].into_iter().chain(self.roles.values()).chain(self.people.values());
        let mut all: Vec<&str> = lists.flatten().map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Accounts are the same whatever their capitals, in ASCII only: with all of Unicode, another person's letters could become yours.
pub(super) fn same_account(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// A list of users, of whom the first is what a visitor becomes.
fn listed(section: &mut Section<'_>, key: &str, users: Vec<String>) -> Vec<String> {
    if users.is_empty() {
        section.mistake(key, "names no user: leave the line out, or keep these people out by [who]");
    }
    names(section, key, users)
}

/// Keeps what can be a user's name, and reports the rest.
pub(super) fn names(section: &mut Section<'_>, key: &str, users: Vec<String>) -> Vec<String> {
    let (good, bad): (Vec<_>, Vec<_>) = users.into_iter().partition(|user| is_user_name(user));
    for user in bad {
        let what = match user.eq_ignore_ascii_case(ROOT) || user.bytes().all(|byte| byte.is_ascii_digit()) && !user.is_empty() {
            true => format!("{user:?} is not a user's name: write the name as /etc/passwd has it, and root as \"root\""),
            false => format!("{user:?} is not a user's name"),
        };
        section.mistake(key, what);
    }
    good
}

/// Whether this can be the name of a user of the machine. A number cannot: programs would take it for the user's number.
pub fn is_user_name(user: &str) -> bool {
    let form = (1..=NAME_MAX).contains(&user.len())
        && user.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:,\"'".contains(&byte))
        && !user.starts_with(['-', '+', '.', '#', '~'])
        && !user.bytes().all(|byte| byte.is_ascii_digit());
    // "Root" would be another user to the system, and root to a reader.
    form && (user == ROOT || !user.eq_ignore_ascii_case(ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::api::ProjectRole;

    fn users(text: &str, own_user: bool) -> (Users, Vec<String>) {
        let mut settings = Settings::parse(text).unwrap();
        let users = Users::read(&mut settings, own_user);
        let keys = settings.finish().err().map_or_else(Vec::new, |mistakes| mistakes.0.into_iter().map(|mistake| mistake.key).collect());
        (users, keys)
    }

    #[test]
    fn the_roles_are_those_of_the_protocol_that_can_reach_a_device() {
        let known = [ProjectRole::Connect, ProjectRole::Operate, ProjectRole::Maintain, ProjectRole::Admin].map(ProjectRole::as_str);
        assert_eq!(ROLES, known);
    }

    #[test]
    fn a_person_wins_over_a_role_and_a_role_over_the_default() {
        let text = "[users]\ndefault = \"pi\"\n[users.roles]\nadmin = [\"root\", \"pi\"]\n[users.people]\n\"Ada@example.com\" = \"ada\"\n";
        let (users, mistakes) = users(text, false);
        assert_eq!(mistakes, [""; 0]);
        let find = |account, role| users.find(account, role).map(|(line, users)| (line.key(), line.on_hubs_word(), users.join(" ")));
        assert_eq!(find("ada@EXAMPLE.com", "admin"), Some(("users.people.\"Ada@example.com\"".into(), true, "ada".into())));
        assert_eq!(find("bob@example.com", "admin"), Some(("users.roles.admin".into(), true, "root pi".into())));
        assert_eq!(find("bob@example.com", "operate"), Some(("users.default".into(), false, "pi".into())));
        assert_eq!(users.all(), ["ada", "pi", "root"]);
        assert_eq!(users.of_role("admin"), ["root", "pi"]);
        assert_eq!(users.of_role("connect"), ["pi"]);
    }

    #[test]
    fn who_is_named_nowhere_is_mapped_to_nobody() {
        let (users, _) = users("[users.roles]\noperate = \"pi\"\n", false);
        assert_eq!(users.find("ada", "connect"), None);
        // U+212A is no K, though Unicode's lower case of it is k.
        let (users, _) = self::users("[users.people]\nkim = \"kim\"\n", false);
        assert_eq!(users.find("\u{212a}im", "connect"), None);
        assert!(users.find("KIM", "connect").is_some());
    }

    #[test]
    fn every_mistake_has_its_key() {
        let text = "[users]\ndefault = [\"pi\", \"a b\"]\nother = 1\n[users.roles]\nview = \"pi\"\nadmin = []\noperate = 5\n\
                    [users.people]\n\"\" = \"pi\"\n\"a@b\" = \"Root\"\n\"A@b\" = \"0\"\n";
        let (_, mut mistakes) = users(text, false);
        mistakes.sort();
        let want = [
            "users.default",
            "users.other",
            "users.people.",
            "users.people.A@b",
            "users.people.a@b",
            "users.people.a@b",
            "users.roles.admin",
            "users.roles.operate",
            "users.roles.view",
        ];
        assert_eq!(mistakes, want);
    }

    #[test]
    fn own_user_leaves_nobody_to_become() {
        for text in ["[users]\ndefault = \"pi\"\n", "[users.roles]\nadmin = \"pi\"\n", "[users.people]\na = \"pi\"\n"] {
            assert_eq!(users(text, true).1, ["users.default"], "{text}");
        }
        assert_eq!(users("[users]\n", true).1, [""; 0]);
    }

    #[test]
    fn names_of_users() {
        for good in ["pi", "root", "_apt", "systemd-network", "ada.lovelace", "svc$", "CORP\\ada", "ada@corp.example.com", "user1", "1user"]
        {
            assert!(is_user_name(good), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", "-x", "+x", ".", "..", "a b", "a/b", "a:b", "0", "1000", "Root", "ROOT", "a\n", "\u{e9}", "#0", "~", &*long] {
            assert!(!is_user_name(bad), "{bad:?}");
        }
    }
}
