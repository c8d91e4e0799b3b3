//! A pass' attention: of all rows, or of those that are wanted.

use std::ops::Range;

use super::memory::Memory;
use super::pass::Pass;
use super::shape::Shape;
use super::steps::{Place, Step};
use super::way::Attention;
use crate::attention::{AttentionTask, Heads};
use crate::attention_bf16::RoundedAttentionTask;
use crate::attention_on_unit::UnitAttentionTask;
use crate::linear::{Epilogue, Linear, LinearTask};
use crate::mask::Mask;
use crate::single_query::{MOST_HEADS, SingleQuery, SingleQueryTask};
use crate::team::Member;

impl Pass {
    /// Attention, and behind the last one the rows that are wanted, at the front. Answers how many rows the steps that follow
    /// have.
    pub(super) fn attend_and_pick(&self, member: &Member<'_>, mask: Mask, following: &[Step]) -> usize {
        let is_last = !following.iter().any(|step| matches!(step, Step::Attend { .. }));
        if !is_last || self.picked.is_empty() {
            self.attend(member, mask, |sequence, _| 0..sequence.len());
            return self.tokens;
        }
        self.attend(member, mask, |sequence, number| {
            let row = self.picked[number] - sequence.start;
            row..row + 1
        });
        self.pick(member)
    }

    /// Brings the rows that are wanted to the front. Answers how many they are.
    fn pick(&self, member: &Member<'_>) -> usize {
        let widths = [self.model.shape.hidden, self.model.shape.attention_width()];
        // Both matrices in one item each: a row comes from behind, and what it is written over was taken before.
        member.phase(widths.len(), |item| {
            let matrix = [self.memory.states, self.memory.context][item];
            for (to, &from) in self.picked.iter().enumerate() {
                // SAFETY: the matrix has these rows, as wide, and is given to this member; they were written in earlier phases.
                unsafe { std::ptr::copy(matrix.row(from), matrix.row(to), widths[item]) };
            }
        });
        self.picked.len()
    }

    /// The projection and the mask of the last attention, if it comes next and can be computed from the hidden states for the
    /// rows that are wanted: see [`single_query`](crate::single_query).
    pub(super) fn single_query<'a>(&self, steps: &'a [Step]) -> Option<(&'a Linear, Mask)> {
        let [Step::Product(projection), Step::Attend { mask }, rest @ ..] = steps else { return None };
        let is_last = !rest.iter().any(|step| matches!(step, Step::Attend { .. }));
        let is_plain = projection.from == Place::States && projection.linear.is_plain();
        (is_last && is_plain && !self.picked.is_empty()).then_some((&projection.linear, *mask))
    }

    /// Attention of the rows that are wanted, from the hidden states. Answers how many rows the steps that follow have.
    pub(super) fn attend_singly(&self, member: &Member<'_>, projection: &Linear, mask: Mask) -> usize {
        let Shape { heads, .. } = self.model.shape;
        let size = self.model.shape.head_size();
        let Memory { states, projected, context, ref members, .. } = self.memory;
        let own = &members[member.index()];
        let layer = (projection, &self.model.arena);
        let sequences = self.sequences.len();
        // Few sequences in as many parts as there are equal shares for all threads.
        let equal = if sequences < self.threads { self.threads } else { 1 };
        let panels = (heads * size).div_ceil(self.model.kernels.panel_width());
        let parts = equal.min(panels);
        member.phase(sequences * parts, |item| {
            let (row, part) = (self.picked[item / parts], item % parts);
            let piece = panels * part / parts..panels * (part + 1) / parts;
            // SAFETY: the row exists in both matrices, its states were written in an earlier phase, and the piece's columns
            // of its projection are given to this member.
            let task = unsafe {
                LinearTask::new(layer, states.input(), projected.out(), Epilogue::Bias, row..row + 1)
                    .panels(piece, None)
            };
            self.model.kernels.run(task);
        });
        let parts = heads.div_ceil(MOST_HEADS).next_multiple_of(equal).min(heads);
        member.phase(sequences * parts, |item| {
            let (number, part) = (item / parts, item % parts);
            let (sequence, row) = (&self.sequences[number], self.picked[number]);
            // SAFETY: the scratch is this member's own. The sequence's states and the row's queries were written in earlier
            // phases, and these heads' columns of the row's context are given to this member.
            unsafe {
                let scratch = std::slice::from_raw_parts_mut(own.start, own.len);
                let asked = SingleQuery {
                    states: states.skip_rows(sequence.start).input(),
                    tokens: sequence.len(),
                    query: row - sequence.start,
                    queries: projected.row(row),
                    out: context.row(row),
                    heads,
                    key_heads: self.model.shape.key_heads(),
                    size,
                    mask,
                };
                let some = heads * part / parts..heads * (part + 1) / parts;
                let mut task = SingleQueryTask::new(asked, some, layer, scratch);
                if self.model.position_bias.is_some() {
                    let (ref distances, longest) = self.distances;
                    task = task.with_bias(distances, 2 * longest - 1, longest - 1);
                }
                self.model.kernels.run(task);
            }
        });
        self.pick(member)
    }

    /// Attention of every head and of some rows of every sequence, shared out.
    fn attend(&self, member: &Member<'_>, mask: Mask, queries: impl Fn(&Range<usize>, usize) -> Range<usize>) {
        let Shape { heads, .. } = self.model.shape;
        let key_heads = self.model.shape.key_heads();
        let size = self.model.shape.head_size();
        let has_bias = self.model.position_bias.is_some();
        let Memory { projected, context, ref members, .. } = self.memory;
        let own = &members[member.index()];
        member.phase(self.sequences.len() * heads, |item| {
            let (number, head) = (item / heads, item % heads);
            let sequence = &self.sequences[number];
            // SAFETY: the scratch is this member's own. The sequence's rows exist, their queries, keys and values were
            // written in an earlier phase, and the buffer has a panel beyond the last. The head's columns of the
            // context are given to this member.
            unsafe {
                let scratch = std::slice::from_raw_parts_mut(own.start, own.len);
                let rows = Heads {
                    projected: projected.skip_rows(sequence.start).start,
                    stride: projected.stride,
                    heads,
                    key_heads,
                    size,
                    tokens: sequence.len(),
                };
                let out = context.skip_rows(sequence.start).out();
                let queries = queries(sequence, number);
                let mut task = AttentionTask::new(rows, head, queries, out, scratch).with_mask(mask);
                if has_bias {
                    let (ref distances, longest) = self.distances;
                    task = task.with_bias(&distances[head * (2 * longest - 1)..][..2 * longest - 1], longest - 1);
                }
                match self.way.attention {
                    Attention::Plain => self.model.kernels.run(task),
                    Attention::Rounded => self.model.kernels.run(RoundedAttentionTask(task)),
                    Attention::OnUnit(unit, parts) => self.model.kernels.run(UnitAttentionTask(task, unit, parts)),
                }
            }
        });
    }
}
