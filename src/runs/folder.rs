//! A run's folder in `state_dir/runs/{run}`, through which the daemon and the run's supervisor hand it over to each other.
//!
//! | file | written by | what |
//! |---|---|---|
//! | `job.json` | daemon, once | the order; without it the folder does not count |
//! | `lock` | supervisor | held as long as it lives |
//! | `begun.json` | supervisor, once | its process; from then on nobody begins again |
//! | `reports` | daemon until then, supervisor, daemon after its death | one report a line, only ever appended |
//! | `cancel.json` | daemon | why it is to end |
//! | `used.json` | supervisor, now and then | what was used so far |
//! | `sent` | daemon | how far the reports were acknowledged |
//!
//! A run whose reports were all acknowledged is an empty file `{run}.over`, so that a late repetition of its order is known.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use muster_proto::Millis;
use muster_proto::id::RunId;
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::mqtt::encode;
use muster_proto::run::{RunReport, RunReportKind, RunStart, RunUsed};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state::{StateError, write_atomic};

/// Largest of the JSON files: an order fits a payload, and is written with a few fields more.
const FILE_MAX: u64 = 2 * PAYLOAD_MAX as u64;
/// What follows a run's id in the name of the file that remembers it.
const OVER: &str = ".over";

/// `job.json`: what a supervisor has to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The run.
    pub run: RunId,
    /// The order.
    pub start: RunStart,
    /// Become this user; the policy allows it.
    #[serde(default)]
    pub run_as: Option<String>,
    /// The daemon's control socket: there it is told that there is something to send.
    pub control: PathBuf,
    /// When the order came.
    pub arrival: Arrival,
    /// The daemon's log level.
    #[serde(default)]
    pub log_level: String,
}

/// When an order came, by clocks that nobody sets: the hub's as the order tells it, and the time since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// The hub's clock.
    pub hub: Millis,
    /// Milliseconds since the machine's start.
    pub steady: Millis,
    /// For how many milliseconds the order was good then.
    pub left: Millis,
    /// Which start of the machine.
    pub boot: String,
}

impl Arrival {
    /// The hub's clock at this moment of the steady one; `None` after another start of the machine.
    pub(crate) fn hub_at(&self, steady: Millis, boot: &str) -> Option<Millis> {
        (self.boot == boot && steady >= self.steady).then(|| self.hub.saturating_add(steady - self.steady))
    }

    /// Whether the order is void at this moment.
    pub(crate) fn is_void(&self, steady: Millis, boot: &str) -> bool {
        self.boot != boot || steady.saturating_sub(self.steady) >= self.left
    }
}

/// `begun.json`: a supervisor has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Its process.
    pub pid: u32,
    /// When that started, in ticks since the machine's start: a process number alone may have gone to another program.
    pub started: u64,
}

/// `cancel.json`: somebody wants its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {
    /// The sentence for the user.
    pub reason: String,
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

    /// Makes a run's folder, with its order and its first report.
    ///
    /// # Errors
    /// When it cannot be written; nothing of it is left then.
    pub(crate) fn make(&self, job: &Job, first: &RunReport) -> Result<Folder, StateError> {
        let folder = self.of(&job.run);
        let failed = |source| StateError::Io { action: "write", path: folder.path.clone(), source };
        let made = (|| {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(failed)?;
            DirBuilder::new().mode(0o700).create(&folder.path).map_err(failed)?;
            folder.append(first).map_err(failed)?;
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
    /// The folder that a supervisor was given.
    pub(crate) fn at(path: PathBuf) -> Self {
        let mut over = path.clone().into_os_string();
        over.push(OVER);
        Self { path, over: over.into() }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The state directory that it lies in.
    pub(crate) fn state_dir(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or(&self.path)
    }

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

    /// The supervisor, once it has begun.
    pub(crate) fn begun(&self) -> Option<Begun> {
        self.read("begun.json")
    }

    /// Why it is to end, if somebody asked for it.
    pub(crate) fn cancel(&self) -> Option<Cancel> {
        self.read("cancel.json")
    }

    /// What it had used when its supervisor noted that last.
    pub(crate) fn used(&self) -> Option<RunUsed> {
        self.read("used.json")
    }

    /// Notes that the supervisor has begun.
    ///
    /// # Errors
    /// When it cannot be written: then the command must not be started.
    pub(crate) fn set_begun(&self, begun: &Begun) -> Result<(), StateError> {
        self.write("begun.json", begun)
    }

    /// Notes that it is to end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_cancel(&self, cancel: &Cancel) -> Result<(), StateError> {
        self.write("cancel.json", cancel)
    }

    /// Notes what was used so far.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_used(&self, used: &RunUsed) -> Result<(), StateError> {
        self.write("used.json", used)
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

    /// Appends the last report of a run whose supervisor is dead, behind the last whole one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn close(&self, report: impl FnOnce(u64) -> RunReport) -> io::Result<()> {
        let found = self.scan()?;
        if found.ended {
            return Ok(());
        }
        // What a killed supervisor had half written, or a power cut left of it.
        let file = OpenOptions::new().write(true).open(self.path.join("reports"))?;
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
    pub(crate) fn sent(&self) -> u64 {
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
        Job {
            run,
            start,
            run_as: None,
            control: "/x".into(),
            arrival: Arrival { hub: 1, steady: 1, left: 1, boot: "b".into() },
            log_level: "info".into(),
        }
    }

    fn report(n: u64, kind: RunReportKind) -> RunReport {
        RunReport { n, t: 0, kind }
    }

    #[test]
    fn a_folder_is_whole_or_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        assert!(!folders.of(&job().run).is_known());
        let folder = folders.make(&job(), &report(0, RunReportKind::Accepted)).unwrap();
        assert_eq!((folder.job(), folder.is_known(), folder.is_over()), (Some(job()), true, false));
        assert!(folders.make(&job(), &report(0, RunReportKind::Accepted)).is_err(), "a folder is made once");
    }

    #[test]
    fn an_order_is_void_after_its_time_and_after_another_start() {
        let arrival = Arrival { hub: 1_000_000, steady: 500, left: 100, boot: "b".into() };
        assert_eq!((arrival.hub_at(700, "b"), arrival.hub_at(700, "c"), arrival.hub_at(499, "b")), (Some(1_000_200), None, None));
        assert_eq!([500, 599, 600].map(|steady| arrival.is_void(steady, "b")), [false, false, true]);
        assert!(arrival.is_void(500, "c"));
    }

    #[test]
    fn the_lock_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), &report(0, RunReportKind::Accepted)).unwrap();
        let held = folder.lock().unwrap().unwrap();
        assert!(folder.lock().unwrap().is_none());
        drop(held);
        assert!(folder.lock().unwrap().is_some());
    }

    #[test]
    fn what_is_half_written_is_cut_off_and_the_end_stands_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folders::in_state(dir.path()).make(&job(), &report(0, RunReportKind::Accepted)).unwrap();
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
        let folder = Folders::in_state(dir.path()).make(&job(), &report(0, RunReportKind::Accepted)).unwrap();
        folder.open_reports().unwrap().write_all(&[0; 5000]).unwrap();
        folder.open_reports().unwrap().write_all(b"\n").unwrap();
        assert_eq!(folder.reports(), (false, 1));
    }

    #[test]
    fn a_run_that_is_over_is_remembered_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::in_state(dir.path());
        let folder = folders.make(&job(), &report(0, RunReportKind::Accepted)).unwrap();
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
