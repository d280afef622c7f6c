//! Answers each stream that the visitor opens: policy first, then the target.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use muster_link::driver::{Application, Handle, Io, LegChange};
use muster_link::tls::Clock;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::mqtt::{DeviceEvent, DeviceEventKind};
use muster_proto::session::{Event, Target as Asked, Terminal as Wanted, code};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::Notify;

use super::target::{self, Failure};
use super::terminal::{self, Plan, Terminal};
use crate::account::Account;
use crate::guard::Hidden;
use crate::log::{debug, info, warn};
use crate::policy::{Decision, Dial, Grant, Request, Target, Watched};

/// After its process has ended, output may be on its way out of the kernel for a moment;
/// longer than this only a process in the background holds the terminal open.
const SETTLE: Duration = Duration::from_millis(200);
/// Time for a hung-up process to go by itself.
const HANG_UP: Duration = Duration::from_millis(500);
/// Longest attempt to tell the daemon something.
const TELL: Duration = Duration::from_secs(2);

/// Who visits, as the hub says.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) session: SessionId,
    pub(super) user: String,
    pub(super) role: String,
    pub(super) project: String,
}

/// The worker's side of a session. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server(Rc<Inner>);

struct Inner {
    visitor: Visitor,
    account: Account,
    hidden: Hidden,
    policy: RefCell<Watched>,
    clock: Clock,
    control: PathBuf,
    terminals: RefCell<HashMap<StreamId, Rc<Terminal>>>,
    /// A terminal's processes are gone.
    one_gone: Notify,
}

/// What a granted stream leads to.
enum Way {
    Tcp(Dial),
    Unix(String),
    Terminal(Wanted, Grant),
}

impl Server {
    pub(super) fn new(visitor: Visitor, account: Account, hidden: Hidden, policy: Watched, clock: Clock, control: PathBuf) -> Self {
        Self(Rc::new(Inner {
            visitor,
            account,
            hidden,
            policy: RefCell::new(policy),
            clock,
            control,
            terminals: RefCell::default(),
            one_gone: Notify::new(),
        }))
    }

    fn opened(&self, handle: &Handle, stream: StreamId, asked: Asked) {
        let text = asked.to_string();
        let session = &self.0.visitor.session;
        match self.decide(handle, &text, asked) {
            Ok(way) => {
                info!("session {session}: stream {stream}: {text} for {}", self.0.visitor.user);
                tokio::task::spawn_local(self.clone().lead(handle.clone(), stream, way));
            }
            Err(Failure { code, message }) => {
                warn!("session {session}: stream {stream}: {text} refused to {} ({code}): {message}", self.0.visitor.user);
                handle.refuse(stream, code, &message);
            }
        }
    }

    fn decide(&self, handle: &Handle, text: &str, asked: Asked) -> Result<Way, Failure> {
        let mut policy = self.0.policy.borrow_mut();
        let most = policy.limits().streams;
        if handle.streams() > most as usize {
            let message = format!("this device's policy allows {most} streams at once in a session; close some first");
            return Err(Failure { code: code::LIMIT, message });
        }
        let target = match &asked {
            Asked::Tcp { host, port } => Target::Tcp { host, port: *port },
            Asked::Unix { path } => Target::Unix { path },
            Asked::Terminal(Wanted { attach: Some(_), .. }) => {
                let message = "this device's version keeps no terminals to attach to; leave `attach` out".to_owned();
                return Err(Failure { code: code::UNSUPPORTED, message });
            }
            Asked::Terminal(wanted) => Target::Terminal { user: wanted.user.as_deref() },
            other => {
                let message = format!("this device's version does not serve {} yet; update it", other.kind());
                return Err(Failure { code: code::UNSUPPORTED, message });
            }
        };
        let visitor = &self.0.visitor;
        let request = Request { user: &visitor.user, role: &visitor.role, target };
        let grant = match policy.decide(&request, crate::policy::moment()) {
            Decision::Allow(grant) => grant,
            Decision::Refuse { code, message } => {
                self.tell(DeviceEventKind::PolicyRefused {
                    session: visitor.session.clone(),
                    target: text.to_owned(),
                    code: code.to_owned(),
                    message: message.clone(),
                });
                return Err(Failure { code, message });
            }
        };
        match (asked, grant) {
            (Asked::Tcp { .. }, Grant { dial: Some(dial), .. }) => Ok(Way::Tcp(dial)),
            (Asked::Unix { path }, _) => Ok(Way::Unix(path)),
            (Asked::Terminal(wanted), grant) => Ok(Way::Terminal(wanted, grant)),
            _ => Err(Failure { code: code::FAILED, message: "the policy granted what was not asked for".to_owned() }),
        }
    }

    /// Opens what was granted and connects the stream with it.
    async fn lead(self, handle: Handle, stream: StreamId, way: Way) {
        let connected = match way {
            Way::Tcp(dial) => target::tcp(dial).await,
            Way::Unix(path) => target::unix(&path).await,
            Way::Terminal(wanted, grant) => return self.terminal(&handle, stream, &wanted, &grant).await,
        };
        match connected {
            Ok(io) => {
                handle.accept(stream, Value::Null);
                handle.attach(stream, io);
            }
            Err(Failure { code, message }) => {
                debug!("session {}: stream {stream}: {message}", self.0.visitor.session);
                handle.refuse(stream, code, &message);
            }
        }
    }

