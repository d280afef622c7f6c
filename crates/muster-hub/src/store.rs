//! The hub's memory: SQLite in WAL mode, one writer thread, a few reader threads.
//!
//! Writes queue up and share a transaction: one sync to disk serves all that waited, and no two writers ever fight for the lock.
//! Each write has a savepoint of its own, so that one that fails takes nobody else's with it.
//! What devices send is patient: its transactions start at most each 50 ms, or a fleet's reports would pay a sync each.
//! A write is answered after its commit reached the disk: what the hub acknowledged, it still knows after a power cut.
//! SQL lives in the modules below this one and nowhere else; no SQLite call runs on an async thread.

pub mod accounts;
pub mod audit;
mod called;
pub mod devices;
pub mod enrolment_tokens;
pub mod enrolments;
pub mod fields;
pub(crate) mod images;
pub(crate) mod invitations;
pub(crate) mod ledger;
pub mod limits;
pub mod metering;
mod migrate;
pub mod mqtt;
pub(crate) mod org_deletion;
pub mod orgs;
pub mod policies;
pub(crate) mod projects;
pub(crate) mod proviso;
pub(crate) mod roles;
pub mod runs;
pub(crate) mod service_accounts;
pub mod sessions;
pub mod sso;
pub(crate) mod storage;
mod sums;
pub(crate) mod teams;
pub mod telemetry;
pub mod tokens;
pub mod touched;
pub(crate) mod usage;
pub mod views;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use muster_proto::id::InvalidId;
use muster_proto::problem::{Code, Problem};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait before callers have to: enough for a storm of reconnects, small enough to notice a stuck disk.
const WRITE_QUEUE: usize = 4096;
/// Reads that may wait before callers have to.
const READ_QUEUE: usize = 1024;
/// Reader threads: reads are short, and two cores are the machine we care about most.
const READERS: usize = 3;
/// Longest time that a group of writes collects before it commits: what a lone caller waits at most for the others.
const GROUP: Duration = Duration::from_millis(5);
/// Transactions that only hold patient writes start at most so often. A lone one after a quiet time does not wait.
const PATIENCE: Duration = Duration::from_millis(50);
/// So many patient writes do not wait for more company.
const COMPANY: usize = 256;
/// While nobody writes, another process's changes are noticed after at most so long.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// How long to wait for another process (`muster-hub user add` beside `serve`) that holds the lock.
const BUSY: Duration = Duration::from_secs(10);
/// Prepared statements kept per connection: more than the hub has.
const STATEMENTS: usize = 256;

/// What a store function returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule said no; goes to the caller as it is.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// SQLite failed.
    #[error("database: {0}")]
    Sql(#[from] rusqlite::Error),
    /// The certificate authority failed inside a transaction.
    #[error(transparent)]
    Sign(#[from] crate::ca::CaError),
    /// The transaction that carried the write could not be committed.
    #[error("database: commit failed: {0}")]
    Commit(String),
    /// A stored value is not what it should be.
    #[error("database: stored {what} is not valid: {why}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The store was closed, or the call panicked.
    #[error("database: closed")]
    Closed,
    /// The database could not be opened.
    #[error("cannot open the database {path}: {why}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Self {
        Self::Corrupt { what: error.what, why: error.to_string() }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt { what: "JSON", why: error.to_string() }
    }
}

/// A [`Problem`] as a store error.
pub(crate) fn problem(code: Code, detail: impl Into<String>) -> Error {
    Error::Problem(Problem::new(code, detail))
}

