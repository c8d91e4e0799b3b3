//! Products of integers: unsigned bytes by packed bytes, exact in 32 bits, the same on every instruction set.

use std::ops::Range;

use super::dispatch::Kernels;
use super::isa::{PANEL_VECTORS, Simd, Task, even_runs};
use super::linear::MOST_BYTES;
use super::memory::AlignedBuffer;
use super::precision::Precision;
use super::tile::{Ahead, Finish, Product};
use crate::error::{Error, Result};

/// Rows that are worked on together: their bytes and a panel stay in the second-level cache.
const ROWS: usize = 112;

/// A matrix of bytes, `[outputs, inputs]`, packed as the right factor of integer products.
pub struct PackedBytes {
    kernels: Kernels,
    outputs: usize,
    inputs: usize,
    /// What was taken off every value to make it signed.
    offset: i32,
    panels: AlignedBuffer,
}

impl PackedBytes {
    /// Packs signed values; an error if they are not rows of `inputs`.
    pub fn signed(kernels: Kernels, values: &[i8], inputs: usize) -> Result<PackedBytes> {
        PackedBytes::pack(kernels, inputs, 0, values.len(), |at| values[at])
    }

    /// Packs unsigned values; an error if they are not rows of `inputs`.
    pub fn unsigned(kernels: Kernels, values: &[u8], inputs: usize) -> Result<PackedBytes> {
        PackedBytes::pack(kernels, inputs, 128, values.len(), |at| (values[at] ^ 0x80) as i8)
    }

    fn pack(
        kernels: Kernels,
        inputs: usize,
        offset: i32,
        count: usize,
        value: impl Fn(usize) -> i8,
    ) -> Result<PackedBytes> {
        // An unsigned matrix has sums of up to 255 × 255 per input.
        if inputs == 0 || count == 0 || !count.is_multiple_of(inputs) || inputs > MOST_BYTES / 2 {
            return Err(Error::unusable(format!(
                "{count} bytes are not rows of {inputs} (of which {} can be summed up)",
                MOST_BYTES / 2
            )));
        }
        let (outputs, width, depth) = (count / inputs, kernels.panel_width(), inputs.div_ceil(4));
        let mut panels = AlignedBuffer::zeroed(outputs.div_ceil(width) * width * depth);
        for output in 0..outputs {
            let panel = &mut panels[output / width * width * depth..][..width * depth];
            for (quad, slot) in panel[output % width..].iter_mut().step_by(width).enumerate() {
                let mut bytes = [0u8; 4];
                for (byte, input) in bytes.iter_mut().zip(4 * quad..inputs) {
                    *byte = value(output * inputs + input).to_ne_bytes()[0];
                }
                *slot = f32::from_bits(u32::from_ne_bytes(bytes));
            }
        }
        Ok(PackedBytes { kernels, outputs, inputs, offset, panels })
    }

    /// Rows of the packed matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the packed matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// `out = input · matrixᵀ`: `[rows, inputs]` → `[rows, outputs]`, exact, on the calling thread. Rows and outputs may
    /// be shared out between threads: nothing depends on the split.
    ///
    /// # Panics
    /// If the slices are not of these shapes.
    pub fn multiply(&self, input: &[u8], out: &mut [i32]) {
        let rows = input.len() / self.inputs;
        assert_eq!((rows * self.inputs, rows * self.outputs), (input.len(), out.len()), "rows of input and output");
        let stride = self.inputs.div_ceil(4);
        let mut words = AlignedBuffer::zeroed(rows * stride);
        for (row, words) in input.chunks_exact(self.inputs).zip(words.chunks_exact_mut(stride)) {
            for (bytes, word) in row.chunks(4).zip(words) {
                let mut four = [0u8; 4];
                four[..bytes.len()].copy_from_slice(bytes);
                *word = f32::from_bits(u32::from_ne_bytes(four));
            }
        }
        self.kernels.run(BytesTask { matrix: self, input: &words, out });
        if self.offset != 0 {
            for (row, out) in input.chunks_exact(self.inputs).zip(out.chunks_exact_mut(self.outputs)) {
                let missing = self.offset * row.iter().map(|&value| i32::from(value)).sum::<i32>();
                out.iter_mut().for_each(|sum| *sum += missing);
            }
        }
    }
}

struct BytesTask<'a> {
    matrix: &'a PackedBytes,
    /// Rows of `inputs` bytes, filled up to whole words.
    input: &'a [f32],
    out: &'a mut [i32],
}

