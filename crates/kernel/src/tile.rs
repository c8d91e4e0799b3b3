//! The tile: a few rows times one panel of columns, in registers. Every product of the engine is made of tiles.

mod squares;

use std::ops::Range;

use super::dot::{F32, Factors, call_in};
use super::isa::{Dot, DotTask};
use super::isa::{PANEL_VECTORS, Simd, even_runs_of};

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

/// Words of a cache line.
const LINE: usize = 16;

/// Words whose products are summed up before they are added to the total. One long sum would round every term to the size
/// of the total: parts halve the error of the hidden states, for a hundredth of the time.
pub(super) const DEPTH_PART: usize = 192;

/// `rows × depth` times `depth × columns`, where `columns` is at most a panel.
///
/// The factors consist of words of 32 bits, as [`Dot`] has them; for f32 a word is a value.
///
/// Each sum runs over the depth in ascending order, in parts of [`DEPTH_PART`], whatever the number of rows and columns: a
/// row's result does not depend on the rows it is computed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    /// Words along every sum.
    pub depth: usize,
    /// The left factor, rows `left_stride` apart, contiguous along the depth. Where rows lie together, so many of them take
    /// so many times that distance, and the first of these rows is the first of those that lie together.
    pub left: *const f32,
    /// Distance of its rows in words.
    pub left_stride: usize,
    /// The right factor, contiguous along the columns, readable in whole vectors up to `columns`.
    pub right: *const f32,
    /// Distance of its rows in words.
    pub right_stride: usize,
    /// Whether `out` holds the sums over what lies before this depth, to be added to. Where the depth of each product but
    /// the last is a multiple of [`DEPTH_PART`], the result has the bits it would have in one go.
    pub resume: bool,
    /// What makes integer sums the values they stand for; without it their bits are stored.
    pub scales: Option<Scales>,
    /// Columns to compute and store, `1..=PANEL_VECTORS × LANES`.
    pub columns: usize,
    /// What to do before storing.
    pub finish: Finish,
    /// Where to store, rows `out_stride` apart.
    pub out: *mut f32,
    /// Distance of its rows.
    pub out_stride: usize,
    /// What to bring nearer meanwhile.
    pub ahead: Ahead,
}

/// What is multiplied next, and comes from main memory: asked for bit by bit while a product computes, it is in the
/// second-level cache when it is needed, and cores do not wait for memory first and leave it idle then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Any address.
    from: *const f32,
    /// Words to go on by with every word of the depth.
    step: usize,
}

impl Ahead {
    /// As many words from there as the product's right factor has, with rows that far apart, or a few more.
    pub(super) fn panel(from: *const f32, right_stride: usize) -> Ahead {
        Ahead { from, step: right_stride }
    }

    /// Nothing; the address is some that is in use anyway.
    pub(super) fn nothing(used: *const f32) -> Ahead {
        Ahead { from: used, step: 0 }
    }

    /// The share of one of several tiles that go through the same depth.
    fn share(self, tile: usize, tiles: usize, depth: usize) -> Ahead {
        let step = self.step.div_ceil(tiles);
        Ahead { from: self.from.wrapping_add(tile * step * depth), step }
    }
}

/// Words of a row of bytes, of so many in all, that have a scale of their own: one large value spoils the resolution of
/// its group only.
///
/// Hidden states have a few columns of large values: two groups of all-MiniLM-L6-v2's 384 columns lift the least cosine
/// over 200 texts from 0.9958 to 0.9974. Feed-forward values have none, so that the size of their groups makes no
/// difference to the cosine; fewer take less time.
pub(super) const fn group_words(depth: usize) -> usize {
    if depth > 192 { 96 } else { 48 }
}

/// Where the scales of a product of bytes are. With `x = low + scale · q` for each group of a row and `w = factor · p` for
/// each column, `Σ x·w = factor · (scale · Σ q·p + low · Σ p)`, summed up over the groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    /// Where in a row of the left factor, in words, `scale` and `low` of its groups are.
    pub row: usize,
    /// `factor` of each column, in whole vectors.
    pub factors: *const f32,
    /// `Σ p` of each column, in whole vectors, of the first group.
    pub sums: *const f32,
    /// Distance of the next group's sums.
    pub sums_stride: usize,
}

