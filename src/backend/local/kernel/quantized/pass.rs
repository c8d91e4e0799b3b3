//! A forward pass over one sequence: phases in which the members of a team share out rows, columns or heads.
//!
//! A tensor's range must be known before any of it is quantised, so each phase ends where a range does: the projections,
//! the scores of all heads, their contexts, and each norm. Ranges have no order, so whoever finishes first, the codes
//! are the same.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::super::memory::AlignedBuffer;
use super::super::simd::{Simd, Task};
use super::super::team::{Member, Team};
use super::super::transformer::Norm;
use super::exact::{self, NORM_ROWS, Quantization, Spread};
use super::product::{GROUP, MAX_TILE_ROWS, PANEL, Panels, Tile, tiles};
use super::{Linear, QuantizedTransformer, ScoreScale};
use crate::error::Result;

/// Below this many rows per thread products are shared out by columns: each core reads its part of the weights only.
const FEW_ROWS: usize = 24;
/// Most rows of a block when products are shared out by rows: its codes stay in a core's cache.
const BLOCK_ROWS: usize = 48;
/// Pieces per thread into which columns are cut.
const PIECES: usize = 4;
/// Most queries of one head that are attended to at a time.
const ATTENTION_ROWS: usize = 96;

/// Memory of a pass, kept for the next one.
pub(super) struct Scratch {
    states: AlignedBuffer,
    attended: AlignedBuffer,
    query: AlignedBuffer,
    key: AlignedBuffer,
    value: AlignedBuffer,
    probabilities: AlignedBuffer,
    context: AlignedBuffer,
    between: AlignedBuffer,
    ranges: Vec<Extent>,
    members: Vec<Mutex<MemberScratch>>,
}

/// Memory of one member.
#[derive(Default)]
struct MemberScratch {
    /// Codes of a product's left side, and the sum of each row.
    codes: Vec<u8>,
    sums: Vec<i32>,
    /// Keys or values of one head.
    head: Panels,
    line: Vec<i8>,
}

impl Scratch {
    pub(super) fn new(members: usize) -> Scratch {
        let buffer = AlignedBuffer::default;
        Scratch {
            states: buffer(),
            attended: buffer(),
            query: buffer(),
            key: buffer(),
            value: buffer(),
            probabilities: buffer(),
            context: buffer(),
            between: buffer(),
            ranges: Vec::new(),
            members: (0..members).map(|_| Mutex::default()).collect(),
        }
    }
}

/// A tensor's range while several members find it.
struct Extent {
    least: AtomicI32,
    most: AtomicI32,
}

/// f32 bits in an order that integers have too, and back.
fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

impl Extent {
    fn new() -> Extent {
        Extent { least: AtomicI32::new(0), most: AtomicI32::new(0) }
    }

    /// Back to the range of nothing, which is 0 alone.
    fn reset(&mut self) {
        *self.least.get_mut() = 0;
        *self.most.get_mut() = 0;
    }

    fn include(&self, (least, most): (f32, f32)) {
        self.least.fetch_min(ordered(least.to_bits() as i32), Ordering::Relaxed);
        self.most.fetch_max(ordered(most.to_bits() as i32), Ordering::Relaxed);
    }

    fn get(&self) -> (f32, f32) {
        let value = |key: &AtomicI32| f32::from_bits(ordered(key.load(Ordering::Relaxed)) as u32);
        (value(&self.least), value(&self.most))
    }
}

/// Tensors of a block that are quantised, and the states that enter it.
#[derive(Clone, Copy)]
enum Tensor {
    States,
    Query,
    Key,
    Value,
    Probabilities,
    Context,
    Attended,
    Between,
}

const TENSORS: usize = 8;

/// A matrix that the members share. They keep to rows or columns that a phase gives to one of them, or only read.
#[derive(Clone, Copy)]
struct Matrix {
    start: *mut f32,
    stride: usize,
    rows: usize,
}