impl Task for BytesTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackedBytes { outputs, inputs, .. } = *self.matrix;
        let (width, depth) = (S::LANES * PANEL_VECTORS, inputs.div_ceil(4));
        let rows: Range<usize> = 0..self.out.len() / outputs;
        for rows in even_runs(rows, ROWS) {
            for (panel, right) in self.matrix.panels.chunks_exact(width * depth).enumerate() {
                let first = panel * width;
                // SAFETY: input and out have these rows, out these columns; a panel is whole vectors. Without scales
                // what is stored are the integers' bits.
                unsafe {
                    let product = Product {
                        depth,
                        left: self.input.as_ptr(),
                        left_stride: depth,
                        right: right.as_ptr(),
                        right_stride: width,
                        resume: false,
                        scales: None,
                        columns: (outputs - first).min(width),
                        finish: Finish::Plain,
                        out: self.out.as_mut_ptr().add(first).cast(),
                        out_stride: outputs,
                        ahead: Ahead::nothing(right.as_ptr()),
                    };
                    product.compute_in(s, Precision::Int8, rows.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    fn bytes(count: usize, seed: u64) -> Vec<u8> {
        values(count, seed).iter().map(|x| ((x + 1.0) * 128.0) as u8).collect()
    }

    fn exact(input: &[u8], matrix: &[i32], inputs: usize) -> Vec<i32> {
        let dot = |row: &[u8], column: &[i32]| row.iter().zip(column).map(|(&x, w)| i32::from(x) * w).sum();
        input.chunks(inputs).flat_map(|row| matrix.chunks(inputs).map(move |column| dot(row, column))).collect()
    }

    #[test]
    fn sums_of_all_tail_sizes_are_exact_on_every_instruction_set() {
        for kernels in Kernels::every() {
            for inputs in [1, 2, 3, 4, 5, 7, 8, 31, 66] {
                for outputs in [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50, 65] {
                    let (matrix, input) = (bytes(outputs * inputs, 3), bytes(31 * inputs, 4));
                    let signed: Vec<i8> = matrix.iter().map(|&value| value as i8).collect();
                    let of_signed = PackedBytes::signed(kernels, &signed, inputs).unwrap();
                    let of_unsigned = PackedBytes::unsigned(kernels, &matrix, inputs).unwrap();
                    let exact_signed =
                        exact(&input, &signed.iter().map(|&value| value.into()).collect::<Vec<_>>(), inputs);
                    let exact_unsigned =
                        exact(&input, &matrix.iter().map(|&value| value.into()).collect::<Vec<_>>(), inputs);
                    for rows in 0..=31 {
                        let mut out = vec![-1; rows * outputs];
                        of_signed.multiply(&input[..rows * inputs], &mut out);
                        assert_eq!(out, exact_signed[..rows * outputs], "{kernels:?} {rows}×{inputs}×{outputs}");
                        of_unsigned.multiply(&input[..rows * inputs], &mut out);
                        assert_eq!(out, exact_unsigned[..rows * outputs], "{kernels:?} {rows}×{inputs}×{outputs}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_neither_saturate_nor_wrap() {
        for kernels in Kernels::every() {
            let inputs = MOST_BYTES / 2;
            for (value, sum) in [(-128i8, -128 * 255), (127, 127 * 255)] {
                let matrix = PackedBytes::signed(kernels, &vec![value; 2 * inputs], inputs).unwrap();
                let mut out = [0; 2];
                matrix.multiply(&vec![255; inputs], &mut out);
                assert_eq!(out, [sum * inputs as i32; 2], "{kernels:?}");
            }
            let matrix = PackedBytes::unsigned(kernels, &vec![255; inputs], inputs).unwrap();
            let mut out = [0];
            matrix.multiply(&vec![255; inputs], &mut out);
            assert_eq!(out, [255 * 255 * inputs as i32], "{kernels:?}");
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let kernels = Kernels::detect();
        assert!(PackedBytes::signed(kernels, &[1, 2, 3], 2).is_err());
        assert!(PackedBytes::unsigned(kernels, &[], 2).is_err());
        assert!(PackedBytes::unsigned(kernels, &[1, 2], 0).is_err());
        assert!(PackedBytes::signed(kernels, &vec![0; 1 << 17], 1 << 17).is_err(), "sums could overflow");
        let matrix = PackedBytes::signed(kernels, &[1, 2, 3, 4, 5, 6], 3).unwrap();
        assert_eq!((matrix.outputs(), matrix.inputs()), (2, 3));
    }
}
