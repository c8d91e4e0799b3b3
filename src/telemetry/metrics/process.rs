//! What the system says about this process, under the names every Prometheus client uses.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Clock ticks in a second, as Linux has them for every program (`USER_HZ`).
const TICKS: f64 = 100.0;

/// See the module. `None`: the system does not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// Resident memory.
    pub resident_bytes: Option<f64>,
    /// User and system time of all threads.
    pub cpu_seconds: Option<f64>,
    /// Start, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

impl Process {
    /// As it is now. Reads three small files.
    pub fn now() -> Process {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let process =
            Process::of(&read("/proc/self/status"), &read("/proc/self/stat"), &read("/proc/uptime"), since_1970);
        // Computed once: another time it would be a few milliseconds off, and look like another start.
        static START: OnceLock<Option<f64>> = OnceLock::new();
        Process { start_seconds: *START.get_or_init(|| process.start_seconds), ..process }
    }

    fn of(status: &str, stat: &str, uptime: &str, now: Duration) -> Process {
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        // What follows the program's name, which may hold anything: fields 3 and on.
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let up: Option<f64> = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok());
        Process {
            resident_bytes: kib.and_then(|kib| kib.trim().parse::<f64>().ok()).map(|kib| kib * 1024.0),
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| (user + system) / TICKS),
            // Started so many ticks after the system, which is up for so many seconds.
            start_seconds: ticks(22).zip(up).map(|(start, up)| now.as_secs_f64() - up + start / TICKS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 5000 1000 200 18446744073709551615";
        let process = Process::of("Name:\tx\nVmRSS:\t    2048 kB\n", stat, "80.00 100.0\n", Duration::from_secs(1000));
        assert_eq!(process.resident_bytes, Some(2048.0 * 1024.0));
        assert_eq!(process.cpu_seconds, Some(3.0));
        assert_eq!(process.start_seconds, Some(970.0));
        let nothing = Process::of("", "", "", Duration::ZERO);
        assert_eq!(nothing, Process { resident_bytes: None, cpu_seconds: None, start_seconds: None });
    }
}
