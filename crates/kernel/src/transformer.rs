//! The CPU executor: a stack of transformer blocks on packed rows, run by a thread team.
//!
//! Sequences lie one after the other in `[tokens, hidden]`, without padding. A linear layer or a norm does not care where
//! a sequence ends; attention runs per sequence and head. Two schedules:
//!
//! - *Columns*, for few rows: every product is shared out by columns, so that each core reads its part of the weights
//!   only. Short text is bound by reading weights.
//! - *Rows*, for many: a block of rows goes from the attention's output through to the next layer's projection on one
//!   core, its intermediate values in that core's cache, with two meetings per layer.
//!
//! Both compute every value by the same operations in the same order, see [`Product`](super::tile::Product).

use std::ops::Range;
use std::sync::Arc;

use super::attention::{self, AttentionTask, Heads};
use super::attention_bf16::{self, RoundedAttentionTask};
use super::dispatch::Kernels;
use super::linear::{Arena, Dense, Epilogue, Linear, LinearTask, Panels, UNIT_SCRATCH};
use super::math::Activation;
use super::matrix_unit::TILE_ROWS;
use super::memory::AlignedBuffer;
use super::norm::{LayerNormTask, RmsNormTask};
use super::operand::{Form, OperandTask};
use super::position_bias::PositionBias;
use super::precision::Precision;
use super::table::{EmbedTask, Table};
use super::team::{Member, Team};
use super::unit::Unit;
use super::unit_product::BLOCK as UNIT_COLUMNS;
use crate::error::{Error, Result};

/// Below this many rows per thread products are shared out by columns: so few that a core waits for weights more than it
/// computes. all-MiniLM-L6-v2 on two cores of an AMD EPYC (Zen 4), ms by rows / by columns, the least of 25 rounds:
///
/// | tokens | f32 | f16 | bf16 | int8 |
/// |---|---|---|---|---|
/// | 6 | 1.39 / 0.89 | 0.86 / 0.76 | 0.41 / 0.38 | 0.25 / 0.24 |
/// | 8 | 1.43 / 0.94 | 1.12 / 1.18 | 0.45 / 0.48 | 0.29 / 0.32 |
/// | 12 | 1.43 / 1.28 | 1.43 / 1.39 | 0.65 / 0.70 | 0.38 / 0.43 |
/// | 16 | 1.64 / 1.65 | 1.79 / 1.81 | 0.85 / 0.87 | 0.49 / 0.52 |
/// | 32 | 3.18 / 3.29 | 3.65 / 3.62 | 1.87 / 1.92 | 0.95 / 1.02 |
///
/// The same on a matrix unit, whose time for fewer than sixteen rows is that for sixteen, on two cores of an Intel Xeon
/// (Emerald Rapids; a virtual machine, not quite idle):
///
/// | tokens | f32 | bf16x3 | bf16 | int8 |
/// |---|---|---|---|---|
/// | 16 | 4.60 / 2.61 | 2.07 / 1.31 | 1.05 / 0.78 | 0.64 / 0.71 |
/// | 32 | 4.44 / 3.30 | 1.86 / 1.92 | 0.83 / 0.97 | 0.71 / 1.10 |
const fn few_rows(precision: Precision, has_unit: bool) -> usize {
    match (precision, has_unit) {
        // Weights are split again for every block of rows.
        (Precision::F32, true) => 64,
        (Precision::Bf16x3, true) => 16,
        (Precision::Bf16, true) => 12,
        (Precision::Int8, true) => 8,
        (Precision::F32 | Precision::Bf16x3, false) => 7,
        (Precision::F16, _) => 4,
        (Precision::Bf16 | Precision::Int8, false) => 3,
    }
}
/// Rows of a block in the rows schedule: its feed-forward values stay in the second-level cache.
const BLOCK_ROWS: usize = 56;
/// The same on a matrix unit, in whole tiles.
const UNIT_BLOCK_ROWS: usize = 64;
/// Sequences of fewer tokens are computed by vectors in f32 and int8: a unit has the same time for sixteen rows as for one.
const SHORT: usize = 16;
/// Pieces per thread into which a product's columns are cut, so that a delayed thread holds up little.
const PIECES: usize = 4;
/// Most rows that one thread embeds, norms or rounds at a time in the columns schedule.
const NORM_ROWS: usize = 8;

/// Sizes and make of a stack of transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`, unless the style has a width of heads.
    pub heads: usize,
    /// Width between the two feed-forward matrices.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// The feed-forward activation.
    pub activation: Activation,
    /// The norms' epsilon.
    pub epsilon: f32,
    /// How blocks are made.
    pub style: Style,
}

/// In what a family's blocks differ from BERT's, which are the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Norms stand before attention and feed-forward, not after the sums.
    pub pre_norm: bool,
    /// Norms divide by the root of the mean square: no mean is taken off, no beta added.
    pub rms_norm: bool,
    /// Scores are not divided by the root of the heads' width.
    pub unscaled: bool,
    /// A second matrix beside `up`, whose outputs are factors of the activated ones.
    pub gated: bool,
    /// The width of a head, where it is not `hidden / heads`.
    pub head_size: Option<usize>,
}

impl Shape {
    /// Width of a head.
    pub fn head_size(&self) -> usize {
        self.style.head_size.unwrap_or(self.hidden / self.heads.max(1))
    }

    /// Width of the queries, keys or values of all heads.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_size()
    }
}

/// A norm's parameters, `[hidden]` each; an RMS norm has no beta.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Norm {
    /// The factor per column.
    pub gamma: Vec<f32>,
    /// What is added per column.
    pub beta: Vec<f32>,
}

/// The parameters of one block: attention and its norm, feed-forward and its norm. Biases may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// `[heads × head size, hidden]`
    pub query: Dense,
    /// `[heads × head size, hidden]`
    pub key: Dense,
    /// `[heads × head size, hidden]`
    pub value: Dense,
    /// `[hidden, heads × head size]`
    pub attention_output: Dense,
    /// After the attention's output and its input are added; with pre-norm, before attention.
    pub attention_norm: Norm,
    /// `[intermediate, hidden]`
    pub up: Dense,
    /// `[intermediate, hidden]`, if the style is gated.
    pub gate: Option<Dense>,
    /// `[hidden, intermediate]`
    pub down: Dense,
    /// After the feed-forward's output and its input are added; with pre-norm, before the feed-forward.
    pub output_norm: Norm,
}

