//! Embedding tables: rows in f32, or in half the memory as f16.

use std::ops::Range;

use super::isa::{Simd, Task};
use super::linear::f16_word;
use super::memory::AlignedBuffer;
use super::precision::Precision;
use super::tile::{load_columns, store_columns};
use crate::error::Result;

/// A table's rows.
pub(super) enum Table {
    /// As they came.
    F32 { rows: Vec<f32>, width: usize },
    /// Rounded to f16, each row on whole cache lines.
    F16 { words: AlignedBuffer, stride: usize, rows: usize },
}

impl Table {
    /// A table of rows `width` wide. The precisions coarser than bf16x3 have f16 rows: what is made of them is normed, so that
    /// rounding them costs next to nothing, and 8 bits would not be enough.
    pub(super) fn pack(precision: Precision, values: Vec<f32>, width: usize) -> Result<Table> {
        if matches!(precision, Precision::F32 | Precision::Bf16x3) {
            return Ok(Table::F32 { rows: values, width });
        }
        let (rows, stride) = (values.len() / width, width.div_ceil(2).next_multiple_of(16));
        let mut words = AlignedBuffer::zeroed(rows * stride);
        for (row, words) in values.chunks_exact(width).zip(words.chunks_exact_mut(stride)) {
            for (pair, word) in row.chunks(2).zip(words) {
                *word = f16_word(pair[0], pair.get(1).copied().unwrap_or(0.0))?;
            }
        }
        Ok(Table::F16 { words, stride, rows })
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Table::F32 { rows, width } => rows.len() / width,
            Table::F16 { rows, .. } => *rows,
        }
    }

    /// Bytes it takes.
    pub(super) fn memory(&self) -> usize {
        let values = match self {
            Table::F32 { rows, .. } => rows.len(),
            Table::F16 { words, .. } => words.len(),
        };
        values * size_of::<f32>()
    }
}

/// The sums of one row of each table, for some tokens.
pub(super) struct EmbedTask<'a> {
    tables: &'a [Table],
    indices: &'a [Vec<u32>],
    width: usize,
    out: (*mut f32, usize),
    /// The token of row 0.
    first: usize,
    rows: Range<usize>,
}

impl<'a> EmbedTask<'a> {
    /// For every table the row of each token, below its number of rows; `out` is row 0, which is for the token `first`, and the
    /// distance of rows.
    ///
    /// # Safety
    /// When it runs, `out` must be writable for these rows of `width` values, with nobody else accessing them.
    pub(super) unsafe fn new(
        (tables, indices): (&'a [Table], &'a [Vec<u32>]),
        width: usize,
        out: (*mut f32, usize),
        first: usize,
        rows: Range<usize>,
    ) -> Self {
        EmbedTask { tables, indices, width, out, first, rows }
    }
}

impl Task for EmbedTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let EmbedTask { tables, indices, width, out: (out, out_stride), first, rows } = self;
        for row in rows {
            // SAFETY: `out` has the row.
            let out = unsafe { out.add(row * out_stride) };
            for (number, (table, indices)) in tables.iter().zip(indices).enumerate() {
                let index = indices[first + row] as usize;
                // SAFETY: `out` has as many values as the table is wide; a table's row is sliced to `width` f32 or whole
                // vectors of f16.
                unsafe {
                    match table {
                        Table::F32 { rows, .. } => {
                            let row = &rows[index * width..][..width];
                            for at in (0..width).step_by(S::LANES) {
                                let value = load_columns(s, row.as_ptr(), at, width);
                                add_columns(s, number, out, at, width, value);
                            }
                        }
                        Table::F16 { words, stride, .. } => {
                            let row = &words[index * stride..][..*stride];
                            for at in (0..width).step_by(S::LANES) {
                                let value = s.load_f16(row.as_ptr().add(at / 2));
                                add_columns(s, number, out, at, width, value);
                            }
                        }
                    }
                }
            }
            if tables.is_empty() {
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts_mut(out, width) }.fill(0.0);
            }
        }
    }
}

/// Stores the first table's values, and adds those of the others.
///
/// # Safety
/// `row` must be writable for `columns` values.
#[inline(always)]
unsafe fn add_columns<S: Simd>(s: S, table: usize, row: *mut f32, at: usize, columns: usize, value: S::Vector) {
    // SAFETY: the helpers stay within `columns`.
    unsafe {
        let value = if table == 0 { value } else { s.add(load_columns(s, row, at, columns), value) };
        store_columns(s, row, at, columns, value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Kernels;
    use super::super::testing::values;
    use super::*;

    #[test]
    fn rows_of_all_widths_are_summed_up_in_every_precision() {
        for width in (1..=40).chain([384]) {
            let tables = [values(7 * width, 1), values(3 * width, 2)];
            let indices = [vec![6, 0, 3, 6], vec![1, 2, 0, 1]];
            for precision in Precision::ALL {
                let packed: Vec<_> =
                    tables.iter().map(|table| Table::pack(precision, table.clone(), width).unwrap()).collect();
                assert_eq!((packed[0].rows(), packed[1].rows()), (7, 3));
                for kernels in Kernels::available() {
                    let mut out = vec![7f32; 4 * (width + 2)];
                    // SAFETY: `out` has these rows.
                    let task =
                        unsafe { EmbedTask::new((&packed, &indices), width, (out.as_mut_ptr(), width + 2), 0, 1..4) };
                    kernels.run(task);
                    for (token, row) in out.chunks(width + 2).enumerate() {
                        for (i, &got) in row.iter().enumerate() {
                            let want = if token == 0 || i >= width {
                                7.0
                            } else {
                                let of = |t: usize| tables[t][indices[t][token] as usize * width + i];
                                of(0) + of(1)
                            };
                            let tolerance =
                                if matches!(precision, Precision::F32 | Precision::Bf16x3) { 0.0 } else { 1e-3 };
                            assert!((got - want).abs() <= tolerance, "{kernels:?} {precision} {width}: {token},{i}");
                        }
                    }
                }
            }
        }
        assert!(Table::pack(Precision::F16, vec![1e6], 1).is_err());
    }
}