// SAFETY: only a pointer; every access is in an `unsafe` block that says why it is alone.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    fn with_room(buffer: &mut AlignedBuffer, rows: usize, columns: usize) -> Matrix {
        // An odd number of cache lines: the same columns of neighbouring rows do not compete for the same lines.
        let stride = (columns.div_ceil(16) | 1) * 16;
        buffer.reserve(rows * stride);
        Matrix { start: buffer.as_mut_ptr(), stride, rows }
    }

    /// Some columns of a row, to read.
    ///
    /// # Safety
    /// Nobody writes them meanwhile.
    #[inline(always)]
    unsafe fn row<'a>(self, row: usize, columns: Range<usize>) -> &'a [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // SAFETY: within the matrix, as just checked.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.stride + columns.start), columns.len()) }
    }

    /// Some columns of a row, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them meanwhile.
    #[inline(always)]
    unsafe fn row_mut<'a>(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // SAFETY: within the matrix, as just checked.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride + columns.start), columns.len()) }
    }
}

/// What becomes of a product once the bias is added.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Scale(f32),
    Gelu,
    /// What is added.
    Residual(Matrix),
}

/// One of the products of a phase, all with the same left side.
struct Output<'a> {
    linear: &'a Linear,
    to: Matrix,
    then: Then,
    /// Where its range goes; `None` if the result is not quantised as it is.
    range: Option<&'a Extent>,
}

/// A norm behind a product, in place.
struct NormStep<'a> {
    norm: &'a Norm,
    at: Matrix,
    range: &'a Extent,
}

/// Runs a pass and appends the states.
pub(super) fn run(
    model: &QuantizedTransformer,
    team: &mut Team,
    scratch: &mut Scratch,
    rows: &[&[u32]],
    tokens: usize,
    states: &mut Vec<f32>,
) -> Result<()> {
    let (hidden, heads, intermediate) = (model.shape.hidden, model.shape.heads, model.shape.intermediate);
    let ranges = (model.blocks.len() + 1) * TENSORS;
    if scratch.ranges.len() < ranges {
        scratch.ranges.resize_with(ranges, Extent::new);
    }
    scratch.ranges.iter_mut().for_each(Extent::reset);
    let pass = Pass {
        model,
        rows,
        tokens,
        threads: team.size(),
        states: Matrix::with_room(&mut scratch.states, tokens, hidden),
        attended: Matrix::with_room(&mut scratch.attended, tokens, hidden),
        query: Matrix::with_room(&mut scratch.query, tokens, hidden),
        key: Matrix::with_room(&mut scratch.key, tokens, hidden),
        value: Matrix::with_room(&mut scratch.value, tokens, hidden),
        probabilities: Matrix::with_room(&mut scratch.probabilities, heads * tokens, tokens),
        context: Matrix::with_room(&mut scratch.context, tokens, hidden),
        between: Matrix::with_room(&mut scratch.between, tokens, intermediate),
        ranges: &scratch.ranges,
        members: &scratch.members,
        lost: AtomicBool::new(false),
    };
    team.run_borrowed(&|member| pass.take_part(member))?;
    let lost = pass.lost.load(Ordering::Relaxed);
    let result = pass.states;
    for row in 0..tokens {
        // SAFETY: all members have left the pass.
        states.extend_from_slice(unsafe { result.row(row, 0..hidden) });
    }
    if lost {
        let from = states.len() - tokens * hidden;
        states[from..].fill(f32::NAN);
    }
    Ok(())
}

struct Pass<'a> {
    model: &'a QuantizedTransformer,
    rows: &'a [&'a [u32]],
    tokens: usize,
    threads: usize,
    states: Matrix,
    attended: Matrix,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    probabilities: Matrix,
    context: Matrix,
    between: Matrix,
    ranges: &'a [Extent],
    members: &'a [Mutex<MemberScratch>],
    /// A range or a variance was not finite: the result means nothing.
    lost: AtomicBool,
}

/// A piece of a phase's work, to be run with an instruction set.
struct Work<'a, 'b> {
    pass: &'a Pass<'a>,
    scratch: &'b mut MemberScratch,
    step: Step<'a>,
}

enum Step<'a> {
    /// Embeds and norms some rows.
    Embed(Range<usize>),
    /// Quantises some rows of a product's left side.
    Quantize(Matrix, Quantization, Range<usize>, usize),
    /// Some panels of a product for the rows that were quantised, the first of them given.
    Product(&'a Output<'a>, Quantization, Range<usize>, Range<usize>),
    /// A norm of some rows.
    Norm(&'a NormStep<'a>, Range<usize>),
    /// Probabilities of some queries of a head.
    Scores { head: usize, rows: Range<usize>, layer: usize, fresh: bool },
    /// Contexts of some queries of a head.
    Context { head: usize, rows: Range<usize>, layer: usize, fresh: bool },
}

