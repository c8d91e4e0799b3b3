//! The same products in squares: two rows by two columns at once, eight codes of each.

use super::quantization::CODES;
use super::tile::{GROUP, PANEL, TileProduct};
use crate::isa::{Dot, DotTask, Simd, Task};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 6;
/// Columns whose sums are in registers at once.
const COLUMNS: usize = 16;
/// Words that hold the codes of a column in a square.
const WORDS: usize = 2;

/// A tile by them; the groups of its panel lie in twos.
pub(super) struct BySquares<'a>(TileProduct<'a>);

impl<'a> BySquares<'a> {
    /// Up to [`TILE_ROWS`] rows, each of whole [`CODES`].
    ///
    /// # Panics
    /// As [`TileProduct::check`], and if rows or groups are not whole.
    pub(super) fn new(product: TileProduct<'a>) -> Self {
        product.check(TILE_ROWS);
        let TileProduct { codes, stride, rows, panel, .. } = product;
        assert!(panel.len().is_multiple_of(WORDS * GROUP * PANEL), "whole squares");
        assert!(stride.is_multiple_of(CODES) && codes.len() >= rows * stride, "whole rows");
        BySquares(product)
    }
}

impl Task for BySquares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        s.call_byte_squares(self);
    }
}

impl DotTask for BySquares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        match self.0.rows.div_ceil(2) {
            1 => self.pairs_of_rows::<D, 1>(dot),
            2 => self.pairs_of_rows::<D, 2>(dot),
            _ => self.pairs_of_rows::<D, 3>(dot),
        }
    }
}

impl BySquares<'_> {
    #[inline(always)]
    fn pairs_of_rows<D: Dot, const PAIRS: usize>(self, dot: D) {
        const { assert!(2 * PAIRS <= TILE_ROWS) };
        let TileProduct { codes, stride, rows, panel, next, out } = self.0;
        let s = dot.simd();
        let squares = panel.len() / (PANEL * WORDS * GROUP);
        let right = panel.as_ptr().cast::<f32>();
        // Where the number of rows is odd, the last one is its own neighbour.
        let mut pointers = [[codes.as_ptr(); 2]; PAIRS];
        for (i, pointer) in pointers.as_flattened_mut().iter_mut().enumerate() {
            *pointer = codes[i.min(rows - 1) * stride..].as_ptr();
        }
        for first in (0..PANEL).step_by(COLUMNS) {
            let mut sums = [[dot.zero(); COLUMNS / 2]; PAIRS];
            for step in (0..squares).step_by(2) {
                let at = step * WORDS * GROUP;
                // SAFETY: four words at a time are within rows of whole `CODES`.
                let mut lefts =
                    [unsafe { dot.lefts_of_rows(pointers[0][0].add(at).cast(), pointers[0][1].add(at).cast()) }; PAIRS];
                for (lefts, [a, b]) in lefts.iter_mut().zip(pointers).skip(1) {
                    // SAFETY: as above.
                    *lefts = unsafe { dot.lefts_of_rows(a.add(at).cast(), b.add(at).cast()) };
                }
                macro_rules! square {
                    ($half:literal) => {
                        let at = ((step + $half) * PANEL + first) * WORDS;
                        for line in (0..COLUMNS * WORDS).step_by(16) {
                            s.prefetch_next(next.wrapping_add(GROUP * (at + line)).cast());
                        }
                        for pair in 0..COLUMNS / 2 {
                            // SAFETY: within the panel's squares.
                            let weights = unsafe { dot.right(right.add(at + pair * 2 * WORDS)) };
                            for (sums, lefts) in sums.iter_mut().zip(&lefts) {
                                sums[pair] = dot.multiply_add(lefts[$half], weights, sums[pair]);
                            }
                        }
                    };
                }
                square!(0);
                if step + 1 < squares {
                    square!(1);
                }
            }
            for (sums, rows) in sums.iter().zip(out.0.as_chunks_mut::<2>().0) {
                for (squares, at) in sums.as_chunks::<2>().0.iter().zip((first..).step_by(D::Simd::LANES)) {
                    for (values, row) in dot.rows_of_squares(*squares).into_iter().zip(rows.iter_mut()) {
                        let out = &mut row[at..][..D::Simd::LANES];
                        // SAFETY: just sliced to a vector.
                        unsafe { s.store(out.as_mut_ptr().cast(), dot.bits(values)) };
                    }
                }
            }
        }
    }
}
