//! The spool against restarts, torn files, full and missing disks.

use super::*;

const BOOT: &str = "0123456789abcdef";
const LATER: &str = "fedcba9876543210";

fn sample(seq: u64) -> Sample {
    Sample { seq, t: 1_795_000_000_000 + seq as i64 * 10_000, values: vec![("cpu".into(), Some(seq as f64)), ("mem".into(), Some(1e9))] }
}

fn open(dir: &Path, boot: &str) -> Spool {
    Spool::open(dir.join("spool"), 1 << 20, boot.into())
}

/// Takes everything out, as a hub that acknowledges at once.
fn drain(spool: &mut Spool) -> Vec<(String, u64)> {
    let mut out = Vec::new();
    while let Some(batch) = spool.peek(60) {
        out.extend(batch.samples.iter().map(|sample| (batch.boot.clone(), sample.seq)));
        spool.delivered(&batch);
    }
    out
}

fn seqs(boot: &str, range: std::ops::Range<u64>) -> Vec<(String, u64)> {
    range.map(|seq| (boot.to_owned(), seq)).collect()
}

#[test]
fn delivered_once_and_in_order_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..100 {
        spool.push(sample(seq));
    }
    let first = spool.peek(30).unwrap();
    assert_eq!(spool.peek(30).unwrap(), first, "peeking takes nothing out");
    spool.delivered(&first);
    assert_eq!(spool.waiting(), 70);
    // SIGKILL: no farewell, the file is as it is.
    drop(spool);

    let mut spool = open(dir.path(), LATER);
    assert_eq!(spool.waiting(), 70);
    for seq in 0..5 {
        spool.push(sample(seq));
    }
    let mut want = seqs(BOOT, 30..100);
    want.extend(seqs(LATER, 0..5));
    assert_eq!(drain(&mut spool), want);
    assert_eq!(spool.waiting(), 0);
    drop(spool);

    let mut spool = open(dir.path(), BOOT);
    assert_eq!(drain(&mut spool), []);
}

#[test]
fn values_and_times_are_kept_over_a_change_of_columns() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    let other = Sample { seq: 1, t: 5, values: vec![("battery".into(), None), ("cpu".into(), Some(0.25))] };
    spool.push(sample(0));
    spool.push(other.clone());
    spool.push(sample(2));
    let first = spool.peek(1).unwrap();
    assert_eq!(first.samples, [sample(0)]);
    spool.delivered(&first);
    drop(spool);
    let mut spool = open(dir.path(), LATER);
    assert_eq!(spool.peek(10).unwrap().samples, [other, sample(2)]);
}

#[test]
fn a_torn_tail_costs_one_sample_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..10 {
        spool.push(sample(seq));
    }
    let path = spool.path(1);
    let len = std::fs::metadata(&path).unwrap().len();
    drop(spool);
    File::options().write(true).open(&path).unwrap().set_len(len - 3).unwrap();
    let mut spool = open(dir.path(), LATER);
    spool.push(sample(0));
    let mut want = seqs(BOOT, 0..9);
    want.extend(seqs(LATER, 0..1));
    assert_eq!(drain(&mut spool), want);
}

#[test]
fn the_oldest_go_first_and_are_counted_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let max = 64 * 1024;
    let mut spool = Spool::open(dir.path().join("spool"), max, BOOT.into());
    for seq in 0..5000 {
        spool.push(sample(seq));
    }
    let on_disk: u64 = std::fs::read_dir(dir.path().join("spool")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk <= max, "{on_disk}");
    drop(spool);
    let mut spool = Spool::open(dir.path().join("spool"), max, LATER.into());
    let batch = spool.peek(10).unwrap();
    let dropped = batch.dropped;
    assert!(dropped > 3000, "{dropped}");
    let lost = batch.samples[0].seq;
    assert_eq!(lost, dropped, "every loss is told");
    spool.delivered(&batch);
    let next = spool.peek(10).unwrap();
    assert_eq!(next.dropped, 0, "told once");
    assert_eq!(next.samples[0].seq, lost + 10);
    assert_eq!(drain(&mut spool).last(), Some(&(BOOT.to_owned(), 4999)));
}

#[test]
fn without_a_disk_samples_wait_in_memory_and_move_to_the_disk_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    // A file stands where the directory should be: every write fails, for root too.
    std::fs::write(dir.path().join("spool"), "").unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..(MEMORY_MAX as u64 + 10) {
        spool.push(sample(seq));
    }
    assert!(spool.fault().unwrap().contains("cannot write the spool"), "{:?}", spool.fault());
    assert_eq!(spool.waiting(), MEMORY_MAX as u64);
    let batch = spool.peek(5).unwrap();
    assert_eq!((batch.dropped, batch.samples[0].seq), (10, 10));
    spool.delivered(&batch);

    std::fs::remove_file(dir.path().join("spool")).unwrap();
    spool.push(sample(MEMORY_MAX as u64 + 10));
    assert_eq!(spool.fault(), None);
    drop(spool);
    let mut spool = open(dir.path(), LATER);
    assert_eq!(drain(&mut spool), seqs(BOOT, 15..MEMORY_MAX as u64 + 11));
}