impl Pass<'_> {
    fn range(&self, layer: usize, tensor: Tensor) -> &Extent {
        &self.ranges[layer * TENSORS + tensor as usize]
    }

    /// How a tensor is quantised, now that its range is known.
    fn quantization(&self, layer: usize, tensor: Tensor) -> Quantization {
        let (least, most) = self.range(layer, tensor).get();
        Quantization::of(least, most).unwrap_or_else(|| {
            self.lost.store(true, Ordering::Relaxed);
            Quantization { scale: 1.0, zero_point: 0 }
        })
    }

    fn take_part(&self, member: &Member<'_>) {
        let scratch = &mut *self.members[member.index()].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let chunks = self.tokens.div_ceil(NORM_ROWS);
        let chunk = |item: usize| item * NORM_ROWS..self.tokens.min((item + 1) * NORM_ROWS);
        member.phase(chunks, |item| self.run(scratch, Step::Embed(chunk(item))));
        for (layer, block) in self.model.blocks.iter().enumerate() {
            let output = |linear, to, then, tensor| Output { linear, to, then, range: Some(self.range(layer, tensor)) };
            let scaled = |scale: Option<f32>| scale.map_or(Then::Nothing, Then::Scale);
            let projections = [
                output(&block.query, self.query, scaled(block.query_scale), Tensor::Query),
                output(&block.key, self.key, scaled(block.key_scale), Tensor::Key),
                output(&block.value, self.value, Then::Nothing, Tensor::Value),
            ];
            self.product(member, scratch, (self.states, layer, Tensor::States), &projections, None);
            self.attend(member, scratch, layer);
            let sums = |linear, to, residual| Output { linear, to, then: Then::Residual(residual), range: None };
            let out = [sums(&block.attention_output, self.attended, self.states)];
            let range = self.range(layer, Tensor::Attended);
            let norm = NormStep { norm: &block.attention_norm, at: self.attended, range };
            self.product(member, scratch, (self.context, layer, Tensor::Context), &out, Some(&norm));
            let up = [output(&block.up, self.between, Then::Gelu, Tensor::Between)];
            self.product(member, scratch, (self.attended, layer, Tensor::Attended), &up, None);
            let down = [sums(&block.down, self.states, self.attended)];
            let range = self.range(layer + 1, Tensor::States);
            let norm = NormStep { norm: &block.output_norm, at: self.states, range };
            self.product(member, scratch, (self.between, layer, Tensor::Between), &down, Some(&norm));
        }
    }

    fn run<'a>(&'a self, scratch: &mut MemberScratch, step: Step<'a>) {
        self.model.kernels.run(Work { pass: self, scratch, step });
    }

    /// A phase of products with the same left side, and a norm of their rows behind them.
    fn product(
        &self,
        member: &Member<'_>,
        scratch: &mut MemberScratch,
        (left, layer, tensor): (Matrix, usize, Tensor),
        outputs: &[Output<'_>],
        norm: Option<&NormStep<'_>>,
    ) {
        let quantization = self.quantization(layer, tensor);
        let inputs = outputs[0].linear.inputs;
        if self.threads > 1 && self.tokens < FEW_ROWS * self.threads {
            // By columns: everybody who has a piece quantises all rows, while no phase beyond can change them.
            let mut quantized = false;
            let panels: usize = outputs.iter().map(|output| output.linear.panels.panel_count()).sum();
            let pieces = panels.min(PIECES * self.threads);
            member.phase(pieces, |piece| {
                if !std::mem::replace(&mut quantized, true) {
                    self.run(scratch, Step::Quantize(left, quantization, 0..self.tokens, inputs));
                }
                let mut wanted = panels * piece / pieces..panels * (piece + 1) / pieces;
                for output in outputs {
                    let count = output.linear.panels.panel_count();
                    let mine = wanted.start.min(count)..wanted.end.min(count);
                    if !mine.is_empty() {
                        self.run(scratch, Step::Product(output, quantization, 0..self.tokens, mine));
                    }
                    wanted = wanted.start.saturating_sub(count)..wanted.end.saturating_sub(count);
                }
            });
            if let Some(norm) = norm {
                let chunks = self.tokens.div_ceil(NORM_ROWS);
                member.phase(chunks, |item| {
                    let rows = item * NORM_ROWS..self.tokens.min((item + 1) * NORM_ROWS);
                    self.run(scratch, Step::Norm(norm, rows));
                });
            }
            return;
        }
        let blocks = self.threads * self.tokens.div_ceil(self.threads * BLOCK_ROWS);
        let blocks = blocks.min(self.tokens);
        member.phase(blocks, |item| {
            let rows = self.tokens * item / blocks..self.tokens * (item + 1) / blocks;
            self.run(scratch, Step::Quantize(left, quantization, rows.clone(), inputs));
            for output in outputs {
                let panels = 0..output.linear.panels.panel_count();
                self.run(scratch, Step::Product(output, quantization, rows.clone(), panels));
            }
            if let Some(norm) = norm {
                self.run(scratch, Step::Norm(norm, rows));
            }
        });
    }

    /// Two phases: probabilities of all heads, then contexts.
    fn attend(&self, member: &Member<'_>, scratch: &mut MemberScratch, layer: usize) {
        let heads = self.model.shape.heads;
        let pieces = self.tokens.div_ceil(ATTENTION_ROWS);
        let rows = |item: usize| {
            let piece = item % pieces;
            self.tokens * piece / pieces..self.tokens * (piece + 1) / pieces
        };
        let mut packed = None;
        let mut fresh = |item: usize| packed.replace(item / pieces) != Some(item / pieces);
        member.phase(heads * pieces, |item| {
            let step = Step::Scores { head: item / pieces, rows: rows(item), layer, fresh: fresh(item) };
            self.run(scratch, step);
        });
        let mut packed = None;
        let mut fresh = |item: usize| packed.replace(item / pieces) != Some(item / pieces);
        member.phase(heads * pieces, |item| {
            let step = Step::Context { head: item / pieces, rows: rows(item), layer, fresh: fresh(item) };
            self.run(scratch, step);
        });
    }
}

