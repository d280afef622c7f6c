//! The decision, and what it rests on. Pure.
//!
//! One walk makes both, so `musterd policy explain` cannot say anything else than what happens.

use super::places::HostRule;
use super::when::Opening;
use super::{Decision, Dial, Grant, Moment, OwnUser, Policy, Request, Target, is_plain_path, users};

/// A decision with the lines of the policy that it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The lines in the order in which they were asked; where something is refused, the last one refuses it.
    pub lines: Vec<Line>,
}

/// A line of the policy that had a say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its key, such as `terminal.allow`.
    pub key: String,
    /// What it says, also where that is the default.
    pub value: String,
    /// Whether it lets the request through.
    pub allows: bool,
    /// Whether it rests on what the hub says: account and role are the hub's word, and a hub in the wrong hands says what it likes.
    pub hubs_word: bool,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code, reaches the user.
    pub code: &'static str,
    /// The sentence for the user.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Refusal> for Decision {
    fn from(Refusal { code, message }: Refusal) -> Self {
        Self::Refuse { code, message }
    }
}

/// The lines asked so far.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<Line>);

impl Asked {
    /// Asks a line that rests on the device alone.
    pub(super) fn own(&mut self, key: &str, value: impl Into<String>, answer: Result<(), Refusal>) -> Result<(), Refusal> {
        self.line(key, value.into(), false, answer)
    }

    /// Asks a line that rests on the hub's word.
    pub(super) fn hubs(&mut self, key: &str, value: impl Into<String>, answer: Result<(), Refusal>) -> Result<(), Refusal> {
        self.line(key, value.into(), true, answer)
    }

    fn line(&mut self, key: &str, value: String, hubs_word: bool, answer: Result<(), Refusal>) -> Result<(), Refusal> {
        self.0.push(Line { key: key.to_owned(), value, allows: answer.is_ok(), hubs_word });
        answer
    }

    /// Notes the line that refuses.
    fn refused(&mut self, key: &str, value: impl Into<String>, hubs_word: bool, refusal: Refusal) -> Refusal {
        self.0.push(Line { key: key.to_owned(), value: value.into(), allows: false, hubs_word });
        refusal
    }
}

/// The answer of a line: the refusal is only written where it is needed.
pub(super) fn unless(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}

impl Policy {
    /// Decides.
    pub fn decide(&self, request: &Request<'_>, moment: Moment) -> Decision {
        self.explain(request, moment).decision
    }

    /// Decides, and says by which lines.
    pub fn explain(&self, request: &Request<'_>, moment: Moment) -> Explanation {
        let mut asked = Asked::default();
        let decision = match self.weigh(request, moment, &mut asked) {
            Ok(grant) => Decision::Allow(grant),
            Err(refusal) => refusal.into(),
        };
        Explanation { decision, lines: asked.0 }
    }

    fn weigh(&self, request: &Request<'_>, moment: Moment, asked: &mut Asked) -> Result<Grant, Refusal> {
        self.weigh_visitor(request, asked)?;
        self.weigh_moment(moment, asked)?;
        let mut dial = None;
        let mut wanted = None;
        match request.target {
            Target::Session => {}
            Target::Terminal { user } => {
                self.weigh_terminal(request.role, asked)?;
                wanted = user;
            }
            Target::Tcp { host, port } => dial = Some(self.weigh_tcp(host, port, asked)?),
            Target::Unix { path } => asked.own(
                "unix.allow",
                list(&self.unix),
                unless(self.names_socket(path), || {
                    Refusal::new("policy_unix", format!("This device's policy does not name the Unix socket {path:?} in [unix] allow."))
                }),
            )?,
            Target::Run { start } => {
                self.run.weigh(request.role, start, asked)?;
                wanted = start.run_as.as_deref();
            }
        }
        let user = self.weigh_user(request, wanted, asked)?;
        let session = matches!(request.target, Target::Session);
        Ok(Grant { become_user: user.filter(|_| !session).map(str::to_owned), dial })
    }

