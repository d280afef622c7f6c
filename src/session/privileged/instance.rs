//! One living session or run: waits for its unprivileged side, its visitors' processes and its daemon, and ends all of it together.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use muster_proto::mqtt::DeviceEventKind;
use muster_proto::order::{Order, OrderKind};
use muster_proto::run::RunCommand;
use muster_proto::session::{Target as Asked, code};
use musterd::account::Account;
use musterd::handoff::{Do, Handoff, LIVE, Live, Report, Say};
use musterd::log::{error, info, warn};
use musterd::policy::{self, Decision, Grant, Pam, Request, Target, Watched};
use musterd::{processes, signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpid, set_child_subreaper};

use super::begin::{begin, own_terminals, term};
use super::consent::Consent;
use super::signals::Signals;
use super::visitor::{Ends, Started, Visitor, What};
use super::{Admitted, Refusal, Talk, group::Group, open, visitor};
use crate::Places;
use crate::channel::{Ask, Channel, Told, Used};

/// Time for what was hung up to go by itself.
const HANG_UP: Duration = Duration::from_millis(500);
/// Time for the unprivileged side to say its last words once it was told to end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Messages of the unprivileged side that are looked at after its end.
const LAST_MESSAGES: usize = 1024;
/// Connections that are being opened at once; each is a process until it is there.
const OPENING_MAX: usize = 64;
/// Streams that wait for a person at the device.
const WAITING_MAX: usize = 16;
/// Refusals that the hub is told of in a minute; the journal has them all.
const TOLD_MAX: u32 = 30;
/// The run's command among the numbers of streams.
const RUN: u32 = 0;

/// What a process of ours is for.
#[derive(Debug, Clone, Copy)]
enum Child {
    /// The visitor's, on this stream.
    Visitor(u32),
    /// It opens a connection for this stream.
    Opener(u32),
}

struct Instance {
    order: Order,
    policy: Watched,
    group: Group,
    /// The user of the daemon, as the kernel says.
    daemon: Option<u32>,
    talk: Talk,
    channel: Channel,
    side: Pid,
    live: Live,
    /// Processes by their number, with the stream that they serve. Openers have none.
    children: BTreeMap<i32, Child>,
    /// Since when refusals are counted that the hub was told of, and how many there were.
    refusals: (Instant, u32),
    /// A person at the device has not approved yet; and what was asked for meanwhile.
    consent: Option<Consent>,
    asked_meanwhile: Vec<Ask>,
    /// The leaders of terminals and commands by their stream.
    leaders: BTreeMap<u32, Pid>,
    /// Terminals that were hung up, and when what is left of them is killed.
    hung_up: Vec<(Instant, Pid)>,
    /// Processor time and largest memory of those that were collected.
    collected: Used,
    report: Option<Report>,
    /// The visitor ended it, as the unprivileged side says.
    by_visitor: bool,
    /// The unprivileged side was told to end; it has until then.
    ending: Option<Instant>,
    gone: bool,
    told_to_end: bool,
}

