//! A mixture of experts: which of them a row takes, and the sum of what they make of it.

use std::ops::Range;

use super::isa::{Simd, Task};
use super::tile::{load_columns, store_columns};

/// Stands for an expert that a row does not take.
pub(super) const NOT_TAKEN: f32 = -1.0;

/// Gives each row the probability of the experts it takes: the softmax over all of them of `x Wᵀ + b`, for as many as are
/// taken, the likeliest; [`NOT_TAKEN`] for the others.
pub(super) struct RouteTask<'a> {
    /// `[experts, width]`, and `[experts]` or empty.
    router: (&'a [f32], &'a [f32]),
    sizes: (usize, usize, usize),
    input: (*const f32, usize),
    out: (*mut f32, usize),
    rows: Range<usize>,
}

impl<'a> RouteTask<'a> {
    /// `sizes` are the width of rows, the number of experts and how many are taken; `input` and `out` row 0 and the distance of
    /// rows.
    ///
    /// # Safety
    /// When it runs, `input` must be readable for rows of that width, and `out` writable for as many values as there are
    /// experts, with nobody else accessing them.
    pub(super) unsafe fn new(
        router: (&'a [f32], &'a [f32]),
        sizes: (usize, usize, usize),
        input: (*const f32, usize),
        out: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        let (width, count, taken) = sizes;
        assert!(router.0.len() == width * count && [0, count].contains(&router.1.len()) && taken <= count);
        RouteTask { router, sizes, input, out, rows }
    }
}

impl Task for RouteTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RouteTask { router: (weights, bias), sizes: (width, count, taken), input, out, rows } = self;
        for row in rows {
            // SAFETY: the row is readable for `width` values and writable for `count` by the promise made to `new`; the
            // helper stays within `width`, of which each expert has as many weights.
            let scores = unsafe {
                let from = input.0.add(row * input.1);
                let scores = std::slice::from_raw_parts_mut(out.0.add(row * out.1), count);
                for (expert, score) in scores.iter_mut().enumerate() {
                    let weights = weights[expert * width..][..width].as_ptr();
                    let mut sum = s.splat(0.0);
                    for at in (0..width).step_by(S::LANES) {
                        sum = s.mul_add(load_columns(s, from, at, width), load_columns(s, weights, at, width), sum);
                    }
                    *score = s.sum(sum) + bias.get(expert).copied().unwrap_or(0.0);
                }
                scores
            };
            probabilities(scores);
            // The likeliest keep theirs; of equals the first.
            let least = |scores: &[f32], expert: usize| {
                let before = |(other, &score): (usize, &f32)| {
                    score > scores[expert] || (score == scores[expert] && other < expert)
                };
                scores.iter().enumerate().filter(|&it| before(it)).count() >= taken
            };
            let left_out: u128 = (0..count.min(128)).filter(|&it| least(scores, it)).fold(0, |set, it| set | 1 << it);
            for (expert, score) in scores.iter_mut().enumerate() {
                if left_out >> expert & 1 == 1 {
                    *score = NOT_TAKEN;
                }
            }
        }
    }
}

/// The softmax of a few scores. NaN among them makes all NaN.
fn probabilities(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= total);
}

/// Adds a row, times a factor, to another of the same width.
pub(super) struct AddRowTask {
    from: *const f32,
    to: *mut f32,
    width: usize,
    factor: f32,
}

impl AddRowTask {
    /// # Safety
    /// When it runs, `from` must be readable and `to` writable for `width` values, with nobody else accessing those.
    pub(super) unsafe fn new(from: *const f32, to: *mut f32, width: usize, factor: f32) -> Self {
        AddRowTask { from, to, width, factor }
    }
}

impl Task for AddRowTask {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddRowTask { from, to, width, factor } = self;
        let factor = s.splat(factor);
        for at in (0..width).step_by(S::LANES) {
            // SAFETY: both rows have `width` values, and the helpers stay within.
            unsafe {
                let sum = s.mul_add(load_columns(s, from, at, width), factor, load_columns(s, to, at, width));
                store_columns(s, to, at, width, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Kernels;
    use super::super::testing::values;
    use super::*;

    #[test]
    fn a_row_takes_its_likeliest_experts() {
        let (width, count, taken) = (37, 5, 2);
        let (weights, bias, input) = (values(width * count, 1), values(count, 2), values(3 * width, 3));
        for kernels in Kernels::available() {
            let mut out = vec![7f32; 3 * count];
            let (from, to) = ((input.as_ptr(), width), (out.as_mut_ptr(), count));
            // SAFETY: both have these rows.
            let task = unsafe { RouteTask::new((&weights, &bias), (width, count, taken), from, to, 0..3) };
            kernels.run(task);
            for (row, got) in input.chunks(width).zip(out.chunks(count)) {
                let score = |expert: usize| -> f64 {
                    let weights = &weights[expert * width..][..width];
                    row.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>()
                        + f64::from(bias[expert])
                };
                let powers: Vec<f64> = (0..count).map(|expert| score(expert).exp()).collect();
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|&a, &b| powers[b].total_cmp(&powers[a]));
                for (place, &expert) in order.iter().enumerate() {
                    let want = powers[expert] / powers.iter().sum::<f64>();
                    let want = if place < taken { want } else { f64::from(NOT_TAKEN) };
                    assert!((f64::from(got[expert]) - want).abs() < 1e-6, "{kernels:?} {got:?}");
                }
            }
        }
    }

    #[test]
    fn equals_are_taken_in_order_and_nan_is_not_hidden() {
        let kernels = Kernels::detect();
        let route = |input: &[f32]| {
            let mut out = vec![0f32; 4];
            let (from, to) = ((input.as_ptr(), 1), (out.as_mut_ptr(), 4));
            // SAFETY: both have the row.
            kernels.run(unsafe { RouteTask::new((&[1.0; 4], &[]), (1, 4, 2), from, to, 0..1) });
            out
        };
        assert_eq!(route(&[3.0]), [0.25, 0.25, NOT_TAKEN, NOT_TAKEN]);
        assert!(route(&[f32::NAN]).iter().any(|it| it.is_nan()));
    }
}
