//! AVX2, FMA and F16C: eight lanes, 16 registers; products of bytes where the CPU has AVX-VNNI.

use std::arch::x86_64::*;

use super::dot::{ByteProducts, WithBf16, WithBytes};
use super::isa::{Dot, DotTask, Simd, Task};

/// Proof that the CPU has AVX2, FMA and F16C: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2 {
    /// What the CPU has for bytes.
    bytes: ByteProducts,
}

impl Avx2 {
    /// The proof, if this CPU has the instructions.
    pub(super) fn detect() -> Option<Avx2> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let bytes = if is_x86_feature_detected!("avxvnni") { ByteProducts::AvxVnni } else { ByteProducts::Avx2 };
        has.then_some(Avx2 { bytes })
    }

    /// What the CPU has for bytes.
    pub(super) fn byte_products(self) -> ByteProducts {
        self.bytes
    }

    /// The same as CPUs without AVX-VNNI have it, and with its products in AVX-512's encoding, if this CPU has that.
    #[cfg(test)]
    pub(super) fn others(self) -> Vec<Avx2> {
        let has = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl");
        let encoded = has.then_some(Avx2 { bytes: ByteProducts::Avx512VnniOfEight });
        let without = (self.bytes != ByteProducts::Avx2).then_some(Avx2 { bytes: ByteProducts::Avx2 });
        encoded.into_iter().chain(without).collect()
    }
}

/// The task with every instruction of the set allowed; a function of its own, so that each task gets its own registers.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn compiled<T: Task>(task: T, simd: Avx2) -> T::Output {
    task.run(simd)
}

