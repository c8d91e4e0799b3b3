//! Products by vectors, panel by panel; on a unit where the task has one.

use std::ops::Range;

use super::on_unit::OnUnit;
use super::task::{Epilogue, LinearTask};
use crate::caches::cached_values;
use crate::isa::{PANEL_VECTORS, Simd, Task, even_runs_of};
use crate::math::Activation;
use crate::operand::{Form, scale_at};
use crate::precision::Precision;
use crate::tile::{Ahead, DEPTH_PART, Finish, Product, Scales, load_columns, store_columns};

impl Task for LinearTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if let Some(unit) = self.unit {
            return s.call_on_unit(unit, OnUnit(self, s));
        }
        let width = S::LANES * PANEL_VECTORS;
        assert_eq!(width, self.linear.panel_width, "packed for another instruction set");
        let factors = self.linear.factors_by_vectors;
        let form = Form::of(factors);
        let depth = form.depth_words(self.linear.inputs);
        let words = self.linear.panels.words;
        let right_stride = factors.right_stride(width);
        let values = self.arena.values();
        let panels = &values[self.linear.panels.range()];
        let block = self.depth_block(depth);
        // As many rows at once as leave room for a panel in the second-level cache, in whole tiles.
        let most_rows = (cached_values() / block / S::TILE_ROWS).max(1) * S::TILE_ROWS;
        let together = form.together();
        assert!(self.rows.start.is_multiple_of(together), "rows that lie together");
        for rows in even_runs_of(self.rows.clone(), most_rows, together) {
            for start in (0..depth).step_by(block) {
                let block = block.min(depth - start);
                let is_last = start + block == depth;
                for panel in self.columns.clone() {
                    let first = panel * width;
                    let right = &panels[panel * words..][..words];
                    let place = |panel, start| self.linear.panels.at(panel) + start * right_stride;
                    let next = if panel + 1 < self.columns.end {
                        Some(place(panel + 1, start))
                    } else if !is_last {
                        Some(place(self.columns.start, start + block))
                    } else if rows.end < self.rows.end {
                        Some(place(self.columns.start, 0))
                    } else {
                        self.then
                    };
                    let bias = values[self.linear.bias.clone()][first..][..width].as_ptr();
                    let scales = self.scales(first, width);
                    let columns = (self.linear.outputs - first).min(width);
                    // SAFETY: by the promise made to `new`, input, residual and out hold these rows and columns; `right`,
                    // `bias` and scales were just sliced to whole panels.
                    unsafe {
                        let product = Product {
                            depth: block,
                            left: self.input.add(together * start),
                            left_stride: self.input_stride,
                            right: right.as_ptr().add(start * right_stride),
                            right_stride,
                            resume: start > 0,
                            scales,
                            columns,
                            finish: if is_last { self.finish(first, bias) } else { Finish::Plain },
                            out: self.out.add(first),
                            out_stride: self.out_stride,
                            ahead: next.map_or(Ahead::nothing(bias), |next| {
                                Ahead::panel(values.as_ptr().wrapping_add(next), right_stride)
                            }),
                        };
                        product.compute_in(s, factors, rows.clone());
                        if is_last {
                            self.follow(s, product, rows.clone(), first);
                        }
                    }
                }
            }
        }
    }
}

