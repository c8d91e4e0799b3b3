//! Attention of one head within one sequence: no padding, and of masks those that are ranges.

use std::ops::Range;

use super::dispatch::Kernels;
use super::isa::{PANEL_VECTORS, Simd, Task, even_runs};
use super::mask::Mask;
use super::math::exp;
use super::tile::{Ahead, Finish, Product, load_columns, store_columns};

/// Most rows of a tile in any instruction set.
const MOST_ROWS: usize = 16;
/// Most lanes of a vector.
const MOST_LANES: usize = 16;

/// The rows of one sequence, as the projection leaves them: queries (already scaled), keys and values of all heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Row 0 of the sequence: `[query | key | value]`, `heads × size` wide and twice `key_heads × size`, and a panel of
    /// readable values beyond the last row.
    pub projected: *const f32,
    /// Distance of its rows.
    pub stride: usize,
    /// Number of heads.
    pub heads: usize,
    /// Number of heads of keys and values, which as many neighbouring heads share; they divide `heads`.
    pub key_heads: usize,
    /// Width of a head.
    pub size: usize,
    /// Tokens of the sequence.
    pub tokens: usize,
}

impl Heads {
    /// Where row 0 has a head's query, and the key and the value that belong to it.
    ///
    /// # Safety
    /// The head must be one of `heads`.
    #[inline(always)]
    pub(super) unsafe fn parts(&self, head: usize) -> [*const f32; 3] {
        let key_head = head / (self.heads / self.key_heads);
        // SAFETY: all three lie in a row.
        unsafe {
            let key = self.projected.add((self.heads + key_head) * self.size);
            [self.projected.add(head * self.size), key, key.add(self.key_heads * self.size)]
        }
    }
}

/// Values of scratch memory that a sequence of that many tokens needs.
pub(super) fn scratch_len(kernels: Kernels, tokens: usize, head_size: usize) -> usize {
    tokens.next_multiple_of(kernels.panel_width()) * (head_size + kernels.tile_rows())
}

/// `softmax(q kᵀ) v` of one head for some queries of the sequence.
pub(super) struct AttentionTask<'a> {
    pub(super) sequence: Heads,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    pub(super) out: (*mut f32, usize),
    pub(super) scratch: &'a mut [f32],
    pub(super) bias: Option<(&'a [f32], usize)>,
    pub(super) mask: Mask,
}

impl<'a> AttentionTask<'a> {
    /// `out` is row 0 of the sequence, and the distance of rows, in a matrix of `heads × size` columns.
    ///
    /// # Safety
    /// When it runs, `sequence` must be readable as described there, and `out` writable for the queries' rows in this
    /// head's columns, with nobody else accessing those meanwhile.
    pub(super) unsafe fn new(
        sequence: Heads,
        head: usize,
        queries: Range<usize>,
        out: (*mut f32, usize),
        scratch: &'a mut [f32],
    ) -> Self {
        assert!(head < sequence.heads && queries.end <= sequence.tokens);
        AttentionTask { sequence, head, queries, out, scratch, bias: None, mask: Mask::FULL }
    }

    /// Adds to each score what `bias` holds for the key's distance from the query, `bias[centre]` for none.
    pub(super) fn with_bias(self, bias: &'a [f32], centre: usize) -> Self {
        let tokens = self.sequence.tokens;
        assert!(tokens <= centre + 1 && centre + tokens <= bias.len(), "a bias for every distance");
        AttentionTask { bias: Some((bias, centre)), ..self }
    }

    /// Each query sees only what the mask lets it.
    pub(super) fn with_mask(self, mask: Mask) -> Self {
        AttentionTask { mask, ..self }
    }
}