type Outcome = std::result::Result<(), String>;
/// Runs in the group's transaction, and gives back what to do once its fate is known.
type Write = Box<dyn FnOnce(&Transaction<'_>) -> Box<dyn FnOnce(&Outcome) + Send> + Send>;
type Read = Box<dyn FnOnce(&Connection) + Send>;

enum Command {
    Write(Write),
    Close(oneshot::Sender<()>),
}

/// The database. Clones are cheap and share it.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Command>,
    patient: mpsc::Sender<Write>,
    readers: mpsc::Sender<Read>,
    observers: touched::Observers,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or creates the database and brings its schema up to date. The threads end when the last clone is dropped.
    ///
    /// # Errors
    /// When the file cannot be opened, belongs to a newer hub, or a migration fails.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |why: String| Error::Open { path: path.to_owned(), why };
        let mut connection = connect(path, OpenFlags::default()).map_err(|error| failed(error.to_string()))?;
        restrict(path).map_err(|error| failed(error.to_string()))?;
        migrate::run(&mut connection).map_err(|error| failed(error.to_string()))?;
        touched::watch(&connection).map_err(|error| failed(error.to_string()))?;
        let observers = touched::Observers::default();
        let publisher = touched::Publisher::new(&connection, observers.clone())?;

        let (writer, urgent) = mpsc::channel(WRITE_QUEUE);
        let (patiently, patient) = mpsc::channel(WRITE_QUEUE);
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| failed(error.to_string()))?;
        let queues = Queues { urgent, patient, last: None };
        spawn("hub-write", move || write_loop(connection, queues, publisher, &timer)).map_err(&failed)?;
        let (readers, reads) = mpsc::channel(READ_QUEUE);
        let reads = Arc::new(Mutex::new(reads));
        for _ in 0..READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
            let connection = connect(path, flags).map_err(|error| failed(error.to_string()))?;
            connection.pragma_update(None, "query_only", true)?;
            let reads = Arc::clone(&reads);
            spawn("hub-read", move || read_loop(&connection, &reads)).map_err(&failed)?;
        }
        Ok(Self { writer, patient: patiently, readers, observers })
    }

    /// Tells an observer of every commit from now on, before those who wrote get their answers. Observers are told in the order
    /// of their coming. What it holds, it reads on the writer's thread ([`Store::write`]) after this: then it misses nothing.
    pub fn observe(&self, observer: Arc<dyn touched::Observer>) {
        self.observers.add(observer);
    }

    /// Runs `work` on the writer thread and answers once it is committed. An error rolls back this write alone.
    /// The first write of a request begins with what the request rests on, see [`proviso`].
    ///
    /// # Errors
    /// Whatever `work` returns, or when the commit fails.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let provisos = proviso::take();
        let (job, answer) = write_job(move |tx| {
            provisos.into_iter().try_for_each(|check| check(tx))?;
            work(tx)
        });
        self.writer.send(Command::Write(job)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Writes that wait for the writer now.
    pub fn waiting(&self) -> usize {
        self.writer.max_capacity() - self.writer.capacity()
    }

    /// [`Store::write`] where nobody waits for the answer but a device: it may wait for others a little, to share their commit.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_patiently<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = write_job(work);
        self.patient.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// [`Store::write`] for threads outside the runtime.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = write_job(work);
        self.writer.blocking_send(Command::Write(job)).map_err(|_| Error::Closed)?;
        answer.blocking_recv().map_err(|_| Error::Closed)?
    }

    /// Runs `work` on a reader thread, on one consistent snapshot.
    ///
    /// # Errors
    /// Whatever `work` returns.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (job, answer) = read_job(work);
        self.readers.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// [`Store::read`] for threads outside the runtime.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (job, answer) = read_job(work);
        self.readers.blocking_send(job).map_err(|_| Error::Closed)?;
        answer.blocking_recv().map_err(|_| Error::Closed)?
    }

    /// Commits what is queued, folds the log into the database and ends the writer. Later writes fail.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.writer.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

fn write_job<T: Send + 'static>(
    work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
) -> (Write, oneshot::Receiver<Result<T>>) {
    let (answer, result) = oneshot::channel();
    let job: Write = Box::new(move |tx| {
        let value = in_savepoint(tx, work);
        Box::new(move |committed| {
            // Nobody may wait any more: the request was given up. What was written stays.
            let _ = answer.send(match (value, committed) {
                (Ok(_), Err(why)) => Err(Error::Commit(why.clone())),
                (value, _) => value,
            });
        })
    });
    (job, result)
}

fn in_savepoint<T>(tx: &Transaction<'_>, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    tx.prepare_cached("SAVEPOINT one")?.execute([])?;
    // A panic in one write must not end the thread that serves all.
    let value = catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|_| Err(Error::Closed));
    if value.is_err() {
        tx.prepare_cached("ROLLBACK TO one")?.execute([])?;
    }
    tx.prepare_cached("RELEASE one")?.execute([])?;
    value
}

fn read_job<T: Send + 'static>(work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> (Read, oneshot::Receiver<Result<T>>) {
    let (answer, result) = oneshot::channel();
    let job: Read = Box::new(move |connection| {
        let value = connection.unchecked_transaction().map_err(Error::from).and_then(|tx| work(&tx));
        let _ = answer.send(value);
    });
    (job, result)
}

/// What waits for the writer.
struct Queues {
    urgent: mpsc::Receiver<Command>,
    patient: mpsc::Receiver<Write>,
    /// When the last transaction with patient writes began.
    last: Option<Instant>,
}

