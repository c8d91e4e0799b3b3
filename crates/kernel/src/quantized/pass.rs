//! A forward pass over one sequence: phases in which the members of a team share out rows, columns or heads.
//!
//! A tensor's range must be known before any of it is quantised, so each phase ends where a range does: the projections,
//! the scores of all heads, their contexts, and each norm. Ranges have no order, so whoever finishes first, the codes
//! are the same.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::attention::{Queries, context, scores};
use super::epilogue::Then;
use super::linear::{embed, normalize, product, quantize};
use super::matrix::Matrix;
use super::model::QuantizedTransformer;
use super::on_unit::OnUnit;
use super::product::Multiply;
use super::quantization::Quantization;
use super::shares::Sharer;
use super::state::{Extent, MemberScratch, NormStep, Output, Pass, Scratch, TENSORS, Tensor};
use crate::error::Result;
use crate::isa::{Simd, Task};
use crate::matrix_unit::{MatrixUnit, UnitTask};
use crate::team::{Member, Team};

/// Below this many rows per thread products are shared out by columns: each core reads its part of the weights only. With
/// more rows the weights come in time, being asked for ahead, and no core quantises what another has quantised.
const FEW_ROWS: usize = 8;
/// Most rows of a block when products are shared out by rows: its codes stay in a core's cache.
const BLOCK_ROWS: usize = 48;
/// Most rows that are normed as one item: as many as the longest vectors have lanes.
const NORM_ROWS: usize = 16;
/// Pieces per thread into which columns are cut.
const PIECES: usize = 4;
/// Most queries of one head that are attended to at a time.
const ATTENTION_ROWS: usize = 96;

/// Fewer tokens are multiplied by vectors where there is a unit, which takes as long for one row as for sixteen.
const UNIT_ROWS: usize = 8;

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
    scratch.shares.reset();
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
        powers: Matrix::with_room(&mut scratch.powers, heads * tokens, tokens),
        factors: Matrix::with_room(&mut scratch.factors, heads, tokens),
        context: Matrix::with_room(&mut scratch.context, tokens, hidden),
        between: Matrix::with_room(&mut scratch.between, tokens, intermediate),
        ranges: &scratch.ranges,
        members: &scratch.members,
        shares: &scratch.shares,
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
    Scores(Queries),
    /// Contexts of some queries of a head.
    Context(Queries),
}

impl Pass<'_> {
    fn take_part(&self, member: &Member<'_>) {
        let scratch = &mut *self.members[member.index()].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let sharer = &Sharer::new(member, self.shares);
        sharer.phase(self.norm_items(), |item| self.run(scratch, Step::Embed(self.norm_rows(item))));
        for (layer, block) in self.model.blocks.iter().enumerate() {
            let output = |linear, to, then, tensor| Output { linear, to, then, range: Some(self.range(layer, tensor)) };
            let scaled = |scale: Option<f32>| scale.map_or(Then::Nothing, Then::Multiply);
            let projections = [
                output(&block.query, self.query, scaled(block.query_scale), Tensor::Query),
                output(&block.key, self.key, scaled(block.key_scale), Tensor::Key),
                output(&block.value, self.value, Then::Nothing, Tensor::Value),
            ];
            self.product(sharer, scratch, (self.states, layer, Tensor::States), &projections, None);
            self.attend(sharer, scratch, layer);
            let sums = |linear, to, residual| Output { linear, to, then: Then::Residual(residual), range: None };
            let out = [sums(&block.attention_output, self.attended, self.states)];
            let range = self.range(layer, Tensor::Attended);
            let norm = NormStep { norm: &block.attention_norm, at: self.attended, range };
            self.product(sharer, scratch, (self.context, layer, Tensor::Context), &out, Some(&norm));
            let up = [output(&block.up, self.between, Then::Gelu(self.model.arithmetic), Tensor::Between)];
            self.product(sharer, scratch, (self.attended, layer, Tensor::Attended), &up, None);
            let down = [sums(&block.down, self.states, self.attended)];
            let range = self.range(layer + 1, Tensor::States);
            let norm = NormStep { norm: &block.output_norm, at: self.states, range };
            self.product(sharer, scratch, (self.between, layer, Tensor::Between), &down, Some(&norm));
        }
    }

    /// Items of a phase of norms.
    fn norm_items(&self) -> usize {
        self.tokens.div_ceil(NORM_ROWS).max(self.threads).min(self.tokens)
    }

    /// Rows of one of them.
    fn norm_rows(&self, item: usize) -> Range<usize> {
        let items = self.norm_items();
        self.tokens * item / items..self.tokens * (item + 1) / items
    }

    fn run<'a>(&'a self, scratch: &mut MemberScratch, step: Step<'a>) {
        self.model.kernels.run(Work { pass: self, scratch, step });
    }

    /// A phase of products with the same left side, and a norm of their rows behind them.
    fn product(
        &self,
        sharer: &Sharer<'_>,
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
            sharer.phase(pieces, |piece| {
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
                sharer.phase(self.norm_items(), |item| self.run(scratch, Step::Norm(norm, self.norm_rows(item))));
            }
            return;
        }
        let blocks = self.threads * self.tokens.div_ceil(self.threads * BLOCK_ROWS);
        let blocks = blocks.min(self.tokens);
        sharer.phase(blocks, |item| {
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
    fn attend(&self, sharer: &Sharer<'_>, scratch: &mut MemberScratch, layer: usize) {
        let heads = self.model.shape.heads;
        let pieces = self.tokens.div_ceil(ATTENTION_ROWS);
        let rows = |item: usize| {
            let piece = item % pieces;
            self.tokens * piece / pieces..self.tokens * (piece + 1) / pieces
        };
        for step in [Step::Scores, Step::Context] {
            let mut packed = None;
            sharer.phase(heads * pieces, |item| {
                let head = item / pieces;
                let fresh = packed.replace(head) != Some(head);
                self.run(scratch, step(Queries { head, rows: rows(item), layer, fresh }));
            });
        }
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
                quantize(s, scratch, quantization, (left, rows, 0..inputs), None);
            }
            Step::Norm(norm, rows) => normalize(s, pass, norm, rows),
            Step::Product(..) | Step::Scores(_) | Step::Context(_) => match pass.model.unit {
                Some(unit) if pass.tokens >= UNIT_ROWS => {
                    s.call_on_unit(unit, WorkOnUnit(Work { pass, scratch, step }, s))
                }
                _ => multiplied(s, &mut { pass.model.products }, Work { pass, scratch, step }),
            },
        }
    }
}

/// Work on a unit, and the vectors for all that is not multiplying.
struct WorkOnUnit<'a, 'b, S>(Work<'a, 'b>, S);

impl<S: Simd> UnitTask for WorkOnUnit<'_, '_, S> {
    #[inline(always)]
    fn run<U: MatrixUnit>(self, unit: &mut U) {
        let WorkOnUnit(work, s) = self;
        multiplied(s, &mut OnUnit(unit, s), work);
    }
}

/// Work that multiplies.
#[inline(always)]
fn multiplied<S: Simd, M: Multiply>(s: S, by: &mut M, work: Work<'_, '_>) {
    let Work { pass, scratch, step } = work;
    match step {
        Step::Product(output, quantization, rows, panels) => {
            product(s, by, scratch, output, quantization, rows, panels);
        }
        Step::Scores(queries) => scores(s, by, pass, scratch, queries),
        Step::Context(queries) => context(s, by, pass, scratch, queries),
        Step::Embed(_) | Step::Quantize(..) | Step::Norm(..) => unreachable!("it does not multiply"),
    }
}