/// Runs it to its end.
pub(super) fn run(
    admitted: Admitted,
    (handoff, fds, heard): (Handoff, Vec<OwnedFd>, Vec<u8>),
    daemon: UnixStream,
    places: &Places,
) -> ExitCode {
    let name = admitted.order.name().to_owned();
    let begun = Signals::block().and_then(|signals| {
        set_child_subreaper(Some(getpid()))?;
        Ok((Talk::open(&places.run.join(LIVE), &name, daemon.try_clone()?, heard)?, signals))
    });
    let (talk, signals) = match begun {
        Ok(begun) => begun,
        Err(why) => return give_up(&daemon, &name, Refusal::new("failed", format!("The device cannot begin this: {why}."))),
    };
    let peer = rustix::net::sockopt::socket_peercred(&daemon).ok().map(|peer| peer.uid.as_raw());
    let Admitted { order, mut policy, counting } = admitted;
    drop(counting);
    let began = begin(&order, &mut policy, handoff, &fds);
    let asks = policy.current().is_ok_and(musterd::policy::Policy::asks);
    let consent = if asks { Consent::ask(places).map(Some) } else { Ok(None) };
    let began = began.and_then(|(side, channel)| consent.map(|consent| (side, channel, consent)));
    let (side, channel, consent) = match began {
        Ok(began) => began,
        Err(refusal) => {
            drop(talk);
            return give_up(&daemon, &name, refusal);
        }
    };
    drop((fds, daemon));
    let group = Group::make(&name, &policy.limits(), side, &places.run);
    if rustix::process::geteuid().is_root()
        && let Err(why) = own_terminals()
    {
        warn!("{name}: terminals share the system's /dev/pts: {why}");
    }
    let (user, role, project) = match &order.kind {
        OrderKind::Session { open } => (&open.user, &open.role, &open.project),
        OrderKind::Run { start, .. } => (&start.user, &start.role, &start.project),
    };
    let live = Live {
        name,
        pid: getpid().as_raw_nonzero().get().unsigned_abs(),
        user: user.clone(),
        role: role.clone(),
        project: project.to_string(),
        become_user: None,
        since: policy::moment().now,
        lingers: false,
        waits: consent.as_ref().map(|consent| consent.code.clone()),
    };
    info!("{}: {} ({} in {})", live.name, live.user, live.role, live.project);
    if let Some(code) = &live.waits {
        warn!("{} waits for a person at this device: musterd approve {code}", live.name);
    }
    let mut instance = Instance {
        order,
        policy,
        group,
        daemon: peer,
        talk,
        channel,
        side,
        live,
        children: BTreeMap::new(),
        refusals: (Instant::now(), 0),
        consent,
        asked_meanwhile: Vec::new(),
        leaders: BTreeMap::new(),
        hung_up: Vec::new(),
        collected: Used::default(),
        report: None,
        by_visitor: false,
        ending: None,
        gone: false,
        told_to_end: false,
    };
    instance.talk.say(Say::Opened(instance.live.clone()));
    instance.watch(&signals);
    instance.finish(&signals);
    ExitCode::SUCCESS
}

fn give_up(daemon: &UnixStream, name: &str, Refusal { code, message }: Refusal) -> ExitCode {
    error!("{name}: refused ({code}): {message}");
    let _ = std::io::Write::write_all(&mut &*daemon, &musterd::handoff::line(&Say::Refused { code, message }));
    ExitCode::FAILURE
}

impl Instance {
    fn watch(&mut self, signals: &Signals) {
        while !self.gone {
            let now = Instant::now();
            if self.ending.is_some_and(|until| until <= now) {
                warn!("{}: the unprivileged side does not end; killed", self.live.name);
                processes::signal(&[self.side], Signal::KILL);
                self.ending = None;
            }
            self.kill_hung_up(now);
            self.look_for_consent(now);
            let bounding = self.group.scopes.look(&self.live.name, &self.policy.limits());
            self.group.ours.extend(bounding);
            let waits = self.consent.as_ref().map(|consent| consent.until);
            let next = self.hung_up.iter().map(|(at, _)| *at).chain(self.ending).chain(waits).chain(self.group.scopes.next_look()).min();
            let (channel, signalled) = self.wait(signals, next.map(|next| next.saturating_duration_since(now)));
            if signalled {
                self.end("the device ended it");
            }
            if channel {
                self.asked();
            }
            self.collect();
            self.heard();
        }
    }

