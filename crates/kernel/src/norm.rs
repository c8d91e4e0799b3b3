//! LayerNorm and root-mean-square norm of packed rows.

use std::ops::Range;

use super::isa::{Simd, Task};
use super::tile::{load_columns, store_columns};

/// `out = (x - mean) / √(variance + epsilon) · gamma + beta`, row by row. `input` and `out` may be the same matrix.
pub(super) struct LayerNormTask<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    input: (*const f32, usize),
    out: (*mut f32, usize),
    rows: Range<usize>,
    adds: bool,
}

impl<'a> LayerNormTask<'a> {
    /// The norm of some rows, `gamma.len()` wide. `input` and `out` are row 0 and the distance of rows.
    ///
    /// # Safety
    /// When it runs, `input` must be readable and `out` writable for these rows, with nobody else accessing those of
    /// `out` meanwhile.
    pub(super) unsafe fn new(
        (gamma, beta, epsilon): (&'a [f32], &'a [f32], f32),
        input: (*const f32, usize),
        out: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        assert_eq!(gamma.len(), beta.len(), "one gamma and one beta per column");
        LayerNormTask { gamma, beta, epsilon, input, out, rows, adds: false }
    }

    /// The norm is added to what `out` holds.
    pub(super) fn adding(self, adds: bool) -> Self {
        LayerNormTask { adds, ..self }
    }
}

impl Task for LayerNormTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.gamma.len();
        let (gamma, beta) = (self.gamma.as_ptr(), self.beta.as_ptr());
        for row in self.rows {
            // SAFETY: the row is readable and writable for `width` values by the promise made to `new`, as are gamma
            // and beta by their lengths; the helpers stay within `width`.
            unsafe {
                let (input, out) = (self.input.0.add(row * self.input.1), self.out.0.add(row * self.out.1));
                let mean = s.splat(sum::<S, false>(s, input, width, s.splat(0.0)) / width as f32);
                let squares = sum::<S, true>(s, input, width, mean);
                let scale = s.splat(1.0 / (squares / width as f32 + self.epsilon).sqrt());
                for at in (0..width).step_by(S::LANES) {
                    let distance = s.sub(load_columns(s, input, at, width), mean);
                    let gamma = load_columns(s, gamma, at, width);
                    let beta = load_columns(s, beta, at, width);
                    let mut value = s.mul_add(s.mul(distance, scale), gamma, beta);
                    if self.adds {
                        value = s.add(load_columns(s, out, at, width), value);
                    }
                    store_columns(s, out, at, width, value);
                }
            }
        }
    }
}

/// `out = x / √(mean of squares + epsilon) · gamma`, row by row: T5's norm. `input` and `out` may be the same matrix.
pub(super) struct RmsNormTask<'a> {
    gamma: &'a [f32],
    epsilon: f32,
    input: (*const f32, usize),
    out: (*mut f32, usize),
    rows: Range<usize>,
    adds: bool,
}

impl<'a> RmsNormTask<'a> {
    /// The norm of some rows, `gamma.len()` wide. `input` and `out` are row 0 and the distance of rows.
    ///
    /// # Safety
    /// As for [`LayerNormTask::new`].
    pub(super) unsafe fn new(
        (gamma, epsilon): (&'a [f32], f32),
        input: (*const f32, usize),
        out: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        RmsNormTask { gamma, epsilon, input, out, rows, adds: false }
    }

    /// The norm is added to what `out` holds.
    pub(super) fn adding(self, adds: bool) -> Self {
        RmsNormTask { adds, ..self }
    }
}

impl Task for RmsNormTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.gamma.len();
        let gamma = self.gamma.as_ptr();
        for row in self.rows {
            // SAFETY: the row is readable and writable for `width` values by the promise made to `new`, as is gamma by
            // its length; the helpers stay within `width`.
            unsafe {
                let (input, out) = (self.input.0.add(row * self.input.1), self.out.0.add(row * self.out.1));
                let squares = sum::<S, true>(s, input, width, s.splat(0.0));
                let scale = s.splat(1.0 / (squares / width as f32 + self.epsilon).sqrt());
                for at in (0..width).step_by(S::LANES) {
                    let value = s.mul(load_columns(s, input, at, width), scale);
                    let mut value = s.mul(value, load_columns(s, gamma, at, width));
                    if self.adds {
                        value = s.add(load_columns(s, out, at, width), value);
                    }
                    store_columns(s, out, at, width, value);
                }
            }
        }
    }
}