impl Product {
    /// The given rows of a product of such factors.
    ///
    /// # Safety
    /// As for [`Product::compute`].
    #[inline(always)]
    pub(super) unsafe fn compute_in<S: Simd>(self, s: S, factors: Factors, rows: Range<usize>) {
        call_in(s, factors, Rows(self, rows));
    }

    /// The given rows of a product of f32, tile by tile.
    ///
    /// # Safety
    /// Where rows lie together, `rows` must begin with the first of two, and the second one must be there too, whatever it holds.
    /// For every row of `rows`: `left` must be readable for `depth` values, `out` writable for `columns`, by nobody
    /// else meanwhile, and what `finish` and `scales` point to readable for that row and these columns (a bias in whole
    /// vectors). `right` must be readable for `depth` rows of `columns` rounded up to whole vectors.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(self, s: S, rows: Range<usize>) {
        // SAFETY: handed on.
        unsafe { self.compute_by(F32(s), rows) };
    }

    /// The given rows of a product whose factors are of this kind, tile by tile.
    ///
    /// # Safety
    /// As for [`Product::compute`].
    #[inline(always)]
    pub(super) unsafe fn compute_by<D: Dot>(self, dot: D, rows: Range<usize>) {
        Rows(self, rows).run(dot);
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
    fn tile_of<D: Dot, const VECTORS: usize>(self, dot: D, rows: usize) {
        // The condition is a constant block for the sake of the compiler: tiles that no product has are not even looked at.
        macro_rules! compiled_for {
            ($($count:literal)*) => {
                $(if const { $count <= D::TILE_ROWS } && rows == $count {
                    return dot.call(Tile::<$count, VECTORS>(self));
                })*
            };
        }
        compiled_for!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        unreachable!("a tile has 1 to {} rows", D::TILE_ROWS);
    }
}

/// Some rows of a product. Only [`Product::compute`] and [`Product::compute_in`] make one, so the promise made to them
/// holds here.
struct Rows(Product, Range<usize>);

impl DotTask for Rows {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let Product { depth, ahead, .. } = self.0;
        let tiles = self.1.len().div_ceil(D::TILE_ROWS);
        let together = if D::SQUARES { 2 } else { 1 };
        for (tile, run) in even_runs_of(self.1, D::TILE_ROWS, together).enumerate() {
            let count = run.len();
            // SAFETY: the caller's promise covers these rows.
            let product = unsafe { self.0.skip_rows(run.start) };
            let product = Product { ahead: ahead.share(tile, tiles, depth), ..product };
            if product.columns <= D::Simd::LANES {
                product.tile_of::<D, 1>(dot, count);
            } else {
                product.tile_of::<D, PANEL_VECTORS>(dot, count);
            }
        }
    }
}

/// A product of exactly `ROWS` rows and at most `VECTORS` vectors of columns. Only [`Rows`] makes one, so the promise
/// made to it holds here.
struct Tile<const ROWS: usize, const VECTORS: usize>(Product);

