//! NEON: four lanes, 32 registers; products of bytes where the CPU has instructions for them. Every CPU of 64-bit ARM has
//! NEON; what came later is found at run time and has no stable intrinsics, so it is inline assembly.

mod products;

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use self::products::{Bfmmla, Sdot, Usmmla};
use super::dot::{ByteProducts, WithBf16, WithBytes};
use super::isa::{Dot, DotTask, Simd, Task};
use super::precision::Precision;

/// The set, and what the CPU has besides it: only [`Neon::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon {
    bytes: ByteProducts,
    /// Whether it multiplies bf16.
    bf16: bool,
}

impl Neon {
    /// What this CPU has.
    pub(super) fn detect() -> Neon {
        let bytes = match (is_aarch64_feature_detected!("i8mm"), is_aarch64_feature_detected!("dotprod")) {
            (true, _) => ByteProducts::Usmmla,
            (false, true) => ByteProducts::Sdot,
            (false, false) => ByteProducts::Neon,
        };
        Neon { bytes, bf16: is_aarch64_feature_detected!("bf16") }
    }

    /// What the CPU has for bytes.
    pub(super) fn byte_products(self) -> ByteProducts {
        self.bytes
    }

    /// Whether the CPU multiplies what that precision rounds to in squares.
    pub(super) fn has_squares(self, precision: Precision) -> bool {
        match precision {
            Precision::Bf16 => self.bf16,
            Precision::Int8 => self.bytes == ByteProducts::Usmmla,
            Precision::F32 | Precision::F16 | Precision::Bf16x3 => false,
        }
    }

    /// The same as older CPUs have it.
    #[cfg(test)]
    pub(super) fn older(self) -> Vec<Neon> {
        let mut ladder = vec![ByteProducts::Neon];
        if is_aarch64_feature_detected!("dotprod") {
            ladder.push(ByteProducts::Sdot);
        }
        ladder.into_iter().filter(|&bytes| bytes != self.bytes).map(|bytes| Neon { bytes, bf16: false }).collect()
    }
}

/// Lanes whose upper halves are the nearest bf16: half a step is added, but not to NaN, which might overflow.
#[inline(always)]
fn round_to_bf16(a: float32x4_t) -> uint32x4_t {
    // SAFETY: every CPU of 64-bit ARM has NEON.
    unsafe { vaddq_u32(vreinterpretq_u32_f32(a), vandq_u32(vceqq_f32(a, a), vdupq_n_u32(0x8000))) }
}

/// Products of 16 bits, each added to its neighbour's.
#[inline(always)]
fn pairs(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    // SAFETY: every CPU of 64-bit ARM has NEON.
    unsafe { vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)) }
}

/// The nearest integers plus an offset, held to 0..=255; NaN becomes 0.
#[inline(always)]
fn held(a: float32x4_t, offset: i32) -> uint16x4_t {
    // SAFETY: every CPU of 64-bit ARM has NEON.
    unsafe {
        let within = vmaxnmq_f32(a, vdupq_n_f32(-offset as f32));
        let within = vminnmq_f32(within, vdupq_n_f32((255 - offset) as f32));
        vqmovun_s32(vaddq_s32(vcvtnq_s32_f32(within), vdupq_n_s32(offset)))
    }
}

/// The upper halves of lanes.
#[inline(always)]
fn upper_halves() -> uint32x4_t {
    // SAFETY: every CPU of 64-bit ARM has NEON.
    unsafe { vdupq_n_u32(0xFFFF_0000) }
}

/// Methods of one expression each.
macro_rules! instructions {
    ($($name:ident($($operand:ident: $kind:ty),*) -> $output:ty = $instruction:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($operand: $kind),*) -> $output {
            // SAFETY: every CPU of 64-bit ARM has NEON.
            unsafe { $instruction }
        }
    )*};
}

impl Simd for Neon {
    const LANES: usize = 4;
    // 8 × 2 accumulators, as many rows' next four factors and two weights of 32 registers.
    const TILE_ROWS: usize = 8;
    // 6 × 2 accumulators, and what widening takes.
    const WIDENING_ROWS: usize = 6;
    const LANE_FACTORS: usize = 4;
    type Vector = float32x4_t;
    type Words = uint32x4_t;

