//! The tile: a few rows times one panel of columns, in registers. Every product of the engine is made of tiles.

use std::ops::Range;

use super::simd::{PANEL_VECTORS, Simd, Task, even_runs};

/// What happens to the sums before they are stored. Pointers are to the first row and column of the product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    /// Nothing.
    Plain,
    /// Add a bias per column.
    Bias(*const f32),
    /// Add a bias per column and a matrix of the product's shape.
    BiasResidual { bias: *const f32, residual: *const f32, stride: usize },
    /// Multiply by a factor per row.
    RowScale(*const f32),
}

/// Terms that are summed up before they are added to the total. One long sum would round every term to the size of the
/// total: parts halve the error of the hidden states, for a hundredth of the time.
const DEPTH_PART: usize = 192;

/// `rows × depth` times `depth × columns`, where `columns` is at most a panel.
///
/// Each sum runs over the depth in ascending order, in parts of [`DEPTH_PART`], whatever the number of rows and columns: a
/// row's result does not depend on the rows it is computed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    /// Length of every sum.
    pub depth: usize,
    /// The left factor, rows `left_stride` apart, contiguous along the depth.
    pub left: *const f32,
    /// Distance of its rows.
    pub left_stride: usize,
    /// The right factor, contiguous along the columns, readable in whole vectors up to `columns`.
    pub right: *const f32,
    /// Distance of its rows.
    pub right_stride: usize,
    /// Columns to compute and store, `1..=PANEL_VECTORS × LANES`.
    pub columns: usize,
    /// What to do before storing.
    pub finish: Finish,
    /// Where to store, rows `out_stride` apart.
    pub out: *mut f32,
    /// Distance of its rows.
    pub out_stride: usize,
}

impl Product {
    /// The given rows of the product, tile by tile.
    ///
    /// # Safety
    /// For every row of `rows`: `left` must be readable for `depth` values, `out` writable for `columns`, by nobody
    /// else meanwhile, and what `finish` points to readable for that row and these columns (a bias in whole vectors).
    /// `right` must be readable for `depth` rows of `columns` rounded up to whole vectors.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(self, s: S, rows: Range<usize>) {
        for run in even_runs(rows, S::TILE_ROWS) {
            let count = run.len();
            // SAFETY: the caller's promise covers these rows.
            let product = unsafe { self.skip_rows(run.start) };
            if self.columns <= S::LANES {
                product.tile_of::<S, 1>(s, count);
            } else {
                product.tile_of::<S, PANEL_VECTORS>(s, count);
            }
        }
    }

    /// The same product with its first `row` rows taken off.
    ///
    /// # Safety
    /// The product must have a row with that index.
    #[inline(always)]
    unsafe fn skip_rows(self, row: usize) -> Product {
        // SAFETY: the row exists, so every pointer stays within its matrix.
        unsafe {
            Product {
                left: self.left.add(row * self.left_stride),
                out: self.out.add(row * self.out_stride),
                finish: match self.finish {
                    Finish::BiasResidual { bias, residual, stride } => {
                        Finish::BiasResidual { bias, residual: residual.add(row * stride), stride }
                    }
                    Finish::RowScale(factors) => Finish::RowScale(factors.add(row)),
                    other => other,
                },
                ..self
            }
        }
    }

    /// The first `rows` rows in one tile, compiled for exactly that many.
    #[inline(always)]
    fn tile_of<S: Simd, const VECTORS: usize>(self, s: S, rows: usize) {
        macro_rules! compiled_for {
            ($($count:literal)*) => {
                match rows {
                    $($count if $count <= S::TILE_ROWS => s.call(Tile::<$count, VECTORS>(self)),)*
                    _ => unreachable!("a tile has 1 to {} rows", S::TILE_ROWS),
                }
            };
        }
        compiled_for!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}

/// A product of exactly `ROWS` rows and at most `VECTORS` vectors of columns. Only [`Product::compute`] makes one, so
/// the promise made to it holds here.
struct Tile<const ROWS: usize, const VECTORS: usize>(Product);

