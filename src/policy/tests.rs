//! Tests of the policy as a whole: what is allowed by default, all mistakes at once, and that nothing is granted that is not named.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::settings::Mistake;

const MONDAY_NOON: Moment = Moment { now: 1_795_435_200_000, synchronised: true }; // 2026-11-23T12:00:00Z

fn ask(target: Target<'_>) -> Request<'_> {
    Request { user: "ada@example.com", role: "connect", target }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn answer(decision: &Decision) -> String {
    match decision {
        Decision::Allow(Grant { become_user: Some(user), .. }) => format!("as {user}"),
        Decision::Allow(_) => "allow".into(),
        Decision::Refuse { code, .. } => (*code).into(),
    }
}

#[track_caller]
fn check(policy: &Policy, request: &Request<'_>, want: &str) {
    let decision = policy.decide(request, MONDAY_NOON);
    assert_eq!(answer(&decision), want, "{request:?}: {decision:?}");
}

#[test]
fn an_empty_file_lets_nobody_in_and_neither_does_the_example() {
    let empty = policy("");
    assert_eq!(policy(EXAMPLE), empty);
    for role in ROLES.into_iter().chain(["view", "", "root"]) {
        let want = if ROLES.contains(&role) { "policy_no_user" } else { "policy_role" };
        check(&empty, &Request { role, ..ask(Target::Session) }, want);
        check(&empty, &Request { role, ..ask(Target::Terminal { user: None }) }, want);
        check(&empty, &Request { role, ..ask(Target::Terminal { user: Some("root") }) }, want);
        check(&empty, &Request { role, ..ask(Target::Tcp { host: "localhost", port: 22 }) }, want);
    }
    assert!(!empty.own_user() && !empty.own_user_may_be_root() && !empty.linger() && !empty.asks() && empty.pam() == Pam::None);
    let Decision::Refuse { message, .. } = empty.decide(&ask(Target::Session), MONDAY_NOON) else { panic!() };
    assert!(message.contains("\"connect\"") && message.contains("connect = \"NAME\" under [users.roles]"), "{message}");
}

#[test]
fn every_key_of_the_example_is_known() {
    // With every comment mark before a key removed, the example still holds only known keys and right values.
    let is_key = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase() || c == '"') && text.contains(" = ");
    let opened: Vec<&str> = EXAMPLE.lines().map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line)).collect();
    let keys = opened.iter().filter(|line| is_key(line)).count();
    assert!(keys >= 30, "only {keys} keys in the example");
    let opened = policy(&opened.join("\n"));
    assert_eq!(opened.all_users(), ["ada", "pi", "root"]);
    assert_eq!(opened.relay_hosts, ["relay.example.com"]);
    assert_eq!(opened.approvers(), ["operator"]);
    // What is shown as the default is the default.
    assert_eq!(Limits { idle_s: None, total_s: None, ..opened.limits() }, policy("").limits());
    assert_eq!((opened.terminal, opened.own_user, opened.pam, opened.linger, opened.ask), {
        let empty = policy("");
        (empty.terminal, empty.own_user, empty.pam, empty.linger, empty.ask)
    });
}

#[test]
fn with_a_user_the_default_is_a_terminal_and_loopback() {
    let policy = policy("[users]\ndefault = \"pi\"\n");
    let cases = [
        (Target::Session, "allow"),
        (Target::Terminal { user: None }, "as pi"),
        (Target::Terminal { user: Some("pi") }, "as pi"),
        (Target::Terminal { user: Some("root") }, "policy_run_as"),
        (Target::Terminal { user: Some("") }, "policy_run_as"),
        (Target::Tcp { host: "127.0.0.1", port: 22 }, "as pi"),
        (Target::Tcp { host: "127.9.9.9", port: 22 }, "as pi"),
        (Target::Tcp { host: "::1", port: 22 }, "as pi"),
        (Target::Tcp { host: "[::1]", port: 22 }, "as pi"),
        (Target::Tcp { host: "::ffff:127.0.0.1", port: 22 }, "as pi"),
        (Target::Tcp { host: "LocalHost", port: 22 }, "as pi"),
        (Target::Tcp { host: "127.0.0.1", port: 0 }, "policy_host"),
        (Target::Tcp { host: "0.0.0.0", port: 22 }, "policy_host"),
        (Target::Tcp { host: "::", port: 22 }, "policy_host"),
        (Target::Tcp { host: "127.1", port: 22 }, "policy_host"),
        (Target::Tcp { host: "2130706433", port: 22 }, "policy_host"),
        (Target::Tcp { host: "localhost.example.com", port: 22 }, "policy_host"),
        (Target::Tcp { host: "10.0.0.1", port: 22 }, "policy_host"),
        (Target::Tcp { host: "169.254.169.254", port: 80 }, "policy_host"),
        (Target::Tcp { host: "", port: 22 }, "policy_host"),
        (Target::Unix { path: "/run/docker.sock" }, "policy_unix"),
        (Target::Unix { path: "" }, "policy_unix"),
    ];
    for (target, want) in cases {
        check(&policy, &ask(target), want);
    }
    let grant = policy.decide(&ask(Target::Tcp { host: "localhost", port: 22 }), MONDAY_NOON);
    assert_eq!(grant, Decision::Allow(Grant { become_user: Some("pi".into()), dial: Some(Dial::Loopback(22)) }), "without DNS");
}

