//! The system's clock, whether it is right, and the system's time zones. A shell: it asks the kernel and reads files.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use muster_proto::Millis;

use super::Moment;

/// Where systems keep their time zones.
const ZONES: &str = "/usr/share/zoneinfo";
/// Largest file of a time zone; the largest there is has about 4 KiB.
const ZONE_MAX: u64 = 64 * 1024;

/// Now, by the system's clock.
pub fn moment() -> Moment {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX));
    Moment { now, synchronised: synchronised() }
}

/// Whether the kernel says that something keeps its clock right. Where it may not be asked, nobody knows.
fn synchronised() -> bool {
    // SAFETY: timex is a C structure of numbers, for which zero is a value.
    #[expect(unsafe_code, reason = "adjtimex(2) has no safe wrapper in rustix")]
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into this structure alone; modes is zero, so it changes nothing.
    #[expect(unsafe_code, reason = "adjtimex(2) has no safe wrapper in rustix")]
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    state != -1 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

/// A time zone of this machine, by its name.
///
/// # Errors
/// When this machine has none of this name, or no time zones at all.
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    zone_in(Path::new(ZONES), name)
}

fn zone_in(zones: &Path, name: &str) -> Result<TimeZone, String> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let unknown =
        || format!("this machine has no time zone {name:?}: write one as \"Europe/Berlin\", and as `timedatectl list-timezones` has it");
    let is_name = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte));
    if !name.split('/').all(is_name) {
        return Err(unknown());
    }
    let path = zones.join(name);
    let bytes = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= ZONE_MAX => std::fs::read(&path),
        Ok(_) => return Err(unknown()),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => TimeZone::tzif(name, &bytes).map_err(|_| format!("this machine's file of the time zone {name:?} is damaged")),
        Err(error) if error.kind() == ErrorKind::NotFound && !zones.exists() => Err(format!(
            "this machine has no time zones ({} is missing): install the package tzdata, or leave the zone out for UTC",
            zones.display()
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(unknown()),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_after_these_lines_were_written() {
        assert!(moment().now > 1_700_000_000_000);
    }

    #[test]
    fn zones_are_files_below_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("Europe")).unwrap();
        std::fs::write(dir.path().join("Europe/Nowhere"), "TZif, but no more").unwrap();
        assert_eq!(zone_in(dir.path(), "UTC"), Ok(TimeZone::UTC));
        assert!(zone_in(dir.path(), "Europe/Nowhere").unwrap_err().contains("damaged"));
        for name in ["Europe/Berlin", "Europe", "", "/etc/passwd", "../Europe/Nowhere", "Europe//Nowhere", "Europe/Nowhere/"] {
            assert!(zone_in(dir.path(), name).unwrap_err().contains("no time zone \""), "{name}");
        }
        let none = dir.path().join("none");
        assert!(zone_in(&none, "Europe/Berlin").unwrap_err().contains("install the package tzdata"));
        assert_eq!(zone_in(&none, "UTC"), Ok(TimeZone::UTC));
    }

    #[test]
    fn a_zone_of_this_machine_knows_its_summer() {
        let Ok(berlin) = zone("Europe/Berlin") else {
            assert!(!Path::new(ZONES).join("Europe/Berlin").exists(), "the zone is there and cannot be used");
            return;
        };
        let hour = |utc: &str| berlin.to_datetime(utc.parse::<jiff::Timestamp>().unwrap()).hour();
        assert_eq!((hour("2026-01-15T12:00:00Z"), hour("2026-07-15T12:00:00Z")), (13, 14));
    }
}
