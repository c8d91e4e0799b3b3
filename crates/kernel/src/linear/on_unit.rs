//! Linear layers on a matrix unit. Loops go from panels to blocks of rows, so that weights are read once for all of a
//! task's rows, while the rows stay in the second-level cache.

use std::ops::Range;

use super::super::isa::Simd;
use super::super::math::Activation;
use super::super::matrix_unit::{MatrixUnit, TILE_ROWS, TILE_WORDS, UnitTask};
use super::super::operand::{Form, group_inputs, scale_at, store_parts};
use super::super::tile::{load_columns, store_columns};
use super::super::unit_product::{BLOCK, BYTES, Factors, Fetch, Meanwhile, Split, block};
use super::task::{Epilogue, LinearTask, Out};

/// Rows whose sums are kept while a panel is gone through in pieces.
const MOST_ROWS: usize = 128;
/// Steps of the depth whose weights are split at once: two pieces, the one in use and the next, leave room in the
/// second-level cache for the rows.
const SPLIT_STEPS: usize = 12;
/// Words of a part of such a piece.
const SPLIT_PART: usize = SPLIT_STEPS * TILE_ROWS * BLOCK;

/// Words of scratch memory, on a cache line, that a product on a unit needs.
pub(crate) const SCRATCH: usize = (MOST_ROWS + BLOCK) * BLOCK + 2 * 3 * SPLIT_PART;

/// A task, on vectors of which it does what is not multiplying.
pub(super) struct OnUnit<'a, S>(pub LinearTask<'a>, pub S);

impl<S: Simd> UnitTask for OnUnit<'_, S> {
    #[inline(always)]
    fn run<U: MatrixUnit>(self, unit: &mut U) {
        assert!(self.0.scratch.1 >= SCRATCH, "scratch memory for a unit");
        match self.0.linear.form {
            Form::Parts(3) => self.split_products(unit),
            Form::Parts(2) => self.products::<U, 3>(unit),
            Form::Parts(_) => self.products::<U, 1>(unit),
            Form::Bytes => self.products::<U, BYTES>(unit),
            Form::Plain | Form::Bf16 | Form::Bf16InPairs | Form::BytesInPairs => unreachable!("not what a unit reads"),
        }
    }
}

/// Runs of rows of at most so many, the first ones full.
fn full_runs(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(most).map(move |start| start..end.min(start + most))
}

/// Blocks of rows, each as often as there are groups.
fn blocks(rows: Range<usize>, groups: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    full_runs(rows, BLOCK).flat_map(move |rows| (0..groups).map(move |group| (rows.clone(), group)))
}

/// What becomes of a block's sums, a few rows at a time: of bytes values first, then what follows the product.
struct Afterwards<'t, 'a, S, const TERMS: usize> {
    of: &'t OnUnit<'a, S>,
    groups: usize,
    fetch: Fetch<S>,
    /// Sums and values of the first row that is left, and which rows are.
    sums: *const f32,
    values: *mut f32,
    rows: Range<usize>,
    panel: usize,
    group: usize,
    at_once: usize,
}

impl<'t, 'a, S: Simd, const TERMS: usize> Afterwards<'t, 'a, S, TERMS> {
    /// Nothing yet.
    fn new(of: &'t OnUnit<'a, S>, groups: usize) -> Self {
        let (sums, values) = (of.0.scratch.0, of.0.scratch.0.wrapping_add(2 * BLOCK * BLOCK));
        let fetch = Fetch::new(of.1, sums, 0, 1);
        Afterwards { of, groups, fetch, sums, values, rows: 0..0, panel: 0, group: 0, at_once: 0 }
    }

    /// So many times are left.
    #[inline(always)]
    fn share_out(&mut self, times: usize) {
        self.at_once = self.rows.len().div_ceil(times.max(1));
    }

    /// The sums of these rows, a panel and a group are there, in the groups' order. All before must be finished.
    ///
    /// # Safety
    /// Until they are finished nobody else may write the sums, of a whole block, and input and output must have the rows.
    #[inline(always)]
    unsafe fn begin(&mut self, sums: *const f32, rows: Range<usize>, panel: usize, group: usize) {
        assert!(self.rows.is_empty());
        self.values = self.of.0.scratch.0.wrapping_add(2 * BLOCK * BLOCK);
        (self.sums, self.rows, self.panel, self.group) = (sums, rows, panel, group);
    }