impl Task for AttentionTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionTask { sequence, head, queries, out, scratch, bias, mask } = self;
        let Heads { stride, size, tokens, .. } = sequence;
        let panel = S::LANES * PANEL_VECTORS;
        let padded = tokens.next_multiple_of(panel);
        let (keys, scores) = scratch.split_at_mut(padded * size);
        let scores = &mut scores[..S::TILE_ROWS * padded];
        // SAFETY: the sequence is readable for `tokens` rows and a panel beyond, the head is one of `heads`, `out` is
        // writable for the queries in its columns, `keys` has room for `padded` keys and `scores` for `TILE_ROWS` rows of
        // `padded` values.
        unsafe {
            let [query, key, value] = sequence.parts(head);
            transpose(s, (key, stride, size), tokens, keys);
            for run in even_runs(queries, S::TILE_ROWS) {
                // What at least one of them sees, from the start of a panel on.
                let seen = mask.keys_of(run.clone(), tokens);
                let seen = seen.start / panel * panel..seen.end;
                for first in seen.clone().step_by(panel) {
                    let product = Product {
                        depth: size,
                        left: query.add(run.start * stride),
                        left_stride: stride,
                        right: keys[first * size..].as_ptr(),
                        right_stride: panel,
                        resume: false,
                        scales: None,
                        columns: (seen.end - first).min(panel),
                        finish: Finish::Plain,
                        out: scores[first..].as_mut_ptr(),
                        out_stride: padded,
                        ahead: Ahead::nothing(keys[first * size..].as_ptr()),
                    };
                    product.compute(s, 0..run.len());
                }
                if let Some((bias, centre)) = bias {
                    for (query, scores) in run.clone().zip(scores.chunks_exact_mut(padded)) {
                        let bias = &bias[centre - query..][seen.clone()];
                        add(s, &mut scores[seen.clone()], bias, 1.0);
                    }
                }
                let mut shares = [0f32; MOST_ROWS];
                for ((query, scores), share) in run.clone().zip(scores.chunks_exact_mut(padded)).zip(&mut shares) {
                    let keys = mask.keys(query, tokens);
                    scores[seen.start..keys.start].fill(0.0);
                    scores[keys.end..seen.end].fill(0.0);
                    *share = exponentials(s, &mut scores[keys]);
                }
                for first in (0..size).step_by(panel) {
                    let product = Product {
                        depth: seen.len(),
                        left: scores[seen.start..].as_ptr(),
                        left_stride: padded,
                        right: value.add(seen.start * stride + first),
                        right_stride: stride,
                        resume: false,
                        scales: None,
                        columns: (size - first).min(panel),
                        finish: Finish::RowScale(shares.as_ptr()),
                        out: out.0.add(run.start * out.1 + head * size + first),
                        out_stride: out.1,
                        ahead: Ahead::nothing(value.add(first)),
                    };
                    product.compute(s, 0..run.len());
                }
            }
        }
    }
}

/// Lays keys out in panels, `[size][panel]`: the right factor of the scores. Beside the last key it stands again, or there
/// is anything: those columns are not stored.
///
/// # Safety
/// `keys` (with the distance of rows and the head's size) must be readable for `tokens` rows. `out` has room for whole
/// panels.
#[inline(always)]
unsafe fn transpose<S: Simd>(s: S, (keys, stride, size): (*const f32, usize, usize), tokens: usize, out: &mut [f32]) {
    let panel = S::LANES * PANEL_VECTORS;
    let whole = size / S::LANES * S::LANES;
    for first in (0..tokens).step_by(S::LANES) {
        let out = &mut out[first / panel * panel * size..][..panel * size];
        // SAFETY: the tokens exist, their keys have `size` columns, and the panel has `size` rows.
        unsafe {
            let rows = rows_from::<S>(first, tokens, |token| keys.add(token * stride));
            let out = out.as_mut_ptr().add(first % panel);
            for at in (0..whole).step_by(S::LANES) {
                s.transpose(&rows, at, out.add(at * panel), panel);
            }
            for at in whole..size {
                for (i, row) in rows.iter().take(S::LANES).enumerate() {
                    out.add(at * panel + i).write(row.add(at).read());
                }
            }
        }
    }
}

