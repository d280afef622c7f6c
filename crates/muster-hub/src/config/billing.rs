//! `[billing]`, `[limits]` and `[retention]`: what use costs, how much an organization may have, how long records stay.

use muster_proto::api::{Credits, LimitName};

use super::reader::Reader;
use crate::store::metering::Kind;

/// `[billing]`: credits for one of a unit. One credit is one US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// An hour of one processor core.
    pub cpu_hour: Credits,
    /// A GiB of memory for an hour.
    pub gib_hour: Credits,
    /// 10^9 bytes of storage for 30 days.
    pub gb_month: Credits,
}

impl Default for Rates {
    fn default() -> Self {
        Self { cpu_hour: Credits(100_000_000), gib_hour: Credits(25_000_000), gb_month: Credits(25_000_000) }
    }
}

impl Rates {
    /// Each kind of use that has a price, with its rate.
    pub fn each(&self) -> [(Kind, Credits); 3] {
        [(Kind::CpuUs, self.cpu_hour), (Kind::MemoryKibMs, self.gib_hour), (Kind::Storage, self.gb_month)]
    }
}

/// `[limits]`: the most that any organization may have, unless an owner of the hub set another number for it. Absent: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Devices on the list.
    pub devices: Option<u64>,
    /// Members, collaborators, service accounts, waiting invitations.
    pub users: Option<u64>,
    /// Projects that are not archived.
    pub projects: Option<u64>,
    /// Sessions at the same time.
    pub sessions: Option<u64>,
    /// Runs at the same time.
    pub runs: Option<u64>,
    /// Bytes stored.
    pub storage: Option<u64>,
}

impl Limits {
    /// The limit of a name.
    pub fn get(&self, name: LimitName) -> Option<u64> {
        match name {
            LimitName::Devices => self.devices,
            LimitName::Users => self.users,
            LimitName::Projects => self.projects,
            LimitName::Sessions => self.sessions,
            LimitName::Runs => self.runs,
            LimitName::Storage => self.storage,
        }
    }
}

/// `[retention]`: days that records stay. The audit log and the ledger stay for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Samples and events of devices.
    pub samples_days: u32,
    /// Sessions that ended.
    pub sessions_days: u32,
    /// The daily series of usage.
    pub usage_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { samples_days: 30, sessions_days: 365, usage_days: 800 }
    }
}

/// Most of anything that a limit may allow: what a signed 64-bit number holds many times.
const MOST: u64 = 1_000_000_000_000_000;

pub(super) fn rates(reader: &mut Reader) -> Rates {
    let usual = Rates::default();
    Rates {
        cpu_hour: rate(reader, "billing.cpu_hour").unwrap_or(usual.cpu_hour),
        gib_hour: rate(reader, "billing.gib_hour").unwrap_or(usual.gib_hour),
        gb_month: rate(reader, "billing.gb_month").unwrap_or(usual.gb_month),
    }
}

fn rate(reader: &mut Reader, key: &'static str) -> Option<Credits> {
    reader.decimal(key, |text| {
        let credits: Credits = text.parse().map_err(|error: muster_proto::api::InvalidCredits| error.to_string())?;
        if (0..=1_000_000_000_000_000).contains(&credits.0) { Ok(credits) } else { Err(format!("{text} is not from 0 to 1000000 credits")) }
    })
}

pub(super) fn limits(reader: &mut Reader) -> Limits {
    Limits {
        devices: reader.seconds("limits.devices", 0..=MOST),
        users: reader.seconds("limits.users", 0..=MOST),
        projects: reader.seconds("limits.projects", 0..=MOST),
        sessions: reader.seconds("limits.sessions", 0..=MOST),
        runs: reader.seconds("limits.runs", 0..=MOST),
        storage: reader.seconds("limits.storage_gb", 0..=MOST / 1_000_000_000).map(|gb| gb * 1_000_000_000),
    }
}

pub(super) fn retention(reader: &mut Reader) -> Retention {
    let usual = Retention::default();
    let mut days = |key, usual: u32| reader.seconds(key, 1..=36_500).and_then(|days| u32::try_from(days).ok()).unwrap_or(usual);
    Retention {
        samples_days: days("retention.samples_days", usual.samples_days),
        sessions_days: days("retention.sessions_days", usual.sessions_days),
        usage_days: days("retention.usage_days", usual.usage_days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(&format!("public_url = \"https://a.example\"\n{text}"), "hub.toml", []).map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_exact_however_they_are_written() {
        let config = parse("").unwrap();
        assert_eq!((config.billing, config.limits, config.retention), (Rates::default(), Limits::default(), Retention::default()));
        assert_eq!(config.billing.cpu_hour.to_string(), "0.1");
        let config = parse("[billing]\ncpu_hour = 0.3\ngib_hour = \"0.000000001\"\ngb_month = 2\n").unwrap();
        assert_eq!(config.billing.each().map(|(_, credits)| credits.0), [300_000_000, 1, 2_000_000_000]);
        for (bad, why) in [
            ("cpu_hour = -0.1", "0 to 1000000"),
            ("cpu_hour = 0.0000000001", "nine digits"),
            ("cpu_hour = nan", "amount of credits"),
            ("cpu_hour = \"cheap\"", "amount of credits"),
            ("cpu_hour = true", "number"),
        ] {
            let report = parse(&format!("[billing]\n{bad}\n")).unwrap_err();
            assert!(report.contains("billing.cpu_hour") && report.contains(why), "{report}");
        }
    }

    #[test]
    fn limits_and_retention() {
        let config = parse("[limits]\ndevices = 0\nstorage_gb = 3\n[retention]\nsamples_days = 7\n").unwrap();
        assert_eq!(config.limits.get(LimitName::Devices), Some(0));
        assert_eq!(config.limits.get(LimitName::Storage), Some(3_000_000_000));
        assert_eq!(config.limits.get(LimitName::Users), None);
        assert_eq!((config.retention.samples_days, config.retention.sessions_days), (7, 365));
        let report = parse("[limits]\nusers = -1\n[retention]\nusage_days = 0\n").unwrap_err();
        assert!(report.contains("limits.users") && report.contains("retention.usage_days"), "{report}");
    }
}
