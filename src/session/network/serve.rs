//! Passes on what the visitor opens to the privileged part, and connects the streams with the descriptors that come back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use muster_link::driver::{Application, Handle, Input, Io, LegChange, Output};
use muster_proto::id::StreamId;
use muster_proto::session::{Event, Target, code};
use musterd::descriptors::set_non_blocking;
use musterd::log::{debug, error, info, warn};
use rustix::net::{AddressFamily, getsockname};
use rustix::termios::{Winsize, isatty, tcsetwinsize};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use crate::channel::{Ask, Channel, Told, Watched};

/// After its process has ended, output may be on its way out of the kernel for a moment;
/// longer than this only a process in the background holds the terminal open.
const SETTLE: Duration = Duration::from_millis(200);

/// The session's server on this side. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server(Rc<Inner>);

struct Inner {
    channel: Watched,
    /// For the log.
    name: String,
    /// Streams at once.
    most: Cell<usize>,
    /// Terminals and commands by their stream.
    processes: RefCell<HashMap<StreamId, Process>>,
    /// Targets that are being opened, as text for the log.
    asked: RefCell<HashMap<StreamId, String>>,
    /// Streams for the standard error of a process that is being opened, by the process's.
    errors_asked: RefCell<HashMap<StreamId, StreamId>>,
}

/// A process of the visitor, as far as this side has it.
struct Process {
    /// The controlling side of its terminal; none where it has pipes.
    terminal: Option<OwnedFd>,
    errors: Errors,
    exited: Option<oneshot::Sender<Exit>>,
    /// How it ended, for a stream that fetches its errors after that.
    over: Option<Exit>,
}

/// Where the standard error of a process is.
enum Errors {
    /// With its output.
    Together,
    /// Here, until a stream is opened for it.
    Waiting(OwnedFd),
    /// On this stream.
    Taken(StreamId),
}

