//! The softmax of a block of queries, made a little at a time while a unit multiplies.

use std::ops::Range;

use super::super::isa::{PANEL_VECTORS, Simd};
use super::super::math::{power_of_two, rough_power_of_two};
use super::super::operand::store_parts;
use super::super::unit_product::{BLOCK, Meanwhile};

/// Most lanes of a vector.
const MOST_LANES: usize = 16;
/// Words per row in which powers are summed: a vector for each of a pair.
pub(super) const LANE_WORDS: usize = PANEL_VECTORS * MOST_LANES;

/// Keys whose powers are made at once, in so many parts: two chunks of a block of queries leave room in the first-level cache.
pub(super) const fn chunk_keys(parts: usize) -> usize {
    match parts {
        1 => 8 * BLOCK,
        2 => 4 * BLOCK,
        _ => 3 * BLOCK,
    }
}

/// The softmax of a block of queries, a chunk of keys at a time: `2^(score - largest)`, split into parts, and their sums.
pub(super) struct Softmax<S, const PARTS: usize> {
    pub(super) s: S,
    scores: (*const f32, usize),
    /// The sums of powers, [`LANE_WORDS`] per row.
    lanes: *mut f32,
    pub(super) powers_stride: usize,
    pub(super) rows: usize,
    /// Each row's largest score, and the first key it sees and that after the last.
    largest: [f32; BLOCK],
    keys: [(usize, usize); BLOCK],
    /// The chunk and where its powers are written.
    chunk: Range<usize>,
    powers: *mut f32,
    /// What comes next, how much there is left, and at once.
    row: usize,
    key: usize,
    left: usize,
    at_once: usize,
}

impl<S: Simd, const PARTS: usize> Softmax<S, PARTS> {
    pub(super) fn new(s: S, scores: (*const f32, usize), (lanes, powers_stride): (*mut f32, usize)) -> Self {
        Softmax {
            s,
            scores,
            lanes,
            powers_stride,
            rows: 0,
            largest: [0.0; BLOCK],
            keys: [(0, 0); BLOCK],
            chunk: 0..0,
            powers: lanes,
            row: 0,
            key: 0,
            left: 0,
            at_once: 0,
        }
    }

    /// The next row begins: its largest score is found among the keys it sees, `seen` being what the block sees.
    ///
    /// # Safety
    /// There must be room for the row's sums.
    #[inline(always)]
    pub(super) unsafe fn begin(&mut self, row: usize, scores: &mut [f32], keys: Range<usize>, seen: Range<usize>) {
        let s = self.s;
        scores[seen.start..keys.start].fill(f32::MIN);
        scores[keys.end..seen.end].fill(f32::MIN);
        let scores = &scores[seen];
        assert!(scores.len().is_multiple_of(PANEL_VECTORS * S::LANES));
        let (mut low, mut high) = (s.splat(f32::NEG_INFINITY), s.splat(f32::NEG_INFINITY));
        for at in (0..scores.len()).step_by(PANEL_VECTORS * S::LANES) {
            // SAFETY: scores are whole pairs of vectors, as just checked.
            unsafe {
                low = s.max(low, s.load(scores.as_ptr().add(at)));
                high = s.max(high, s.load(scores.as_ptr().add(at + S::LANES)));
            }
        }
        self.largest[row] = s.largest(s.max(low, high));
        self.keys[row] = (keys.start, keys.end);
        self.rows = row + 1;
        // SAFETY: by contract.
        unsafe {
            let lanes = self.lanes_of(row);
            s.store(lanes, s.splat(0.0));
            s.store(lanes.add(MOST_LANES), s.splat(0.0));
        }
    }

    #[inline(always)]
    unsafe fn lanes_of(&self, row: usize) -> *mut f32 {
        // SAFETY: handed on.
        unsafe { self.lanes.add(row * LANE_WORDS) }
    }

    /// A chunk begins, to be gone through in so many times.
    ///
    /// # Safety
    /// Until it is finished, the scores of its keys must be readable, in whole blocks, and `powers` writable for the rows and their
    /// parts, by nobody else.
    #[inline(always)]
    pub(super) unsafe fn start(&mut self, chunk: Range<usize>, powers: *mut f32, times: usize) {
        self.left = self.rows * (chunk.len() / (PANEL_VECTORS * S::LANES));
        self.at_once = self.left.div_ceil(times.max(1));
        (self.row, self.key) = (0, chunk.start);
        (self.chunk, self.powers) = (chunk, powers);
    }

