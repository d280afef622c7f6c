//! Texts of `/proc`, parsed. Pure. What is not understood is left out.

/// Processor time in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpu {
    busy: u64,
    total: u64,
}

impl Cpu {
    /// The busy share since an earlier reading.
    pub(super) fn busy_since(self, before: Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total).filter(|total| *total > 0)?;
        Some((self.busy.saturating_sub(before.busy) as f64 / total as f64).clamp(0.0, 1.0))
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (guest time is in user).
pub(super) fn cpu(text: &str) -> Option<Cpu> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    let total: u64 = ticks.iter().sum();
    Some(Cpu { busy: total.saturating_sub(idle), total })
}

/// The first number of a text.
pub(super) fn first_number(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes of `/proc/meminfo`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Memory {
    pub(super) total: Option<f64>,
    pub(super) used: Option<f64>,
    pub(super) swap_total: f64,
    pub(super) swap_used: f64,
}

/// Used is what is not available: caches that the kernel would give back do not count.
pub(super) fn memory(text: &str) -> Memory {
    let (mut total, mut available, mut swap_total, mut swap_free) = (None, None, 0.0, 0.0);
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let Some(bytes) = first_number(rest).map(|kib| kib * 1024.0) else { continue };
        match name {
            "MemTotal" => total = Some(bytes),
            "MemAvailable" => available = Some(bytes),
            "SwapTotal" => swap_total = bytes,
            "SwapFree" => {
                swap_free = bytes;
                // All that is wanted has come; the text goes on for forty lines.
                break;
            }
            _ => {}
        }
    }
    let used = total.zip(available).map(|(total, available)| total - available);
    Memory { total, used, swap_total, swap_used: (swap_total - swap_free).max(0.0) }
}

/// Counters of one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) errors: u64,
}

/// Interfaces of `/proc/net/dev` that carry something: not loopback, not the inner ends of containers, not those that never moved a byte.
pub(super) fn interfaces(text: &str) -> impl Iterator<Item = (&str, Counters)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let name = name.trim();
        let fields: Vec<u64> = rest.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
        let counters =
            Counters { received: *fields.first()?, sent: *fields.get(8)?, errors: fields[2] + fields.get(10).copied().unwrap_or(0) };
        let inner = ["veth", "br-", "docker", "virbr", "dummy"].iter().any(|prefix| name.starts_with(prefix));
        let idle = counters.received == 0 && counters.sent == 0;
        (name != "lo" && !inner && !idle).then_some((name, counters))
    })
}

/// Bytes read and written by these disks, of `/proc/diskstats`. A sector there is 512 bytes, whatever the disk's is.
pub(super) fn disks(text: &str, whole: &[String]) -> (u64, u64) {
    let (mut read, mut written) = (0, 0);
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let Some(name) = fields.next() else { continue };
        if !whole.iter().any(|disk| disk == name) {
            continue;
        }
        let counters: Vec<u64> = fields.take(7).map_while(|field| field.parse().ok()).collect();
        read += counters.get(2).copied().unwrap_or(0) * 512;
        written += counters.get(6).copied().unwrap_or(0) * 512;
    }
    (read, written)
}

/// Mount points worth watching, of `/proc/self/mounts`: the root, and every block device once, at its shortest path.
/// Network and user-space file systems are left out: one that hangs would hang the daemon.
pub(super) fn mounts(text: &str) -> Vec<String> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(mount), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let mount = unescape(mount);
        let real = device.starts_with("/dev/") && !kind.starts_with("fuse") && !matches!(kind, "squashfs" | "iso9660");
        if !(real || mount == "/") || mount.chars().any(char::is_control) {
            continue;
        }
        match found.iter_mut().find(|(known, at)| *known == device || *at == mount) {
            Some((known, at)) if mount.len() <= at.len() => (*known, *at) = (device, mount),
            Some(_) => {}
            None => found.push((device, mount)),
        }
    }
    let mut mounts: Vec<String> = found.into_iter().map(|(_, mount)| mount).collect();
    mounts.sort();
    mounts.dedup();
    mounts
}

/// The kernel writes space, tab, line break and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor() {
        let before = cpu("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n").unwrap();
        let after = cpu("cpu  150 0 75 850 75 0 0 50 0 0\n").unwrap();
        assert_eq!(after.busy_since(before), Some(0.625));
        assert_eq!(after.busy_since(after), None);
        assert_eq!(cpu("nonsense"), None);
        assert_eq!(cpu(""), None);
    }

    #[test]
    fn memory_without_caches() {
        let memory = memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\nDirty: 1 kB\n");
        assert_eq!(memory, Memory { total: Some(1_024_000.0), used: Some(409_600.0), swap_total: 10_240.0, swap_used: 6144.0 });
    }

    #[test]
    fn network() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop|bytes\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n\
                    eth0: 100 1 2 0 0 0 0 0 300 1 1 0 0 0 0 0\nveth12: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n wlan0:0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(interfaces(text).collect::<Vec<_>>(), [("eth0", Counters { received: 100, sent: 300, errors: 3 })]);
    }

    #[test]
    fn disk_counters_of_whole_disks() {
        let text = "   8 0 sda 1 2 10 4 5 6 20 8 9 10 11\n   8 1 sda1 1 2 10 4 5 6 20 8\n   7 0 loop0 1 1 9 1 1 1 9 1\n";
        assert_eq!(disks(text, &["sda".into()]), (5120, 10240));
    }

    #[test]
    fn mounts_once_each() {
        let text = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /boot ext4 rw 0 0\n/dev/sda2 /mnt/a\\040b/deep ext4 rw 0 0\n\
                    /dev/sda2 /mnt/a\\040b ext4 rw 0 0\nsshfs#x /mnt/remote fuse.sshfs rw 0 0\nnas:/x /nas nfs rw 0 0\n/dev/loop1 /snap/x squashfs ro 0 0\n";
        assert_eq!(mounts(text), ["/", "/boot", "/mnt/a b"]);
        assert_eq!(mounts("rootfs / rootfs rw 0 0\n/dev/root / ext4 rw 0 0\n"), ["/"]);
    }
}
