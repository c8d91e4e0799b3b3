//! Rows as a product of a narrow precision reads them: rounded to bf16, or to bytes with a scale of their own.

use std::ops::Range;

use super::dot::Factors;
use super::isa::{Simd, Task};
use super::math::Activation;
use super::precision::Precision;
use super::tile::{group_words, load_columns, store_columns};

/// Whole cache lines, so that rows may be stored in whole vectors.
const LINE: usize = 16;

/// How a product reads the rows on its left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// f32 as it is.
    Plain,
    /// bf16, neighbours in a word.
    Bf16,
    /// For a unit: bf16 in so many parts, whole cache lines of each; the first is the nearest to the value, the next to
    /// what is left. Those a vector apart are in a word, so that a pair of vectors becomes one without moving lanes.
    Parts(usize),
    /// Bytes, with the scale and the lowest value of each group behind them.
    Bytes,
    /// bf16 of two rows together: two words of each after two of the other.
    Bf16InPairs,
    /// Bytes, the same.
    BytesInPairs,
}

impl Form {
    /// The form of products by vectors.
    pub(super) fn of(factors: Factors) -> Form {
        match factors {
            Factors::F32 | Factors::F32ByF16 | Factors::F32ByBf16 => Form::Plain,
            Factors::Bf16 => Form::Bf16,
            Factors::Bytes => Form::Bytes,
            Factors::Bf16Squares => Form::Bf16InPairs,
            Factors::ByteSquares => Form::BytesInPairs,
        }
    }

    /// The form of products on a unit, of a precision whose factors it takes.
    pub(super) fn on_unit(precision: Precision) -> Form {
        match precision {
            Precision::F32 => Form::Parts(3),
            Precision::Bf16x3 => Form::Parts(2),
            Precision::Bf16 => Form::Parts(1),
            Precision::F16 => Form::Plain,
            Precision::Int8 => Form::Bytes,
        }
    }

    /// Words along a sum over so many inputs, of one part.
    pub(super) fn depth_words(self, inputs: usize) -> usize {
        match self {
            Form::Plain => inputs,
            Form::Bf16 | Form::Bf16InPairs | Form::Parts(_) => inputs.div_ceil(2),
            Form::Bytes | Form::BytesInPairs => inputs.div_ceil(4),
        }
    }

    /// The same in whole tiles of a unit: the distance of parts.
    pub(super) fn part_words(self, inputs: usize) -> usize {
        self.depth_words(inputs).next_multiple_of(LINE)
    }

    /// Rows that lie together, and as many words of a column on the right.
    pub(super) fn together(self) -> usize {
        if matches!(self, Form::Bf16InPairs | Form::BytesInPairs) { 2 } else { 1 }
    }

    /// Words of a row that holds so many inputs, an even number; none where a product reads f32 as it is.
    pub(super) fn row_words(self, inputs: usize) -> usize {
        match self {
            Form::Plain => 0,
            Form::Bf16 | Form::Bf16InPairs => self.part_words(inputs),
            Form::Parts(parts) => parts * self.part_words(inputs),
            Form::Bytes | Form::BytesInPairs => scale_at(inputs) + 2 * groups(inputs),
        }
    }
}

/// Inputs in a group of a row of bytes.
pub(super) fn group_inputs(inputs: usize) -> usize {
    4 * group_words(Form::Bytes.depth_words(inputs))
}

/// Groups of a row of bytes.
pub(super) fn groups(inputs: usize) -> usize {
    inputs.div_ceil(group_inputs(inputs))
}

/// Where in a row of bytes, in words, the scale and the lowest value of each group are.
pub(super) fn scale_at(inputs: usize) -> usize {
    Form::Bytes.part_words(inputs)
}

/// Rounds rows of f32 for a product, after an activation if there is one.
///
/// Bytes are `low + scale · q` with q of 0 to 255, from the smallest to the largest value of a group of neighbours in the
/// row and 0: what a row is rounded to depends on nothing else. A group with a value that is not finite has a scale that
/// is not.
pub(super) struct OperandTask {
    form: Form,
    width: usize,
    activation: Option<Activation>,
    input: (*mut f32, usize),
    out: (*mut f32, usize),
    rows: Range<usize>,
}

