//! Attention of one query of a sequence, straight from the hidden states, in f32.
//!
//! Where one token of a sequence is wanted, its last attention needs nobody's keys and values. A score `q · (W x)` is
//! `(Wᵀ q) · x`, and what attention gives, the mean of `V x + b`, is `V` times the mean of `x`, plus `b`. So the two products
//! of every token with `hidden × key width` weights become two of every token with one row for each head. What the bias of the
//! keys adds is the same for every key: it changes no share and is left out.
//!
//! Every head is computed by itself, however many a task has.

use std::ops::Range;

use super::attention::{add, exponentials};
use super::dispatch::Kernels;
use super::isa::{PANEL_VECTORS, Simd, Task};
use super::linear::{Arena, Linear};
use super::mask::Mask;
use super::tile::load_columns;

/// Most heads of a task: each row of the hidden states is read once for all of them.
pub(super) const MOST_HEADS: usize = 4;
/// Vectors of a mean that are summed at once, for all heads.
const MEAN_VECTORS: usize = 3;
/// Most values of a panel in any instruction set.
const MOST_PANEL: usize = 32;

/// Whose attention it is, and where it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct SingleQuery {
    /// Row 0 of the sequence's hidden states, and the distance of rows.
    pub(super) states: (*const f32, usize),
    /// Tokens of the sequence.
    pub(super) tokens: usize,
    /// Which of them asks.
    pub(super) query: usize,
    /// The queries of all its heads, scaled.
    pub(super) queries: *const f32,
    /// Where what attention gives is written, for all heads.
    pub(super) out: *mut f32,
    /// Number of heads, and of heads of keys and values, which divide them.
    pub(super) heads: usize,
    pub(super) key_heads: usize,
    /// Width of a head.
    pub(super) size: usize,
    /// What the query sees.
    pub(super) mask: Mask,
}

/// Attention of one query for some of its heads.
pub(super) struct SingleQueryTask<'a> {
    asked: SingleQuery,
    heads: Range<usize>,
    /// Queries, keys and values side by side.
    layer: (&'a Linear, &'a Arena),
    scratch: &'a mut [f32],
    bias: [Option<&'a [f32]>; MOST_HEADS],
}

/// Values of scratch memory that a task needs.
pub(super) fn scratch_len(kernels: Kernels, tokens: usize, hidden: usize, head_size: usize) -> usize {
    // No panel has fewer lanes than a vector.
    let (lanes, panel) = (kernels.lanes(), kernels.panel_width());
    padded_query(head_size, panel) + MOST_HEADS * (2 * padded_row(hidden, lanes) + tokens)
}

/// A query from the start of the panel that its first column is in to the end of that with its last one.
const fn padded_query(head_size: usize, panel: usize) -> usize {
    head_size.next_multiple_of(panel) + panel
}

/// A row in whole runs of [`MEAN_VECTORS`].
const fn padded_row(hidden: usize, lanes: usize) -> usize {
    hidden.next_multiple_of(MEAN_VECTORS * lanes)
}

impl<'a> SingleQueryTask<'a> {
    /// `layer` is the projection of queries, keys and values in f32; `scratch` as long as [`scratch_len`] says.
    ///
    /// # Safety
    /// When it runs, the states must be readable for every token and the layer's inputs, the queries for every head, and
    /// `out` writable for the heads of the task, with nobody else accessing those meanwhile.
    pub(super) unsafe fn new(
        asked: SingleQuery,
        heads: Range<usize>,
        layer: (&'a Linear, &'a Arena),
        scratch: &'a mut [f32],
    ) -> Self {
        assert!(heads.end <= asked.heads && heads.len() <= MOST_HEADS && asked.query < asked.tokens);
        SingleQueryTask { asked, heads, layer, scratch, bias: [None; MOST_HEADS] }
    }

    /// Adds to each score of a head what its row of `biases` holds for the key's distance from the query, `biases[centre]` for
    /// none. Rows are `width` long.
    pub(super) fn with_bias(mut self, biases: &'a [f32], width: usize, centre: usize) -> Self {
        let SingleQuery { tokens, query, .. } = self.asked;
        for (head, bias) in self.heads.clone().zip(&mut self.bias) {
            *bias = Some(&biases[head * width..][..width][centre - query..][..tokens]);
        }
        self
    }
}

