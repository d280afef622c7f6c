//! A run's folder in `state_dir/runs/{run}`. The run's collector is another user: it gets its three files open, and no path.
//!
//! | file | written by | what |
//! |---|---|---|
//! | `job.json` | daemon, once | the order; without it the folder does not count |
//! | `lock` | daemon, then collector | held from the handing over until nobody is at the run |
//! | `reports` | collector, daemon after its death | one report a line, only ever appended; once there is one, nobody begins again |
//! | `used.json` | collector, now and then | what was used so far |
//! | `sent` | daemon | how far the reports were acknowledged |
//!
//! A run whose reports were all acknowledged is an empty file `{run}.over`, so that a late repetition of its order is known.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use muster_proto::id::RunId;
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::mqtt::encode;
use muster_proto::order::SignedOrder;
use muster_proto::run::{RunReport, RunReportKind, RunStart, RunUsed};
use musterd::handoff::Arrival;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state::{StateError, write_atomic};

/// Largest of the JSON files: an order fits a payload, and is written with a few fields more.
const FILE_MAX: u64 = 2 * PAYLOAD_MAX as u64;
/// What follows a run's id in the name of the file that remembers it.
const OVER: &str = ".over";

/// `job.json`: what is needed to hand it over, again after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The run.
    pub run: RunId,
    /// What it orders.
    pub start: RunStart,
    /// The order as the hub signed it.
    pub order: SignedOrder,
    /// When the order came.
    pub arrival: Arrival,
}

/// Where all runs are.
#[derive(Debug, Clone)]
pub(crate) struct Folders(PathBuf);

impl Folders {
    /// In the state directory. Touches nothing.
    pub(crate) fn in_state(state_dir: &Path) -> Self {
        Self(state_dir.join("runs"))
    }

    /// A run's folder.
    pub(crate) fn of(&self, run: &RunId) -> Folder {
        Folder { path: self.0.join(run.as_str()), over: self.0.join(format!("{run}{OVER}")) }
    }

    /// All runs that are there, and those of which only the memory is, oldest memory first.
    pub(crate) fn all(&self) -> (Vec<RunId>, Vec<RunId>) {
        let (mut runs, mut over) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            match name.strip_suffix(OVER) {
                Some(name) => {
                    let at = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                    over.extend(name.parse::<RunId>().ok().map(|run| (at, run)));
                }
                None => runs.extend(name.parse::<RunId>().ok()),
            }
        }
        over.sort();
        (runs, over.into_iter().map(|(_, run)| run).collect())
    }

    /// Remembers a run of which there is nothing else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn remember(&self, run: &RunId) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.of(run).note_over()
    }

    /// Forgets a run that is over.
    pub(crate) fn forget(&self, run: &RunId) {
        let _ = std::fs::remove_file(self.of(run).over);
    }

    /// Makes a run's folder, with its order and, where it does not begin, its only report.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is left then.
    pub(crate) fn make(&self, job: &Job, only: Option<&RunReport>) -> Result<Folder, StateError> {
        let folder = self.of(&job.run);
        let failed = |source| StateError::Io { action: "write", path: folder.path.clone(), source };
        let made = (|| {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(failed)?;
            DirBuilder::new().mode(0o700).create(&folder.path).map_err(failed)?;
            if let Some(report) = only {
                folder.append(report).map_err(failed)?;
            }
            folder.write("job.json", job)
        })();
        if made.is_err() {
            folder.remove();
        }
        made.map(|()| folder)
    }
}

/// One run's folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    over: PathBuf,
}

impl Folder {
    /// Whether the run was ever taken: it is there, or it is over.
    pub(crate) fn is_known(&self) -> bool {
        self.path.exists() || self.over.exists()
    }

    /// Whether it is over, and all of it was told.
    pub(crate) fn is_over(&self) -> bool {
        self.over.exists()
    }

    /// The order; `None` in a folder that was not made to the end.
    pub(crate) fn job(&self) -> Option<Job> {
        self.read("job.json")
    }

    /// What it had used when its collector noted that last.
    pub(crate) fn used(&self) -> Option<RunUsed> {
        self.read("used.json")
    }