impl Task for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Work { pass, scratch, step } = self;
        match step {
            Step::Embed(rows) => embed(s, pass, rows),
            Step::Quantize(left, quantization, rows, inputs) => {
                quantize(s, scratch, left, quantization, rows, 0..inputs);
            }
            Step::Product(output, quantization, rows, panels) => {
                product(s, pass, scratch, output, quantization, rows, panels);
            }
            Step::Norm(norm, rows) => normalize(s, pass, norm, rows),
            Step::Scores { head, rows, layer, fresh } => scores(s, pass, scratch, head, rows, layer, fresh),
            Step::Context { head, rows, layer, fresh } => context(s, pass, scratch, head, rows, layer, fresh),
        }
    }
}

#[inline(always)]
fn embed<S: Simd>(s: S, pass: &Pass<'_>, rows: Range<usize>) {
    let hidden = pass.model.shape.hidden;
    for token in rows.clone() {
        // SAFETY: this item alone has these rows.
        let state = unsafe { pass.states.row_mut(token, 0..hidden) };
        for (index, (table, chosen)) in pass.model.tables.iter().zip(pass.rows).enumerate() {
            let codes = &table.codes[chosen[token] as usize * hidden..][..hidden];
            for h in 0..hidden {
                let value = (i32::from(codes[h]) - table.zero_point) as f32 * table.scale;
                state[h] = if index == 0 { value } else { state[h] + value };
            }
        }
    }
    let step = NormStep { norm: &pass.model.embedding_norm, at: pass.states, range: pass.range(0, Tensor::States) };
    normalize(s, pass, &step, rows);
}

#[inline(always)]
fn normalize<S: Simd>(s: S, pass: &Pass<'_>, step: &NormStep<'_>, rows: Range<usize>) {
    let hidden = pass.model.shape.hidden;
    let Norm { gamma, beta } = step.norm;
    let mut spread = Spread::new();
    let mut spare = [const { Vec::new() }; NORM_ROWS];
    let mut at = rows.start;
    while at < rows.end {
        let count = NORM_ROWS.min(rows.end - at);
        for memory in &mut spare[count..] {
            // Rows that are not there, so that the loops have one length.
            memory.clear();
            memory.resize(hidden, 1.0f32);
        }
        let mut spares = spare.iter_mut();
        let mut eight: [&mut [f32]; NORM_ROWS] = std::array::from_fn(|i| {
            let memory = spares.next().map_or(&mut [][..], Vec::as_mut_slice);
            // SAFETY: this item alone has these rows.
            if i < count { unsafe { step.at.row_mut(at + i, 0..hidden) } } else { memory }
        });
        for memory in &mut eight[count..] {
            memory[0] = 0.0;
        }
        if !exact::layer_norm(&mut eight, gamma, beta, pass.model.shape.epsilon) {
            pass.lost.store(true, Ordering::Relaxed);
        }
        for row in &eight[..count] {
            spread.include_all(s, row);
        }
        at += count;
    }
    step.range.include(spread.ends());
}