#[test]
fn as_whom_by_person_role_and_default() {
    let policy = policy(
        "[users]\ndefault = [\"pi\", \"robot\"]\n[users.roles]\nadmin = [\"root\", \"pi\"]\n[users.people]\n\"Ada@example.com\" = \"ada\"\n",
    );
    let terminal = |user, role, asked| Request { user, role, target: Target::Terminal { user: asked } };
    let cases = [
        (terminal("ada@example.com", "admin", None), "as ada"),
        (terminal("ADA@example.com", "connect", None), "as ada"),
        (terminal("ada@example.com", "admin", Some("root")), "policy_run_as"),
        (terminal("bob@example.com", "admin", None), "as root"),
        (terminal("bob@example.com", "admin", Some("pi")), "as pi"),
        (terminal("bob@example.com", "admin", Some("robot")), "policy_run_as"),
        (terminal("bob@example.com", "maintain", None), "as pi"),
        (terminal("bob@example.com", "maintain", Some("robot")), "as robot"),
        (terminal("bob@example.com", "maintain", Some("root")), "policy_run_as"),
        (terminal("bob@example.com", "Admin", None), "policy_role"),
    ];
    for (request, want) in cases {
        check(&policy, &request, want);
    }
    // Connections are made as the first of the list.
    check(&policy, &Request { user: "bob", role: "admin", target: Target::Tcp { host: "::1", port: 1 } }, "as root");
    let Decision::Refuse { message, .. } = policy.decide(&cases[5].0, MONDAY_NOON) else { panic!() };
    assert!(message.contains("only root, pi (users.roles.admin)"), "{message}");
}

#[test]
fn own_user_names_nobody_and_root_only_in_so_many_words() {
    for (text, root) in [("own_user = true\n", false), ("own_user = \"root\"\n", true)] {
        let policy = policy(text);
        assert!(policy.own_user());
        assert_eq!(policy.own_user_may_be_root(), root);
        check(&policy, &ask(Target::Terminal { user: None }), "allow");
        check(&policy, &ask(Target::Tcp { host: "::1", port: 1 }), "allow");
        for user in ["root", "pi"] {
            check(&policy, &ask(Target::Terminal { user: Some(user) }), "policy_run_as");
        }
    }
    for (text, key) in [
        ("own_user = \"pi\"\n", "own_user"),
        ("own_user = \"true\"\n", "own_user"),
        ("own_user = 1\n", "own_user"),
        ("own_user = true\n[users]\ndefault = \"pi\"\n", "users.default"),
        ("own_user = \"root\"\n[users.people]\na = \"pi\"\n", "users.default"),
        ("own_user = true\npam = \"login\"\n", "pam"),
    ] {
        let Mistakes(mistakes) = Policy::parse(text).unwrap_err();
        assert_eq!(mistakes.iter().map(|mistake| &*mistake.key).collect::<Vec<_>>(), [key], "{text}");
    }
}