impl OperandTask {
    /// Some rows, `width` wide. `input` and `out` are row 0 and the distance of rows. An activation is applied to the
    /// input in place.
    ///
    /// # Safety
    /// When it runs, `input` must be readable for these rows, with an activation also writable, and `out` writable for
    /// [`Form::row_words`] of them, on cache lines, with nobody else accessing what is written. Where two rows lie together
    /// they take twice the distance.
    pub(super) unsafe fn new(
        (form, width, activation): (Form, usize, Option<Activation>),
        input: (*mut f32, usize),
        out: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        OperandTask { form, width, activation, input, out, rows }
    }
}

impl Task for OperandTask {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // One loop per activation, with the choice outside of it.
        match self.activation {
            None => self.rows_after(s, None),
            Some(Activation::Gelu) => self.rows_after(s, Some(Activation::Gelu)),
            Some(Activation::GeluTanh) => self.rows_after(s, Some(Activation::GeluTanh)),
            Some(Activation::Relu) => self.rows_after(s, Some(Activation::Relu)),
            Some(Activation::Silu) => self.rows_after(s, Some(Activation::Silu)),
        }
    }
}

impl OperandTask {
    #[inline(always)]
    fn rows_after<S: Simd>(self, s: S, activation: Option<Activation>) {
        for row in self.rows {
            // SAFETY: by the promise made to `new`, these rows are there.
            unsafe {
                let (input, out) = (self.input.0.add(row * self.input.1), self.out.0.add(row * self.out.1));
                // Threads may have a row each: no store may go beyond a row's own words.
                let in_pair = self.out.0.add(row / 2 * 2 * self.out.1 + row % 2 * PAIRED_WORDS);
                match self.form {
                    Form::Plain => {}
                    Form::Bf16 => to_bf16::<S, false>(s, input, self.width, activation, out.cast()),
                    Form::Bf16InPairs if const { S::LANES == 2 * PAIRED_WORDS } => {
                        to_bf16::<S, true>(s, input, self.width, activation, in_pair.cast())
                    }
                    Form::Parts(parts) => {
                        to_parts(s, input, self.width, activation, (out, parts, self.form.part_words(self.width)))
                    }
                    Form::Bytes => to_bytes::<S, false>(s, input, self.width, activation, out),
                    Form::BytesInPairs if const { S::LANES == 2 * PAIRED_WORDS } => {
                        to_bytes::<S, true>(s, input, self.width, activation, in_pair)
                    }
                    Form::Bf16InPairs | Form::BytesInPairs => {
                        unreachable!("a vector is longer than what lies together")
                    }
                }
            }
        }
    }
}

/// Words of a row before as many of the other, where two lie together.
const PAIRED_WORDS: usize = 2;

/// Where a value of a row is, of which so many make a word, where two rows may lie together.
const fn place<const PAIRED: bool>(at: usize, values: usize) -> usize {
    let together = PAIRED_WORDS * values;
    if PAIRED { at / together * 2 * together + at % together } else { at }
}

/// # Safety
/// `input` must be readable for `width` values, `out` writable for as many and up to the next whole cache line, of a row that
/// may lie together with another.
#[inline(always)]
unsafe fn to_bf16<S: Simd, const PAIRED: bool>(
    s: S,
    input: *const f32,
    width: usize,
    activation: Option<Activation>,
    out: *mut u16,
) {
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: the helper stays within `width`, and the last vector within the cache line.
        unsafe {
            let mut value = load_columns(s, input, at, width);
            if let Some(activation) = activation {
                value = activation.apply_roughly(s, value);
            }
            s.store_bf16(out.add(place::<PAIRED>(at, 2)), value);
        }
    }
}

/// # Safety
/// `input` must be readable for `width` values, `out.0` writable for `out.1` parts of as many words as `out.2`.
#[inline(always)]
unsafe fn to_parts<S: Simd>(
    s: S,
    input: *const f32,
    width: usize,
    activation: Option<Activation>,
    (out, parts, part_words): (*mut f32, usize, usize),
) {
    // Up to the end of the cache line, where a unit reads zeros.
    for at in (0..part_words).step_by(S::LANES) {
        // SAFETY: the helper stays within `width`, and the vectors within the parts.
        unsafe {
            let mut low = load_columns(s, input, 2 * at, width);
            let mut high = load_columns(s, input, 2 * at + S::LANES, width);
            if let Some(activation) = activation {
                (low, high) = (activation.apply_for(s, low, parts), activation.apply_for(s, high, parts));
            }
            store_parts(s, (low, high), out.add(at), parts, part_words);
        }
    }
}

