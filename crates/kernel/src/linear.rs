//! Linear layers: weights packed once into column panels, products with what follows them.

mod on_unit;

use std::ops::Range;

use half::{bf16, f16};

use self::on_unit::OnUnit;
pub(super) use self::on_unit::SCRATCH as UNIT_SCRATCH;
use super::dispatch::Kernels;
use super::isa::{PANEL_VECTORS, Simd, Task, even_runs};
use super::math::Activation;
use super::matrix_unit::TILE_ROWS;
use super::memory::AlignedBuffer;
use super::operand::{self, Form, OperandTask, group_inputs, low_of_pair, scale_at};
use super::precision::Precision;
use super::tile::{Ahead, DEPTH_PART, Finish, Product, Scales, load_columns, store_columns};
use super::unit::Unit;
use super::unit_product::BLOCK;
use crate::error::{Error, Result};

/// A weight as checkpoints have it: `[outputs, inputs]`, row-major, and `[outputs]` bias.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dense {
    /// `outputs × inputs` values.
    pub weight: Vec<f32>,
    /// `outputs` values; empty for no bias.
    pub bias: Vec<f32>,
}

/// One allocation for all packed weights of a model, filled from the front.
pub(super) struct Arena {
    buffer: AlignedBuffer,
    used: usize,
}

impl Arena {
    /// Room for `len` values.
    pub(super) fn with_room(len: usize) -> Arena {
        Arena { buffer: AlignedBuffer::zeroed(len), used: 0 }
    }

