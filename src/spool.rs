//! Samples that wait for the hub: append-only segments on disk, a ring in memory where the disk cannot be written.
//!
//! What is promised: a sample that was taken is delivered, at least once, oldest first, with its own time, also after SIGKILL.
//! After a power cut the samples of the last [`Spool::sync`] interval may be missing, and nothing else: while the hub is away the daemon
//! syncs once per publishing interval; while it is there it does not sync at all, because the samples are with the hub by then.
//! Flash memory is not worn out by an fsync per sample.
//!
//! Full: the oldest segment goes and its samples are counted; the count reaches the hub with the next batch.
//! Unreadable: only what a checksum proves broken, or what is gone, is given up. Any other error is told and tried again, and a segment
//! that cannot be read for minutes is set aside under another name, for a person, so that those after it are delivered; eight are kept.
//! This module knows files; the bytes are in [`format`]. It never blocks the caller on anything but the local disk.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::log::{error, info, warn};

mod format;

pub(crate) use format::Sample;
use format::{Position, Reader, Record};

/// A segment is closed at this size, or at an eighth of the spool's bound: what is dropped at once when the spool is full.
const SEGMENT_MAX: u64 = 256 * 1024;
/// Samples kept in memory while the disk cannot be written: two hours at one per 10 s, under 2 MB. Then the oldest go.
const MEMORY_MAX: usize = 720;

/// A segment that cannot be read is set aside after so many tries, which are seconds to a minute apart.
const READ_TRIES: u32 = 30;
/// Segments set aside for a person, at most 2 MB beside the spool's bound; then the oldest go.
const ASIDE_MAX: usize = 8;
/// How their names end.
const ASIDE: &str = "unreadable";

/// A segment that cannot be read now.
#[derive(Debug)]
struct Trouble {
    number: u64,
    tries: u32,
    text: String,
}

/// What is to become of a segment that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is read again later.
    Later,
    /// It is not there any more.
    Gone,
    /// It waits for a person.
    Aside,
}

/// One file.
#[derive(Debug)]
struct Segment {
    number: u64,
    boot: String,
    samples: u32,
    bytes: u64,
}

/// How far the first segment has been delivered.
#[derive(Debug, Default)]
struct Head {
    samples: u32,
    offset: u64,
    reader: Reader,
}

/// Samples to be sent together: consecutive numbers of one life of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    /// The daemon's life.
    pub boot: String,
    /// At least one.
    pub samples: Vec<Sample>,
    /// Losses that the hub has to be told of.
    pub dropped: u64,
    place: Place,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// The segment, where the batch ends in it, and the reader there.
    Disk {
        segment: u64,
        offset: u64,
        reader: Reader,
    },
    Memory,
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    max: u64,
    boot: String,
    segments: VecDeque<Segment>,
    head: Head,
    /// The last segment, open for appending. None before the first sample and while the disk fails.
    active: Option<File>,
    schema: Vec<Arc<str>>,
    memory: VecDeque<Sample>,
    dropped: u64,
    dirty: bool,
    /// Whether the files of earlier lives are known; nothing is written before, so that none is written over.
    recovered: bool,
    fault: Option<String>,
    trouble: Option<Trouble>,
}

impl Spool {
    /// Opens the spool in `dir`. Never fails: what cannot be read is left out, and without a disk samples wait in memory.
    pub(crate) fn open(dir: PathBuf, max: u64, boot: String) -> Self {
        let mut spool = Self {
            dir,
            max,
            boot,
            segments: VecDeque::new(),
            head: Head::default(),
            active: None,
            schema: Vec::new(),
            memory: VecDeque::new(),
            dropped: 0,
            dirty: false,
            recovered: false,
            fault: None,
            trouble: None,
        };
        if let Err(error) = spool.recover() {
            spool.set_fault("read", &error);
        }
        spool
    }

    /// Samples that wait.
    pub(crate) fn waiting(&self) -> u64 {
        let on_disk: u64 = self.segments.iter().map(|segment| u64::from(segment.samples)).sum();
        on_disk - u64::from(self.head.samples) + self.memory.len() as u64
    }