impl<const ROWS: usize, const VECTORS: usize> DotTask for Tile<ROWS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let s = dot.simd();
        let Product { columns, finish, out, out_stride, .. } = self.0;
        let mut sums = match self.0.scales {
            // SAFETY: by the promise made, scales are readable for every row and group and in whole vectors.
            Some(scales) if D::INTEGERS => unsafe { self.scaled_sums(dot, scales) },
            // SAFETY: by the promise made.
            _ => unsafe { self.sums_in_parts(dot) },
        };
        // SAFETY: the bias is readable in whole vectors; the factors for every row; residual and out for `ROWS` rows of
        // `columns` values, and beyond `columns` nothing is accessed.
        unsafe {
            match finish {
                Finish::Plain => {}
                Finish::Bias(bias) | Finish::BiasResidual { bias, .. } => {
                    for v in 0..VECTORS {
                        let bias = s.load(bias.add(v * D::Simd::LANES));
                        for sums in &mut sums {
                            sums[v] = s.add(sums[v], bias);
                        }
                    }
                }
                Finish::RowScale(factors) => {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = s.splat(*factors.add(row));
                        for sum in sums {
                            *sum = s.mul(*sum, factor);
                        }
                    }
                }
            }
            if let Finish::BiasResidual { residual, stride, .. } = finish {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.add(*sum, load_columns(s, residual.add(row * stride), v * D::Simd::LANES, columns));
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    store_columns(s, out.add(row * out_stride), v * D::Simd::LANES, columns, sum);
                }
            }
        }
    }
}

impl<const ROWS: usize, const VECTORS: usize> Tile<ROWS, VECTORS> {
    /// The sums over the whole depth, part by part.
    ///
    /// # Safety
    /// To resume, `out` must be readable for every row and column.
    #[inline(always)]
    unsafe fn sums_in_parts<D: Dot>(&self, dot: D) -> [[<D::Simd as Simd>::Vector; VECTORS]; ROWS] {
        let s = dot.simd();
        let Product { depth, resume, columns, out, out_stride, .. } = self.0;
        // Integers have nothing to round.
        let most = if D::INTEGERS { depth } else { DEPTH_PART };
        let mut totals = [[s.splat(0.0); VECTORS]; ROWS];
        if resume {
            for (row, totals) in totals.iter_mut().enumerate() {
                for (v, total) in totals.iter_mut().enumerate() {
                    // SAFETY: readable by contract, and the helper stays within `columns`.
                    *total = unsafe { load_columns(s, out.add(row * out_stride), v * D::Simd::LANES, columns) };
                }
            }
        }
        for start in (0..depth).step_by(most) {
            // SAFETY: the part is within the depth.
            let part = unsafe { self.sums_over(dot, start..depth.min(start + most)) };
            for (totals, part) in totals.iter_mut().zip(part) {
                for (total, part) in totals.iter_mut().zip(part) {
                    let first = start == 0 && !resume;
                    *total = if first { dot.bits(part) } else { s.add(*total, dot.bits(part)) };
                }
            }
        }
        totals
    }