    /// What was put in so far.
    pub(super) fn values(&self) -> &[f32] {
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
    pub(super) fn put(&mut self, values: &[f32]) -> Result<Range<usize>> {
        let (at, room) = self.take(values.len())?;
        room.copy_from_slice(values);
        Ok(at..at + values.len())
    }

    /// Room that [`Arena::put`] needs.
    pub(super) const fn room(len: usize) -> usize {
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
pub(super) struct Linear {
    outputs: usize,
    inputs: usize,
    precision: Precision,
    form: Form,
    /// What multiplies, if not vectors.
    unit: Option<Unit>,
    panel_width: usize,
    panels: Panels,
    bias: Range<usize>,
    /// What is multiplied after this layer.
    next: Option<Panels>,
    /// Of bytes: the factor of each output, and for every group of inputs the sum of each output's bytes.
    factors: Range<usize>,
    sums: Range<usize>,
}

/// Where a layer's panels lie in the arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panels {
    start: usize,
    /// Words of each.
    words: usize,
    pub count: usize,
}

impl Panels {
    /// Where a panel begins.
    pub(super) fn at(self, panel: usize) -> usize {
        self.start + panel * self.words
    }

    /// All of them.
    fn range(self) -> Range<usize> {
        self.start..self.at(self.count)
    }
}

/// Two values as f16 in a word; an error if they are too large for that.
pub(super) fn f16_word(first: f32, second: f32) -> Result<f32> {
    let (first, second) = (f16::from_f32(first), f16::from_f32(second));
    if !(first.is_finite() && second.is_finite()) {
        return Err(Error::unusable("a weight is too large for f16, or not a number: use --precision f32"));
    }
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    Ok(f32::from_bits(u32::from_ne_bytes([a, b, c, d])))
}

impl Linear {
    /// Values of the arena that a layer takes.
    pub(super) fn room((kernels, precision): (Kernels, Precision), outputs: usize, inputs: usize) -> usize {
        let width = panel_width(kernels, precision);
        let padded = outputs.next_multiple_of(width);
        let scales = match precision {
            Precision::Int8 => Arena::room(padded) + Arena::room(operand::groups(inputs) * padded),
            _ => 0,
        };
        Arena::room(padded / width * panel_words((kernels, precision), inputs)) + Arena::room(padded) + scales
    }

    /// Packs layers with the same inputs as one, their outputs side by side. Each is multiplied by its factor.
    pub(super) fn pack(
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
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Its weights.
    pub(super) fn panels(&self) -> Panels {
        self.panels
    }

    /// The weights of the layer that follows it.
    pub(super) fn next(&self) -> Option<Panels> {
        self.next
    }

    /// Tells it which layer follows.
    pub(super) fn set_next(&mut self, next: &Linear) {
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

/// What a product adds to `x Wᵀ`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epilogue {
    /// The bias.
    Bias,
    /// The bias, then an activation.
    Activation(Activation),
    /// The bias, an activation, then a factor each: a matrix of the output's shape and the given row distance.
    Gated(Activation, *const f32, usize),
    /// The bias and a matrix of the output's shape and the given row distance.
    Residual(*const f32, usize),
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    /// f32.
    Values,
    /// What the next product reads; only from a unit, for one.
    Operand { parts: usize },
}

/// Values of the input that are worked on together: 384 KiB.
const CACHED_INPUT: usize = 96 << 10;

/// `out = epilogue(input · Wᵀ)` for some rows and some panels of columns.
pub(super) struct LinearTask<'a> {
    linear: &'a Linear,
    arena: &'a Arena,
    unit: Option<Unit>,
    input: *const f32,
    input_stride: usize,
    out: *mut f32,
    out_stride: usize,
    form: Out,
    epilogue: Epilogue,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Memory of the product's own, and its length.
    scratch: (*mut f32, usize),
    /// Where in the arena the weights are that come after these.
    then: Option<usize>,
}

impl<'a> LinearTask<'a> {
    /// A product of `rows` of `input` with all columns. `input`, `out` and a residual point to row 0. Layers of another form
    /// than [`Form::Plain`] take rows that an [`OperandTask`] made; on a unit they must be readable up to whole tiles of
    /// rows, and the task needs scratch memory.
    ///
    /// # Safety
    /// When it runs, for every row of `rows`: `input` must be readable for the layer's inputs (as an operand, for the
    /// words of one), a residual or gate for its outputs, and `out` writable for the columns of the task's panels, with
    /// nobody else accessing those meanwhile.
    pub(super) unsafe fn new(
        (linear, arena): (&'a Linear, &'a Arena),
        (input, input_stride): (*const f32, usize),
        (out, out_stride): (*mut f32, usize),
        epilogue: Epilogue,
        rows: Range<usize>,
    ) -> Self {
        LinearTask {
            linear,
            arena,
            unit: linear.unit,
            input,
            input_stride,
            out,
            out_stride,
            form: Out::Values,
            epilogue,
            rows,
            columns: 0..linear.panels.count,
            scratch: (std::ptr::null_mut(), 0),
            then: linear.next.map(|next| next.at(0)),
        }
    }

    /// What a product on a unit needs: as much memory as [`UNIT_SCRATCH`] says, on a cache line.
    ///
    /// # Safety
    /// When the task runs, nobody else may access it.
    pub(super) unsafe fn with_scratch(self, scratch: (*mut f32, usize)) -> Self {
        LinearTask { scratch, ..self }
    }

    /// By vectors, also where there is a unit: of f32 and bytes, whose panels serve both. The input is as vectors read it.
    pub(super) fn by_vectors(self) -> Self {
        assert!(self.linear.unit.is_none() || matches!(self.linear.precision, Precision::F32 | Precision::Int8));
        LinearTask { unit: None, ..self }
    }

    /// The output is what the next product reads, as an [`OperandTask`] would write it: rows of words.
    pub(super) fn writing_operand(self) -> Self {
        let Form::Parts(parts) = self.linear.form else { panic!("only a unit writes operands") };
        LinearTask { form: Out::Operand { parts }, ..self }
    }

    /// Only these panels; after them come the weights at that place of the arena.
    pub(super) fn panels(self, panels: Range<usize>, then: Option<usize>) -> Self {
        assert!(panels.end <= self.linear.panels.count);
        LinearTask { columns: panels, then, ..self }
    }
}

impl Task for LinearTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if let Some(unit) = self.unit {
            return unit.run(OnUnit(self, s));
        }
        let width = S::LANES * PANEL_VECTORS;
        assert_eq!(width, self.linear.panel_width, "packed for another instruction set");
        let precision = self.linear.precision;
        let depth = Form::of(precision, None).depth_words(self.linear.inputs);
        let words = self.linear.panels.words;
        let right_stride = if precision == Precision::F16 { width / 2 } else { width };
        let values = self.arena.values();
        let (panels, bias) = (&values[self.linear.panels.range()], &values[self.linear.bias.clone()]);
        let (factors, sums) = (&values[self.linear.factors.clone()], &values[self.linear.sums.clone()]);
        let block = self.depth_block(depth);
        // As many rows at once as leave room for a panel in the second-level cache, in whole tiles.
        let most_rows = (CACHED_INPUT / block / S::TILE_ROWS).max(1) * S::TILE_ROWS;
        for rows in even_runs(self.rows.clone(), most_rows) {
            for start in (0..depth).step_by(block) {
                let block = block.min(depth - start);
                let is_last = start + block == depth;
                for panel in self.columns.clone() {
                    let first = panel * width;
                    let right = &panels[panel * words..][..words];
                    let place = |panel, start| self.linear.panels.at(panel) + start * right_stride;
                    let next = if panel + 1 < self.columns.end {
                        Some(place(panel + 1, start))
                    } else if !is_last {
                        Some(place(self.columns.start, start + block))
                    } else if rows.end < self.rows.end {
                        Some(place(self.columns.start, 0))
                    } else {
                        self.then
                    };
                    let bias = bias[first..][..width].as_ptr();
                    let scales = match precision {
                        Precision::Int8 => Some(Scales {
                            row: scale_at(self.linear.inputs),
                            factors: factors[first..][..width].as_ptr(),
                            sums: sums[first..].as_ptr(),
                            sums_stride: factors.len(),
                        }),
                        _ => None,
                    };
                    let columns = (self.linear.outputs - first).min(width);
                    // SAFETY: by the promise made to `new`, input, residual and out hold these rows and columns; `right`,
                    // `bias` and scales were just sliced to whole panels.
                    unsafe {
                        let product = Product {
                            depth: block,
                            left: self.input.add(start),
                            left_stride: self.input_stride,
                            right: right.as_ptr().add(start * right_stride),
                            right_stride,
                            resume: start > 0,
                            scales,
                            columns,
                            finish: match self.epilogue {
                                _ if !is_last => Finish::Plain,
                                Epilogue::Bias | Epilogue::Activation(_) | Epilogue::Gated(..) => Finish::Bias(bias),
                                Epilogue::Residual(residual, stride) => {
                                    Finish::BiasResidual { bias, residual: residual.add(first), stride }
                                }
                            },
                            out: self.out.add(first),
                            out_stride: self.out_stride,
                            ahead: next.map_or(Ahead::nothing(bias), |next| {
                                Ahead::panel(values.as_ptr().wrapping_add(next), right_stride)
                            }),
                        };
                        product.compute_in(s, precision, rows.clone());
                        if !is_last {
                            continue;
                        }
                        if let Epilogue::Activation(activation) | Epilogue::Gated(activation, ..) = self.epilogue {
                            activate(s, activation, product, rows.clone());
                        }
                        if let Epilogue::Gated(_, gate, stride) = self.epilogue {
                            multiply(s, product, rows.clone(), (gate.add(first), stride));
                        }
                    }
                }
            }
        }
    }
}

impl LinearTask<'_> {
    /// Words of the depth to go through all rows and panels with, before the next ones.
    ///
    /// Many rows of great depth have no room in the cache: in blocks, with the sums so far in `out`, a piece of a panel is
    /// read once for all of them. Few rows read each panel in one sweep.
    fn depth_block(&self, depth: usize) -> usize {
        let fits = self.rows.len() * depth <= CACHED_INPUT;
        // What `out` has to begin with must not be lost before it is added.
        let in_place = matches!(self.epilogue, Epilogue::Residual(residual, _) if std::ptr::eq(residual, self.out));
        if fits || in_place || self.linear.precision == Precision::Int8 { depth } else { 2 * DEPTH_PART }
    }
}

