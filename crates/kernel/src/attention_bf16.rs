//! Attention with products of bf16: queries, keys, values and the softmax' results are rounded, sums and softmax are f32.
//!
//! A word is a pair of numbers that are multiplied and added at once. Which two does not matter as long as both factors
//! pair the same: here those a vector apart, so that a pair of vectors becomes a vector of pairs without moving lanes.

use std::ops::Range;

use super::attention::{AttentionTask, Heads, add, rows_from};
use super::dispatch::Kernels;
use super::isa::{Dot, DotTask};
use super::isa::{PANEL_VECTORS, Simd, Task, even_runs};
use super::math::rough_power_of_two;
use super::tile::{Ahead, Finish, Product, load_columns};

/// Most rows of a tile in any instruction set.
const MOST_ROWS: usize = 16;

/// Words of the parts of scratch memory.
struct Parts {
    /// A query or a key.
    row: usize,
    /// A pair of values.
    value: usize,
    /// Tokens in whole panels.
    padded: usize,
    /// Distance of the rows of scores: an odd number of cache lines, so that a tile's rows do not compete for the same
    /// few lines of the cache.
    stride: usize,
}

impl Parts {
    /// `panel` is columns of a panel, `width` what the columns of values are filled up to.
    fn new(panel: usize, width: usize, tokens: usize, size: usize) -> Parts {
        let padded = tokens.next_multiple_of(panel);
        Parts {
            row: size.next_multiple_of(panel) / 2,
            value: size.next_multiple_of(width),
            padded,
            stride: (padded.div_ceil(16) | 1) * 16,
        }
    }

    fn keys(&self) -> usize {
        self.padded * self.row
    }

    fn values(&self) -> usize {
        self.padded / 2 * self.value
    }
}

/// Values of scratch memory that a sequence of that many tokens needs.
pub(super) fn scratch_len(kernels: Kernels, tokens: usize, head_size: usize) -> usize {
    let parts = Parts::new(kernels.panel_width(), kernels.panel_width() / PANEL_VECTORS, tokens, head_size);
    parts.keys()
        + parts.values()
        + kernels.tile_rows().max(kernels.panel_width() / PANEL_VECTORS) * parts.row
        + kernels.tile_rows() * parts.stride
}

/// As [`AttentionTask`], with products of bf16. Its scratch memory must be as long as this module's [`scratch_len`].
pub(super) struct RoundedAttentionTask<'a>(pub AttentionTask<'a>);

impl Task for RoundedAttentionTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        s.call_bf16(self);
    }
}