/// What an encoder has once, outside of its blocks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outer {
    /// The embedding is the sum of one row from each: `[rows, hidden]`.
    pub tables: Vec<Vec<f32>>,
    /// The norm of that sum.
    pub embedding_norm: Option<Norm>,
    /// Added to the scores of every block.
    pub position_bias: Option<PositionBias>,
    /// The norm after the last block.
    pub final_norm: Option<Norm>,
}

/// A packed block.
struct PackedBlock {
    projection: Linear,
    attention_output: Linear,
    attention_norm: PackedNorm,
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
    output_norm: PackedNorm,
}

impl PackedBlock {
    /// Its products in the order of computing.
    fn products(&mut self) -> impl Iterator<Item = &mut Linear> {
        let PackedBlock { projection, attention_output, gate, up, down, .. } = self;
        [Some(projection), Some(attention_output), gate.as_mut(), Some(up), Some(down)].into_iter().flatten()
    }
}

/// Where a norm's gamma and beta lie in the arena.
struct PackedNorm {
    gamma: Range<usize>,
    beta: Range<usize>,
}

/// Packed weights of an encoder: immutable, shared by its executors.
pub struct Transformer {
    kernels: Kernels,
    precision: Precision,
    shape: Shape,
    arena: Arena,
    tables: Vec<Table>,
    embedding_norm: Option<PackedNorm>,
    position_bias: Option<PositionBias>,
    final_norm: Option<PackedNorm>,
    blocks: Vec<PackedBlock>,
}

impl Transformer {
    /// Packs an encoder.
    ///
    /// `block` gives the parameters of one block at a time, so that no more than one lies unpacked in memory. Sizes that
    /// do not fit the shape are errors.
    ///
    /// # Errors
    /// `Unusable` for such sizes, and what `block` says.
    pub fn new<E: From<Error>>(
        kernels: Kernels,
        precision: Precision,
        shape: Shape,
        outer: Outer,
        mut block: impl FnMut(usize) -> Result<Block, E>,
    ) -> Result<Transformer, E> {
        let mut refused = None;
        let mut given = |layer| block(layer).map_err(|error| refused = Some(error)).ok();
        let packed = Transformer::pack(kernels, precision, shape, outer, &mut given);
        refused.map_or_else(|| Ok(packed?), Err)
    }

    fn pack(
        kernels: Kernels,
        precision: Precision,
        shape: Shape,
        outer: Outer,
        block: &mut dyn FnMut(usize) -> Option<Block>,
    ) -> Result<Transformer> {
        let Shape { hidden, heads, intermediate, layers, style, .. } = shape;
        let Outer { tables, embedding_norm, position_bias, final_norm } = outer;
        let divided = heads > 0 && (hidden % heads == 0 || style.head_size.is_some());
        let sized = hidden > 0 && divided && intermediate > 0 && (1..1 << 10).contains(&shape.head_size());
        let sized = sized && heads < 1 << 10;
        if !sized || hidden.max(intermediate) > 1 << 20 || layers > 1 << 12 {
            return Err(Error::unusable(format!(
                "a transformer of {layers} layers, {hidden} hidden and {intermediate} intermediate columns and {heads} \
                 heads cannot be built: the heads must divide the hidden size"
            )));
        }
        if let Some(table) = tables.iter().find(|table| table.is_empty() || table.len() % hidden != 0) {
            return Err(Error::unusable(format!(
                "an embedding table of {} values has no rows of {hidden}",
                table.len()
            )));
        }
        // One after the other, so that each is freed before the next is packed.
        let tables = tables.into_iter().map(|table| Table::pack(precision, table, hidden)).collect::<Result<_>>()?;
        if let Some(bias) = &position_bias {
            bias.check(heads)?;
        }
        let width = shape.attention_width();
        let norm_room = 2 * Arena::room(hidden);
        let ups = if style.gated { 2 } else { 1 };
        let block_room = Linear::room((kernels, precision), 3 * width, hidden)
            + Linear::room((kernels, precision), hidden, width)
            + ups * Linear::room((kernels, precision), intermediate, hidden)
            + Linear::room((kernels, precision), hidden, intermediate)
            + 2 * norm_room;
        let mut arena = Arena::with_room(2 * norm_room + layers * block_room);
        let embedding_norm = embedding_norm.map(|norm| pack_norm(&mut arena, &norm, shape)).transpose()?;
        let final_norm = final_norm.map(|norm| pack_norm(&mut arena, &norm, shape)).transpose()?;
        // The scores' factor goes into the queries once and for all.
        let scale = if style.unscaled { 1.0 } else { 1.0 / (shape.head_size() as f32).sqrt() };
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let parameters = block(layer).ok_or_else(|| Error::unusable(format!("block {layer} is not there")))?;
            let mut pack = |parts: &[(&Dense, f32)], inputs: usize, outputs: usize| -> Result<Linear> {
                for (part, _) in parts {
                    if part.weight.len() != inputs * outputs {
                        return Err(Error::unusable(format!(
                            "a weight of {} values where {outputs} × {inputs} belong",
                            part.weight.len()
                        )));
                    }
                }
                Linear::pack((kernels, precision), &mut arena, parts, inputs)
            };
            let Block { query, key, value, .. } = &parameters;
            let projection = pack(&[(query, scale), (key, 1.0), (value, 1.0)], hidden, width)?;
            let attention_output = pack(&[(&parameters.attention_output, 1.0)], width, hidden)?;
            let up = pack(&[(&parameters.up, 1.0)], hidden, intermediate)?;
            if parameters.gate.is_some() != style.gated {
                return Err(Error::internal("a gated block has a gate, and no other"));
            }
            let gate = parameters.gate.as_ref().map(|gate| pack(&[(gate, 1.0)], hidden, intermediate)).transpose()?;
            let down = pack(&[(&parameters.down, 1.0)], intermediate, hidden)?;
            let attention_norm = pack_norm(&mut arena, &parameters.attention_norm, shape)?;
            let output_norm = pack_norm(&mut arena, &parameters.output_norm, shape)?;
            blocks.push(PackedBlock { projection, attention_output, attention_norm, up, gate, down, output_norm });
        }
        let mut products: Vec<_> = blocks.iter_mut().flat_map(PackedBlock::products).collect();
        for at in 1..products.len() {
            let (before, after) = products.split_at_mut(at);
            before[at - 1].set_next(after[0]);
        }
        Ok(Transformer { kernels, precision, shape, arena, tables, embedding_norm, position_bias, final_norm, blocks })
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernels it is packed for.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The numbers of its weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of packed weights and embedding tables.
    pub fn memory(&self) -> usize {
        size_of_val(self.arena.values()) + self.tables.iter().map(Table::memory).sum::<usize>()
    }

