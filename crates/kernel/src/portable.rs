//! Four lanes in plain Rust: what every other CPU gets from its compiler, and the oracle for the other sets.

use super::dot::{WithBf16, WithBytes};
use super::isa::{DotTask, Simd, Task};
#[cfg(test)]
use super::matrix_unit::UnitTask;
#[cfg(test)]
use super::unit::Unit;

/// The portable instruction set: every CPU has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

type Lanes = [f32; 4];

/// Added and taken off again, 1.5 × 2²³ leaves the nearest integer.
const ROUNDER: f32 = 12_582_912.0;

#[inline(always)]
fn each(a: Lanes, b: Lanes, operation: impl Fn(f32, f32) -> f32) -> Lanes {
    [operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2]), operation(a[3], b[3])]
}

impl Simd for Portable {
    const LANES: usize = 4;
    // As measured: with more rows the compiler runs out of x86-64's 16 registers.
    const TILE_ROWS: usize = 3;
    const WIDENING_ROWS: usize = 2;
    type Vector = Lanes;
    type Words = [u32; 4];

    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        task.run(self)
    }
    #[inline(always)]
    fn call_bytes<T: DotTask>(self, task: T) -> T::Output {
        self.call(WithBytes(task))
    }
    #[inline(always)]
    fn call_bf16<T: DotTask>(self, task: T) -> T::Output {
        self.call(WithBf16(task))
    }

    #[cfg(test)]
    #[inline(always)]
    fn call_on_unit<T: UnitTask>(self, unit: Unit, task: T) {
        unit.run_emulated(task);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; 4]
    }
    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Where the instruction is not certain to be there, `f32::mul_add` calls a slow library function.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn where_less(self, a: Lanes, b: Lanes, then: Lanes, otherwise: Lanes) -> Lanes {
        std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { otherwise[i] })
    }
    #[inline(always)]
    fn magnitude(self, a: Lanes) -> Lanes {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn with_sign_of(self, a: Lanes, sign: Lanes) -> Lanes {
        each(a, sign, |a, sign| f32::from_bits(a.to_bits() | (sign.to_bits() & 1 << 31)))
    }
    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        a.map(|a| (a + ROUNDER) - ROUNDER)
    }
    #[inline(always)]
    fn scale_by_power(self, a: Lanes, n: Lanes) -> Lanes {
        // The low bits of the sum are n + 127, the exponent field of 2ⁿ; the shift drops everything else.
        each(a, n, |a, n| a * f32::from_bits((n + (ROUNDER + 127.0)).to_bits() << 23))
    }
    #[inline(always)]
    fn keep_first(self, a: Lanes, count: usize) -> Lanes {
        std::array::from_fn(|i| if i < count { a[i] } else { 0.0 })
    }
    #[inline(always)]
    fn sum(self, a: Lanes) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn largest(self, a: Lanes) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
    #[inline(always)]
    fn splat_word(self, word: u32) -> [u32; 4] {
        [word; 4]
    }
    #[inline(always)]
    fn add_byte_products(self, sums: [u32; 4], a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
        std::array::from_fn(|i| {
            let (a, b) = (a[i].to_ne_bytes(), b[i].to_ne_bytes());
            let product = |j: usize| i32::from(a[j]) * i32::from(b[j] as i8);
            sums[i].wrapping_add((product(0) + product(1) + product(2) + product(3)) as u32)
        })
    }
    #[inline(always)]
    fn add_bf16_products(self, sums: Lanes, a: [u32; 4], b: [u32; 4]) -> Lanes {
        let low = |words: [u32; 4]| words.map(|word| f32::from_bits(word << 16));
        let high = |words: [u32; 4]| words.map(|word| f32::from_bits(word & 0xFFFF_0000));
        self.mul_add(high(a), high(b), self.mul_add(low(a), low(b), sums))
    }
    #[inline(always)]
    fn add_words(self, a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn integers_to_f32(self, a: [u32; 4]) -> Lanes {
        a.map(|a| a as i32 as f32)
    }
    #[inline(always)]
    fn bits(self, a: [u32; 4]) -> Lanes {
        a.map(f32::from_bits)
    }
    #[inline(always)]
    fn pairs_of_bf16(self, low: Lanes, high: Lanes) -> [u32; 4] {
        // Half a step is added, but not to NaN, which might overflow.
        let round = |a: f32| a.to_bits().wrapping_add(if a.is_nan() { 0 } else { 0x8000 });
        std::array::from_fn(|i| round(low[i]) >> 16 | round(high[i]) & 0xFFFF_0000)
    }
    #[inline(always)]
    fn pairs_of_upper_halves(self, low: Lanes, high: Lanes) -> [u32; 4] {
        std::array::from_fn(|i| low[i].to_bits() >> 16 | high[i].to_bits() & 0xFFFF_0000)
    }
    #[inline(always)]
    fn upper_half(self, a: Lanes) -> Lanes {
        a.map(|a| f32::from_bits(a.to_bits() & 0xFFFF_0000))
    }
    #[inline(always)]
    fn nearest_bf16(self, a: Lanes) -> Lanes {
        let round = |a: f32| a.to_bits().wrapping_add(if a.is_nan() { 0 } else { 0x8000 });
        a.map(|a| f32::from_bits(round(a) & 0xFFFF_0000))
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn prefetch_next(self, _: *const f32) {}

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Lanes {
        // SAFETY: readable for four values by contract; an array of f32 is aligned like an f32.
        unsafe { from.cast::<Lanes>().read() }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Lanes {
        // SAFETY: only indices below `count` are read.
        std::array::from_fn(|i| if i < count { unsafe { from.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Lanes) {
        // SAFETY: writable for four values by contract; an array of f32 is aligned like an f32.
        unsafe { to.cast::<Lanes>().write(a) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: Lanes, count: usize) {
        for (i, value) in a.into_iter().enumerate().take(count) {
            // SAFETY: only indices below `count` are written.
            unsafe { to.add(i).write(value) }
        }
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const f32) -> [u32; 4] {
        // SAFETY: readable for four words by contract; an array of u32 is aligned like an f32.
        unsafe { from.cast::<[u32; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f32) -> Lanes {
        // SAFETY: readable for four values of 16 bits by contract, and aligned more than they need.
        let halves = unsafe { from.cast::<[u16; 4]>().read() };
        halves.map(|half| {
            // The exponent's bias goes from 15 to 127; subnormal numbers come out right as well.
            let magnitude = f32::from_bits(u32::from(half & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
            f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
        })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const f32) -> Lanes {
        // SAFETY: readable for four values of 16 bits by contract, and aligned more than they need.
        let halves = unsafe { from.cast::<[u16; 4]>().read() };
        halves.map(|half| f32::from_bits(u32::from(half) << 16))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: Lanes) {
        let bytes = a.map(|a| (a + ROUNDER).to_bits() as u8);
        // SAFETY: writable for four bytes by contract.
        unsafe { to.cast::<[u8; 4]>().write(bytes) }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const f32], at: usize, to: *mut f32, stride: usize) {
        for (i, row) in rows.iter().enumerate().take(4) {
            for j in 0..4 {
                // SAFETY: four columns of four rows by contract.
                unsafe { to.add(j * stride + i).write(row.add(at + j).read()) }
            }
        }
    }
    #[inline(always)]
    unsafe fn store_held_bytes(self, to: *mut u8, vectors: [Lanes; 4], offset: i32) -> [u32; 4] {
        let (least, most) = (self.splat(-offset as f32), self.splat((255 - offset) as f32));
        let bytes = vectors.map(|a| {
            // Held first: NaN becomes the smallest, as all that compares with nothing.
            self.min(self.max(a, least), most).map(|a| ((a + ROUNDER).to_bits() as u8).wrapping_add(offset as u8))
        });
        // SAFETY: writable for 16 bytes by contract.
        unsafe { to.cast::<[[u8; 4]; 4]>().write(bytes) }
        bytes.map(|four| four.into_iter().map(u32::from).sum())
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, a: Lanes) {
        let halves = a.map(|a| {
            let bits = a.to_bits();
            let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
            ((if a.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
        });
        // SAFETY: writable for four values by contract; an array of u16 is aligned like a u16.
        unsafe { to.cast::<[u16; 4]>().write(halves) }
    }
}