    #[inline(always)]
    fn some_rows(&mut self) {
        let rows = self.rows.start..self.rows.end.min(self.rows.start + self.at_once);
        // SAFETY: by the promise made when they began; there is scratch memory for the values of a block.
        unsafe {
            if TERMS == BYTES {
                self.of.scale((self.sums, self.values), rows.clone(), self.panel, (self.group, self.groups));
            }
            if self.group + 1 == self.groups {
                let values = if TERMS == BYTES { self.values } else { self.sums };
                self.of.finish(values, rows.clone(), self.panel);
            }
        }
        self.sums = self.sums.wrapping_add(rows.len() * BLOCK);
        self.values = self.values.wrapping_add(rows.len() * BLOCK);
        self.rows.start = rows.end;
    }

    /// What is left.
    #[inline(always)]
    fn finish(&mut self) {
        self.at_once = self.rows.len();
        if !self.rows.is_empty() {
            self.some_rows();
        }
    }
}

impl<S: Simd, const TERMS: usize> Meanwhile for Afterwards<'_, '_, S, TERMS> {
    #[inline(always)]
    fn go_on(&mut self) {
        self.fetch.go_on();
        if !self.rows.is_empty() {
            self.some_rows();
        }
    }
}

impl<S: Simd> OnUnit<'_, S> {
    /// Products with weights that lie as the unit reads them. What becomes of a block's sums is done while the next is multiplied.
    #[inline(always)]
    fn products<U: MatrixUnit, const TERMS: usize>(&self, unit: &mut U) {
        let OnUnit(ref task, s) = *self;
        let (linear, values) = (task.linear, task.arena.values());
        let part = linear.form.part_words(linear.inputs);
        let (steps, words) = (part / TILE_WORDS, linear.panels.words);
        // Bytes have scales of their own in each group.
        let group_steps = if TERMS == BYTES { group_inputs(linear.inputs) / (4 * TILE_WORDS) } else { steps };
        let groups = steps.div_ceil(group_steps);
        // SAFETY: there is scratch memory for the sums of two blocks and for values.
        let mut buffers = unsafe { [task.scratch.0, task.scratch.0.add(BLOCK * BLOCK)] };
        let mut after = Afterwards::<S, TERMS>::new(self, groups);
        for rows in full_runs(task.rows.clone(), MOST_ROWS) {
            for panel in task.columns.clone() {
                let coming = if panel + 1 < task.columns.end {
                    Some(linear.panels.at(panel + 1))
                } else if rows.end < task.rows.end {
                    Some(linear.panels.at(task.columns.start))
                } else {
                    task.then
                };
                let next = values.as_ptr().wrapping_add(coming.unwrap_or(0));
                let times = rows.len().div_ceil(BLOCK) * steps * TERMS.max(1);
                // What is used for one block only comes as fast without being asked for.
                let fetched = if rows.len() > BLOCK && coming.is_some() { words } else { 0 };
                after.fetch = Fetch::new(s, next, fetched, times);
                let right = (values[linear.panels.at(panel)..][..words].as_ptr(), BLOCK, part * BLOCK);
                for (rows, group) in blocks(rows.clone(), groups) {
                    let steps = group * group_steps..steps.min((group + 1) * group_steps);
                    after.share_out(steps.len() * TERMS.max(1));
                    // SAFETY: by the promise made to `LinearTask::new`, input and output have these rows, and the input
                    // whole tiles of them; the panel was just sliced; a buffer has room for a block.
                    unsafe {
                        let left = (task.input.add(rows.start * task.input_stride), task.input_stride, part);
                        let (size, sums) = ((rows.len(), BLOCK), (buffers[0], BLOCK));
                        block::<U, _, TERMS>(unit, size, Factors { left, right }, steps, sums, &mut after);
                        after.finish();
                        after.begin(buffers[0], rows, panel, group);
                    }
                    buffers.swap(0, 1);
                }
            }
        }
        after.finish();
    }

    /// Products in parts with weights that lie as f32: a piece of a panel is split while the one before is multiplied.
    #[inline(always)]
    fn split_products<U: MatrixUnit>(&self, unit: &mut U) {
        let OnUnit(ref task, s) = *self;
        let (linear, values) = (task.linear, task.arena.values());
        let part = linear.form.part_words(linear.inputs);
        let (steps, words) = (part / TILE_WORDS, linear.panels.words);
        let pieces = steps.div_ceil(SPLIT_STEPS);
        let count = task.columns.len() * pieces;
        // The steps of a piece, and where its weights are.
        let piece = |index: usize| {
            let start = index % pieces * SPLIT_STEPS;
            let panel = &values[linear.panels.at(task.columns.start + index / pieces)..][..words];
            (start..steps.min(start + SPLIT_STEPS), panel[start * 2 * TILE_WORDS * BLOCK..].as_ptr())
        };
        // Pairs of rows of weights, of which a step has as many as a tile rows.
        let pairs = |steps: Range<usize>| steps.len() * TILE_ROWS;
        let after = values.as_ptr().wrapping_add(task.then.unwrap_or(0));
        let sums = task.scratch.0;
        // SAFETY: there is scratch memory for a block's sums over a piece, and for both pieces.
        let (piece_sums, buffers) = unsafe {
            let first = sums.add((MOST_ROWS + BLOCK) * BLOCK);
            (sums.add(MOST_ROWS * BLOCK), [first, first.add(3 * SPLIT_PART)])
        };
        let mut current = 0;
        if count > 0 && !task.rows.is_empty() {
            let (steps, from) = piece(0);
            let nothing = Fetch::new(s, after, 0, 1);
            // SAFETY: the piece is within a panel, and a buffer as long as a piece.
            unsafe { Split::new(s, from, (buffers[current], SPLIT_PART), pairs(steps), 1, nothing) }.finish();
        }
        for rows in full_runs(task.rows.clone(), MOST_ROWS) {
            for index in 0..count {
                let (steps, _) = piece(index);
                let is_last = index + 1 == count && rows.end == task.rows.end;
                let (next_steps, from) = piece((index + 1) % count);
                let groups = rows.len().div_ceil(BLOCK) * steps.len() * 6;
                let fetch = Fetch::new(s, after, task.then.map_or(0, |_| words.min(SPLIT_PART)), groups);
                let next_pairs = if is_last { 0 } else { pairs(next_steps) };
                let to = (buffers[1 - current], SPLIT_PART);
                // SAFETY: as above.
                let mut split = unsafe { Split::new(s, from, to, next_pairs, groups, fetch) };
                for block_rows in full_runs(rows.clone(), BLOCK) {
                    // SAFETY: by the promise made to `LinearTask::new`, the input has these rows, in whole tiles; there is
                    // scratch memory for the sums of `MOST_ROWS`.
                    unsafe {
                        let at = task.input.add(block_rows.start * task.input_stride + steps.start * TILE_WORDS);
                        let factors = Factors {
                            left: (at, task.input_stride, part),
                            right: (buffers[current], BLOCK, SPLIT_PART),
                        };
                        let totals = sums.add((block_rows.start - rows.start) * BLOCK);
                        let (size, steps_here) = ((block_rows.len(), BLOCK), 0..steps.len());
                        let to = if steps.start == 0 { totals } else { piece_sums };
                        block::<U, _, 6>(unit, size, factors, steps_here, (to, BLOCK), &mut split);
                        if steps.start != 0 {
                            for at in (0..block_rows.len() * BLOCK).step_by(S::LANES) {
                                let total = s.add(s.load(totals.add(at)), s.load(piece_sums.add(at)));
                                s.store(totals.add(at), total);
                            }
                        }
                    }
                }
                split.finish();
                current = 1 - current;
                if index % pieces + 1 == pieces {
                    // SAFETY: as above; the output has these rows too.
                    unsafe { self.finish(sums, rows.clone(), task.columns.start + index / pieces) };
                }
            }
        }
    }

    /// The values that some rows' sums of bytes stand for, group by group as [`Scales`](crate::tile::Scales) has it.
    ///
    /// # Safety
    /// The rows must have scales behind them; sums and values must be theirs, a block wide.
    #[inline(always)]
    unsafe fn scale(
        &self,
        (sums, values): (*const f32, *mut f32),
        rows: Range<usize>,
        panel: usize,
        (group, groups): (usize, usize),
    ) {
        let OnUnit(ref task, s) = *self;
        let (linear, arena) = (task.linear, task.arena.values());
        let column_factors = arena[linear.factors.clone()][panel * BLOCK..][..BLOCK].as_ptr();
        let column_sums = &arena[linear.sums.clone()][group * linear.factors.len() + panel * BLOCK..][..BLOCK];
        let start = rows.start;
        for row in rows {
            // SAFETY: by contract; columns were just sliced to whole blocks.
            unsafe {
                let scales = task.input.add(row * task.input_stride + scale_at(linear.inputs) + 2 * group);
                let (scale, low) = (s.splat(*scales), s.splat(*scales.add(1)));
                for at in (0..BLOCK).step_by(S::LANES) {
                    let value = values.add((row - start) * BLOCK + at);
                    let before = if group == 0 { s.splat(0.0) } else { s.load(value) };
                    let sum = s.integers_to_f32(s.load_words(sums.add((row - start) * BLOCK + at)));
                    let offset = s.mul_add(low, s.load(column_sums.as_ptr().add(at)), before);
                    let mut after = s.mul_add(sum, scale, offset);
                    if group + 1 == groups {
                        after = s.mul(after, s.load(column_factors.add(at)));
                    }
                    s.store(value, after);
                }
            }
        }
    }

    /// What comes after the sums of some rows and a panel: `sums` is those of the first row.
    ///
    /// # Safety
    /// `sums` must be readable for these rows of a block; output and what the epilogue adds must have them.
    #[inline(always)]
    unsafe fn finish(&self, sums: *const f32, rows: Range<usize>, panel: usize) {
        // One loop per activation, with the choice outside of it.
        // SAFETY: handed on.
        unsafe {
            match self.0.epilogue {
                Epilogue::Bias | Epilogue::Residual(..) => self.finish_with(sums, rows, panel, None),
                Epilogue::Activation(activation) | Epilogue::Gated(activation, ..) => match activation {
                    Activation::Gelu => self.finish_with(sums, rows, panel, Some(Activation::Gelu)),
                    Activation::GeluTanh => self.finish_with(sums, rows, panel, Some(Activation::GeluTanh)),
                    Activation::Relu => self.finish_with(sums, rows, panel, Some(Activation::Relu)),
                    Activation::Silu => self.finish_with(sums, rows, panel, Some(Activation::Silu)),
                },
            }
        }
    }

    /// # Safety
    /// As for [`OnUnit::finish`].
    #[inline(always)]
    unsafe fn finish_with(&self, sums: *const f32, rows: Range<usize>, panel: usize, activation: Option<Activation>) {
        let OnUnit(ref task, s) = *self;
        let linear = task.linear;
        let first = panel * BLOCK;
        let columns = (linear.outputs - first).min(BLOCK);
        let bias = task.arena.values()[linear.bias.clone()][first..][..BLOCK].as_ptr();
        let start = rows.start;
        for row in rows {
            for at in (0..BLOCK).step_by(2 * S::LANES) {
                let high = at + S::LANES;
                // SAFETY: the helpers stay within the columns; an operand has room for whole blocks of them, and there are
                // zeros in those beyond the last.
                unsafe {
                    let sums = sums.add((row - start) * BLOCK);
                    let mut pair = (
                        s.add(s.load(sums.add(at)), s.load(bias.add(at))),
                        s.add(s.load(sums.add(high)), s.load(bias.add(high))),
                    );
                    if let Some(activation) = activation {
                        let parts = match task.form {
                            Out::Operand { parts } => parts,
                            Out::Values => 3,
                        };
                        pair = (activation.apply_for(s, pair.0, parts), activation.apply_for(s, pair.1, parts));
                    }
                    match task.epilogue {
                        Epilogue::Gated(_, gate, stride) => {
                            let gate = gate.add(row * stride + first);
                            pair.0 = s.mul(pair.0, load_columns(s, gate, at, columns));
                            pair.1 = s.mul(pair.1, load_columns(s, gate, high, columns));
                        }
                        Epilogue::Residual(residual, stride) => {
                            let residual = residual.add(row * stride + first);
                            pair.0 = s.add(pair.0, load_columns(s, residual, at, columns));
                            pair.1 = s.add(pair.1, load_columns(s, residual, high, columns));
                        }
                        Epilogue::Bias | Epilogue::Activation(_) => {}
                    }
                    let out = task.out.add(row * task.out_stride);
                    match task.form {
                        Out::Operand { parts } => {
                            let distance = Form::Parts(parts).part_words(linear.outputs);
                            store_parts(s, pair, out.add((first + at) / 2), parts, distance);
                        }
                        Out::Values => {
                            store_columns(s, out.add(first), at, columns, pair.0);
                            store_columns(s, out.add(first), high, columns, pair.1);
                        }
                    }
                }
            }
        }
    }
}