/// Applies the activation to what a product just stored: it is still in the first-level cache, and the loop is small
/// where code unrolled into every tile would not be.
///
/// # Safety
/// `product.out` must be writable for these rows and columns.
#[inline(always)]
unsafe fn activate<S: Simd>(s: S, activation: Activation, product: Product, rows: Range<usize>) {
    match activation {
        // One loop per activation, with the choice outside of it.
        Activation::Gelu => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::Gelu) }
        }
        Activation::GeluTanh => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::GeluTanh) }
        }
        Activation::Relu => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::Relu) }
        }
    }
}

/// # Safety
/// `product.out` must be writable for these rows and columns.
#[inline(always)]
unsafe fn map<S: Simd>(s: S, product: Product, rows: Range<usize>, activation: Activation) {
    let (out, stride, columns) = (product.out, product.out_stride, product.columns);
    for row in rows {
        // SAFETY: the row is writable for `columns` values, and the helpers stay within.
        unsafe {
            let row = out.add(row * stride);
            for at in (0..columns).step_by(S::LANES) {
                let value = activation.apply(s, load_columns(s, row, at, columns));
                store_columns(s, row, at, columns, value);
            }
        }
    }
}

/// Multiplies what a product just stored by a gate, given by its row 0 in the product's first column.
///
/// # Safety
/// `product.out` must be writable for these rows and columns, the gate readable.
#[inline(always)]
unsafe fn multiply<S: Simd>(s: S, product: Product, rows: Range<usize>, (gate, stride): (*const f32, usize)) {
    for row in rows {
        // SAFETY: both rows have `columns` values, and the helpers stay within.
        unsafe {
            let (out, gate) = (product.out.add(row * product.out_stride), gate.add(row * stride));
            for at in (0..product.columns).step_by(S::LANES) {
                let factor = load_columns(s, gate, at, product.columns);
                let value = s.mul(load_columns(s, out, at, product.columns), factor);
                store_columns(s, out, at, product.columns, value);
            }
        }
    }
}