    /// What multiplies in place of vectors.
    fn unit(&self) -> Option<Unit> {
        self.kernels.unit(self.precision)
    }

    /// Whether a sequence of that many tokens is computed by vectors where there is a unit. That may depend on its own length
    /// alone: not on what it is packed with. Where weights serve both, a unit is not worth its while for so few rows.
    fn is_short(&self, tokens: usize) -> bool {
        let is_alike = matches!(self.precision, Precision::F32 | Precision::Int8);
        let serves_both = is_alike && self.kernels.panel_width() == UNIT_COLUMNS;
        self.unit().is_some() && serves_both && tokens < SHORT
    }

    /// Rows of an embedding table.
    pub fn table_rows(&self, table: usize) -> usize {
        self.tables[table].rows()
    }
}

fn pack_norm(arena: &mut Arena, norm: &Norm, shape: Shape) -> Result<PackedNorm> {
    let beta = if shape.style.rms_norm { 0 } else { shape.hidden };
    for (values, belong) in [(&norm.gamma, shape.hidden), (&norm.beta, beta)] {
        if values.len() != belong {
            return Err(Error::unusable(format!("a norm of {} values where {belong} belong", values.len())));
        }
    }
    Ok(PackedNorm { gamma: arena.put(&norm.gamma)?, beta: arena.put(&norm.beta)? })
}

/// By what a pass is computed, and what follows from it.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// What multiplies in place of vectors.
    unit: Option<Unit>,
    /// How products read their rows.
    form: Form,
    /// Words of the widest row that a product reads rounded.
    operand_words: usize,
    /// Words of a row between the feed-forward matrices.
    between_words: usize,
    /// Rows of a block in the rows schedule.
    block_rows: usize,
    /// Below how many rows per thread products are shared out by columns.
    few_rows: usize,
    /// Whether attention rounds to bf16: in precisions that round more than that, where it is faster.
    rounds_attention: bool,
}

impl Way {
    fn new(model: &Transformer, unit: Option<Unit>) -> Way {
        let Shape { hidden, intermediate, .. } = model.shape;
        let form = Form::of(model.precision, unit);
        let fast_attention = model.kernels.has_bf16_products() || unit.is_some();
        let mut way = Way {
            unit,
            form,
            operand_words: form.row_words(hidden.max(intermediate).max(model.shape.attention_width())),
            between_words: intermediate,
            block_rows: if unit.is_some() { UNIT_BLOCK_ROWS } else { BLOCK_ROWS },
            few_rows: few_rows(model.precision, unit.is_some()),
            rounds_attention: matches!(model.precision, Precision::Bf16 | Precision::Int8) && fast_attention,
        };
        if way.feeds_operand() {
            way.between_words = form.row_words(intermediate);
        }
        way
    }

    /// Whether the first feed-forward product writes what the second reads. Bytes have a scale that needs many columns.
    fn feeds_operand(&self) -> bool {
        matches!(self.form, Form::Parts(_))
    }
}

/// How a forward pass is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    Columns,
    Rows,
}

impl Schedule {
    fn for_rows(rows: usize, threads: usize, few: usize) -> Schedule {
        if threads > 1 && rows < few * threads { Schedule::Columns } else { Schedule::Rows }
    }
}

/// Into how many pieces a product's panels are cut: the fewest that make equal shares for all threads, if there is such a
/// number. A share too much for one thread, when a panel takes 30 µs, is time in which the others wait.
fn pieces(panels: usize, threads: usize) -> usize {
    let least = threads * PIECES;
    (least..=panels)
        .find(|pieces| panels.is_multiple_of(*pieces) && pieces.is_multiple_of(threads))
        .unwrap_or(panels.min(least))
}

/// Runs a [`Transformer`] with threads and scratch memory of its own.
pub struct Executor {
    model: Arc<Transformer>,
    team: Team,
    scratch: Scratch,
    /// The model's position bias for sequences of up to that many tokens.
    distances: (Arc<Vec<f32>>, usize),
}

/// Memory of a forward pass, kept for the next one. Rows are [`row_stride`] apart.
#[derive(Default)]
struct Scratch {
    /// The residual stream, `hidden` wide, and at the end the result.
    states: AlignedBuffer,
    /// Queries, keys and values, `3 × hidden` wide, and a panel beyond.
    projected: AlignedBuffer,
    /// What attention gives, `hidden` wide.
    context: AlignedBuffer,
    /// Columns schedule: sums before a norm, or with pre-norm what a norm gives, `hidden` wide.
    sums: AlignedBuffer,
    /// Columns schedule: between the feed-forward matrices, `intermediate` wide.
    between: AlignedBuffer,
    /// Columns schedule: the factors of a gated feed-forward, `intermediate` wide.
    gates: AlignedBuffer,
    /// Columns schedule: the rows of a product as its precision reads them.
    operand: AlignedBuffer,
    /// One per member: attention's scratch, or a block's sums, intermediate values and operand.
    members: Vec<AlignedBuffer>,
}