    /// The sums over a part of the depth, which is not empty.
    ///
    /// # Safety
    /// The part must lie within the depth.
    #[inline(always)]
    unsafe fn sums_over<D: Dot>(&self, dot: D, part: Range<usize>) -> [[D::Sums; VECTORS]; ROWS] {
        if const { D::SQUARES } {
            // SAFETY: handed on.
            return unsafe { self.sums_of_squares(dot, part) };
        }
        let s = dot.simd();
        let Product { left, left_stride, right, right_stride, ahead, .. } = self.0;
        let mut sums = [[dot.zero(); VECTORS]; ROWS];
        let mut next = ahead.from.wrapping_add(part.start * ahead.step);
        let mut right_row = right.wrapping_add(part.start * right_stride);
        let mut start = part.start;
        if const { D::LEFT_AT_ONCE == 4 } {
            while start + 4 <= part.end {
                // SAFETY: `left` is readable for `ROWS` rows of the depth's words.
                let mut lefts = [unsafe { dot.lefts(left.add(start)) }; ROWS];
                for (row, lefts) in lefts.iter_mut().enumerate().skip(1) {
                    // SAFETY: as above.
                    *lefts = unsafe { dot.lefts(left.add(row * left_stride + start)) };
                }
                macro_rules! lanes {
                    ($($lane:literal)*) => {$(
                        // SAFETY: `right` is readable for the depth's rows of whole vectors.
                        unsafe { self.add_lane::<D, $lane>(dot, &lefts, right_row, &mut sums) };
                        for line in (0..VECTORS * D::RIGHT_WORDS).step_by(LINE) {
                            s.prefetch_next(next.wrapping_add(line));
                        }
                        next = next.wrapping_add(ahead.step);
                        right_row = right_row.wrapping_add(right_stride);
                    )*};
                }
                lanes!(0 1 2 3);
                start += 4;
            }
        }
        for k in start..part.end {
            // SAFETY: `right` is readable for the depth's rows of whole vectors.
            let mut weights = [unsafe { dot.right(right_row) }; VECTORS];
            for (v, weight) in weights.iter_mut().enumerate() {
                // SAFETY: as above.
                *weight = unsafe { dot.right(right_row.add(v * D::RIGHT_WORDS)) };
            }
            for line in (0..VECTORS * D::RIGHT_WORDS).step_by(LINE) {
                s.prefetch_next(next.wrapping_add(line));
            }
            next = next.wrapping_add(ahead.step);
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `left` is readable for `ROWS` rows of the depth's words.
                let x = unsafe { dot.left(left.add(row * left_stride + k)) };
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = dot.multiply_add(x, weight, *sum);
                }
            }
            right_row = right_row.wrapping_add(right_stride);
        }
        sums
    }

    /// Adds the products of one of several words that were read at once, for each row, with a row of the right factor.
    ///
    /// # Safety
    /// `right_row` must be readable in whole vectors.
    #[inline(always)]
    unsafe fn add_lane<D: Dot, const LANE: usize>(
        &self,
        dot: D,
        lefts: &[D::Left; ROWS],
        right_row: *const f32,
        sums: &mut [[D::Sums; VECTORS]; ROWS],
    ) {
        // SAFETY: by the promise made.
        let mut weights = [unsafe { dot.right(right_row) }; VECTORS];
        for (v, weight) in weights.iter_mut().enumerate() {
            // SAFETY: as above.
            *weight = unsafe { dot.right(right_row.add(v * D::RIGHT_WORDS)) };
        }
        for (&left, sums) in lefts.iter().zip(sums) {
            for (sum, &weight) in sums.iter_mut().zip(&weights) {
                *sum = dot.multiply_add_lane::<LANE>(left, weight, *sum);
            }
        }
    }

    /// The values that the sums of bytes stand for.
    ///
    /// # Safety
    /// Scales must be readable for every row and group and in whole vectors.
    #[inline(always)]
    unsafe fn scaled_sums<D: Dot>(&self, dot: D, scales: Scales) -> [[<D::Simd as Simd>::Vector; VECTORS]; ROWS] {
        let s = dot.simd();
        let depth = self.0.depth;
        let size = group_words(depth);
        let mut values = [[s.splat(0.0); VECTORS]; ROWS];
        for (group, start) in (0..depth).step_by(size).enumerate() {
            // SAFETY: the group lies within the depth; its scales and its columns' sums are readable.
            unsafe {
                let sums = self.sums_over(dot, start..depth.min(start + size));
                let mut column_sums = [s.splat(0.0); VECTORS];
                for (v, column_sum) in column_sums.iter_mut().enumerate() {
                    *column_sum = s.load(scales.sums.add(group * scales.sums_stride + v * D::Simd::LANES));
                }
                for (row, (values, sums)) in values.iter_mut().zip(sums).enumerate() {
                    let row = self.left_word::<D>(row, scales.row + 2 * group);
                    let (scale, low) = (s.splat(*row), s.splat(*row.add(1)));
                    for (v, sum) in sums.into_iter().enumerate() {
                        let mut sum = dot.values(sum);
                        if D::LOWERED {
                            // Integers that f32 holds exactly.
                            sum = s.mul_add(s.splat(128.0), column_sums[v], sum);
                        }
                        let offset = s.mul_add(low, column_sums[v], values[v]);
                        values[v] = s.mul_add(sum, scale, offset);
                    }
                }
            }
        }
        for v in 0..VECTORS {
            // SAFETY: readable in whole vectors.
            let factor = unsafe { s.load(scales.factors.add(v * D::Simd::LANES)) };
            for values in &mut values {
                values[v] = s.mul(values[v], factor);
            }
        }
        values
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
