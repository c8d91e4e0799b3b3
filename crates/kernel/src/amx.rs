//! AMX: eight tiles of 1 KiB in Intel's server CPUs, by inline assembly, as stable Rust has no intrinsics for them. The
//! compiler itself never uses them.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS};

/// Bits of CPUID leaf 7 in EDX: products of bf16, tiles, products of bytes.
const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// Bit of CPUID leaf 1 in ECX: XGETBV may be used.
const OSXSAVE: u32 = 1 << 27;
/// Bits of XCR0: the kernel keeps the tiles' configuration and the tiles themselves when it switches threads.
const KEPT: u32 = 1 << 17 | 1 << 18;
/// Asks Linux for a state component, for this process and all its threads.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
/// The component: the tiles.
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// Proof that the CPU has tiles with products of bf16 and of bytes and that this process may use them: only
/// [`Amx::detect`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amx(());

impl Amx {
    /// The proof, if this CPU has tiles and the kernel lets us use them. Asked once.
    pub(super) fn detect() -> Option<Amx> {
        static DETECTED: OnceLock<bool> = OnceLock::new();
        DETECTED.get_or_init(|| is_on_cpu() && is_kept() && is_permitted()).then_some(Amx(()))
    }

    /// The tiles, all of sixteen rows and sixteen words, for this thread until they are dropped.
    #[inline(always)]
    pub(super) fn start(self) -> AmxTiles {
        const CONFIGURATION: Configuration = Configuration::new();
        // SAFETY: an `Amx` exists only where the instruction may be used, and the configuration is one of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, preserves_flags, readonly)) };
        AmxTiles(PhantomData)
    }
}

fn is_on_cpu() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES
}

fn is_kept() -> bool {
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: the CPU and the kernel have the instruction, as just asked; register 0 is XCR0.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
    low & KEPT == KEPT
}

/// Linux enlarges a thread's state only for processes that ask. A sandbox may refuse that.
fn is_permitted() -> bool {
    // SAFETY: it takes two numbers and changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row. Palette 1 has eight tiles: what is beyond them must be zero.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    const fn new() -> Configuration {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < 8 {
            configuration.row_bytes[tile] = (TILE_WORDS * size_of::<f32>()) as u16;
            configuration.rows[tile] = TILE_ROWS as u8;
            tile += 1;
        }
        configuration
    }
}

/// This thread's tiles, configured; they are released when this is dropped.
pub(super) struct AmxTiles(PhantomData<*mut ()>);

