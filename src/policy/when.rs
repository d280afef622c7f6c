//! When visitors may come in: `[when]`, windows of the week in a named time zone. Pure.
//!
//! A window goes by what a clock on the wall shows there. Where clocks are set forward, the skipped hour is in no window;
//! where they are set back, the repeated hour is in its windows twice. That is what a person who reads the file expects.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use muster_proto::Millis;

use super::Moment;
use crate::settings::Settings;

/// Finds a time zone by its name, or says why it cannot.
pub type Zones<'a> = dyn Fn(&str) -> Result<TimeZone, String> + 'a;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const FORM: &str = "write it as \"mon-fri 08:00-18:00\", \"sat 10:00-12:30\" or \"daily 22:00-06:00\"";
const MINUTES_OF_DAY: u16 = 1440;

/// The `[when]` section.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct When {
    windows: Vec<Window>,
    zone: TimeZone,
    /// As the owner wrote it.
    zone_name: String,
    unsynchronised: bool,
}

/// What `[when]` says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// There are no windows.
    Always,
    /// The moment is in one.
    Open,
    /// It is in none.
    Shut,
    /// Nobody knows what time it is.
    ClockUnknown,
}

/// One window. Where it wraps around midnight, its days are those on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// As the owner wrote it.
    text: String,
    /// Monday first.
    days: [bool; 7],
    from: u16,
    until: u16,
}

impl When {
    /// Reads the section.
    pub(super) fn read(settings: &mut Settings, zones: &Zones<'_>) -> Self {
        let mut section = settings.section("when");
        let windows = section.texts("windows").unwrap_or_default();
        let windows = super::parsed(&mut section, "windows", &windows, Window::parse);
        let zone_name = section.text("zone");
        let zone = match zone_name.as_deref().map(zones) {
            None => TimeZone::UTC,
            Some(Ok(zone)) => zone,
            Some(Err(why)) => {
                section.mistake("zone", why);
                TimeZone::UTC
            }
        };
        let unsynchronised = section.one_of("unsynchronised", &["refuse", "allow"]).as_deref() == Some("allow");
        Self { windows, zone, zone_name: zone_name.unwrap_or_else(|| "UTC".into()), unsynchronised }
    }

    /// What holds at this moment.
    pub(super) fn at(&self, moment: Moment) -> Opening {
        if self.windows.is_empty() {
            return Opening::Always;
        }
        if !moment.synchronised && !self.unsynchronised {
            return Opening::ClockUnknown;
        }
        // A clock that shows no date of this calendar is in no window.
        let Some(clock) = self.wall(moment.now) else { return Opening::Shut };
        if self.windows.iter().any(|window| window.holds(clock)) { Opening::Open } else { Opening::Shut }
    }

    fn wall(&self, now: Millis) -> Option<DateTime> {
        Timestamp::from_millisecond(now).ok().map(|now| self.zone.to_datetime(now))
    }

    /// What the clock on the wall shows there, with the zone's name.
    pub(super) fn shown(&self, now: Millis) -> Option<String> {
        let wall = self.wall(now)?;
        let (date, time) = ((wall.year(), wall.month(), wall.day()), (wall.hour(), wall.minute()));
        Some(format!("{:04}-{:02}-{:02} {:02}:{:02} {}", date.0, date.1, date.2, time.0, time.1, self.zone_name))
    }

    /// The moment at which the clock on the wall shows `2026-12-01 22:00` there; in UTC with a Z at the end.
    /// The first one where it does so twice, the one after the gap where it never does.
    pub(super) fn moment_of(&self, text: &str) -> Option<Millis> {
        let (text, zone) = text.strip_suffix(['Z', 'z']).map_or((text, self.zone.clone()), |text| (text, TimeZone::UTC));
        let (date, time) = text.split_once([' ', 'T'])?;
        let numbers = |text: &str, by: char| text.split(by).map(|part| part.parse::<i16>().ok()).collect::<Option<Vec<i16>>>();
        let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
        let (hour, minute, second) = match numbers(time, ':')?[..] {
            [hour, minute] => (hour, minute, 0),
            [hour, minute, second] => (hour, minute, second),
            _ => return None,
        };
        let small = |number: i16| i8::try_from(number).ok();
        let wall = DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, 0).ok()?;
        zone.to_timestamp(wall).ok().map(Timestamp::as_millisecond)
    }

    /// The windows as the owner wrote them, with their zone.
    pub(super) fn text(&self) -> String {
        let windows: Vec<&str> = self.windows.iter().map(|window| &*window.text).collect();
        format!("{} ({})", windows.join(", "), self.zone_name)
    }
}