    /// The collector's files: reports, what was used, the lock. The lock is taken already, and is held by whoever has the file: so
    /// a daemon that comes after this one knows that the run was handed over, also before anybody answers for it.
    ///
    /// # Errors
    /// When one cannot be opened, or somebody is at it.
    pub(crate) fn open_for_collector(&self) -> io::Result<[OwnedFd; 3]> {
        let used = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path.join("used.json"))?;
        let lock = self.lock()?.ok_or_else(|| io::Error::other("another process works on this run already"))?;
        Ok([self.open_reports()?.into(), used.into(), lock.into()])
    }

    /// Takes the lock, for as long as the file lives; `None` where somebody has it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(crate) fn lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    // ---- Reports -----------------------------------------------------------------------------------------------

    /// Opens the reports for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open_reports(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(self.path.join("reports"))
    }

    fn append(&self, report: &RunReport) -> io::Result<()> {
        let mut file = self.open_reports()?;
        append(&mut file, report)?;
        file.sync_data()
    }

    /// The end that stands in the reports, if one does, and how many whole reports there are.
    pub(crate) fn reports(&self) -> (bool, u64) {
        self.scan().map_or((false, 0), |found| (found.ended, found.count))
    }

    /// Appends the last report of a run whose collector is dead, behind the last whole one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn close(&self, report: impl FnOnce(u64) -> RunReport) -> io::Result<()> {
        let found = self.scan().unwrap_or(Found { ended: false, count: 0, whole: 0 });
        if found.ended {
            return Ok(());
        }
        // What a killed collector had half written, or a power cut left of it.
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path.join("reports"))?;
        file.set_len(found.whole)?;
        self.append(&report(found.count))
    }

    fn scan(&self) -> io::Result<Found> {
        let mut reader = BufReader::new(File::open(self.path.join("reports"))?);
        let (mut found, mut line) = (Found { ended: false, count: 0, whole: 0 }, Vec::new());
        loop {
            line.clear();
            let len = reader.by_ref().take(PAYLOAD_MAX as u64 + 1).read_until(b'\n', &mut line)?;
            let Some(report) = line.strip_suffix(b"\n").and_then(|line| RunReport::decode(line).ok()) else { return Ok(found) };
            found.whole += len as u64;
            found.count += 1;
            found.ended |= matches!(report.kind, RunReportKind::End(_));
        }
    }

    /// The whole line at this place of the reports, without its end.
    pub(crate) fn report_at(&self, at: u64) -> io::Result<Option<Vec<u8>>> {
        let mut file = File::open(self.path.join("reports"))?;
        file.seek(SeekFrom::Start(at))?;
        let mut line = Vec::new();
        BufReader::with_capacity(8 * 1024, file).take(PAYLOAD_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        Ok((line.pop() == Some(b'\n')).then_some(line))
    }

    /// How far the reports were acknowledged. What is forgotten is sent again, and the hub knows it.
    ///
    /// A power cut may take reports that were acknowledged: then what comes next stands earlier in the file.
    pub(crate) fn sent(&self) -> u64 {
        self.noted_sent().min(self.scan().map_or(0, |found| found.whole))
    }

    /// Whether a report was ever acknowledged, also one that a power cut took.
    pub(crate) fn was_told(&self) -> bool {
        self.noted_sent() > 0
    }

    fn noted_sent(&self) -> u64 {
        std::fs::read_to_string(self.path.join("sent")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Notes how far. Not synced: see above.
    pub(crate) fn set_sent(&self, at: u64) {
        let _ = std::fs::write(self.path.join("sent"), at.to_string());
    }

    /// All was told: only the memory stays.
    ///
    /// # Errors
    /// When the memory cannot be written; the folder stays then.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.note_over()?;
        self.remove();
        Ok(())
    }

    fn note_over(&self) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.over).map(drop)
    }

    /// Removes the folder.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut text = Vec::new();
        File::open(self.path.join(name)).ok()?.take(FILE_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(value).expect("these types have text keys and no fallible serializer");
        write_atomic(&self.path.join(name), &bytes, 0o600)
    }
}

