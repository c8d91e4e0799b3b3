//! Weights in column panels, in the numbers of a precision.

use std::fmt;
use std::ops::Range;

use half::{bf16, f16};

use crate::dispatch::Kernels;
use crate::error::{Error, Result};
use crate::memory::AlignedBuffer;
use crate::operand::{self, Form, group_inputs, low_of_pair};
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

/// Two values as f16 in a word; an error if they are too large for that.
pub(crate) fn f16_word(first: f32, second: f32) -> Result<f32> {
    let (first, second) = (f16::from_f32(first), f16::from_f32(second));
    if !(first.is_finite() && second.is_finite()) {
        return Err(Error::unusable("a weight is too large for f16, or not a number: use --precision f32"));
    }
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    Ok(f32::from_bits(u32::from_ne_bytes([a, b, c, d])))
}

impl Linear {
    /// Values of the arena that a layer takes.
    pub(crate) fn room((kernels, precision): (Kernels, Precision), outputs: usize, inputs: usize) -> usize {
        let width = panel_width(kernels, precision);
        let padded = outputs.next_multiple_of(width);
        let scales = match precision {
            Precision::Int8 => Arena::room(padded) + Arena::room(operand::groups(inputs) * padded),
            _ => 0,
        };
        Arena::room(padded / width * panel_words((kernels, precision), inputs)) + Arena::room(padded) + scales
    }

