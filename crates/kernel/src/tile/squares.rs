//! Tiles of kinds that multiply two rows by two columns at once.
//!
//! The left factor has two rows together, two words of each after two of the other; the right one two words of each column.

use std::ops::Range;

use super::{LINE, Product, Tile};
use crate::isa::{Dot, Simd};

impl<const ROWS: usize, const VECTORS: usize> Tile<ROWS, VECTORS> {
    /// The same in squares of two rows by two columns. A part begins at an even word; its last one may stand alone, with zeros
    /// beside it in the right factor.
    ///
    /// # Safety
    /// As for [`Tile::sums_over`].
    #[inline(always)]
    pub(super) unsafe fn sums_of_squares<D: Dot>(&self, dot: D, part: Range<usize>) -> [[D::Sums; VECTORS]; ROWS] {
        let s = dot.simd();
        let Product { left, left_stride, right, right_stride, ahead, .. } = self.0;
        // A pair of rows has two squares for each vector of columns; so has the last row where it stands alone.
        let mut sums = [[dot.zero(); VECTORS]; ROWS];
        let mut alone = [dot.zero(); VECTORS];
        for k in part.step_by(2) {
            let right_row = right.wrapping_add(k * right_stride);
            // SAFETY: `right` is readable for the depth's rows of whole vectors.
            let mut weights = [[unsafe { dot.right(right_row) }; 2]; VECTORS];
            for (i, weight) in weights.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: as above.
                *weight = unsafe { dot.right(right_row.add(i * D::RIGHT_WORDS)) };
            }
            let next = ahead.from.wrapping_add(k * ahead.step);
            for line in (0..2 * VECTORS * D::RIGHT_WORDS).step_by(LINE) {
                s.prefetch_next(next.wrapping_add(line));
            }
            let (pairs, last) = sums.as_chunks_mut::<2>();
            for (pair, [first, second]) in pairs.iter_mut().enumerate() {
                // SAFETY: `left` is readable for `ROWS` rows of the depth's words, two of them together.
                let x = unsafe { dot.left(left.add(2 * pair * left_stride + 2 * k)) };
                for (v, weights) in weights.iter().enumerate() {
                    first[v] = dot.multiply_add(x, weights[0], first[v]);
                    second[v] = dot.multiply_add(x, weights[1], second[v]);
                }
            }
            for last in last {
                // SAFETY: as above; what is beside the last row is not looked at.
                let x = unsafe { dot.left(left.add((ROWS - 1) * left_stride + 2 * k)) };
                for (v, weights) in weights.iter().enumerate() {
                    last[v] = dot.multiply_add(x, weights[0], last[v]);
                    alone[v] = dot.multiply_add(x, weights[1], alone[v]);
                }
            }
        }
        let (pairs, last) = sums.as_chunks_mut::<2>();
        for [first, second] in pairs {
            for (first, second) in first.iter_mut().zip(second) {
                [*first, *second] = dot.rows_of_squares([*first, *second]);
            }
        }
        for last in last {
            for (last, alone) in last.iter_mut().zip(alone) {
                [*last, _] = dot.rows_of_squares([*last, alone]);
            }
        }
        sums
    }

    /// Where in the left factor a word of a row is; in squares an even one, with the next beside it.
    ///
    /// # Safety
    /// The row must have that word.
    #[inline(always)]
    pub(super) unsafe fn left_word<D: Dot>(&self, row: usize, word: usize) -> *const f32 {
        let Product { left, left_stride, .. } = self.0;
        // SAFETY: within the left factor.
        unsafe {
            match D::SQUARES {
                true => left.add(row / 2 * 2 * left_stride + 2 * word + row % 2 * 2),
                false => left.add(row * left_stride + word),
            }
        }
    }
}
