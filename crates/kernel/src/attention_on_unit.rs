//! Attention of one head on a matrix unit, in one to three parts of bf16.
//!
//! Queries, keys, values and the softmax' results are split as the operands of products are: what is left out of scores and
//! contexts is as small as it is elsewhere in that precision. Scores, softmax and sums are f32. Keys and values are split once
//! for all queries. 32 queries at a time: their scores with all keys they see, then, a chunk of keys at a time, what softmax
//! makes of them and its product with the values. While the unit multiplies a chunk, vectors make the next one's powers.
//!
//! What a query does not see has the power 0, which changes no sum. Chunks begin where they would for any other query. So a
//! query's bits do not depend on those it is computed with.

mod softmax;

use std::ops::Range;

use self::softmax::{LANE_WORDS, Softmax, chunk_keys};
use super::attention::{AttentionTask, Heads, add, rows_from};
use super::isa::{Simd, Task};
use super::matrix_unit::{MatrixUnit, TILE_WORDS, UnitTask};
use super::operand::{low_of_pair, store_parts};
use super::tile::{load_columns, store_columns};
use super::unit::Unit;
use super::unit_product::{BLOCK, Factors, Fetch, block};

/// Words of the pieces of scratch memory, all of them whole cache lines.
#[derive(Clone, Copy)]
struct Layout {
    parts: usize,
    /// A part of a query or a key.
    row: usize,
    /// A part of a pair of values.
    value: usize,
    /// Tokens in whole blocks.
    padded: usize,
    /// Distances of the rows of scores and of powers: an odd number of cache lines, so that a tile's rows do not compete
    /// for the same few lines of the cache.
    scores: usize,
    powers: usize,
    /// Distance of the rows of sums.
    totals: usize,
}

impl Layout {
    fn new(parts: usize, tokens: usize, size: usize) -> Layout {
        let odd = |words: usize| (words.div_ceil(TILE_WORDS) | 1) * TILE_WORDS;
        let padded = tokens.next_multiple_of(BLOCK);
        Layout {
            parts,
            row: size.next_multiple_of(BLOCK) / 2,
            value: size.next_multiple_of(TILE_WORDS),
            padded,
            scores: odd(padded),
            powers: odd(parts * chunk_keys(parts) / 2),
            totals: size.next_multiple_of(BLOCK),
        }
    }

    /// A part of all keys.
    fn keys(&self) -> usize {
        self.padded * self.row
    }

    /// A part of all values.
    fn values(&self) -> usize {
        self.padded / 2 * self.value
    }

    /// Keys, values, rows, scores, the powers of two chunks, sums over all and over a chunk, of powers in each lane.
    fn pieces(&self) -> [usize; 9] {
        [
            self.parts * self.keys(),
            self.parts * self.values(),
            BLOCK * self.parts * self.row,
            BLOCK * self.scores,
            BLOCK * self.powers,
            BLOCK * self.powers,
            BLOCK * self.totals,
            BLOCK * BLOCK,
            BLOCK * LANE_WORDS,
        ]
    }

    fn len(&self) -> usize {
        self.pieces().iter().sum()
    }
}

/// Values of scratch memory that a sequence of that many tokens needs.
pub(super) fn scratch_len(parts: usize, tokens: usize, head_size: usize) -> usize {
    Layout::new(parts, tokens, head_size).len()
}

/// As [`AttentionTask`], on a unit, in so many parts. Its scratch memory must be as long as this module's [`scratch_len`], and begin
/// on a cache line.
pub(super) struct UnitAttentionTask<'a>(pub AttentionTask<'a>, pub Unit, pub usize);

impl Task for UnitAttentionTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let UnitAttentionTask(task, unit, parts) = self;
        match parts {
            1 => s.call_on_unit(unit, OnUnit::<S, 1, 1>(task, s)),
            2 => s.call_on_unit(unit, OnUnit::<S, 2, 3>(task, s)),
            _ => s.call_on_unit(unit, OnUnit::<S, 3, 6>(task, s)),
        }
    }
}

/// The same with the number of products, on vectors of which it does what is not multiplying.
struct OnUnit<'a, S, const PARTS: usize, const TERMS: usize>(AttentionTask<'a>, S);

