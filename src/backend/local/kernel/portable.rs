//! Four lanes in plain Rust: what every other CPU gets from its compiler, and the oracle for the other sets.

use super::simd::{Simd, Task};

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
    type Vector = Lanes;

    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        task.run(self)
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
    fn prefetch(self, _: *const f32) {}

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
}