/// Methods of one instruction each.
macro_rules! instructions {
    ($($name:ident($($operand:ident: $kind:ty),*) -> $output:ty = $instruction:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($operand: $kind),*) -> $output {
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

/// Lanes whose upper halves are the nearest bf16: half a step is added, but not to NaN, which might overflow.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn round_to_bf16(a: __m256) -> __m256i {
    // SAFETY: as promised.
    unsafe {
        let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(a, a));
        _mm256_add_epi32(_mm256_castps_si256(a), _mm256_and_si256(number, _mm256_set1_epi32(0x8000)))
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    // 6 × 2 accumulators, two weights and one broadcast of 16 registers.
    const TILE_ROWS: usize = 6;
    // 4 × 2 accumulators, two weights and one broadcast in two halves each.
    const WIDENING_ROWS: usize = 4;
    type Vector = __m256;
    type Words = __m256i;

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        // SAFETY: an `Avx2` exists only where the CPU has the features, see `detect`.
        unsafe { compiled(task, self) }
    }
    #[inline(always)]
    fn call_bytes<T: DotTask>(self, task: T) -> T::Output {
        match self.bytes {
            ByteProducts::AvxVnni => Vnni::<false>(self).call(task),
            #[cfg(test)]
            ByteProducts::Avx512VnniOfEight => Vnni::<true>(self).call(task),
            _ => self.call(WithBytes(task)),
        }
    }
    #[inline(always)]
    fn call_bf16<T: DotTask>(self, task: T) -> T::Output {
        self.call(WithBf16(task))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: an `Avx2` exists only where the CPU has the instruction, see `detect`.
        unsafe { _mm256_set1_ps(value) }
    }

    instructions! {
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        where_less(a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 =
            _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        magnitude(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        with_sign_of(a: __m256, sign: __m256) -> __m256 =
            _mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0), sign));
        round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale_by_power(a: __m256, n: __m256) -> __m256 = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
        splat_word(word: u32) -> __m256i = _mm256_set1_epi32(word as i32);
        add_byte_products(sums: __m256i, a: __m256i, b: __m256i) -> __m256i = {
            // Bytes 0 and 2, then 1 and 3 of each lane, as 16 bits.
            let even = _mm256_madd_epi16(
                _mm256_and_si256(a, _mm256_set1_epi16(0xFF)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
            _mm256_add_epi32(_mm256_add_epi32(sums, even), odd)
        };
        add_bf16_products(sums: __m256, a: __m256i, b: __m256i) -> __m256 = {
            let high = _mm256_set1_epi32(0xFFFF_0000u32 as i32);
            let low = _mm256_fmadd_ps(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
                sums,
            );
            _mm256_fmadd_ps(
                _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                _mm256_castsi256_ps(_mm256_and_si256(b, high)),
                low,
            )
        };
        add_words(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        integers_to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        pairs_of_bf16(low: __m256, high: __m256) -> __m256i = {
            let (low, high) = (round_to_bf16(low), round_to_bf16(high));
            _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(low), high)
        };
        pairs_of_upper_halves(low: __m256, high: __m256) -> __m256i = {
            let (low, high) = (_mm256_castps_si256(low), _mm256_castps_si256(high));
            _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(low), high)
        };
        upper_half(a: __m256) -> __m256 = {
            let upper = _mm256_set1_epi32(0xFFFF_0000u32 as i32);
            _mm256_and_ps(a, _mm256_castsi256_ps(upper))
        };
        nearest_bf16(a: __m256) -> __m256 = {
            let upper = _mm256_set1_epi32(0xFFFF_0000u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(round_to_bf16(a), upper))
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
    fn prefetch_next(self, address: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
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
    #[inline(always)]
    unsafe fn load_words(self, from: *const f32) -> __m256i {
        // SAFETY: readable for eight words by contract.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f32) -> __m256 {
        // SAFETY: readable for eight values of 16 bits by contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const f32) -> __m256 {
        // SAFETY: readable for eight values of 16 bits by contract.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: __m256) {
        // SAFETY: writable for eight bytes by contract.
        unsafe {
            let integers = _mm256_cvtps_epi32(a);
            let words = _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers));
            _mm_storel_epi64(to.cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const f32], at: usize, to: *mut f32, stride: usize) {
        // SAFETY: eight columns of eight rows, and room for them, by contract.
        unsafe {
            let mut lines = [_mm256_setzero_ps(); 8];
            for (line, row) in lines.iter_mut().zip(rows) {
                *line = _mm256_loadu_ps(row.add(at));
            }
            // Each step swaps the upper right with the lower left: quarters of the square, then of those, then of those.
            for i in 0..4 {
                let [a, b] = [lines[i], lines[i + 4]];
                lines[i] = _mm256_permute2f128_ps::<0x20>(a, b);
                lines[i + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
            for i in [0, 1, 4, 5] {
                let [a, b] = [_mm256_castps_pd(lines[i]), _mm256_castps_pd(lines[i + 2])];
                lines[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                lines[i + 2] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            }
            for i in [0, 2, 4, 6] {
                let [a, b] = [lines[i], lines[i + 1]];
                lines[i] = _mm256_blend_ps::<0b1010_1010>(a, _mm256_moveldup_ps(b));
                lines[i + 1] = _mm256_blend_ps::<0b1010_1010>(_mm256_movehdup_ps(a), b);
            }
            for (i, line) in lines.into_iter().enumerate() {
                _mm256_storeu_ps(to.add(i * stride), line);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_held_bytes(self, to: *mut u8, vectors: [__m256; 4], offset: i32) -> __m256i {
        // SAFETY: writable for 32 bytes by contract.
        unsafe {
            let offset = _mm256_set1_epi32(offset);
            let [a, b, c, d] = vectors;
            let low = _mm256_packs_epi32(
                _mm256_add_epi32(_mm256_cvtps_epi32(a), offset),
                _mm256_add_epi32(_mm256_cvtps_epi32(b), offset),
            );
            let high = _mm256_packs_epi32(
                _mm256_add_epi32(_mm256_cvtps_epi32(c), offset),
                _mm256_add_epi32(_mm256_cvtps_epi32(d), offset),
            );
            // Packing goes by halves of a vector: four bytes of each of the four, then the last four of each.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            _mm256_storeu_si256(to.cast(), bytes);
            _mm256_sad_epu8(bytes, _mm256_setzero_si256())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, a: __m256) {
        // SAFETY: writable for eight values of 16 bits by contract.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            let halves = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(to.cast(), packed);
        }
    }
}

/// Products of bytes by one instruction, in AVX-512's encoding or AVX-VNNI's. Made only where the CPU has it.
#[derive(Clone, Copy)]
struct Vnni<const OF_AVX512: bool>(Avx2);

/// As [`compiled`], with products of bytes.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn compiled_vnni<T: DotTask>(task: T, dot: Vnni<false>) -> T::Output {
    task.run(dot)
}

/// The same in AVX-512's encoding.
#[cfg(test)]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vl,avx512vnni")]
fn compiled_vnni_of_avx512<T: DotTask>(task: T, dot: Vnni<true>) -> T::Output {
    task.run(dot)
}

/// Products of bytes, with their ways into compiled code and their instruction.
macro_rules! vnni {
    ($of_avx512:literal, $compiled:ident, $instruction:ident) => {
        impl Dot for Vnni<$of_avx512> {
            type Simd = Avx2;
            type Left = __m256i;
            type Right = __m256i;
            type Sums = __m256i;
            const TILE_ROWS: usize = Avx2::TILE_ROWS;
            const RIGHT_WORDS: usize = Avx2::LANES;
            const INTEGERS: bool = true;

            #[inline(always)]
            fn simd(self) -> Avx2 {
                self.0
            }
            #[inline(always)]
            fn call<T: DotTask>(self, task: T) -> T::Output {
                // SAFETY: a `Vnni` exists only where the CPU has the features, see `call_bytes`.
                unsafe { $compiled(task, self) }
            }
            #[inline(always)]
            fn zero(self) -> __m256i {
                self.0.splat_word(0)
            }
            #[inline(always)]
            fn multiply_add(self, left: __m256i, right: __m256i, sums: __m256i) -> __m256i {
                // SAFETY: a `Vnni` exists only where the CPU has the instruction.
                unsafe { $instruction(sums, left, right) }
            }
            #[inline(always)]
            fn values(self, sums: __m256i) -> __m256 {
                self.0.integers_to_f32(sums)
            }
            #[inline(always)]
            fn bits(self, sums: __m256i) -> __m256 {
                self.0.bits(sums)
            }
            #[inline(always)]
            unsafe fn left(self, from: *const f32) -> __m256i {
                // SAFETY: readable by contract.
                self.0.splat_word(unsafe { *from.cast() })
            }
            #[inline(always)]
            unsafe fn right(self, from: *const f32) -> __m256i {
                // SAFETY: readable for eight words by contract.
                unsafe { self.0.load_words(from) }
            }
        }
    };
}

vnni!(false, compiled_vnni, _mm256_dpbusd_avx_epi32);
#[cfg(test)]
vnni!(true, compiled_vnni_of_avx512, _mm256_dpbusd_epi32);