impl LinearTask<'_> {
    /// Words of the depth to go through all rows and panels with, before the next ones.
    ///
    /// Many rows of great depth have no room in the cache: in blocks, with the sums so far in `out`, a piece of a panel is
    /// read once for all of them. Few rows read each panel in one sweep.
    fn depth_block(&self, depth: usize) -> usize {
        let fits = self.rows.len() * depth <= cached_values();
        // What `out` has to begin with must not be lost before it is added.
        let in_place = matches!(self.epilogue, Epilogue::Residual(residual, _) if std::ptr::eq(residual, self.out));
        if fits || in_place || self.linear.precision == Precision::Int8 { depth } else { 2 * DEPTH_PART }
    }

    /// Of bytes: the scales of a panel, whose first column is given.
    #[inline(always)]
    fn scales(&self, first: usize, width: usize) -> Option<Scales> {
        if self.linear.precision != Precision::Int8 {
            return None;
        }
        let values = self.arena.values();
        let (factors, sums) = (&values[self.linear.factors.clone()], &values[self.linear.sums.clone()]);
        Some(Scales {
            row: scale_at(self.linear.inputs),
            factors: factors[first..][..width].as_ptr(),
            sums: sums[first..].as_ptr(),
            sums_stride: factors.len(),
        })
    }

    /// What is added to the sums of a panel, whose first column and bias are given.
    ///
    /// # Safety
    /// The residual must have that column.
    #[inline(always)]
    unsafe fn finish(&self, first: usize, bias: *const f32) -> Finish {
        match self.epilogue {
            Epilogue::Bias | Epilogue::Activation(_) | Epilogue::Gated(..) => Finish::Bias(bias),
            Epilogue::Residual(residual, stride) => {
                // SAFETY: by the caller's promise.
                let residual = unsafe { residual.add(first) };
                Finish::BiasResidual { bias, residual, stride }
            }
        }
    }

    /// What is done with a product that was just stored, whose first column is given.
    ///
    /// # Safety
    /// `product.out` must be writable for these rows and columns, and the gate readable.
    #[inline(always)]
    unsafe fn follow<S: Simd>(&self, s: S, product: Product, rows: Range<usize>, first: usize) {
        if let Epilogue::Activation(activation) | Epilogue::Gated(activation, ..) = self.epilogue {
            // SAFETY: by the caller's promise.
            unsafe { activate(s, activation, product, rows.clone()) };
        }
        if let Epilogue::Gated(_, gate, stride) = self.epilogue {
            // SAFETY: by the caller's promise.
            unsafe { multiply(s, product, rows, (gate.add(first), stride)) };
        }
    }
}

/// Applies the activation to what a product just stored: it is still in the first-level cache, and the loop is small
/// where code unrolled into every tile would not be.
///
/// # Safety
/// `product.out` must be writable for these rows and columns.
#[inline(always)]
unsafe fn activate<S: Simd>(s: S, activation: Activation, product: Product, rows: Range<usize>) {
    match activation {
        // One loop per activation, with the choice outside of it.
        Activation::Gelu => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::Gelu) }
        }
        Activation::GeluTanh => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::GeluTanh) }
        }
        Activation::Relu => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::Relu) }
        }
        Activation::Silu => {
            // SAFETY: handed on.
            unsafe { map(s, product, rows, Activation::Silu) }
        }
    }
}

/// # Safety
/// `product.out` must be writable for these rows and columns.
#[inline(always)]
unsafe fn map<S: Simd>(s: S, product: Product, rows: Range<usize>, activation: Activation) {
    let (out, stride, columns) = (product.out, product.out_stride, product.columns);
    for row in rows {
        // SAFETY: the row is writable for `columns` values, and the helpers stay within.
        unsafe {
            let row = out.add(row * stride);
            for at in (0..columns).step_by(S::LANES) {
                let value = activation.apply(s, load_columns(s, row, at, columns));
                store_columns(s, row, at, columns, value);
            }
        }
    }
}

/// Multiplies what a product just stored by a gate, given by its row 0 in the product's first column.
///
/// # Safety
/// `product.out` must be writable for these rows and columns, the gate readable.
#[inline(always)]
unsafe fn multiply<S: Simd>(s: S, product: Product, rows: Range<usize>, (gate, stride): (*const f32, usize)) {
    for row in rows {
        // SAFETY: both rows have `columns` values, and the helpers stay within.
        unsafe {
            let (out, gate) = (product.out.add(row * product.out_stride), gate.add(row * stride));
            for at in (0..product.columns).step_by(S::LANES) {
                let factor = load_columns(s, gate, at, product.columns);
                let value = s.mul(load_columns(s, out, at, product.columns), factor);
                store_columns(s, out, at, product.columns, value);
            }
        }
    }
}
