//! Weights in column panels, in the numbers of a precision.

use std::fmt;
use std::ops::Range;

use super::column::{Column, Row, bf16_bits, f16_bits};
use crate::dispatch::Kernels;
use crate::dot::Factors;
use crate::error::{Error, Result};
use crate::memory::AlignedBuffer;
use crate::operand::{self, Form};
use crate::precision::Precision;
use crate::unit::Unit;
use crate::unit_product::BLOCK;

/// A weight as checkpoints have it: `[outputs, inputs]`, row-major, and `[outputs]` bias.
#[derive(Clone, Default, PartialEq)]
pub struct Dense {
    /// `outputs × inputs` values.
    pub weight: Vec<f32>,
    /// `outputs` values; empty for no bias.
    pub bias: Vec<f32>,
}

impl fmt::Debug for Dense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dense").field("weight", &[self.weight.len()]).field("bias", &[self.bias.len()]).finish()
    }
}

/// One allocation for all packed weights of a model, filled from the front.
pub(crate) struct Arena {
    buffer: AlignedBuffer,
    used: usize,
}

impl Arena {
    /// Room for `len` values.
    pub(crate) fn with_room(len: usize) -> Arena {
        Arena { buffer: AlignedBuffer::zeroed(len), used: 0 }
    }

    /// What was put in so far.
    pub(crate) fn values(&self) -> &[f32] {
        &self.buffer
    }

    /// The next `len` values, zeroed, on a cache line.
    fn take(&mut self, len: usize) -> Result<(usize, &mut [f32])> {
        let at = self.used;
        let end = at.saturating_add(len);
        let room =
            self.buffer.get_mut(at..end).ok_or_else(|| Error::internal("the weight arena was sized too small"))?;
        self.used = end.next_multiple_of(16);
        Ok((at, room))
    }

    /// Puts values in and tells where.
    pub(crate) fn put(&mut self, values: &[f32]) -> Result<Range<usize>> {
        let (at, room) = self.take(values.len())?;
        room.copy_from_slice(values);
        Ok(at..at + values.len())
    }

    /// Room that [`Arena::put`] needs.
    pub(crate) const fn room(len: usize) -> usize {
        len.next_multiple_of(16)
    }
}

/// A packed layer: where its panels and what else a product needs lie in the arena.
///
/// A panel holds [`Linear::panel_width`] neighbouring outputs, `[inputs][panel_width]`; the last one is filled up with
/// zeros. A product thus reads the weights in one sweep, a whole vector of outputs at a time. Of bf16 two neighbouring
/// inputs of an output lie together, of bytes four: what one instruction multiplies and sums up. For a matrix unit the
/// inputs are filled up with zeros to whole tiles.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) precision: Precision,
    /// What vectors multiply, where they do.
    pub(super) factors_by_vectors: Factors,
    pub(super) form: Form,
    /// What multiplies, if not vectors.
    pub(super) unit: Option<Unit>,
    pub(super) panel_width: usize,
    pub(super) panels: Panels,
    pub(super) bias: Range<usize>,
    /// What is multiplied after this layer.
    pub(super) next: Option<Panels>,
    /// Of bytes: the factor of each output, and for every group of inputs the sum of each output's bytes.
    pub(super) factors: Range<usize>,
    pub(super) sums: Range<usize>,
}

/// Where a layer's panels lie in the arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels {
    pub(super) start: usize,
    /// Words of each.
    pub(super) words: usize,
    pub count: usize,
}

impl Panels {
    /// Where a panel begins.
    pub(crate) fn at(self, panel: usize) -> usize {
        self.start + panel * self.words
    }

    /// All of them.
    pub(super) fn range(self) -> Range<usize> {
        self.start..self.at(self.count)
    }
}

/// In which numbers weights are packed, and for which kernels.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    pub(crate) kernels: Kernels,
    pub(crate) precision: Precision,
}

impl Packing {
    /// What multiplies, if not vectors.
    fn unit(self) -> Option<Unit> {
        self.kernels.unit(self.precision)
    }

    fn form(self) -> Form {
        self.kernels.form(self.precision, self.unit())
    }

    /// Columns of a panel.
    fn panel_width(self) -> usize {
        self.unit().map_or_else(|| self.kernels.panel_width(), |_| BLOCK)
    }

    /// Words of a panel.
    fn panel_words(self, inputs: usize) -> usize {
        let (width, form) = (self.panel_width(), self.form());
        match (self.unit(), self.precision) {
            (None, precision) => self.kernels.factors(precision).right_words(inputs, width),
            // Split into words of two when they are used.
            (Some(_), Precision::F32) => width * 2 * form.part_words(inputs),
            (Some(_), Precision::Bf16x3) => width * form.row_words(inputs),
            (Some(_), _) => width * form.part_words(inputs),
        }
    }

    /// Values of the arena that a layer takes.
    pub(crate) fn room(self, outputs: usize, inputs: usize) -> usize {
        let width = self.panel_width();
        let padded = outputs.next_multiple_of(width);
        let scales = match self.precision {
            Precision::Int8 => Arena::room(padded) + Arena::room(operand::groups(inputs) * padded),
            _ => 0,
        };
        Arena::room(padded / width * self.panel_words(inputs)) + Arena::room(padded) + scales
    }
}