impl Task for SingleQueryTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let SingleQueryTask { asked, heads, layer: (linear, arena), scratch, bias } = self;
        let SingleQuery { states, tokens, query, queries, out, key_heads, size, mask, .. } = asked;
        let hidden = linear.inputs();
        let panel = S::LANES * PANEL_VECTORS;
        let (padded, width) = (padded_row(hidden, S::LANES), padded_query(size, panel));
        let (one, rest) = scratch.split_at_mut(width);
        let (rows, rest) = rest.split_at_mut(MOST_HEADS * padded);
        let (means, rest) = rest.split_at_mut(MOST_HEADS * padded);
        let scores = &mut rest[..MOST_HEADS * tokens];
        rows.fill(0.0);
        let seen = mask.keys(query, tokens);
        let keys = asked.heads * size;
        let group = asked.heads / key_heads;
        // SAFETY: by the promise made, states, queries and `out` have these rows and columns; slices are as long as they are
        // accessed, and panels checked when they are sliced.
        unsafe {
            for (head, row) in heads.clone().zip(rows.chunks_exact_mut(padded)) {
                let columns = keys + head / group * size..keys + (head / group + 1) * size;
                through_keys(s, (linear, arena), columns, queries.add(head * size), one, &mut row[..hidden]);
            }
            score(s, states, seen.clone(), hidden, (rows, padded), (scores, tokens));
            let mut shares = [0f32; MOST_HEADS];
            for ((at, scores), share) in scores.chunks_exact_mut(tokens).enumerate().zip(&mut shares) {
                let scores = &mut scores[seen.clone()];
                if let Some(bias) = bias[at] {
                    add(s, scores, &bias[seen.clone()], 1.0);
                }
                *share = exponentials(s, scores);
            }
            mean(s, states, seen, hidden, (scores, tokens), shares, (means, padded));
            for (head, mean) in heads.zip(means.chunks_exact(padded)) {
                let first = keys + (key_heads + head / group) * size;
                through_values(s, (linear, arena), first..first + size, &mean[..hidden], out.add(head * size));
            }
        }
    }
}

/// `Wᵀ q`: the sums of the rows of a head's columns, each times the query's value. `padded` is for a query as its panels have it.
///
/// # Safety
/// The query must be readable for as many values as there are columns.
#[inline(always)]
unsafe fn through_keys<S: Simd>(
    s: S,
    (linear, arena): (&Linear, &Arena),
    columns: Range<usize>,
    query: *const f32,
    padded: &mut [f32],
    out: &mut [f32],
) {
    let width = S::LANES * PANEL_VECTORS;
    let panels = columns.start / width..columns.end.div_ceil(width);
    padded.fill(0.0);
    for (at, value) in padded[columns.start % width..][..columns.len()].iter_mut().enumerate() {
        // SAFETY: by the promise made.
        *value = unsafe { query.add(at).read() };
    }
    let weights = linear.plain_panels(arena, panels.clone());
    let words = weights.len() / panels.len();
    for (input, out) in out.iter_mut().enumerate() {
        let mut sum = s.splat(0.0);
        for at in 0..panels.len() {
            let row = &weights[at * words + input * width..][..width];
            let query = &padded[at * width..][..width];
            for v in 0..PANEL_VECTORS {
                // SAFETY: both were sliced to a panel's width.
                unsafe {
                    let (query, row) = (query.as_ptr().add(v * S::LANES), row.as_ptr().add(v * S::LANES));
                    sum = s.mul_add(s.load(query), s.load(row), sum);
                }
            }
        }
        *out = s.sum(sum);
    }
}

/// The products of each head's row with the states of every token that is seen.
///
/// # Safety
/// The states must be readable for these tokens and so many columns.
#[inline(always)]
unsafe fn score<S: Simd>(
    s: S,
    (states, stride): (*const f32, usize),
    seen: Range<usize>,
    hidden: usize,
    (rows, padded): (&[f32], usize),
    (scores, tokens): (&mut [f32], usize),
) {
    let rows = &rows[..MOST_HEADS * padded];
    for token in seen {
        let mut sums = [s.splat(0.0); MOST_HEADS];
        for at in (0..hidden).step_by(S::LANES) {
            // SAFETY: by the promise made; rows are whole vectors long.
            unsafe {
                let state = load_columns(s, states.add(token * stride), at, hidden);
                for (head, sum) in sums.iter_mut().enumerate() {
                    *sum = s.mul_add(state, s.load(rows.as_ptr().add(head * padded + at)), *sum);
                }
            }
        }
        for (head, &sum) in sums.iter().enumerate() {
            scores[head * tokens + token] = s.sum(sum);
        }
    }
}