#[test]
fn a_terminal_has_its_own_roles() {
    let users = "[users]\ndefault = \"pi\"\n";
    let shut = policy(&format!("{users}[terminal]\nallow = false\n"));
    check(&shut, &ask(Target::Terminal { user: None }), "policy_terminal");
    check(&shut, &ask(Target::Tcp { host: "::1", port: 1 }), "as pi");
    let admins = policy(&format!("{users}[terminal]\nroles = [\"admin\"]\n"));
    check(&admins, &ask(Target::Terminal { user: None }), "policy_role");
    check(&admins, &ask(Target::Tcp { host: "::1", port: 1 }), "as pi");
    check(&admins, &Request { role: "admin", ..ask(Target::Terminal { user: None }) }, "as pi");
}

#[test]
fn who_where_and_when() {
    let policy = policy(
        "[users]\ndefault = \"pi\"\n[tcp]\nallow = [\"192.168.1.0/24:80\", \"plc.lan:502\", \"[fd00::/8]:1000-2000\"]\n\
         [unix]\nallow = [\"/run/app.sock\"]\n[who]\nroles = [\"operate\"]\nusers = [\"Ada@example.com\"]\n\
         [when]\nwindows = [\"mon-fri 08:00-18:00\"]\n",
    );
    let ask = |target| Request { role: "operate", ..ask(target) };
    let cases = [
        (Target::Tcp { host: "192.168.1.77", port: 80 }, "as pi"),
        (Target::Tcp { host: "192.168.1.77", port: 81 }, "policy_host"),
        (Target::Tcp { host: "192.168.2.1", port: 80 }, "policy_host"),
        (Target::Tcp { host: "PLC.lan.", port: 502 }, "as pi"),
        (Target::Tcp { host: "fd12::1", port: 1500 }, "as pi"),
        (Target::Tcp { host: "fd12::1", port: 2001 }, "policy_host"),
        (Target::Tcp { host: "127.0.0.1", port: 22 }, "policy_host"),
        (Target::Unix { path: "/run/app.sock" }, "as pi"),
        (Target::Unix { path: "/run/../run/app.sock" }, "policy_unix"),
        (Target::Unix { path: "/run/app.sock/" }, "policy_unix"),
    ];
    for (target, want) in cases {
        check(&policy, &ask(target), want);
    }
    let session = ask(Target::Session);
    check(&policy, &Request { role: "connect", ..session }, "policy_role");
    check(&policy, &Request { user: "eve@example.com", ..session }, "policy_user");
    let at = |moment| answer(&policy.decide(&session, moment));
    assert_eq!(at(MONDAY_NOON), "allow");
    assert_eq!(at(Moment { now: MONDAY_NOON.now - 86_400_000, ..MONDAY_NOON }), "policy_time");
    assert_eq!(at(Moment { now: MONDAY_NOON.now + 6 * 3_600_000, ..MONDAY_NOON }), "policy_time");
    assert_eq!(at(Moment { synchronised: false, ..MONDAY_NOON }), "policy_clock");
}

#[test]
fn an_explanation_names_the_lines_and_what_rests_on_the_hubs_word() {
    let policy = policy("[users.roles]\nadmin = [\"root\", \"pi\"]\n[when]\nwindows = [\"mon 06:00-18:00\"]\n");
    let request = Request { role: "admin", ..ask(Target::Terminal { user: Some("pi") }) };
    let said = |request: &Request<'_>| {
        let lines = policy.explain(request, MONDAY_NOON).lines;
        lines.into_iter().map(|line| (line.key, line.allows, line.hubs_word)).collect::<Vec<_>>()
    };
    let line = |key: &str, allows, hubs_word| (key.to_owned(), allows, hubs_word);
    let want = [
        line("who.roles", true, true),
        line("when.windows", true, false),
        line("terminal.allow", true, false),
        line("terminal.roles", true, true),
        line("users.roles.admin", true, true),
    ];
    assert_eq!(said(&request), want);
    let connect = Request { role: "connect", ..request };
    assert_eq!(said(&connect).last(), Some(&line("users", false, true)));
    let tcp = Request { target: Target::Tcp { host: "10.0.0.1", port: 1 }, ..request };
    assert_eq!(said(&tcp).last(), Some(&line("tcp.allow", false, false)));
}