/// A linear layer with its own memory.
pub struct PackedLinear {
    kernels: Kernels,
    linear: Linear,
    arena: Arena,
}

impl PackedLinear {
    /// Packs a layer; an error if weight and bias do not fit together.
    pub fn new(kernels: Kernels, precision: Precision, dense: &Dense, inputs: usize) -> Result<PackedLinear> {
        let outputs = dense.weight.len() / inputs.max(1);
        let mut arena = Arena::with_room(Linear::room((kernels, precision), outputs, inputs));
        let linear = Linear::pack((kernels, precision), &mut arena, &[(dense, 1.0)], inputs)?;
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
        let mut scratch = AlignedBuffer::zeroed(if self.linear.unit.is_some() { UNIT_SCRATCH } else { 0 });
        // SAFETY: the slices have these rows, what was rounded whole tiles of them; `out` is borrowed mutably, and the
        // scratch memory is ours.
        self.kernels.run(unsafe {
            LinearTask::new(layer, input, out, epilogue, 0..rows).with_scratch((scratch.as_mut_ptr(), scratch.len()))
        });
    }
}

/// Rows rounded for a [`PackedLinear`].
pub struct Rounded {
    words: AlignedBuffer,
    rows: usize,
    stride: usize,
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::InstructionSet;
    use super::super::testing::{exact_product, values};
    use super::*;

