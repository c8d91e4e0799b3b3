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
use super::linear::{Arena, Dense, Epilogue, Linear, LinearTask};
use super::math::Activation;
use super::memory::AlignedBuffer;
use super::norm::LayerNormTask;
use super::simd::Kernels;
use super::team::{Member, Team};
use crate::error::{Error, Result};

/// Below this many rows per thread products are shared out by columns.
const FEW_ROWS: usize = 40;
/// Rows of a block in the rows schedule: its feed-forward values stay in the second-level cache.
const BLOCK_ROWS: usize = 56;
/// Pieces per thread into which a product's columns are cut, so that a delayed thread holds up little.
const PIECES: usize = 4;
/// Rows that one thread embeds or norms at a time in the columns schedule.
const NORM_ROWS: usize = 8;

/// Sizes of a stack of post-norm transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`.
    pub heads: usize,
    /// Width between the two feed-forward matrices.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// The feed-forward activation.
    pub activation: Activation,
    /// LayerNorm's epsilon.
    pub epsilon: f32,
}

/// LayerNorm's parameters, `[hidden]` each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Norm {
    /// The factor per column.
    pub gamma: Vec<f32>,
    /// What is added per column.
    pub beta: Vec<f32>,
}

/// The parameters of one block: attention, add and norm, feed-forward, add and norm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// `[hidden, hidden]`
    pub query: Dense,
    /// `[hidden, hidden]`
    pub key: Dense,
    /// `[hidden, hidden]`
    pub value: Dense,
    /// `[hidden, hidden]`
    pub attention_output: Dense,
    /// After the attention's output and its input are added.
    pub attention_norm: Norm,
    /// `[intermediate, hidden]`
    pub up: Dense,
    /// `[hidden, intermediate]`
    pub down: Dense,
    /// After the feed-forward's output and its input are added.
    pub output_norm: Norm,
}

/// A packed block.
struct PackedBlock {
    projection: Linear,
    attention_output: Linear,
    attention_norm: PackedNorm,
    up: Linear,
    down: Linear,
    output_norm: PackedNorm,
}

/// Where a norm's gamma and beta lie in the arena.
struct PackedNorm {
    gamma: Range<usize>,
    beta: Range<usize>,
}

/// Packed weights of an encoder: immutable, shared by its executors.
pub struct Transformer {
    kernels: Kernels,
    shape: Shape,
    arena: Arena,
    tables: Vec<Vec<f32>>,
    embedding_norm: PackedNorm,
    blocks: Vec<PackedBlock>,
}

impl Transformer {
    /// Packs an encoder whose embedding is the norm of the sum of one row from each of `tables` (`[rows, hidden]`).
    ///
    /// `block` gives the parameters of one block at a time, so that no more than one lies unpacked in memory. Sizes that
    /// do not fit the shape are errors.
    pub fn new(
        kernels: Kernels,
        shape: Shape,
        tables: Vec<Vec<f32>>,
        embedding_norm: &Norm,
        mut block: impl FnMut(usize) -> Result<Block>,
    ) -> Result<Transformer> {
        let Shape { hidden, heads, intermediate, layers, .. } = shape;
        let sized = hidden > 0 && heads > 0 && intermediate > 0 && hidden % heads == 0;
        if !sized || hidden.max(intermediate) > 1 << 20 || layers > 1 << 12 {
            return Err(Error::config(format!(
                "a transformer of {layers} layers, {hidden} hidden and {intermediate} intermediate columns and {heads} \
                 heads cannot be built: the heads must divide the hidden size"
            )));
        }
        if let Some(table) = tables.iter().find(|table| table.is_empty() || table.len() % hidden != 0) {
            return Err(Error::config(format!("an embedding table of {} values has no rows of {hidden}", table.len())));
        }
        let norm_room = 2 * Arena::room(hidden);
        let block_room = Linear::room(kernels, 3 * hidden, hidden)
            + Linear::room(kernels, hidden, hidden)
            + Linear::room(kernels, intermediate, hidden)
            + Linear::room(kernels, hidden, intermediate)
            + 2 * norm_room;
        let mut arena = Arena::with_room(norm_room + layers * block_room);
        let embedding_norm = pack_norm(&mut arena, embedding_norm, hidden)?;
        // The scores' factor goes into the queries once and for all.
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let parameters = block(layer)?;
            let mut pack = |parts: &[(&Dense, f32)], inputs: usize, outputs: usize| -> Result<Linear> {
                for (part, _) in parts {
                    if part.weight.len() != inputs * outputs {
                        return Err(Error::config(format!(
                            "a weight of {} values where {outputs} × {inputs} belong",
                            part.weight.len()
                        )));
                    }
                }
                Linear::pack(kernels, &mut arena, parts, inputs)
            };
            let Block { query, key, value, .. } = &parameters;
            let projection = pack(&[(query, scale), (key, 1.0), (value, 1.0)], hidden, hidden)?;
            let attention_output = pack(&[(&parameters.attention_output, 1.0)], hidden, hidden)?;
            let up = pack(&[(&parameters.up, 1.0)], hidden, intermediate)?;
            let down = pack(&[(&parameters.down, 1.0)], intermediate, hidden)?;
            let attention_norm = pack_norm(&mut arena, &parameters.attention_norm, hidden)?;
            let output_norm = pack_norm(&mut arena, &parameters.output_norm, hidden)?;
            blocks.push(PackedBlock { projection, attention_output, attention_norm, up, down, output_norm });
        }
        Ok(Transformer { kernels, shape, arena, tables, embedding_norm, blocks })
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernels it is packed for.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Bytes of packed weights and embedding tables.
    pub fn memory(&self) -> usize {
        (self.arena.values().len() + self.tables.iter().map(Vec::len).sum::<usize>()) * size_of::<f32>()
    }

