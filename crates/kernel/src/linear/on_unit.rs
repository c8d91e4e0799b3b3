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

impl<S: Simd> OnUnit<'_, S> {
    /// Products with weights that lie as the unit reads them.
    #[inline(always)]
    fn products<U: MatrixUnit, const TERMS: usize>(&self, unit: &mut U) {
        let OnUnit(ref task, s) = *self;
        let (linear, values) = (task.linear, task.arena.values());
        let part = linear.form.part_words(linear.inputs);
        let (steps, words) = (part / TILE_WORDS, linear.panels.words);
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
                let groups = rows.len().div_ceil(BLOCK) * steps * TERMS.max(1);
                // What is used for one block only comes as fast without being asked for.
                let fetched = if rows.len() > BLOCK && coming.is_some() { words } else { 0 };
                let mut fetch = Fetch::new(s, next, fetched, groups);
                let right = (values[linear.panels.at(panel)..][..words].as_ptr(), BLOCK, part * BLOCK);
                for rows in full_runs(rows.clone(), BLOCK) {
                    // SAFETY: by the promise made to `LinearTask::new`, input and output have these rows, and the input
                    // whole tiles of them; the panel was just sliced; there is scratch memory for a block and its values.
                    unsafe {
                        let left = (task.input.add(rows.start * task.input_stride), task.input_stride, part);
                        let (factors, sums) = (Factors { left, right }, task.scratch.0);
                        if TERMS == BYTES {
                            let values = sums.add(BLOCK * BLOCK);
                            self.scaled(unit, factors, rows.len(), panel, (sums, values), &mut fetch);
                            self.finish(values, rows, panel);
                        } else {
                            let (size, sums_at) = ((rows.len(), BLOCK), (sums, BLOCK));
                            block::<U, _, TERMS>(unit, size, factors, 0..steps, sums_at, &mut fetch);
                            self.finish(sums, rows, panel);
                        }
                    }
                }
            }
        }
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
                        if steps.start == 0 {
                            block::<U, _, 6>(unit, size, factors, steps_here, (totals, BLOCK), &mut split);
                        } else {
                            block::<U, _, 6>(unit, size, factors, steps_here, (piece_sums, BLOCK), &mut split);
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

    /// The values that a block's sums of bytes stand for, group by group as [`Scales`](crate::tile::Scales) has it.
    ///
    /// # Safety
    /// As for [`block`]; the rows have scales behind them, and `sums` and `values` room for a block.
    #[inline(always)]
    unsafe fn scaled<U: MatrixUnit, M: Meanwhile>(
        &self,
        unit: &mut U,
        factors: Factors,
        rows: usize,
        panel: usize,
        (sums, values): (*mut f32, *mut f32),
        meanwhile: &mut M,
    ) {
        let OnUnit(ref task, s) = *self;
        let (linear, arena) = (task.linear, task.arena.values());
        let inputs = linear.inputs;
        let steps = linear.form.part_words(inputs) / TILE_WORDS;
        let group_steps = group_inputs(inputs) / (4 * TILE_WORDS);
        let column_factors = arena[linear.factors.clone()][panel * BLOCK..][..BLOCK].as_ptr();
        let groups = steps.div_ceil(group_steps);
        for group in 0..groups {
            let steps = group * group_steps..steps.min((group + 1) * group_steps);
            let column_sums = &arena[linear.sums.clone()][group * linear.factors.len() + panel * BLOCK..][..BLOCK];
            // SAFETY: by contract; columns were just sliced to whole blocks.
            unsafe {
                block::<U, M, BYTES>(unit, (rows, BLOCK), factors, steps, (sums, BLOCK), meanwhile);
                for row in 0..rows {
                    let scales = factors.left.0.add(row * factors.left.1 + scale_at(inputs) + 2 * group);
                    let (scale, low) = (s.splat(*scales), s.splat(*scales.add(1)));
                    for at in (0..BLOCK).step_by(S::LANES) {
                        let value = values.add(row * BLOCK + at);
                        let before = if group == 0 { s.splat(0.0) } else { s.load(value) };
                        let sum = s.integers_to_f32(s.load_words(sums.add(row * BLOCK + at)));
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