    fn dense(outputs: usize, inputs: usize, seed: u64) -> Dense {
        Dense { weight: values(outputs * inputs, seed), bias: values(outputs, seed + 1) }
    }

    /// Rows of weights as a precision holds them.
    fn rounded_weights(precision: Precision, weights: &[f32], depth: usize) -> Vec<f32> {
        let row = |row: &[f32]| -> Vec<f32> {
            let scale = row.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0;
            let round = |&x: &f32| match precision {
                Precision::F32 | Precision::Bf16x3 => x,
                Precision::F16 => f16::from_f32(x).to_f32(),
                Precision::Bf16 => bf16::from_f32(x).to_f32(),
                Precision::Int8 => (x * (1.0 / scale)).round_ties_even() * scale,
            };
            row.iter().map(round).collect()
        };
        weights.chunks(depth).flat_map(row).collect()
    }

    /// How far a product of values up to 1 may be off.
    fn tolerance(precision: Precision) -> f64 {
        if precision == Precision::Bf16x3 { 6e-5 } else { 1e-5 }
    }

    /// Rows of an input as a product in that precision sees them.
    fn rounded_input(precision: Precision, input: &[f32], depth: usize) -> Vec<f32> {
        let row = |row: &[f32]| -> Vec<f32> {
            let (low, high) = row.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
            let (scale, steps) = ((high - low) / 255.0, 255.0 / (high - low));
            let round = |&x: &f32| match precision {
                Precision::F32 | Precision::Bf16x3 | Precision::F16 => x,
                Precision::Bf16 => bf16::from_f32(x).to_f32(),
                Precision::Int8 => low + scale * ((x - low) * steps).round_ties_even(),
            };
            row.iter().map(round).collect()
        };
        input
            .chunks(depth)
            .flat_map(|whole| whole.chunks(group_inputs(depth)).flat_map(row).collect::<Vec<_>>())
            .collect()
    }

