//! One forward pass: the order of a block's operations, by columns and by rows.

use std::ops::Range;
use std::sync::Arc;

use super::memory::{Matrix, Memory, Room};
use super::model::Transformer;
use super::shape::Shape;
use super::steps::{After, HeadStep, NormStep, PackedNorm, Place, ProductStep, Step};
use super::way::{Schedule, Way, pieces};
use crate::linear::{Epilogue, Linear, LinearTask, Panels};
use crate::math::Activation;
use crate::matrix_unit::TILE_ROWS;
use crate::norm::{LayerNormTask, RmsNormTask};
use crate::operand::{Form, OperandTask};
use crate::rotary::RotateTask;
use crate::table::EmbedTask;
use crate::team::Member;

/// Most rows that one thread embeds, norms or rounds at a time in the columns schedule.
const NORM_ROWS: usize = 8;

/// The matrices of a member's steps, of which row 0 is the first of those it works on.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) states: Matrix,
    pub(super) sums: Matrix,
    pub(super) projected: Matrix,
    pub(super) context: Matrix,
    pub(super) between: Matrix,
    pub(super) gates: Matrix,
    /// Rows of a product as its precision reads them.
    pub(super) operand: Matrix,
    /// What experts need: a row's probabilities, the rows of one, and what it makes of them.
    pub(super) experts: [Matrix; 3],
    /// Memory that a unit's products need.
    pub(super) scratch: (*mut f32, usize),
    /// The token of row 0.
    pub(super) first: usize,
}

