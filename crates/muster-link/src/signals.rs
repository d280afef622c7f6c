//! What the signals of the system ask of a program that runs until it is stopped.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop; the signal's name.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

/// The signals that ask a program to stop, or to look again. SIGUSR1, SIGUSR2 and SIGALRM mean nothing, and would end it if nobody
/// listened.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    _ignored: [Signal; 3],
}

impl Signals {
    /// Begins to listen for them. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        let [one, two, three] = [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()].map(signal);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _ignored: [one?, two?, three?],
        })
    }

    /// The next one. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next one that ends a program which lives as long as its terminal, by name.
    pub async fn end(&mut self) -> &'static str {
        match self.next().await {
            Asked::Stop(name) => name,
            Asked::Reload => "SIGHUP",
        }
    }
}