/// Which of a row's values are in the low half of a word of [`Form::Parts`]; that in the high half is `lanes` on.
pub(super) const fn low_of_pair(word: usize, lanes: usize) -> usize {
    word / lanes * 2 * lanes + word % lanes
}

/// Stores two neighbouring vectors as words of one to three parts, so many words apart.
///
/// # Safety
/// `to` must be writable for a vector in each part.
#[inline(always)]
pub(super) unsafe fn store_parts<S: Simd>(
    s: S,
    (low, high): (S::Vector, S::Vector),
    to: *mut f32,
    parts: usize,
    distance: usize,
) {
    // SAFETY: handed on.
    unsafe {
        if parts == 1 {
            return s.store(to, s.bits(s.pairs_of_bf16(low, high)));
        }
        let (low_part, high_part) = (s.nearest_bf16(low), s.nearest_bf16(high));
        s.store(to, s.bits(s.pairs_of_upper_halves(low_part, high_part)));
        let (low, high) = (s.sub(low, low_part), s.sub(high, high_part));
        let (low_part, high_part) = (s.nearest_bf16(low), s.nearest_bf16(high));
        s.store(to.add(distance), s.bits(s.pairs_of_upper_halves(low_part, high_part)));
        if parts == 3 {
            // Eight bits are left.
            let (low, high) = (s.sub(low, low_part), s.sub(high, high_part));
            s.store(to.add(2 * distance), s.bits(s.pairs_of_upper_halves(low, high)));
        }
    }
}

/// # Safety
/// `input` must be readable and, with an activation, writable for `width` values, `out` writable for [`Form::row_words`] of a
/// row that may lie together with another.
#[inline(always)]
unsafe fn to_bytes<S: Simd, const PAIRED: bool>(
    s: S,
    input: *mut f32,
    width: usize,
    activation: Option<Activation>,
    out: *mut f32,
) {
    let size = group_inputs(width);
    for (group, first) in (0..width).step_by(size).enumerate() {
        // SAFETY: the group's values are within the row, its bytes begin on a word, and the row has two words for it
        // after all bytes.
        unsafe {
            let scales = out.add(place::<PAIRED>(scale_at(width) + 2 * group, 1));
            let (input, width) = (input.add(first), (width - first).min(size));
            let out = out.add(place::<PAIRED>(first / 4, 1)).cast();
            let (scale, low) = group_to_bytes::<S, PAIRED>(s, input, width, activation, out);
            *scales = scale;
            *scales.add(1) = low;
        }
    }
}

/// Rounds one group and returns its scale and its lowest value.
///
/// # Safety
/// `input` must be readable and, with an activation, writable for `width` values, `out` writable for as many bytes and up
/// to the next whole vector.
#[inline(always)]
unsafe fn group_to_bytes<S: Simd, const PAIRED: bool>(
    s: S,
    input: *mut f32,
    width: usize,
    activation: Option<Activation>,
    out: *mut u8,
) -> (f32, f32) {
    let zero = s.splat(0.0);
    let (mut low, mut high, mut check) = (zero, zero, zero);
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: the helpers stay within `width`.
        unsafe {
            let mut value = load_columns(s, input, at, width);
            if let Some(activation) = activation {
                value = activation.apply_roughly(s, value);
                store_columns(s, input, at, width, value);
            }
            low = s.min(value, low);
            high = s.max(value, high);
            // Zero, or NaN for a value that is not finite.
            check = s.mul_add(value, zero, check);
        }
    }
    let low = -s.largest(s.sub(zero, low));
    let range = s.largest(high) - low + s.sum(check);
    let (lowest, steps) = (s.splat(low), s.splat(if range > 0.0 { 255.0 / range } else { 0.0 }));
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: the helper stays within `width`, and the last vector is whole.
        unsafe {
            let value = s.sub(load_columns(s, input, at, width), lowest);
            s.store_bytes(out.add(place::<PAIRED>(at, 4)), s.mul(value, steps));
        }
    }
    (range / 255.0, low)
}