impl<S: Simd, const PARTS: usize, const TERMS: usize> UnitTask for OnUnit<'_, S, PARTS, TERMS> {
    #[inline(always)]
    fn run<U: MatrixUnit>(self, unit: &mut U) {
        let OnUnit(task, s) = self;
        let AttentionTask { sequence, head, queries, out, scratch, bias, mask } = task;
        let Heads { stride, size, tokens, .. } = sequence;
        let layout = Layout::new(PARTS, tokens, size);
        assert!(scratch.len() >= layout.len(), "scratch memory for attention on a unit");
        let mut rest = scratch.as_mut_ptr();
        let [keys, values, rows, scores, powers, next_powers, totals, sums, lanes] = layout.pieces().map(|words| {
            let piece = rest;
            rest = rest.wrapping_add(words);
            piece
        });
        let powers = [powers, next_powers];
        let out = (out.0.wrapping_add(head * size), out.1);
        // SAFETY: the sequence is readable for `tokens` rows, the head is one of `heads`, `out` is writable for the queries
        // in its columns, and scratch memory was just cut as the layout has it, in whole blocks.
        unsafe {
            let [query, key, value] = sequence.parts(head);
            split_keys::<S, PARTS>(s, (key, stride, size), tokens, layout, (rows, keys));
            split_values::<S, PARTS>(s, (value, stride, size), tokens, layout, values);
            for start in queries.clone().step_by(BLOCK) {
                let run = start..queries.end.min(start + BLOCK);
                for (row, query_row) in run.clone().enumerate() {
                    // Powers of two in place of e.
                    let from = query.add(query_row * stride);
                    let to = (rows.add(row * PARTS * layout.row), layout.row);
                    split_row::<S, PARTS>(s, from, size, std::f32::consts::LOG2_E, to);
                }
                // What at least one of them sees, in whole blocks.
                let seen = mask.keys_of(run.clone(), tokens);
                let seen = seen.start / BLOCK * BLOCK..seen.end.next_multiple_of(BLOCK);
                let mut nothing = Fetch::new(s, query, 0, 1);
                for first in seen.clone().step_by(BLOCK) {
                    let factors = Factors {
                        left: (rows, PARTS * layout.row, layout.row),
                        right: (keys.add(first * layout.row), BLOCK, layout.keys()),
                    };
                    let (size, steps) = ((run.len(), BLOCK), 0..layout.row / TILE_WORDS);
                    block::<U, _, TERMS>(unit, size, factors, steps, (scores.add(first), layout.scores), &mut nothing);
                }
                let mut softmax = Softmax::<S, PARTS>::new(s, (scores, layout.scores), (lanes, layout.powers));
                for (row, query) in run.clone().enumerate() {
                    let scores = std::slice::from_raw_parts_mut(scores.add(row * layout.scores), layout.padded);
                    if let Some((bias, centre)) = bias {
                        let seen = seen.start..seen.end.min(tokens);
                        let bias = &bias[centre - query + seen.start..][..seen.len()];
                        add(s, &mut scores[seen], bias, std::f32::consts::LOG2_E);
                    }
                    softmax.begin(row, scores, mask.keys(query, tokens), seen.clone());
                }
                let values = Values { right: (values, layout.value, layout.values()), sums };
                let totals = (totals, layout.totals);
                contexts::<S, U, PARTS, TERMS>(unit, &mut softmax, (values, size), seen, powers, totals);
                for (row, query) in run.clone().enumerate() {
                    let share = s.splat(softmax.share(row));
                    let (total, out) = (totals.0.add(row * totals.1), out.0.add(query * out.1));
                    for at in (0..size).step_by(S::LANES) {
                        store_columns(s, out, at, size, s.mul(s.load(total.add(at)), share));
                    }
                }
            }
        }
    }
}

/// The sums of the values of all keys that are seen, each times its power, not yet divided by the powers' sum. A chunk is
/// multiplied while the next one's powers are made.
///
/// # Safety
/// The softmax must have begun for the rows; the values, of so many columns, both `powers` and `totals` must be as large as the
/// layout has them.
#[inline(always)]
unsafe fn contexts<S: Simd, U: MatrixUnit, const PARTS: usize, const TERMS: usize>(
    unit: &mut U,
    softmax: &mut Softmax<S, PARTS>,
    (Values { right, sums }, size): (Values, usize),
    seen: Range<usize>,
    powers: [*mut f32; 2],
    totals: (*mut f32, usize),
) {
    let (s, rows) = (softmax.s, softmax.rows);
    let chunk_at = |start: usize| {
        let whole = const { chunk_keys(PARTS) };
        start..seen.end.min(start / whole * whole + whole)
    };
    let mut current = 0;
    let mut chunk = chunk_at(seen.start);
    // SAFETY: by contract; chunks lie within what is seen, in whole blocks.
    unsafe {
        softmax.start(chunk.clone(), powers[current], 1);
        softmax.finish();
        while !chunk.is_empty() {
            let steps = chunk.len() / 2 / TILE_WORDS;
            let next = chunk_at(chunk.end);
            softmax.start(next.clone(), powers[1 - current], steps * TERMS * size.div_ceil(BLOCK));
            let is_first = chunk.start == seen.start;
            for first in (0..size).step_by(BLOCK) {
                let columns = (size - first).min(BLOCK);
                let factors = Factors {
                    left: (powers[current], softmax.powers_stride, const { chunk_keys(PARTS) / 2 }),
                    right: (right.0.add(chunk.start / 2 * right.1 + first), right.1, right.2),
                };
                let total = totals.0.add(first);
                let to = if is_first { (total, totals.1) } else { (sums, BLOCK) };
                block::<U, _, TERMS>(unit, (rows, columns), factors, 0..steps, to, softmax);
                if !is_first {
                    add_sums(s, (total, totals.1), sums, rows, columns);
                }
            }
            softmax.finish();
            (chunk, current) = (next, 1 - current);
        }
    }
}

