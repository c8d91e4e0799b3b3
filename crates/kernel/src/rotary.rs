//! Rotary positions: queries and keys are turned, pair by pair, by an angle that grows with the position.

use std::fmt;
use std::ops::Range;

use super::isa::{Simd, Task};
use super::tile::{load_columns, store_columns};

/// How fast the pairs of a head turn. The first half of the columns it turns is paired with the second, column by column.
#[derive(Clone, Default, PartialEq)]
pub struct Rotary {
    /// Radians per position of each pair: as many as half of the columns that are turned, at most half of a head.
    pub frequencies: Vec<f32>,
    /// What turned queries and keys are multiplied by each.
    pub factor: f32,
}

impl Rotary {
    /// The usual frequencies, `base^(-2i/columns)`, of so many columns.
    pub fn of_base(base: f64, columns: usize) -> Rotary {
        let frequency = |pair: usize| (1.0 / base.powf((2 * pair) as f64 / columns as f64)) as f32;
        Rotary { frequencies: (0..columns / 2).map(frequency).collect(), factor: 1.0 }
    }

    /// Cosines and sines of positions from 0, `[positions, cosine and sine, pairs]`.
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let angle = |position: usize, frequency: f32| f64::from(position as f32 * frequency);
        let factor = f64::from(self.factor);
        let row = |position: usize| {
            let cosines =
                self.frequencies.iter().map(move |&frequency| (angle(position, frequency).cos() * factor) as f32);
            let sines =
                self.frequencies.iter().map(move |&frequency| (angle(position, frequency).sin() * factor) as f32);
            cosines.chain(sines)
        };
        (0..positions).flat_map(row).collect()
    }
}

impl fmt::Debug for Rotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Rotary");
        shown.field("frequencies", &[self.frequencies.len()]).field("factor", &self.factor).finish()
    }
}

/// Turns neighbouring heads of some rows, in place.
pub(super) struct RotateTask<'a> {
    table: &'a [f32],
    pairs: usize,
    positions: &'a [u32],
    heads: (usize, usize),
    matrix: (*mut f32, usize),
    rows: Range<usize>,
}

impl<'a> RotateTask<'a> {
    /// `table` is a [`Rotary::table`] with that many pairs, and `positions` has one for each row of `rows`. `heads` is their
    /// number and width; `matrix` row 0, at the first head, and the distance of rows.
    ///
    /// # Safety
    /// When it runs, the heads of these rows must be readable and writable, with nobody else accessing them.
    pub(super) unsafe fn new(
        (table, pairs): (&'a [f32], usize),
        positions: &'a [u32],
        heads: (usize, usize),
        matrix: (*mut f32, usize),
        rows: Range<usize>,
    ) -> Self {
        assert!(2 * pairs <= heads.1 && positions.len() == rows.len(), "pairs within a head, a position for each row");
        RotateTask { table, pairs, positions, heads, matrix, rows }
    }
}

impl Task for RotateTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RotateTask { table, pairs, positions, heads: (heads, size), matrix, rows } = self;
        for (row, &position) in rows.zip(positions) {
            let (cosines, sines) = table[position as usize * 2 * pairs..][..2 * pairs].split_at(pairs);
            for head in 0..heads {
                // SAFETY: the row has this head, whose first `2 × pairs` columns are turned; the helpers stay within.
                unsafe {
                    let first = matrix.0.add(row * matrix.1 + head * size);
                    let second = first.add(pairs);
                    for at in (0..pairs).step_by(S::LANES) {
                        let cosine = load_columns(s, cosines.as_ptr(), at, pairs);
                        let sine = load_columns(s, sines.as_ptr(), at, pairs);
                        let (x, y) = (load_columns(s, first, at, pairs), load_columns(s, second, at, pairs));
                        let negative = s.sub(s.splat(0.0), s.mul(y, sine));
                        store_columns(s, first, at, pairs, s.mul_add(x, cosine, negative));
                        store_columns(s, second, at, pairs, s.mul_add(y, cosine, s.mul(x, sine)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Kernels;
    use super::super::testing::values;
    use super::*;

    #[test]
    fn heads_of_all_sizes_are_turned_as_defined() {
        const ROWS: usize = 3;
        for kernels in Kernels::available() {
            for (size, pairs) in (1..=40).flat_map(|pairs| [(2 * pairs, pairs), (2 * pairs + 3, pairs)]) {
                let (heads, stride) = (2, 2 * size + 5);
                let rotary = Rotary::of_base(100.0, 2 * pairs);
                let (table, positions) = (rotary.table(9), [0, 8]);
                let input = values(ROWS * stride, 5);
                let mut x = input.clone();
                let matrix = (x.as_mut_ptr(), stride);
                // SAFETY: `x` has these rows and is not used meanwhile.
                let task = unsafe { RotateTask::new((&table, pairs), &positions, (heads, size), matrix, 1..ROWS) };
                kernels.run(task);
                for (at, (&got, &before)) in x.iter().zip(&input).enumerate() {
                    let (row, column) = (at / stride, at % stride);
                    let (head, column) = (column / size, column % size);
                    let mut want = f64::from(before);
                    if row > 0 && head < heads && column < 2 * pairs {
                        let position = f64::from(positions[row - 1]);
                        let angle = position / 100f64.powf((column % pairs) as f64 / pairs as f64);
                        let other = f64::from(input[if column < pairs { at + pairs } else { at - pairs }]);
                        let turned = if column < pairs { -other } else { other };
                        want = want * angle.cos() + turned * angle.sin();
                    }
                    assert!((f64::from(got) - want).abs() < 2e-6, "{kernels:?} {size}/{pairs} {at}: {got} for {want}");
                }
            }
        }
    }
}