    /// What is left of the chunk.
    #[inline(always)]
    pub(super) fn finish(&mut self) {
        while self.left > 0 {
            self.go_on();
        }
    }

    /// By what the row is still to be multiplied: 1 ÷ the sum of its powers.
    ///
    /// # Safety
    /// The row must have begun.
    #[inline(always)]
    pub(super) unsafe fn share(&self, row: usize) -> f32 {
        let s = self.s;
        // SAFETY: handed on.
        unsafe {
            let lanes = self.lanes_of(row);
            1.0 / s.sum(s.add(s.load(lanes), s.load(lanes.add(MOST_LANES))))
        }
    }

    /// Two vectors of a row's powers.
    ///
    /// # Safety
    /// As for [`Softmax::start`]; there must be some left.
    #[inline(always)]
    unsafe fn pair(&self, row: usize, key: usize) {
        let s = self.s;
        let largest = s.splat(self.largest[row]);
        // SAFETY: by contract.
        unsafe {
            let scores = self.scores.0.add(row * self.scores.1 + key);
            let mut low = power::<S, PARTS>(s, s.sub(s.load(scores), largest));
            let mut high = power::<S, PARTS>(s, s.sub(s.load(scores.add(S::LANES)), largest));
            let keys = self.keys[row];
            if key < keys.0 || key + PANEL_VECTORS * S::LANES > keys.1 {
                low = only(s, low, key, keys);
                high = only(s, high, key + S::LANES, keys);
            }
            let lanes = self.lanes_of(row);
            s.store(lanes, s.add(s.load(lanes), low));
            s.store(lanes.add(MOST_LANES), s.add(s.load(lanes.add(MOST_LANES)), high));
            let to = self.powers.add(row * self.powers_stride + (key - self.chunk.start) / 2);
            store_powers::<S, PARTS>(s, (low, high), to);
        }
    }
}

impl<S: Simd, const PARTS: usize> Meanwhile for Softmax<S, PARTS> {
    #[inline(always)]
    fn go_on(&mut self) {
        for _ in 0..self.at_once.min(self.left) {
            // SAFETY: by the promise made when the chunk was started; there is some left.
            unsafe { self.pair(self.row, self.key) };
            self.key += PANEL_VECTORS * S::LANES;
            if self.key == self.chunk.end {
                (self.row, self.key) = (self.row + 1, self.chunk.start);
            }
        }
        self.left -= self.at_once.min(self.left);
    }
}

/// 2ˣ as exact as so many parts keep it.
#[inline(always)]
fn power<S: Simd, const PARTS: usize>(s: S, x: S::Vector) -> S::Vector {
    if PARTS == 1 { rough_power_of_two(s, x) } else { power_of_two(s, x) }
}

/// The lanes of keys that are seen, zero in the others; lane 0 is that of `key`.
#[inline(always)]
fn only<S: Simd>(s: S, powers: S::Vector, key: usize, (start, end): (usize, usize)) -> S::Vector {
    const NUMBERS: [f32; MOST_LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    const { assert!(S::LANES <= MOST_LANES) };
    let from = |bound: usize| s.splat(bound as f32 - key as f32);
    // SAFETY: no vector has more lanes.
    let numbers = unsafe { s.load(NUMBERS.as_ptr()) };
    let powers = s.where_less(numbers, from(start), s.splat(0.0), powers);
    s.where_less(numbers, from(end), powers, s.splat(0.0))
}

/// Stores two neighbouring vectors of powers as words of the parts, which are half a chunk apart. Three are cut off, which is
/// exact and less work; a NaN among them is seen in their sum.
///
/// # Safety
/// `to` must be writable for a vector in each part.
#[inline(always)]
unsafe fn store_powers<S: Simd, const PARTS: usize>(s: S, (mut low, mut high): (S::Vector, S::Vector), to: *mut f32) {
    let distance = const { chunk_keys(PARTS) / 2 };
    // SAFETY: handed on.
    unsafe {
        if PARTS < 3 {
            return store_parts(s, (low, high), to, PARTS, distance);
        }
        for part in 0..PARTS {
            s.store(to.add(part * distance), s.bits(s.pairs_of_upper_halves(low, high)));
            (low, high) = (s.sub(low, s.upper_half(low)), s.sub(high, s.upper_half(high)));
        }
    }
}