#[test]
fn a_quiet_spool_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path().join("spool"), 1 << 20, BOOT.into());
    for seq in 0..20_000 {
        spool.push(sample(seq));
        if seq % 6 == 5 {
            // Two batches where a new segment began between them.
            assert_eq!(drain(&mut spool), seqs(BOOT, seq - 5..seq + 1));
        }
    }
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 1);
}

#[test]
fn a_damaged_segment_does_not_hold_up_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..10 {
        spool.push(sample(seq));
    }
    let path = spool.path(1);
    // Damaged while we run: the count in memory says ten, the file does not agree.
    std::fs::write(&path, b"garbage").unwrap();
    assert_eq!(spool.peek(60), None);
    spool.push(sample(10));
    let batch = spool.peek(60).unwrap();
    assert_eq!((batch.dropped, batch.samples[0].seq), (10, 10));
}

/// Makes a segment unreadable for everybody, root too, and gives the way back.
fn hide(path: &Path) -> impl FnOnce() + use<> {
    let (path, away) = (path.to_owned(), path.with_extension("away"));
    std::fs::rename(&path, &away).unwrap();
    std::fs::create_dir(&path).unwrap();
    move || {
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&away, &path).unwrap();
    }
}

#[test]
fn what_cannot_be_read_now_is_read_later_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..10 {
        spool.push(sample(seq));
    }
    let back = hide(&spool.path(1));
    for _ in 0..5 {
        assert_eq!(spool.peek(60), None);
    }
    assert!(spool.fault().unwrap().contains("cannot read the spool segment"), "{:?}", spool.fault());
    assert_eq!(spool.waiting(), 10);
    back();
    let batch = spool.peek(60).unwrap();
    assert_eq!((batch.samples.len(), batch.dropped), (10, 0));
    assert_eq!(spool.fault(), None);
}

#[test]
fn a_segment_that_stays_unreadable_is_set_aside_and_those_after_it_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), BOOT);
    for seq in 0..10 {
        spool.push(sample(seq));
    }
    drop(spool);
    let mut spool = open(dir.path(), LATER);
    for seq in 0..10 {
        spool.push(sample(seq));
    }
    // Nine were set aside before, under lower numbers and higher ones; the last of them longest ago.
    let aside = |number: u64| dir.path().join(format!("spool/{number:016x}.unreadable"));
    for number in 100..109 {
        let file = std::fs::File::create(aside(number)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(200 - number)).unwrap();
    }
    let (first, _) = (spool.path(1), hide(&spool.path(1)));
    let tries = (0..).find(|_| spool.peek(60).is_some()).unwrap();
    assert_eq!(tries + 1, READ_TRIES);
    let batch = spool.peek(60).unwrap();
    assert_eq!((batch.boot.as_str(), batch.dropped), (LATER, 10), "it is told to the hub");
    assert!(first.with_extension(ASIDE).exists(), "for a person");
    let kept = (100..109).filter(|number| aside(*number).exists()).collect::<Vec<_>>();
    assert_eq!(kept, [100, 101, 102, 103, 104, 105, 106], "seven beside it");
}

#[test]
fn a_start_that_cannot_read_a_segment_writes_over_none() {
    let dir = tempfile::tempdir().unwrap();
    for boot in [BOOT, LATER] {
        let mut spool = open(dir.path(), boot);
        for seq in 0..5 {
            spool.push(sample(seq));
        }
    }
    let third = "1111111111111111";
    let back = hide(&dir.path().join("spool/0000000000000002.seg"));
    let mut spool = open(dir.path(), third);
    for seq in 0..5 {
        spool.push(sample(seq));
    }
    assert!(spool.fault().is_some());
    back();
    spool.push(sample(5));
    assert_eq!(spool.fault(), None);
    assert_eq!(drain(&mut spool), [seqs(BOOT, 0..5), seqs(LATER, 0..5), seqs(third, 0..6)].concat());
}

#[test]
fn only_what_is_gone_is_given_up_at_once() {
    let of = |errno: Errno, tries| verdict(&errno.into(), tries);
    assert_eq!(of(Errno::NOENT, 1), Verdict::Gone);
    for (errno, at_last) in [(Errno::IO, Verdict::Aside), (Errno::MFILE, Verdict::Later), (Errno::NFILE, Verdict::Later)] {
        assert_eq!((of(errno, 1), of(errno, READ_TRIES - 1)), (Verdict::Later, Verdict::Later), "{errno:?}");
        assert_eq!(of(errno, READ_TRIES), at_last, "{errno:?}");
    }
}
