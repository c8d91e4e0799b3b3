//! The same products in squares: two rows by two columns at once, eight codes of each.

use super::quantization::CODES;
use super::tile::{GROUP, PANEL, Tile};
use crate::isa::{Dot, DotTask, Simd, Task};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 6;
/// Columns whose sums are in registers at once.
const COLUMNS: usize = 16;
/// Words that hold the codes of a column in a square.
const WORDS: usize = 2;

/// Some rows of codes times a panel, whose groups lie in twos. Rows of codes are `stride` codes apart.
pub(super) struct BySquares<'a> {
    codes: &'a [u8],
    stride: usize,
    rows: usize,
    panel: &'a [i8],
    next: *const i8,
    out: &'a mut Tile,
}

impl<'a> BySquares<'a> {
    /// `rows` rows, up to [`TILE_ROWS`], each of whole [`CODES`]; `next` is fetched meanwhile.
    ///
    /// # Panics
    /// If there are fewer codes, or they do not lie on whole words.
    pub(super) fn new(
        (codes, stride): (&'a [u8], usize),
        rows: usize,
        panel: &'a [i8],
        next: *const i8,
        out: &'a mut Tile,
    ) -> Self {
        let row = panel.len() / PANEL;
        assert!(rows > 0 && rows <= TILE_ROWS && panel.len() == row / (WORDS * GROUP) * WORDS * GROUP * PANEL);
        assert!(stride >= row && stride.is_multiple_of(CODES) && codes.len() >= rows * stride);
        assert!(codes.as_ptr().cast::<f32>().is_aligned(), "whole words");
        BySquares { codes, stride, rows, panel, next, out }
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
        match self.rows.div_ceil(2) {
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
        let s = dot.simd();
        let squares = self.panel.len() / (PANEL * WORDS * GROUP);
        let right = self.panel.as_ptr().cast::<f32>();
        // Where the number of rows is odd, the last one is its own neighbour.
        let mut pointers = [[self.codes.as_ptr(); 2]; PAIRS];
        for (i, pointer) in pointers.as_flattened_mut().iter_mut().enumerate() {
            *pointer = self.codes[i.min(self.rows - 1) * self.stride..].as_ptr();
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
                            s.prefetch_next(self.next.wrapping_add(GROUP * (at + line)).cast());
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
            for (sums, rows) in sums.iter().zip(self.out.0.as_chunks_mut::<2>().0) {
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