/// The mean of the states of every token that is seen, by each head's weights, which are still to be multiplied by its share.
///
/// # Safety
/// The states must be readable for these tokens and so many columns.
#[inline(always)]
unsafe fn mean<S: Simd>(
    s: S,
    (states, stride): (*const f32, usize),
    seen: Range<usize>,
    hidden: usize,
    (weights, tokens): (&[f32], usize),
    shares: [f32; MOST_HEADS],
    (means, padded): (&mut [f32], usize),
) {
    let means = &mut means[..MOST_HEADS * padded];
    for first in (0..hidden).step_by(MEAN_VECTORS * S::LANES) {
        let mut sums = [[s.splat(0.0); MEAN_VECTORS]; MOST_HEADS];
        for token in seen.clone() {
            for v in 0..MEAN_VECTORS {
                // SAFETY: by the promise made.
                let state = unsafe { load_columns(s, states.add(token * stride), first + v * S::LANES, hidden) };
                for (head, sums) in sums.iter_mut().enumerate() {
                    sums[v] = s.mul_add(state, s.splat(weights[head * tokens + token]), sums[v]);
                }
            }
        }
        for (head, sums) in sums.iter().enumerate() {
            let share = s.splat(shares[head]);
            for (v, &sum) in sums.iter().enumerate() {
                // SAFETY: a head's mean has whole runs of vectors.
                unsafe { s.store(means.as_mut_ptr().add(head * padded + first + v * S::LANES), s.mul(sum, share)) };
            }
        }
    }
}