impl DotTask for RoundedAttentionTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let s = dot.simd();
        let AttentionTask { sequence, head, queries, out, scratch, bias, mask } = self.0;
        let Heads { stride, size, tokens, .. } = sequence;
        let panel = D::Simd::LANES * PANEL_VECTORS;
        let parts = Parts::new(panel, D::Simd::LANES, tokens, size);
        let (keys, scratch) = scratch.split_at_mut(parts.keys());
        let (values, scratch) = scratch.split_at_mut(parts.values());
        let (rounded, scratch) = scratch.split_at_mut(D::TILE_ROWS.max(D::Simd::LANES) * parts.row);
        let scores = &mut scratch[..D::TILE_ROWS * parts.stride];
        // SAFETY: the sequence is readable for `tokens` rows, the head is one of `heads`, `out` is writable for the queries
        // in its columns, and scratch memory was just cut as `Parts` has it.
        unsafe {
            let [query, key, value] = sequence.parts(head);
            round_keys(s, panel, (key, stride, size), tokens, rounded, keys);
            round_values(s, (value, stride, size), parts.value, tokens, values);
            for run in even_runs(queries, D::TILE_ROWS) {
                for (row, rounded) in run.clone().zip(rounded.chunks_exact_mut(parts.row)) {
                    // Powers of two in place of e.
                    round(s, query.add(row * stride), size, std::f32::consts::LOG2_E, rounded);
                }
                // What at least one of them sees, in whole panels.
                let end = mask.keys_of(run.clone(), tokens).end;
                let seen = mask.keys_of(run.clone(), tokens).start / panel * panel..end.next_multiple_of(panel);
                // Pairs of values that are not both beyond the last.
                let seen_pairs = (end - seen.start) / panel * D::Simd::LANES + (end % panel).min(D::Simd::LANES);
                for first in seen.clone().step_by(panel) {
                    let product = Product {
                        depth: parts.row,
                        left: rounded.as_ptr(),
                        left_stride: parts.row,
                        right: keys[first * parts.row..].as_ptr(),
                        right_stride: panel,
                        resume: false,
                        scales: None,
                        columns: (tokens - first).min(panel),
                        finish: Finish::Plain,
                        out: scores[first..].as_mut_ptr(),
                        out_stride: parts.stride,
                        ahead: Ahead::nothing(keys[first * parts.row..].as_ptr()),
                    };
                    product.compute_by(dot, 0..run.len());
                }
                let mut shares = [0f32; MOST_ROWS];
                for ((query, scores), share) in run.clone().zip(scores.chunks_exact_mut(parts.stride)).zip(&mut shares)
                {
                    if let Some((bias, centre)) = bias {
                        add_bias(s, scores, (bias, centre - query), seen.start..seen.end.min(tokens));
                    }
                    *share = powers(s, scores, mask.keys(query, tokens), seen.clone());
                }
                for first in (0..size).step_by(panel) {
                    let product = Product {
                        depth: seen_pairs,
                        left: scores[seen.start..].as_ptr(),
                        left_stride: parts.stride,
                        right: values[seen.start / 2 * parts.value + first..].as_ptr(),
                        right_stride: parts.value,
                        resume: false,
                        scales: None,
                        columns: (size - first).min(panel),
                        finish: Finish::RowScale(shares.as_ptr()),
                        out: out.0.add(run.start * out.1 + head * size + first),
                        out_stride: out.1,
                        ahead: Ahead::nothing(values[first..].as_ptr()),
                    };
                    product.compute_by(dot, 0..run.len());
                }
            }
        }
    }
}

/// Rounds a row of a head, times a factor, into words: the first vector of each panel beside the second.
///
/// # Safety
/// `from` must be readable for `size` values.
#[inline(always)]
unsafe fn round<S: Simd>(s: S, from: *const f32, size: usize, factor: f32, out: &mut [f32]) {
    let factor = s.splat(factor);
    for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        let at = i * S::LANES * PANEL_VECTORS;
        // SAFETY: the helper stays within `size`, and the chunk is a vector.
        unsafe {
            let low = s.mul(load_columns(s, from, at, size), factor);
            let high = s.mul(load_columns(s, from, at + S::LANES, size), factor);
            s.store(out.as_mut_ptr(), s.bits(s.pairs_of_bf16(low, high)));
        }
    }
}

/// Lays rounded keys out in panels, `[words of a key][panel]`: the right factor of the scores. Beside the last key it
/// stands again, or there is anything: those columns are not stored.
///
/// # Safety
/// `keys` (with the distance of rows and the head's size) must be readable for `tokens` rows. `rounded` has room for as
/// many as a vector has lanes.
#[inline(always)]
unsafe fn round_keys<S: Simd>(
    s: S,
    panel: usize,
    (keys, stride, size): (*const f32, usize, usize),
    tokens: usize,
    rounded: &mut [f32],
    out: &mut [f32],
) {
    let words = size.next_multiple_of(panel) / 2;
    for first in (0..tokens).step_by(S::LANES) {
        let out = &mut out[first / panel * panel * words..][..panel * words];
        // SAFETY: the tokens exist; a rounded row is whole vectors, and the panel has as many rows as it has words.
        unsafe {
            let rows = rows_from::<S>(first, tokens, |token| keys.add(token * stride));
            for (row, rounded) in rows.into_iter().zip(rounded[..S::LANES * words].chunks_exact_mut(words)) {
                round(s, row, size, 1.0, rounded);
            }
            let rows = rows_from::<S>(0, S::LANES, |i| rounded.as_ptr().add(i * words));
            let out = out.as_mut_ptr().add(first % panel);
            for at in (0..words).step_by(S::LANES) {
                s.transpose(&rows, at, out.add(at * panel), panel);
            }
        }
    }
}

