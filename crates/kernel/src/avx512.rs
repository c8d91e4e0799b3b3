//! AVX-512: sixteen lanes, 32 registers, masked tails; products of bytes and of bf16 where the CPU has them.

use std::arch::x86_64::*;

use super::dot::{ByteProducts, WithBf16, WithBytes};
use super::isa::{Dot, DotTask};
use super::isa::{Simd, Task};
use super::matrix_unit::UnitTask;
use super::unit::Unit;

/// Proof that the CPU has AVX-512 F, BW, VL and DQ: only [`Avx512::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512 {
    /// The CPU has AVX512_VNNI too.
    vnni: bool,
    /// The CPU has AVX512_BF16 too.
    bf16: bool,
}

impl Avx512 {
    /// The proof, if this CPU has the instructions.
    pub(super) fn detect() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        let vnni = has && is_x86_feature_detected!("avx512vnni");
        let bf16 = has && is_x86_feature_detected!("avx512bf16");
        has.then_some(Avx512 { vnni, bf16 })
    }

    /// Whether products of bf16 are instructions.
    pub(super) fn has_bf16_products(self) -> bool {
        self.bf16
    }

    /// What the CPU has for bytes.
    pub(super) fn byte_products(self) -> ByteProducts {
        if self.vnni { ByteProducts::Avx512Vnni } else { ByteProducts::Avx2 }
    }

    /// The same without the extensions: what older CPUs have.
    #[cfg(test)]
    pub(super) fn plain(self) -> Avx512 {
        Avx512 { vnni: false, bf16: false }
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
    ($($name:ident($($operand:ident: $kind:ty),*) -> $output:ty = $instruction:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($operand: $kind),*) -> $output {
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

/// Exchanges every other run of `RUN` lanes between lines that are `RUN` lines apart: the odd ones of the upper line with
/// the even ones of the lower.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn exchange<const RUN: usize>(lines: &mut [__m512; 16]) {
    // SAFETY: the CPU has the instructions by contract; the arrays are vectors.
    unsafe {
        let upper = _mm512_loadu_si512(const { swapped(RUN) }[0].as_ptr().cast());
        let lower = _mm512_loadu_si512(const { swapped(RUN) }[1].as_ptr().cast());
        for i in 0..16 {
            if i & RUN == 0 {
                let [a, b] = [lines[i], lines[i + RUN]];
                lines[i] = _mm512_permutex2var_ps(a, upper, b);
                lines[i + RUN] = _mm512_permutex2var_ps(a, lower, b);
            }
        }
    }
}

/// The lanes of two lines that come to be in the upper and in the lower one. From 16 on they are the lower line's.
const fn swapped(run: usize) -> [[i32; 16]; 2] {
    let mut lanes = [[0; 16]; 2];
    let mut lane = 0;
    while lane < 16 {
        let odd = lane & run != 0;
        lanes[0][lane] = (if odd { 16 + lane - run } else { lane }) as i32;
        lanes[1][lane] = (if odd { 16 + lane } else { lane + run }) as i32;
        lane += 1;
    }
    lanes
}

/// Lanes whose upper halves are the nearest bf16: half a step is added, but not to NaN, which might overflow.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn round_to_bf16(a: __m512) -> __m512i {
    // SAFETY: as promised.
    unsafe {
        let bits = _mm512_castps_si512(a);
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a);
        _mm512_mask_add_epi32(bits, number, bits, _mm512_set1_epi32(0x8000))
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    // 14 × 2 accumulators, two weights and one broadcast of 32 registers.
    const TILE_ROWS: usize = 14;
    // 12 × 2 accumulators, two weights and one broadcast in two halves each.
    const WIDENING_ROWS: usize = 12;
    type Vector = __m512;
    type Words = __m512i;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: an `Avx512` exists only where the CPU has the features, see `detect`.
        unsafe { compiled(task, self) }
    }
    #[inline(always)]
    fn call_bytes<T: DotTask>(self, task: T) -> T::Output {
        if self.vnni { Vnni(self).call(task) } else { self.call(WithBytes(task)) }
    }
    #[inline(always)]
    fn call_bf16<T: DotTask>(self, task: T) -> T::Output {
        if self.bf16 { Bf16Pairs(self).call(task) } else { self.call(WithBf16(task)) }
    }

    #[inline(always)]
    fn call_on_unit<T: UnitTask>(self, unit: Unit, task: T) {
        unit.run(task);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: an `Avx512` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm512_set1_ps(value) }
    }

    instructions! {
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        where_less(a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then);
        magnitude(a: __m512) -> __m512 = _mm512_andnot_ps(_mm512_set1_ps(-0.0), a);
        with_sign_of(a: __m512, sign: __m512) -> __m512 =
            _mm512_or_ps(a, _mm512_and_ps(_mm512_set1_ps(-0.0), sign));
        round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale_by_power(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
        largest(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
        splat_word(word: u32) -> __m512i = _mm512_set1_epi32(word as i32);
        add_byte_products(sums: __m512i, a: __m512i, b: __m512i) -> __m512i = {
            // Bytes 0 and 2, then 1 and 3 of each lane, as 16 bits.
            let even = _mm512_madd_epi16(
                _mm512_and_si512(a, _mm512_set1_epi16(0xFF)),
                _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)),
            );
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b));
            _mm512_add_epi32(_mm512_add_epi32(sums, even), odd)
        };
        add_bf16_products(sums: __m512, a: __m512i, b: __m512i) -> __m512 = {
            let high = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            let low = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)),
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)),
                sums,
            );
            _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_and_si512(a, high)),
                _mm512_castsi512_ps(_mm512_and_si512(b, high)),
                low,
            )
        };
        add_words(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        integers_to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        pairs_of_bf16(low: __m512, high: __m512) -> __m512i = {
            let (low, high) = (round_to_bf16(low), round_to_bf16(high));
            // (high and mask) or low
            let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            _mm512_ternarylogic_epi32::<0b1110_1010>(high, upper, _mm512_srli_epi32::<16>(low))
        };
        pairs_of_upper_halves(low: __m512, high: __m512) -> __m512i = {
            let (low, high) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
            let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            _mm512_ternarylogic_epi32::<0b1110_1010>(high, upper, _mm512_srli_epi32::<16>(low))
        };
        upper_half(a: __m512) -> __m512 = {
            let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), upper))
        };
        nearest_bf16(a: __m512) -> __m512 = {
            let upper = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(round_to_bf16(a), upper))
        };
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
    fn prefetch_next(self, address: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
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
    #[inline(always)]
    unsafe fn load_words(self, from: *const f32) -> __m512i {
        // SAFETY: readable for 16 words by contract.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f32) -> __m512 {
        // SAFETY: readable for 16 values of 16 bits by contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const f32) -> __m512 {
        // SAFETY: readable for 16 values of 16 bits by contract.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: __m512) {
        // SAFETY: writable for 16 bytes by contract.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(a))) }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const f32], at: usize, to: *mut f32, stride: usize) {
        // SAFETY: 16 columns of 16 rows, and room for them, by contract.
        unsafe {
            let mut lines = [_mm512_setzero_ps(); 16];
            for (line, row) in lines.iter_mut().zip(rows) {
                *line = _mm512_loadu_ps(row.add(at));
            }
            // The upper right changes places with the lower left: of the square, of its quarters, and so on.
            exchange::<8>(&mut lines);
            exchange::<4>(&mut lines);
            exchange::<2>(&mut lines);
            exchange::<1>(&mut lines);
            for (i, line) in lines.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(i * stride), line);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_held_bytes(self, to: *mut u8, vectors: [__m512; 4], offset: i32) -> __m512i {
        // SAFETY: writable for 64 bytes by contract.
        unsafe {
            let offset = _mm512_set1_epi32(offset);
            let [a, b, c, d] = vectors;
            let low = _mm512_packs_epi32(
                _mm512_add_epi32(_mm512_cvtps_epi32(a), offset),
                _mm512_add_epi32(_mm512_cvtps_epi32(b), offset),
            );
            let high = _mm512_packs_epi32(
                _mm512_add_epi32(_mm512_cvtps_epi32(c), offset),
                _mm512_add_epi32(_mm512_cvtps_epi32(d), offset),
            );
            // Packing goes by quarters of a vector: four bytes of each of the four, then the next four of each.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
            _mm512_storeu_si512(to.cast(), bytes);
            _mm512_sad_epu8(bytes, _mm512_setzero_si512())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, a: __m512) {
        // SAFETY: writable for 16 values of 16 bits by contract.
        unsafe {
            let bits = _mm512_castps_si512(a);
            let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let halves = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(halves));
        }
    }
}

/// Products of bytes by one instruction. Made only where the CPU has AVX512_VNNI.
#[derive(Clone, Copy)]
struct Vnni(Avx512);

/// Products of bf16 by one instruction. Made only where the CPU has AVX512_BF16.
#[derive(Clone, Copy)]
struct Bf16Pairs(Avx512);

/// As [`compiled`], with products of bytes.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn compiled_vnni<T: DotTask>(task: T, dot: Vnni) -> T::Output {
    task.run(dot)
}