impl Executor {
    /// An executor with `threads` threads, the caller's included.
    pub fn new(model: Arc<Transformer>, threads: usize) -> Result<Executor> {
        let team = Team::new(threads)?;
        let members = (0..team.size()).map(|_| AlignedBuffer::default()).collect();
        let scratch = Scratch { members, ..Scratch::default() };
        Ok(Executor { model, team, scratch, distances: (Arc::default(), 0) })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Transformer> {
        &self.model
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.size()
    }

    /// Hidden states `[tokens, hidden]` of packed sequences with the given lengths. `rows` has, for each embedding
    /// table, the row of each token. An index beyond its table is an error.
    pub fn forward(&mut self, rows: &[&[u32]], lengths: &[usize]) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.model);
        let hidden = model.shape.hidden;
        let tokens = lengths.iter().sum::<usize>();
        if rows.len() != model.tables.len() || rows.iter().any(|rows| rows.len() != tokens) {
            return Err(Error::internal("one row of every embedding table per token is needed"));
        }
        for (index, rows) in rows.iter().enumerate() {
            let count = model.table_rows(index);
            if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
                return Err(Error::invalid(format!("row {row} of an embedding table with {count} rows")));
            }
        }
        let is_short = |&length: &usize| model.is_short(length);
        if !lengths.iter().any(is_short) || lengths.iter().all(is_short) {
            let unit = model.unit().filter(|_| !lengths.iter().any(is_short));
            return self.pass(rows.iter().map(|rows| rows.to_vec()).collect(), lengths, unit);
        }
        // Those of each kind together, and back to their places.
        let mut states = vec![0f32; tokens * hidden];
        for (unit, short) in [(None, true), (model.unit(), false)] {
            let starts = lengths.iter().scan(0, |end, &length| {
                *end += length;
                Some(*end - length..*end)
            });
            let ranges: Vec<_> = starts.filter(|range| model.is_short(range.len()) == short).collect();
            let of_kind = |rows: &&[u32]| ranges.iter().flat_map(|range| &rows[range.clone()]).copied().collect();
            let lengths: Vec<_> = ranges.iter().map(ExactSizeIterator::len).collect();
            let part = self.pass(rows.iter().map(of_kind).collect(), &lengths, unit)?;
            let mut part = &part[..];
            for range in ranges {
                let (first, rest) = part.split_at(range.len() * hidden);
                states[range.start * hidden..range.end * hidden].copy_from_slice(first);
                part = rest;
            }
        }
        Ok(states)
    }

    /// Hidden states of sequences that are computed in the same way: on a unit or by vectors.
    fn pass(&mut self, rows: Vec<Vec<u32>>, lengths: &[usize], unit: Option<Unit>) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.model);
        let hidden = model.shape.hidden;
        let tokens = lengths.iter().sum::<usize>();
        if tokens == 0 {
            return Ok(Vec::new());
        }
        let way = Way::new(&model, unit);
        let schedule = Schedule::for_rows(tokens, self.team.size(), way.few_rows);
        let sequences: Vec<_> = lengths
            .iter()
            .scan(0, |start, &length| {
                *start += length;
                Some(*start - length..*start)
            })
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if let Some(bias) = &model.position_bias
            && longest > self.distances.1
        {
            // Room to grow, so that slowly growing lengths do not rebuild it each time.
            let longest = longest.next_power_of_two();
            self.distances = (Arc::new(bias.by_distance(model.shape.heads, longest)), longest);
        }
        let distances = self.distances.clone();
        let memory = self.scratch.prepare(&model, way, schedule, tokens, longest);
        let pass = Pass { model, way, schedule, rows, sequences, tokens, threads: self.team.size(), distances, memory };
        self.team.run(Arc::new(move |member: &Member<'_>| pass.take_part(member)))?;
        let mut states = Vec::with_capacity(tokens * hidden);
        for row in self.scratch.states.chunks_exact(row_stride(hidden)).take(tokens) {
            states.extend_from_slice(&row[..hidden]);
        }
        Ok(states)
    }
}

impl Scratch {
    /// Makes room for a pass.
    fn prepare(&mut self, model: &Transformer, way: Way, schedule: Schedule, tokens: usize, longest: usize) -> Memory {
        let Shape { hidden, intermediate, style, .. } = model.shape;
        let (width, head) = (model.shape.attention_width(), model.shape.head_size());
        let mut member = match way.rounds_attention {
            true => attention_bf16::scratch_len(model.kernels, way.unit, longest, head),
            false => attention::scratch_len(model.kernels, longest, head),
        };
        let operand = way.operand_words;
        let (column_tokens, block_rows) = match schedule {
            // Operands in whole tiles of rows.
            Schedule::Columns => (tokens.next_multiple_of(TILE_ROWS), 0),
            Schedule::Rows => (0, way.block_rows),
        };
        let gates = if style.gated { row_stride(intermediate) } else { 0 };
        let row = row_stride(hidden) + row_stride(way.between_words) + gates + row_stride(operand);
        let unit = if way.unit.is_some() { UNIT_SCRATCH } else { 0 };
        member = member.max(block_rows * row + unit);
        Memory {
            states: Matrix::with_room(&mut self.states, tokens, hidden, 0),
            projected: Matrix::with_room(&mut self.projected, tokens, 3 * width, model.kernels.panel_width()),
            context: Matrix::with_room(&mut self.context, tokens, width, 0),
            sums: Matrix::with_room(&mut self.sums, column_tokens, hidden, 0),
            between: Matrix::with_room(&mut self.between, column_tokens, way.between_words, 0),
            gates: Matrix::with_room(&mut self.gates, if style.gated { column_tokens } else { 0 }, intermediate, 0),
            operand: Matrix::with_room(&mut self.operand, column_tokens, operand, 0),
            members: self.members.iter_mut().map(|memory| MemberMemory::with_room(memory, member)).collect(),
        }
    }
}

/// Distance of a matrix' rows: an odd number of cache lines, so that the same columns of neighbouring rows do not compete
/// for the same few lines of the cache.
fn row_stride(columns: usize) -> usize {
    (columns.div_ceil(16) | 1) * 16
}

/// A matrix that the members of a team share. They keep to rows or columns that the schedule gives to one of them per
/// phase, or only read.
#[derive(Clone, Copy)]
struct Matrix {
    start: *mut f32,
    stride: usize,
}

// SAFETY: only a pointer; every access is in an `unsafe` block that says why it is alone.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// A matrix in a buffer that is made large enough for it and some values beyond.
    fn with_room(buffer: &mut AlignedBuffer, rows: usize, columns: usize, beyond: usize) -> Matrix {
        let stride = row_stride(columns);
        buffer.reserve(rows * stride + beyond);
        Matrix { start: buffer.as_mut_ptr(), stride }
    }

    /// The matrix without its first rows.
    ///
    /// # Safety
    /// It must have these rows.
    unsafe fn skip_rows(self, row: usize) -> Matrix {
        // SAFETY: handed on.
        Matrix { start: unsafe { self.start.add(row * self.stride) }, ..self }
    }

    /// It as the left factor of a product.
    fn input(self) -> (*const f32, usize) {
        (self.start, self.stride)
    }

    /// It as a result.
    fn out(self) -> (*mut f32, usize) {
        (self.start, self.stride)
    }

    /// It as what is added to a product.
    fn residual(self) -> Epilogue {
        Epilogue::Residual(self.start, self.stride)
    }
}

