//! `muster shell`: a terminal on the device, or one command there.
//!
//! With a person at this end the device gives a pseudo-terminal, and ours is raw meanwhile; otherwise it gives pipes,
//! so that bytes pass as they are and scripts see the end of input.

use std::io;

use bytes::{Bytes, BytesMut};
use muster_link::driver::{Input, Io};
use muster_proto::id::StreamId;
use muster_proto::session::{Target, Terminal};
use tokio::signal::unix::{SignalKind, signal};

use super::escape::{Escape, Wish};
use super::stdio::{self, Stdio};
use super::watch::Exit as ProcessExit;
use super::{Session, refused, with_session};
use crate::cmds::remote::ShellArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Written;
use crate::output::text::shell_word;
use crate::tty;

/// One read of what is typed or pasted.
const READ: usize = 4096;
/// Added to a signal's number, as shells do.
const SIGNALLED: u8 = 128;

/// Runs it; the exit code is the remote process's.
///
/// # Errors
/// When the session cannot be opened, is refused, or breaks.
pub async fn shell(ctx: &Context, args: ShellArgs) -> Result<u8, Failure> {
    let interactive = stdio::is_interactive();
    let (cols, rows) = if interactive { tty::size().unwrap_or((80, 24)) } else { (0, 0) };
    let terminal = Terminal {
        cols,
        rows,
        term: std::env::var("TERM").unwrap_or_default(),
        user: args.user,
        command: command_line(&args.command),
        attach: None,
        errors: !interactive,
    };
    with_session(ctx, &args.device, "shell", args.reason.as_deref(), async |session| {
        let (stream, answer) = session.handle.open(Target::Terminal(terminal)).map_err(failed)?;
        // At once, so that it costs no time; the device answers both or neither.
        let errors = if interactive { None } else { Some(session.handle.open(Target::Errors { of: stream }).map_err(failed)?.0) };
        match answer.await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => return Err(refused(&refusal, &session.name)),
            // The session is over; how, says its end.
            Err(_) => return std::future::pending().await,
        }
        let ended = match errors {
            None => person(session, stream).await?,
            Some(errors) => script(session, stream, errors).await?,
        };
        match ended {
            Ending::Process(exit) => Ok(code_of(&exit)),
            Ending::Escaped => Ok(0),
            Ending::Gone => match (session.watch.exit(stream), session.watch.broken(stream)) {
                (Some(exit), _) => Ok(code_of(&exit)),
                (None, Some(refusal)) => Err(refused(&refusal, &session.name)),
                (None, None) => {
                    session.heed_end().await;
                    Err(Failure::new(Exit::Failed, format!("{} closed the connection and gave no reason", session.name)))
                }
            },
        }
    })
    .await
}