    async fn terminal(&self, handle: &Handle, stream: StreamId, wanted: &Wanted, grant: &Grant) {
        let Visitor { session, user, .. } = &self.0.visitor;
        let account = &self.0.account;
        let plan = Plan {
            wanted,
            account,
            hidden: &self.0.hidden,
            run_as: grant.become_user.as_deref(),
            session: session.as_str(),
            visitor: user,
        };
        let (terminal, io, child) = match terminal::start(&plan) {
            Ok(started) => started,
            Err(error) => {
                let code = if error.kind() == std::io::ErrorKind::PermissionDenied { code::DENIED } else { code::FAILED };
                warn!("session {session}: stream {stream}: the terminal cannot start: {error}");
                return handle.refuse(stream, code, &format!("the device cannot start {}: {error}", account.shell));
            }
        };
        let terminal = Rc::new(terminal);
        self.0.terminals.borrow_mut().insert(stream, Rc::clone(&terminal));
        let user = grant.become_user.as_deref().unwrap_or(&account.name);
        handle.accept(stream, json!({ "user": user, "shell": account.shell }));
        self.run(handle, stream, io, child, &terminal).await;
        self.0.terminals.borrow_mut().remove(&stream);
        self.0.one_gone.notify_waiters();
    }

    /// From the start of a process to the last that it left behind.
    async fn run(&self, handle: &Handle, stream: StreamId, io: Io, mut child: Child, terminal: &Terminal) {
        handle.attach_process(stream, io);
        let status = tokio::select! {
            status = child.wait() => status,
            // The user went away first.
            () = handle.gone(stream) => {
                terminal.hang_up();
                let gone = tokio::time::timeout(HANG_UP, child.wait()).await;
                terminal.kill();
                match gone {
                    Ok(status) => status,
                    Err(_) => child.wait().await,
                }
            }
        };
        let (code, signal) = status.map_or((None, None), crate::signals::outcome);
        handle.ended(stream, code, signal.clone(), false);
        let read = tokio::time::timeout(SETTLE, handle.gone(stream)).await;
        if read.is_err() {
            handle.ended(stream, code, signal, true);
            // The visitor may read slowly what is there; the process's children need not wait for that.
        }
        let left = terminal.hang_up();
        if left > 0 {
            tokio::time::sleep(HANG_UP).await;
            terminal.kill();
            debug!("session {}: stream {stream}: ended {left} processes that the terminal left behind", self.0.visitor.session);
        }
    }

    /// Tells the daemon, if there is one, what the hub should know.
    pub(super) fn tell(&self, kind: DeviceEventKind) {
        let event = DeviceEvent { t: self.0.clock.now(), kind };
        let (control, session) = (self.0.control.clone(), self.0.visitor.session.clone());
        tokio::task::spawn_local(async move {
            let send = async {
                let mut line = json!({ "do": "event", "event": event }).to_string();
                line.push('\n');
                UnixStream::connect(&control).await?.write_all(line.as_bytes()).await
            };
            // The daemon may be away: the local journal has it in any case.
            match tokio::time::timeout(TELL, send).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("session {session}: the daemon at {} was not told: {error}", control.display()),
                Err(_) => debug!("session {session}: the daemon at {} does not listen", control.display()),
            }
        });
    }

    /// Tells all processes of all terminals to go.
    pub(super) fn hang_up_all(&self) {
        self.0.terminals.borrow().values().for_each(|terminal| {
            terminal.hang_up();
        });
    }

    /// Waits until no terminal is left.
    pub(super) async fn all_gone(&self) {
        loop {
            let gone = self.0.one_gone.notified();
            if self.0.terminals.borrow().is_empty() {
                return;
            }
            gone.await;
        }
    }

    /// Kills what is left of all terminals.
    pub(super) fn kill_all(&self) {
        for terminal in self.0.terminals.borrow().values() {
            terminal.kill();
        }
    }

    fn with_terminal(&self, stream: StreamId, f: impl FnOnce(&Terminal)) {
        if let Some(terminal) = self.0.terminals.borrow().get(&stream) {
            f(terminal);
        }
    }
}

impl Application for Server {
    fn event(&mut self, handle: &Handle, event: Event) {
        match event {
            Event::Open { stream, target } => self.opened(handle, stream, target),
            Event::Resize { stream, cols, rows } => self.with_terminal(stream, |terminal| terminal.resize(cols, rows)),
            Event::Signal { stream, signal } => self.with_terminal(stream, |terminal| terminal.signal(&signal)),
            Event::Established => debug!("session {}: both ends have met", self.0.visitor.session),
            Event::Reset { stream, message, .. } => debug!("session {}: stream {stream}: given up: {message}", self.0.visitor.session),
            // We open no streams; data and the end of the session are the driver's.
            _ => {}
        }
    }

    fn leg(&mut self, change: LegChange<'_>) {
        let session = &self.0.visitor.session;
        match change {
            LegChange::Up => debug!("session {session}: connected to the relay"),
            LegChange::Lost(why) => info!("session {session}: the connection to the relay was lost: {why}"),
            LegChange::Failed(error, delay) => warn!("session {session}: {error}; next try in {} ms", delay.as_millis()),
        }
    }
}
