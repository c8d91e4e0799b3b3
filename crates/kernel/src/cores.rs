//! How many cores this process may use: what its CPU set and the quotas of its control groups leave it.
//!
//! A quota that is no whole number is rounded up: with 1.5 cores two threads finish a text sooner than one, and the
//! kernel puts them aside only where the work never ends.

use std::path::Path;

/// Cores this process may use, at least 1.
pub fn cores() -> usize {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let allowed = allowed(&text("/proc/self/status"))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let quota = quota(&text("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    quota.map_or(allowed, |quota| allowed.min(quota.ceil() as usize)).max(1)
}

/// CPUs in the set of `/proc/self/status`.
fn allowed(status: &str) -> Option<usize> {
    listed(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
}

/// How many a list such as `0-3,7` names.
pub(super) fn listed(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(count + last.checked_sub(first)? + 1)
    })
}

/// The smallest quota, in cores, of the process' control groups and those above them. `groups` is `/proc/self/cgroup`,
/// `root` where the hierarchies are mounted. Version 2 and version 1.
fn quota(groups: &str, root: &Path) -> Option<f64> {
    let mut smallest = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let mounts: &[&str] = match controllers {
            "" => &[""],
            names if names.split(',').any(|name| name == "cpu") => &["cpu", "cpu,cpuacct"],
            _ => continue,
        };
        for mount in mounts {
            let mount = root.join(mount);
            // Within a container the path may be the host's, and only its root is there.
            for group in
                mount.join(group.trim_start_matches('/')).ancestors().take_while(|path| path.starts_with(&mount))
            {
                if let Some(cores) = quota_of(group) {
                    smallest = Some(smallest.map_or(cores, |smallest: f64| smallest.min(cores)));
                }
            }
        }
    }
    smallest
}

/// What a group's own files say.
fn quota_of(group: &Path) -> Option<f64> {
    let text = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let (quota, period) = match text("cpu.max") {
        // `max 100000` is no quota.
        Some(both) => both.trim().split_once(' ').map(|(quota, period)| (quota.to_owned(), period.to_owned()))?,
        // -1 is no quota.
        None => (text("cpu.cfs_quota_us")?, text("cpu.cfs_period_us")?),
    };
    let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_sets_are_counted() {
        let count = |list: &str| allowed(&format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{list}\n"));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-1"), Some(2));
        assert_eq!(count("0-3,7,10-11"), Some(7));
        assert_eq!(count("3-0"), None);
        assert_eq!(count("all"), None);
        assert_eq!(allowed("Name:\tx\n"), None);
    }

    #[test]
    fn the_smallest_quota_of_a_group_and_those_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = |groups: &str| quota(groups, root.path());
        assert_eq!(read("0::/pod/container\n"), None);
        // Version 2.
        write("pod/container/cpu.max", "max 100000\n");
        assert_eq!(read("0::/pod/container\n"), None);
        write("pod/cpu.max", "150000 100000\n");
        assert_eq!(read("0::/pod/container\n"), Some(1.5));
        write("pod/container/cpu.max", "50000 50000\n");
        assert_eq!(read("0::/pod/container\n"), Some(1.0));
        assert_eq!(read("0::/elsewhere\n"), None);
        // Version 1, seen from within a container: the group's path is the host's.
        write("cpu/cpu.cfs_quota_us", "-1\n");
        write("cpu/cpu.cfs_period_us", "100000\n");
        assert_eq!(read("4:memory:/\n1:cpu:/docker/0123\n0::/\n"), None);
        write("cpu/cpu.cfs_quota_us", "250000\n");
        assert_eq!(read("4:memory:/\n1:cpu,cpuacct:/docker/0123\n0::/\n"), Some(2.5));
        assert_eq!(read("4:memory:/docker/0123\n"), None);
        assert_eq!(read("nonsense\n"), None);
    }

    #[test]
    fn some_core_is_always_there() {
        assert!(cores() >= 1);
    }
}
