//! One forward pass: the order of a block's operations, by columns and by rows.

use std::ops::Range;
use std::sync::Arc;

use super::memory::{Matrix, Memory, Room};
use super::model::{PackedBlock, PackedNorm, Transformer};
use super::shape::Shape;
use super::way::{Schedule, Way, pieces};
use crate::attention::{AttentionTask, Heads};
use crate::attention_bf16::RoundedAttentionTask;
use crate::linear::{Epilogue, Linear, LinearTask, Panels};
use crate::math::Activation;
use crate::matrix_unit::TILE_ROWS;
use crate::norm::{LayerNormTask, RmsNormTask};
use crate::operand::{Form, OperandTask};
use crate::table::EmbedTask;
use crate::team::Member;

/// Most rows that one thread embeds, norms or rounds at a time in the columns schedule.
const NORM_ROWS: usize = 8;

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

/// One forward pass, as its members see it. A member that comes late may hold it longer than the pass lasts: what
/// `memory` points to is accessed within items only, and then none are left.
pub(super) struct Pass {
    pub(super) model: Arc<Transformer>,
    pub(super) way: Way,
    pub(super) schedule: Schedule,
    /// Per embedding table, the row of each token.
    pub(super) rows: Vec<Vec<u32>>,
    pub(super) sequences: Vec<Range<usize>>,
    pub(super) tokens: usize,
    pub(super) threads: usize,
    /// The position bias by head and distance, and for how many tokens.
    pub(super) distances: (Arc<Vec<f32>>, usize),
    pub(super) memory: Memory,
}

impl Pass {
    pub(super) fn take_part(&self, member: &Member<'_>) {
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
