//! A feed-forward by a few of several experts: each on the rows that take it.

use std::ops::Range;

use super::memory::Matrix;
use super::pass::{Pass, Places};
use super::shape::Shape;
use super::steps::{ExpertStep, Place};
use crate::experts::{AddRowTask, NOT_TAKEN, RouteTask};
use crate::linear::{Epilogue, Linear};
use crate::math::Activation;
use crate::operand::Form;

impl Pass {
    /// Feed-forwards by experts, each on the rows that take it, all by this member.
    pub(super) fn experts(&self, step: &ExpertStep, places: &Places, rows: Range<usize>) {
        let Shape { hidden, activation, .. } = self.model.shape;
        let arena = self.model.arena.values();
        let [shares, gathered, made] = places.experts;
        let (from, to) = (places.at(step.from), places.at(step.to));
        let router = (&arena[step.router.weight.clone()], &arena[step.router.bias.clone()]);
        let sizes = (hidden, step.experts.len(), step.taken);
        let bias = &arena[step.bias.clone()];
        // SAFETY: the matrices have these rows, as wide as needed; those of `from` were written by this member, and all others
        // are given to it. Rows of `to` and `states` are the same or apart.
        unsafe {
            self.model.kernels.run(RouteTask::new(router, sizes, from.input(), shares.out(), rows.clone()));
            for row in rows.clone() {
                let to = to.row(row);
                std::ptr::copy(places.states.row(row), to, hidden);
                self.model.kernels.run(AddRowTask::new(bias.as_ptr(), to, bias.len(), 1.0));
            }
        }
        // A late activation is applied where rows are rounded.
        let late = self.rounds(Place::Between);
        let (epilogue, late) =
            if late { (Epilogue::Bias, Some(activation)) } else { (Epilogue::Activation(activation), None) };
        for (expert, (up, down)) in step.experts.iter().enumerate() {
            // SAFETY: as above.
            let share = |row: usize| unsafe { shares.row(row).add(expert).read() };
            let takers = || rows.clone().filter(|&row| share(row) != NOT_TAKEN);
            let mut count = 0;
            for row in takers() {
                // SAFETY: as above; no more rows are gathered than there are.
                unsafe { std::ptr::copy_nonoverlapping(from.row(row), gathered.row(count), hidden) };
                count += 1;
            }
            if count == 0 {
                continue;
            }
            let between = Place::Between;
            self.rounded_product(up, (gathered, None), (places.between, between), epilogue, places, 0..count);
            self.rounded_product(down, (places.between, late), (made, Place::Sums), Epilogue::Bias, places, 0..count);
            for (place, row) in takers().enumerate() {
                // SAFETY: as above.
                let task = unsafe { AddRowTask::new(made.row(place), to.row(row), hidden, share(row)) };
                self.model.kernels.run(task);
            }
        }
    }

    /// A product of a matrix, rounded before where it must be.
    fn rounded_product(
        &self,
        linear: &Linear,
        (input, activation): (Matrix, Option<Activation>),
        (out, to): (Matrix, Place),
        epilogue: Epilogue,
        places: &Places,
        rows: Range<usize>,
    ) {
        let is_ready = input.start == places.between.start && self.way.feeds_operand();
        let mut read = input;
        if self.way.form != Form::Plain && !is_ready {
            self.round_rows((input, linear.inputs(), activation), places.operand, rows.clone());
            read = places.operand;
        }
        self.product_of(linear, read, (out, to), epilogue, places, rows);
    }
}