struct Found {
    ended: bool,
    count: u64,
    /// Bytes of the whole reports.
    whole: u64,
}

/// Appends a report, whole or not at all.
///
/// # Errors
/// When it cannot be written, such as on a full disk.
pub(crate) fn append(file: &mut File, report: &RunReport) -> io::Result<()> {
    let mut line = encode(report);
    line.push(b'\n');
    let before = file.metadata()?.len();
    file.write_all(&line).inspect_err(|_| drop(file.set_len(before)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::run::{RunCommand, RunEnd, RunOutcome};

    fn job() -> Job {
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
        let run = "raaaaaaaaaaaaaaa".parse().unwrap();
        Job { run, start, order: SignedOrder::new(b"", b"", b""), arrival: Arrival { hub: 1, steady: 1, left: 1, boot: "b".into() } }
    }

    fn report(n: u64, kind: RunReportKind) -> RunReport {
        RunReport { n, t: 0, kind }
    }

    #[test]
    fn a_folder_is_whole_or_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        assert!(!folders.of(&job().run).is_known());
        let folder = folders.make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        assert_eq!((folder.job(), folder.is_known(), folder.is_over()), (Some(job()), true, false));
        assert!(folders.make(&job(), Some(&report(0, RunReportKind::Accepted))).is_err(), "a folder is made once");
    }

    #[test]
    fn the_lock_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        let held = folder.lock().unwrap().unwrap();
        assert!(folder.lock().unwrap().is_none());
        drop(held);
        assert!(folder.lock().unwrap().is_some());
    }

    #[test]
    fn what_is_half_written_is_cut_off_and_the_end_stands_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        append(&mut folder.open_reports().unwrap(), &report(1, RunReportKind::Started)).unwrap();
        folder.open_reports().unwrap().write_all(b"{\"n\":2,\"t\":0,\"kind\":\"out").unwrap();
        assert_eq!(folder.reports(), (false, 2));
        let first = folder.report_at(0).unwrap().unwrap();
        let second = folder.report_at(first.len() as u64 + 1).unwrap().unwrap();
        let third = (first.len() + second.len() + 2) as u64;
        assert_eq!(folder.report_at(third).unwrap(), None);
        for _ in 0..2 {
            folder.close(|n| report(n, RunReportKind::End(RunEnd::without_process(RunOutcome::Lost, "x", "y")))).unwrap();
        }
        assert_eq!(folder.reports(), (true, 3));
        assert_eq!(RunReport::decode(&folder.report_at(third).unwrap().unwrap()).unwrap().n, 2);
    }

    #[test]
    fn zeros_of_a_power_cut_are_no_reports() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        folder.open_reports().unwrap().write_all(&[0; 5000]).unwrap();
        folder.open_reports().unwrap().write_all(b"\n").unwrap();
        assert_eq!(folder.reports(), (false, 1));
    }

    #[test]
    fn an_end_is_told_though_a_power_cut_took_reports_that_were_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        folder.set_sent(std::fs::metadata(folder.path.join("reports")).unwrap().len());
        assert!(folder.was_told());
        std::fs::write(folder.path.join("reports"), "").unwrap();
        let at = folder.sent();
        folder.close(|n| report(n, RunReportKind::End(RunEnd::without_process(RunOutcome::Lost, "x", "y")))).unwrap();
        let told = RunReport::decode(&folder.report_at(at).unwrap().unwrap()).unwrap();
        assert!(matches!(told.kind, RunReportKind::End(_)) && folder.was_told());
    }

    #[test]
    fn a_run_that_is_over_is_remembered_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        let folder = folders.make(&job(), Some(&report(0, RunReportKind::Accepted))).unwrap();
        folder.set_sent(7);
        assert_eq!(folder.sent(), 7);
        assert_eq!(folders.all(), (vec![job().run], vec![]));
        folder.finish().unwrap();
        assert!(folder.is_known() && folder.is_over() && folder.job().is_none());
        assert_eq!(folders.all(), (vec![], vec![job().run]));
        folders.forget(&job().run);
        assert!(!folder.is_known());
    }
}
