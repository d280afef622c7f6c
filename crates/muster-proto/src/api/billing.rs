//! Usage by day, credits and the ledger, limits. Amounts are whole numbers, money is exact: nothing here is a float.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::id::{DeviceUid, OrgId, ProjectId};

/// A day of UTC: "2026-11-22" on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(i64);

/// Milliseconds of a day.
const DAY_MS: Millis = 86_400_000;
/// The last day that four digits can write, 9999-12-31.
const LAST: i64 = 2_932_896;

impl Day {
    /// The day of a moment; times before 1970 and after 9999 are of the first and the last day.
    pub fn of(t: Millis) -> Self {
        Self(t.div_euclid(DAY_MS).clamp(0, LAST))
    }

    /// By its number since 1970-01-01, within what four digits can write.
    pub fn from_number(number: i64) -> Self {
        Self(number.clamp(0, LAST))
    }

    /// Its number since 1970-01-01.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Its first millisecond.
    pub fn start(self) -> Millis {
        self.0 * DAY_MS
    }

    /// `days` later, or earlier where negative.
    pub fn plus(self, days: i64) -> Self {
        Self::from_number(self.0.saturating_add(days))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days since 0000-03-01, in eras of 400 years: the leap day is the last of its year.
        let days = self.0 + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// A text that is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a day from 1970-01-01 to 9999-12-31; write it as 2026-01-31")]
pub struct InvalidDay(String);

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let invalid = || InvalidDay(text.chars().take(40).collect());
        let bytes = text.as_bytes();
        if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
            return Err(invalid());
        }
        let number = |from: usize, to: usize| {
            let part = &bytes[from..to];
            part.iter()
                .all(u8::is_ascii_digit)
                .then(|| part.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
                .ok_or_else(invalid)
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(invalid());
        }
        let year = if month <= 2 { year - 1 } else { year };
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5 + day - 1;
        let found = Self(era * 146_097 + of_era - 719_468);
        // The 31st of February was counted on: only what reads the same again was a day.
        if (0..=LAST).contains(&found.0) && found.to_string() == text { Ok(found) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for Day {
    type Error = InvalidDay;
    fn try_from(text: String) -> Result<Self, InvalidDay> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

/// An amount of credits, exact to the billionth: a text such as "12.5" or "-0.000000001" on the wire. One credit is one US dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct Credits(pub i64);

/// Nano-credits in a credit.
const NANO: u64 = 1_000_000_000;

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nano) = (self.0.unsigned_abs() / NANO, self.0.unsigned_abs() % NANO);
        let sign = if self.0 < 0 { "-" } else { "" };
        let fraction = format!("{nano:09}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

/// A text that is no amount of credits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of credits; write it as 100 or 12.50, with at most nine digits after the point")]
pub struct InvalidCredits(String);

impl FromStr for Credits {
    type Err = InvalidCredits;

    fn from_str(text: &str) -> Result<Self, InvalidCredits> {
        let invalid = || InvalidCredits(text.chars().take(40).collect());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || fraction.len() > 9 {
            return Err(invalid());
        }
        let whole: i64 = whole.parse().map_err(|_| invalid())?;
        let nano: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
        let amount = whole.checked_mul(NANO.cast_signed()).and_then(|whole| whole.checked_add(nano)).ok_or_else(invalid)?;
        Ok(Self(if negative { -amount } else { amount }))
    }
}

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Credits;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of credits written as text, such as \"10\" or \"12.50\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Credits, E> {
                text.parse().map_err(E::custom)
            }
        }
        // A number would lose digits on its way through other programs.
        deserializer.deserialize_str(Text)
    }
}

impl TryFrom<String> for Credits {
    type Error = InvalidCredits;
    fn try_from(text: String) -> Result<Self, InvalidCredits> {
        text.parse()
    }
}

impl From<Credits> for String {
    fn from(credits: Credits) -> Self {
        credits.to_string()
    }
}

