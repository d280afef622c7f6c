//! Resource usage: what the machine and the daemon itself consume, read from `/proc` and `/sys` by hand.
//!
//! Only what is reported is read, with one buffer, so that a sample costs well under a millisecond; a library that refreshes everything
//! costs ten times the processor time and the memory. Values are rounded here, once, so that the wire, the spool and the log agree.
//! Parsing is in [`parse`], encoding for the wire in [`batch`]; both are pure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) mod batch;
mod parse;
pub(crate) mod sampling;

use parse::{Counters, Cpu};

/// Network interfaces in a sample; the rest is left out. A robot has a handful.
const INTERFACES_MAX: usize = 12;
/// Mounts in a sample.
const MOUNTS_MAX: usize = 12;
/// Temperatures in a sample.
const TEMPERATURES_MAX: usize = 12;
/// Columns that local programs may add.
pub(crate) const OWN_COLUMNS_MAX: usize = 64;
/// Sensors, mounts and batteries come and go rarely; so often they are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Shortest time over which a rate is worth anything, in seconds: processor time is counted in hundredths.
const SPAN_MIN: f64 = 0.1;

/// One measurement: values by column.
pub(crate) type Values = Vec<(Arc<str>, Option<f64>)>;

/// Reads samples; keeps the counters of the one before, because most values are rates.
#[derive(Debug)]
pub(crate) struct Sampler {
    names: Names,
    buffer: String,
    page: f64,
    before: Option<Before>,
    places: Places,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Before {
    at: Instant,
    cpu: Option<Cpu>,
    disks: Option<(u64, u64)>,
    interfaces: BTreeMap<Arc<str>, Counters>,
    own_ns: Option<u64>,
}

/// Where to read what is not the same on every machine.
#[derive(Debug, Default)]
struct Places {
    /// Mount point, and the names of its two columns.
    mounts: Vec<(PathBuf, Arc<str>, Arc<str>)>,
    /// File in millidegrees, column.
    temperatures: Vec<(PathBuf, Arc<str>)>,
    /// File in percent, column.
    percents: Vec<(PathBuf, Arc<str>)>,
    /// Devices in `/proc/diskstats` that are whole disks.
    disks: Vec<String>,
}

/// Column names that are used all the time, made once.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(name.to_owned(), Arc::clone(&new));
        new
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// A sampler that has taken its first look at the counters.
    #[expect(clippy::cast_precision_loss, reason = "a page is some kilobytes")]
    pub(crate) fn new() -> Self {
        let mut sampler = Self {
            names: Names::default(),
            buffer: String::new(),
            page: rustix::param::page_size() as f64,
            before: None,
            places: Places::default(),
            looked: None,
        };
        let _ = sampler.sample(&BTreeMap::new());
        sampler
    }

    /// Measures. `own` are the metrics of local programs.
    pub(crate) fn sample(&mut self, own: &BTreeMap<String, f64>) -> Values {
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY) {
            self.places = Places::look(&mut self.names);
            self.looked = Some(now);
        }
        let mut out = Values::with_capacity(32);
        let before = self.before.take();
        let seconds = before.as_ref().map(|before| now.duration_since(before.at).as_secs_f64()).filter(|seconds| *seconds >= SPAN_MIN);
        let rate = |now: u64, then: u64| seconds.map(|seconds| now.saturating_sub(then) as f64 / seconds);

        let cpu = self.read("/proc/stat").and_then(parse::cpu);
        let ratio = before.as_ref().and_then(|before| cpu?.busy_since(before.cpu?));
        self.put(&mut out, "cpu", ratio.map(|ratio| fixed(ratio, 3)));
        let load = self.read("/proc/loadavg").and_then(parse::first_number);
        self.put(&mut out, "load1", load.map(|load| fixed(load, 2)));
        let memory = self.read("/proc/meminfo").map(parse::memory);
        self.put(&mut out, "mem", memory.and_then(|memory| memory.used).map(|used| significant(used, 3)));
        self.put(&mut out, "mem_total", memory.and_then(|memory| memory.total));
        if memory.is_some_and(|memory| memory.swap_total > 0.0) {
            self.put(&mut out, "swap", memory.map(|memory| significant(memory.swap_used, 3)));
        }
        let uptime = self.read("/proc/uptime").and_then(parse::first_number);
        self.put(&mut out, "uptime", uptime.map(f64::floor));

