//! Products that came after NEON itself, each where the CPU has its instruction. They have no stable intrinsics.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::isa::{Dot, DotTask, Simd};

/// Products of signed bytes by signed ones: the left ones are taken 128 lower, and what that lacks is added to the sums. Made
/// only where the CPU has DotProd.
#[derive(Clone, Copy)]
pub(super) struct Sdot<S>(pub(super) S);

/// Products of bf16 in squares. Made only where the CPU has BF16.
#[derive(Clone, Copy)]
pub(super) struct Bfmmla<S>(pub(super) S);

/// Products of unsigned bytes by signed ones in squares. Made only where the CPU has I8MM.
#[derive(Clone, Copy)]
pub(super) struct Usmmla<S>(pub(super) S);

/// What takes a byte 128 lower, as a signed one, in each byte of a word.
const LOWER: u32 = 0x8080_8080;

/// An instruction that adds products to sums: the extension it is part of, its name and its operands.
macro_rules! add_products {
    ($sums:ident, $left:ident, $right:ident, $extension:literal, $instruction:expr $(, $lane:ident)?) => {
        // SAFETY: a kind exists only where the CPU has its instruction; it has no effect but on the sums.
        unsafe {
            asm!(
                concat!(".arch_extension ", $extension),
                $instruction,
                sums = inout(vreg) $sums,
                left = in(vreg) $left,
                right = in(vreg) $right,
                $(lane = const $lane,)?
                options(pure, nomem, nostack, preserves_flags)
            )
        }
    };
}

/// A vector of sums.
trait SumVector: Copy {
    /// Whether they are integers.
    const INTEGERS: bool;
    /// No sum yet.
    const ZERO: Self;
    /// As f32.
    fn values(self) -> float32x4_t;
    /// The same bits.
    fn bits(self) -> float32x4_t;
    /// Back from them.
    fn from_bits(bits: float32x4_t) -> Self;
}

impl SumVector for float32x4_t {
    const INTEGERS: bool = false;
    // SAFETY: lanes of which any bits are numbers.
    const ZERO: float32x4_t = unsafe { std::mem::transmute([0f32; 4]) };

    #[inline(always)]
    fn values(self) -> float32x4_t {
        self
    }
    #[inline(always)]
    fn bits(self) -> float32x4_t {
        self
    }
    #[inline(always)]
    fn from_bits(bits: float32x4_t) -> float32x4_t {
        bits
    }
}

impl SumVector for uint32x4_t {
    const INTEGERS: bool = true;
    // SAFETY: as above.
    const ZERO: uint32x4_t = unsafe { std::mem::transmute([0u32; 4]) };

    #[inline(always)]
    fn values(self) -> float32x4_t {
        // SAFETY: every CPU of 64-bit ARM has NEON.
        unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(self)) }
    }
    #[inline(always)]
    fn bits(self) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f32_u32(self) }
    }
    #[inline(always)]
    fn from_bits(bits: float32x4_t) -> uint32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_u32_f32(bits) }
    }
}

/// The first halves of two vectors, and the second ones.
#[inline(always)]
fn halves_together([a, b]: [float32x4_t; 2]) -> [float32x4_t; 2] {
    // SAFETY: every CPU of 64-bit ARM has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        [vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b))]
    }
}

/// What all kinds have alike.
macro_rules! kind {
    ($call:ident, $sums:ty) => {
        type Simd = S;
        type Left = uint32x4_t;
        type Right = uint32x4_t;
        type Sums = $sums;
        const RIGHT_WORDS: usize = S::LANES;
        const INTEGERS: bool = <$sums>::INTEGERS;

        #[inline(always)]
        fn simd(self) -> S {
            self.0
        }
        #[inline(always)]
        fn call<T: DotTask>(self, task: T) -> T::Output {
            /// A function of its own, so that each task gets its own registers.
            #[inline(never)]
            fn $call<T: DotTask>(task: T, dot: impl Dot) -> T::Output {
                task.run(dot)
            }
            $call(task, self)
        }
        #[inline(always)]
        fn zero(self) -> $sums {
            <$sums>::ZERO
        }
        #[inline(always)]
        fn values(self, sums: $sums) -> float32x4_t {
            sums.values()
        }
        #[inline(always)]
        fn bits(self, sums: $sums) -> float32x4_t {
            sums.bits()
        }
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> uint32x4_t {
            // SAFETY: readable for four words by contract.
            unsafe { vld1q_u32(from.cast()) }
        }
    };
}