/// What a product reads.
#[derive(Clone, Copy)]
enum Input {
    /// f32, and the activation that is yet to be applied.
    Values(Matrix, Option<Activation>),
    /// Rows as the product reads them.
    Ready(Matrix),
}

/// What a product writes.
#[derive(Clone, Copy)]
enum Output {
    /// f32.
    Values(Matrix),
    /// Rows as the next product reads them.
    Operand(Matrix),
}

impl Output {
    fn out(self) -> (*mut f32, usize) {
        match self {
            Output::Values(matrix) | Output::Operand(matrix) => matrix.out(),
        }
    }
}

/// A member's memory that is not given away yet.
struct Room {
    at: *mut f32,
    left: usize,
}

impl Room {
    /// A matrix from its front.
    fn matrix(&mut self, rows: usize, columns: usize) -> Matrix {
        let matrix = Matrix { start: self.at, stride: row_stride(columns) };
        let taken = rows * matrix.stride;
        assert!(taken <= self.left, "a member's memory is too small");
        (self.at, self.left) = (self.at.wrapping_add(taken), self.left - taken);
        matrix
    }
}

/// Memory of one member.
struct MemberMemory {
    start: *mut f32,
    len: usize,
}

// SAFETY: as for `Matrix`; a member accesses only its own.
unsafe impl Send for MemberMemory {}
// SAFETY: as above.
unsafe impl Sync for MemberMemory {}

impl MemberMemory {
    fn with_room(buffer: &mut AlignedBuffer, len: usize) -> MemberMemory {
        buffer.reserve(len);
        MemberMemory { start: buffer.as_mut_ptr(), len: buffer.len() }
    }
}

/// The buffers of [`Scratch`] while the members share them.
struct Memory {
    states: Matrix,
    projected: Matrix,
    context: Matrix,
    sums: Matrix,
    between: Matrix,
    gates: Matrix,
    operand: Matrix,
    members: Vec<MemberMemory>,
}

/// One forward pass, as its members see it. A member that comes late may hold it longer than the pass lasts: what
/// `memory` points to is accessed within items only, and then none are left.
struct Pass {
    model: Arc<Transformer>,
    way: Way,
    schedule: Schedule,
    /// Per embedding table, the row of each token.
    rows: Vec<Vec<u32>>,
    sequences: Vec<Range<usize>>,
    tokens: usize,
    threads: usize,
    /// The position bias by head and distance, and for how many tokens.
    distances: (Arc<Vec<f32>>, usize),
    memory: Memory,
}

impl Pass {
    fn take_part(&self, member: &Member<'_>) {
        match self.schedule {
            Schedule::Columns => self.by_columns(member),
            Schedule::Rows => self.by_rows(member),
        }
    }

    fn by_columns(&self, member: &Member<'_>) {
        let Memory { states, projected, context, sums, between, gates, operand, .. } = self.memory;
        let Shape { hidden, intermediate, style, .. } = self.model.shape;
        let width = self.model.shape.attention_width();
        // Sums go to their own buffer and norms of them to the states; with pre-norm the other way round: sums stay in
        // the states.
        let (added, normed) = if style.pre_norm { (states, sums) } else { (sums, states) };
        // What a product reads: the matrix itself, or its rows rounded into the operand.
        let (rounds, feeds) = (self.rounds(), self.way.feeds_operand());
        let [from_normed, from_context] = [normed, context].map(|matrix| if rounds { operand } else { matrix });
        let from_between = if rounds && !feeds { operand } else { between };
        let round = |matrix, width, activation, rows| {
            if rounds {
                self.round(matrix, width, activation, operand, rows);
            }
        };
        // A norm of what was added up, for the next product to read.
        let norm = |norm: &PackedNorm| {
            self.each_rows(member, |rows| {
                self.norm(norm, (added, normed), rows.clone());
                round(normed, hidden, None, rows);
            });
        };
        let (up_epilogue, late_activation) = self.after_up(gates);
        self.each_rows(member, |rows| {
            self.embed(states, rows.clone());
            if let Some(norm) = &self.model.embedding_norm {
                self.norm(norm, (states, states), rows.clone());
            }
            if !style.pre_norm {
                round(states, hidden, None, rows);
            }
        });
        for block in &self.model.blocks {
            if style.pre_norm {
                norm(&block.attention_norm);
            }
            self.product_by_columns(
                member,
                &block.projection,
                (from_normed, Output::Values(projected)),
                Epilogue::Bias,
            );
            self.attend(member);
            if rounds {
                self.each_rows(member, |rows| round(context, width, None, rows));
            }
            let output = (from_context, Output::Values(added));
            self.product_by_columns(member, &block.attention_output, output, states.residual());
            norm(if style.pre_norm { &block.output_norm } else { &block.attention_norm });
            if let Some(gate) = &block.gate {
                self.product_by_columns(member, gate, (from_normed, Output::Values(gates)), Epilogue::Bias);
            }
            let output = if feeds { Output::Operand(between) } else { Output::Values(between) };
            self.product_by_columns(member, &block.up, (from_normed, output), up_epilogue);
            if rounds && !feeds {
                self.each_rows(member, |rows| round(between, intermediate, late_activation, rows));
            }
            self.product_by_columns(member, &block.down, (from_between, Output::Values(added)), states.residual());
            if !style.pre_norm {
                norm(&block.output_norm);
            }
        }
        if let Some(norm) = &self.model.final_norm {
            self.each_rows(member, |rows| self.norm(norm, (states, states), rows));
        }
    }

    /// What the product with `up` does after its sums (`gates` holds its factors, if there are any), and which activation
    /// is left to the pass that rounds the rows: where there is one, and no gate, it applies the activation too. There is
    /// none where the product writes rounded rows itself.
    fn after_up(&self, gates: Matrix) -> (Epilogue, Option<Activation>) {
        let Shape { activation, style, .. } = self.model.shape;
        match (style.gated, self.rounds() && !self.way.feeds_operand()) {
            (true, _) => (Epilogue::Gated(activation, gates.start, gates.stride), None),
            (false, true) => (Epilogue::Bias, Some(activation)),
            (false, false) => (Epilogue::Activation(activation), None),
        }
    }