/// Quantises some columns of some rows into the member's codes, from its first row on.
#[inline(always)]
fn quantize<S: Simd>(
    s: S,
    scratch: &mut MemberScratch,
    left: Matrix,
    quantization: Quantization,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let stride = columns.len().next_multiple_of(GROUP);
    // What is beyond a row's codes meets weights of zero.
    if scratch.codes.len() < rows.len() * stride {
        scratch.codes.resize(rows.len() * stride, 0);
    }
    scratch.sums.clear();
    for (row, codes) in rows.zip(scratch.codes.chunks_exact_mut(stride)) {
        // SAFETY: written in an earlier phase.
        let values = unsafe { left.row(row, columns.clone()) };
        scratch.sums.push(quantization.codes(s, values, codes));
    }
}

/// What the zero points add to a column's sum of products, without the left side's sums.
#[inline(always)]
fn column_terms(panels: &Panels, panel: usize, inputs: usize, zero_points: (i32, i32)) -> [i32; PANEL] {
    let both = (inputs as i32).wrapping_mul(zero_points.0).wrapping_mul(zero_points.1);
    let sums = &panels.column_sums[panel * PANEL..][..PANEL];
    let mut terms = [0; PANEL];
    for i in 0..PANEL {
        terms[i] = both.wrapping_sub(zero_points.0.wrapping_mul(sums[i]));
    }
    terms
}

/// A tile's values, on cache lines too.
#[repr(align(64))]
struct Lines([[f32; PANEL]; MAX_TILE_ROWS]);

impl Lines {
    fn new() -> Lines {
        Lines([[0.0; PANEL]; MAX_TILE_ROWS])
    }
}

/// A tile as f32: zero points taken off, times the scale, and a bias if there is one. `terms` are the columns' share of
/// what the zero points add, `sums` those of the rows' codes, of which each counts `zero_point` times.
///
/// Vector by vector, as everything that touches each value of a tile: loops over a row's values are unrolled too early to
/// be made vectors of.
#[inline(always)]
fn dequantize<S: Simd>(
    s: S,
    tile: &Tile,
    (terms, sums, zero_point): (&[i32; PANEL], &[i32], i32),
    scale: f32,
    bias: Option<&[f32; PANEL]>,
    rows: &mut [[f32; PANEL]],
) {
    let scale = s.splat(scale);
    for at in (0..PANEL).step_by(S::LANES) {
        // SAFETY: a panel is whole vectors.
        unsafe {
            let terms = s.load_words(terms.as_ptr().add(at).cast());
            let bias = bias.map(|bias| s.load(bias.as_ptr().add(at)));
            for ((products, values), sum) in tile.0.iter().zip(&mut *rows).zip(sums) {
                let row = s.splat_word(zero_point.wrapping_mul(*sum).wrapping_neg() as u32);
                let products = s.load_words(products.as_ptr().add(at).cast());
                let mut value = s.mul(s.integers_to_f32(s.add_words(s.add_words(products, terms), row)), scale);
                if let Some(bias) = bias {
                    value = s.add(value, bias);
                }
                s.store(values.as_mut_ptr().add(at), value);
            }
        }
    }
}

/// What happens to each value of a row.
#[derive(Clone, Copy)]
enum Change<'a> {
    Add(&'a [f32; PANEL]),
    Multiply(f32),
    Divide(f32),
}

#[inline(always)]
fn change<S: Simd>(s: S, values: &mut [f32; PANEL], how: Change<'_>) {
    for at in (0..PANEL).step_by(S::LANES) {
        // SAFETY: a panel is whole vectors.
        unsafe {
            let value = s.load(values.as_ptr().add(at));
            let result = match how {
                Change::Add(others) => s.add(value, s.load(others.as_ptr().add(at))),
                Change::Multiply(factor) => s.mul(value, s.splat(factor)),
                Change::Divide(divisor) => s.div(value, s.splat(divisor)),
            };
            s.store(values.as_mut_ptr().add(at), result);
        }
    }
}

