//! A run's output as it comes: printed where it belongs, taken up again where a connection broke, ended by Ctrl-C.

use std::time::Duration;

use muster_proto::api::{Run, RunLine, RunPiece};
use muster_proto::id::RunId;
use muster_proto::run::RunStream;
use tokio::time::Instant;

use super::PATIENCE;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Written, note};

/// A hub that follows a run sends an empty line each 20 s.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest pause before a connection that broke is made again.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest line that a hub may send: a piece of output is under 64 KiB, a run under 64 KiB.
const LINE_MAX: usize = 512 * 1024;

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmds) enum Show {
    /// The command's output, as it is.
    Output,
    /// The lines of JSON.
    Lines,
}

/// Follows a run from a piece on to its end; `None` where the person left before. With `ends`, Ctrl-C ends the run.
pub(in crate::cmds) async fn follow(context: &Context, id: &RunId, from: u64, show: Show, ends: bool) -> Result<Option<Run>, Failure> {
    let path = context.org_path(&format!("/runs/{id}/output")).await?;
    let mut reading = Reading { from, show, places: [None, None], rest: Vec::new(), last: None };
    let (mut asked, mut heard, mut pause) = (false, Instant::now(), Duration::from_millis(250));
    loop {
        let address = format!("{path}?from={}&follow=true", reading.from);
        let came = {
            let mut stream = std::pin::pin!(context.hub().stream(&address, SILENCE, |bytes| {
                heard = Instant::now();
                reading.take(bytes)
            }));
            loop {
                tokio::select! {
                    came = &mut stream => break came,
                    pressed = tokio::signal::ctrl_c() => {
                        pressed?;
                        if asked || !ends {
                            return Ok(None);
                        }
                        asked = true;
                        note("ending it on the device; Ctrl-C again leaves");
                        cancel(context, id).await;
                    }
                }
            }
        };
        match (reading.last.take(), came) {
            (Some(Ok(run)), _) => return Ok(Some(run)),
            (Some(Err(failure)), _) => return Err(failure),
            // Whoever read our output has gone: nobody will read more, and the command is not left behind.
            (None, Err(failure)) if failure.message.is_empty() => {
                if ends {
                    cancel(context, id).await;
                }
                return Err(failure);
            }
            (None, Err(failure)) if failure.exit != Exit::Unreachable as u8 => return Err(failure),
            (None, came) => {
                if heard.elapsed() > PATIENCE {
                    let why =
                        came.err().map_or_else(|| "the hub ends the connection again and again".to_owned(), |failure| failure.message);
                    let hint = format!("the run goes on; `muster runs output {id} --follow` takes it up again");
                    return Err(Failure::new(Exit::Unreachable, why).hint(hint));
                }
                reading.rest.clear();
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    pressed = tokio::signal::ctrl_c() => {
                        pressed?;
                        return Ok(None);
                    }
                }
                pause = (pause * 2).min(PAUSE);
            }
        }
    }
}

/// A run that is over meanwhile says so in its last line.
async fn cancel(context: &Context, id: &RunId) {
    let asked = async {
        let path = context.org_path(&format!("/runs/{id}/cancel")).await?;
        context.hub().post::<serde::de::IgnoredAny>(&path, &()).await
    };
    if let Err(failure) = asked.await {
        note(format!("muster: it could not be ended: {failure}"));
    }
}

struct Reading {
    /// The number of the next piece.
    from: u64,
    show: Show,
    /// Where the pieces of each stream ended, once one was seen.
    places: [Option<u64>; 2],
    rest: Vec<u8>,
    last: Option<Result<Run, Failure>>,
}

impl Reading {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end])?;
        }
        if self.rest.len() > LINE_MAX {
            return Err(Failure::new(Exit::Failed, "the hub sends lines without an end: is it of another version?"));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        if line.is_empty() {
            return Ok(());
        }
        let parsed = serde_json::from_slice(line).map_err(|error| {
            Failure::new(Exit::Failed, format!("the hub sent something else than output ({error}): is it of another version?"))
        })?;
        if self.show == Show::Lines && !matches!(parsed, RunLine::Problem { .. }) {
            let text = crate::output::text::escape_json(&String::from_utf8_lossy(line)).into_owned();
            Written::Output.write(format!("{text}\n").as_bytes())?;
        }
        match parsed {
            RunLine::Piece(piece) => self.piece(&piece)?,
            RunLine::Run { run } => self.last = Some(Ok(*run)),
            RunLine::Problem { problem } => self.last = Some(Err(problem.into())),
        }
        Ok(())
    }

    fn piece(&mut self, piece: &RunPiece) -> Result<(), Failure> {
        // A hub that sends a piece again does not print it again.
        if piece.n < self.from {
            return Ok(());
        }
        self.from = piece.n + 1;
        let output = &piece.output;
        let (place, name) = match output.stream {
            RunStream::Stdout => (&mut self.places[0], "output"),
            RunStream::Stderr => (&mut self.places[1], "standard error"),
        };
        let before = place.replace(output.at + output.bytes.len() as u64);
        if self.show == Show::Lines {
            return Ok(());
        }
        if let Some(gap) = before.and_then(|end| output.at.checked_sub(end)).filter(|gap| *gap > 0) {
            note(format!("[{gap} bytes of {name} are cut out here]"));
        }
        match output.stream {
            RunStream::Stdout => Written::Output.write(&output.bytes),
            RunStream::Stderr => Written::Errors.write(&output.bytes),
        }
    }
}

/// Prints what is there of a run so far.
pub(in crate::cmds) async fn so_far(context: &Context, id: &RunId, show: Show) -> Result<(), Failure> {
    let mut reading = Reading { from: 0, show, places: [None, None], rest: Vec::new(), last: None };
    let path = context.org_path(&format!("/runs/{id}/output")).await?;
    context.hub().stream(&path, SILENCE, |bytes| reading.take(bytes)).await
}