/// `V x + b` for a head's columns.
///
/// # Safety
/// `out` must be writable for as many values as there are columns.
#[inline(always)]
unsafe fn through_values<S: Simd>(
    s: S,
    (linear, arena): (&Linear, &Arena),
    columns: Range<usize>,
    input: &[f32],
    out: *mut f32,
) {
    let width = S::LANES * PANEL_VECTORS;
    for panel in columns.start / width..columns.end.div_ceil(width) {
        let (weights, bias) = linear.plain_panel(arena, panel);
        let mut sums = [s.splat(0.0); PANEL_VECTORS];
        for (&value, row) in input.iter().zip(weights.chunks_exact(width)) {
            let value = s.splat(value);
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the row is a panel's width long.
                *sum = unsafe { s.mul_add(value, s.load(row.as_ptr().add(v * S::LANES)), *sum) };
            }
        }
        let mut values = [0f32; MOST_PANEL];
        for (v, &sum) in sums.iter().enumerate() {
            let at = v * S::LANES;
            // SAFETY: both are a panel's width long.
            unsafe { s.store(values[at..][..S::LANES].as_mut_ptr(), s.add(sum, s.load(bias.as_ptr().add(at)))) };
        }
        let first = panel * width;
        for column in columns.start.max(first)..columns.end.min(first + width) {
            // SAFETY: it is one of the columns.
            unsafe { out.add(column - columns.start).write(values[column - first]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Dense, Packing};
    use super::super::precision::Precision;
    use super::super::testing::{exact_product, values};
    use super::*;

    struct Case {
        hidden: usize,
        heads: usize,
        key_heads: usize,
        size: usize,
        tokens: usize,
        query: usize,
        mask: Mask,
    }

    fn dense(outputs: usize, inputs: usize, seed: u64) -> Dense {
        let weight = values(outputs * inputs, seed).iter().map(|x| x * 0.3).collect();
        Dense { weight, bias: values(outputs, seed + 1) }
    }

    impl Case {
        /// Queries, keys and values as layers.
        fn layers(&self) -> [Dense; 3] {
            let Case { hidden, heads, key_heads, size, .. } = *self;
            [(heads, 1), (key_heads, 3), (key_heads, 5)].map(|(heads, seed)| dense(heads * size, hidden, seed))
        }

        /// The states, and beyond each row what must not be read.
        fn states(&self) -> (Vec<f32>, usize) {
            let stride = self.hidden + 16;
            let mut states = vec![f32::NAN; self.tokens * stride];
            for (row, values) in
                states.chunks_exact_mut(stride).zip(values(self.tokens * self.hidden, 7).chunks(self.hidden))
            {
                row[..self.hidden].copy_from_slice(values);
            }
            (states, stride)
        }

        /// By a task for so many heads at once.
        fn attend(&self, kernels: Kernels, biases: Option<&[f32]>, together: usize) -> Vec<f32> {
            let Case { hidden, heads, key_heads, size, tokens, query, mask } = *self;
            let layers = self.layers();
            let packing = Packing { kernels, precision: Precision::F32 };
            let outputs = (heads + 2 * key_heads) * size;
            let mut arena = Arena::with_room(packing.room(outputs, hidden));
            let parts: Vec<_> = layers.iter().map(|layer| (layer, 1.0)).collect();
            let linear = Linear::pack(packing, &mut arena, &parts, hidden).unwrap();
            let (states, stride) = self.states();
            let row = &states[query * stride..][..hidden];
            let queries: Vec<f32> =
                exact_product(row, &layers[0].weight, &layers[0].bias, hidden).iter().map(|&x| x as f32).collect();
            let mut scratch = vec![f32::NAN; scratch_len(kernels, tokens, hidden, size)];
            let mut out = vec![f32::NAN; heads * size];
            for first in (0..heads).step_by(together) {
                let asked = SingleQuery {
                    states: (states.as_ptr(), stride),
                    tokens,
                    query,
                    queries: queries.as_ptr(),
                    out: out.as_mut_ptr(),
                    heads,
                    key_heads,
                    size,
                    mask,
                };
                let some = first..heads.min(first + together);
                // SAFETY: all are as large as they have to be, and ours.
                let mut task = unsafe { SingleQueryTask::new(asked, some, (&linear, &arena), &mut scratch) };
                if let Some(biases) = biases {
                    task = task.with_bias(biases, biases.len() / heads, biases.len() / heads / 2);
                }
                kernels.run(task);
            }
            out
        }

        /// By the keys and values of every token.
        fn exact(&self, biases: Option<&[f32]>) -> Vec<f64> {
            let Case { hidden, heads, key_heads, size, tokens, query, mask } = *self;
            let (states, stride) = self.states();
            let rows: Vec<f32> = states.chunks(stride).flat_map(|row| &row[..hidden]).copied().collect();
            let [queries, keys, values] =
                self.layers().map(|layer| exact_product(&rows, &layer.weight, &layer.bias, hidden));
            let mut out = Vec::new();
            for head in 0..heads {
                let key_head = head / (heads / key_heads);
                let part = |matrix: &[f64], heads: usize, head: usize, token: usize| {
                    matrix[(token * heads + head) * size..][..size].to_vec()
                };
                let asks = part(&queries, heads, head, query);
                let seen = mask.keys(query, tokens);
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|token| {
                        let key = part(&keys, key_heads, key_head, token);
                        let bias = biases.map_or(0.0, |biases| {
                            let width = biases.len() / heads;
                            f64::from(biases[head * width + width / 2 + token - query])
                        });
                        asks.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() + bias
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
                let mut mean = vec![0.0; size];
                for (token, score) in seen.zip(scores) {
                    let value = part(&values, key_heads, key_head, token);
                    mean.iter_mut().zip(value).for_each(|(mean, x)| *mean += (score - largest).exp() / sum * x);
                }
                out.extend(mean);
            }
            out
        }
    }

    #[test]
    fn it_is_attention_by_keys_and_values() {
        let shapes = [(40, 2, 2, 20), (48, 3, 3, 16), (64, 6, 2, 12), (96, 5, 1, 24), (20, 1, 1, 33), (64, 4, 4, 64)];
        for kernels in Kernels::available() {
            for (hidden, heads, key_heads, size) in shapes {
                for (tokens, query) in [(1, 0), (2, 1), (7, 0), (16, 15), (33, 4), (70, 0)] {
                    for mask in [Mask::FULL, Mask::CAUSAL, Mask::around(3)] {
                        let case = Case { hidden, heads, key_heads, size, tokens, query, mask };
                        let biases = values(heads * (2 * tokens + 1), 9);
                        for biases in [None, Some(&biases[..])] {
                            let got = case.attend(kernels, biases, MOST_HEADS);
                            let what = format!("{kernels:?}, {heads} heads of {size}, {tokens} tokens, {mask:?}");
                            for (got, want) in got.iter().zip(case.exact(biases)) {
                                assert!((f64::from(*got) - want).abs() < 2e-5, "{what}: {got} for {want}");
                            }
                            assert_eq!(case.attend(kernels, biases, 1), got, "{what}: a head by itself");
                        }
                    }
                }
            }
        }
    }
}