        self.disks(&mut out);
        let disks = (!self.places.disks.is_empty()).then(|| self.disk_counters()).flatten();
        if let Some((read, written)) = disks {
            let then = before.as_ref().and_then(|before| before.disks);
            self.put(&mut out, "disk_read", then.and_then(|then| rate(read, then.0)).map(|rate| significant(rate, 2)));
            self.put(&mut out, "disk_write", then.and_then(|then| rate(written, then.1)).map(|rate| significant(rate, 2)));
        }
        let interfaces = self.interfaces();
        for (name, now) in &interfaces {
            let then = before.as_ref().and_then(|before| before.interfaces.get(name));
            let values = then
                .map_or([None; 3], |then| [rate(now.received, then.received), rate(now.sent, then.sent), rate(now.errors, then.errors)]);
            for (prefix, value) in ["net_rx", "net_tx", "net_err"].into_iter().zip(values) {
                self.put(&mut out, &format!("{prefix}:{name}"), value.map(|value| significant(value, 2)));
            }
        }
        for index in 0..self.places.temperatures.len() {
            let (path, name) = self.places.temperatures[index].clone();
            let value = self.read(&path).and_then(parse::first_number);
            out.push((name, value.map(|milli| (milli / 1000.0).round())));
        }
        for index in 0..self.places.percents.len() {
            let (path, name) = self.places.percents[index].clone();
            let value = self.read(&path).and_then(parse::first_number);
            out.push((name, value.map(|percent| fixed(percent / 100.0, 2))));
        }
        // One thread: its time is the process's, to the nanosecond.
        let own_ns = self.read("/proc/self/schedstat").and_then(parse::first_number).map(|ns| ns as u64);
        let own_cpu = before.as_ref().and_then(|before| Some(rate(own_ns?, before.own_ns?)? / 1e9));
        self.put(&mut out, "agent_cpu", own_cpu.map(|ratio| fixed(ratio, 4)));
        let page = self.page;
        let own_memory = self.read("/proc/self/statm").and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<f64>().ok());
        self.put(&mut out, "agent_mem", own_memory.map(|pages| significant(pages * page, 2)));
        for (name, value) in own.iter().take(OWN_COLUMNS_MAX) {
            if !out.iter().any(|(known, _)| **known == **name) {
                self.put(&mut out, name, Some(significant(*value, 12)));
            }
        }
        // A second look within moments would leave the next one nothing to compare with.
        self.before = match before {
            Some(before) if seconds.is_none() => Some(before),
            _ => Some(Before { at: now, cpu, disks, interfaces, own_ns }),
        };
        out
    }

    fn put(&mut self, out: &mut Values, name: &str, value: Option<f64>) {
        // The wire's bound on names; a mount point may be longer.
        if name.len() <= muster_proto::limits::COLUMN_NAME_MAX && !name.chars().any(char::is_control) {
            out.push((self.names.get(name), value.filter(|value| value.is_finite())));
        }
    }

    fn read(&mut self, path: impl AsRef<Path>) -> Option<&str> {
        self.buffer.clear();
        File::open(path).ok()?.read_to_string(&mut self.buffer).ok()?;
        Some(&self.buffer)
    }

    fn disks(&mut self, out: &mut Values) {
        for (mount, used, total) in &self.places.mounts {
            let Ok(stat) = rustix::fs::statvfs(mount) else { continue };
            let blocks = stat.f_blocks.saturating_sub(stat.f_bfree) as f64;
            out.push((Arc::clone(used), Some(significant(blocks * stat.f_frsize as f64, 4))));
            out.push((Arc::clone(total), Some(significant(stat.f_blocks as f64 * stat.f_frsize as f64, 4))));
        }
    }

    fn disk_counters(&mut self) -> Option<(u64, u64)> {
        let disks = std::mem::take(&mut self.places.disks);
        let counters = self.read("/proc/diskstats").map(|text| parse::disks(text, &disks));
        self.places.disks = disks;
        counters
    }

    fn interfaces(&mut self) -> BTreeMap<Arc<str>, Counters> {
        self.buffer.clear();
        let read = File::open("/proc/net/dev").and_then(|mut file| file.read_to_string(&mut self.buffer));
        if read.is_err() {
            return BTreeMap::new();
        }
        let found = parse::interfaces(&self.buffer);
        found.take(INTERFACES_MAX).map(|(name, counters)| (self.names.get(name), counters)).collect()
    }
}