impl<const ROWS: usize, const VECTORS: usize> Task for Tile<ROWS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { depth, columns, finish, out, out_stride, .. } = self.0;
        // SAFETY: the parts are within the depth.
        let mut sums = unsafe { self.sums_over(s, 0..depth.min(DEPTH_PART)) };
        for start in (DEPTH_PART..depth).step_by(DEPTH_PART) {
            // SAFETY: as above.
            let part = unsafe { self.sums_over(s, start..depth.min(start + DEPTH_PART)) };
            for (sums, part) in sums.iter_mut().zip(part) {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = s.add(*sum, part);
                }
            }
        }
        // SAFETY: the bias is readable in whole vectors; the factors for every row; residual and out for `ROWS` rows of
        // `columns` values, and beyond `columns` nothing is accessed.
        unsafe {
            match finish {
                Finish::Plain => {}
                Finish::Bias(bias) | Finish::BiasResidual { bias, .. } => {
                    for v in 0..VECTORS {
                        let bias = s.load(bias.add(v * S::LANES));
                        for sums in &mut sums {
                            sums[v] = s.add(sums[v], bias);
                        }
                    }
                }
                Finish::RowScale(factors) => {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = s.splat(*factors.add(row));
                        *sums = sums.map(|sum| s.mul(sum, factor));
                    }
                }
            }
            if let Finish::BiasResidual { residual, stride, .. } = finish {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.add(*sum, load_columns(s, residual.add(row * stride), v * S::LANES, columns));
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    store_columns(s, out.add(row * out_stride), v * S::LANES, columns, sum);
                }
            }
        }
    }
}

impl<const ROWS: usize, const VECTORS: usize> Tile<ROWS, VECTORS> {
    /// The sums over a part of the depth.
    ///
    /// # Safety
    /// The part must lie within the depth.
    #[inline(always)]
    unsafe fn sums_over<S: Simd>(&self, s: S, part: Range<usize>) -> [[S::Vector; VECTORS]; ROWS] {
        /// How far ahead of the arithmetic packed weights are asked for: 8 KiB, as they may come from main memory.
        const AHEAD: usize = 2048;
        let Product { left, left_stride, right, right_stride, .. } = self.0;
        let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
        let mut right_row = right.wrapping_add(part.start * right_stride);
        for k in part {
            let mut weights = [s.splat(0.0); VECTORS];
            for (v, weight) in weights.iter_mut().enumerate() {
                // SAFETY: `right` is readable for the depth's rows of whole vectors.
                *weight = unsafe { s.load(right_row.add(v * S::LANES)) };
                s.prefetch(right_row.wrapping_add(AHEAD + v * S::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `left` is readable for `ROWS` rows of the depth's values.
                let x = s.splat(unsafe { *left.add(row * left_stride + k) });
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = s.mul_add(x, weight, *sum);
                }
            }
            right_row = right_row.wrapping_add(right_stride);
        }
        sums
    }
}

/// A vector from column `at` on, zero beyond `columns`.
///
/// # Safety
/// `row` must be readable for `columns` values.
#[inline(always)]
pub(super) unsafe fn load_columns<S: Simd>(s: S, row: *const f32, at: usize, columns: usize) -> S::Vector {
    // SAFETY: both branches stay within `columns`.
    unsafe {
        if at + S::LANES <= columns {
            s.load(row.add(at))
        } else {
            s.load_first(row.add(at.min(columns)), columns.saturating_sub(at))
        }
    }
}

/// Stores a vector from column `at` on, nothing beyond `columns`.
///
/// # Safety
/// `row` must be writable for `columns` values.
#[inline(always)]
pub(super) unsafe fn store_columns<S: Simd>(s: S, row: *mut f32, at: usize, columns: usize, vector: S::Vector) {
    // SAFETY: both branches stay within `columns`.
    unsafe {
        if at + S::LANES <= columns {
            s.store(row.add(at), vector)
        } else {
            s.store_first(row.add(at.min(columns)), vector, columns.saturating_sub(at))
        }
    }
}
