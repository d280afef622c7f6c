//! How much the owner allows: `[limits]`. Pure.
//!
//! Every bound has a default, so that a visitor of a device whose owner wrote none still cannot take the machine from its robot.

use super::Refusal;
use crate::settings::{Section, Settings};

/// Sessions at once: a robot has few visitors, and each session costs some megabytes.
const SESSIONS_DEFAULT: u32 = 16;
/// Streams of one session.
const STREAMS_DEFAULT: u32 = muster_proto::limits::STREAMS_MAX as u32;
/// Processes and threads of one session: enough for a build with many jobs, too few for a fork bomb to be felt.
const TASKS_DEFAULT: u32 = 512;
/// Below this a shell with a pipe is refused its processes.
const TASKS_MIN: i64 = 16;
/// Half of the machine.
const MEMORY_DEFAULT: Memory = Memory::Percent(50);
/// Below this a shell cannot start.
const MEMORY_MIN: u64 = 16 * MEBI;
/// Half of the system's default: the robot's software goes first.
const WEIGHT_DEFAULT: u16 = 50;
/// The kernel's range of weights.
const WEIGHTS: std::ops::RangeInclusive<i64> = 1..=10_000;
/// What visitors start is ended before the robot's software when memory runs out.
const OOM_SCORE_DEFAULT: i16 = 500;

const KIBI: u64 = 1024;
const MEBI: u64 = 1024 * KIBI;
const GIBI: u64 = 1024 * MEBI;

/// How much the owner allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: u32,
    /// Runs at once.
    pub runs: u32,
    /// Streams at once in one session.
    pub streams: u32,
    /// Seconds without a byte after which a session ends; none if absent.
    pub idle_s: Option<u32>,
    /// Seconds after which a session ends; none if absent.
    pub total_s: Option<u32>,
    /// Processes and threads of one session or run.
    pub tasks: u32,
    /// Memory of one session or run.
    pub memory: Memory,
    /// Weight of one session or run for the processor; the system's default is 100.
    pub cpu_weight: u16,
    /// The same for disks.
    pub io_weight: u16,
    /// Added to the badness by which the kernel picks a process when memory runs out.
    pub oom_score: i16,
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes.
    Bytes(u64),
    /// So much of the machine's, 1 to 100.
    Percent(u8),
}

impl Limits {
    /// Reads the section; `runs` stand in a section of their own.
    pub(super) fn read(settings: &mut Settings, runs: u32) -> Self {
        let mut section = settings.section("limits");
        let memory = section.text("memory").and_then(|text| match Memory::parse(&text) {
            Ok(memory) => Some(memory),
            Err(why) => {
                section.mistake("memory", format!("{text:?}: {why}"));
                None
            }
        });
        let mut weight = |key| number(&mut section, key, WEIGHTS).unwrap_or(WEIGHT_DEFAULT);
        let (cpu_weight, io_weight) = (weight("cpu_weight"), weight("io_weight"));
        Self {
            sessions: number(&mut section, "sessions", 0..=1000).unwrap_or(SESSIONS_DEFAULT),
            runs,
            streams: number(&mut section, "streams", 1..=i64::from(STREAMS_DEFAULT)).unwrap_or(STREAMS_DEFAULT),
            idle_s: number(&mut section, "idle_s", 1..=604_800),
            total_s: number(&mut section, "total_s", 1..=604_800),
            tasks: number(&mut section, "tasks", TASKS_MIN..=4_194_304).unwrap_or(TASKS_DEFAULT),
            memory: memory.unwrap_or(MEMORY_DEFAULT),
            cpu_weight,
            io_weight,
            oom_score: number(&mut section, "oom_score", -1000..=1000).unwrap_or(OOM_SCORE_DEFAULT),
        }
    }

    /// Whether one more session, or run, may begin beside those that are open.
    ///
    /// # Errors
    /// When the policy's number is reached, with the key that says so.
    pub fn check_one_more(&self, is_run: bool, open: usize) -> Result<(), Refusal> {
        let (code, most, what, key) = match is_run {
            true => ("policy_runs", self.runs, "commands", "[run] at_once"),
            false => ("policy_sessions", self.sessions, "sessions", "[limits] sessions"),
        };
        if open < most as usize {
            return Ok(());
        }
        Err(Refusal::new(
            code,
            match most {
                0 => format!("This device allows no {what} right now ({key} = 0)."),
                _ => format!("This device allows {most} {what} at once, and {open} are open. End one first ({key})."),
            },
        ))
    }

    /// What holds where there is no policy: nothing.
    pub(super) fn nothing() -> Self {
        Self {
            sessions: 0,
            runs: 0,
            streams: 0,
            idle_s: None,
            total_s: None,
            tasks: TASKS_DEFAULT,
            memory: MEMORY_DEFAULT,
            cpu_weight: WEIGHT_DEFAULT,
            io_weight: WEIGHT_DEFAULT,
            oom_score: OOM_SCORE_DEFAULT,
        }
    }
}