#[test]
fn all_mistakes_at_once() {
    let text = "own_user = 1\npam = \"pam\"\nlinger = 2\ncolour = 3\n[users]\ndefault = [\"a b\"]\n[terminal]\nallow = \"yes\"\nroles = [\"view\"]\n\
                users = [\"pi\"]\n[tcp]\nallow = [\"nonsense\", \"10.0.0.0/40:1\", \"h:99999\"]\n[unix]\nallow = [\"relative\"]\n\
                [who]\nroles = [\"root\"]\n[when]\nwindows = [\"someday\"]\nzone = \"../etc/passwd\"\n[limits]\nsessions = -1\nmemory = \"lots\"\n\
                [ask]\nask = \"no\"\napprovers = [\"-x\"]\n[relay]\nhosts = [\"https://x:1\"]\n[files]\n";
    let Mistakes(mistakes) = Policy::parse(text).unwrap_err();
    let mut keys: Vec<&str> = mistakes.iter().map(|mistake: &Mistake| mistake.key.as_str()).collect();
    keys.sort_unstable();
    let want = [
        "ask.approvers",
        "ask.ask",
        "colour",
        "files",
        "limits.memory",
        "limits.sessions",
        "linger",
        "own_user",
        "pam",
        "relay.hosts",
        "tcp.allow",
        "tcp.allow",
        "tcp.allow",
        "terminal.allow",
        "terminal.roles",
        "terminal.users",
        "unix.allow",
        "users.default",
        "when.windows",
        "when.zone",
        "who.roles",
    ];
    assert_eq!(keys, want);
}

/// A policy as an owner could write it, of a few names, so that requests often meet it.
#[derive(Debug, Clone)]
struct Written {
    own_user: &'static str,
    default: Vec<&'static str>,
    roles: BTreeMap<&'static str, Vec<&'static str>>,
    people: BTreeMap<&'static str, Vec<&'static str>>,
    terminal: bool,
    terminal_roles: Vec<&'static str>,
    tcp: Vec<&'static str>,
    unix: Vec<&'static str>,
    who: Vec<&'static str>,
    shut: bool,
}

const USERS: [&str; 4] = ["pi", "robot", "ada", "root"];
const PEOPLE: [&str; 3] = ["ada@example.com", "Bob@example.com", "eve"];
const ANY_ROLE: [&str; 7] = ["connect", "operate", "maintain", "admin", "view", "root", ""];
const PLACES: [(&str, &str, u16); 3] =
    [("localhost:22", "localhost", 22), ("10.0.0.1:80", "10.0.0.1", 80), ("plc.lan:502", "PLC.lan", 502)];
const SOCKETS: [&str; 2] = ["/run/app.sock", "/run/docker.sock"];

impl Written {
    fn text(&self) -> String {
        let mut text = format!("own_user = {}\n", self.own_user);
        if self.own_user == "false" {
            text += "[users]\n";
            if !self.default.is_empty() {
                text += &format!("default = {:?}\n", self.default);
            }
            for (section, lines) in [("roles", &self.roles), ("people", &self.people)] {
                text += &format!("[users.{section}]\n");
                for (key, users) in lines.iter().filter(|(_, users)| !users.is_empty()) {
                    text += &format!("{key:?} = {users:?}\n");
                }
            }
        }
        text += &format!("[terminal]\nallow = {}\nroles = {:?}\n", self.terminal, self.terminal_roles);
        text += &format!("[tcp]\nallow = {:?}\n[unix]\nallow = {:?}\n[who]\nroles = {:?}\n", self.tcp, self.unix, self.who);
        if self.shut {
            text += "[when]\nwindows = [\"tue 00:00-24:00\"]\n";
        }
        text
    }

    /// The list that the owner wrote for this visitor, found in another way than the policy finds it.
    fn users(&self, account: &str, role: &str) -> &[&'static str] {
        let person = self.people.iter().find(|(name, users)| name.to_lowercase() == account.to_lowercase() && !users.is_empty());
        let role = self.roles.get(role).filter(|users| !users.is_empty());
        person.map(|(_, users)| users).or(role).unwrap_or(&self.default)
    }
}

fn written() -> impl Strategy<Value = Written> {
    let users = || subsequence(USERS.to_vec(), 0..=3).prop_shuffle();
    let roles = || subsequence(ROLES.to_vec(), 0..=4);
    let by_role = prop::collection::btree_map(select(ROLES.to_vec()), users(), 0..4);
    let by_person = prop::collection::btree_map(select(PEOPLE.to_vec()), users(), 0..3);
    let places = subsequence(PLACES.map(|(rule, _, _)| rule).to_vec(), 0..=3);
    let own_user = prop_oneof![8 => Just("false"), 1 => Just("true"), 1 => Just("\"root\"")];
    let rest = (any::<bool>(), roles(), places, subsequence(SOCKETS.to_vec(), 0..=2), roles(), prop::bool::weighted(0.1));
    (own_user, users(), by_role, by_person, rest).prop_map(
        |(own_user, default, roles, people, (terminal, terminal_roles, tcp, unix, who, shut))| Written {
            own_user,
            default,
            roles,
            people,
            terminal,
            terminal_roles,
            tcp,
            unix,
            who,
            shut,
        },
    )
}