    /// Rows of an embedding table.
    pub fn table_rows(&self, table: usize) -> usize {
        self.tables[table].len() / self.shape.hidden
    }
}

fn pack_norm(arena: &mut Arena, norm: &Norm, hidden: usize) -> Result<PackedNorm> {
    for values in [&norm.gamma, &norm.beta] {
        if values.len() != hidden {
            return Err(Error::config(format!("a norm of {} values where {hidden} belong", values.len())));
        }
    }
    Ok(PackedNorm { gamma: arena.put(&norm.gamma)?, beta: arena.put(&norm.beta)? })
}

/// How a forward pass is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    Columns,
    Rows,
}

/// Runs a [`Transformer`] with threads and scratch memory of its own.
pub struct Executor {
    model: Arc<Transformer>,
    team: Team,
    scratch: Scratch,
    /// Overrides the choice by the number of rows.
    schedule: Option<Schedule>,
}

/// Memory of a forward pass, kept for the next one.
struct Scratch {
    /// `[tokens, hidden]`: the residual stream, and at the end the result.
    states: AlignedBuffer,
    /// `[tokens, stride]`: queries, keys and values, and a panel beyond.
    projected: AlignedBuffer,
    /// `[tokens, hidden]`: what attention gives.
    context: AlignedBuffer,
    /// `[tokens, hidden]`, columns schedule: sums before a norm.
    sums: AlignedBuffer,
    /// `[tokens, intermediate]`, columns schedule.
    between: AlignedBuffer,
    /// One per member: attention's scratch, or a block's sums and intermediate values.
    members: Vec<AlignedBuffer>,
}

impl Executor {
    /// An executor with `threads` threads, the caller's included.
    pub fn new(model: Arc<Transformer>, threads: usize) -> Result<Executor> {
        let team = Team::new(threads)?;
        let empty = || AlignedBuffer::zeroed(0);
        let scratch = Scratch {
            states: empty(),
            projected: empty(),
            context: empty(),
            sums: empty(),
            between: empty(),
            members: (0..team.size()).map(|_| empty()).collect(),
        };
        Ok(Executor { model, team, scratch, schedule: None })
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
        let model = &*self.model;
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
        if tokens == 0 {
            return Ok(Vec::new());
        }
        let schedule = self.schedule.unwrap_or(if self.team.size() > 1 && tokens < FEW_ROWS * self.team.size() {
            Schedule::Columns
        } else {
            Schedule::Rows
        });
        let sequences: Vec<_> = lengths
            .iter()
            .scan(0, |start, &length| {
                *start += length;
                Some(*start - length..*start)
            })
            .collect();
        let memory = self.scratch.prepare(model, schedule, tokens, lengths.iter().copied().max().unwrap_or(0));
        let pass = Pass { model, schedule, rows, sequences: &sequences, tokens, threads: self.team.size(), memory };
        self.team.run(&|member| pass.take_part(member))?;
        Ok(self.scratch.states[..tokens * hidden].to_vec())
    }
}

impl Scratch {
    /// Makes room for a pass.
    fn prepare(&mut self, model: &Transformer, schedule: Schedule, tokens: usize, longest: usize) -> Memory {
        let Shape { hidden, heads, intermediate, .. } = model.shape;
        let stride = projected_stride(hidden);
        let panel = model.kernels.panel_width();
        self.states.reserve(tokens * hidden);
        self.projected.reserve(tokens * stride + panel);
        self.context.reserve(tokens * hidden);
        let mut member = attention::scratch_len(model.kernels, longest, hidden / heads);
        match schedule {
            Schedule::Columns => {
                self.sums.reserve(tokens * hidden);
                self.between.reserve(tokens * intermediate);
            }
            Schedule::Rows => member = member.max(BLOCK_ROWS * (hidden + intermediate)),
        }
        for memory in &mut self.members {
            memory.reserve(member);
        }
        let shared = |buffer: &mut AlignedBuffer| Matrix(buffer.as_mut_ptr());
        Memory {
            states: shared(&mut self.states),
            projected: shared(&mut self.projected),
            context: shared(&mut self.context),
            sums: shared(&mut self.sums),
            between: shared(&mut self.between),
            members: self.members.iter_mut().map(|buffer| (shared(buffer), buffer.len())).collect(),
        }
    }
}