/// Pairs the values of tokens a vector apart, `[tokens / 2][width]`, zeros after the last: the right factor of the context.
///
/// # Safety
/// `values` (with the distance of rows and the head's size) must be readable for `tokens` rows.
#[inline(always)]
unsafe fn round_values<S: Simd>(
    s: S,
    (values, stride, size): (*const f32, usize, usize),
    width: usize,
    tokens: usize,
    out: &mut [f32],
) {
    for (pair, out) in out.chunks_exact_mut(width).enumerate() {
        let low = pair / S::LANES * S::LANES * PANEL_VECTORS + pair % S::LANES;
        let high = low + S::LANES;
        for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
            let at = i * S::LANES;
            // SAFETY: rows of tokens that exist are readable, and the helper stays within `size`; the chunk is a vector.
            unsafe {
                let (mut first, mut second) = (s.splat(0.0), s.splat(0.0));
                if low < tokens {
                    first = load_columns(s, values.add(low * stride), at, size);
                }
                if high < tokens {
                    second = load_columns(s, values.add(high * stride), at, size);
                }
                s.store(out.as_mut_ptr(), s.bits(s.pairs_of_bf16(first, second)));
            }
        }
    }
}

/// Adds biases, from the given one on for the first key, to those scores.
#[inline(always)]
fn add_bias<S: Simd>(s: S, scores: &mut [f32], (bias, first): (&[f32], usize), seen: Range<usize>) {
    let bias = &bias[first + seen.start..][..seen.len()];
    add(s, &mut scores[seen], bias, std::f32::consts::LOG2_E);
}

/// Replaces the scores of `seen`, whole panels of them, by `2^(score - largest)` rounded to words, in the first half of their
/// place, and returns 1 ÷ their sum, by which the row is still to be multiplied. Only `keys` count: what the others get is
/// nothing beside it.
#[inline(always)]
fn powers<S: Simd>(s: S, scores: &mut [f32], keys: Range<usize>, seen: Range<usize>) -> f32 {
    scores[seen.start..keys.start].fill(f32::MIN);
    scores[keys.end..seen.end].fill(f32::MIN);
    let scores = &mut scores[seen];
    let (len, row) = (scores.len(), scores.as_mut_ptr());
    let panel = S::LANES * PANEL_VECTORS;
    assert!(len % panel == 0);
    // SAFETY: the row consists of whole panels, and what is written was read before.
    unsafe {
        let (mut low, mut high) = (s.splat(f32::NEG_INFINITY), s.splat(f32::NEG_INFINITY));
        for at in (0..len).step_by(panel) {
            low = s.max(low, s.load(row.add(at)));
            high = s.max(high, s.load(row.add(at + S::LANES)));
        }
        let largest = s.splat(s.largest(s.max(low, high)));
        let (mut low, mut high) = (s.splat(0.0), s.splat(0.0));
        for at in (0..len).step_by(panel) {
            let first = rough_power_of_two(s, s.sub(s.load(row.add(at)), largest));
            let second = rough_power_of_two(s, s.sub(s.load(row.add(at + S::LANES)), largest));
            low = s.add(low, first);
            high = s.add(high, second);
            s.store(row.add(at / 2), s.bits(s.pairs_of_bf16(first, second)));
        }
        1.0 / s.sum(s.add(low, high))
    }
}

#[cfg(test)]
mod tests;