impl Drop for AmxTiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: an `AmxTiles` is made by an `Amx`.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl MatrixUnit for AmxTiles {
    #[inline(always)]
    fn zero<const TILE: usize>(&mut self) {
        // SAFETY: the tiles are configured, as an `AmxTiles` exists.
        unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nostack, nomem, preserves_flags)) };
    }
    #[inline(always)]
    fn add_bf16_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tdpbf16ps tmm{sums}, tmm{left}, tmm{right}",
                sums = const SUMS,
                left = const LEFT,
                right = const RIGHT,
                options(nostack, nomem, preserves_flags)
            )
        };
    }
    #[inline(always)]
    fn add_byte_products<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tdpbusd tmm{sums}, tmm{left}, tmm{right}",
                sums = const SUMS,
                left = const LEFT,
                right = const RIGHT,
                options(nostack, nomem, preserves_flags)
            )
        };
    }
    #[inline(always)]
    unsafe fn load<const TILE: usize>(&mut self, from: *const f32, stride: usize) {
        // SAFETY: readable by contract; the tiles are configured. The second register is the distance of rows in bytes.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{from} + {stride}]",
                tile = const TILE,
                from = in(reg) from,
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack, readonly, preserves_flags)
            )
        };
    }
    #[inline(always)]
    unsafe fn load_once<const TILE: usize>(&mut self, from: *const f32, stride: usize) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tileloaddt1 tmm{tile}, [{from} + {stride}]",
                tile = const TILE,
                from = in(reg) from,
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack, readonly, preserves_flags)
            )
        };
    }
    #[inline(always)]
    unsafe fn store<const TILE: usize>(&mut self, to: *mut f32, stride: usize) {
        // SAFETY: writable by contract; the rest as above.
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm{tile}",
                tile = const TILE,
                to = in(reg) to,
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack, preserves_flags)
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::emulated_unit::EmulatedTiles;
    use super::super::testing::values;
    use super::*;

    const WORDS: usize = TILE_ROWS * TILE_WORDS;

    /// Two products, one after the other, into the same sums.
    fn products<U: MatrixUnit>(unit: &mut U, sums: &[u32], factors: [&[u32]; 4], bytes: bool) -> Vec<u32> {
        let mut out = vec![0u32; WORDS];
        assert!(sums.len() == WORDS && factors.iter().all(|factor| factor.len() == WORDS));
        // SAFETY: all are a tile large.
        unsafe {
            unit.load::<0>(sums.as_ptr().cast(), TILE_WORDS);
            for pair in factors.chunks(2) {
                unit.load::<4>(pair[0].as_ptr().cast(), TILE_WORDS);
                unit.load::<7>(pair[1].as_ptr().cast(), TILE_WORDS);
                match bytes {
                    false => unit.add_bf16_products::<0, 4, 7>(),
                    true => unit.add_byte_products::<0, 4, 7>(),
                }
            }
            unit.store::<0>(out.as_mut_ptr().cast(), TILE_WORDS);
        }
        out
    }

    fn words(seed: u64, word: impl Fn(f32, f32) -> u32) -> Vec<u32> {
        values(2 * WORDS, seed).chunks(2).map(|pair| word(pair[0], pair[1])).collect()
    }

    #[test]
    fn the_unit_has_the_bits_of_the_emulated_one() {
        let Some(amx) = Amx::detect() else { return println!("no tiles on this machine") };
        let pair = |a: f32, b: f32| u32::from(half::bf16::from_f32(a).to_bits()) << 16 | b.to_bits() >> 16;
        // Sums of one size, of many, with products too small for an f32 on their own, and down to where numbers end.
        let scale = |x: f32, reach: i32| x * 2f32.powi((x.to_bits() % (2 * reach as u32 + 1)) as i32 - reach);
        for (seed, reach) in (0..40).map(|seed| (4 * seed, [0, 3, 20, 60][seed as usize % 4])) {
            let factor = |seed| words(seed, |a, b| pair(scale(a, reach), scale(b, reach)));
            let sums = words(seed + 900, |a, _| scale(a, reach).to_bits());
            let factors = [factor(seed), factor(seed + 1), factor(seed + 2), factor(seed + 3)];
            let factors = factors.each_ref().map(Vec::as_slice);
            let want = products(&mut EmulatedTiles::default(), &sums, factors, false);
            assert_eq!(products(&mut amx.start(), &sums, factors, false), want, "{seed}");
        }
        for seed in 0..10 {
            let factor = |seed| words(seed, |a, b| a.to_bits() << 16 ^ b.to_bits());
            let factors = [factor(seed), factor(seed + 1), factor(seed + 2), factor(seed + 3)];
            let factors = factors.each_ref().map(Vec::as_slice);
            let sums = words(seed + 900, |a, _| (a * 1e6) as i32 as u32);
            let want = products(&mut EmulatedTiles::default(), &sums, factors, true);
            assert_eq!(products(&mut amx.start(), &sums, factors, true), want, "{seed}");
        }
    }

    #[test]
    fn numbers_that_are_none_and_numbers_too_small_are_as_in_the_emulated_one() {
        let Some(amx) = Amx::detect() else { return };
        let mut left = vec![0x3F80_3F80; WORDS];
        for (row, bits) in [0x7FC0, 0x7F80, 0xFF80, 0x0001, 0x8001, 0x0080, 0x7F7F, 0x0040].into_iter().enumerate() {
            left[row * TILE_WORDS] = bits;
            left[(8 + row) * TILE_WORDS + 3] = bits << 16;
        }
        for right in [0x3F80u32, 0x0000, 0x0001, 0x0080, 0x7F7F, 0x8080, 0x3F00] {
            let right = vec![right << 16 | right; WORDS];
            for sum in [0u32, 0x0000_0001, 0x8000_0001, 0x0080_0000, 0x7F7F_FFFF] {
                let sums = vec![sum; WORDS];
                let factors = [&left[..], &right, &left, &right];
                let want = products(&mut EmulatedTiles::default(), &sums, factors, false);
                let got = products(&mut amx.start(), &sums, factors, false);
                for (got, want) in got.into_iter().zip(want) {
                    let both = [got, want].map(f32::from_bits);
                    assert!(got == want || both.iter().all(|x| x.is_nan()), "{both:?}");
                }
            }
        }
    }
}