    /// Packs layers with the same inputs as one, their outputs side by side. Each is multiplied by its factor.
    pub(crate) fn pack(
        (kernels, precision): (Kernels, Precision),
        arena: &mut Arena,
        parts: &[(&Dense, f32)],
        inputs: usize,
    ) -> Result<Linear> {
        let mut outputs = 0;
        for (part, _) in parts {
            let rows = part.weight.len() / inputs.max(1);
            let fits = inputs > 0 && rows > 0 && rows * inputs == part.weight.len();
            if !fits || !(part.bias.is_empty() || part.bias.len() == rows) {
                return Err(Error::unusable(format!(
                    "a weight of {} and a bias of {} values do not make a layer with {inputs} inputs",
                    part.weight.len(),
                    part.bias.len()
                )));
            }
            outputs += rows;
        }
        if precision == Precision::Int8 && inputs > MOST_BYTES {
            return Err(Error::unusable(format!("{inputs} inputs are too many for int8: use another --precision")));
        }
        let panel_width = panel_width(kernels, precision);
        let padded = outputs.next_multiple_of(panel_width);
        let words = panel_words((kernels, precision), inputs);
        let unit = kernels.unit(precision);
        let form = Form::of(precision, unit);
        let count = padded / panel_width;
        let (start, panels) = arena.take(count * words)?;
        let mut factors = vec![0f32; padded];
        let mut sums = vec![0f32; operand::groups(inputs) * padded];
        let rows =
            parts.iter().flat_map(|(part, factor)| part.weight.chunks_exact(inputs).map(move |row| (row, *factor)));
        for (output, (row, factor)) in rows.enumerate() {
            let panel = &mut panels[output / panel_width * words..][..words];
            let column = output % panel_width;
            match precision {
                Precision::Bf16 | Precision::Bf16x3 if unit.is_some() => {
                    pack_parts(row, factor, kernels.lanes(), form, (panel_width, &mut panel[column..]))?;
                }
                Precision::F32 | Precision::Bf16x3 => {
                    for (slot, &weight) in panel[column..].iter_mut().step_by(panel_width).zip(row) {
                        *slot = weight * factor;
                    }
                }
                Precision::F16 => {
                    for (slot, &weight) in panel[column / 2..].iter_mut().step_by(panel_width / 2).zip(row) {
                        // Two columns share a word; the second finds the first one's bits.
                        let [a, b, ..] = slot.to_bits().to_ne_bytes();
                        let word = f16_word(weight * factor, 0.0)?;
                        let [c, d, ..] = word.to_bits().to_ne_bytes();
                        let bytes = if column.is_multiple_of(2) { [c, d, 0, 0] } else { [a, b, c, d] };
                        *slot = f32::from_bits(u32::from_ne_bytes(bytes));
                    }
                }
                Precision::Bf16 => {
                    for (slot, pair) in panel[column..].iter_mut().step_by(panel_width).zip(row.chunks(2)) {
                        *slot = bf16_word(pair[0] * factor, pair.get(1).map_or(0.0, |weight| weight * factor))?;
                    }
                }
                Precision::Int8 => {
                    let slots = panel[column..].iter_mut().step_by(panel_width);
                    let sums = sums[output..].iter_mut().step_by(padded);
                    factors[output] = pack_bytes(row, factor, slots, sums)?;
                }
            }
        }
        let (at, bias) = arena.take(padded)?;
        let mut first = 0;
        for (part, factor) in parts {
            for (slot, &value) in bias[first..].iter_mut().zip(&part.bias) {
                *slot = value * factor;
            }
            first += part.weight.len() / inputs;
        }
        let mut linear = Linear {
            outputs,
            inputs,
            precision,
            form,
            unit,
            panel_width,
            panels: Panels { start, words, count },
            bias: at..at + padded,
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

/// Columns of a panel.
fn panel_width(kernels: Kernels, precision: Precision) -> usize {
    kernels.unit(precision).map_or_else(|| kernels.panel_width(), |_| BLOCK)
}

/// Words of a panel.
fn panel_words((kernels, precision): (Kernels, Precision), inputs: usize) -> usize {
    let (width, unit) = (panel_width(kernels, precision), kernels.unit(precision));
    let form = Form::of(precision, unit);
    match precision {
        // Split into words of two when they are used.
        Precision::F32 if unit.is_some() => width * 2 * form.part_words(inputs),
        Precision::Bf16x3 if unit.is_some() => width * form.row_words(inputs),
        Precision::F16 => width / 2 * inputs,
        _ if unit.is_some() => width * form.part_words(inputs),
        _ => width * form.depth_words(inputs),
    }
}

/// Two values as bf16 in a word; an error if they are not finite.
fn bf16_word(first: f32, second: f32) -> Result<f32> {
    let (first, second) = (bf16::from_f32(first), bf16::from_f32(second));
    if !(first.is_finite() && second.is_finite()) {
        return Err(Error::unusable("a weight is too large for bf16, or not a number"));
    }
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    Ok(f32::from_bits(u32::from_ne_bytes([a, b, c, d])))
}

/// Packs an output's weights for a unit, as one or two parts of bf16, the words `slots.0` apart.
fn pack_parts(
    row: &[f32],
    factor: f32,
    lanes: usize,
    form: Form,
    (distance, slots): (usize, &mut [f32]),
) -> Result<()> {
    let part_words = form.part_words(row.len());
    let mut slots = slots.iter_mut().step_by(distance);
    let mut rest: Vec<f32> = row.iter().map(|weight| weight * factor).collect();
    rest.resize(2 * part_words, 0.0);
    let Form::Parts(parts) = form else { return Err(Error::internal("only a unit takes parts")) };
    // The bits of the nearest bf16, ties to even, in the upper half; what is below it has no meaning.
    let nearest = |x: f32| x.to_bits().wrapping_add(0x7FFF + (x.to_bits() >> 16 & 1));
    let upper = |bits: u32| f32::from_bits(bits & 0xFFFF_0000);
    if !rest.iter().all(|&weight| weight.is_finite() && upper(nearest(weight)).is_finite()) {
        return Err(Error::unusable("a weight is too large for bf16, or not a number"));
    }
    for _ in 0..parts {
        for (word, slot) in (0..part_words).zip(&mut slots) {
            let low = low_of_pair(word, lanes);
            let (first, second) = (nearest(rest[low]), nearest(rest[low + lanes]));
            *slot = f32::from_bits(first >> 16 | second & 0xFFFF_0000);
        }
        rest.iter_mut().for_each(|weight| *weight -= upper(nearest(*weight)));
    }
    Ok(())
}

/// Packs an output's weights as signed bytes, four inputs to a word, puts down the sum of each group of them and returns
/// their factor.
fn pack_bytes<'a>(
    row: &[f32],
    factor: f32,
    mut slots: impl Iterator<Item = &'a mut f32>,
    sums: impl Iterator<Item = &'a mut f32>,
) -> Result<f32> {
    let largest = row.iter().fold(0f32, |largest, weight| largest.max((weight * factor).abs()));
    if !row.iter().all(|weight| (weight * factor).is_finite()) {
        return Err(Error::unusable("a weight is not a finite number"));
    }
    let scale = largest / 127.0;
    let steps = if scale > 0.0 { factor / scale } else { 0.0 };
    for (group, group_sum) in row.chunks(group_inputs(row.len())).zip(sums) {
        let mut sum = 0;
        for (weights, slot) in group.chunks(4).zip(&mut slots) {
            let mut bytes = [0u8; 4];
            for (byte, weight) in bytes.iter_mut().zip(weights) {
                let rounded = (weight * steps).round_ties_even() as i8;
                sum += i32::from(rounded);
                *byte = rounded.to_ne_bytes()[0];
            }
            *slot = f32::from_bits(u32::from_ne_bytes(bytes));
        }
        *group_sum = sum as f32;
    }
    Ok(scale)
}