/// As [`compiled`], with products of bf16.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn compiled_bf16<T: DotTask>(task: T, dot: Bf16Pairs) -> T::Output {
    task.run(dot)
}

impl Dot for Vnni {
    type Simd = Avx512;
    type Left = __m512i;
    type Right = __m512i;
    type Sums = __m512i;
    const TILE_ROWS: usize = Avx512::TILE_ROWS;
    const RIGHT_WORDS: usize = Avx512::LANES;
    const INTEGERS: bool = true;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn call<T: DotTask>(self, task: T) -> T::Output {
        // SAFETY: a `Vnni` exists only where the CPU has the features, see `call_bytes`.
        unsafe { compiled_vnni(task, self) }
    }
    #[inline(always)]
    fn zero(self) -> __m512i {
        self.0.splat_word(0)
    }
    #[inline(always)]
    fn multiply_add(self, left: __m512i, right: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: a `Vnni` exists only where the CPU has the instruction.
        unsafe { _mm512_dpbusd_epi32(sums, left, right) }
    }
    #[inline(always)]
    fn values(self, sums: __m512i) -> __m512 {
        self.0.integers_to_f32(sums)
    }
    #[inline(always)]
    fn bits(self, sums: __m512i) -> __m512 {
        self.0.bits(sums)
    }
    #[inline(always)]
    unsafe fn left(self, from: *const f32) -> __m512i {
        // SAFETY: readable by contract.
        self.0.splat_word(unsafe { *from.cast() })
    }
    #[inline(always)]
    unsafe fn right(self, from: *const f32) -> __m512i {
        // SAFETY: readable for 16 words by contract.
        unsafe { self.0.load_words(from) }
    }
}

