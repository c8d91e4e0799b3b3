//! Steps of a pass over rows of tokens: embedding, norms, and products with weights.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::super::isa::{Simd, even_runs};
use super::super::transformer::Norm;
use super::epilogue::Epilogue;
use super::exact::{self, MOST_LANES};
use super::matrix::Matrix;
use super::on_unit::rows_read;
use super::product::Multiply;
use super::quantization::{CODES, Quantization, Spread};
use super::state::{MemberScratch, NormStep, Output, Pass, Tensor};
use super::tile::{PANEL, Tile};

const CACHE_LINE: usize = 64;
/// About how many values before their turn those to be quantised are asked for.
const AHEAD: usize = 512;

/// Embeds and norms some rows.
#[inline(always)]
pub(super) fn embed<S: Simd>(s: S, pass: &Pass<'_>, rows: Range<usize>) {
    let hidden = pass.model.shape.hidden;
    for token in rows.clone() {
        // The tables are large, and what is next is known.
        if let (Some(table), Some(&next)) = (pass.model.tables.first(), pass.rows[0].get(token + 1)) {
            for at in (0..hidden).step_by(CACHE_LINE) {
                s.prefetch(table.codes.as_ptr().wrapping_add(next as usize * hidden + at).cast());
            }
        }
        // SAFETY: this item alone has these rows.
        let state = unsafe { pass.states.row_mut(token, 0..hidden) };
        for (index, (table, chosen)) in pass.model.tables.iter().zip(pass.rows).enumerate() {
            let codes = &table.codes[chosen[token] as usize * hidden..][..hidden];
            let (scale, zero_point) = (table.scale, table.zero_point);
            for (state, &code) in state.iter_mut().zip(codes) {
                let value = (i32::from(code) - zero_point) as f32 * scale;
                *state = if index == 0 { value } else { *state + value };
            }
        }
    }
    let step = NormStep { norm: &pass.model.embedding_norm, at: pass.states, range: pass.range(0, Tensor::States) };
    normalize(s, pass, &step, rows);
}

/// A norm of some rows, in place.
#[inline(always)]
pub(super) fn normalize<S: Simd>(s: S, pass: &Pass<'_>, step: &NormStep<'_>, rows: Range<usize>) {
    let hidden = pass.model.shape.hidden;
    let Norm { gamma, beta } = step.norm;
    let mut spread = Spread::new();
    for run in even_runs(rows, S::LANES) {
        let mut pointers = [std::ptr::null(); MOST_LANES];
        for (i, pointer) in pointers.iter_mut().enumerate() {
            // The last row stands in for those that are not there.
            // SAFETY: this item alone has these rows.
            *pointer = unsafe { step.at.row(run.start + i.min(run.len() - 1), 0..hidden) }.as_ptr();
        }
        // SAFETY: rows of so many columns.
        let [sums, squares] = unsafe { exact::moments(s, pass.model.arithmetic, &pointers[..S::LANES], hidden) };
        for ((row, sum), square) in run.zip(sums).zip(squares) {
            // SAFETY: this item alone has these rows.
            let row = unsafe { step.at.row_mut(row, 0..hidden) };
            if !exact::layer_norm(
                (s, pass.model.arithmetic),
                row,
                [sum, square],
                (gamma, beta),
                pass.model.shape.epsilon,
            ) {
                pass.lost.store(true, Ordering::Relaxed);
            }
            spread.include_all(s, row);
        }
    }
    step.range.include(spread.ends());
}

/// Quantises some columns of some rows into the member's codes, from its first row on. `factors` are what the values of
/// each row are multiplied by first. Returns from one row of codes to the next.
#[inline(always)]
pub(super) fn quantize<S: Simd>(
    s: S,
    scratch: &mut MemberScratch,
    quantization: Quantization,
    (left, rows, columns): (Matrix, Range<usize>, Range<usize>),
    factors: Option<&[f32]>,
) -> usize {
    let stride = columns.len().next_multiple_of(CODES);
    // What is beyond a row's codes meets weights of zero, and what is beyond the last row is not looked at.
    let room = rows_read(rows.len()) * stride;
    if scratch.codes.len() < room {
        scratch.codes.resize(room, 0);
    }
    scratch.sums.resize(rows.len(), 0);
    // The same columns of a later row, or what follows in a long one.
    let ahead = if columns.len() < AHEAD { AHEAD / columns.len() * left.stride() } else { AHEAD };
    let targets = scratch.codes.chunks_exact_mut(stride).zip(&mut scratch.sums);
    for (i, (row, (codes, sum))) in rows.zip(targets).enumerate() {
        // SAFETY: written in an earlier phase.
        let values = unsafe { left.row(row, columns.clone()) };
        *sum = quantization.codes(s, (values, ahead), factors.map(|factors| factors[i]), codes);
    }
    stride
}

/// Some panels of a product, for the rows that were quantised, the first of which is given.
#[inline(always)]
pub(super) fn product<S: Simd, M: Multiply>(
    s: S,
    by: &mut M,
    scratch: &mut MemberScratch,
    output: &Output<'_>,
    quantization: Quantization,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let Output { linear, to, then, range } = output;
    let inputs = linear.inputs;
    let stride = inputs.next_multiple_of(CODES);
    let scale = quantization.scale * linear.scale;
    let zero_points = (quantization.zero_point, linear.zero_point);
    let mut tile = Tile::new();
    let mut spread = range.map(|_| Spread::new());
    for panel in panels {
        let first = panel * PANEL;
        // The next panel's columns are asked for while this one is multiplied.
        for at in (first + PANEL..first + 2 * PANEL).step_by(16) {
            s.prefetch(linear.bias.as_ptr().wrapping_add(at));
            s.prefetch(linear.panels.column_sums.as_ptr().wrapping_add(at).cast());
        }
        let columns = first..linear.panels.columns().min(first + PANEL);
        let bias = linear.bias[first..][..PANEL].try_into().ok();
        let epilogue = Epilogue::new(&linear.panels, panel, inputs, zero_points, scale, bias, *then);
        for run in by.tiles(0..rows.len()) {
            let codes = &scratch.codes[run.start * stride..];
            by.multiply(
                codes,
                stride,
                run.len(),
                linear.panels.panel(panel),
                linear.panels.panel_after(panel, run.start),
                &mut tile,
            );
            let to = (*to, rows.start + run.start..rows.start + run.end, columns.clone());
            // SAFETY: this item alone has these rows or columns; a residual was written in an earlier phase.
            unsafe { epilogue.finish(s, &tile, &scratch.sums[run], to, spread.as_mut()) };
        }
    }
    if let (Some(range), Some(spread)) = (range, spread) {
        range.include(spread.ends());
    }
}
