//! What happens to a session besides data: how processes end, which streams break, and the leg that is lost and found again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use muster_link::driver::{Application, Handle, LegChange, Refusal};
use muster_proto::id::StreamId;
use muster_proto::session::Event;

/// A leg that is back within this time is not worth a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a stream's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<String>,
}

/// The application of a client's session. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watch(Rc<RefCell<Seen>>);

struct Seen {
    device: String,
    exits: HashMap<StreamId, Exit>,
    broken: HashMap<StreamId, Refusal>,
    /// Whether the ends have ever met.
    met: bool,
    /// Counts losses of the leg; odd numbers of nothing: each loss has its own number.
    losses: u64,
    apart: bool,
    /// The user was told that the connection is lost.
    told: bool,
}

impl Watch {
    pub(super) fn new(device: &str) -> Self {
        Self(Rc::new(RefCell::new(Seen {
            device: device.to_owned(),
            exits: HashMap::new(),
            broken: HashMap::new(),
            met: false,
            losses: 0,
            apart: false,
            told: false,
        })))
    }

    /// How the process of a stream ended, if it has.
    pub(super) fn exit(&self, stream: StreamId) -> Option<Exit> {
        self.0.borrow_mut().exits.remove(&stream)
    }

    /// Why a stream was given up by the device, if it was.
    pub(super) fn broken(&self, stream: StreamId) -> Option<Refusal> {
        self.0.borrow_mut().broken.remove(&stream)
    }

    fn lost(&self) {
        let mut seen = self.0.borrow_mut();
        if seen.apart || !seen.met {
            return;
        }
        seen.apart = true;
        seen.losses += 1;
        let (watch, loss) = (self.clone(), seen.losses);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(PATIENCE).await;
            let mut seen = watch.0.borrow_mut();
            if seen.apart && seen.losses == loss {
                seen.told = true;
                say(&format!("connection to {} lost; reconnecting", seen.device));
            }
        });
    }

    fn met(&self) {
        let mut seen = self.0.borrow_mut();
        seen.met = true;
        seen.apart = false;
        if std::mem::take(&mut seen.told) {
            say(&format!("connection to {} resumed", seen.device));
        }
    }
}

impl Application for Watch {
    fn event(&mut self, handle: &Handle, event: Event) {
        match event {
            Event::Established => self.met(),
            Event::Exit { stream, code, signal } => {
                self.0.borrow_mut().exits.insert(stream, Exit { code, signal });
                // Nobody reads what would still be typed; the output that is on its way still comes.
                handle.finish(stream);
            }
            Event::Reset { stream, code, message } => {
                self.0.borrow_mut().broken.insert(stream, Refusal { code, message });
            }
            // The device wrote it: nothing in it may move the cursor.
            Event::Notice { message, .. } => say(&message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()),
            // A client offers nothing.
            Event::Open { stream, .. } => handle.refuse(stream, muster_proto::session::code::UNSUPPORTED, "the client opens all streams"),
            _ => {}
        }
    }

    fn leg(&mut self, change: LegChange<'_>) {
        match change {
            LegChange::Up => {}
            LegChange::Lost(_) | LegChange::Failed(..) => self.lost(),
        }
    }
}

/// One line to the user, also where the terminal is in raw mode.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    // Nobody to tell is no reason to end.
    let _ = write!(std::io::stderr(), "\r\nmuster: {text}\r\n");
}
