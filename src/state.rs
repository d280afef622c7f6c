//! What survives everything: the key, the identity, and a few numbers, in the state directory.
//!
//! A file here is old or new, never half: written beside, synced, renamed, and the directory synced.
//! The key never leaves this directory and never appears in a message.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

use muster_link::tls;
use muster_proto::Millis;
use muster_proto::api::Identity;
use muster_proto::id::Serial;
use muster_proto::token::Pin;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::certificate::Validity;
use crate::csr::DeviceKey;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file or directory that cannot be read or written.
    #[error("cannot {action} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon lives in the directory.
    #[error("another musterd runs on the state directory {}: stop it first, or give this one a state_dir of its own", .0.display())]
    Taken(PathBuf),
    /// A file that does not hold what it should.
    #[error("{} is damaged ({why}): enrol again with `musterd enrol`", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
}

/// What to do about an error of the disk.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run it as root, or as the user who owns the state directory",
        ErrorKind::ReadOnlyFilesystem => "; the disk is read-only: remount it, or set state_dir to a place that can be written",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; the disk is full: make room and try again",
        _ => "",
    }
}

/// `identity.json`: whose device this is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    /// The hub's URL, as given to `enrol`.
    pub hub: String,
    /// SHA-256 of the hub CA's public key.
    pub pin: String,
    /// The serial number under which it enrolled.
    pub serial: Serial,
    /// What the hub signed.
    pub identity: Identity,
    /// By the hub's clock, when it signed.
    pub signed_at: Millis,
}

impl Enrolled {
    /// The pin, parsed.
    ///
    /// # Errors
    /// When the file was tampered with.
    pub(crate) fn pin(&self) -> Result<Pin, StateError> {
        self.pin.parse().map_err(|_| StateError::Damaged { path: IDENTITY.into(), why: "the pin is not one".into() })
    }

    /// Whether it is the same enrolment with the same certificate; the name may have changed.
    fn is_same(&self, other: &Self) -> bool {
        let of = |enrolled: &Self| (enrolled.pin.clone(), enrolled.identity.uid.clone(), enrolled.identity.certificate.clone());
        of(self) == of(other)
    }

    /// The latest time that is believed on the hub's word: when a new certificate is due.
    ///
    /// Then a hub that is years ahead for a moment does not leave behind a device to which every certificate looks expired:
    /// the hub renews its own with 60 days left, so one that was good when ours was signed is still good then.
    pub(crate) fn believed_until(&self) -> Millis {
        Validity::of_pem(&self.identity.certificate).map_or(0, Validity::renew_at)
    }
}

/// `request.json`: an enrolment that waits for a person, so that `enrol` can be interrupted and repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PendingRequest {
    /// The hub's URL.
    pub hub: String,
    /// SHA-256 of the hub CA's public key.
    pub pin: String,
    /// The serial number.
    pub serial: Serial,
    /// The request's name on the hub.
    pub request: String,
    /// The code for a person.
    pub pairing_code: String,
}

/// `link.json`: what a link needs to know of the ones before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LinkState {
    /// Number of the last connection.
    pub link: u64,
    /// The last time that the hub told: certificate dates are checked against the later of this and the system clock, see [`State::clock`].
    pub hub_time: Millis,
    /// Whether MQTT got through as WebSocket the last time.
    pub websocket: bool,
}

const KEY: &str = "key.pem";
const IDENTITY: &str = "identity.json";
const IDENTITY_LOCK: &str = "identity.lock";
const REQUEST: &str = "request.json";
const LINK: &str = "link.json";
/// Largest state file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct State {
    dir: PathBuf,
}

impl State {
    /// The state in `dir`. Touches nothing.
    pub(crate) fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Holds the directory for one running daemon, as long as the value lives: two would mix their samples in one spool,
    /// and take the link from each other for ever. The lock is on the directory itself and dies with the process.
    ///
    /// # Errors
    /// [`StateError::Taken`] when another daemon has it, and when it cannot be opened or locked.
    pub(crate) fn hold(&self) -> Result<File, StateError> {
        let failed = |source| StateError::Io { action: "lock the state directory", path: self.dir.clone(), source };
        let held = File::open(&self.dir).map_err(failed)?;
        match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(held),
            Err(Errno::WOULDBLOCK) => Err(StateError::Taken(self.dir.clone())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Makes the directory, for nobody else to read, and proves that a file can be written in it.
    ///
    /// # Errors
    /// When it cannot be made or written: read-only, full, not ours.
    pub(crate) fn prepare(&self) -> Result<(), StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(|source| StateError::Io {
            action: "make the state directory",
            path: self.dir.clone(),
            source,
        })?;
        let probe = self.dir.join(".probe");
        // A full disk still makes empty files: the probe has some bytes.
        let result = write_atomic(&probe, &[0u8; 4096], 0o600);
        let _ = std::fs::remove_file(&probe);
        result
    }

    /// The device's key, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn key(&self) -> Result<Option<DeviceKey>, StateError> {
        let path = self.dir.join(KEY);
        let Some(pem) = read_bounded(&path)? else { return Ok(None) };
        DeviceKey::from_pem(&pem).map(Some).map_err(|why| StateError::Damaged { path, why })
    }

