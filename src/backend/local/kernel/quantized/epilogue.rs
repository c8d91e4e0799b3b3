//! What follows an integer product: zero points taken off, scales, a bias, and the operation behind it, all while the tile
//! is in the first-level cache.
//!
//! Vector by vector, as everything that touches each value of a tile: loops over a row's values are unrolled too early to
//! be made vectors of.

use std::ops::Range;

use super::super::simd::Simd;
use super::exact::{self, MOST_LANES};
use super::matrix::{Block, Matrix};
use super::product::{MAX_TILE_ROWS, PANEL, Panels, Tile};
use super::quantization::Spread;

/// What becomes of a product once the bias is added.
#[derive(Clone, Copy)]
pub(super) enum Then {
    Nothing,
    Multiply(f32),
    Divide(f32),
    Gelu,
    /// The same values of a matrix are added.
    Residual(Matrix),
}

/// How the sums of a panel's products become values.
pub(super) struct Epilogue<'a> {
    /// The columns' share of what the zero points add.
    terms: [i32; PANEL],
    /// The right side's zero point, which counts once for each of a row's codes.
    zero_point: i32,
    /// What an integer is worth.
    scale: f32,
    bias: Option<&'a [f32; PANEL]>,
    then: Then,
}

impl<'a> Epilogue<'a> {
    /// For one of the panels, with the number of inputs and the zero points of the left and the right side.
    #[inline(always)]
    pub(super) fn new(
        panels: &Panels,
        panel: usize,
        inputs: usize,
        zero_points: (i32, i32),
        scale: f32,
        bias: Option<&'a [f32; PANEL]>,
        then: Then,
    ) -> Epilogue<'a> {
        let both = (inputs as i32).wrapping_mul(zero_points.0).wrapping_mul(zero_points.1);
        let sums = &panels.column_sums[panel * PANEL..][..PANEL];
        let mut terms = [0; PANEL];
        for i in 0..PANEL {
            terms[i] = both.wrapping_sub(zero_points.0.wrapping_mul(sums[i]));
        }
        Epilogue { terms, zero_point: zero_points.1, scale, bias, then }
    }

    /// Turns a tile into some columns of some rows of a matrix, and includes them in a range if there is one. `sums` are
    /// those of the codes of each row.
    ///
    /// # Safety
    /// Nobody else reads or writes these values meanwhile, nor writes those of a residual, which may be the same.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(
        &self,
        s: S,
        tile: &Tile,
        sums: &[i32],
        (to, rows, columns): (Matrix, Range<usize>, Range<usize>),
        spread: Option<&mut Spread>,
    ) {
        assert!(rows.len() == sums.len() && sums.len() <= MAX_TILE_ROWS);
        if columns.len() == PANEL {
            let others = match self.then {
                Then::Residual(matrix) => matrix.block(&rows, &columns),
                _ => to.block(&rows, &columns),
            };
            // SAFETY: both blocks are whole panels of so many rows, and this member's alone by contract.
            return unsafe { self.panel(s, tile, sums, to.block(&rows, &columns), others, spread) };
        }
        // The last panel is not full: by way of whole rows.
        let [mut values, mut others] = [Lines::new(), Lines::new()];
        if let Then::Residual(matrix) = self.then {
            for (line, row) in others.0.iter_mut().zip(rows.clone()) {
                // SAFETY: nobody writes them, by contract.
                line[..columns.len()].copy_from_slice(unsafe { matrix.row(row, columns.clone()) });
            }
        }
        // SAFETY: both have room for every row of a tile.
        unsafe { self.panel(s, tile, sums, values.block(), others.block(), None) };
        for (line, row) in values.0.iter_mut().zip(rows) {
            // SAFETY: this member's alone, by contract.
            unsafe { to.row_mut(row, columns.clone()) }.copy_from_slice(&line[..columns.len()]);
            line[columns.len()..].fill(0.0);
        }
        if let Some(spread) = spread {
            spread.include(s, &values.0[..sums.len()]);
        }
    }

    /// A whole panel of some rows.
    ///
    /// # Safety
    /// `to` can be written and `others` read for `PANEL` values in each of as many rows as there are sums.
    #[inline(always)]
    unsafe fn panel<S: Simd>(
        &self,
        s: S,
        tile: &Tile,
        sums: &[i32],
        to: Block,
        others: Block,
        mut spread: Option<&mut Spread>,
    ) {
        for at in (0..PANEL).step_by(S::LANES) {
            let mut range = spread.as_ref().map(|spread| spread.load(s, at));
            let mut row = 0;
            // SAFETY: so many rows are left, of whole panels.
            unsafe {
                if S::LANES == MOST_LANES {
                    // Only the longest vectors come with registers for four rows.
                    while row + 4 <= sums.len() {
                        self.rows::<S, 4>(s, (row, at), tile, sums, to, others, &mut range);
                        row += 4;
                    }
                }
                while row + 2 <= sums.len() {
                    self.rows::<S, 2>(s, (row, at), tile, sums, to, others, &mut range);
                    row += 2;
                }
                if row < sums.len() {
                    self.rows::<S, 1>(s, (row, at), tile, sums, to, others, &mut range);
                }
            }
            if let (Some(spread), Some(range)) = (&mut spread, range) {
                spread.store(s, at, range);
            }
        }
    }

    /// A vector of each of `K` rows, from the given row and column on.
    ///
    /// # Safety
    /// As for `panel`; the rows and columns are within it.
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize>(
        &self,
        s: S,
        (row, at): (usize, usize),
        tile: &Tile,
        sums: &[i32],
        to: Block,
        others: Block,
        range: &mut Option<[S::Vector; 2]>,
    ) {
        let mut values = [s.splat(0.0); K];
        // SAFETY: a panel is whole vectors; the rest by contract.
        unsafe {
            let terms = s.load_words(self.terms.as_ptr().add(at).cast());
            for k in 0..K {
                let zeros = s.splat_word(self.zero_point.wrapping_mul(sums[row + k]).wrapping_neg() as u32);
                let products = s.load_words(tile.0[row + k].as_ptr().add(at).cast());
                let products = s.add_words(s.add_words(products, terms), zeros);
                values[k] = s.mul(s.integers_to_f32(products), s.splat(self.scale));
            }
            if let Some(bias) = self.bias {
                let bias = s.load(bias.as_ptr().add(at));
                for value in &mut values {
                    *value = s.add(*value, bias);
                }
            }
            match self.then {
                Then::Nothing => {}
                Then::Multiply(factor) => {
                    for value in &mut values {
                        *value = s.mul(*value, s.splat(factor));
                    }
                }
                Then::Divide(divisor) => {
                    for value in &mut values {
                        *value = s.div(*value, s.splat(divisor));
                    }
                }
                Then::Gelu => values = exact::gelu(s, values),
                Then::Residual(_) => {
                    for k in 0..K {
                        let other = others.start.add((row + k) * others.stride + at);
                        s.prefetch(other.wrapping_add(PANEL));
                        values[k] = s.add(values[k], s.load(other));
                    }
                }
            }
            for k in 0..K {
                let to = to.start.add((row + k) * to.stride + at);
                // The next panel's values lie beside these, those of the next row far away.
                s.prefetch(to.wrapping_add(PANEL));
                s.store(to, values[k]);
            }
        }
        if let Some([least, most]) = range {
            for value in values {
                *least = s.min(value, *least);
                *most = s.max(value, *most);
            }
        }
    }
}

/// Whole rows of a panel, on cache lines.
#[repr(align(64))]
struct Lines([[f32; PANEL]; MAX_TILE_ROWS]);

impl Lines {
    fn new() -> Lines {
        Lines([[0.0; PANEL]; MAX_TILE_ROWS])
    }

    fn block(&mut self) -> Block {
        Block { start: self.0.as_mut_ptr().cast(), stride: PANEL }
    }
}