/// Adds a block's sums to totals.
///
/// # Safety
/// Both must have so many rows, and so many columns in whole vectors.
#[inline(always)]
unsafe fn add_sums<S: Simd>(s: S, totals: (*mut f32, usize), sums: *const f32, rows: usize, columns: usize) {
    for row in 0..rows {
        for at in (0..columns).step_by(S::LANES) {
            // SAFETY: by contract.
            unsafe {
                let total = totals.0.add(row * totals.1 + at);
                s.store(total, s.add(s.load(total), s.load(sums.add(row * BLOCK + at))));
            }
        }
    }
}

/// Values as a right factor, and memory for a block's sums.
struct Values {
    right: (*const f32, usize, usize),
    sums: *mut f32,
}

/// Splits a row of a head, times a factor, into parts.
///
/// # Safety
/// `from` must be readable for `size` values, `out` writable for all parts of a row, `words` each.
#[inline(always)]
unsafe fn split_row<S: Simd, const PARTS: usize>(
    s: S,
    from: *const f32,
    size: usize,
    factor: f32,
    (out, words): (*mut f32, usize),
) {
    let factor = s.splat(factor);
    for at in (0..words).step_by(S::LANES) {
        // SAFETY: the helpers stay within `size`, and the vectors within the parts.
        unsafe {
            let low = s.mul(load_columns(s, from, 2 * at, size), factor);
            let high = s.mul(load_columns(s, from, 2 * at + S::LANES, size), factor);
            store_parts(s, (low, high), out.add(at), PARTS, words);
        }
    }
}

/// Lays split keys out in panels, per part and block `[words of a key][BLOCK]`: the right factor of the scores. Beside the last key
/// it stands again, or there is anything: nobody sees those columns.
///
/// # Safety
/// `keys` (with the distance of rows and the head's size) must be readable for `tokens` rows; rows and the keys' panels must be
/// writable as the layout has them.
#[inline(always)]
unsafe fn split_keys<S: Simd, const PARTS: usize>(
    s: S,
    (keys, stride, size): (*const f32, usize, usize),
    tokens: usize,
    layout: Layout,
    (split, out): (*mut f32, *mut f32),
) {
    let words = layout.row;
    for first in (0..tokens).step_by(S::LANES) {
        // SAFETY: the tokens exist; a part of a row is whole vectors, and a panel has as many rows as it has words.
        unsafe {
            for i in 0..S::LANES {
                let row = keys.add((first + i).min(tokens - 1) * stride);
                split_row::<S, PARTS>(s, row, size, 1.0, (split.add(i * PARTS * words), words));
            }
            for part in 0..PARTS {
                let rows = rows_from::<S>(0, S::LANES, |i| split.wrapping_add((i * PARTS + part) * words).cast_const());
                let panel = out.add(part * layout.keys() + first / BLOCK * BLOCK * words + first % BLOCK);
                for at in (0..words).step_by(S::LANES) {
                    s.transpose(&rows, at, panel.add(at * BLOCK), BLOCK);
                }
            }
        }
    }
}

/// Pairs the values of tokens a vector apart, per part `[tokens / 2][width]`, zeros after the last: the right factor of the
/// contexts.
///
/// # Safety
/// `values` (with the distance of rows and the head's size) must be readable for `tokens` rows, `out` writable as the layout has it.
#[inline(always)]
unsafe fn split_values<S: Simd, const PARTS: usize>(
    s: S,
    (values, stride, size): (*const f32, usize, usize),
    tokens: usize,
    layout: Layout,
    out: *mut f32,
) {
    for pair in 0..layout.padded / 2 {
        let low_token = low_of_pair(pair, S::LANES);
        let high_token = low_token + S::LANES;
        for at in (0..layout.value).step_by(S::LANES) {
            // SAFETY: rows of tokens that exist are readable, and the helper stays within `size`; a part of a pair is whole
            // vectors.
            unsafe {
                let (mut low, mut high) = (s.splat(0.0), s.splat(0.0));
                if low_token < tokens {
                    low = load_columns(s, values.add(low_token * stride), at, size);
                }
                if high_token < tokens {
                    high = load_columns(s, values.add(high_token * stride), at, size);
                }
                store_parts(s, (low, high), out.add(pair * layout.value + at), PARTS, layout.values());
            }
        }
    }
}

#[cfg(test)]
mod tests;