impl Dot for Bf16Pairs {
    type Simd = Avx512;
    type Left = __m512i;
    type Right = __m512i;
    type Sums = __m512;
    const TILE_ROWS: usize = Avx512::TILE_ROWS;
    const RIGHT_WORDS: usize = Avx512::LANES;
    const INTEGERS: bool = false;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn call<T: DotTask>(self, task: T) -> T::Output {
        // SAFETY: a `Bf16Pairs` exists only where the CPU has the features, see `call_bf16`.
        unsafe { compiled_bf16(task, self) }
    }
    #[inline(always)]
    fn zero(self) -> __m512 {
        self.0.splat(0.0)
    }
    #[inline(always)]
    fn multiply_add(self, left: __m512i, right: __m512i, sums: __m512) -> __m512 {
        // SAFETY: a `Bf16Pairs` exists only where the CPU has the instruction; both types are 64 bytes.
        unsafe {
            let left = std::mem::transmute::<__m512i, __m512bh>(left);
            let right = std::mem::transmute::<__m512i, __m512bh>(right);
            _mm512_dpbf16_ps(sums, left, right)
        }
    }
    #[inline(always)]
    fn values(self, sums: __m512) -> __m512 {
        sums
    }
    #[inline(always)]
    fn bits(self, sums: __m512) -> __m512 {
        sums
    }
    #[inline(always)]
    unsafe fn left(self, from: *const f32) -> __m512i {
        // SAFETY: readable by contract.
        self.0.splat_word(unsafe { *from.cast() })
    }
    #[inline(always)]
    unsafe fn right(self, from: *const f32) -> __m512i {
        // SAFETY: readable for 16 words by contract.
        unsafe { self.0.load_words(from) }
    }
}