impl Queues {
    /// Waits until there is something to do now, and gives it in the order in which it came; after a while, nothing.
    /// `None` when nobody can ask any more.
    async fn wait(&mut self) -> Option<Vec<Command>> {
        let first = tokio::select! {
            biased;
            urgent = self.urgent.recv() => return urgent.map(|urgent| vec![urgent]),
            patient = self.patient.recv() => Command::Write(patient?),
            () = tokio::time::sleep(LOOK_AROUND) => return Some(Vec::new()),
        };
        let mut begun = vec![first];
        // While it waits for company, that does not even wake this thread; an urgent write ends the wait.
        if let Some(last) = self.last.filter(|_| self.patient.len() < COMPANY) {
            let urgent = tokio::time::timeout_at((last + PATIENCE).into(), self.urgent.recv()).await;
            begun.extend(urgent.ok().flatten());
        }
        self.last = Some(Instant::now());
        Some(begun)
    }

    /// What else is there, the urgent before the patient.
    fn more(&mut self) -> Option<Command> {
        match self.urgent.try_recv() {
            Ok(command) => Some(command),
            Err(_) => self.patient.try_recv().ok().map(Command::Write),
        }
    }

    /// Takes no more; what waits can still be had.
    fn close(&mut self) {
        self.urgent.close();
        self.patient.close();
    }
}

fn write_loop(mut connection: Connection, mut queues: Queues, mut publisher: touched::Publisher, timer: &tokio::runtime::Runtime) {
    let mut closing = None;
    // What came into a group whose transaction had ended before its turn: the next group's.
    let mut left: Vec<Command> = Vec::new();
    while closing.is_none() || !left.is_empty() {
        let mut commands = std::mem::take(&mut left);
        if commands.is_empty() {
            let Some(next) = timer.block_on(queues.wait()) else { break };
            commands = next;
        }
        if commands.is_empty() {
            publisher.publish(&connection, touched::Touched::default());
            continue;
        }
        let mut answers = Vec::new();
        let committed = (|| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let started = Instant::now();
            while !commands.is_empty() {
                for command in commands.drain(..) {
                    match command {
                        // A full disk or a failing one makes SQLite give up the whole transaction in the middle. What is run from there
                        // on would be committed by itself, whatever its group is told.
                        Command::Write(_) if tx.is_autocommit() => left.push(command),
                        Command::Write(write) => answers.push(write(&tx)),
                        Command::Close(done) => {
                            queues.close();
                            closing = Some(done);
                        }
                    }
                }
                // A group has an end; at the close, all that waits is written.
                if !tx.is_autocommit() && (closing.is_some() || started.elapsed() < GROUP) {
                    commands.extend(queues.more());
                }
            }
            if tx.is_autocommit() {
                return Err(GivenUp::Transaction);
            }
            let touched = touched::Publisher::note(&tx);
            tx.commit()?;
            Ok(touched)
        })();
        let committed: Outcome = match committed {
            Ok(touched) => {
                publisher.publish(&connection, touched);
                Ok(())
            }
            Err(error) => {
                // Its notes are gone with it: whatever is held in memory is read again.
                publisher.publish(&connection, touched::Touched { everything: true, ..Default::default() });
                Err(error.to_string())
            }
        };
        if let Err(why) = &committed {
            tracing::error!(writes = answers.len(), %why, "a group of writes could not be committed");
        }
        for answer in answers {
            answer(&committed);
        }
    }
    finish(&connection);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

/// Why a group of writes was not committed.
#[derive(Debug, thiserror::Error)]
enum GivenUp {
    #[error("the database gave up the transaction in the middle; is its disk full?")]
    Transaction,
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

fn finish(connection: &Connection) {
    if let Err(error) = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);") {
        tracing::debug!(%error, "the log was not folded into the database; the next start does it");
    }
}

fn read_loop(connection: &Connection, queue: &Mutex<mpsc::Receiver<Read>>) {
    loop {
        // Whoever holds the lock waits for the next read; a poisoned lock only means that another reader panicked.
        let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).blocking_recv();
        let Some(read) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| read(connection))).is_err() {
            tracing::error!("a read panicked");
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::result::Result<(), String> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(|error| error.to_string())
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "wal")?;
    // FULL: a commit is on the disk before it is answered. Groups make it cheap.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// The database holds hashes of secrets and people's names: its owner alone reads it.