impl Errors {
    /// What waits, for this stream.
    fn take(&mut self, stream: StreamId) -> Option<OwnedFd> {
        match std::mem::replace(self, Self::Taken(stream)) {
            Self::Waiting(fd) => Some(fd),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Exit code, or signal.
type Exit = (Option<i32>, Option<String>);

impl Server {
    /// Over the channel to the privileged part.
    pub(super) fn new(channel: Channel, name: String) -> io::Result<Self> {
        let channel = Watched::new(channel)?;
        let inner = Inner {
            channel,
            name,
            most: Cell::new(0),
            processes: RefCell::default(),
            asked: RefCell::default(),
            errors_asked: RefCell::default(),
        };
        Ok(Self(Rc::new(inner)))
    }

    /// Asks the privileged part. One that is gone has ended the session with it.
    pub(super) fn ask(&self, ask: &Ask) {
        if let Err(why) = self.0.channel.send(ask) {
            warn!("session {}: the privileged part does not listen: {why}", self.0.name);
        }
    }

    /// Sees to it that the privileged part has all that was said.
    pub(super) async fn finish(&self) {
        let _ = self.0.channel.finish().await;
    }

    /// Hears what the privileged part tells, until it is gone. Must be called inside a `LocalSet`.
    pub(super) fn serve(&self, handle: &Handle, most: u32) {
        self.0.most.set(usize::try_from(most).unwrap_or(usize::MAX));
        let (server, handle) = (self.clone(), handle.clone());
        tokio::task::spawn_local(async move {
            let why = server.hear(&handle).await;
            handle.close(code::CANCELLED, &why);
        });
    }

    async fn hear(&self, handle: &Handle) -> String {
        loop {
            match self.0.channel.receive().await {
                Ok(Some((Told::Close { code, message }, _))) => handle.close(&code, &message),
                Ok(Some((told, fds))) => self.told(handle, told, fds),
                Ok(None) => return "the device ended the session".to_owned(),
                Err(why) => {
                    error!("session {}: the privileged part says what makes no sense: {why}", self.0.name);
                    return "the device's session broke".to_owned();
                }
            }
        }
    }

    fn told(&self, handle: &Handle, told: Told, fds: Vec<OwnedFd>) {
        match told {
            Told::Opened { id, user, shell } => {
                let stream = StreamId(id);
                let Some(text) = self.0.asked.borrow_mut().remove(&stream) else { return };
                if let Err(why) = self.opened(handle, stream, fds, &json!({ "user": user, "shell": shell })) {
                    warn!("session {}: stream {stream}: {text}: {why}", self.0.name);
                    self.refuse(handle, stream, code::FAILED, &format!("The device cannot serve this: {why}."));
                    self.ask(&Ask::HangUp { id });
                }
            }
            Told::Refused { id, code, message } => {
                self.0.asked.borrow_mut().remove(&StreamId(id));
                self.refuse(handle, StreamId(id), &code, &message);
            }
            Told::Waits { id, message } => handle.notice(StreamId(id), &message),
            Told::Exited { id, code, signal, .. } => {
                let exited = self.0.processes.borrow_mut().get_mut(&StreamId(id)).and_then(|process| process.exited.take());
                if let Some(exited) = exited {
                    let _ = exited.send((code, signal));
                }
            }
            Told::Seen { .. } | Told::Close { .. } => {}
        }
    }

    /// Refuses a stream, and the one for its errors.
    fn refuse(&self, handle: &Handle, stream: StreamId, code: &str, message: &str) {
        handle.refuse(stream, code, message);
        if let Some(errors) = self.0.errors_asked.borrow_mut().remove(&stream) {
            handle.refuse(errors, code, message);
        }
    }

    fn opened(&self, handle: &Handle, stream: StreamId, fds: Vec<OwnedFd>, info: &Value) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let (first, second, errors) = (fds.next().ok_or(io::ErrorKind::InvalidData)?, fds.next(), fds.next());
        if second.is_none() && !isatty(&first) {
            let (io, info) = socket(first)?;
            handle.accept(stream, info);
            handle.attach(stream, io);
            return Ok(());
        }
        let (io, terminal) = match second {
            // A process with pipes: where its input goes in, where its output comes out.
            Some(second) => (Io::pair(Input::from_fd(second)?, Output::from_fd(first)?), None),
            None => (Io::pair(Input::from_fd(first.try_clone()?)?, Output::from_fd(first.try_clone()?)?), Some(first)),
        };
        let (sender, exited) = oneshot::channel();
        let errors = errors.map_or(Errors::Together, Errors::Waiting);
        self.0.processes.borrow_mut().insert(stream, Process { terminal, errors, exited: Some(sender), over: None });
        handle.accept(stream, info.clone());
        handle.attach_process(stream, io);
        let asked = self.0.errors_asked.borrow_mut().remove(&stream);
        if let Some(errors) = asked {
            self.open_errors(handle, errors, stream);
        }
        tokio::task::spawn_local(self.clone().follow(handle.clone(), stream, exited));
        Ok(())
    }

    /// Connects a stream with the standard error of a process.
    fn open_errors(&self, handle: &Handle, stream: StreamId, of: StreamId) {
        if self.0.asked.borrow().contains_key(&of) {
            if let Some(earlier) = self.0.errors_asked.borrow_mut().insert(of, stream) {
                handle.refuse(earlier, code::FAILED, "Another stream was opened for the same errors.");
            }
            return;
        }
        let mut processes = self.0.processes.borrow_mut();
        let taken = processes.get_mut(&of).and_then(|process| {
            let io = Io::pair(Input::from_fd(process.errors.take(stream)?).ok()?, Output::default());
            Some((io, process.over.clone()))
        });
        match taken {
            Some((io, over)) => {
                handle.accept(stream, Value::Null);
                handle.attach_process(stream, io);
                if let Some((code, signal)) = over {
                    handle.ended(stream, code, signal, true);
                    processes.remove(&of);
                }
            }
            None => {
                let message = format!("Stream {of} is not a process whose standard error is apart and not taken yet.");
                handle.refuse(stream, code::NOT_FOUND, &message);
            }
        }
    }

    /// From the start of a process to its end.
    async fn follow(self, handle: Handle, stream: StreamId, mut exited: oneshot::Receiver<Exit>) {
        let ended = tokio::select! {
            ended = &mut exited => ended,
            // The visitor went away first.
            () = handle.gone(stream) => {
                self.ask(&Ask::HangUp { id: stream.0 });
                exited.await
            }
        };
        let (code, signal) = ended.unwrap_or_default();
        // From here on a stream for its errors is ended where it is opened.
        let errors = self.0.processes.borrow_mut().get_mut(&stream).and_then(|process| {
            process.over = Some((code, signal.clone()));
            if let Errors::Taken(errors) = process.errors { Some(errors) } else { None }
        });
        let streams = || std::iter::once(stream).chain(errors);
        for stream in streams() {
            handle.ended(stream, code, signal.clone(), false);
        }
        let gone = async {
            for stream in streams() {
                handle.gone(stream).await;
            }
        };
        if tokio::time::timeout(SETTLE, gone).await.is_err() {
            // The visitor may read slowly what is there; the process's children need not wait for that.
            for stream in streams() {
                handle.ended(stream, code, signal.clone(), true);
            }
        }
        self.ask(&Ask::HangUp { id: stream.0 });
        // Where its errors wait, the request for them is on its way.
        self.0.processes.borrow_mut().retain(|id, process| *id != stream || matches!(process.errors, Errors::Waiting(_)));
    }

    fn open(&self, handle: &Handle, stream: StreamId, target: Target) {
        let most = self.0.most.get();
        if handle.streams() > most {
            return handle.refuse(
                stream,
                code::LIMIT,
                &format!("This device allows {most} streams at once in a session; close some first."),
            );
        }
        let text = target.to_string();
        debug!("session {}: stream {stream}: {text}", self.0.name);
        if let Target::Errors { of } = target {
            return self.open_errors(handle, stream, of);
        }
        self.0.asked.borrow_mut().insert(stream, text);
        if let Err(why) = self.0.channel.send(&Ask::Open { id: stream.0, target }) {
            self.0.asked.borrow_mut().remove(&stream);
            handle.refuse(stream, code::FAILED, &format!("The device is too busy to open this now: {why}."));
        }
    }

    fn resize(&self, stream: StreamId, cols: u16, rows: u16) {
        if let Some(Process { terminal: Some(terminal), .. }) = self.0.processes.borrow().get(&stream) {
            // The last process may just have closed it; the kernel tells the foreground programs.
            let _ = tcsetwinsize(terminal, Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 });
        }
    }
}

impl Application for Server {
    fn event(&mut self, handle: &Handle, event: Event) {
        match event {
            Event::Open { stream, target } => self.open(handle, stream, target),
            Event::Resize { stream, cols, rows } => self.resize(stream, cols, rows),
            Event::Signal { stream, signal } => self.ask(&Ask::Signal { id: stream.0, signal }),
            Event::Established => debug!("session {}: both ends have met", self.0.name),
            Event::Reset { stream, message, .. } => debug!("session {}: stream {stream}: given up: {message}", self.0.name),
            // We open no streams; data and the end of the session are the driver's.
            _ => {}
        }
    }

    fn leg(&mut self, change: LegChange<'_>) {
        let session = &self.0.name;
        match change {
            LegChange::Up => debug!("session {session}: connected to the relay"),
            LegChange::Lost(why) => info!("session {session}: the connection to the relay was lost: {why}"),
            LegChange::Failed(error, delay) => warn!("session {session}: {error}; next try in {} ms", delay.as_millis()),
        }
    }
}

/// A connection that was opened for us, and what its other end is told: of one to this machine, from where it comes. Somebody on
/// the same machine sees by that when a forward leads into itself.
fn socket(fd: OwnedFd) -> io::Result<(Io, Value)> {
    set_non_blocking(&fd)?;
    match getsockname(&fd)?.address_family() {
        AddressFamily::UNIX => Ok((Io::unix(UnixStream::from_std(fd.into())?), Value::Null)),
        _ => {
            let stream = TcpStream::from_std(fd.into())?;
            let from = stream.local_addr().ok().filter(|from| from.ip().is_loopback());
            Ok((Io::tcp(stream), from.map_or(Value::Null, |from| json!({ "from": from }))))
        }
    }
}
