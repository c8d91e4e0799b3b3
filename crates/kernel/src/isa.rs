//! What a kernel may ask of an instruction set: f32 vectors, kinds of multiply-adds, and a way into code compiled for that
//! set. Nothing in here names one.

use super::matrix_unit::UnitTask;
use super::unit::Unit;

/// Vectors side by side in a weight panel and in a tile of accumulators.
pub(super) const PANEL_VECTORS: usize = 2;

/// An instruction set as a value. The value exists only on a CPU that has the instructions, so the arithmetic is safe
/// to call; only memory access is not.
///
/// Every method works lane by lane, and no result depends on anything but the operands' lanes: kernels built from it
/// are as deterministic as their loops.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// f32 lanes of a vector.
    const LANES: usize;
    /// Most rows of [`PANEL_VECTORS`] accumulators that stay in registers beside their operands.
    const TILE_ROWS: usize;
    /// As [`Simd::TILE_ROWS`], where operands are widened on the way and take more registers.
    const WIDENING_ROWS: usize;
    /// Factors that lie in a vector as they are read, and of which an instruction takes one for all lanes: 1 where there is no
    /// such instruction, and each factor is spread over a vector.
    const LANE_FACTORS: usize = 1;
    /// `LANES` f32 values.
    type Vector: Copy;
    /// `LANES` words of 32 bits: integers, pairs of bf16 or four bytes each.
    type Words: Copy;

    /// Runs a task compiled for this instruction set.
    fn call<T: Task>(self, task: T) -> T::Output;
    /// Runs a task with the fastest products of bytes this CPU has. They are exact: all give the same sums.
    fn call_bytes<T: DotTask>(self, task: T) -> T::Output;
    /// Runs a task with the fastest products of bf16 this CPU has.
    fn call_bf16<T: DotTask>(self, task: T) -> T::Output;
    /// Runs a task with products of bf16 in squares.
    ///
    /// # Panics
    /// If the CPU has no instructions for them.
    #[inline(always)]
    fn call_bf16_squares<T: DotTask>(self, _: T) -> T::Output {
        unreachable!("this CPU has no squares of bf16")
    }
    /// Runs a task with products of bytes in squares. They are exact.
    ///
    /// # Panics
    /// If the CPU has no instructions for them.
    #[inline(always)]
    fn call_byte_squares<T: DotTask>(self, _: T) -> T::Output {
        unreachable!("this CPU has no squares of bytes")
    }
    /// Runs a task on a unit that comes with these instructions. Sets that no unit comes with have nothing compiled for one.
    ///
    /// # Panics
    /// If none comes with them.
    #[inline(always)]
    fn call_on_unit<T: UnitTask>(self, unit: Unit, _: T) {
        unreachable!("{unit:?} comes with another instruction set")
    }

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a × b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a ÷ b`
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a × b + c`, rounded once where the CPU can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The same with one lane of `a`, below [`Simd::LANE_FACTORS`], for all. Where there is but one, all of `a` are alike.
    #[inline(always)]
    fn mul_add_lane<const LANE: usize>(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.mul_add(a, b, c)
    }
    /// The smaller one; `b` if either is NaN.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger one; `b` if either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lanes of `then` where `a < b`, of `otherwise` elsewhere.
    fn where_less(self, a: Self::Vector, b: Self::Vector, then: Self::Vector, otherwise: Self::Vector) -> Self::Vector;
    /// The value without its sign.
    fn magnitude(self, a: Self::Vector) -> Self::Vector;
    /// A value that is not negative, with the sign of another.
    fn with_sign_of(self, a: Self::Vector, sign: Self::Vector) -> Self::Vector;
    /// The nearest integer, ties to even, for |a| < 2²².
    fn round(self, a: Self::Vector) -> Self::Vector;
    /// `a × 2ⁿ` for integral n of -126..=127. NaN in `a` stays NaN.
    fn scale_by_power(self, a: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// The first `count` lanes, zero in the others.
    fn keep_first(self, a: Self::Vector, count: usize) -> Self::Vector;
    /// The sum of all lanes, always in the same order.
    fn sum(self, a: Self::Vector) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::Vector) -> f32;

    /// The same word in every lane.
    fn splat_word(self, word: u32) -> Self::Words;
    /// `sums` and the products of the unsigned bytes of `a` with the signed bytes of `b`, four per lane, as integers.
    fn add_byte_products(self, sums: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;
    /// `sums` and the products of the bf16 of `a` and `b`, two per lane.
    fn add_bf16_products(self, sums: Self::Vector, a: Self::Words, b: Self::Words) -> Self::Vector;
    /// Sums of integers, wrapping.
    fn add_words(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Signed integers as the nearest f32.
    fn integers_to_f32(self, a: Self::Words) -> Self::Vector;
    /// The same bits.
    fn bits(self, a: Self::Words) -> Self::Vector;
    /// Both rounded to the nearest bf16, ties away from zero, `low` in the words' low halves. NaN stays NaN, if it is
    /// quiet, as those that arithmetic makes are.
    fn pairs_of_bf16(self, low: Self::Vector, high: Self::Vector) -> Self::Words;
    /// The upper halves of the lanes of both, as bf16, those of `low` in the words' low halves.
    fn pairs_of_upper_halves(self, low: Self::Vector, high: Self::Vector) -> Self::Words;
    /// What a lane's upper half stands for on its own: the next bf16 towards zero.
    fn upper_half(self, a: Self::Vector) -> Self::Vector;
    /// The nearest bf16, ties away from zero. NaN stays NaN, if it is quiet.
    fn nearest_bf16(self, a: Self::Vector) -> Self::Vector;

    /// Asks for the cache line of an address, which may be any.
    fn prefetch(self, address: *const f32);
    /// The same, into the second-level cache: for what is needed somewhat later.
    fn prefetch_next(self, address: *const f32);

    /// # Safety
    /// `from` must be readable for `LANES` values.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// The first `count` lanes from memory, zero in the others.
    ///
    /// # Safety
    /// `from` must be readable for `count` values; `count < LANES`.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::Vector;
    /// # Safety
    /// `to` must be writable for `LANES` values.
    unsafe fn store(self, to: *mut f32, a: Self::Vector);
    /// # Safety
    /// `to` must be writable for `count` values; `count < LANES`.
    unsafe fn store_first(self, to: *mut f32, a: Self::Vector, count: usize);

    /// # Safety
    /// `from` must be readable for `LANES` words.
    unsafe fn load_words(self, from: *const f32) -> Self::Words;
    /// f16 values as f32. Infinities and NaN become anything.
    ///
    /// # Safety
    /// `from` must be readable for `LANES` values of f16.
    unsafe fn load_f16(self, from: *const f32) -> Self::Vector;
    /// bf16 values as f32.
    ///
    /// # Safety
    /// `from` must be readable for `LANES` values of bf16.
    unsafe fn load_bf16(self, from: *const f32) -> Self::Vector;
    /// Stores lanes of 0 to 255 as bytes, rounded to the nearest, ties to even. Other lanes become anything.
    ///
    /// # Safety
    /// `to` must be writable for `LANES` bytes.
    unsafe fn store_bytes(self, to: *mut u8, a: Self::Vector);
    /// Turns a square around: `LANES` values of each of `LANES` rows, from column `at` on, are stored column after column,
    /// `stride` apart.
    ///
    /// # Safety
    /// There are `LANES` rows, readable for `at + LANES` values each; `to` must be writable for as many columns.
    unsafe fn transpose(self, rows: &[*const f32], at: usize, to: *mut f32, stride: usize);
    /// Stores the lanes of four vectors as bytes: each the nearest integer, ties to even, plus `offset`, held to 0..=255.
    /// NaN becomes 0; other lanes beyond ±2²² become anything. `offset` is 0..=255. Returns words that add up to the sum of
    /// the bytes.
    ///
    /// # Safety
    /// `to` must be writable for 4 × `LANES` bytes.
    unsafe fn store_held_bytes(self, to: *mut u8, vectors: [Self::Vector; 4], offset: i32) -> Self::Words;
    /// Stores lanes as bf16, rounded to the nearest, ties to even. NaN stays NaN.
    ///
    /// # Safety
    /// `to` must be writable for `LANES` values of bf16.
    unsafe fn store_bf16(self, to: *mut u16, a: Self::Vector);
}

/// Work written once for every instruction set. `run` and all that it does with vectors must be `#[inline(always)]`: that
/// is how it comes to be compiled with the set's instructions. Closures are not, so kernels have none.
pub(super) trait Task {
    /// What it returns.
    type Output;
    /// Does the work with the given instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A kind of multiply-add, as a value that exists only where the CPU has its instructions.
pub(super) trait Dot: Copy {
    /// The instruction set around it.
    type Simd: Simd;
    /// A word of the left factor, in every lane.
    type Left: Copy;
    /// A vector of the right factor.
    type Right: Copy;
    /// A sum per lane.
    type Sums: Copy;

    /// Most rows of a tile that stays in registers.
    const TILE_ROWS: usize;
    /// Words of memory that a vector of the right factor takes.
    const RIGHT_WORDS: usize;
    /// Whether sums are integers: exact, and in need of scales.
    const INTEGERS: bool;
    /// Words of the left factor that are read at once, one or four.
    const LEFT_AT_ONCE: usize = 1;
    /// Whether the bytes of the left factor are taken 128 lower, so that sums lack 128 times the sum of the right ones.
    const LOWERED: bool = false;
    /// Whether two rows are multiplied by two columns at once, two words of each: sums are the squares of two rows by two
    /// columns. A left word is then two of a row and two of the next, and a right vector two of a column and two of the next.
    const SQUARES: bool = false;

    /// The instruction set around it.
    fn simd(self) -> Self::Simd;
    /// Runs a task compiled for these instructions.
    fn call<T: DotTask>(self, task: T) -> T::Output;
    /// No sum yet.
    fn zero(self) -> Self::Sums;
    /// `sums + left × right`
    fn multiply_add(self, left: Self::Left, right: Self::Right, sums: Self::Sums) -> Self::Sums;
    /// The same with one of several words that were read at once.
    #[inline(always)]
    fn multiply_add_lane<const LANE: usize>(
        self,
        lefts: Self::Left,
        right: Self::Right,
        sums: Self::Sums,
    ) -> Self::Sums {
        self.multiply_add(lefts, right, sums)
    }
    /// Sums as f32.
    fn values(self, sums: Self::Sums) -> <Self::Simd as Simd>::Vector;
    /// The bits of the sums.
    fn bits(self, sums: Self::Sums) -> <Self::Simd as Simd>::Vector;

    /// Two squares beside each other as their rows.
    #[inline(always)]
    fn rows_of_squares(self, squares: [Self::Sums; 2]) -> [Self::Sums; 2] {
        squares
    }

    /// # Safety
    /// `from` must be readable for a word, in squares for two words of two rows.
    unsafe fn left(self, from: *const f32) -> Self::Left;
    /// In squares, what is to be multiplied with four words of each of two rows, that do not lie together.
    ///
    /// # Safety
    /// Both rows must be readable for four words.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    unsafe fn lefts_of_rows(self, first: *const f32, _: *const f32) -> [Self::Left; 2] {
        // SAFETY: handed on.
        unsafe { [self.left(first), self.left(first.add(2))] }
    }
    /// [`Dot::LEFT_AT_ONCE`] words.
    ///
    /// # Safety
    /// `from` must be readable for as many.
    #[inline(always)]
    unsafe fn lefts(self, from: *const f32) -> Self::Left {
        // SAFETY: handed on.
        unsafe { self.left(from) }
    }
    /// # Safety
    /// `from` must be readable for `RIGHT_WORDS` words.
    unsafe fn right(self, from: *const f32) -> Self::Right;
}

/// Work written once for every kind of multiply-add; like a [`Task`], inlined all the way.
pub(super) trait DotTask {
    /// What it returns.
    type Output;
    /// Does the work.
    fn run<D: Dot>(self, dot: D) -> Self::Output;
}

/// Splits `rows` into runs of at most `most` rows, as even as possible.
pub(super) fn even_runs(rows: std::ops::Range<usize>, most: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    even_runs_of(rows, most, 1)
}

/// The same where so many rows stay together, counted from the first. `most` is a multiple of them.
pub(super) fn even_runs_of(
    rows: std::ops::Range<usize>,
    most: usize,
    together: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let count = rows.len().div_ceil(together);
    let runs = count.div_ceil(most / together);
    let end_of = move |run: usize| rows.end.min(rows.start + count * run / runs * together);
    (0..runs).map(move |i| end_of(i)..end_of(i + 1))
}
