//! How large the caches are, as the CPU says: what blocks of products are cut by.

use std::sync::OnceLock;

/// Where nothing is said: less than most CPUs have.
const UNKNOWN: usize = 512 << 10;
/// What is believed: beyond it, what says so is mistaken, or nothing is gained any more.
const BELIEVED: std::ops::RangeInclusive<usize> = 128 << 10..=4 << 20;

/// A cache for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cache {
    level: u32,
    bytes: usize,
    /// Threads of the CPU that share it.
    shared: usize,
}

/// Bytes of the second-level cache that are a thread's own when all threads are at work. Asked once.
pub(super) fn second_level() -> usize {
    static SECOND: OnceLock<usize> = OnceLock::new();
    *SECOND.get_or_init(|| share_of_second(caches()))
}

/// Values that are worked on together: three eighths of the second-level cache, so that a panel of weights, the next one and
/// what is written have room beside them.
pub(super) fn cached_values() -> usize {
    second_level() / size_of::<f32>() * 3 / 8
}

/// The share of one thread, of what is said of all caches.
fn share_of_second(caches: impl IntoIterator<Item = Cache>) -> usize {
    let second = caches.into_iter().find(|cache| cache.level == 2);
    let share = second.map_or(UNKNOWN, |cache| cache.bytes / cache.shared.max(1));
    share.clamp(*BELIEVED.start(), *BELIEVED.end())
}

#[cfg(target_arch = "x86_64")]
fn caches() -> Vec<Cache> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Bit of leaf 0x8000_0001 in ECX: there is a leaf 0x8000_001D.
    const AMD_TOPOLOGY: u32 = 1 << 22;
    // Intel has leaf 4, AMD another one of the same form.
    let is_amd = __cpuid(0x8000_0000).eax >= 0x8000_001D && __cpuid(0x8000_0001).ecx & AMD_TOPOLOGY != 0;
    let leaf = if is_amd { 0x8000_001D } else { 4 };
    if !is_amd && __cpuid(0).eax < leaf {
        return Vec::new();
    }
    let told = (0..16).map(|index| __cpuid_count(leaf, index)).take_while(|told| told.eax & 31 != 0);
    told.filter_map(|told| cache_of([told.eax, told.ebx, told.ecx])).collect()
}

/// A cache as the CPUID instruction tells of it, in EAX, EBX and ECX; none for one of instructions.
#[cfg(target_arch = "x86_64")]
fn cache_of([eax, ebx, ecx]: [u32; 3]) -> Option<Cache> {
    let field = |register: u32, at: u32, bits: u32| (register >> at & ((1 << bits) - 1)) as usize;
    let is_for_data = matches!(eax & 31, 1 | 3);
    // Each field is one less than it stands for.
    let [line, partitions, ways] = [(0, 12), (12, 10), (22, 10)].map(|(at, bits)| field(ebx, at, bits) + 1);
    is_for_data.then(|| Cache {
        level: field(eax, 5, 3) as u32,
        bytes: line * partitions * ways * (ecx as usize + 1),
        shared: field(eax, 14, 12) + 1,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn caches() -> Vec<Cache> {
    caches_below(std::path::Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

/// Caches as Linux tells of them, a directory for each.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn caches_below(root: &std::path::Path) -> Vec<Cache> {
    let cache = |index: u32| {
        let directory = root.join(format!("index{index}"));
        let text = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        let kibibytes: usize = text("size")?.trim().strip_suffix('K')?.parse().ok()?;
        let shared = super::cores::listed(text("shared_cpu_list")?.trim())?;
        let level = text("level")?.trim().parse().ok()?;
        let is_for_data = text("type")?.trim() != "Instruction";
        Some((is_for_data, Cache { level, bytes: kibibytes << 10, shared }))
    };
    (0..16).map_while(cache).filter(|(is_for_data, _)| *is_for_data).map(|(_, cache)| cache).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_level_is_within_what_is_believed() {
        assert!(BELIEVED.contains(&second_level()), "{}", second_level());
        let cache = |level, bytes, shared| Cache { level, bytes, shared };
        assert_eq!(share_of_second([cache(1, 32 << 10, 2), cache(2, 2 << 20, 2), cache(3, 32 << 20, 16)]), 1 << 20);
        assert_eq!(share_of_second([]), UNKNOWN);
        assert_eq!(share_of_second([cache(2, 0, 0)]), *BELIEVED.start());
        assert_eq!(share_of_second([cache(2, usize::MAX, 1)]), *BELIEVED.end());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_cpuid_tells_is_read() {
        // An Intel Xeon's second level: 16 ways of 2048 sets of lines of 64 bytes, for two threads.
        let second = cache_of([0x0400_4143 & !(0xFFF << 14) | 1 << 14, 15 << 22 | 63, 2047]);
        assert_eq!(second, Some(Cache { level: 2, bytes: 2 << 20, shared: 2 }));
        // An AMD EPYC's first level for instructions, and for data.
        assert_eq!(cache_of([0x0000_0122, 0x01C0_003F, 63]), None);
        let first = cache_of([0x0000_0121, 0x01C0_003F, 63]);
        assert_eq!(first, Some(Cache { level: 1, bytes: 32 << 10, shared: 1 }));
    }

    #[test]
    fn what_linux_tells_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |index: u32, files: [&str; 4]| {
            let directory = root.path().join(format!("index{index}"));
            std::fs::create_dir(&directory).unwrap();
            for (name, text) in ["level", "type", "size", "shared_cpu_list"].into_iter().zip(files) {
                std::fs::write(directory.join(name), format!("{text}\n")).unwrap();
            }
        };
        assert_eq!(caches_below(root.path()), []);
        write(0, ["1", "Data", "64K", "0"]);
        write(1, ["1", "Instruction", "64K", "0"]);
        write(2, ["2", "Unified", "2048K", "0-1"]);
        let told = caches_below(root.path());
        assert_eq!(
            told,
            [Cache { level: 1, bytes: 64 << 10, shared: 1 }, Cache { level: 2, bytes: 2 << 20, shared: 2 }]
        );
        assert_eq!(share_of_second(told), 1 << 20);
    }
}