    fn by_rows(&self, member: &Member<'_>) {
        let Memory { states, projected, context, .. } = self.memory;
        let Shape { hidden, intermediate, style, .. } = self.model.shape;
        let own = &self.memory.members[member.index()];
        let most_rows = self.way.block_rows;
        // The member's own sums (with pre-norm, norms) and intermediate values; row 0 is the block's first.
        let mut room = Room { at: own.start, left: own.len };
        let sums = room.matrix(most_rows, hidden);
        let between = room.matrix(most_rows, self.way.between_words);
        let gates = if style.gated { room.matrix(most_rows, intermediate) } else { between };
        let operand = room.matrix(most_rows, self.way.operand_words);
        let rest = (operand, (room.at, room.left));
        let feeds = self.way.feeds_operand();
        let (up_epilogue, late_activation) = self.after_up(gates);
        // As many blocks for each thread, on a unit in whole tiles.
        let count = self.tokens.div_ceil(most_rows).next_multiple_of(self.threads);
        let step = if self.way.unit.is_some() { TILE_ROWS } else { 1 };
        let steps = self.tokens.div_ceil(step);
        let start_of = |item: usize| (steps * item / count * step).min(self.tokens);
        let block_of = |item: usize| start_of(item)..start_of(item + 1);
        // Queries, keys and values of a block's rows.
        let project = |block: &PackedBlock, (states, projected): (Matrix, Matrix), rows: Range<usize>| {
            let mut input = states;
            if style.pre_norm {
                self.norm(&block.attention_norm, (states, sums), rows.clone());
                input = sums;
            }
            let input = Input::Values(input, None);
            self.product(&block.projection, (input, rest), Output::Values(projected), Epilogue::Bias, rows);
        };
        member.phase(count, |item| {
            let rows = block_of(item);
            self.embed(states, rows.clone());
            if let Some(norm) = &self.model.embedding_norm {
                self.norm(norm, (states, states), rows.clone());
            }
            if let Some(first) = self.model.blocks.first() {
                // SAFETY: the matrices have `tokens` rows.
                let [states, projected] = [states, projected].map(|matrix| unsafe { matrix.skip_rows(rows.start) });
                project(first, (states, projected), 0..rows.len());
            }
        });
        for (layer, block) in self.model.blocks.iter().enumerate() {
            self.attend(member);
            member.phase(count, |item| {
                let rows = block_of(item);
                // SAFETY: the matrices have `tokens` rows.
                let [states, context, projected] =
                    [states, context, projected].map(|matrix| unsafe { matrix.skip_rows(rows.start) });
                let rows = 0..rows.len();
                let residual = states.residual();
                // As in the columns schedule.
                let (added, normed) = if style.pre_norm { (states, sums) } else { (sums, states) };
                let feed_norm = if style.pre_norm { &block.output_norm } else { &block.attention_norm };
                let from_context = (Input::Values(context, None), rest);
                self.product(&block.attention_output, from_context, Output::Values(added), residual, rows.clone());
                self.norm(feed_norm, (added, normed), rows.clone());
                let from_normed = (Input::Values(normed, None), rest);
                if let Some(gate) = &block.gate {
                    self.product(gate, from_normed, Output::Values(gates), Epilogue::Bias, rows.clone());
                }
                let (output, input) = match feeds {
                    true => (Output::Operand(between), Input::Ready(between)),
                    false => (Output::Values(between), Input::Values(between, late_activation)),
                };
                self.product(&block.up, from_normed, output, up_epilogue, rows.clone());
                self.product(&block.down, (input, rest), Output::Values(added), residual, rows.clone());
                if !style.pre_norm {
                    self.norm(&block.output_norm, (sums, states), rows.clone());
                }
                match (self.model.blocks.get(layer + 1), &self.model.final_norm) {
                    (Some(next), _) => project(next, (states, projected), rows),
                    (None, Some(norm)) => self.norm(norm, (states, states), rows),
                    (None, None) => {}
                }
            });
        }
    }

    /// Runs work on all rows, a few at a time, shared out.
    fn each_rows(&self, member: &Member<'_>, work: impl Fn(Range<usize>)) {
        let most = self.tokens.div_ceil(self.threads).min(NORM_ROWS);
        let count = self.tokens.div_ceil(most);
        member.phase(count, |item| work(item * most..((item + 1) * most).min(self.tokens)));
    }

    /// Whether products read rounded rows.
    fn rounds(&self) -> bool {
        self.way.form != Form::Plain
    }

    /// Rounds rows of a matrix, after an activation if there is one, into the same rows of an operand.
    fn round(&self, input: Matrix, width: usize, activation: Option<Activation>, operand: Matrix, rows: Range<usize>) {
        let rounding = (self.way.form, width, activation);
        // SAFETY: both matrices have these rows, as wide as needed, and they are given to this member.
        let task = unsafe { OperandTask::new(rounding, input.out(), operand.out(), rows) };
        self.model.kernels.run(task);
    }

    /// Sums of embedding rows.
    fn embed(&self, out: Matrix, tokens: Range<usize>) {
        let Transformer { kernels, shape: Shape { hidden, .. }, ref tables, .. } = *self.model;
        // SAFETY: `out` has `tokens` rows, and these are given to this member; the indices were checked before the pass.
        kernels.run(unsafe { EmbedTask::new((tables, &self.rows), hidden, out.out(), tokens) });
    }

    /// The norm of some rows.
    fn norm(&self, norm: &PackedNorm, (input, out): (Matrix, Matrix), rows: Range<usize>) {
        let Shape { style, epsilon, .. } = self.model.shape;
        let arena = self.model.arena.values();
        let (gamma, beta) = (&arena[norm.gamma.clone()], &arena[norm.beta.clone()]);
        let (input, out) = (input.input(), out.out());
        if style.rms_norm {
            // SAFETY: both matrices have these rows, and those of `out` are given to this member.
            let task = unsafe { RmsNormTask::new((gamma, epsilon), input, out, rows) };
            self.model.kernels.run(task);
        } else {
            // SAFETY: as above.
            let task = unsafe { LayerNormTask::new((gamma, beta, epsilon), input, out, rows) };
            self.model.kernels.run(task);
        }
    }