    #[inline(never)]
    fn call<T: Task>(self, task: T) -> T::Output {
        task.run(self)
    }
    #[inline(always)]
    fn call_bytes<T: DotTask>(self, task: T) -> T::Output {
        match self.bytes {
            ByteProducts::Sdot => Sdot(self).call(task),
            _ => self.call(WithBytes(task)),
        }
    }
    #[inline(always)]
    fn call_bf16<T: DotTask>(self, task: T) -> T::Output {
        self.call(WithBf16(task))
    }
    #[inline(always)]
    fn call_bf16_squares<T: DotTask>(self, task: T) -> T::Output {
        assert!(self.bf16, "this CPU has no squares of bf16");
        Bfmmla(self).call(task)
    }
    #[inline(always)]
    fn call_byte_squares<T: DotTask>(self, task: T) -> T::Output {
        assert_eq!(self.bytes, ByteProducts::Usmmla, "what this CPU has for bytes");
        Usmmla(self).call(task)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe { vdupq_n_f32(value) }
    }

    instructions! {
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        where_less(a: float32x4_t, b: float32x4_t, then: float32x4_t, otherwise: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), then, otherwise);
        magnitude(a: float32x4_t) -> float32x4_t = vabsq_f32(a);
        round(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        sum(a: float32x4_t) -> f32 = vpadds_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)));
        largest(a: float32x4_t) -> f32 = vmaxnmvq_f32(a);
        splat_word(word: u32) -> uint32x4_t = vdupq_n_u32(word);
        add_words(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vaddq_u32(a, b);
        integers_to_f32(a: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(a));
        bits(a: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(a);
        pairs_of_bf16(low: float32x4_t, high: float32x4_t) -> uint32x4_t = vsriq_n_u32::<16>(round_to_bf16(high), round_to_bf16(low));
        pairs_of_upper_halves(low: float32x4_t, high: float32x4_t) -> uint32x4_t = vsriq_n_u32::<16>(vreinterpretq_u32_f32(high), vreinterpretq_u32_f32(low));
        upper_half(a: float32x4_t) -> float32x4_t = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), upper_halves()));
        nearest_bf16(a: float32x4_t) -> float32x4_t = vreinterpretq_f32_u32(vandq_u32(round_to_bf16(a), upper_halves()));
    }

    #[inline(always)]
    fn mul_add_lane<const LANE: usize>(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe {
            match LANE {
                0 => vfmaq_laneq_f32::<0>(c, b, a),
                1 => vfmaq_laneq_f32::<1>(c, b, a),
                2 => vfmaq_laneq_f32::<2>(c, b, a),
                _ => vfmaq_laneq_f32::<3>(c, b, a),
            }
        }
    }
    #[inline(always)]
    fn with_sign_of(self, a: float32x4_t, sign: float32x4_t) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe {
            let sign = vandq_u32(vreinterpretq_u32_f32(sign), vdupq_n_u32(1 << 31));
            vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), sign))
        }
    }
    #[inline(always)]
    fn scale_by_power(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
    #[inline(always)]
    fn keep_first(self, a: float32x4_t, count: usize) -> float32x4_t {
        const MASKS: [u32; 8] = [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0, 0, 0, 0];
        let mask = &MASKS[4 - count.min(4)..][..4];
        // SAFETY: every CPU of 64-bit ARM has NEON, and the slice four lanes.
        unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vld1q_u32(mask.as_ptr()))) }
    }
    #[inline(always)]
    fn add_byte_products(self, sums: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe {
            // Widened to 16 bits; products of a word stand side by side in a vector of their own, and are added in pairs.
            let (a, b) = (vreinterpretq_u8_u32(a), vreinterpretq_s8_u32(b));
            let low = pairs(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), vmovl_s8(vget_low_s8(b)));
            let high = pairs(vreinterpretq_s16_u16(vmovl_high_u8(a)), vmovl_high_s8(b));
            vaddq_u32(sums, vreinterpretq_u32_s32(vpaddq_s32(low, high)))
        }
    }
    #[inline(always)]
    fn add_bf16_products(self, sums: float32x4_t, a: uint32x4_t, b: uint32x4_t) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe {
            let [low_a, low_b] = [vshlq_n_u32::<16>(a), vshlq_n_u32::<16>(b)];
            let [high_a, high_b] = [vandq_u32(a, upper_halves()), vandq_u32(b, upper_halves())];
            let sums = vfmaq_f32(sums, vreinterpretq_f32_u32(low_a), vreinterpretq_f32_u32(low_b));
            vfmaq_f32(sums, vreinterpretq_f32_u32(high_a), vreinterpretq_f32_u32(high_b))
        }
    }
    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        // SAFETY: a prefetch of any address has no effect but on the cache.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags)) }
    }
    #[inline(always)]
    fn prefetch_next(self, address: *const f32) {
        // SAFETY: as above.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: readable for four values by contract.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> float32x4_t {
        let mut lanes = [0f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: only indices below `count` are read.
            *lane = unsafe { from.add(i).read() };
        }
        // SAFETY: the array has four lanes.
        unsafe { vld1q_f32(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: float32x4_t) {
        // SAFETY: writable for four values by contract.
        unsafe { vst1q_f32(to, a) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: float32x4_t, count: usize) {
        let mut lanes = [0f32; 4];
        // SAFETY: the array has four lanes.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), a) };
        for (i, lane) in lanes.into_iter().enumerate().take(count) {
            // SAFETY: only indices below `count` are written.
            unsafe { to.add(i).write(lane) }
        }
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const f32) -> uint32x4_t {
        // SAFETY: readable for four words by contract.
        unsafe { vld1q_u32(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f32) -> float32x4_t {
        // SAFETY: readable for four values of 16 bits by contract.
        let halves = unsafe { vld1_u16(from.cast()) };
        let values: float32x4_t;
        // SAFETY: it reads one register and writes another.
        unsafe {
            asm!(
                "fcvtl {values:v}.4s, {halves:v}.4h",
                values = lateout(vreg) values,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            )
        };
        values
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const f32) -> float32x4_t {
        // SAFETY: readable for four values of 16 bits by contract.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, a: float32x4_t) {
        // SAFETY: writable for four bytes by contract.
        unsafe {
            let halves = vmovn_u32(vcvtnq_u32_f32(a));
            let bytes = vmovn_u16(vcombine_u16(halves, halves));
            to.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const f32], at: usize, to: *mut f32, stride: usize) {
        // SAFETY: four columns of four rows, and room for them, by contract.
        unsafe {
            let (a, b) = (vld1q_f32(rows[0].add(at)), vld1q_f32(rows[1].add(at)));
            let (c, d) = (vld1q_f32(rows[2].add(at)), vld1q_f32(rows[3].add(at)));
            let (even_ab, even_cd) = (vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn1q_f32(c, d)));
            let (odd_ab, odd_cd) = (vreinterpretq_f64_f32(vtrn2q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(c, d)));
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)));
            vst1q_f32(to.add(stride), vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)));
            vst1q_f32(to.add(2 * stride), vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)));
            vst1q_f32(to.add(3 * stride), vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)));
        }
    }
    #[inline(always)]
    unsafe fn store_held_bytes(self, to: *mut u8, vectors: [float32x4_t; 4], offset: i32) -> uint32x4_t {
        // SAFETY: writable for 16 bytes by contract.
        unsafe {
            let [a, b, c, d] = vectors;
            let low = vcombine_u16(held(a, offset), held(b, offset));
            let high = vcombine_u16(held(c, offset), held(d, offset));
            let bytes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
            vst1q_u8(to, bytes);
            vpaddlq_u16(vpaddlq_u8(bytes))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, a: float32x4_t) {
        // SAFETY: writable for four values by contract.
        unsafe {
            let bits = vreinterpretq_u32_f32(a);
            let even = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7FFF)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            vst1_u16(to, vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(a, a), rounded, quiet)))
        }
    }
}