/// What was used in a day, in a group of days, or in all that was asked for.
///
/// Sums over projects and devices count nothing twice: what belongs to no one project or no device stands in a row without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Devices that were online or sent something: each counts once a day, so over several days these are device-days.
    pub active_devices: u64,
    /// Time that sessions were open, in milliseconds.
    pub session_ms: u64,
    /// Bytes relayed to devices.
    pub to_device: u64,
    /// Bytes relayed from devices.
    pub to_client: u64,
    /// Runs that ended.
    pub runs: u64,
    /// Most runs at the same time.
    pub runs_peak: u64,
    /// Processor time of runs, in microseconds.
    pub cpu_us: u64,
    /// Memory of runs times their time, in KiB-milliseconds.
    pub memory_kib_ms: u64,
    /// Storage times its time, in byte-minutes.
    pub storage_byte_minutes: u64,
    /// Most members.
    pub members: u64,
    /// Most collaborators.
    pub collaborators: u64,
    /// Most service accounts.
    pub service_accounts: u64,
}

/// A row of the daily series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageDay {
    /// The day; with `whole=true` the first of all that are summed up.
    pub day: Day,
    /// With `by=project`: the project; absent for what belongs to no one project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// With `by=device`: the device; absent for what belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceUid>,
    /// With `by=device`: its name, where it is still listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// What was used.
    pub used: Used,
}

/// `GET /v1/orgs/{org}/usage` and `GET /v1/orgs/{org}/projects/{project}/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// First day.
    pub from: Day,
    /// Last day.
    pub to: Day,
    /// The days on which something was used, oldest first.
    pub items: Vec<UsageDay>,
    /// All of it: sums, and the highest of what is a highest number.
    pub total: Used,
}

/// What a kind of use costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// "cpu_hour", "gib_hour" or "gb_month".
    pub unit: String,
    /// Credits for one of it.
    pub credits: Credits,
    /// Since when.
    pub since: Millis,
}

/// What a project spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The project; absent for what belongs to no one project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// Charged, over all time.
    pub credits: Credits,
    /// Metered, and not charged yet: today's.
    pub uncharged: Credits,
}

/// `GET /v1/orgs/{org}/billing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    /// The sum of the ledger.
    pub balance: Credits,
    /// All that was ever charged.
    pub spent: Credits,
    /// Metered, and not charged yet: today's.
    pub uncharged: Credits,
    /// The rates in force.
    pub rates: Vec<Rate>,
    /// By project, the most first.
    pub projects: Vec<Spent>,
}

/// Kinds of lines in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerEntry {
    /// Use of a day.
    Charge,
    /// Credits that were bought.
    TopUp,
    /// A mistake made good.
    Correction,
}

/// A line of `GET /v1/orgs/{org}/ledger`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// Its number, growing.
    pub id: i64,
    /// When it was booked.
    pub t: Millis,
    /// What it is.
    pub entry: LedgerEntry,
    /// How much; negative where credits were taken.
    pub credits: Credits,
    /// The day that a charge is for.
    pub day: Option<Day>,
    /// The project that a charge is for; absent for what belongs to no one project.
    pub project: Option<ProjectId>,
    /// What was used: "cpu_hour", "gib_hour" or "gb_month".
    pub unit: Option<String>,
    /// How much was used, in the base unit of the usage: CPU-microseconds, KiB-milliseconds, byte-minutes.
    pub amount: Option<i64>,
    /// At which rate.
    pub rate: Option<Credits>,
    /// Who booked it: `hub`, or the account's e-mail.
    pub actor: String,
    /// Why, in that person's words.
    pub note: Option<String>,
}