    /// Waits for anything; whether the channel is ready, and whether a signal says that this is to end.
    fn wait(&self, signals: &Signals, time: Option<Duration>) -> (bool, bool) {
        let time = time.and_then(|time| Timespec::try_from(time + Duration::from_millis(1)).ok());
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        // One whose other end is gone is ready for ever: what lingers would cost a core.
        fds.extend((!self.gone).then(|| PollFd::new(&self.channel, PollFlags::IN)));
        let consent = self.consent.iter().map(|consent| (consent.as_fd(), PollFlags::IN));
        fds.extend(self.talk.fds().chain(consent).map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        if poll(&mut fds, time.as_ref()).is_err() {
            return (false, false);
        }
        (!self.gone && !fds[1].revents().is_empty(), signals.take())
    }

    fn heard(&mut self) {
        for asked in self.talk.hear(&Say::Opened(self.live.clone())) {
            if let Do::End { reason } = asked {
                self.end(&reason);
            }
        }
    }

    /// Tells the unprivileged side to end; it says good-bye to its peer.
    fn end(&mut self, reason: &str) {
        self.told_to_end = true;
        if self.ending.is_some() || self.gone {
            return;
        }
        info!("{}: is ended: {reason}", self.live.name);
        self.tell(&Told::Close { code: code::CANCELLED.to_owned(), message: reason.to_owned() }, &[]);
        // A run's command has its own time to go; its collector knows when.
        let more = if matches!(self.order.kind, OrderKind::Run { .. }) { Duration::from_secs(45) } else { LAST_WORDS };
        self.ending = Some(Instant::now() + more);
    }

    fn tell(&mut self, told: &Told, fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if let Err(why) = self.channel.send(told, &fds) {
            warn!("{}: the unprivileged side does not listen: {why}", self.live.name);
            processes::signal(&[self.side], Signal::KILL);
        }
    }

    // ---- What the unprivileged side asks for -----------------------------------------------------------------------

    fn asked(&mut self) {
        let ask = match self.channel.receive::<Ask>() {
            Ok(Some((ask, _))) => ask,
            Ok(None) => {
                self.gone = true;
                return;
            }
            Err(why) => {
                error!("{}: the unprivileged side says what makes no sense: {why}; killed", self.live.name);
                processes::signal(&[self.side], Signal::KILL);
                self.gone = true;
                return;
            }
        };
        self.answer(ask);
    }

    fn answer(&mut self, ask: Ask) {
        if let (Some(consent), Ask::Open { .. } | Ask::Start) = (&self.consent, &ask) {
            let id = if let Ask::Open { id, .. } = ask { id } else { RUN };
            // A side that was taken over would fill this process's memory.
            if self.asked_meanwhile.len() >= WAITING_MAX {
                let message = format!("{WAITING_MAX} streams wait for a person at the device already; wait for that first.");
                return self.tell(&Told::Refused { id, code: code::LIMIT.to_owned(), message }, &[]);
            }
            let message = format!("waiting for a person at the device to approve this: musterd approve {}", consent.code);
            self.asked_meanwhile.push(ask);
            return self.tell(&Told::Waits { id, message }, &[]);
        }
        match ask {
            Ask::Open { id, target } => {
                if let Err(Refusal { code, message }) = self.open(id, &target) {
                    self.tell(&Told::Refused { id, code, message }, &[]);
                }
            }
            Ask::Start => {
                if let Err(Refusal { code, message }) = self.start_run() {
                    self.tell(&Told::Refused { id: RUN, code, message }, &[]);
                }
            }
            Ask::Signal { id, signal } => self.signal(id, &signal),
            Ask::HangUp { id } => {
                if let Some(leader) = self.leaders.remove(&id) {
                    processes::signal(&processes::of_session(leader, &self.group.pids()), Signal::HUP);
                    // Where the owner lets it linger, what ignores this (nohup) goes on.
                    if !self.policy.current().is_ok_and(musterd::policy::Policy::linger) {
                        self.hung_up.push((Instant::now() + HANG_UP, leader));
                    }
                }
            }
            Ask::EndAll { kill: true } => self.group.kill(),
            Ask::EndAll { kill: false } => self.group.signal(Signal::TERM),
            Ask::Look => {
                let (left, used) = self.used();
                self.tell(&Told::Seen { left, used }, &[]);
            }
            Ask::More => self.talk.say(Say::More),
            Ask::Done { report, by_visitor } => (self.report, self.by_visitor) = (Some(report), by_visitor),
        }
    }

    /// Whether a person has approved, or their time is over.
    fn look_for_consent(&mut self, now: Instant) {
        let Some(consent) = &self.consent else { return };
        let approvers = self.policy.current().map_or_else(|_| Vec::new(), |policy| policy.approvers().to_vec());
        if let Some(who) = consent.heard(&approvers) {
            info!("{}: approved by {who}", self.live.name);
            (self.consent, self.live.waits) = (None, None);
            std::mem::take(&mut self.asked_meanwhile).into_iter().for_each(|ask| self.answer(ask));
        } else if consent.until <= now {
            let message = format!("Nobody at the device approved this within {} s.", super::consent::PATIENCE.as_secs());
            (self.consent, self.live.waits) = (None, None);
            for ask in std::mem::take(&mut self.asked_meanwhile) {
                let id = if let Ask::Open { id, .. } = ask { id } else { RUN };
                self.tell(&Told::Refused { id, code: "policy_ask".to_owned(), message: message.clone() }, &[]);
            }
            self.end(&message);
        }
    }

    fn used(&self) -> (usize, Used) {
        let (seen, counted) = self.group.usage();
        // Where logind is not there yet, or there are no groups, the processes count.
        let cpu_us = counted.unwrap_or(0).max(self.collected.cpu_us + seen.cpu_us);
        (seen.pids.len(), Used { cpu_us, memory: seen.memory, largest: self.collected.largest })
    }

    fn open(&mut self, id: u32, asked: &Asked) -> Result<(), Refusal> {
        let OrderKind::Session { open } = &self.order.kind else { return Err(Refusal::new(code::UNSUPPORTED, "A run opens nothing.")) };
        let target = match asked {
            Asked::Tcp { host, port } => Target::Tcp { host, port: *port },
            Asked::Unix { path } => Target::Unix { path },
            Asked::Terminal(wanted) if wanted.attach.is_none() => Target::Terminal { user: wanted.user.as_deref() },
            other => {
                let message = format!("This device's version of Muster does not serve {} yet; update it.", other.kind());
                return Err(Refusal::new(code::UNSUPPORTED, message));
            }
        };
        let request = Request { user: &open.user, role: &open.role, target };
        let grant = match self.policy.decide(&request, policy::moment()) {
            Decision::Allow(grant) => grant,
            Decision::Refuse { code, message } => {
                warn!("{}: {asked} refused to {} ({code}): {message}", self.live.name, self.live.user);
                let (session, target) = (open.session.clone(), asked.to_string());
                let event = DeviceEventKind::PolicyRefused { session, target, code: code.to_owned(), message: message.clone() };
                if self.refusals.0.elapsed() > Duration::from_secs(60) {
                    self.refusals = (Instant::now(), 0);
                }
                self.refusals.1 += 1;
                if self.refusals.1 <= TOLD_MAX {
                    self.talk.say(Say::Event { t: policy::moment().now, event });
                }
                return Err(Refusal::new(code, message));
            }
        };
        // The unprivileged side counts its streams; one that was taken over does not.
        if self.children.len() >= usize::try_from(self.policy.limits().streams).unwrap_or(usize::MAX) {
            return Err(Refusal::new(code::LIMIT, "This device is opening as many streams as its policy allows in a session."));
        }
        info!("{}: stream {id}: {asked} for {}", self.live.name, self.live.user);
        let visitor = self.visitor(&grant)?;
        match (asked, grant.dial) {
            (Asked::Terminal(wanted), _) => {
                let ends = if wanted.cols == 0 && wanted.rows == 0 {
                    Ends::Pipes { input: true, errors: wanted.errors }
                } else {
                    Ends::Terminal { cols: wanted.cols, rows: wanted.rows, term: term(&wanted.term) }
                };
                let what = wanted.command.as_deref().map_or(What::Login, What::Line);
                self.start(id, &visitor, &what, None, &ends)
            }
            (Asked::Unix { path }, _) => self.connect(id, &visitor, || open::unix(path)),
            (_, Some(dial)) => self.connect(id, &visitor, || open::tcp(&dial)),
            _ => Err(Refusal::new(code::FAILED, "The policy granted what was not asked for.")),
        }
    }

    fn start_run(&mut self) -> Result<(), Refusal> {
        let OrderKind::Run { start, .. } = &self.order.kind else { return Err(Refusal::new(code::UNSUPPORTED, "This is no run.")) };
        let start = start.clone();
        if self.leaders.contains_key(&RUN) {
            return Err(Refusal::new(code::FAILED, "The command was started already."));
        }
        let request = Request { user: &start.user, role: &start.role, target: Target::Run { start: &start } };
        let grant = match self.policy.decide(&request, policy::moment()) {
            Decision::Allow(grant) => grant,
            Decision::Refuse { code, message } => return Err(Refusal::new(code, message)),
        };
        let mut visitor = self.visitor(&grant)?;
        if visitor.through_su && (start.cwd.is_some() || !start.env.is_empty()) {
            let message = "This device's policy logs users in through PAM (pam = \"login\"), which chooses directory and environment itself: leave out the directory and the variables.";
            return Err(Refusal::new("policy_environment", message));
        }
        visitor.variables.splice(0..0, start.env.clone());
        let what = match &start.command {
            RunCommand::Argv(argv) => What::Program(argv),
            RunCommand::Shell(text) => What::Line(text),
        };
        self.start(RUN, &visitor, &what, start.cwd.as_deref(), &Ends::Pipes { input: false, errors: true })
    }

    /// The user whom the policy names, as this system knows them.
    fn visitor(&mut self, grant: &Grant) -> Result<Visitor, Refusal> {
        let (account, change) = match &grant.become_user {
            None => (Account::own(), false),
            Some(name) => {
                let found = Account::named(name)
                    .map_err(|why| Refusal::new("no_user", format!("The device cannot look up its user {name}: {why}.")))?;
                let missing =
                    || Refusal::new("no_user", format!("This device's policy names the user {name}, whom the device does not have."));
                (found.ok_or_else(missing)?, true)
            }
        };
        let current = self.policy.current().map_err(|fault| Refusal::new(fault.code, fault.message.clone()))?;
        if change {
            current.check_account(&account, self.daemon)?;
        }
        let mark = if self.live.name.starts_with('r') { "MUSTER_RUN" } else { "MUSTER_SESSION" };
        let visitor = Visitor {
            through_su: change && current.pam() == Pam::Login,
            change,
            oom_score: current.limits().oom_score,
            variables: vec![(mark.to_owned(), self.live.name.clone()), ("MUSTER_VISITOR".to_owned(), self.live.user.clone())],
            account,
        };
        self.live.become_user = Some(visitor.account.name.clone());
        Ok(visitor)
    }

    fn start(&mut self, id: u32, visitor: &Visitor, what: &What<'_>, cwd: Option<&str>, ends: &Ends) -> Result<(), Refusal> {
        let shell = &visitor.account.shell;
        let Started { leader, fds } = visitor.start(what, cwd, ends, self.group.door()).map_err(|error| {
            let code = match error.kind() {
                _ if visitor::is_of_directory(&error) => code::NO_DIRECTORY,
                std::io::ErrorKind::NotFound => code::NOT_FOUND,
                std::io::ErrorKind::PermissionDenied => code::DENIED,
                _ => code::FAILED,
            };
            Refusal::new(code, format!("The device cannot start this as {}: {error}.", visitor.account.name))
        })?;
        if visitor.through_su {
            self.group.scopes.expect(leader);
        }
        self.children.insert(leader.as_raw_nonzero().get(), Child::Visitor(id));
        self.leaders.insert(id, leader);
        let told = Told::Opened { id, user: visitor.account.name.clone(), shell: shell.clone() };
        self.tell(&told, &fds);
        Ok(())
    }

    /// Lets a process of the visitor open a connection; it tells the unprivileged side itself.
    fn connect(&mut self, id: u32, visitor: &Visitor, open: impl FnOnce() -> Result<OwnedFd, Refusal>) -> Result<(), Refusal> {
        if self.children.values().filter(|child| matches!(child, Child::Opener(_))).count() >= OPENING_MAX {
            let message = format!("This device opens at most {OPENING_MAX} connections at the same moment; try again.");
            return Err(Refusal::new(code::LIMIT, message));
        }
        let channel = &self.channel;
        let user = visitor.account.name.clone();
        let child = visitor.fork(self.group.door(), move || {
            let sent = match open() {
                Ok(fd) => channel.send(&Told::Opened { id, user, shell: String::new() }, &[fd.as_fd()]),
                Err(Refusal { code, message }) => channel.send(&Told::Refused { id, code, message }, &[]),
            };
            sent.is_ok()
        });
        let child = child.map_err(|error| Refusal::new(code::FAILED, format!("The device cannot open a connection now: {error}.")))?;
        self.children.insert(child.as_raw_nonzero().get(), Child::Opener(id));
        Ok(())
    }

    fn signal(&self, id: u32, name: &str) {
        let (Some(leader), Some(signal)) = (self.leaders.get(&id), signals::signal_of(name)) else { return };
        // Numbers come back: only what descends from us is signalled, whoever leads a group of this number by now.
        let group = processes::foreground(*leader).unwrap_or(*leader);
        for pid in processes::of_group(group, &self.group.pids()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    // ---- Ends ------------------------------------------------------------------------------------------------------

    fn collect(&mut self) {
        while let Ok(Some(collected)) = processes::collect() {
            self.collected.cpu_us += collected.cpu_us;
            self.collected.largest = self.collected.largest.max(collected.largest);
            self.group.ours.retain(|pid| pid.as_raw_nonzero().get() != collected.pid);
            if collected.pid == self.side.as_raw_nonzero().get() {
                self.gone = true;
            }
            match self.children.remove(&collected.pid) {
                Some(Child::Visitor(id)) if !self.gone => {
                    let (code, signal) = signals::outcome(std::os::unix::process::ExitStatusExt::from_raw(collected.status));
                    let used = self.used().1;
                    self.tell(&Told::Exited { id, code, signal, used }, &[]);
                }
                // It was ended by its time, or could not become the visitor.
                Some(Child::Opener(id)) if !self.gone && collected.status != 0 => {
                    let message = "The target did not answer the device in time.".to_owned();
                    self.tell(&Told::Refused { id, code: code::TIMEOUT.to_owned(), message }, &[]);
                }
                _ => {}
            }
        }
    }

    fn kill_hung_up(&mut self, now: Instant) {
        let due: Vec<Pid> = self.hung_up.extract_if(.., |(at, _)| *at <= now).map(|(_, leader)| leader).collect();
        for leader in due {
            processes::signal(&processes::of_session(leader, &self.group.pids()), Signal::KILL);
        }
    }

    /// The end of the session ends whatever it started, unless the owner lets it linger.
    fn finish(&mut self, signals: &Signals) {
        self.consent = None;
        processes::signal(&[self.side], Signal::KILL);
        // Its end is seen before its files are closed, and by the lock among a run's files the daemon knows that nobody is at it.
        let until = Instant::now() + LAST_WORDS;
        while processes::start_time(self.side).is_some() && Instant::now() < until {
            self.told_to_end |= self.wait(signals, Some(Duration::from_millis(20))).1;
            self.collect();
        }
        // Its last words may lie in the channel still. No more than that is waited for: whoever else holds its end is nobody to hear.
        for _ in 0..LAST_MESSAGES {
            match self.channel.try_receive::<Ask>() {
                Ok(Some((Ask::Done { report, by_visitor }, _))) => (self.report, self.by_visitor) = (Some(report), by_visitor),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let lost = || Report { reason: "the session's network side was lost".to_owned(), ..Report::default() };
        let report = self.report.take().unwrap_or_else(lost);
        info!("{}: ended: {} ({} bytes in, {} bytes out)", self.live.name, report.reason, report.received, report.sent);
        let linger = self.by_visitor && !self.told_to_end && self.policy.current().is_ok_and(musterd::policy::Policy::linger);
        self.talk.say(Say::Closed(report));
        if linger && !self.group.is_empty() {
            info!("{}: processes that the visitor left behind linger, as the policy says", self.live.name);
            self.live.lingers = true;
            while !self.told_to_end && !self.group.is_empty() {
                if self.wait(signals, Some(Duration::from_secs(5))).1 {
                    break;
                }
                self.collect();
                self.heard();
            }
        }
        self.group.signal(Signal::HUP);
        let until = Instant::now() + HANG_UP;
        while !self.group.is_empty() && Instant::now() < until {
            self.wait(signals, Some(Duration::from_millis(20)));
            self.collect();
        }
        while !self.group.is_empty() && Instant::now() < until + LAST_WORDS {
            self.group.kill();
            self.wait(signals, Some(Duration::from_millis(20)));
            self.collect();
        }
    }
}
