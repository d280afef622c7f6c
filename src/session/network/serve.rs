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
}

/// A process of the visitor, as far as this side has it.
struct Process {
    /// The controlling side of its terminal; none where it has pipes.
    terminal: Option<OwnedFd>,
    exited: Option<oneshot::Sender<(Option<i32>, Option<String>)>>,
}

impl Server {
    /// Over the channel to the privileged part.
    pub(super) fn new(channel: Channel, name: String) -> io::Result<Self> {
        let channel = Watched::new(channel)?;
        Ok(Self(Rc::new(Inner { channel, name, most: Cell::new(0), processes: RefCell::default(), asked: RefCell::default() })))
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
                    handle.refuse(stream, code::FAILED, &format!("The device cannot serve this: {why}."));
                    self.ask(&Ask::HangUp { id });
                }
            }
            Told::Refused { id, code, message } => {
                self.0.asked.borrow_mut().remove(&StreamId(id));
                handle.refuse(StreamId(id), &code, &message);
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

    fn opened(&self, handle: &Handle, stream: StreamId, fds: Vec<OwnedFd>, info: &Value) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let (first, second) = (fds.next().ok_or(io::ErrorKind::InvalidData)?, fds.next());
        if second.is_none() && !isatty(&first) {
            let io = socket(first)?;
            handle.accept(stream, Value::Null);
            handle.attach(stream, io);
            return Ok(());
        }
        let (io, terminal) = match second {
            // A process with pipes: where its input goes in, where its output comes out.
            Some(second) => (Io::pair(Input::from_fd(second)?, Output::from_fd(first)?), None),
            None => (Io::pair(Input::from_fd(first.try_clone()?)?, Output::from_fd(first.try_clone()?)?), Some(first)),
        };
        let (sender, exited) = oneshot::channel();
        self.0.processes.borrow_mut().insert(stream, Process { terminal, exited: Some(sender) });
        handle.accept(stream, info.clone());
        handle.attach_process(stream, io);
        tokio::task::spawn_local(self.clone().follow(handle.clone(), stream, exited));
        Ok(())
    }

    /// From the start of a process to its end.
    async fn follow(self, handle: Handle, stream: StreamId, mut exited: oneshot::Receiver<(Option<i32>, Option<String>)>) {
        let ended = tokio::select! {
            ended = &mut exited => ended,
            // The visitor went away first.
            () = handle.gone(stream) => {
                self.ask(&Ask::HangUp { id: stream.0 });
                exited.await
            }
        };
        let (code, signal) = ended.unwrap_or_default();
        handle.ended(stream, code, signal.clone(), false);
        if tokio::time::timeout(SETTLE, handle.gone(stream)).await.is_err() {
            // The visitor may read slowly what is there; the process's children need not wait for that.
            handle.ended(stream, code, signal, true);
        }
        self.ask(&Ask::HangUp { id: stream.0 });
        self.0.processes.borrow_mut().remove(&stream);
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

/// A connection that was opened for us.
fn socket(fd: OwnedFd) -> io::Result<Io> {
    set_non_blocking(&fd)?;
    match getsockname(&fd)?.address_family() {
        AddressFamily::UNIX => Ok(Io::unix(UnixStream::from_std(fd.into())?)),
        _ => Ok(Io::tcp(TcpStream::from_std(fd.into())?)),
    }
}
