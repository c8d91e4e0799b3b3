//! How a tile multiplies: one way per precision, and faster ones where a CPU has instructions for it.
//!
//! The left factor is read in words of 32 bits: an f32, two bf16 or four bytes, neighbours along the depth. The right
//! factor has, for every word, a vector of as many values per column.

use super::isa::{Dot, DotTask, Simd, Task};

/// In which numbers vectors multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factors {
    /// f32 by f32.
    F32,
    /// f32 by f16.
    F32ByF16,
    /// f32 by bf16.
    F32ByBf16,
    /// bf16 by bf16, two at once.
    Bf16,
    /// Bytes by bytes, four at once.
    Bytes,
    /// bf16 by bf16: four of each of two rows by four of each of two columns at once, a square of four sums.
    Bf16Squares,
    /// Bytes by bytes, the same of eight each.
    ByteSquares,
}

impl Factors {
    /// Words of so many weights along the depth, for so many columns.
    pub(super) fn right_words(self, inputs: usize, columns: usize) -> usize {
        match self {
            Factors::F32 => inputs * columns,
            Factors::F32ByF16 | Factors::F32ByBf16 => inputs * (columns / 2),
            Factors::Bf16 => inputs.div_ceil(2) * columns,
            Factors::Bytes => inputs.div_ceil(4) * columns,
            Factors::Bf16Squares => inputs.div_ceil(4) * 2 * columns,
            Factors::ByteSquares => inputs.div_ceil(8) * 2 * columns,
        }
    }

    /// Distance of the rows of weights in words, where so many columns lie side by side. In squares two words of a column lie
    /// together: it is half the distance of the next two.
    pub(super) fn right_stride(self, columns: usize) -> usize {
        match self {
            Factors::F32ByF16 | Factors::F32ByBf16 => columns / 2,
            _ => columns,
        }
    }
}

/// By which instructions bytes are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteProducts {
    /// AVX512_VNNI: four products of each of sixteen lanes summed up at once.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-VNNI: the same of eight lanes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// The same eight lanes in AVX-512's encoding: for tests on CPUs that have no other.
    #[cfg(all(test, target_arch = "x86_64"))]
    Avx512VnniOfEight,
    /// AVX2, widened to 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// I8MM of 64-bit ARM: eight products of unsigned by signed bytes for each sum of a square, at once.
    #[cfg(target_arch = "aarch64")]
    Usmmla,
    /// DotProd of 64-bit ARM: four products of signed bytes summed up at once.
    #[cfg(target_arch = "aarch64")]
    Sdot,
    /// NEON, widened to 16 bits.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust.
    Portable,
}

/// Runs a task with the fastest multiply-adds that an instruction set has for such factors.
#[inline(always)]
pub(super) fn call_in<S: Simd, T: DotTask>(s: S, factors: Factors, task: T) -> T::Output {
    match factors {
        Factors::F32 => s.call(WithF32(task)),
        Factors::F32ByF16 => s.call(WithF16(task)),
        Factors::F32ByBf16 => s.call(WithBf16Weights(task)),
        Factors::Bf16 => s.call_bf16(task),
        Factors::Bytes => s.call_bytes(task),
        Factors::Bf16Squares => s.call_bf16_squares(task),
        Factors::ByteSquares => s.call_byte_squares(task),
    }
}

/// A kind that an instruction set can do with its ordinary vectors, and the task that brings both together.
macro_rules! kinds {
    ($($(#[$about:meta])* $kind:ident by $with:ident {
        $left:ident, $right:ident, $sums:ident, $rows:ident, $words:expr, $integers:literal;
        $($methods:tt)*
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy)]
        pub(super) struct $kind<S>(pub S);

        /// A task done by this kind.
        pub(super) struct $with<T>(pub T);

        impl<T: DotTask> Task for $with<T> {
            type Output = T::Output;

            #[inline(always)]
            fn run<S: Simd>(self, s: S) -> T::Output {
                self.0.run($kind(s))
            }
        }

        impl<S: Simd> Dot for $kind<S> {
            type Simd = S;
            type Left = S::$left;
            type Right = S::$right;
            type Sums = S::$sums;
            const TILE_ROWS: usize = S::$rows;
            const RIGHT_WORDS: usize = $words;
            const INTEGERS: bool = $integers;

            #[inline(always)]
            fn simd(self) -> S {
                self.0
            }
            #[inline(always)]
            fn call<T: DotTask>(self, task: T) -> T::Output {
                self.0.call($with(task))
            }
            $($methods)*
        }
    )*};
}