/// `POST /v1/orgs/{org}/credits`, by an owner of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditAdd {
    /// How much. A top-up is more than nothing; only a correction may take away.
    pub credits: Credits,
    /// Whether it makes a mistake good, instead of being bought.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub correction: bool,
    /// Why, such as the number of the invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// A name for this booking, 1 to 100 characters: asking again with the same one books nothing more and gives the line that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitName {
    /// Devices on the list, whatever their admission.
    Devices,
    /// Members, collaborators and service accounts, and the invitations that wait.
    Users,
    /// Projects that are not archived.
    Projects,
    /// Sessions at the same time.
    Sessions,
    /// Runs at the same time.
    Runs,
    /// Bytes stored.
    Storage,
}

impl LimitName {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Devices, Self::Users, Self::Projects, Self::Sessions, Self::Runs, Self::Storage];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Users => "users",
            Self::Projects => "projects",
            Self::Sessions => "sessions",
            Self::Runs => "runs",
            Self::Storage => "storage",
        }
    }
}

/// A limit as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub name: LimitName,
    /// What counts: the least of `hub` and `own`; absent where nothing is limited.
    pub most: Option<u64>,
    /// How much is used now.
    pub used: u64,
    /// What the hub allows: its configuration, or what an owner of the hub set for this organization.
    pub hub: Option<u64>,
    /// Whether an owner of the hub set it for this organization.
    pub hub_override: bool,
    /// What an owner of the organization set.
    pub own: Option<u64>,
}

/// `GET /v1/orgs/{org}/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Whose.
    pub org: OrgId,
    /// Each of them.
    pub items: Vec<Limit>,
}

/// Who sets a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// An owner of the organization, for their own.
    #[default]
    Own,
    /// An owner of the hub, in place of the hub's configuration.
    Hub,
}

/// One change of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitEdit {
    /// Of what.
    pub name: LimitName,
    /// The most that may be; absent takes the limit of this scope away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
}

/// `PATCH /v1/orgs/{org}/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsEdit {
    /// Whose limits are changed.
    #[serde(default)]
    pub scope: LimitScope,
    /// All of them change, or none.
    pub limits: Vec<LimitEdit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        for (number, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_779, "2026-11-22"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
            (LAST, "9999-12-31"),
        ] {
            assert_eq!(Day::from_number(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Day(number)), "{text}");
        }
        for number in (0..LAST).step_by(97) {
            assert_eq!(Day(number).to_string().parse(), Ok(Day(number)));
        }
        for bad in ["", "2026-02-29", "2026-13-01", "2026-00-10", "1969-12-31", "2026-1-1", "2026-11-22 ", "+026-11-22", "２026-11-2"] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
        assert_eq!(Day::of(-1), Day(0));
        assert_eq!(Day::of(Millis::MAX).to_string(), "9999-12-31");
        assert_eq!((Day::of(86_399_999), Day::of(86_400_000)), (Day(0), Day(1)));
    }

    #[test]
    fn credits() {
        for (nano, text) in
            [(0, "0"), (100_000_000, "0.1"), (-1, "-0.000000001"), (12_500_000_000, "12.5"), (i64::MAX, "9223372036.854775807")]
        {
            assert_eq!(Credits(nano).to_string(), text);
            assert_eq!(text.parse(), Ok(Credits(nano)), "{text}");
        }
        assert_eq!("0012.50".parse(), Ok(Credits(12_500_000_000)));
        assert_eq!(serde_json::from_str::<Credits>("\"12.5\"").unwrap(), Credits(12_500_000_000));
        let why = serde_json::from_str::<Credits>("10").unwrap_err().to_string();
        assert!(why.contains("expected an amount of credits written as text, such as \"10\""), "{why}");
        for bad in ["", ".", "1.", ".5", "1e3", "1,5", "--1", "+1", "0.0000000001", "9223372037", "1.-5", "٣"] {
            assert!(bad.parse::<Credits>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Credits(-1)).unwrap(), "\"-0.000000001\"");
        assert!(serde_json::from_str::<Credits>("0.1").is_err(), "a float is not exact");
    }
}