impl Places {
    /// Looks for what this machine has.
    fn look(names: &mut Names) -> Self {
        let mut places = Self::default();
        if let Ok(text) = std::fs::read_to_string("/proc/self/mounts") {
            for mount in parse::mounts(&text).into_iter().take(MOUNTS_MAX) {
                let (used, total) = (format!("disk:{mount}"), format!("disk_total:{mount}"));
                if total.len() <= muster_proto::limits::COLUMN_NAME_MAX {
                    places.mounts.push((mount.into(), names.get(&used), names.get(&total)));
                }
            }
        }
        let text = |path: PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut taken = Vec::new();
        for chip in entries("/sys/class/hwmon") {
            let chip_name = text(chip.join("name")).unwrap_or_else(|| "sensor".into());
            for number in 1..=TEMPERATURES_MAX {
                let input = chip.join(format!("temp{number}_input"));
                if input.exists() {
                    let label =
                        text(chip.join(format!("temp{number}_label"))).map_or(chip_name.clone(), |label| format!("{chip_name} {label}"));
                    taken.push((input, label));
                }
            }
        }
        if taken.is_empty() {
            for zone in entries("/sys/class/thermal").into_iter().filter(|zone| zone.ends_with("temp") || zone.join("temp").exists()) {
                taken.push((zone.join("temp"), text(zone.join("type")).unwrap_or_else(|| "zone".into())));
            }
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (path, label) in taken.into_iter().take(TEMPERATURES_MAX) {
            let label: String = label.chars().filter(|c| !c.is_control()).take(24).collect();
            let count = seen.entry(label.clone()).or_default();
            *count += 1;
            let label = if *count > 1 { format!("temp:{label} {count}") } else { format!("temp:{label}") };
            if label.len() <= muster_proto::limits::COLUMN_NAME_MAX {
                places.temperatures.push((path, names.get(&label)));
            }
        }
        let battery = entries("/sys/class/power_supply").into_iter().map(|supply| supply.join("capacity")).find(|path| path.exists());
        let gpu = entries("/sys/class/drm").into_iter().map(|card| card.join("device/gpu_busy_percent")).find(|path| path.exists());
        places.percents.extend(battery.map(|path| (path, names.get("battery"))));
        places.percents.extend(gpu.map(|path| (path, names.get("gpu"))));
        // Whole disks with a device behind them; partitions, loops and RAM disks would count twice or not matter.
        let whole = entries("/sys/block").into_iter().filter(|disk| disk.join("device").exists());
        places.disks = whole.filter_map(|disk| Some(disk.file_name()?.to_str()?.to_owned())).collect();
        places
    }
}

fn entries(dir: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

/// Rounded to so many digits after the point.
fn fixed(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Rounded to so many significant digits: what a person reads of it, and few bytes on the wire.
fn significant(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the exponent of a double is small")]
    let exponent = digits - 1 - value.abs().log10().floor() as i32;
    if exponent >= 0 {
        let scale = 10f64.powi(exponent);
        (value * scale).round() / scale
    } else {
        // Dividing keeps large whole numbers whole.
        let scale = 10f64.powi(-exponent);
        (value / scale).round() * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding() {
        assert_eq!(significant(8_389_999_616.0, 3), 8_390_000_000.0);
        assert_eq!(significant(0.012_345, 2), 0.012);
        assert_eq!(significant(0.0, 2), 0.0);
        assert_eq!(significant(999.6, 3), 1000.0);
        assert_eq!(fixed(0.123_46, 3), 0.123);
    }

    #[test]
    fn a_sample_of_this_machine_is_sane() {
        let mut sampler = Sampler::new();
        let own = BTreeMap::from([("mission".to_owned(), 3.0), ("cpu".to_owned(), 9.0)]);
        let deadline = Instant::now() + Duration::from_secs(10);
        // Rates need time to pass; the counters of a virtual machine may move slowly.
        let values = loop {
            let values: BTreeMap<String, Option<f64>> =
                sampler.sample(&own).into_iter().map(|(name, value)| (name.to_string(), value)).collect();
            if values.get("cpu").is_some_and(Option::is_some) && values["agent_cpu"].is_some() {
                break values;
            }
            assert!(Instant::now() < deadline, "no rates: {values:?}");
            std::thread::yield_now();
        };
        assert!((0.0..=1.0).contains(&values["cpu"].unwrap()), "{values:?}");
        assert!(values["mem"].unwrap() <= values["mem_total"].unwrap());
        assert!(values["disk:/"].unwrap() <= values["disk_total:/"].unwrap());
        assert!(values["agent_mem"].unwrap() > 100_000.0);
        assert_eq!(values["mission"], Some(3.0));
    }
}