/// Distance of the rows of queries, keys and values: an odd number of cache lines, so that the same columns of
/// neighbouring rows do not compete for the same few lines of the cache.
fn projected_stride(hidden: usize) -> usize {
    let lines = (3 * hidden).div_ceil(16);
    (lines + 1 - lines % 2) * 16
}

/// A matrix that the members of a team share. They keep to rows or columns that the schedule gives to one of them per
/// phase, or only read.
#[derive(Clone, Copy)]
struct Matrix(*mut f32);

// SAFETY: only a pointer; every access is in an `unsafe` block that says why it is alone.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

/// The buffers of [`Scratch`] while the members share them.
struct Memory {
    states: Matrix,
    projected: Matrix,
    context: Matrix,
    sums: Matrix,
    between: Matrix,
    members: Vec<(Matrix, usize)>,
}

/// One forward pass, as its members see it.
struct Pass<'a> {
    model: &'a Transformer,
    schedule: Schedule,
    rows: &'a [&'a [u32]],
    sequences: &'a [Range<usize>],
    tokens: usize,
    threads: usize,
    memory: Memory,
}

impl Pass<'_> {
    fn take_part(&self, member: &Member<'_>) {
        match self.schedule {
            Schedule::Columns => self.by_columns(member),
            Schedule::Rows => self.by_rows(member),
        }
    }

    fn by_columns(&self, member: &Member<'_>) {
        let Memory { states, projected, context, sums, between, .. } = self.memory;
        let Shape { hidden, intermediate, activation, .. } = self.model.shape;
        let stride = projected_stride(hidden);
        let norm = |norm: &PackedNorm| self.each_rows(member, |rows| self.norm(norm, (sums, states), rows.clone(), rows));
        self.each_rows(member, |rows| {
            self.embed(sums, rows.clone());
            self.norm(&self.model.embedding_norm, (sums, states), rows.clone(), rows);
        });
        for block in &self.model.blocks {
            self.product_by_columns(member, &block.projection, (states, hidden), (projected, stride), Epilogue::Bias);
            self.attend(member);
            let residual = Epilogue::Residual(states.0, hidden);
            self.product_by_columns(member, &block.attention_output, (context, hidden), (sums, hidden), residual);
            norm(&block.attention_norm);
            let activation = Epilogue::Activation(activation);
            self.product_by_columns(member, &block.up, (states, hidden), (between, intermediate), activation);
            self.product_by_columns(member, &block.down, (between, intermediate), (sums, hidden), residual);
            norm(&block.output_norm);
        }
    }

    fn by_rows(&self, member: &Member<'_>) {
        let Memory { states, projected, context, .. } = self.memory;
        let Shape { hidden, intermediate, activation, .. } = self.model.shape;
        let stride = projected_stride(hidden);
        let (own, own_len) = self.memory.members[member.index()];
        // As many blocks for each thread.
        let count = self.tokens.div_ceil(BLOCK_ROWS).next_multiple_of(self.threads);
        let block_of = |item: usize| self.tokens * item / count..self.tokens * (item + 1) / count;
        assert!(own_len >= BLOCK_ROWS * (hidden + intermediate));
        // The member's own sums and intermediate values; row 0 is the block's first.
        // SAFETY: just checked to be within the member's memory.
        let (sums, between) = (own, Matrix(unsafe { own.0.add(BLOCK_ROWS * hidden) }));
        member.phase(count, |item| {
            let rows = block_of(item);
            self.embed(states, rows.clone());
            self.norm(&self.model.embedding_norm, (states, states), rows.clone(), rows.clone());
            if let Some(first) = self.model.blocks.first() {
                self.product(&first.projection, (states, hidden), (projected, stride), Epilogue::Bias, rows);
            }
        });
        for (layer, block) in self.model.blocks.iter().enumerate() {
            self.attend(member);
            member.phase(count, |item| {
                let rows = block_of(item);
                let own_rows = 0..rows.len();
                // SAFETY: the rows exist.
                let at = |matrix: Matrix| Matrix(unsafe { matrix.0.add(rows.start * hidden) });
                let residual = Epilogue::Residual(at(states).0, hidden);
                let (context, block_states) = ((at(context), hidden), (at(states), hidden));
                self.product(&block.attention_output, context, (sums, hidden), residual, own_rows.clone());
                self.norm(&block.attention_norm, (sums, states), own_rows.clone(), rows.clone());
                let activation = Epilogue::Activation(activation);
                self.product(&block.up, block_states, (between, intermediate), activation, own_rows.clone());
                self.product(&block.down, (between, intermediate), (sums, hidden), residual, own_rows.clone());
                self.norm(&block.output_norm, (sums, states), own_rows, rows.clone());
                if let Some(next) = self.model.blocks.get(layer + 1) {
                    self.product(&next.projection, (states, hidden), (projected, stride), Epilogue::Bias, rows);
                }
            });
        }
    }

    /// Runs work on all rows, a few at a time, shared out.
    fn each_rows(&self, member: &Member<'_>, work: impl Fn(Range<usize>)) {
        let count = self.tokens.div_ceil(NORM_ROWS);
        member.phase(count, |item| work(item * NORM_ROWS..((item + 1) * NORM_ROWS).min(self.tokens)));
    }

    /// Sums of embedding rows.
    fn embed(&self, out: Matrix, rows: Range<usize>) {
        let hidden = self.model.shape.hidden;
        for token in rows {
            // SAFETY: `out` has `tokens` rows, and these are given to this member.
            let out = unsafe { std::slice::from_raw_parts_mut(out.0.add(token * hidden), hidden) };
            out.fill(0.0);
            for (table, rows) in self.model.tables.iter().zip(self.rows) {
                let row = &table[rows[token] as usize * hidden..][..hidden];
                out.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        }
    }

    /// The norm of some rows of `input` into as many rows of `out`.
    fn norm(&self, norm: &PackedNorm, (input, out): (Matrix, Matrix), from: Range<usize>, to: Range<usize>) {
        let hidden = self.model.shape.hidden;
        let arena = self.model.arena.values();
        let parameters = (&arena[norm.gamma.clone()], &arena[norm.beta.clone()], self.model.shape.epsilon);
        // SAFETY: both matrices have these rows, and those of `out` are given to this member.
        unsafe {
            let (input, out) = (input.0.add(from.start * hidden), out.0.add(to.start * hidden));
            self.model.kernels.run(LayerNormTask::new(parameters, input, out, 0..from.len()));
        }
    }

    /// All columns of some rows of a product, by this member alone. Row 0 is where the matrices point.
    fn product(
        &self,
        linear: &Linear,
        (input, input_stride): (Matrix, usize),
        (out, out_stride): (Matrix, usize),
        epilogue: Epilogue,
        rows: Range<usize>,
    ) {
        let layer = (linear, &self.model.arena);
        // SAFETY: the matrices have these rows, as wide as the layer; those of `out` are given to this member, and the
        // input's were written by it or in an earlier phase.
        let task = unsafe { LinearTask::new(layer, (input.0, input_stride), (out.0, out_stride), epilogue, rows) };
        self.model.kernels.run(task);
    }

    /// All rows of a product, its columns shared out.
    fn product_by_columns(
        &self,
        member: &Member<'_>,
        linear: &Linear,
        (input, input_stride): (Matrix, usize),
        (out, out_stride): (Matrix, usize),
        epilogue: Epilogue,
    ) {
        let panels = linear.panel_count();
        let pieces = panels.min(self.threads * PIECES);
        member.phase(pieces, |item| {
            let piece = panels * item / pieces..panels * (item + 1) / pieces;
            let layer = (linear, &self.model.arena);
            let (input, out) = ((input.0.cast_const(), input_stride), (out.0, out_stride));
            // SAFETY: the matrices have `tokens` rows, as wide as the layer; the piece's columns of `out` are given to
            // this member, and the input was written in an earlier phase.
            let task = unsafe { LinearTask::new(layer, input, out, epilogue, 0..self.tokens) };
            self.model.kernels.run(task.panels(piece));
        });
    }

    /// Attention of every sequence and head, shared out.
    fn attend(&self, member: &Member<'_>) {
        let Shape { hidden, heads, .. } = self.model.shape;
        let stride = projected_stride(hidden);
        let (scratch, scratch_len) = self.memory.members[member.index()];
        member.phase(self.sequences.len() * heads, |item| {
            let sequence = &self.sequences[item / heads];
            // SAFETY: the scratch is this member's own. The sequence's rows exist, their queries, keys and values were
            // written in an earlier phase, and the buffer has a panel beyond the last. The head's columns of the
            // context are given to this member.
            unsafe {
                let scratch = std::slice::from_raw_parts_mut(scratch.0, scratch_len);
                let rows = Heads {
                    projected: self.memory.projected.0.add(sequence.start * stride),
                    stride,
                    heads,
                    size: hidden / heads,
                    tokens: sequence.len(),
                };
                let out = self.memory.context.0.add(sequence.start * hidden);
                self.model.kernels.run(AttentionTask::new(rows, item % heads, 0..sequence.len(), out, scratch));
            }
        });
    }
}