/// The rows of as many tokens as a vector has lanes, the last one again where there are no more.
#[inline(always)]
pub(super) fn rows_from<S: Simd>(
    first: usize,
    tokens: usize,
    row: impl Fn(usize) -> *const f32,
) -> [*const f32; MOST_LANES] {
    std::array::from_fn(|i| row((first + i.min(S::LANES - 1)).min(tokens - 1)))
}

/// Adds a row of biases, times a factor, to a row of scores of the same length.
#[inline(always)]
pub(super) fn add<S: Simd>(s: S, scores: &mut [f32], bias: &[f32], factor: f32) {
    let factor = s.splat(factor);
    let width = scores.len();
    assert_eq!(bias.len(), width);
    let (scores, bias) = (scores.as_mut_ptr(), bias.as_ptr());
    for at in (0..width).step_by(S::LANES) {
        // SAFETY: both rows have `width` values, and the helpers stay within.
        unsafe {
            let sum = s.mul_add(load_columns(s, bias, at, width), factor, load_columns(s, scores, at, width));
            store_columns(s, scores, at, width, sum);
        }
    }
}

/// Replaces scores by `exp(score - largest)` and returns 1 ÷ their sum, by which the row is still to be multiplied.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
    let whole = scores.len() / S::LANES * S::LANES;
    let tail = scores.len() - whole;
    let row = scores.as_mut_ptr();
    // SAFETY: whole vectors up to `whole`, `tail` values after it.
    unsafe {
        let mut largest = s.splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(S::LANES) {
            largest = s.max(largest, s.load(row.add(at)));
        }
        let mut largest = s.largest(largest);
        for &score in &scores[whole..] {
            // As in the vectors: a NaN score wins, and the row becomes NaN.
            largest = if largest > score { largest } else { score };
        }
        let offset = s.splat(largest);
        let mut sum = s.splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let power = exp(s, s.sub(s.load(row.add(at)), offset));
            sum = s.add(sum, power);
            s.store(row.add(at), power);
        }
        if tail > 0 {
            let power = s.keep_first(exp(s, s.sub(s.load_first(row.add(whole), tail), offset)), tail);
            sum = s.add(sum, power);
            s.store_first(row.add(whole), power, tail);
        }
        1.0 / s.sum(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{exact_attention, exact_attention_with, values};
    use super::*;

    /// Attention of all heads, on memory as the engine has it.
    fn attend(kernels: Kernels, projected: &[f32], heads: usize, size: usize) -> Vec<f32> {
        attend_in_parts(kernels, projected, heads, size, &[0, projected.len() / (3 * heads * size)])
    }

    /// The same, the queries divided at the given rows.
    fn attend_in_parts(kernels: Kernels, projected: &[f32], heads: usize, size: usize, cuts: &[usize]) -> Vec<f32> {
        let tokens = projected.len() / (3 * heads * size);
        let mut readable = projected.to_vec();
        readable.extend(vec![f32::NAN; kernels.panel_width()]);
        let mut scratch = vec![f32::NAN; scratch_len(kernels, tokens, size)];
        let mut out = vec![f32::NAN; tokens * heads * size];
        let sequence =
            Heads { projected: readable.as_ptr(), stride: 3 * heads * size, heads, key_heads: heads, size, tokens };
        for head in 0..heads {
            for cut in cuts.windows(2) {
                let out = (out.as_mut_ptr(), heads * size);
                // SAFETY: the buffers are as large as `Heads` and `scratch_len` ask, and ours.
                let task = unsafe { AttentionTask::new(sequence, head, cut[0]..cut[1], out, &mut scratch) };
                kernels.run(task);
            }
        }
        out
    }

    #[test]
    fn heads_and_sequences_of_all_tail_sizes_match_f64() {
        let heads = 2;
        for kernels in Kernels::available() {
            for size in [1, 3, 8, 16, 20, 32, 48, 64, 80, 96, 128] {
                for tokens in (1..=35).chain([47, 48, 63, 64, 65, 100]) {
                    let projected: Vec<f32> = values(tokens * heads * size * 3, 11).iter().map(|x| x * 2.0).collect();
                    let got = attend(kernels, &projected, heads, size);
                    for (&got, want) in got.iter().zip(exact_attention(&projected, heads, size)) {
                        let error = (f64::from(got) - want).abs();
                        assert!(error < 2e-5, "{kernels:?} size {size}, {tokens} tokens: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn long_sequences_match_f64() {
        for kernels in Kernels::available() {
            for tokens in [191, 192, 193, 390] {
                let projected = values(tokens * 32 * 3, 14);
                let got = attend(kernels, &projected, 1, 32);
                for (&got, want) in got.iter().zip(exact_attention(&projected, 1, 32)) {
                    assert!((f64::from(got) - want).abs() < 2e-6, "{kernels:?} {tokens} tokens: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn a_bias_by_distance_is_added_to_the_scores() {
        let (heads, size) = (2, 20);
        for kernels in Kernels::available() {
            for tokens in [1, 2, 15, 16, 17, 40, 65] {
                let projected = values(tokens * heads * size * 3, 15);
                // For longer sequences than this one.
                let centre = tokens + 6;
                let tables: Vec<_> = (0..heads as u64).map(|head| values(2 * centre + 1, 16 + head)).collect();
                let mut readable = projected.clone();
                readable.extend(vec![f32::NAN; kernels.panel_width()]);
                let mut scratch = vec![f32::NAN; scratch_len(kernels, tokens, size)];
                let mut out = vec![f32::NAN; tokens * heads * size];
                let stride = 3 * heads * size;
                let sequence = Heads { projected: readable.as_ptr(), stride, heads, key_heads: heads, size, tokens };
                for (head, table) in tables.iter().enumerate() {
                    let out = (out.as_mut_ptr(), heads * size);
                    // SAFETY: the buffers are as large as `Heads` and `scratch_len` ask, and ours.
                    let task = unsafe { AttentionTask::new(sequence, head, 0..tokens, out, &mut scratch) };
                    kernels.run(task.with_bias(table, centre));
                }
                let exact = exact_attention_with(&projected, heads, size, |head, query, key| {
                    f64::from(tables[head][centre + key - query])
                });
                for (&got, want) in out.iter().zip(exact) {
                    assert!((f64::from(got) - want).abs() < 2e-6, "{kernels:?} {tokens} tokens: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn a_query_has_the_same_bits_in_whichever_part_it_is() {
        for kernels in Kernels::available() {
            let (heads, size, tokens) = (3, 32, 75);
            let projected = values(tokens * heads * size * 3, 12);
            let whole = attend(kernels, &projected, heads, size);
            let parts = attend_in_parts(kernels, &projected, heads, size, &[0, 1, 30, 75]);
            assert_eq!(whole, parts, "{kernels:?}");
        }
    }

    #[test]
    fn large_scores_stay_finite_and_nan_is_not_hidden() {
        for kernels in Kernels::available() {
            let (heads, size, tokens) = (1, 16, 20);
            let large: Vec<f32> = values(tokens * size * 3, 13).iter().map(|x| x * 1e4).collect();
            assert!(attend(kernels, &large, heads, size).iter().all(|x| x.is_finite()), "{kernels:?}");
            for token in [0, 7, tokens - 1] {
                // A NaN in a key reaches every query of its sequence.
                let mut broken = values(tokens * size * 3, 13);
                broken[token * size * 3 + size] = f32::NAN;
                let out = attend(kernels, &broken, heads, size);
                assert!(out.iter().all(|x| x.is_nan()), "{kernels:?} {token}");
            }
        }
    }
}