fn restrict(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn a_failing_write_takes_no_other_with_it() {
        let (_dir, store) = store();
        let good = |n: i64| {
            let store = store.clone();
            async move { store.write(move |tx| Ok(tx.execute("INSERT INTO meta VALUES (?1, 'x')", [n.to_string()])?)).await }
        };
        let bad = store.write(|tx| -> Result<()> {
            tx.execute("INSERT INTO meta VALUES ('bad', 'x')", [])?;
            Err(problem(Code::Conflict, "no"))
        });
        let panics = store.write(|_| -> Result<()> { panic!("a bug") });
        let (one, bad, two, panics, three) = tokio::join!(good(1), bad, good(2), panics, good(3));
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        assert!(matches!(bad, Err(Error::Problem(problem)) if problem.is(Code::Conflict)));
        assert!(matches!(panics, Err(Error::Closed)));
        let keys: i64 =
            store.read(|db| Ok(db.query_row("SELECT count(*) FROM meta WHERE value = 'x'", [], |row| row.get(0))?)).await.unwrap();
        assert_eq!(keys, 3);
    }

    #[tokio::test]
    async fn patient_and_urgent_writes_are_all_written_at_the_close_too() {
        let (_dir, store) = store();
        let put = |n: i64| move |tx: &Transaction<'_>| Ok(tx.execute("INSERT INTO meta VALUES (?1, 'x')", [n.to_string()])?);
        // Alone after a quiet time: at once. From then on a transaction each 50 ms, unless something urgent comes.
        store.write_patiently(put(0)).await.unwrap();
        let patient = tokio::spawn({
            let store = store.clone();
            async move { store.write_patiently(put(1)).await }
        });
        for n in 2..40 {
            store.write(put(n)).await.unwrap();
        }
        assert_eq!(patient.await.unwrap().unwrap(), 1);
        let many: Vec<_> = (40..400).map(|n| store.write_patiently(put(n))).collect();
        for written in futures_util::future::join_all(many).await {
            written.unwrap();
        }
        // What is queued at the close is written.
        let (last, ()) = tokio::join!(store.write_patiently(put(400)), store.close());
        last.unwrap();
        assert!(matches!(store.write_patiently(put(401)).await, Err(Error::Closed)));
    }

    /// Hears what the store tells its observers.
    #[derive(Default)]
    struct Heard(Mutex<Vec<bool>>);

    impl touched::Observer for Heard {
        fn committed(&self, _: &Connection, touched: &touched::Touched) -> Result<()> {
            self.0.lock().unwrap().push(touched.everything);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_disk_that_fills_up_in_a_group_commits_none_of_it_and_all_that_is_held_is_read_again() {
        let (_dir, store) = store();
        let heard = Arc::new(Heard::default());
        store.observe(heard.clone());
        let put = |key: &'static str| move |tx: &Transaction<'_>| Ok(tx.execute("INSERT INTO meta VALUES (?1, 'x')", [key])?);
        // The group begins with a write that waits until all others are queued.
        let (go, gate) = std::sync::mpsc::sync_channel::<()>(1);
        let first = store.write(move |tx| {
            gate.recv().unwrap();
            put("first")(tx)
        });
        let full = store.write(|tx| {
            let pages: i64 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            tx.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            let filled = tx.execute("INSERT INTO meta VALUES ('big', hex(zeroblob(4000000)))", []);
            tx.query_row("PRAGMA max_page_count = 1000000000", [], |_| Ok(()))?;
            Ok(filled?)
        });
        let after = store.write(put("after"));
        let (first, full, after, ()) = tokio::join!(first, full, after, async { go.send(()).unwrap() });
        assert!(matches!(first, Err(Error::Commit(_))), "{first:?}");
        assert!(full.is_err(), "{full:?}");
        assert_eq!(after.unwrap(), 1);
        let keys: Vec<String> = store
            .read(|db| {
                let mut statement = db.prepare("SELECT key FROM meta WHERE key IN ('first', 'big', 'after')")?;
                Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
            })
            .await
            .unwrap();
        assert_eq!(keys, ["after"]);
        assert!(heard.0.lock().unwrap().contains(&true), "nobody was told to read again");
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let (_dir, store) = store();
        let error = store.read(|db| Ok(db.execute("INSERT INTO meta VALUES ('a', 'b')", [])?)).await.unwrap_err();
        assert!(error.to_string().contains("readonly"), "{error}");
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let (dir, store) = store();
        store.write(|tx| Ok(tx.execute("INSERT INTO meta VALUES ('a', 'b')", [])?)).await.unwrap();
        store.close().await;
        assert!(matches!(store.write(|_| Ok(())).await, Err(Error::Closed)));
        let again = Store::open(&dir.path().join("hub.db")).unwrap();
        let value: String =
            again.read(|db| Ok(db.query_row("SELECT value FROM meta WHERE key = 'a'", [], |row| row.get(0))?)).await.unwrap();
        assert_eq!(value, "b");
    }
}