/// One word is a line for the device's shell; several are a program and its arguments, which arrive as they are here.
fn command_line(words: &[String]) -> Option<String> {
    match words {
        [] => None,
        [line] => Some(line.clone()),
        words => Some(words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}

/// How a terminal came to its end at this side.
enum Ending {
    Process(ProcessExit),
    /// The user typed the escape, or this process was told to end.
    Escaped,
    Gone,
}

/// A person's terminal: raw, with escapes and sizes.
async fn person(session: &Session, stream: StreamId) -> Result<Ending, Failure> {
    let Stdio { input, output, restore } = Stdio::open()?;
    let mut sizes = signal(SignalKind::window_change())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let raw = tty::Settings::raw()?;
    session.handle.attach(stream, Io::pair(Input::default(), output));
    let typed = type_in(session, stream, &input);
    tokio::pin!(typed);
    let mut input_open = true;
    let ending = loop {
        tokio::select! {
            () = session.handle.gone(stream) => break session.watch.exit(stream).map_or(Ending::Gone, Ending::Process),
            wish = &mut typed, if input_open => match wish? {
                Wish::End => break Ending::Escaped,
                Wish::GoOn => input_open = false,
            },
            _ = sizes.recv() => {
                if let Some((cols, rows)) = tty::size() {
                    session.handle.resize(stream, cols, rows);
                }
            }
            _ = hangup.recv() => break Ending::Escaped,
            _ = terminate.recv() => break Ending::Escaped,
        }
    };
    drop((raw, restore));
    Ok(ending)
}

/// Sends what is typed until the escape or the end of input.
async fn type_in(session: &Session, stream: StreamId, input: &Input) -> Result<Wish, Failure> {
    let mut escape = Escape::LineStart;
    let mut buffer = BytesMut::with_capacity(READ);
    loop {
        std::future::poll_fn(|cx| input.poll_ready(cx)).await?;
        buffer.clear();
        buffer.reserve(READ);
        match input.try_read(&mut buffer, READ) {
            Ok(0) => {
                session.handle.finish(stream);
                return Ok(Wish::GoOn);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut out = Vec::with_capacity(buffer.len() + 1);
        let wish = escape.filter(&buffer, &mut out);
        // A stream that is gone ends the whole soon.
        if session.handle.send(stream, Bytes::from(out)).await.is_err() {
            return Ok(Wish::GoOn);
        }
        if wish == Wish::End {
            return Ok(Wish::End);
        }
    }
}

/// A script's pipes: bytes pass as they are; an interrupt goes to the remote process.
async fn script(session: &Session, stream: StreamId, errors: StreamId) -> Result<Ending, Failure> {
    let mut stdio = Stdio::open()?;
    let error_output = stdio.errors()?;
    let Stdio { input, output, restore } = stdio;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let output_broke = session.handle.attach_told(stream, Io::pair(input, output));
    let errors_broke = session.handle.attach_told(errors, Io::pair(Input::default(), error_output));
    session.handle.finish(errors);
    let broke = async {
        tokio::select! {
            Ok(error) = output_broke => Written::Output.failure(&error),
            Ok(error) = errors_broke => Written::Errors.failure(&error),
            else => std::future::pending().await,
        }
    };
    let gone = async {
        session.handle.gone(stream).await;
        session.handle.gone(errors).await;
    };
    tokio::pin!(broke, gone);
    let mut interrupted = false;
    let ending = loop {
        tokio::select! {
            biased;
            failure = &mut broke => return Err(failure),
            () = &mut gone => break session.watch.exit(stream).map_or(Ending::Gone, Ending::Process),
            // The second means us.
            _ = interrupt.recv() => {
                if std::mem::replace(&mut interrupted, true) {
                    break Ending::Escaped;
                }
                session.handle.signal(stream, "INT");
            }
            _ = terminate.recv() => break Ending::Escaped,
            _ = hangup.recv() => break Ending::Escaped,
        }
    };
    drop(restore);
    Ok(if interrupted && matches!(ending, Ending::Escaped) {
        Ending::Process(ProcessExit { code: None, signal: Some("INT".to_owned()) })
    } else {
        ending
    })
}

/// The exit code of this process, as a shell would say it.
fn code_of(exit: &ProcessExit) -> u8 {
    let Some(signal) = &exit.signal else {
        // A code beyond a byte does not exist on Unix; failing is the honest rest.
        return exit.code.map_or(1, |code| u8::try_from(code).unwrap_or(u8::MAX));
    };
    let number = match signal.as_str() {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        other => other.parse().unwrap_or(0),
    };
    SIGNALLED.saturating_add(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_arrive_as_they_are() {
        let line = |words: &[&str]| command_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&[]), None);
        assert_eq!(line(&["ls | wc -l"]).as_deref(), Some("ls | wc -l"));
        assert_eq!(line(&["sh", "-c", "exit 7"]).as_deref(), Some("sh -c 'exit 7'"));
        assert_eq!(line(&["echo", "it's", "$HOME", ""]).as_deref(), Some("echo 'it'\\''s' '$HOME' ''"));
    }

    #[test]
    fn exit_codes_pass_through_as_a_shell_says_them() {
        let code = |code, signal: Option<&str>| code_of(&ProcessExit { code, signal: signal.map(str::to_owned) });
        assert_eq!(code(Some(0), None), 0);
        assert_eq!(code(Some(77), None), 77);
        assert_eq!(code(None, Some("KILL")), 137);
        assert_eq!(code(None, Some("34")), 162);
        assert_eq!(code(None, None), 1);
    }
}
