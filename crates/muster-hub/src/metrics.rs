//! Counters and gauges for `/metrics`, in Prometheus' text form under OpenTelemetry-like names.
//!
//! A handle is taken once, at start; counting is one atomic addition.
//! Label values come from fixed sets: never from a device, a path or a person, or the page would grow without bound.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The registry. Clones share it.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<&'static str, Family>>>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

struct Family {
    help: &'static str,
    series: BTreeMap<String, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Seconds(Seconds),
}

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds to it; a negative number takes away.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper edges of the buckets of a duration, in seconds.
const EDGES: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// A histogram of durations.
#[derive(Debug, Clone, Default)]
pub struct Seconds(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; EDGES.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Seconds {
    /// Notes one duration.
    pub fn observe(&self, duration: std::time::Duration) {
        let seconds = duration.as_secs_f64();
        for (edge, count) in EDGES.iter().zip(&self.0.counts) {
            if seconds <= *edge {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Metrics {
    /// A counter with these labels; the same one for the same name and labels.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        match self.series(name, help, labels, || Series::Counter(Counter::default())) {
            Series::Counter(counter) => counter,
            _ => unreachable!("{name} is registered as another kind"),
        }
    }

    /// A gauge with these labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        match self.series(name, help, labels, || Series::Gauge(Gauge::default())) {
            Series::Gauge(gauge) => gauge,
            _ => unreachable!("{name} is registered as another kind"),
        }
    }

    /// A histogram of durations with these labels.
    pub fn seconds(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &'static str)]) -> Seconds {
        match self.series(name, help, labels, || Series::Seconds(Seconds::default())) {
            Series::Seconds(seconds) => seconds,
            _ => unreachable!("{name} is registered as another kind"),
        }
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        let labels = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect::<Vec<_>>().join(",");
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() });
        family.series.entry(labels).or_insert_with(make).clone()
    }

    /// The page.
    pub fn render(&self) -> String {
        let mut page = String::new();
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in families.iter() {
            let kind = match family.series.values().next() {
                Some(Series::Counter(_)) => "counter",
                Some(Series::Gauge(_)) => "gauge",
                Some(Series::Seconds(_)) => "histogram",
                None => continue,
            };
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, series) in &family.series {
                let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = match series {
                    Series::Counter(counter) => writeln!(page, "{name}{braced} {}", counter.get()),
                    Series::Gauge(gauge) => writeln!(page, "{name}{braced} {}", gauge.get()),
                    Series::Seconds(seconds) => {
                        render_histogram(&mut page, name, labels, &seconds.0);
                        Ok(())
                    }
                };
            }
        }
        page
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum of durations, read by people")]
fn render_histogram(page: &mut String, name: &str, labels: &str, buckets: &Buckets) {
    let comma = if labels.is_empty() { "" } else { "," };
    let count = buckets.count.load(Ordering::Relaxed);
    for (edge, in_bucket) in EDGES.iter().zip(&buckets.counts) {
        let _ = writeln!(page, "{name}_bucket{{{labels}{comma}le=\"{edge}\"}} {}", in_bucket.load(Ordering::Relaxed));
    }
    let _ = writeln!(page, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(page, "{name}_sum{braced} {}", buckets.micros.load(Ordering::Relaxed) as f64 / 1e6);
    let _ = writeln!(page, "{name}_count{braced} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn renders_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.counter("muster_mqtt_messages_total", "Messages.", &[("direction", "up")]).add(3);
        metrics.counter("muster_mqtt_messages_total", "Messages.", &[("direction", "up")]).add(1);
        metrics.gauge("muster_mqtt_links", "Links now.", &[]).add(-2);
        metrics.seconds("http_server_request_duration_seconds", "Requests.", &[("method", "GET")]).observe(Duration::from_millis(3));
        let page = metrics.render();
        for line in [
            "# TYPE muster_mqtt_messages_total counter",
            "muster_mqtt_messages_total{direction=\"up\"} 4",
            "muster_mqtt_links -2",
            "http_server_request_duration_seconds_bucket{method=\"GET\",le=\"0.001\"} 0",
            "http_server_request_duration_seconds_bucket{method=\"GET\",le=\"0.005\"} 1",
            "http_server_request_duration_seconds_bucket{method=\"GET\",le=\"+Inf\"} 1",
            "http_server_request_duration_seconds_sum{method=\"GET\"} 0.003",
            "http_server_request_duration_seconds_count{method=\"GET\"} 1",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is not in\n{page}");
        }
    }
}
