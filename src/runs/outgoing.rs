//! Reports of runs on their way to the hub: one at a time for each run, in order, each until it is acknowledged.
//!
//! A report stays in its run's folder until then, so a daemon that is killed sends the same bytes again.
//! Of the disk only the line that is due is in memory.

use std::collections::BTreeMap;
use std::io;

use muster_proto::id::RunId;
use muster_proto::mqtt::encode;
use muster_proto::run::{RunReport, RunReportKind};

use super::folder::Folder;
use crate::log::{info, warn};

/// Reports under way at once, over all runs.
const UNDER_WAY: usize = 4;

/// What waits to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    runs: BTreeMap<RunId, Sending>,
    /// The run that was served last: the others come first.
    last: Option<RunId>,
}

#[derive(Debug)]
struct Sending {
    source: Source,
    /// Length of the report that is under way, with its line's end, and whether it is the last.
    under_way: Option<(u64, bool)>,
    /// There may be something to send.
    more: bool,
    /// The broker has nobody who listens: not before the next round.
    held: bool,
}

#[derive(Debug)]
enum Source {
    /// The folder, and how far it was acknowledged.
    Folder(Folder, u64),
    /// One report that the disk did not take.
    Memory(Box<RunReport>),
}

impl Outgoing {
    /// A run's folder whose reports are to be sent.
    pub(crate) fn add(&mut self, run: RunId, folder: Folder) {
        let at = folder.sent();
        self.insert(run, Source::Folder(folder, at));
    }

    /// A report that is on no disk.
    pub(crate) fn add_lone(&mut self, run: RunId, report: RunReport) {
        self.insert(run, Source::Memory(Box::new(report)));
    }

    fn insert(&mut self, run: RunId, source: Source) {
        self.runs.insert(run, Sending { source, under_way: None, more: true, held: false });
    }

    /// Runs that have not told all yet.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether a run has not told all yet.
    pub(crate) fn has(&self, run: &RunId) -> bool {
        self.runs.contains_key(run)
    }

    /// There is something new of this run.
    pub(crate) fn more(&mut self, run: &RunId) {
        if let Some(sending) = self.runs.get_mut(run) {
            sending.more = true;
        }
    }

    /// The next report to publish, which is then under way.
    pub(crate) fn next(&mut self) -> Option<(RunId, Vec<u8>)> {
        if self.runs.values().filter(|sending| sending.under_way.is_some()).count() >= UNDER_WAY {
            return None;
        }
        let (before, after): (Vec<RunId>, Vec<RunId>) = {
            let ready = self.runs.iter().filter(|(_, sending)| sending.more && sending.under_way.is_none() && !sending.held);
            ready.map(|(run, _)| run.clone()).partition(|run| self.last.as_ref().is_some_and(|last| run <= last))
        };
        for run in after.into_iter().chain(before) {
            let Some(sending) = self.runs.get_mut(&run) else { continue };
            if let Some(bytes) = sending.next(&run) {
                self.last = Some(run.clone());
                return Some((run, bytes));
            }
        }
        None
    }

    /// The report that was under way was taken, or never will be.
    pub(crate) fn acknowledged(&mut self, run: &RunId) {
        let Some(sending) = self.runs.get_mut(run) else { return };
        let Some((len, last)) = sending.under_way.take() else { return };
        if let Source::Folder(folder, at) = &mut sending.source {
            *at += len;
            if !last {
                folder.set_sent(*at);
                return;
            }
            if let Err(error) = folder.finish() {
                warn!("run {run} is over and cannot be put away: {error}");
            }
        }
        info!("run {run}: everything is delivered");
        self.runs.remove(run);
    }

    /// Nobody listens at the broker: it is sent again with the next round.
    pub(crate) fn unheard(&mut self, run: &RunId) {
        if let Some(sending) = self.runs.get_mut(run) {
            (sending.under_way, sending.more, sending.held) = (None, true, true);
        }
    }

    /// The next round.
    pub(crate) fn release(&mut self) {
        self.runs.values_mut().for_each(|sending| sending.held = false);
    }

    /// The link is gone: what was under way is sent again.
    pub(crate) fn give_back(&mut self) {
        for sending in self.runs.values_mut() {
            (sending.under_way, sending.more, sending.held) = (None, true, false);
        }
    }
}