    /// The device's key; makes one if there is none.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub(crate) fn key_or_new(&self) -> Result<DeviceKey, StateError> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let key = DeviceKey::generate();
        write_atomic(&self.dir.join(KEY), key.to_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    /// The identity, if enrolled.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn enrolled(&self) -> Result<Option<Enrolled>, StateError> {
        self.read(IDENTITY)
    }

    /// Keeps the identity; the pending request has served.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_enrolled(&self, enrolled: &Enrolled) -> Result<(), StateError> {
        let _held = self.hold_identity()?;
        self.write(IDENTITY, enrolled)?;
        let _ = std::fs::remove_file(self.dir.join(REQUEST));
        Ok(())
    }

    /// Changes what is known of the identity, unless there is another by now: `musterd enrol` is a process of its own, and what it
    /// wrote stands. Whether it was changed.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn change_enrolled(&self, known: &Enrolled, change: impl FnOnce(&mut Enrolled)) -> Result<bool, StateError> {
        let _held = self.hold_identity()?;
        let Some(mut current) = self.enrolled()?.filter(|current| current.is_same(known)) else { return Ok(false) };
        change(&mut current);
        self.write(IDENTITY, &current)?;
        Ok(true)
    }

    /// From reading to writing, among all processes. Held for moments; dies with the process.
    fn hold_identity(&self) -> Result<File, StateError> {
        let path = self.dir.join(IDENTITY_LOCK);
        let failed = |source| StateError::Io { action: "lock", path: path.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        give_to_owner(&file, &path).map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// The enrolment that waits, if any.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub(crate) fn pending(&self) -> Result<Option<PendingRequest>, StateError> {
        self.read(REQUEST)
    }

    /// Keeps the enrolment that waits.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_pending(&self, pending: &PendingRequest) -> Result<(), StateError> {
        self.write(REQUEST, pending)
    }

    /// Forgets the enrolment that waits.
    pub(crate) fn forget_pending(&self) {
        let _ = std::fs::remove_file(self.dir.join(REQUEST));
    }

    /// The numbers of the last link; zeros where there was none or they are unreadable: none of them is worth not starting.
    pub(crate) fn link(&self) -> LinkState {
        self.read(LINK).ok().flatten().unwrap_or_default()
    }

    /// The clock for the dates of certificates: never before the last time that the hub told, as far as that is believed.
    pub(crate) fn clock(&self) -> tls::Clock {
        let told = self.link().hub_time;
        let identity = self.enrolled().ok().flatten();
        tls::Clock::with_floor(identity.map_or(told, |identity| told.min(identity.believed_until())))
    }

    /// Keeps the numbers of the link.
    ///
    /// # Errors
    /// When they cannot be written; the caller goes on without.
    pub(crate) fn set_link(&self, link: &LinkState) -> Result<(), StateError> {
        self.write(LINK, link)
    }

    /// The client's side of mutual TLS: the hub's pinned CA, this device's certificate and key.
    ///
    /// # Errors
    /// When there is no key, or the parts do not fit together.
    pub(crate) fn client_tls(&self, enrolled: &Enrolled, clock: &tls::Clock) -> Result<std::sync::Arc<rustls::ClientConfig>, StateError> {
        let damaged = |what: &str, why: String| StateError::Damaged { path: self.dir.join(what), why };
        let key = self.key()?.ok_or_else(|| damaged(KEY, "it is missing".into()))?;
        let identity = tls::Identity::from_pem(enrolled.identity.certificate.as_bytes(), key.to_pem().as_bytes())
            .map_err(|error| damaged(IDENTITY, error.to_string()))?;
        tls::client_config(&tls::Trust::Pin(enrolled.pin()?), Some(&identity), clock).map_err(|error| damaged(IDENTITY, error.to_string()))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.dir.join(name);
        let Some(text) = read_bounded(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| StateError::Damaged { path, why: error.to_string() })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(value).expect("state types have text keys and no fallible serializer");
        text.push(b'\n');
        write_atomic(&self.dir.join(name), &text, 0o600)
    }
}

