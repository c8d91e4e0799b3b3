//! AVX-512: sixteen lanes, 32 registers, masked tails.

use std::arch::x86_64::*;

use super::simd::{Simd, Task};

/// Proof that the CPU has AVX-512 F, BW, VL and DQ: only [`Avx512::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The proof, if this CPU has the instructions.
    pub(super) fn detect() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        has.then_some(Avx512(()))
    }
}

/// The task with every instruction of the set allowed; a function of its own, so that each task gets its own registers.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn compiled<T: Task>(task: T, simd: Avx512) -> T::Output {
    task.run(simd)
}

/// Methods of one instruction each.
macro_rules! instructions {
    ($($name:ident($($operand:ident),*) -> $output:ty = $instruction:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($operand: __m512),*) -> $output {
            // SAFETY: an `Avx512` exists only where the CPU has the instruction, see `detect`.
            unsafe { $instruction }
        }
    )*};
}

/// The mask of the first `count` lanes, `count` < 16.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    (1u16 << count).wrapping_sub(1)
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    // 14 × 2 accumulators, two weights and one broadcast of 32 registers.
    const TILE_ROWS: usize = 14;
    type Vector = __m512;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: an `Avx512` exists only where the CPU has the features, see `detect`.
        unsafe { compiled(task, self) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: an `Avx512` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm512_set1_ps(value) }
    }

    instructions! {
        add(a, b) -> __m512 = _mm512_add_ps(a, b);
        sub(a, b) -> __m512 = _mm512_sub_ps(a, b);
        mul(a, b) -> __m512 = _mm512_mul_ps(a, b);
        div(a, b) -> __m512 = _mm512_div_ps(a, b);
        mul_add(a, b, c) -> __m512 = _mm512_fmadd_ps(a, b, c);
        min(a, b) -> __m512 = _mm512_min_ps(a, b);
        max(a, b) -> __m512 = _mm512_max_ps(a, b);
        round(a) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale_by_power(a, n) -> __m512 = _mm512_scalef_ps(a, n);
        sum(a) -> f32 = _mm512_reduce_add_ps(a);
        largest(a) -> f32 = _mm512_reduce_max_ps(a);
    }

    #[inline(always)]
    fn keep_first(self, a: __m512, count: usize) -> __m512 {
        // SAFETY: an `Avx512` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm512_maskz_mov_ps(first(count), a) }
    }
    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: readable for 16 values by contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        // SAFETY: readable for `count` values by contract; masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m512) {
        // SAFETY: writable for 16 values by contract.
        unsafe { _mm512_storeu_ps(to, a) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: __m512, count: usize) {
        // SAFETY: writable for `count` values by contract; masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(to, first(count), a) }
    }
}