    /// The same as a product on a unit sees them: bf16 is rounded away from zero where two are equally near.
    fn on_unit(precision: Precision, input: &[f32], depth: usize) -> Vec<f32> {
        let round = |x: &f32| f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xFFFF_0000);
        match precision {
            Precision::Bf16 => input.iter().map(round).collect(),
            _ => rounded_input(precision, input, depth),
        }
    }

    #[test]
    fn products_of_all_tail_sizes_match_f64_in_every_precision() {
        let columns = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 47, 48, 63, 64, 65];
        for precision in Precision::ALL {
            for depth in [1, 2, 3, 8, 17, 64, 193, 391, 1000] {
                for outputs in columns.into_iter().filter(|&outputs| depth < 100 || outputs % 8 == 1) {
                    let dense = dense(outputs, depth, 3);
                    let input = values(32 * depth, 5);
                    let weights = rounded_weights(precision, &dense.weight, depth);
                    let seen = rounded_input(precision, &input, depth);
                    let by_vectors = exact_product(&seen, &weights, &dense.bias, depth);
                    let by_unit = exact_product(&on_unit(precision, &input, depth), &weights, &dense.bias, depth);
                    for kernels in Kernels::every() {
                        let exact = if kernels.unit(precision).is_some() { &by_unit } else { &by_vectors };
                        let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                        for rows in 0..=32 {
                            let mut out = vec![f32::NAN; rows * outputs];
                            layer.apply(&input[..rows * depth], None, &mut out);
                            for (i, (&got, &want)) in out.iter().zip(exact).enumerate() {
                                let error = (f64::from(got) - want).abs();
                                assert!(
                                    error < tolerance(precision) * (depth as f64 / 64.0).max(1.0),
                                    "{kernels:?} {precision} {rows}×{depth}×{outputs} at {i}: {got} for {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    /// Rows, depth and columns about the edges of tiles, blocks, pieces of a panel and runs of rows.
    const EDGES: [(usize, usize, usize); 11] = [
        (1, 1, 1),
        (15, 31, 15),
        (16, 32, 16),
        (17, 33, 17),
        (31, 64, 32),
        (32, 65, 33),
        (33, 100, 50),
        (48, 129, 64),
        (3, 391, 65),
        (34, 900, 20),
        (130, 70, 40),
    ];

    #[test]
    fn products_on_a_unit_match_f64_in_every_precision() {
        for (rows, depth, outputs) in EDGES {
            let (dense, input) = (dense(outputs, depth, 3), values(rows * depth, 5));
            for precision in Precision::ALL {
                let weights = rounded_weights(precision, &dense.weight, depth);
                let exact = exact_product(&on_unit(precision, &input, depth), &weights, &dense.bias, depth);
                for kernels in Kernels::emulated() {
                    let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                    let mut out = vec![f32::NAN; rows * outputs];
                    layer.apply(&input, None, &mut out);
                    for (&got, want) in out.iter().zip(&exact) {
                        let error = (f64::from(got) - want).abs();
                        assert!(
                            error < tolerance(precision) * (depth as f64 / 64.0).max(1.0),
                            "{kernels:?} {precision} {rows}×{depth}×{outputs}: {got} for {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_have_the_same_bits_on_a_unit_and_the_hardware_those_of_the_emulated_one() {
        let apply = |kernels, precision, (dense, input): (&Dense, &[f32]), depth, activation| {
            let layer = PackedLinear::new(kernels, precision, dense, depth).unwrap();
            let mut out = vec![f32::NAN; input.len() / depth * dense.bias.len()];
            layer.apply(input, activation, &mut out);
            out
        };
        let hardware = Kernels::with(InstructionSet::Amx).ok();
        for (rows, depth, outputs) in EDGES {
            let (dense, input) = (dense(outputs, depth, 3), values(rows * depth, 5));
            let given = (&dense, &input[..]);
            for activation in [None, Some(Activation::Gelu)] {
                let vectors: Vec<_> = Kernels::available()
                    .into_iter()
                    .filter(|kernels| kernels.unit(Precision::Int8).is_none())
                    .collect();
                for (emulated, vectors) in Kernels::emulated().into_iter().zip(vectors) {
                    let [on_unit, by_vectors] =
                        [emulated, vectors].map(|kernels| apply(kernels, Precision::Int8, given, depth, activation));
                    assert_eq!(on_unit, by_vectors, "{vectors:?} {rows}×{depth}×{outputs}");
                }
                for (precision, hardware) in Precision::ALL.into_iter().filter_map(|it| Some((it, hardware?))) {
                    let emulated = Kernels::emulated()[0];
                    let [real, emulated] =
                        [hardware, emulated].map(|kernels| apply(kernels, precision, given, depth, activation));
                    if precision != Precision::F16 {
                        assert_eq!(real, emulated, "{precision} {rows}×{depth}×{outputs}");
                    }
                }
            }
        }
    }

    #[test]
    fn f32_in_parts_is_at_least_as_exact_as_f32() {
        let (rows, depth, outputs) = (16, 1536, 33);
        let (dense, input) = (dense(outputs, depth, 9), values(rows * depth, 10));
        let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
        let error = |kernels| {
            let layer = PackedLinear::new(kernels, Precision::F32, &dense, depth).unwrap();
            let mut out = vec![f32::NAN; rows * outputs];
            layer.apply(&input, None, &mut out);
            let squares = out.iter().zip(&exact).map(|(&got, want)| (f64::from(got) - want).powi(2));
            (squares.sum::<f64>() / exact.len() as f64).sqrt()
        };
        let (parts, plain) = (error(Kernels::emulated()[0]), error(Kernels::with(InstructionSet::Portable).unwrap()));
        println!("root of the mean square: in parts {parts:e}, plain {plain:e}");
        assert!(parts <= plain, "{parts:e} in parts, {plain:e} otherwise");
    }

    #[test]
    fn rows_of_zeros_and_of_one_sign_are_rounded_well_and_nan_is_not_hidden() {
        let (depth, outputs) = (33, 5);
        let dense = dense(outputs, depth, 3);
        for precision in Precision::ALL {
            let mut input = vec![0f32; depth];
            input.extend(values(depth, 1).iter().map(|x| x.abs() + 1.0));
            input.extend(values(depth, 2).iter().map(|x| -x.abs() - 1.0));
            let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for kernels in Kernels::every().into_iter().chain(Kernels::emulated()) {
                    for at in [0, 16, depth - 1] {
                        let mut input = input.clone();
                        input.extend_from_within(..depth);
                        input[3 * depth + at] = broken;
                        let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                        let mut out = vec![0f32; 4 * outputs];
                        layer.apply(&input, None, &mut out);
                        for (got, want) in out.iter().zip(&exact) {
                            assert!((f64::from(*got) - want).abs() < 0.1, "{kernels:?} {precision}: {got} for {want}");
                        }
                        let last = &out[3 * outputs..];
                        assert!(last.iter().all(|x| !x.is_finite()), "{kernels:?} {precision}: {last:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn weights_that_a_precision_cannot_hold_are_errors() {
        let kernels = Kernels::detect();
        for precision in [Precision::F16, Precision::Bf16, Precision::Int8] {
            for broken in [f32::NAN, f32::INFINITY] {
                let dense = Dense { weight: vec![1.0, broken, 2.0], bias: Vec::new() };
                assert!(PackedLinear::new(kernels, precision, &dense, 3).is_err(), "{precision}");
            }
        }
        let large = Dense { weight: vec![1e5, -1e5], bias: Vec::new() };
        assert!(PackedLinear::new(kernels, Precision::F16, &large, 2).is_err());
        assert!(PackedLinear::new(kernels, Precision::Bf16, &large, 2).is_ok());
        let long = Dense { weight: vec![1.0; MOST_BYTES + 1], bias: Vec::new() };
        assert!(PackedLinear::new(kernels, Precision::Int8, &long, MOST_BYTES + 1).is_err());
    }

    #[test]
    fn long_sums_match_f64_closely() {
        let (rows, outputs) = (15, 33);
        for kernels in Kernels::available() {
            for depth in [191, 192, 193, 384, 385, 1000, 3072] {
                let dense = dense(outputs, depth, 9);
                let layer = PackedLinear::new(kernels, Precision::F32, &dense, depth).unwrap();
                let input = values(rows * depth, 10);
                let mut out = vec![f32::NAN; rows * outputs];
                layer.apply(&input, None, &mut out);
                let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
                let error =
                    out.iter().zip(&exact).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max);
                // Summed up in one go, the longest has an error of 1.3e-4.
                assert!(error < 5e-6 + 4e-7 * (depth as f64).sqrt(), "{kernels:?} depth {depth}: {error:e}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_it_is_computed_with() {
        let (depth, outputs, rows) = (100, 70, 61);
        let dense = dense(outputs, depth, 7);
        let input = values(rows * depth, 8);
        for (kernels, precision) in Kernels::every().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it))) {
            let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
            for activation in [None, Some(Activation::Gelu), Some(Activation::GeluTanh), Some(Activation::Relu)] {
                let mut all = vec![0f32; rows * outputs];
                layer.apply(&input, activation, &mut all);
                for count in 1..=rows {
                    let skipped = rows - count;
                    let mut some = vec![0f32; count * outputs];
                    layer.apply(&input[skipped * depth..], activation, &mut some);
                    assert_eq!(some, all[skipped * outputs..], "{kernels:?} {precision} {activation:?}: {count} rows");
                }
            }
        }
    }

    #[test]
    fn a_row_of_great_depth_has_the_same_bits_in_blocks() {
        let (depth, outputs, rows) = (1000, 33, 130);
        let dense = dense(outputs, depth, 7);
        let input = values(rows * depth, 8);
        for (kernels, precision) in Kernels::every().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it))) {
            let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
            let mut all = vec![0f32; rows * outputs];
            layer.apply(&input, Some(Activation::Gelu), &mut all);
            for row in [0, 1, 63, 64, 65, rows - 1] {
                let mut alone = vec![0f32; outputs];
                layer.apply(&input[row * depth..][..depth], Some(Activation::Gelu), &mut alone);
                assert_eq!(alone, all[row * outputs..][..outputs], "{kernels:?} {precision}: row {row}");
            }
        }
    }

    #[test]
    fn parts_side_by_side_with_factors_and_a_residual_match_f64() {
        let (depth, rows) = (24, 19);
        let parts = [dense(20, depth, 1), Dense { bias: Vec::new(), ..dense(13, depth, 2) }, dense(9, depth, 3)];
        let factors = [0.25f32, 1.0, -3.0];
        let outputs = 42;
        let input = values(rows * depth, 4);
        let residual = values(rows * (outputs + 3), 5);
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (part, factor) in parts.iter().zip(factors) {
            weight.extend(part.weight.iter().map(|w| w * factor));
            let filled = if part.bias.is_empty() { vec![0.0; 13] } else { part.bias.clone() };
            bias.extend(filled.iter().map(|b| b * factor));
        }
        let exact = exact_product(&input, &weight, &bias, depth);
        for (kernels, precision) in
            Kernels::available().into_iter().flat_map(|set| [Precision::F32, Precision::F16].map(|it| (set, it)))
        {
            let mut arena = Arena::with_room(Linear::room((kernels, precision), outputs, depth));
            let parts: Vec<_> = parts.iter().zip(factors).collect();
            let linear = Linear::pack((kernels, precision), &mut arena, &parts, depth).unwrap();
            let tolerance = if precision == Precision::F32 { 1e-5 } else { 1e-2 };
            // A wider output, so that a store beyond the columns shows.
            let mut out = vec![7f32; rows * (outputs + 5)];
            for panel in 0..linear.panels().count {
                for rows in [3..11, 0..3, 11..rows] {
                    // SAFETY: all three matrices have these rows, and `out` is ours.
                    let task = unsafe {
                        LinearTask::new(
                            (&linear, &arena),
                            (input.as_ptr(), depth),
                            (out.as_mut_ptr(), outputs + 5),
                            Epilogue::Residual(residual.as_ptr(), outputs + 3),
                            rows,
                        )
                    };
                    kernels.run(task.by_vectors().panels(panel..panel + 1, None));
                }
            }
            for (row, got) in out.chunks(outputs + 5).enumerate() {
                for (column, &got) in got.iter().enumerate() {
                    if column >= outputs {
                        assert_eq!(got, 7.0, "{kernels:?} wrote beyond the columns");
                    } else {
                        let want = exact[row * outputs + column] + f64::from(residual[row * (outputs + 3) + column]);
                        assert!((f64::from(got) - want).abs() < tolerance, "{kernels:?} {row},{column}");
                    }
                }
            }
        }
    }

    #[test]
    fn weights_that_do_not_fit_are_errors() {
        let kernels = Kernels::detect();
        let good = dense(4, 6, 1);
        for (dense, inputs) in [
            (Dense { weight: vec![0.0; 23], bias: Vec::new() }, 6),
            (Dense { weight: good.weight.clone(), bias: vec![0.0; 3] }, 6),
            (Dense::default(), 6),
            (good.clone(), 0),
        ] {
            assert!(PackedLinear::new(kernels, Precision::F32, &dense, inputs).is_err(), "{dense:?}");
        }
        let mut small = Arena::with_room(8);
        assert!(Linear::pack((kernels, Precision::F32), &mut small, &[(&good, 1.0)], 6).is_err());
    }
}