    fn weigh_visitor(&self, request: &Request<'_>, asked: &mut Asked) -> Result<(), Refusal> {
        let role = self.who.roles.iter().any(|role| role == request.role);
        asked.hubs(
            "who.roles",
            list(&self.who.roles),
            unless(role, || {
                Refusal::new(
                    "policy_role",
                    format!("This device's policy does not let the project role {:?} in ([who] roles).", request.role),
                )
            }),
        )?;
        if let Some(people) = &self.who.users {
            let named = people.iter().any(|name| users::same_account(name, request.user));
            asked.hubs(
                "who.users",
                list(people),
                unless(named, || {
                    Refusal::new(
                        "policy_user",
                        format!("This device's policy does not name {} among its visitors ([who] users).", request.user),
                    )
                }),
            )?;
        }
        Ok(())
    }

    fn weigh_moment(&self, moment: Moment, asked: &mut Asked) -> Result<(), Refusal> {
        let answer = match self.when.at(moment) {
            Opening::Always => return Ok(()),
            Opening::Open => Ok(()),
            Opening::Shut => {
                Err(Refusal::new("policy_time", format!("This device's policy lets nobody in at this time, only {}.", self.when.text())))
            }
            Opening::ClockUnknown => Err(Refusal::new(
                "policy_clock",
                "This device's policy lets people in at certain times only, and the device's clock is not synchronised, so nobody knows \
                 what time it is there. Its owner sets the clock by NTP, or writes unsynchronised = \"allow\" under [when].",
            )),
        };
        asked.own("when.windows", self.when.text(), answer)
    }

    fn weigh_terminal(&self, role: &str, asked: &mut Asked) -> Result<(), Refusal> {
        asked.own(
            "terminal.allow",
            self.terminal.allow.to_string(),
            unless(self.terminal.allow, || {
                Refusal::new("policy_terminal", "This device's policy does not allow terminals ([terminal] allow = false).")
            }),
        )?;
        let may = self.terminal.roles.iter().any(|allowed| allowed == role);
        asked.hubs(
            "terminal.roles",
            list(&self.terminal.roles),
            unless(may, || {
                Refusal::new(
                    "policy_role",
                    format!("This device's policy does not let the project role {role:?} have a terminal ([terminal] roles)."),
                )
            }),
        )
    }

    fn weigh_tcp(&self, host: &str, port: u16, asked: &mut Asked) -> Result<Dial, Refusal> {
        if let Some((rule, dial)) = self.tcp.iter().find_map(|rule| Some((rule, rule.grants(host, port)?))) {
            asked.own("tcp.allow", format!("{:?}", rule.text()), Ok(()))?;
            return Ok(dial);
        }
        let rules: Vec<&str> = self.tcp.iter().map(HostRule::text).collect();
        let refusal = Refusal::new("policy_host", format!("This device's policy does not name {host}:{port} in [tcp] allow."));
        Err(asked.refused("tcp.allow", list(&rules), false, refusal))
    }

    fn names_socket(&self, path: &str) -> bool {
        is_plain_path(path) && self.unix.iter().any(|allowed| allowed == path)
    }

    /// As whom: one of the users of the line that maps this visitor, or nobody else than the user that runs the program.
    fn weigh_user(&self, request: &Request<'_>, wanted: Option<&str>, asked: &mut Asked) -> Result<Option<&str>, Refusal> {
        if self.own_user != OwnUser::No {
            let value = if self.own_user == OwnUser::Root { "\"root\"" } else { "true" };
            asked.own("own_user", value, unless(wanted.is_none(), || {
                Refusal::new(
                    "policy_run_as",
                    "On this device everything runs as the user that runs musterd (own_user is set in its policy): do not ask for a user.",
                )
            }))?;
            return Ok(None);
        }
        let Some((line, users)) = self.users.find(request.user, request.role) else {
            let role = request.role;
            let refusal = Refusal::new(
                "policy_no_user",
                format!(
                    "This device's policy names no user of the device for you or for the project role {role:?}. \
                     Its owner can write {role} = \"NAME\" under [users.roles], or default = \"NAME\" under [users]."
                ),
            );
            return Err(asked.refused("users", "nobody", true, refusal));
        };
        let user = match wanted {
            None => users.first(),
            Some(wanted) => users.iter().find(|user| *user == wanted),
        };
        let answer = unless(user.is_some(), || {
            let wanted = wanted.unwrap_or_default();
            Refusal::new(
                "policy_run_as",
                format!("This device's policy does not let you become {wanted:?}, only {} ({}).", users.join(", "), line.key()),
            )
        });
        asked.line(&line.key(), list(users), line.on_hubs_word(), answer)?;
        Ok(user.map(String::as_str))
    }
}

/// A list as it stands in the file.
pub(super) fn list<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{:?}", text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}