/// The methods of kinds whose sums are f32.
macro_rules! float_sums {
    () => {
        #[inline(always)]
        fn zero(self) -> S::Vector {
            self.0.splat(0.0)
        }
        #[inline(always)]
        fn values(self, sums: S::Vector) -> S::Vector {
            sums
        }
        #[inline(always)]
        fn bits(self, sums: S::Vector) -> S::Vector {
            sums
        }
    };
}

/// The methods of kinds that multiply f32 by what comes as f32 from the right.
macro_rules! f32_products {
    () => {
        float_sums!();
        const LEFT_AT_ONCE: usize = S::LANE_FACTORS;
        #[inline(always)]
        fn multiply_add_lane<const LANE: usize>(self, left: S::Vector, right: S::Vector, sums: S::Vector) -> S::Vector {
            self.0.mul_add_lane::<LANE>(left, right, sums)
        }
        #[inline(always)]
        unsafe fn lefts(self, from: *const f32) -> S::Vector {
            // SAFETY: readable for a vector by contract, where factors are read so.
            unsafe { if const { S::LANE_FACTORS == 1 } { self.left(from) } else { self.0.load(from) } }
        }
        #[inline(always)]
        fn multiply_add(self, left: S::Vector, right: S::Vector, sums: S::Vector) -> S::Vector {
            self.0.mul_add(left, right, sums)
        }
        #[inline(always)]
        unsafe fn left(self, from: *const f32) -> S::Vector {
            // SAFETY: readable by contract.
            self.0.splat(unsafe { *from })
        }
    };
}

kinds! {
    /// f32 by f32.
    F32 by WithF32 {
        Vector, Vector, Vector, TILE_ROWS, S::LANES, false;

        f32_products!();
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> S::Vector {
            // SAFETY: readable for a vector by contract.
            unsafe { self.0.load(from) }
        }
    }

    /// f32 by f16, which is widened.
    F16 by WithF16 {
        Vector, Vector, Vector, TILE_ROWS, S::LANES / 2, false;

        f32_products!();
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> S::Vector {
            // SAFETY: readable for a vector of f16 by contract.
            unsafe { self.0.load_f16(from) }
        }
    }

    /// f32 by bf16, which is widened.
    Bf16Weights by WithBf16Weights {
        Vector, Vector, Vector, TILE_ROWS, S::LANES / 2, false;

        f32_products!();
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> S::Vector {
            // SAFETY: readable for a vector of bf16 by contract.
            unsafe { self.0.load_bf16(from) }
        }
    }

    /// Pairs of bf16, widened to f32.
    Bf16 by WithBf16 {
        Words, Words, Vector, WIDENING_ROWS, S::LANES, false;

        float_sums!();
        #[inline(always)]
        fn multiply_add(self, left: S::Words, right: S::Words, sums: S::Vector) -> S::Vector {
            self.0.add_bf16_products(sums, left, right)
        }
        #[inline(always)]
        unsafe fn left(self, from: *const f32) -> S::Words {
            // SAFETY: readable by contract.
            self.0.splat_word(unsafe { *from.cast() })
        }
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> S::Words {
            // SAFETY: readable for a vector by contract.
            unsafe { self.0.load_words(from) }
        }
    }

    /// Four unsigned by four signed bytes, widened to 16 bits: no sum saturates.
    Bytes by WithBytes {
        Words, Words, Words, WIDENING_ROWS, S::LANES, true;

        #[inline(always)]
        fn zero(self) -> S::Words {
            self.0.splat_word(0)
        }
        #[inline(always)]
        fn values(self, sums: S::Words) -> S::Vector {
            self.0.integers_to_f32(sums)
        }
        #[inline(always)]
        fn bits(self, sums: S::Words) -> S::Vector {
            self.0.bits(sums)
        }
        #[inline(always)]
        fn multiply_add(self, left: S::Words, right: S::Words, sums: S::Words) -> S::Words {
            self.0.add_byte_products(sums, left, right)
        }
        #[inline(always)]
        unsafe fn left(self, from: *const f32) -> S::Words {
            // SAFETY: readable by contract.
            self.0.splat_word(unsafe { *from.cast() })
        }
        #[inline(always)]
        unsafe fn right(self, from: *const f32) -> S::Words {
            // SAFETY: readable for a vector by contract.
            unsafe { self.0.load_words(from) }
        }
    }
}