fn target() -> impl Strategy<Value = Target<'static>> {
    let user = || prop::option::of(select(vec!["pi", "robot", "ada", "root", "Root", "0", ""]));
    prop_oneof![
        Just(Target::Session),
        user().prop_map(|user| Target::Terminal { user }),
        (select(PLACES.to_vec()), any::<bool>())
            .prop_map(|((_, host, port), right)| Target::Tcp { host, port: if right { port } else { port + 1 } }),
        select(vec!["/run/app.sock", "/run/docker.sock", "/run//app.sock", ""]).prop_map(|path| Target::Unix { path }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_not_named_is_ever_granted(
        written in written(),
        user in select(vec!["ada@example.com", "ADA@example.com", "bob@example.com", "eve", "eve ", "root", ""]),
        role in select(ANY_ROLE.to_vec()),
        target in target(),
    ) {
        let policy = Policy::parse(&written.text()).unwrap();
        let request = Request { user, role, target };
        let Explanation { decision, lines } = policy.explain(&request, MONDAY_NOON);
        prop_assert!(!lines.is_empty());
        let Decision::Allow(grant) = decision else {
            // The last line refuses, and no other.
            prop_assert_eq!(lines.iter().position(|line| !line.allows), Some(lines.len() - 1));
            return Ok(());
        };
        prop_assert!(lines.iter().all(|line| line.allows));
        prop_assert!(written.who.contains(&role) && !written.shut);
        let named = written.users(user, role);
        let own_user = written.own_user != "false";
        match (&grant.become_user, target) {
            (None, Target::Session) => prop_assert!(own_user || !named.is_empty()),
            (None, _) => prop_assert!(own_user),
            (Some(become_user), _) => {
                prop_assert!(!own_user);
                prop_assert!(policy.all_users().contains(&become_user.as_str()));
                prop_assert!(named.contains(&become_user.as_str()));
                let asked = if let Target::Terminal { user } = target { user } else { None };
                prop_assert_eq!(become_user.as_str(), asked.unwrap_or(named[0]));
            }
        }
        match target {
            Target::Session | Target::Run { .. } => prop_assert_eq!(grant.dial, None),
            Target::Terminal { user } => {
                prop_assert!(written.terminal && written.terminal_roles.contains(&role));
                prop_assert!(!own_user || user.is_none());
                prop_assert_eq!(grant.dial, None);
            }
            Target::Tcp { host, port } => {
                let rule = PLACES.iter().find(|(_, named, at)| *named == host && *at == port).map(|(rule, _, _)| rule);
                prop_assert!(rule.is_some_and(|rule| written.tcp.contains(rule)));
                prop_assert!(grant.dial.is_some());
            }
            Target::Unix { path } => {
                prop_assert!(written.unix.contains(&path));
                prop_assert_eq!(grant.dial, None);
            }
        }
    }

    #[test]
    fn whoever_is_named_gets_what_is_named(written in written(), user in select(PEOPLE.to_vec()), role in select(ROLES.to_vec())) {
        let policy = Policy::parse(&written.text()).unwrap();
        let may = written.own_user == "false" && written.who.contains(&role) && !written.shut;
        let terminal = may && written.terminal && written.terminal_roles.contains(&role);
        for named in written.users(user, role) {
            let decision = policy.decide(&Request { user, role, target: Target::Terminal { user: Some(named) } }, MONDAY_NOON);
            let granted = decision == Decision::Allow(Grant { become_user: Some((*named).to_owned()), dial: None });
            prop_assert_eq!(granted, terminal, "{:?}", decision);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(own_user|\\[users\\]|\\[when\\]|windows|default|memory|\\[limits\\]|=|\\[|\\]|\"|[a-z0-9:% -]|\n){0,40}") {
        let _ = Policy::parse(&text);
    }
}
