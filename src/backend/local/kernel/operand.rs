//! Rows as a product of a narrow precision reads them: rounded to bf16, or to bytes with a scale of their own.

use std::ops::Range;

use super::math::Activation;
use super::precision::Precision;
use super::simd::{Simd, Task};
use super::tile::{group_words, load_columns, store_columns};

/// Whole cache lines, so that rows may be stored in whole vectors.
const LINE: usize = 16;

/// Words along a sum over so many inputs.
pub(super) fn depth_words(precision: Precision, inputs: usize) -> usize {
    match precision {
        Precision::F32 | Precision::F16 => inputs,
        Precision::Bf16 => inputs.div_ceil(2),
        Precision::Int8 => inputs.div_ceil(4),
    }
}

/// Inputs in a group of a row of bytes.
pub(super) fn group_inputs(inputs: usize) -> usize {
    4 * group_words(depth_words(Precision::Int8, inputs))
}

/// Groups of a row of bytes.
pub(super) fn groups(inputs: usize) -> usize {
    inputs.div_ceil(group_inputs(inputs))
}

/// Where in a row of bytes, in words, the scale and the lowest value of each group are.
pub(super) fn scale_at(inputs: usize) -> usize {
    depth_words(Precision::Int8, inputs).next_multiple_of(LINE)
}

/// Words of a row that holds so many inputs; none where a product reads f32 as it is.
pub(super) fn row_words(precision: Precision, inputs: usize) -> usize {
    match precision {
        Precision::F32 | Precision::F16 => 0,
        Precision::Bf16 => depth_words(precision, inputs).next_multiple_of(LINE),
        Precision::Int8 => scale_at(inputs) + 2 * groups(inputs),
    }
}

/// Rounds rows of f32 for a product, after an activation if there is one.
///
/// Bytes are `low + scale · q` with q of 0 to 255, from the smallest to the largest value of a group of neighbours in the
/// row and 0: what a row is rounded to depends on nothing else. A group with a value that is not finite has a scale that
/// is not.
pub(super) struct OperandTask {
    precision: Precision,
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
    /// [`row_words`] of them, on cache lines, with nobody else accessing what is written.
    pub(super) unsafe fn new(
        (precision, width, activation): (Precision, usize, Option<Activation>),
        input: (*mut f32, usize),
        out: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        OperandTask { precision, width, activation, input, out, rows }
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
                match self.precision {
                    Precision::F32 | Precision::F16 => {}
                    Precision::Bf16 => to_bf16(s, input, self.width, activation, out.cast()),
                    Precision::Int8 => to_bytes(s, input, self.width, activation, out),
                }
            }
        }
    }
}

/// # Safety
/// `input` must be readable for `width` values, `out` writable for as many and up to the next whole cache line.
#[inline(always)]
unsafe fn to_bf16<S: Simd>(s: S, input: *const f32, width: usize, activation: Option<Activation>, out: *mut u16) {
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: the helper stays within `width`, and the last vector within the cache line.
        unsafe {
            let mut value = load_columns(s, input, at, width);
            if let Some(activation) = activation {
                value = activation.apply_roughly(s, value);
            }
            s.store_bf16(out.add(at), value);
        }
    }
}

/// # Safety
/// `input` must be readable and, with an activation, writable for `width` values, `out` writable for [`row_words`].
#[inline(always)]
unsafe fn to_bytes<S: Simd>(s: S, input: *mut f32, width: usize, activation: Option<Activation>, out: *mut f32) {
    let size = group_inputs(width);
    for (group, first) in (0..width).step_by(size).enumerate() {
        // SAFETY: the group's values are within the row, its bytes begin on a word, and `row_words` has two words for it
        // after all bytes.
        unsafe {
            let scales = out.add(scale_at(width) + 2 * group);
            let (input, width) = (input.add(first), (width - first).min(size));
            let (scale, low) = group_to_bytes(s, input, width, activation, out.add(first / 4).cast());
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
unsafe fn group_to_bytes<S: Simd>(
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
            s.store_bytes(out.add(at), s.mul(value, steps));
        }
    }
    (range / 255.0, low)
}