/// A panel's columns of a row; zeros beyond the last column.
#[inline(always)]
fn read(from: &[f32]) -> [f32; PANEL] {
    // A whole panel is two loads, where a length that is not known would be a call.
    from.try_into().unwrap_or_else(|_| std::array::from_fn(|i| from.get(i).copied().unwrap_or(0.0)))
}

/// Stores a panel's columns of a row, and makes the values beyond the last column 0.
#[inline(always)]
fn write(to: &mut [f32], values: &mut [f32; PANEL]) {
    if let Ok(whole) = <&mut [f32; PANEL]>::try_from(&mut *to) {
        *whole = *values;
        return;
    }
    to.copy_from_slice(&values[..to.len()]);
    values[to.len()..].fill(0.0);
}

#[inline(always)]
fn product<S: Simd>(
    s: S,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    output: &Output<'_>,
    quantization: Quantization,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let Output { linear, to, then, range } = output;
    let inputs = linear.inputs;
    let stride = inputs.next_multiple_of(GROUP);
    let scale = quantization.scale * linear.scale;
    let first_row = rows.start;
    let (mut tile, mut lines) = (Tile::new(), Lines::new());
    let mut spread = Spread::new();
    for panel in panels {
        let terms = column_terms(&linear.panels, panel, inputs, (quantization.zero_point, linear.zero_point));
        let first = panel * PANEL;
        let columns = first..linear.panels.columns().min(first + PANEL);
        let bias: &[f32; PANEL] = linear.bias[first..][..PANEL].try_into().expect("a whole panel");
        for run in tiles(pass.model.products, 0..rows.len()) {
            let codes = &scratch.codes[run.start * stride..];
            pass.model.products.tile(codes, stride, run.len(), linear.panels.panel(panel), &mut tile);
            let rows = &mut lines.0[..run.len()];
            let zero = (&terms, &scratch.sums[run.clone()], linear.zero_point);
            dequantize(s, &tile, zero, scale, Some(bias), rows);
            match then {
                Then::Nothing => {}
                Then::Scale(factor) => {
                    for values in rows.iter_mut() {
                        change(s, values, Change::Multiply(*factor));
                    }
                }
                Then::Gelu => exact::gelu(s, rows),
                Then::Residual(matrix) => {
                    for (values, row) in rows.iter_mut().zip(run.clone()) {
                        // SAFETY: written in an earlier phase.
                        let residual = read(unsafe { matrix.row(first_row + row, columns.clone()) });
                        change(s, values, Change::Add(&residual));
                    }
                }
            }
            for (values, row) in rows.iter_mut().zip(run) {
                // SAFETY: this item alone has these rows or columns.
                write(unsafe { to.row_mut(first_row + row, columns.clone()) }, values);
            }
            if range.is_some() {
                spread.include(s, rows);
            }
        }
    }
    if let Some(range) = range {
        range.include(spread.ends());
    }
}

/// Where a head's columns are.
fn head_columns(pass: &Pass<'_>, head: usize) -> Range<usize> {
    let width = pass.model.shape.hidden / pass.model.shape.heads;
    head * width..(head + 1) * width
}

/// Packs a head's keys (a column per token) or values (a row per token). Codes are given less 128, to be signed.
#[inline(always)]
fn pack_head<S: Simd>(
    s: S,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    from: Matrix,
    how: Quantization,
    head: usize,
    keys: bool,
) {
    let columns = head_columns(pass, head);
    match keys {
        true => scratch.head.resize(columns.len(), pass.tokens),
        false => scratch.head.resize(pass.tokens, columns.len()),
    }
    if scratch.codes.len() < columns.len() {
        scratch.codes.resize(columns.len(), 0);
    }
    scratch.line.resize(columns.len(), 0);
    for token in 0..pass.tokens {
        // SAFETY: written in an earlier phase.
        let values = unsafe { from.row(token, columns.clone()) };
        how.codes(s, values, &mut scratch.codes);
        for (signed, code) in scratch.line.iter_mut().zip(&scratch.codes) {
            *signed = (code ^ 0x80) as i8;
        }
        match keys {
            true => scratch.head.set_column(token, &scratch.line),
            false => scratch.head.set_row(token, &scratch.line),
        }
    }
}

