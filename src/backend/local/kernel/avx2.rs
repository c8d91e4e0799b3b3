//! AVX2 and FMA: eight lanes, 16 registers.

use std::arch::x86_64::*;

use super::simd::{Simd, Task};

/// Proof that the CPU has AVX2 and FMA: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof, if this CPU has the instructions.
    pub(super) fn detect() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

/// The task with every instruction of the set allowed; a function of its own, so that each task gets its own registers.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn compiled<T: Task>(task: T, simd: Avx2) -> T::Output {
    task.run(simd)
}

/// Methods of one instruction each.
macro_rules! instructions {
    ($($name:ident($($operand:ident),*) = $instruction:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($operand: __m256),*) -> __m256 {
            // SAFETY: an `Avx2` exists only where the CPU has the instruction, see `detect`.
            unsafe { $instruction }
        }
    )*};
}

/// All bits set in the first `count` lanes, `count` < 8.
#[inline(always)]
fn first(count: usize) -> __m256i {
    const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let from = &MASKS[8 - count.min(8)..][..8];
    // SAFETY: the slice has eight values; only called where an `Avx2` is at hand.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// Lanes 0–3 and 4–7.
#[inline(always)]
fn halves(a: __m256) -> ([f32; 4], [f32; 4]) {
    // SAFETY: both are 32 bytes of plain f32.
    unsafe { std::mem::transmute(a) }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    // 6 × 2 accumulators, two weights and one broadcast of 16 registers.
    const TILE_ROWS: usize = 6;
    type Vector = __m256;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: an `Avx2` exists only where the CPU has the features, see `detect`.
        unsafe { compiled(task, self) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: an `Avx2` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm256_set1_ps(value) }
    }

    instructions! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        min(a, b) = _mm256_min_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale_by_power(a, n) = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
    }

    #[inline(always)]
    fn keep_first(self, a: __m256, count: usize) -> __m256 {
        // SAFETY: an `Avx2` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm256_and_ps(a, _mm256_castsi256_ps(first(count))) }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        let (low, high) = halves(a);
        ((low[0] + high[0]) + (low[2] + high[2])) + ((low[1] + high[1]) + (low[3] + high[3]))
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        let (low, high) = halves(a);
        let pairs: [f32; 4] = std::array::from_fn(|i| if low[i] > high[i] { low[i] } else { high[i] });
        pairs[0].max(pairs[2]).max(pairs[1].max(pairs[3]))
    }
    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: readable for eight values by contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        // SAFETY: readable for `count` values by contract; masked lanes are not accessed.
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m256) {
        // SAFETY: writable for eight values by contract.
        unsafe { _mm256_storeu_ps(to, a) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: __m256, count: usize) {
        // SAFETY: writable for `count` values by contract; masked lanes are not accessed.
        unsafe { _mm256_maskstore_ps(to, first(count), a) }
    }
}