fn read_bounded(path: &Path) -> Result<Option<String>, StateError> {
    let failed = |source| StateError::Io { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX), &mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Writes a file that is old or new, never half, also through a power cut.
///
/// # Errors
/// When any step fails; the old file is then untouched and nothing is left beside it.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        // A left-over of a killed process with our number would keep its mode.
        let _ = std::fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        give_to_owner(&file, path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        StateError::Io { action: "write", path: path.to_owned(), source }
    })
}

/// `sudo musterd enrol` writes for the daemon, which runs as a user of its own: what root puts into that user's directory is that user's.
fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent().filter(|_| rustix::process::geteuid().is_root()) else { return Ok(()) };
    let owner = std::fs::metadata(dir)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::at(dir.path().join("state"));
        assert!(state.key().unwrap().is_none());
        state.prepare().unwrap();
        let key = state.key_or_new().unwrap();
        assert_eq!(state.key_or_new().unwrap().to_pem(), key.to_pem());
        let metadata = std::fs::metadata(state.dir().join(KEY)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(state.dir()).unwrap().mode() & 0o777, 0o700);
        let names: Vec<_> = std::fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [KEY], "nothing else is left behind");
    }

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::at(dir.path());
        let first = state.hold().unwrap();
        let error = state.hold().unwrap_err();
        assert!(matches!(error, StateError::Taken(_)), "{error}");
        assert!(error.to_string().contains("another musterd runs"), "{error}");
        state.prepare().unwrap();
        drop(first);
        drop(state.hold().unwrap());
    }

    #[test]
    fn what_root_writes_belongs_to_the_directorys_owner() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(dir.path(), Some(12345), Some(12346)).unwrap();
        }
        let path = dir.path().join("file");
        write_atomic(&path, b"new", 0o600).unwrap();
        let (file, dir) = (std::fs::metadata(&path).unwrap(), std::fs::metadata(dir.path()).unwrap());
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (dir.uid(), dir.gid(), 0o600));
        assert_eq!(root, file.uid() == 12345);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_half() {
        // /dev/full fails every write as a full disk does; a directory in place of the target fails the rename.
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("identity.json");
        std::fs::create_dir(&target).unwrap();
        let error = write_atomic(&target, b"new", 0o600).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    fn enrolled(certificate: &str) -> Enrolled {
        let mqtt = serde_json::json!({"url": "mqtts://hub:8883"});
        serde_json::from_value(serde_json::json!({
            "hub": "https://hub", "pin": "", "serial": "1", "signed_at": 0,
            "identity": {"uid": "daaaaaaaaaaaaaaa", "org": "acme", "name": "robot", "certificate": certificate, "ca": "", "mqtt": mqtt},
        }))
        .unwrap()
    }

    #[test]
    fn a_renewal_does_not_write_over_an_enrolment_that_came_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::at(dir.path());
        let (old, renewed, anew) = (enrolled("old"), enrolled("renewed"), enrolled("anew"));
        state.set_enrolled(&old).unwrap();
        state.set_enrolled(&anew).unwrap();
        assert!(!state.change_enrolled(&old, |current| current.clone_from(&renewed)).unwrap(), "before it");
        assert_eq!(state.enrolled().unwrap(), Some(anew.clone()));

        state.set_enrolled(&old).unwrap();
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        let enrolling = std::cell::Cell::new(None);
        let changed = state.change_enrolled(&old, |current| {
            let (state, anew) = (state.clone(), anew.clone());
            enrolling.set(Some(std::thread::spawn(move || done.send(state.set_enrolled(&anew).is_ok()))));
            assert!(wait.recv_timeout(std::time::Duration::from_millis(200)).is_err(), "nobody comes in between");
            current.clone_from(&renewed);
        });
        assert!(changed.unwrap() && wait.recv().unwrap());
        enrolling.take().unwrap().join().unwrap().unwrap();
        assert_eq!(state.enrolled().unwrap(), Some(anew), "after it");
    }

    #[test]
    fn a_renewal_leaves_an_enrolment_that_waits_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::at(dir.path());
        let old = enrolled("old");
        state.set_enrolled(&old).unwrap();
        std::fs::write(dir.path().join(REQUEST), "{}").unwrap();
        assert!(state.change_enrolled(&old, |current| current.identity.certificate = "renewed".into()).unwrap());
        assert!(dir.path().join(REQUEST).exists());
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::at(dir.path());
        std::fs::write(dir.path().join(IDENTITY), "{\"hub\":").unwrap();
        let error = state.enrolled().unwrap_err().to_string();
        assert!(error.contains("identity.json is damaged") && error.contains("musterd enrol"), "{error}");
        std::fs::write(dir.path().join(LINK), "garbage").unwrap();
        assert_eq!(state.link(), LinkState::default());
        std::fs::write(dir.path().join(KEY), "garbage").unwrap();
        assert!(state.key().is_err());
    }
}