    /// What is wrong with the disk, if anything is.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref().or_else(|| self.trouble.as_ref().map(|trouble| trouble.text.as_str()))
    }

    /// Adds a sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        self.memory.push_back(sample);
        match self.write_memory() {
            Ok(()) => {
                if self.fault.take().is_some() {
                    info!("the spool can be written again; what waited in memory is on the disk");
                }
            }
            Err(error) => {
                self.active = None;
                self.set_fault("write", &error);
                while self.memory.len() > MEMORY_MAX {
                    self.memory.pop_front();
                    self.dropped += 1;
                }
            }
        }
        self.enforce_bound();
    }

    /// The oldest samples, at most `most`, without taking them out.
    pub(crate) fn peek(&mut self, most: usize) -> Option<Batch> {
        while let Some(segment) = self.segments.front() {
            if self.head.samples < segment.samples {
                let number = segment.number;
                match self.peek_disk(most) {
                    Ok(Some(batch)) => {
                        self.trouble = None;
                        return Some(batch);
                    }
                    Ok(None) => warn!("spool segment {number:016x} is damaged; its last samples are lost"),
                    // What waits in memory goes ahead of it, rather than not at all.
                    Err(error) if self.unreadable(number, &error) == Verdict::Later => break,
                    Err(_) => {}
                }
                self.dropped += u64::from(self.segments[0].samples - self.head.samples);
            } else if self.segments.len() == 1 && self.active.is_some() {
                break;
            }
            self.remove_first();
        }
        let samples: Vec<Sample> = consecutive(self.memory.iter().take(most).cloned());
        (!samples.is_empty()).then(|| Batch { boot: self.boot.clone(), samples, dropped: self.dropped, place: Place::Memory })
    }

    /// The hub has the batch: its samples leave the spool.
    pub(crate) fn delivered(&mut self, batch: &Batch) {
        self.dropped = self.dropped.saturating_sub(batch.dropped);
        match &batch.place {
            Place::Memory => {
                // They may have moved to the disk meanwhile; then they are sent once more, and the hub knows their numbers.
                let last = batch.samples.last().map_or(0, |sample| sample.seq);
                while self.memory.front().is_some_and(|sample| sample.seq <= last) {
                    self.memory.pop_front();
                }
            }
            Place::Disk { segment, offset, reader } => {
                if self.segments.front().is_some_and(|first| first.number == *segment) && *offset > self.head.offset {
                    let samples = self.head.samples + batch.samples.len() as u32;
                    self.head = Head { samples, offset: *offset, reader: reader.clone() };
                }
            }
        }
        while self.segments.front().is_some_and(|first| self.head.samples >= first.samples) {
            if self.segments.len() == 1 && self.active.is_some() {
                break;
            }
            self.remove_first();
        }
        self.write_position();
    }

    /// Makes what was written survive a power cut.
    pub(crate) fn sync(&mut self) {
        if let Some(file) = self.active.as_ref().filter(|_| self.dirty) {
            match file.sync_data() {
                Ok(()) => self.dirty = false,
                Err(error) => self.set_fault("sync", &error),
            }
        }
    }

    fn segment_max(&self) -> u64 {
        SEGMENT_MAX.min(self.max / 8)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.seg"))
    }

    /// A segment could not be read: tells it, and decides what becomes of it.
    fn unreadable(&mut self, number: u64, error: &io::Error) -> Verdict {
        let text = format!("cannot read the spool segment {}: {error}", self.path(number).display());
        let tries = self.trouble.as_ref().filter(|trouble| trouble.number == number).map_or(0, |trouble| trouble.tries) + 1;
        if self.trouble.as_ref().is_none_or(|trouble| trouble.text != text) {
            error!("{text}; it is tried again");
        }
        self.trouble = Some(Trouble { number, tries, text });
        let verdict = verdict(error, tries);
        match verdict {
            Verdict::Later => return verdict,
            Verdict::Gone => warn!("spool segment {number:016x} is gone; its samples are lost"),
            Verdict::Aside => {
                let aside = self.path(number).with_extension(ASIDE);
                if let Err(error) = std::fs::rename(self.path(number), &aside) {
                    error!("spool segment {number:016x} cannot be set aside either: {error}");
                    return Verdict::Later;
                }
                warn!("spool segment {number:016x} was moved to {}; its samples are not delivered", aside.display());
                self.bound_aside();
            }
        }
        self.trouble = None;
        verdict
    }

    /// A disk that fails again and again sets aside segment after segment: it is not filled with them.
    fn bound_aside(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut aside: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ext| ext == ASIDE)).collect();
        // By when they were written last: their numbers begin anew where the spool was empty.
        aside.sort_by_cached_key(|path| (std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok(), path.clone()));
        for path in aside.iter().take(aside.len().saturating_sub(ASIDE_MAX)) {
            match std::fs::remove_file(path) {
                Ok(()) => warn!("{} was set aside long ago and is removed: there are {ASIDE_MAX} newer ones", path.display()),
                Err(error) => error!("{} was set aside and cannot be removed: {error}", path.display()),
            }
        }
    }

    fn set_fault(&mut self, action: &str, error: &io::Error) {
        let fault = format!("cannot {action} the spool {}: {error}", self.dir.display());
        if self.fault.as_ref() != Some(&fault) {
            error!("{fault}; samples wait in memory, at most {MEMORY_MAX}");
        }
        self.fault = Some(fault);
    }

    /// Writes all that is in memory to the active segment.
    fn write_memory(&mut self) -> io::Result<()> {
        if !self.recovered {
            self.recover()?;
        }
        while let Some(sample) = self.memory.front() {
            let names: Vec<Arc<str>> = sample.values.iter().map(|(name, _)| Arc::clone(name)).collect();
            let mut bytes = Vec::new();
            if self.active.is_none() || self.segments.back().is_none_or(|last| last.bytes >= self.segment_max()) {
                self.start_segment()?;
            }
            if names != self.schema {
                format::put_schema(&mut bytes, &names);
            }
            if let Some(sample) = self.memory.front() {
                format::put_sample(&mut bytes, sample);
            }
            self.append(&bytes, 1)?;
            self.schema = names;
            self.memory.pop_front();
        }
        Ok(())
    }

    /// Notes the progress. Where it cannot be written, samples are sent once more after a restart, and the hub knows their numbers.
    fn write_position(&mut self) {
        let mut bytes = Vec::new();
        format::put_position(&mut bytes, self.position());
        let _ = self.append(&bytes, 0);
    }

    fn position(&self) -> Position {
        let segment = self.segments.front().map_or(0, |first| first.number);
        Position { segment, samples: self.head.samples, dropped: self.dropped }
    }

    fn start_segment(&mut self) -> io::Result<()> {
        self.active = None;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let number = self.segments.back().map_or(0, |last| last.number) + 1;
        // A file of this number can only be a left-over that holds nothing; it is written over.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path(number))?;
        self.active = Some(file);
        self.schema.clear();
        self.segments.push_back(Segment { number, boot: self.boot.clone(), samples: 0, bytes: 0 });
        let mut bytes = Vec::new();
        format::put_header(&mut bytes, &self.boot);
        format::put_position(&mut bytes, self.position());
        self.append(&bytes, 0).inspect_err(|_| {
            // A full disk still makes empty files: not one for every try.
            self.active = None;
            self.segments.pop_back();
            let _ = std::fs::remove_file(self.path(number));
        })
    }

    /// Appends whole records to the active segment, or nothing.
    fn append(&mut self, bytes: &[u8], samples: u32) -> io::Result<()> {
        let (Some(file), Some(last)) = (self.active.as_mut(), self.segments.back_mut()) else { return Ok(()) };
        let written = file.seek(SeekFrom::Start(last.bytes)).and_then(|_| file.write_all(bytes));
        if let Err(error) = written {
            // A full disk may have taken a part.
            let _ = file.set_len(last.bytes);
            return Err(error);
        }
        last.bytes += bytes.len() as u64;
        last.samples += samples;
        self.dirty = true;
        Ok(())
    }

    fn peek_disk(&mut self, most: usize) -> io::Result<Option<Batch>> {
        let Some(segment) = self.segments.front() else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut file = File::open(self.path(segment.number))?;
        file.seek(SeekFrom::Start(self.head.offset))?;
        file.take(segment.bytes - self.head.offset).read_to_end(&mut bytes)?;
        // The head's reader stays where the head is: a batch may be peeked at again.
        let (mut reader, mut taken, mut end) = (self.head.reader.clone(), 0, 0);
        let mut samples: Vec<Sample> = Vec::new();
        while samples.len() < most
            && let Some((record, len)) = reader.next(&bytes[taken..])
        {
            if let Record::Sample(sample) = record {
                if samples.last().is_some_and(|last| last.seq + 1 != sample.seq) {
                    break;
                }
                samples.push(sample);
                end = taken + len;
            }
            taken += len;
        }
        let place = Place::Disk { segment: segment.number, offset: self.head.offset + end as u64, reader };
        if end == 0 {
            return Ok(None);
        }
        Ok(Some(Batch { boot: segment.boot.clone(), samples, dropped: self.dropped, place }))
    }

    /// Removes the first segment's file.
    fn remove_first(&mut self) {
        if let Some(first) = self.segments.pop_front() {
            let _ = std::fs::remove_file(self.path(first.number));
            self.head = Head::default();
            if self.segments.is_empty() {
                self.active = None;
            }
        }
    }

    fn enforce_bound(&mut self) {
        let mut lost = 0;
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.bytes).sum::<u64>() > self.max {
            lost += u64::from(self.segments[0].samples - self.head.samples);
            self.remove_first();
        }
        if lost > 0 {
            self.dropped += lost;
            self.write_position();
            warn!("the spool is full ({} bytes): the oldest {lost} samples are dropped", self.max);
        }
    }

    /// Reads what an earlier life of the daemon left.
    fn recover(&mut self) -> io::Result<()> {
        let mut numbers: Vec<u64> = match std::fs::read_dir(&self.dir) {
            Ok(entries) => {
                let paths = entries.map(|entry| Ok(segment_number(&entry?.path()))).collect::<io::Result<Vec<_>>>()?;
                paths.into_iter().flatten().collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        numbers.sort_unstable();
        let (mut segments, mut position) = (VecDeque::new(), Position::default());
        for number in numbers {
            let bytes = match std::fs::read(self.path(number)) {
                Ok(bytes) => bytes,
                Err(error) if self.unreadable(number, &error) == Verdict::Later => return Err(error),
                Err(_) => continue,
            };
            let mut segment = Segment { number, boot: String::new(), samples: 0, bytes: 0 };
            scan(&bytes, |record, end| {
                match record {
                    Record::Header { boot } => segment.boot = boot,
                    Record::Sample(_) => segment.samples += 1,
                    Record::Position(last) => position = last,
                }
                segment.bytes = end as u64;
                true
            });
            if segment.bytes < bytes.len() as u64 {
                info!("spool segment {number:016x} ends in {} torn bytes", bytes.len() as u64 - segment.bytes);
            }
            segments.push_back(segment);
        }
        self.segments = segments;
        self.trouble = None;
        // From here on a failure costs no more than that some samples are sent once more.
        self.recovered = true;
        self.dropped += position.dropped;
        while self.segments.front().is_some_and(|first| first.number < position.segment || first.samples == 0 || first.boot.is_empty()) {
            self.remove_first();
        }
        if self.segments.front().is_some_and(|first| first.number == position.segment) {
            self.seek_head(position.samples)?;
        }
        self.enforce_bound();
        Ok(())
    }

    /// Moves the head behind so many samples of the first segment.
    fn seek_head(&mut self, samples: u32) -> io::Result<()> {
        let bytes = std::fs::read(self.path(self.segments[0].number))?;
        let (mut head, mut taken) = (Head::default(), 0);
        while head.samples < samples
            && let Some((record, len)) = head.reader.next(&bytes[taken..])
        {
            taken += len;
            if let Record::Sample(_) = record {
                head.samples += 1;
                head.offset = taken as u64;
            }
        }
        self.head = head;
        Ok(())
    }
}

/// What an error of reading means at the n-th try in a row.
fn verdict(error: &io::Error, tries: u32) -> Verdict {
    // Too many open files or too little memory: our own want, which says nothing about the segment.
    let ours = error.raw_os_error().is_some_and(|code| {
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN].iter().any(|errno| errno.raw_os_error() == code)
    });
    match error.kind() {
        io::ErrorKind::NotFound => Verdict::Gone,
        _ if ours || tries < READ_TRIES => Verdict::Later,
        _ => Verdict::Aside,
    }
}

/// Calls `each` with every whole record and the place where it ends, until it says no.
fn scan(bytes: &[u8], mut each: impl FnMut(Record, usize) -> bool) {
    let (mut reader, mut taken) = (Reader::default(), 0);
    while let Some((record, len)) = reader.next(&bytes[taken..]) {
        taken += len;
        if !each(record, taken) {
            break;
        }
    }
}

fn segment_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

/// The samples up to the first gap in their numbers.
fn consecutive(samples: impl Iterator<Item = Sample>) -> Vec<Sample> {
    let mut out: Vec<Sample> = Vec::new();
    for sample in samples {
        if out.last().is_some_and(|last| last.seq + 1 != sample.seq) {
            break;
        }
        out.push(sample);
    }
    out
}

#[cfg(test)]
mod tests;