impl Places {
    pub(super) fn at(&self, place: Place) -> Matrix {
        match place {
            Place::States => self.states,
            Place::Sums => self.sums,
            Place::Projected => self.projected,
            Place::Context => self.context,
            Place::Between => self.between,
            Place::Gates => self.gates,
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
    /// Of each token in its sequence, where the model has rotaries.
    pub(super) positions: Vec<u32>,
    /// The cosines and sines of each rotary.
    pub(super) rotations: Vec<Arc<Vec<f32>>>,
    pub(super) tokens: usize,
    pub(super) threads: usize,
    /// The row of each sequence that is wanted; empty: all rows are. The others are not computed behind the last attention.
    pub(super) picked: Vec<usize>,
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
        let memory = &self.memory;
        let own = &memory.members[member.index()];
        let places = Places {
            states: memory.states,
            sums: memory.sums,
            projected: memory.projected,
            context: memory.context,
            between: memory.between,
            gates: memory.gates,
            operand: memory.operand,
            experts: [memory.sums; 3],
            scratch: (own.start, own.len),
            first: 0,
        };
        // What the operand holds.
        let mut rounded = None;
        let mut tokens = self.tokens;
        let mut steps = &self.model.steps[..];
        while let [step, rest @ ..] = steps {
            if let Some((projection, mask)) = self.single_query(steps) {
                tokens = self.attend_singly(member, projection, mask);
                steps = &steps[2..];
                continue;
            }
            match step {
                Step::Attend { mask } => tokens = self.attend_and_pick(member, *mask, rest),
                Step::Product(step) => {
                    if self.rounds(step.from) && rounded != Some(step.from) {
                        self.each_rows(member, tokens, |rows| self.round(step, &places, rows));
                        rounded = Some(step.from);
                    }
                    self.product_by_columns(member, step, &places, tokens);
                    rounded = rounded.filter(|&place| place != step.to);
                }
                Step::Experts(_) => unreachable!("a mixture of experts is computed by rows"),
                Step::Embed { .. } | Step::Norm(_) | Step::Heads(_) => {
                    // All up to one that is shared out by columns or heads, and the rounding for that, in one phase.
                    let count = steps.iter().take_while(|step| step.is_by_row()).count();
                    let (together, rest) = steps.split_at(count);
                    let next = match rest.first() {
                        Some(Step::Product(next)) if self.rounds(next.from) => Some(next),
                        _ => None,
                    };
                    self.each_rows(member, tokens, |rows| {
                        together.iter().for_each(|step| self.by_row(step, &places, rows.clone()));
                        if let Some(next) = next {
                            self.round(next, &places, rows);
                        }
                    });
                    rounded = next.map(|next| next.from);
                    steps = rest;
                    continue;
                }
            }
            steps = rest;
        }
    }

    fn by_rows(&self, member: &Member<'_>) {
        let memory = &self.memory;
        let Shape { hidden, intermediate, style, .. } = self.model.shape;
        let own = &memory.members[member.index()];
        let most_rows = self.way.block_rows;
        // The member's own; row 0 is the block's first.
        let mut room = Room { at: own.start, left: own.len };
        let sums = room.matrix(most_rows, hidden.max(self.model.table_width));
        let between = room.matrix(most_rows, self.way.between_words);
        let gates = if style.gated { room.matrix(most_rows, intermediate) } else { between };
        let experts = match style.experts {
            Some(experts) => [experts.count, hidden, hidden].map(|columns| room.matrix(most_rows, columns)),
            None => [sums; 3],
        };
        let operand = room.matrix(most_rows, self.way.operand_words);
        let scratch = (room.at, room.left);
        let step = if self.way.unit.is_some() { TILE_ROWS } else { 1 };
        let mut tokens = self.tokens;
        let mut steps = &self.model.steps[..];
        while !steps.is_empty() {
            // As many blocks for each thread, on a unit in whole tiles.
            let count = tokens.div_ceil(most_rows).next_multiple_of(self.threads);
            let whole = tokens.div_ceil(step);
            let start_of = |item: usize| (whole * item / count * step).min(tokens);
            let up_to = steps.iter().position(|step| matches!(step, Step::Attend { .. })).unwrap_or(steps.len());
            let single = self.single_query(&steps[up_to.saturating_sub(1)..]);
            let (together, rest) = steps.split_at(up_to - usize::from(single.is_some()));
            member.phase(count, |item| {
                let (first, end) = (start_of(item), start_of(item + 1));
                let shared = [memory.states, memory.projected, memory.context];
                // SAFETY: the matrices have `tokens` rows.
                let [states, projected, context] = shared.map(|matrix| unsafe { matrix.skip_rows(first) });
                let places =
                    Places { states, sums, projected, context, between, gates, operand, experts, scratch, first };
                self.block(together, &places, 0..end - first);
            });
            steps = rest;
            if let Some((projection, mask)) = single {
                tokens = self.attend_singly(member, projection, mask);
                steps = &steps[2..];
            } else if let [Step::Attend { mask }, rest @ ..] = steps {
                tokens = self.attend_and_pick(member, *mask, rest);
                steps = rest;
            }
        }
    }

    /// Takes a block of rows through some steps.
    fn block(&self, steps: &[Step], places: &Places, rows: Range<usize>) {
        let mut rounded = None;
        for step in steps {
            let written = match step {
                Step::Product(step) => {
                    if self.rounds(step.from) && rounded != Some(step.from) {
                        self.round(step, places, rows.clone());
                        rounded = Some(step.from);
                    }
                    self.product(step, places, rows.clone());
                    step.to
                }
                Step::Norm(NormStep { to, .. }) | Step::Embed { to } => {
                    self.by_row(step, places, rows.clone());
                    *to
                }
                Step::Heads(_) => {
                    self.by_row(step, places, rows.clone());
                    Place::Projected
                }
                Step::Attend { .. } => unreachable!("attention is between blocks"),
                Step::Experts(step) => {
                    self.experts(step, places, rows.clone());
                    // Theirs is in the operand now.
                    rounded = None;
                    step.to
                }
            };
            rounded = rounded.filter(|&place| place != written);
        }
    }

    /// A step that works row by row.
    fn by_row(&self, step: &Step, places: &Places, rows: Range<usize>) {
        match step {
            Step::Embed { to } => self.embed(places.at(*to), places.first, rows),
            Step::Norm(step) => self.norm(step, places, rows),
            Step::Heads(step) => self.heads(step, places, rows),
            Step::Product(_) | Step::Attend { .. } | Step::Experts(_) => unreachable!("not row by row"),
        }
    }

    /// Runs work on so many rows, a few at a time, shared out.
    fn each_rows(&self, member: &Member<'_>, tokens: usize, work: impl Fn(Range<usize>)) {
        // Rows that lie together are one thread's.
        let most = tokens.div_ceil(self.threads).next_multiple_of(self.way.form.together()).min(NORM_ROWS);
        let count = tokens.div_ceil(most);
        member.phase(count, |item| work(item * most..((item + 1) * most).min(tokens)));
    }

    /// Whether products read rounded rows of a place. There are none to make where the product before wrote them itself.
    pub(super) fn rounds(&self, place: Place) -> bool {
        self.way.form != Form::Plain && !(place == Place::Between && self.way.feeds_operand())
    }

    /// Rounds the rows that a product reads into the operand.
    fn round(&self, step: &ProductStep, places: &Places, rows: Range<usize>) {
        let style = self.model.shape.style;
        // Where there is no gate, the activation was left to be applied here.
        let activation = (step.from == Place::Between && !style.gated).then_some(self.model.shape.activation);
        self.round_rows((places.at(step.from), step.linear.inputs(), activation), places.operand, rows);
    }

    pub(super) fn round_rows(
        &self,
        (input, width, activation): (Matrix, usize, Option<Activation>),
        operand: Matrix,
        rows: Range<usize>,
    ) {
        let rounding = (self.way.form, width, activation);
        // SAFETY: both matrices have these rows, as wide as needed, and they are given to this member.
        let task = unsafe { OperandTask::new(rounding, input.out(), operand.out(), rows) };
        self.model.kernels.run(task);
    }

    /// Sums of embedding rows.
    fn embed(&self, out: Matrix, first: usize, rows: Range<usize>) {
        let Transformer { kernels, table_width, ref tables, .. } = *self.model;
        // SAFETY: `out` has these rows, and they are given to this member; the indices were checked before the pass.
        kernels.run(unsafe { EmbedTask::new((tables, &self.rows), table_width, out.out(), first, rows) });
    }

    /// The norm of some rows.
    fn norm(&self, step: &NormStep, places: &Places, rows: Range<usize>) {
        let (input, out) = (places.at(step.from).input(), places.at(step.to).out());
        // SAFETY: both matrices have these rows, as wide as the norm, and those of `out` are given to this member.
        unsafe { self.norm_columns(&step.norm, input, out, step.adds, rows) };
    }

    /// # Safety
    /// Rows of input and output must be readable and writable for the width of the norm, with nobody else accessing those of
    /// the output.
    unsafe fn norm_columns(
        &self,
        norm: &PackedNorm,
        input: (*const f32, usize),
        out: (*mut f32, usize),
        adds: bool,
        rows: Range<usize>,
    ) {
        let Shape { style, epsilon, .. } = self.model.shape;
        let arena = self.model.arena.values();
        let (gamma, beta) = (&arena[norm.gamma.clone()], &arena[norm.beta.clone()]);
        if style.rms_norm {
            // SAFETY: handed on.
            let task = unsafe { RmsNormTask::new((gamma, epsilon), input, out, rows) };
            self.model.kernels.run(task.adding(adds));
        } else {
            // SAFETY: handed on.
            let task = unsafe { LayerNormTask::new((gamma, beta, epsilon), input, out, rows) };
            self.model.kernels.run(task.adding(adds));
        }
    }

    /// Norms and turns queries and keys of some rows, in place.
    fn heads(&self, step: &HeadStep, places: &Places, rows: Range<usize>) {
        let shape = self.model.shape;
        let size = shape.head_size();
        let matrix = places.projected;
        if let Some(norms) = &step.norms {
            let widths = [shape.attention_width(), shape.key_width()];
            for ((norm, width), first) in norms.iter().zip(widths).zip([0, widths[0]]) {
                for column in (first..first + width).step_by(norm.gamma.len()) {
                    let at = matrix.start.wrapping_add(column);
                    // SAFETY: these columns of the rows are the norm's, and the rows given to this member.
                    unsafe { self.norm_columns(norm, (at, matrix.stride), (at, matrix.stride), false, rows.clone()) };
                }
            }
        }
        if let Some(rotary) = step.rotary {
            let table = (&self.rotations[rotary][..], self.model.rotaries[rotary].frequencies.len());
            let positions = &self.positions[places.first + rows.start..places.first + rows.end];
            // Queries and keys stand side by side.
            let heads = (shape.heads + shape.key_heads(), size);
            // SAFETY: the matrix has these rows, with all heads, and they are given to this member.
            let task = unsafe { RotateTask::new(table, positions, heads, matrix.out(), rows) };
            self.model.kernels.run(task);
        }
    }

    /// All columns of some rows of a product, by this member alone.
    fn product(&self, step: &ProductStep, places: &Places, rows: Range<usize>) {
        let input = if self.rounds(step.from) { places.operand } else { places.at(step.from) };
        let out = (places.at(step.to), step.to);
        self.product_of(&step.linear, input, out, self.epilogue(step.after, places), places, rows);
    }

    pub(super) fn product_of(
        &self,
        linear: &Linear,
        input: Matrix,
        (out, to): (Matrix, Place),
        epilogue: Epilogue,
        places: &Places,
        rows: Range<usize>,
    ) {
        let layer = (linear, &self.model.arena);
        // SAFETY: the matrices have these rows, as wide as the layer, and operands whole tiles of them; those of `out` are
        // given to this member, and the input's were written by it or in an earlier phase. The scratch memory is its own.
        let task =
            unsafe { LinearTask::new(layer, input.input(), out.out(), epilogue, rows).with_scratch(places.scratch) };
        self.model.kernels.run(self.written_as(task, to));
    }

    /// What a product adds to its sums and bias. An activation is left to the pass that rounds the rows, where there is one and
    /// no gate.
    fn epilogue(&self, after: After, places: &Places) -> Epilogue {
        let Shape { activation, style, .. } = self.model.shape;
        match after {
            After::Nothing => Epilogue::Bias,
            After::AddStates => places.states.residual(),
            After::Activation if style.gated => Epilogue::Gated(activation, places.gates.start, places.gates.stride),
            After::Activation if self.rounds(Place::Between) => Epilogue::Bias,
            After::Activation => Epilogue::Activation(activation),
        }
    }

    /// A product by the pass' way, that writes what is read at its place: rounded rows where the next product is fed so.
    fn written_as<'a>(&self, task: LinearTask<'a>, to: Place) -> LinearTask<'a> {
        let task = if self.way.unit.is_none() { task.by_vectors() } else { task };
        match to {
            Place::Between if self.way.feeds_operand() => task.writing_operand(),
            _ => task,
        }
    }

    /// So many rows of a product, its columns shared out.
    fn product_by_columns(&self, member: &Member<'_>, step: &ProductStep, places: &Places, tokens: usize) {
        let linear = &step.linear;
        let input = if self.rounds(step.from) { places.operand } else { places.at(step.from) };
        let out = places.at(step.to);
        let epilogue = self.epilogue(step.after, places);
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
                LinearTask::new(layer, input.input(), out.out(), epilogue, 0..tokens).with_scratch(places.scratch)
            };
            self.model.kernels.run(self.written_as(task, step.to).panels(piece, then));
        });
    }
}
