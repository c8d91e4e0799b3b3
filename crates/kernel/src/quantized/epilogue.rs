//! What follows an integer product: zero points taken off, scales, a bias, and the operation behind it, all while the tile
//! is in the first-level cache.
//!
//! Vector by vector, as everything that touches each value of a tile: loops over a row's values are unrolled too early to
//! be made vectors of.

use std::ops::Range;

use super::super::isa::Simd;
use super::arithmetic::Arithmetic;
use super::exact::{self, MOST_LANES};
use super::matrix::{Block, Matrix};
use super::panels::Panels;
use super::quantization::Spread;
use super::tile::{MAX_TILE_ROWS, PANEL, Tile};

/// What becomes of a product once the bias is added.
#[derive(Clone, Copy)]
pub(super) enum Then {
    Nothing,
    Multiply(f32),
    Divide(f32),
    Gelu(Arithmetic),
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
            let whole = Place { tile, sums, to: to.block(&rows, &columns), others };
            // SAFETY: both blocks are whole panels of so many rows, and this member's alone by contract.
            return unsafe { self.panel(s, &whole, spread) };
        }
        // The last panel is not full: by way of whole rows.
        let [mut values, mut others] = [Lines::new(), Lines::new()];
        if let Then::Residual(matrix) = self.then {
            for (line, row) in others.0.iter_mut().zip(rows.clone()) {
                // SAFETY: nobody writes them, by contract.
                line[..columns.len()].copy_from_slice(unsafe { matrix.row(row, columns.clone()) });
            }
        }
        let lines = Place { tile, sums, to: values.block(), others: others.block() };
        // SAFETY: both have room for every row of a tile.
        unsafe { self.panel(s, &lines, None) };
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
    unsafe fn panel<S: Simd>(&self, s: S, place: &Place<'_>, mut spread: Option<&mut Spread>) {
        let rows = place.sums.len();
        for at in (0..PANEL).step_by(S::LANES) {
            let mut range = spread.as_ref().map(|spread| spread.load(s, at));
            let mut row = 0;
            // SAFETY: so many rows are left, of whole panels.
            unsafe {
                if S::LANES == MOST_LANES {
                    // Only the longest vectors come with registers for four rows.
                    while row + 4 <= rows {
                        self.rows::<S, 4>(s, place, (row, at), &mut range);
                        row += 4;
                    }
                }
                while row + 2 <= rows {
                    self.rows::<S, 2>(s, place, (row, at), &mut range);
                    row += 2;
                }
                if row < rows {
                    self.rows::<S, 1>(s, place, (row, at), &mut range);
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
        place: &Place<'_>,
        (row, at): (usize, usize),
        range: &mut Option<[S::Vector; 2]>,
    ) {
        let Place { tile, sums, to, others } = *place;
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
                Then::Gelu(arithmetic) => values = exact::gelu(s, arithmetic, values),
                Then::Residual(_) => {
                    for (k, value) in values.iter_mut().enumerate() {
                        let other = others.start.add((row + k) * others.stride + at);
                        s.prefetch(other.wrapping_add(PANEL));
                        *value = s.add(*value, s.load(other));
                    }
                }
            }
            for (k, &value) in values.iter().enumerate() {
                let to = to.start.add((row + k) * to.stride + at);
                // The next panel's values lie beside these, those of the next row far away.
                s.prefetch(to.wrapping_add(PANEL));
                s.store(to, value);
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

/// A tile, the sums of its rows' codes, where it goes and what may be added to it.
#[derive(Clone, Copy)]
struct Place<'a> {
    tile: &'a Tile,
    sums: &'a [i32],
    to: Block,
    others: Block,
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

#[cfg(test)]
mod tests {
    use super::super::super::dispatch::Kernels;
    use super::super::super::isa::Task;
    use super::super::super::memory::AlignedBuffer;
    use super::super::super::portable::Portable;
    use super::*;

    const THENS: usize = 6;
    const SCALE: f32 = 0.003;
    const ZERO_POINTS: (i32, i32) = (131, -7);

    /// Some rows and columns of a tile after one of the operations, and their range.
    struct Finished<'a> {
        tile: &'a Tile,
        rows: usize,
        columns: usize,
        then: usize,
    }

    fn weight(i: usize, column: usize) -> i8 {
        (i * 50 + column * 3) as i8
    }

    fn bias(column: usize) -> f32 {
        column as f32 / 9.0 - 1.5
    }

    fn other(row: usize, column: usize) -> f32 {
        (row * 40 + column) as f32 / 11.0
    }

    fn row_sum(row: usize) -> i32 {
        row as i32 * 90 + 1
    }

    impl Task for Finished<'_> {
        type Output = (Vec<Vec<u32>>, [f32; 2]);

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let Finished { tile, rows, columns, then } = self;
            let weights: Vec<Vec<i8>> = (0..3).map(|i| (0..PANEL).map(|column| weight(i, column)).collect()).collect();
            let mut panels = Panels::zeroed(3, PANEL, Default::default());
            panels.set_rows(0, std::array::from_fn(|i| weights.get(i).map(Vec::as_slice)));
            let (mut memory, mut others) = (AlignedBuffer::default(), AlignedBuffer::default());
            let to = Matrix::with_room(&mut memory, rows + 1, columns + 5);
            let others = Matrix::with_room(&mut others, rows + 1, columns + 5);
            for row in 0..=rows {
                // SAFETY: nobody else has the matrices.
                let (to, others) = unsafe { (to.row_mut(row, 0..columns + 5), others.row_mut(row, 0..columns + 5)) };
                to.fill(7.0);
                (0..columns).for_each(|column| others[column + 3] = other(row, column));
            }
            let [x86_64, arm64] = Arithmetic::ALL.map(Then::Gelu);
            let thens: [Then; THENS] =
                [Then::Nothing, Then::Multiply(0.7), Then::Divide(5.656_854), Then::Residual(others), x86_64, arm64];
            let bias: [f32; PANEL] = std::array::from_fn(bias);
            let epilogue = Epilogue::new(&panels, 0, 3, ZERO_POINTS, SCALE, Some(&bias), thens[then]);
            let sums: Vec<i32> = (0..rows).map(row_sum).collect();
            let mut spread = Spread::new();
            // SAFETY: nobody else has the matrices.
            let lines = unsafe {
                epilogue.finish(s, tile, &sums, (to, 0..rows, 3..columns + 3), Some(&mut spread));
                (0..=rows).map(|row| to.row(row, 0..columns + 5)).collect::<Vec<_>>()
            };
            let untouched = |line: &[f32]| line.iter().all(|&value| value == 7.0);
            assert!(untouched(lines[rows]) && lines.iter().all(|line| untouched(&line[..3])));
            assert!(lines.iter().all(|line| untouched(&line[columns + 3..])));
            let values = lines[..rows].iter().map(|line| line[3..columns + 3].iter().map(|x| x.to_bits()).collect());
            (values.collect(), spread.ends().into())
        }
    }

    #[test]
    fn every_instruction_set_finishes_tiles_alike_whatever_their_edges() {
        let mut tile = Tile::new();
        for (row, sums) in tile.0.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = (row * 7919 + column * 104_729) as i32 % 3000 - 1500;
            }
        }
        for columns in [1, 7, 16, 31, PANEL] {
            for rows in 1..=MAX_TILE_ROWS {
                for then in 0..THENS {
                    let finished = || Finished { tile: &tile, rows, columns, then };
                    let want = Portable.call(finished());
                    for kernels in Kernels::available() {
                        assert_eq!(kernels.run(finished()), want, "{kernels:?} {rows} × {columns}, operation {then}");
                    }
                    for (row, values) in want.0.iter().enumerate() {
                        for (column, &bits) in values.iter().enumerate() {
                            let sum_of_weights: i32 = (0..3).map(|i| i32::from(weight(i, column))).sum();
                            let sum = tile.0[row][column] + 3 * ZERO_POINTS.0 * ZERO_POINTS.1
                                - ZERO_POINTS.0 * sum_of_weights
                                - ZERO_POINTS.1 * row_sum(row);
                            let value = sum as f32 * SCALE + bias(column);
                            let value = match then {
                                1 => value * 0.7,
                                2 => value / 5.656_854,
                                3 => value + other(row, column),
                                _ => value,
                            };
                            assert!(then >= 4 || f32::from_bits(bits) == value, "{row}, {column}, operation {then}");
                        }
                    }
                    let all = || want.0.iter().flatten().map(|&bits| f32::from_bits(bits));
                    assert_eq!(want.1, [all().fold(0.0, f32::min), all().fold(0.0, f32::max)]);
                }
            }
        }
    }
}