impl Linear {
    /// Packs layers with the same inputs as one, their outputs side by side. Each is multiplied by its factor.
    pub(crate) fn pack(packing: Packing, arena: &mut Arena, parts: &[(&Dense, f32)], inputs: usize) -> Result<Linear> {
        let Packing { kernels, precision } = packing;
        let mut outputs = 0;
        for (part, _) in parts {
            outputs += part.outputs(inputs)?;
        }
        if precision == Precision::Int8 && inputs > MOST_BYTES {
            return Err(Error::unusable(format!("{inputs} inputs are too many for int8: use another --precision")));
        }
        let (unit, form, by_vectors) = (packing.unit(), packing.form(), kernels.factors(precision));
        let (panel_width, words) = (packing.panel_width(), packing.panel_words(inputs));
        let padded = outputs.next_multiple_of(panel_width);
        let count = padded / panel_width;
        let (start, panels) = arena.take(count * words)?;
        let mut factors = vec![0f32; padded];
        let mut sums = vec![0f32; operand::groups(inputs) * padded];
        let rows = parts
            .iter()
            .flat_map(|&(part, factor)| part.weight.chunks_exact(inputs).map(move |weights| Row { weights, factor }));
        for (output, row) in rows.enumerate() {
            let panel = &mut panels[output / panel_width * words..][..words];
            let together = form.together();
            let column = Column { panel, index: output % panel_width, width: panel_width, together };
            if unit.is_some() && matches!(precision, Precision::Bf16 | Precision::Bf16x3) {
                column.put_parts(row, kernels.lanes(), form)?;
                continue;
            }
            match by_vectors {
                Factors::F32 => column.put_f32(row),
                Factors::F32ByF16 => column.put_halves(row, f16_bits)?,
                Factors::F32ByBf16 => column.put_halves(row, bf16_bits)?,
                Factors::Bf16 | Factors::Bf16Squares => column.put_bf16(row)?,
                Factors::Bytes | Factors::ByteSquares => {
                    factors[output] = column.put_bytes(row, sums[output..].iter_mut().step_by(padded))?;
                }
            }
        }
        let bias = put_bias(arena, parts, inputs, padded)?;
        let mut linear = Linear {
            outputs,
            inputs,
            precision,
            factors_by_vectors: by_vectors,
            form,
            unit,
            panel_width,
            panels: Panels { start, words, count },
            bias,
            next: None,
            factors: 0..0,
            sums: 0..0,
        };
        if precision == Precision::Int8 {
            linear.factors = arena.put(&factors)?;
            linear.sums = arena.put(&sums)?;
        }
        Ok(linear)
    }

    /// Width of its input.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Its weights.
    pub(crate) fn panels(&self) -> Panels {
        self.panels
    }

    /// Whether panels are f32 values, `[inputs][panel_width]`, as vectors multiply them.
    pub(crate) fn is_plain(&self) -> bool {
        self.unit.is_none() && self.form == Form::Plain && self.factors_by_vectors == Factors::F32
    }

    /// Some neighbouring panels of a plain layer.
    pub(crate) fn plain_panels<'a>(&self, arena: &'a Arena, panels: Range<usize>) -> &'a [f32] {
        assert!(self.is_plain() && panels.end <= self.panels.count);
        &arena.values()[self.panels.at(panels.start)..self.panels.at(panels.end)]
    }

    /// A panel of a plain layer, and the bias of its columns.
    pub(crate) fn plain_panel<'a>(&self, arena: &'a Arena, panel: usize) -> (&'a [f32], &'a [f32]) {
        let bias = &arena.values()[self.bias.clone()][panel * self.panel_width..][..self.panel_width];
        (self.plain_panels(arena, panel..panel + 1), bias)
    }

    /// The weights of the layer that follows it.
    pub(crate) fn next(&self) -> Option<Panels> {
        self.next
    }

    /// Tells it which layer follows.
    pub(crate) fn set_next(&mut self, next: &Linear) {
        self.next = Some(next.panels);
    }
}

/// Most inputs whose products of bytes cannot exceed a 32-bit integer.
pub(super) const MOST_BYTES: usize = i32::MAX as usize / (255 * 128);

impl Dense {
    /// Takes the outputs from this one on away, and returns them as a layer with the same inputs.
    pub fn split_off(&mut self, output: usize, inputs: usize) -> Dense {
        let bias = if self.bias.is_empty() { Vec::new() } else { self.bias.split_off(output) };
        Dense { weight: self.weight.split_off(output * inputs), bias }
    }

    /// How many outputs it has, with so many inputs.
    fn outputs(&self, inputs: usize) -> Result<usize> {
        let Dense { weight, bias } = self;
        let outputs = weight.len() / inputs.max(1);
        let fits = inputs > 0 && outputs > 0 && outputs * inputs == weight.len();
        if !fits || !(bias.is_empty() || bias.len() == outputs) {
            return Err(Error::unusable(format!(
                "a weight of {} and a bias of {} values do not make a layer with {inputs} inputs",
                weight.len(),
                bias.len()
            )));
        }
        Ok(outputs)
    }
}

/// Puts the biases of layers side by side, filled up with zeros.
fn put_bias(arena: &mut Arena, parts: &[(&Dense, f32)], inputs: usize, padded: usize) -> Result<Range<usize>> {
    let (at, bias) = arena.take(padded)?;
    let mut first = 0;
    for (part, factor) in parts {
        for (slot, &value) in bias[first..].iter_mut().zip(&part.bias) {
            *slot = value * factor;
        }
        first += part.weight.len() / inputs;
    }
    Ok(at..at + padded)
}