    /// All columns of some rows of a product, by this member alone. The input is what may have to be rounded, after an
    /// activation, into the member's own operand, of which a unit's products need some more memory.
    fn product(
        &self,
        linear: &Linear,
        (input, (operand, scratch)): (Input, (Matrix, (*mut f32, usize))),
        out: Output,
        epilogue: Epilogue,
        rows: Range<usize>,
    ) {
        let input = match input {
            Input::Values(input, activation) if self.rounds() => {
                self.round(input, linear.inputs(), activation, operand, rows.clone());
                operand
            }
            Input::Values(input, _) | Input::Ready(input) => input,
        };
        let layer = (linear, &self.model.arena);
        // SAFETY: the matrices have these rows, as wide as the layer, and operands whole tiles of them; those of `out` are
        // given to this member, and the input's were written by it or in an earlier phase. The scratch memory is its own.
        let task = unsafe { LinearTask::new(layer, input.input(), out.out(), epilogue, rows).with_scratch(scratch) };
        self.model.kernels.run(self.written_as(task, out));
    }

    /// A product by the pass' way, that writes what its output takes.
    fn written_as<'a>(&self, task: LinearTask<'a>, out: Output) -> LinearTask<'a> {
        let task = if self.way.unit.is_none() { task.by_vectors() } else { task };
        match out {
            Output::Values(_) => task,
            Output::Operand(_) => task.writing_operand(),
        }
    }

    /// All rows of a product, its columns shared out.
    fn product_by_columns(
        &self,
        member: &Member<'_>,
        linear: &Linear,
        (input, out): (Matrix, Output),
        epilogue: Epilogue,
    ) {
        let own = &self.memory.members[member.index()];
        let panels = linear.panels();
        let pieces = pieces(panels.count, self.threads);
        let start_of = |panels: Panels, item: usize, pieces: usize| panels.count * item / pieces;
        member.phase(pieces, |item| {
            let piece = start_of(panels, item, pieces)..start_of(panels, item + 1, pieces);
            // When all are equally fast, each member's next piece is as many on as there are members.
            let then = match (item + self.threads, linear.next()) {
                (coming, _) if coming < pieces => Some(panels.at(start_of(panels, coming, pieces))),
                (coming, Some(next)) => {
                    let next_pieces = self::pieces(next.count, self.threads);
                    Some(next.at(start_of(next, coming - pieces, next_pieces)))
                }
                (_, None) => None,
            };
            let layer = (linear, &self.model.arena);
            // SAFETY: the matrices have `tokens` rows, as wide as the layer, and operands whole tiles of them; the piece's
            // columns of `out` are given to this member, and the input was written in an earlier phase. The scratch memory
            // is its own.
            let task = unsafe {
                LinearTask::new(layer, input.input(), out.out(), epilogue, 0..self.tokens)
                    .with_scratch((own.start, own.len))
            };
            self.model.kernels.run(self.written_as(task, out).panels(piece, then));
        });
    }

    /// Attention of every sequence and head, shared out.
    fn attend(&self, member: &Member<'_>) {
        let Shape { heads, .. } = self.model.shape;
        let size = self.model.shape.head_size();
        let has_bias = self.model.position_bias.is_some();
        let Memory { projected, context, ref members, .. } = self.memory;
        let own = &members[member.index()];
        member.phase(self.sequences.len() * heads, |item| {
            let sequence = &self.sequences[item / heads];
            // SAFETY: the scratch is this member's own. The sequence's rows exist, their queries, keys and values were
            // written in an earlier phase, and the buffer has a panel beyond the last. The head's columns of the
            // context are given to this member.
            unsafe {
                let scratch = std::slice::from_raw_parts_mut(own.start, own.len);
                let rows = Heads {
                    projected: projected.skip_rows(sequence.start).start,
                    stride: projected.stride,
                    heads,
                    size,
                    tokens: sequence.len(),
                };
                let out = context.skip_rows(sequence.start).out();
                let head = item % heads;
                let mut task = AttentionTask::new(rows, head, 0..sequence.len(), out, scratch);
                if has_bias {
                    let (ref distances, longest) = self.distances;
                    task = task.with_bias(&distances[head * (2 * longest - 1)..][..2 * longest - 1], longest - 1);
                }
                match self.way.rounds_attention {
                    true => self.model.kernels.run(RoundedAttentionTask(task, self.way.unit)),
                    false => self.model.kernels.run(task),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    const SHAPE: Shape = Shape {
        hidden: 40,
        heads: 2,
        intermediate: 70,
        layers: 2,
        activation: Activation::GeluTanh,
        epsilon: 1e-5,
        style: Style { pre_norm: false, rms_norm: false, unscaled: false, gated: false, head_size: None },
    };
    /// As T5 is made, with heads wider than the hidden states.
    const T5: Shape = Shape {
        style: Style { pre_norm: true, rms_norm: true, unscaled: true, gated: true, head_size: Some(24) },
        ..SHAPE
    };

    fn block(shape: Shape, seed: u64) -> Block {
        let Shape { hidden, intermediate, style, .. } = shape;
        let width = shape.attention_width();
        let dense = |outputs: usize, inputs: usize, seed: u64| Dense {
            weight: values(outputs * inputs, seed).iter().map(|x| x * 0.3).collect(),
            bias: values(outputs, seed + 1),
        };
        Block {
            query: dense(width, hidden, seed),
            key: dense(width, hidden, seed + 10),
            value: dense(width, hidden, seed + 20),
            attention_output: dense(hidden, width, seed + 30),
            attention_norm: norm(shape, seed + 40),
            up: dense(intermediate, hidden, seed + 50),
            gate: style.gated.then(|| dense(intermediate, hidden, seed + 55)),
            down: dense(hidden, intermediate, seed + 60),
            output_norm: norm(shape, seed + 70),
        }
    }

    fn norm(shape: Shape, seed: u64) -> Norm {
        let beta = if shape.style.rms_norm { 0 } else { shape.hidden };
        Norm { gamma: values(shape.hidden, seed), beta: values(beta, seed + 1) }
    }

    fn outer(shape: Shape) -> Outer {
        let tables = vec![values(300 * shape.hidden, 3)];
        match shape.style.pre_norm {
            false => Outer { tables, embedding_norm: Some(norm(shape, 1)), ..Outer::default() },
            true => Outer {
                tables,
                embedding_norm: None,
                position_bias: Some(PositionBias { values: values(32 * shape.heads, 4), max_distance: 128 }),
                final_norm: Some(norm(shape, 5)),
            },
        }
    }

    fn model(kernels: Kernels, precision: Precision, shape: Shape) -> Arc<Transformer> {
        let block = |layer| Ok::<_, Error>(block(shape, 100 * layer as u64));
        Arc::new(Transformer::new(kernels, precision, shape, outer(shape), block).unwrap())
    }

    /// Every kernel with BERT's blocks and with T5's, in every precision.
    fn cases() -> impl Iterator<Item = (Kernels, Precision, Shape)> {
        let shapes = Precision::ALL.into_iter().flat_map(|precision| [SHAPE, T5].map(|shape| (precision, shape)));
        let kernels = || Kernels::every().into_iter().chain(Kernels::emulated().into_iter().take(1));
        shapes.flat_map(move |(precision, shape)| kernels().map(move |k| (k, precision, shape)))
    }

    #[test]
    fn both_schedules_give_the_same_bits_for_any_number_of_rows() {
        for (kernels, precision, shape) in cases() {
            let model = model(kernels, precision, shape);
            let mut one = Executor::new(Arc::clone(&model), 1).unwrap();
            for threads in [2, 3] {
                let mut several = Executor::new(Arc::clone(&model), threads).unwrap();
                let few = Way::new(&model, model.unit()).few_rows * threads;
                for length in [1, 2, 5, 13, 30, few - 1, few, 2 * BLOCK_ROWS + 1, 250] {
                    let rows: Vec<u32> = (0..length as u32).map(|i| i * 37 % 300).collect();
                    let expected = one.forward(&[&rows], &[length]).unwrap();
                    assert!(expected.iter().all(|x| x.is_finite()));
                    let got = several.forward(&[&rows], &[length]).unwrap();
                    assert_eq!(got, expected, "{kernels:?} {precision}, {threads} threads, {length} rows");
                    // Cut in two, the second half starts within a tile and a block of the others.
                    let (left, right) = (length / 3, length - length / 3);
                    let cut = several.forward(&[&rows], &[left, right]).unwrap();
                    let alone = one.forward(&[&rows[left..]], &[right]).unwrap();
                    assert_eq!(
                        cut[left * SHAPE.hidden..],
                        alone,
                        "{kernels:?} {precision}, {threads} threads, {length} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn few_rows_are_shared_out_by_columns_and_many_by_rows() {
        for precision in Precision::ALL {
            let few = few_rows(precision, false);
            assert_eq!(Schedule::for_rows(1, 1, few), Schedule::Rows);
            assert_eq!(Schedule::for_rows(2 * few - 1, 2, few), Schedule::Columns);
            assert_eq!(Schedule::for_rows(2 * few, 2, few), Schedule::Rows);
        }
    }

    #[test]
    fn pieces_are_equal_shares_where_they_can_be() {
        assert_eq!([12, 36, 48, 24, 72].map(|panels| pieces(panels, 2)), [12, 12, 8, 8, 8]);
        assert_eq!(pieces(12, 3), 12);
        for (panels, threads) in [(1, 2), (2, 2), (7, 2), (12, 5), (12, 16), (13, 3)] {
            let pieces = pieces(panels, threads);
            assert!((1..=panels).contains(&pieces), "{panels} panels, {threads} threads: {pieces}");
        }
    }

    #[test]
    fn scratch_memory_of_a_longer_pass_does_not_change_a_shorter_one() {
        for (kernels, precision, shape) in cases() {
            let mut executor = Executor::new(model(kernels, precision, shape), 2).unwrap();
            let rows: Vec<u32> = (0..200).collect();
            let before = executor.forward(&[&rows[..20]], &[20]).unwrap();
            executor.forward(&[&rows], &[200]).unwrap();
            assert_eq!(executor.forward(&[&rows[..20]], &[20]).unwrap(), before);
        }
    }

    #[test]
    fn wrong_indices_and_lengths_are_errors() {
        let mut executor = Executor::new(model(Kernels::detect(), Precision::Int8, SHAPE), 2).unwrap();
        assert!(executor.forward(&[&[0, 1, 299]], &[3]).is_ok());
        assert!(executor.forward(&[&[0, 1, 300]], &[3]).is_err(), "no such row");
        assert!(executor.forward(&[&[0, 1, 2]], &[2]).is_err(), "a token too many");
        assert!(executor.forward(&[&[0, 1], &[0, 1]], &[2]).is_err(), "a table too many");
        assert!(executor.forward(&[], &[2]).is_err(), "no table");
        assert!(executor.forward(&[&[]], &[0, 0]).unwrap().is_empty());
    }

    #[test]
    fn parameters_that_do_not_fit_the_shape_are_errors() {
        let kernels = Kernels::detect();
        let build = |shape: Shape, table: usize, change: &dyn Fn(&mut Block)| {
            let outer = Outer { tables: vec![vec![0.0; table]], ..outer(SHAPE) };
            Transformer::new(kernels, Precision::F32, shape, outer, |layer| {
                let mut block = block(SHAPE, layer as u64);
                change(&mut block);
                Ok::<_, Error>(block)
            })
            .map(|_| ())
        };
        let table = 3 * SHAPE.hidden;
        build(SHAPE, table, &|_| ()).unwrap();
        assert!(build(SHAPE, table + 1, &|_| ()).is_err());
        assert!(build(SHAPE, 0, &|_| ()).is_err());
        for shape in [
            Shape { heads: 3, ..SHAPE },
            Shape { heads: 0, ..SHAPE },
            Shape { hidden: 0, ..SHAPE },
            Shape { hidden: usize::MAX - 1, ..SHAPE },
            Shape { layers: usize::MAX, ..SHAPE },
            Shape { intermediate: 71, ..SHAPE },
            Shape { style: Style { head_size: Some(0), ..Style::default() }, ..SHAPE },
            Shape { style: Style { head_size: Some(21), ..Style::default() }, ..SHAPE },
            Shape { style: Style { rms_norm: true, ..Style::default() }, ..SHAPE },
            Shape { style: Style { gated: true, ..Style::default() }, ..SHAPE },
        ] {
            assert!(build(shape, table, &|_| ()).is_err(), "{shape:?}");
        }
        let changes: [&dyn Fn(&mut Block); 6] = [
            &|block| block.query.weight.truncate(40),
            &|block| block.key.bias.truncate(39),
            &|block| block.up.weight.extend([0.0; 40]),
            &|block| std::mem::swap(&mut block.up.bias, &mut block.down.bias),
            &|block| block.output_norm.beta.push(0.0),
            &|block| block.gate = Some(block.up.clone()),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert!(build(SHAPE, table, change).is_err(), "change {index}");
        }
    }
}