impl Sending {
    fn next(&mut self, run: &RunId) -> Option<Vec<u8>> {
        match &mut self.source {
            Source::Memory(report) => {
                self.under_way = Some((0, true));
                Some(encode(&**report))
            }
            Source::Folder(folder, at) => loop {
                let bytes = match folder.report_at(*at) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => {
                        self.more = false;
                        return None;
                    }
                    Err(error) => {
                        if error.kind() != io::ErrorKind::NotFound {
                            warn!("the reports of run {run} cannot be read: {error}");
                        }
                        self.more = false;
                        return None;
                    }
                };
                let len = bytes.len() as u64 + 1;
                match RunReport::decode(&bytes) {
                    Ok(report) => {
                        self.under_way = Some((len, matches!(report.kind, RunReportKind::End(_))));
                        return Some(bytes);
                    }
                    // What a power cut left of a line; the daemon's start has cut it off where it could.
                    Err(error) => {
                        warn!("a report of run {run} is damaged and left out: {error}");
                        *at += len;
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::{Folders, Job, append};
    use super::*;
    use muster_proto::order::SignedOrder;
    use muster_proto::run::{RunCommand, RunEnd, RunOutcome, RunStart};
    use musterd::handoff::Arrival;

    fn run(letter: char) -> RunId {
        format!("r{}", letter.to_string().repeat(15)).parse().unwrap()
    }

    fn report(n: u64, kind: RunReportKind) -> RunReport {
        RunReport { n, t: 0, kind }
    }

    fn folder(folders: &Folders, letter: char) -> Folder {
        let start = RunStart {
            command: RunCommand::Argv(vec!["true".into()]),
            run_as: None,
            cwd: None,
            env: [].into(),
            timeout_s: 1,
            output_max: 1,
            user: "ada".into(),
            project: "lab".parse().unwrap(),
            role: "operate".into(),
            t: 0,
            expires: 1,
        };
        let arrival = Arrival { hub: 1, steady: 1, left: 1, boot: "b".into() };
        let job = Job { run: run(letter), start, order: SignedOrder::new(b"", b"", b""), arrival };
        folders.make(&job, Some(&report(0, RunReportKind::Accepted))).unwrap()
    }

    fn number(sent: Option<(RunId, Vec<u8>)>) -> Option<(RunId, u64)> {
        sent.map(|(run, bytes)| (run, RunReport::decode(&bytes).unwrap().n))
    }

    #[test]
    fn one_at_a_time_in_order_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        let folder = folder(&folders, 'a');
        let mut outgoing = Outgoing::default();
        outgoing.add(run('a'), folder.clone());
        assert_eq!(number(outgoing.next()), Some((run('a'), 0)));
        assert_eq!(outgoing.next(), None, "the first is under way");
        outgoing.acknowledged(&run('a'));
        assert_eq!(outgoing.next(), None, "nothing more is there");
        append(&mut folder.open_reports().unwrap(), &report(1, RunReportKind::Started)).unwrap();
        outgoing.more(&run('a'));
        assert_eq!(number(outgoing.next()), Some((run('a'), 1)));
        outgoing.give_back();
        assert_eq!(number(outgoing.next()), Some((run('a'), 1)), "again with the next link");

        // A daemon that starts anew goes on behind what was acknowledged.
        let mut again = Outgoing::default();
        again.add(run('a'), folder.clone());
        assert_eq!(number(again.next()), Some((run('a'), 1)));
        again.unheard(&run('a'));
        assert_eq!(again.next(), None, "not before the next round");
        again.release();
        assert_eq!(number(again.next()), Some((run('a'), 1)));
        again.acknowledged(&run('a'));
        let end = RunEnd::without_process(RunOutcome::Lost, "x", "y");
        append(&mut folder.open_reports().unwrap(), &report(2, RunReportKind::End(end))).unwrap();
        again.more(&run('a'));
        assert_eq!(number(again.next()), Some((run('a'), 2)));
        again.acknowledged(&run('a'));
        assert_eq!((again.len(), folder.is_over(), folder.job()), (0, true, None));
    }

    #[test]
    fn runs_take_turns_and_few_are_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        let mut outgoing = Outgoing::default();
        for letter in "abcdef".chars() {
            let folder = folder(&folders, letter);
            append(&mut folder.open_reports().unwrap(), &report(1, RunReportKind::Started)).unwrap();
            outgoing.add(run(letter), folder);
        }
        let sent: Vec<RunId> = std::iter::from_fn(|| outgoing.next()).map(|(run, _)| run).collect();
        assert_eq!(sent, ['a', 'b', 'c', 'd'].map(run));
        outgoing.acknowledged(&run('a'));
        assert_eq!(number(outgoing.next()), Some((run('e'), 0)), "the others before the first again");
    }

    #[test]
    fn a_lone_report_goes_until_it_is_taken() {
        let mut outgoing = Outgoing::default();
        outgoing.add_lone(run('a'), report(0, RunReportKind::End(RunEnd::without_process(RunOutcome::Refused, "x", "y"))));
        assert_eq!(number(outgoing.next()), Some((run('a'), 0)));
        outgoing.give_back();
        assert_eq!(number(outgoing.next()), Some((run('a'), 0)));
        outgoing.acknowledged(&run('a'));
        assert_eq!((outgoing.next(), outgoing.len()), (None, 0));
    }
}