#[inline(always)]
fn scores<S: Simd>(
    s: S,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    head: usize,
    rows: Range<usize>,
    layer: usize,
    fresh: bool,
) {
    let tokens = pass.tokens;
    let [query, key] = [Tensor::Query, Tensor::Key].map(|tensor| pass.quantization(layer, tensor));
    if fresh {
        pack_head(s, pass, scratch, pass.key, key, head, true);
    }
    let columns = head_columns(pass, head);
    let width = columns.len();
    let stride = width.next_multiple_of(GROUP);
    quantize(s, scratch, pass.query, query, rows.clone(), columns);
    let key_zero = key.zero_point - 128;
    let scale = query.scale * key.scale;
    let (mut tile, mut lines) = (Tile::new(), Lines::new());
    let mut most = 0f32;
    // Softmax follows each tile of rows while its scores are in the first-level cache, where all keys of a head stay too.
    for run in tiles(pass.model.products, 0..rows.len()) {
        let codes = &scratch.codes[run.start * stride..];
        let tile_rows = run.len();
        for panel in 0..scratch.head.panel_count() {
            let terms = column_terms(&scratch.head, panel, width, (query.zero_point, key_zero));
            let first = panel * PANEL;
            let columns = first..tokens.min(first + PANEL);
            pass.model.products.tile(codes, stride, run.len(), scratch.head.panel(panel), &mut tile);
            let lines = &mut lines.0[..tile_rows];
            dequantize(s, &tile, (&terms, &scratch.sums[run.clone()], key_zero), scale, None, lines);
            for (values, row) in lines.iter_mut().zip(run.clone()) {
                match pass.model.blocks[layer].score_scale {
                    ScoreScale::None => {}
                    ScoreScale::Multiply(factor) => change(s, values, Change::Multiply(factor)),
                    ScoreScale::Divide(divisor) => change(s, values, Change::Divide(divisor)),
                }
                // SAFETY: this item alone has these rows of this head.
                let to = unsafe { pass.probabilities.row_mut(head * tokens + rows.start + row, columns.clone()) };
                write(to, values);
                // All heads' scores exceed the cache: the same columns of the next tile are asked for in time.
                let next = to.as_ptr().wrapping_add(tile_rows * pass.probabilities.stride);
                s.prefetch(next);
                s.prefetch(next.wrapping_add(PANEL / 2));
            }
        }
        for row in run {
            // SAFETY: this item alone has these rows of this head.
            let row = unsafe { pass.probabilities.row_mut(head * tokens + rows.start + row, 0..tokens) };
            let largest = exact::softmax(s, row);
            most = if largest > most { largest } else { most };
        }
    }
    pass.range(layer, Tensor::Probabilities).include((0.0, most));
}

#[inline(always)]
fn context<S: Simd>(
    s: S,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    head: usize,
    rows: Range<usize>,
    layer: usize,
    fresh: bool,
) {
    let tokens = pass.tokens;
    let [probability, value] = [Tensor::Probabilities, Tensor::Value].map(|tensor| pass.quantization(layer, tensor));
    if fresh {
        pack_head(s, pass, scratch, pass.value, value, head, false);
    }
    let stride = tokens.next_multiple_of(GROUP);
    let lines = head * tokens + rows.start..head * tokens + rows.end;
    quantize(s, scratch, pass.probabilities, probability, lines, 0..tokens);
    let value_zero = value.zero_point - 128;
    let scale = probability.scale * value.scale;
    let (mut tile, mut lines) = (Tile::new(), Lines::new());
    let mut spread = Spread::new();
    for panel in 0..scratch.head.panel_count() {
        let terms = column_terms(&scratch.head, panel, tokens, (probability.zero_point, value_zero));
        let count = PANEL.min(scratch.head.columns() - panel * PANEL);
        let first = head_columns(pass, head).start + panel * PANEL;
        for run in tiles(pass.model.products, 0..rows.len()) {
            let codes = &scratch.codes[run.start * stride..];
            pass.model.products.tile(codes, stride, run.len(), scratch.head.panel(panel), &mut tile);
            let lines = &mut lines.0[..run.len()];
            dequantize(s, &tile, (&terms, &scratch.sums[run.clone()], value_zero), scale, None, lines);
            for (values, row) in lines.iter_mut().zip(run) {
                // SAFETY: this item alone has these rows of this head.
                write(unsafe { pass.context.row_mut(rows.start + row, first..first + count) }, values);
            }
            spread.include(s, lines);
        }
    }
    pass.range(layer, Tensor::Context).include(spread.ends());
}