fn number<T: TryFrom<i64>>(section: &mut Section<'_>, key: &'static str, range: std::ops::RangeInclusive<i64>) -> Option<T> {
    section.number(key, range).and_then(|number| T::try_from(number).ok())
}

impl Memory {
    /// In bytes, on a machine with `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let form = "write it as \"50%\", \"512M\" or \"2G\"";
        if let Some(percent) = text.strip_suffix('%') {
            return match digits(percent) {
                Some(percent @ 1..=100) => Ok(Self::Percent(u8::try_from(percent).map_err(|_| form)?)),
                Some(_) => Err("a share is 1% to 100%".into()),
                None => Err(form.into()),
            };
        }
        let (number, unit) = [('K', KIBI), ('M', MEBI), ('G', GIBI)]
            .into_iter()
            .find_map(|(letter, unit)| Some((text.strip_suffix(letter)?, unit)))
            .ok_or(form)?;
        match digits(number).ok_or(form)?.checked_mul(unit) {
            Some(bytes) if bytes >= MEMORY_MIN => Ok(Self::Bytes(bytes)),
            Some(_) => Err("no shell starts with so little: give at least \"16M\"".into()),
            None => Err("no machine has so much".into()),
        }
    }
}

/// Digits and nothing else: `parse` would take "+5".
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Result<Limits, Vec<String>> {
        let mut settings = Settings::parse(text).unwrap();
        let limits = Limits::read(&mut settings, 4);
        settings.finish().map(|()| limits).map_err(|mistakes| mistakes.0.into_iter().map(|mistake| mistake.key).collect())
    }

    #[test]
    fn without_a_section_every_bound_has_its_default() {
        let want = Limits { sessions: 16, runs: 4, streams: STREAMS_DEFAULT, ..Limits::nothing() };
        assert_eq!(limits(""), Ok(want));
        assert_eq!((want.tasks, want.memory, want.cpu_weight, want.io_weight, want.oom_score), (512, Memory::Percent(50), 50, 50, 500));
    }

    #[test]
    fn what_is_written_holds() {
        let text = "[limits]\nsessions = 0\nstreams = 2\nidle_s = 60\ntotal_s = 3600\ntasks = 64\nmemory = \"2G\"\ncpu_weight = 1\n\
                    io_weight = 10000\noom_score = -1000\n";
        let want = Limits {
            sessions: 0,
            runs: 4,
            streams: 2,
            idle_s: Some(60),
            total_s: Some(3600),
            tasks: 64,
            memory: Memory::Bytes(2 * GIBI),
            cpu_weight: 1,
            io_weight: 10_000,
            oom_score: -1000,
        };
        assert_eq!(limits(text), Ok(want));
    }

    #[test]
    fn mistakes_have_their_keys() {
        let text = "[limits]\nsessions = -1\nstreams = 0\nidle_s = 0\ntotal_s = 604801\ntasks = 15\nmemory = \"much\"\ncpu_weight = 0\n\
                    io_weight = 10001\noom_score = 1001\nswap = 1\n";
        let mut mistakes = limits(text).unwrap_err();
        mistakes.sort();
        let keys = ["cpu_weight", "idle_s", "io_weight", "memory", "oom_score", "sessions", "streams", "swap", "tasks", "total_s"];
        assert_eq!(mistakes, keys.map(|key| format!("limits.{key}")));
    }

    #[test]
    fn one_more_may_begin_below_the_number() {
        let code = |limits: Limits, is_run, open| limits.check_one_more(is_run, open).err().map(|refusal| refusal.code);
        let limits = Limits { sessions: 2, runs: 1, ..Limits::nothing() };
        assert_eq!([code(limits, false, 1), code(limits, false, 2)], [None, Some("policy_sessions")]);
        assert_eq!([code(limits, true, 0), code(limits, true, 1)], [None, Some("policy_runs")]);
        let none = Limits::nothing().check_one_more(false, 0).unwrap_err();
        assert_eq!(none.message, "This device allows no sessions right now ([limits] sessions = 0).");
        assert_eq!([Memory::Bytes(5).of(100), Memory::Percent(50).of(1000)], [5, 500]);
    }

    #[test]
    fn sizes() {
        let good = [("50%", Memory::Percent(50)), ("100%", Memory::Percent(100)), ("16384K", Memory::Bytes(16 * MEBI))];
        for (text, want) in good {
            assert_eq!(Memory::parse(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "%",
            "0%",
            "101%",
            "-1%",
            "+50%",
            "50 %",
            "512",
            "512MB",
            "15M",
            "M",
            "1.5G",
            "99999999999999999999G",
            "18446744073709551615G",
        ] {
            assert!(Memory::parse(bad).is_err(), "{bad}");
        }
    }
}