impl Window {
    fn parse(text: &str) -> Result<Self, String> {
        let (days, times) = text.split_once(' ').ok_or(FORM)?;
        let day = |text: &str| DAYS.iter().position(|day| *day == text).ok_or(FORM);
        let (first, last) = match days.split_once('-') {
            _ if days == "daily" => (0, 6),
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(days)?, day(days)?),
        };
        let mut days = [false; 7];
        for step in 0..=(last + 7 - first) % 7 {
            days[(first + step) % 7] = true;
        }
        let (from, until) = times.trim().split_once('-').ok_or(FORM)?;
        let (from, until) = (minute(from).ok_or(FORM)?, minute(until).ok_or(FORM)?);
        if from == until {
            return Err("it ends as it begins: write 00:00-24:00 for a whole day".into());
        }
        if from == MINUTES_OF_DAY {
            return Err("a day's last minute is 23:59: write the next day and 00:00".into());
        }
        Ok(Self { text: text.to_owned(), days, from, until })
    }

    fn holds(&self, clock: DateTime) -> bool {
        let today = usize::try_from(clock.weekday().to_monday_zero_offset()).unwrap_or_default() % 7;
        let minute = u16::try_from(i32::from(clock.hour()) * 60 + i32::from(clock.minute())).unwrap_or_default();
        if self.from < self.until {
            return self.days[today] && (self.from..self.until).contains(&minute);
        }
        let yesterday = (today + 6) % 7;
        (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.until)
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten();
    let (hour, minute): (u16, u16) = (two_digits(hour)?, two_digits(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= MINUTES_OF_DAY).then_some(of_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central European time as every machine knows it, without asking this one.
    fn zones(name: &str) -> Result<TimeZone, String> {
        match name {
            "Europe/Berlin" => TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").map_err(|error| error.to_string()),
            "Asia/Kathmandu" => TimeZone::posix("<+0545>-5:45").map_err(|error| error.to_string()),
            _ => Err(format!("there is no {name:?}")),
        }
    }

    fn when(text: &str) -> When {
        let mut settings = Settings::parse(text).unwrap();
        let when = When::read(&mut settings, &zones);
        settings.finish().unwrap();
        when
    }

    #[track_caller]
    fn at(when: &When, utc: &str, want: Opening) {
        let now = utc.parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(when.at(Moment { now, synchronised: true }), want, "{} at {utc}", when.text());
    }

    #[test]
    fn windows_of_the_week() {
        let work = when("[when]\nwindows = [\"mon-fri 06:00-18:00\", \"sat 08:00-12:30\"]\n");
        at(&work, "2026-11-23T05:59:59Z", Opening::Shut);
        at(&work, "2026-11-23T06:00:00Z", Opening::Open);
        at(&work, "2026-11-27T17:59:59Z", Opening::Open);
        at(&work, "2026-11-27T18:00:00Z", Opening::Shut);
        at(&work, "2026-11-28T12:29:59Z", Opening::Open);
        at(&work, "2026-11-28T12:30:00Z", Opening::Shut);
        at(&work, "2026-11-29T09:00:00Z", Opening::Shut);
        at(&work, "1969-12-29T09:00:00Z", Opening::Open);
    }

    #[test]
    fn a_window_may_wrap_around_midnight_and_days_around_the_week() {
        let night = when("[when]\nwindows = [\"fri 22:00-06:00\"]\n");
        at(&night, "2026-11-27T05:00:00Z", Opening::Shut);
        at(&night, "2026-11-27T21:59:00Z", Opening::Shut);
        at(&night, "2026-11-27T22:00:00Z", Opening::Open);
        at(&night, "2026-11-28T05:59:00Z", Opening::Open);
        at(&night, "2026-11-28T06:00:00Z", Opening::Shut);
        at(&night, "2026-11-28T22:00:00Z", Opening::Shut);
        let weekend = when("[when]\nwindows = [\"sat-mon 00:00-24:00\"]\n");
        at(&weekend, "2026-11-27T23:59:59Z", Opening::Shut);
        at(&weekend, "2026-11-28T00:00:00Z", Opening::Open);
        at(&weekend, "2026-11-29T12:00:00Z", Opening::Open);
        at(&weekend, "2026-11-30T23:59:59Z", Opening::Open);
        at(&weekend, "2026-12-01T00:00:00Z", Opening::Shut);
        let sunday = when("[when]\nwindows = [\"sun 23:00-01:00\"]\n");
        at(&sunday, "2026-11-30T00:30:00Z", Opening::Open);
        at(&sunday, "2026-11-30T23:30:00Z", Opening::Shut);
    }

    #[test]
    fn a_window_follows_the_clock_on_the_wall_through_both_changes() {
        let work = when("[when]\nwindows = [\"mon-fri 06:00-18:00\"]\nzone = \"Europe/Berlin\"\n");
        // Winter: an hour before UTC. Summer: two.
        at(&work, "2026-03-27T04:59:59Z", Opening::Shut);
        at(&work, "2026-03-27T05:00:00Z", Opening::Open);
        at(&work, "2026-03-30T03:59:59Z", Opening::Shut);
        at(&work, "2026-03-30T04:00:00Z", Opening::Open);
        at(&work, "2026-03-30T16:00:00Z", Opening::Shut);
        at(&work, "2026-10-26T04:59:59Z", Opening::Shut);
        at(&work, "2026-10-26T05:00:00Z", Opening::Open);
        at(&work, "2026-10-26T16:59:59Z", Opening::Open);
        // 2026-03-29: 02:00 is 03:00 at once, so the window has no minute.
        let night = when("[when]\nwindows = [\"sun 02:00-03:00\"]\nzone = \"Europe/Berlin\"\n");
        at(&night, "2026-03-29T00:59:59Z", Opening::Shut);
        at(&night, "2026-03-29T01:00:00Z", Opening::Shut);
        // 2026-10-25: the hour from 02:00 comes twice.
        at(&night, "2026-10-24T23:59:59Z", Opening::Shut);
        at(&night, "2026-10-25T00:00:00Z", Opening::Open);
        at(&night, "2026-10-25T01:59:59Z", Opening::Open);
        at(&night, "2026-10-25T02:00:00Z", Opening::Shut);
        // Saturday's window that wraps ends by Sunday's clock.
        let long = when("[when]\nwindows = [\"sat 22:00-06:00\"]\nzone = \"Europe/Berlin\"\n");
        at(&long, "2026-03-29T03:59:59Z", Opening::Open);
        at(&long, "2026-03-29T04:00:00Z", Opening::Shut);
    }

    #[test]
    fn a_zone_may_be_off_by_less_than_an_hour_and_on_another_day() {
        let work = when("[when]\nwindows = [\"mon 00:00-06:00\"]\nzone = \"Asia/Kathmandu\"\n");
        at(&work, "2026-11-29T18:14:59Z", Opening::Shut);
        at(&work, "2026-11-29T18:15:00Z", Opening::Open);
        at(&work, "2026-11-30T00:15:00Z", Opening::Shut);
    }

    #[test]
    fn while_the_clock_is_not_synchronised_windows_refuse_unless_the_owner_says_otherwise() {
        let now = "2026-11-23T12:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
        let lost = Moment { now, synchronised: false };
        let windows = "[when]\nwindows = [\"mon 06:00-18:00\"]\n";
        assert_eq!(when(windows).at(lost), Opening::ClockUnknown);
        assert_eq!(when(&format!("{windows}unsynchronised = \"refuse\"\n")).at(lost), Opening::ClockUnknown);
        assert_eq!(when(&format!("{windows}unsynchronised = \"allow\"\n")).at(lost), Opening::Open);
        assert_eq!(when("[when]\nzone = \"Europe/Berlin\"\n").at(lost), Opening::Always);
        for now in [Millis::MIN, Millis::MAX] {
            assert_eq!(when(windows).at(Moment { now, synchronised: true }), Opening::Shut, "{now}");
        }
    }

    #[test]
    fn a_moment_is_written_as_the_clock_shows_it() {
        let berlin = when("[when]\nzone = \"Europe/Berlin\"\n");
        let cases = [
            ("2026-07-01 12:00", "2026-07-01T10:00:00Z", "2026-07-01 12:00 Europe/Berlin"),
            ("2026-12-01T12:00:30", "2026-12-01T11:00:30Z", "2026-12-01 12:00 Europe/Berlin"),
            ("2026-12-01T12:00:00Z", "2026-12-01T12:00:00Z", "2026-12-01 13:00 Europe/Berlin"),
            ("2026-03-29 02:30", "2026-03-29T01:30:00Z", "2026-03-29 03:30 Europe/Berlin"),
        ];
        for (text, utc, shown) in cases {
            let now = berlin.moment_of(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(now, utc.parse::<Timestamp>().unwrap().as_millisecond(), "{text}");
            assert_eq!(berlin.shown(now).as_deref(), Some(shown));
        }
        for bad in ["", "now", "2026-12-01", "2026-13-01 12:00", "2026-12-01 25:00", "2026-12-01 12", "2026-12-01 12:00:00:00", "1-1 1:1"] {
            assert_eq!(berlin.moment_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn mistakes_have_their_keys() {
        let bad = [
            "someday",
            "mon",
            "mon ",
            "mon 8:00-18:00",
            "mon 08:00",
            "mon 08:00-08:00",
            "mon 24:00-06:00",
            "mon 08:00-24:01",
            "mon 08:60-09:00",
            "MON 08:00-09:00",
            "mon-xyz 08:00-09:00",
            "mon 08:00-09:00-10:00",
            "mon +8:00-09:00",
        ];
        for window in bad {
            assert!(Window::parse(window).is_err(), "{window}");
        }
        let mut settings = Settings::parse("[when]\nwindows = [\"someday\"]\nzone = \"Mars/Base\"\nunsynchronised = \"maybe\"\n").unwrap();
        When::read(&mut settings, &zones);
        let keys: Vec<String> = settings.finish().unwrap_err().0.into_iter().map(|mistake| mistake.key).collect();
        assert_eq!(keys, ["when.windows", "when.zone", "when.unsynchronised"]);
    }
}
