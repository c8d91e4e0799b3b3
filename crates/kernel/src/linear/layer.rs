//! A layer by itself.

use std::fmt;

use super::on_unit::SCRATCH;
use super::packing::{Arena, Dense, Linear, Packing};
use super::task::{Epilogue, LinearTask};
use crate::dispatch::Kernels;
use crate::error::Result;
use crate::math::Activation;
use crate::matrix_unit::TILE_ROWS;
use crate::memory::AlignedBuffer;
use crate::operand::OperandTask;
use crate::precision::Precision;

/// A linear layer with its own memory.
pub struct PackedLinear {
    kernels: Kernels,
    linear: Linear,
    arena: Arena,
}

impl PackedLinear {
    /// Packs a layer.
    ///
    /// # Errors
    /// `Unusable` if weight and bias do not fit together, if a precision narrower than f32 cannot hold a weight, and if
    /// there are more inputs than int8 can sum up.
    pub fn new(kernels: Kernels, precision: Precision, dense: &Dense, inputs: usize) -> Result<PackedLinear> {
        let outputs = dense.weight.len() / inputs.max(1);
        let packing = Packing { kernels, precision };
        let mut arena = Arena::with_room(packing.room(outputs, inputs));
        let linear = Linear::pack(packing, &mut arena, &[(dense, 1.0)], inputs)?;
        Ok(PackedLinear { kernels, linear, arena })
    }

    /// `out = activation(input · Wᵀ + bias)`: `[rows, inputs]` → `[rows, outputs]`, on the calling thread.
    ///
    /// # Panics
    /// If the slices are not of these shapes.
    pub fn apply(&self, input: &[f32], activation: Option<Activation>, out: &mut [f32]) {
        let rounded = self.round(input);
        self.apply_rounded(input, &rounded, activation, out);
    }

    /// Rows of `inputs` as the product reads them; empty where it reads f32 as it is.
    ///
    /// # Panics
    /// If the input does not consist of such rows.
    pub fn round(&self, input: &[f32]) -> Rounded {
        let Linear { inputs, form, .. } = self.linear;
        let rows = input.len() / inputs;
        assert_eq!(rows * inputs, input.len(), "whole rows");
        let stride = form.row_words(inputs).next_multiple_of(16);
        let mut words = AlignedBuffer::zeroed(rows.next_multiple_of(TILE_ROWS) * stride);
        let (from, out) = ((input.as_ptr().cast_mut(), inputs), (words.as_mut_ptr(), stride));
        if stride > 0 {
            // SAFETY: both have these rows. Without an activation nothing is written to the input.
            self.kernels.run(unsafe { OperandTask::new((form, inputs, None), from, out, 0..rows) });
        }
        Rounded { words, rows, stride }
    }

    /// [`PackedLinear::apply`] to an input that is rounded already.
    ///
    /// # Panics
    /// If the slices are not of these shapes, or `rounded` is of another input.
    pub fn apply_rounded(&self, input: &[f32], rounded: &Rounded, activation: Option<Activation>, out: &mut [f32]) {
        let Linear { inputs, outputs, form, .. } = self.linear;
        let rows = input.len() / inputs;
        assert_eq!((rows * inputs, rows * outputs), (input.len(), out.len()), "rows of input and output");
        let stride = form.row_words(inputs).next_multiple_of(16);
        assert_eq!((rows, stride), (rounded.rows, rounded.stride), "rounded for this layer");
        let input = if stride > 0 { (rounded.words.as_ptr(), stride) } else { (input.as_ptr(), inputs) };
        let epilogue = activation.map_or(Epilogue::Bias, Epilogue::Activation);
        let (layer, out) = ((&self.linear, &self.arena), (out.as_mut_ptr(), outputs));
        let mut scratch = AlignedBuffer::zeroed(if self.linear.unit.is_some() { SCRATCH } else { 0 });
        // SAFETY: the slices have these rows, what was rounded whole tiles of them; `out` is borrowed mutably, and the
        // scratch memory is ours.
        self.kernels.run(unsafe {
            LinearTask::new(layer, input, out, epilogue, 0..rows).with_scratch((scratch.as_mut_ptr(), scratch.len()))
        });
    }
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Linear { inputs, outputs, precision, .. } = &self.linear;
        let mut shown = f.debug_struct("PackedLinear");
        shown.field("kernels", &self.kernels).field("precision", precision);
        shown.field("inputs", inputs).field("outputs", outputs).finish_non_exhaustive()
    }
}

/// Rows rounded for a [`PackedLinear`].
pub struct Rounded {
    words: AlignedBuffer,
    rows: usize,
    stride: usize,
}

impl fmt::Debug for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounded").field("rows", &self.rows).field("stride", &self.stride).finish_non_exhaustive()
    }
}