/// The sum of a row, or of its squared distances from the mean; in two chains of additions, as one would wait for itself.
///
/// # Safety
/// `row` must be readable for `width` values.
#[inline(always)]
unsafe fn sum<S: Simd, const SQUARES: bool>(s: S, row: *const f32, width: usize, mean: S::Vector) -> f32 {
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let mut at = 0;
    // SAFETY: the helper stays within `width`.
    unsafe {
        while at + S::LANES < width {
            even = s.add(even, term::<S, SQUARES>(s, row, at, width, mean));
            odd = s.add(odd, term::<S, SQUARES>(s, row, at + S::LANES, width, mean));
            at += 2 * S::LANES;
        }
        if at < width {
            even = s.add(even, term::<S, SQUARES>(s, row, at, width, mean));
        }
    }
    s.sum(s.add(even, odd))
}

/// A vector of what [`sum`] adds up, zero beyond the row.
///
/// # Safety
/// `row` must be readable for `width` values.
#[inline(always)]
unsafe fn term<S: Simd, const SQUARES: bool>(
    s: S,
    row: *const f32,
    at: usize,
    width: usize,
    mean: S::Vector,
) -> S::Vector {
    // SAFETY: the helper stays within `width`.
    let values = unsafe { load_columns(s, row, at, width) };
    if !SQUARES {
        return values;
    }
    let distance = s.sub(values, mean);
    // The lanes beyond the row hold zeros, which are not the mean.
    let distance = if width - at < S::LANES { s.keep_first(distance, width - at) } else { distance };
    s.mul(distance, distance)
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Kernels;
    use super::super::testing::{exact_layer_norm, exact_rms_norm, values};
    use super::*;

    #[test]
    fn norms_of_all_widths_match_f64() {
        const ROWS: usize = 5;
        for kernels in Kernels::available() {
            for width in (1..=100).chain([384, 768, 1000]) {
                let mut x: Vec<f32> = values(ROWS * width, 1).iter().map(|x| x * 3.0 + 0.5).collect();
                let (gamma, beta) = (values(width, 2), values(width, 3));
                let mut exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                exact_layer_norm(&mut exact[width..], &gamma, &beta, 1e-12);
                let out = x.as_mut_ptr();
                // SAFETY: `x` has `ROWS` rows and is not used meanwhile.
                let task = unsafe { LayerNormTask::new((&gamma, &beta, 1e-12), (out, width), (out, width), 1..ROWS) };
                kernels.run(task);
                for (&got, &want) in x.iter().zip(&exact) {
                    // With two columns a tiny difference is divided by itself.
                    assert!((f64::from(got) - want).abs() < 2e-5, "{kernels:?} width {width}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn root_mean_square_norms_of_all_widths_match_f64() {
        const ROWS: usize = 3;
        for kernels in Kernels::available() {
            for width in (1..=100).chain([512, 1000]) {
                let mut x: Vec<f32> = values(ROWS * width, 4).iter().map(|x| x * 3.0 + 0.5).collect();
                let gamma = values(width, 5);
                let mut exact: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                exact_rms_norm(&mut exact[width..], &gamma, 1e-6);
                let out = x.as_mut_ptr();
                // SAFETY: `x` has `ROWS` rows and is not used meanwhile.
                let task = unsafe { RmsNormTask::new((&gamma, 1e-6), (out, width), (out, width), 1..ROWS) };
                kernels.run(task);
                for (&got, &want) in x.iter().zip(&exact) {
                    assert!((f64::from(got) - want).abs() < 1e-6, "{kernels:?} width {width}: {got} for {want}");
                }
            }
        }
    }
}