impl<S: Simd<Vector = float32x4_t, Words = uint32x4_t>> Dot for Sdot<S> {
    kind!(compiled_sdot, uint32x4_t);
    const TILE_ROWS: usize = S::TILE_ROWS;
    const LEFT_AT_ONCE: usize = S::LANE_FACTORS;
    const LOWERED: bool = true;

    #[inline(always)]
    fn multiply_add(self, left: uint32x4_t, right: uint32x4_t, sums: uint32x4_t) -> uint32x4_t {
        self.multiply_add_lane::<0>(left, right, sums)
    }
    #[inline(always)]
    fn multiply_add_lane<const LANE: usize>(
        self,
        left: uint32x4_t,
        right: uint32x4_t,
        mut sums: uint32x4_t,
    ) -> uint32x4_t {
        add_products!(sums, left, right, "dotprod", "sdot {sums:v}.4s, {right:v}.16b, {left:v}.4b[{lane}]", LANE);
        sums
    }
    #[inline(always)]
    unsafe fn left(self, from: *const f32) -> uint32x4_t {
        // SAFETY: readable by contract.
        unsafe { veorq_u32(vld1q_dup_u32(from.cast()), vdupq_n_u32(LOWER)) }
    }
    #[inline(always)]
    unsafe fn lefts(self, from: *const f32) -> uint32x4_t {
        // SAFETY: readable for four words by contract.
        unsafe { veorq_u32(vld1q_u32(from.cast()), vdupq_n_u32(LOWER)) }
    }
}

/// A kind whose instruction multiplies two rows by two columns.
macro_rules! squares {
    ($kind:ident, $call:ident, $sums:ty, $extension:literal, $instruction:literal) => {
        impl<S: Simd<Vector = float32x4_t, Words = uint32x4_t>> Dot for $kind<S> {
            kind!($call, $sums);
            const SQUARES: bool = true;
            // 12 × 2 accumulators, four weights and two pairs of rows.
            const TILE_ROWS: usize = 12;

            #[inline(always)]
            fn multiply_add(self, left: uint32x4_t, right: uint32x4_t, mut sums: $sums) -> $sums {
                add_products!(sums, left, right, $extension, $instruction);
                sums
            }
            #[inline(always)]
            fn rows_of_squares(self, squares: [$sums; 2]) -> [$sums; 2] {
                halves_together(squares.map(SumVector::bits)).map(SumVector::from_bits)
            }
            #[inline(always)]
            unsafe fn left(self, from: *const f32) -> uint32x4_t {
                // SAFETY: readable for four words by contract.
                unsafe { vld1q_u32(from.cast()) }
            }
            #[inline(always)]
            unsafe fn lefts_of_rows(self, first: *const f32, second: *const f32) -> [uint32x4_t; 2] {
                // SAFETY: readable for four words by contract.
                unsafe { halves_together([vld1q_f32(first), vld1q_f32(second)]).map(SumVector::from_bits) }
            }
        }
    };
}

squares!(Bfmmla, compiled_bfmmla, float32x4_t, "bf16", "bfmmla {sums:v}.4s, {left:v}.8h, {right:v}.8h");
squares!(Usmmla, compiled_usmmla, uint32x4_t, "i8mm", "usmmla {sums:v}.4s, {left:v}.16b, {right:v}.16b");
