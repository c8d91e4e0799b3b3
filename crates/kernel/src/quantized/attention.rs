//! Steps of a pass over heads: scores and their softmax, then contexts.

use std::ops::Range;

use super::super::isa::Simd;
use super::epilogue::{Epilogue, Then};
use super::exact;
use super::linear::quantize;
use super::matrix::Matrix;
use super::model::ScoreScale;
use super::product::Multiply;
use super::quantization::{Quantization, Spread};
use super::state::{MemberScratch, Pass, Tensor};
use super::tile::{GROUP, MAX_TILE_ROWS, PANEL, Tile};

/// Some queries of a head in a layer.
#[derive(Clone)]
pub(super) struct Queries {
    pub(super) head: usize,
    pub(super) rows: Range<usize>,
    pub(super) layer: usize,
    /// The member has not packed this head yet.
    pub(super) fresh: bool,
}

/// Where a head's columns are.
fn head_columns(pass: &Pass<'_>, head: usize) -> Range<usize> {
    let width = pass.model.shape.hidden / pass.model.shape.heads;
    head * width..(head + 1) * width
}

/// Which side of a product a head's keys or values are packed for.
#[derive(Clone, Copy, PartialEq)]
enum Pack {
    /// A column per token.
    Keys,
    /// A row per token.
    Values,
}

/// Packs a head's keys or values. Codes are given less 128, to be signed.
#[inline(always)]
fn pack_head<S: Simd>(
    s: S,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    (from, how): (Matrix, Quantization),
    head: usize,
    pack: Pack,
) {
    let columns = head_columns(pass, head);
    let (width, tokens) = (columns.len(), pass.tokens);
    let stride = quantize(s, scratch, how, (from, 0..tokens, columns), None);
    scratch.signed.clear();
    scratch.signed.extend(scratch.codes[..tokens * stride].iter().map(|code| (code ^ 0x80) as i8));
    match pack {
        Pack::Keys => {
            scratch.head.resize(width, tokens, pass.model.layout());
            for (token, codes) in scratch.signed.chunks_exact(stride).enumerate() {
                scratch.head.set_column(token, &codes[..width]);
            }
        }
        Pack::Values => {
            scratch.head.resize(tokens, width, pass.model.layout());
            for (group, codes) in scratch.signed.chunks(GROUP * stride).enumerate() {
                let mut rows = codes.chunks_exact(stride).map(|codes| &codes[..width]);
                scratch.head.set_rows(group, std::array::from_fn(|_| rows.next()));
            }
        }
    }
}

/// Exponentials of some queries' scores, and the factors that make them probabilities.
#[inline(always)]
pub(super) fn scores<S: Simd, M: Multiply>(
    s: S,
    by: &mut M,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    queries: Queries,
) {
    let Queries { head, rows, layer, fresh } = queries;
    let tokens = pass.tokens;
    let [query, key] = [Tensor::Query, Tensor::Key].map(|tensor| pass.quantization(layer, tensor));
    if fresh {
        pack_head(s, pass, scratch, (pass.key, key), head, Pack::Keys);
    }
    let columns = head_columns(pass, head);
    let width = columns.len();
    let stride = quantize(s, scratch, query, (pass.query, rows.clone(), columns), None);
    let zero_points = (query.zero_point, key.zero_point - 128);
    let scale = query.scale * key.scale;
    let then = match pass.model.blocks[layer].score_scale {
        ScoreScale::None => Then::Nothing,
        ScoreScale::Multiply(factor) => Then::Multiply(factor),
        ScoreScale::Divide(divisor) => Then::Divide(divisor),
    };
    let panels = scratch.head.panel_count();
    let here = Matrix::with_room(&mut scratch.scores, MAX_TILE_ROWS, panels * PANEL);
    let mut tile = Tile::new();
    let mut most = 0f32;
    // SAFETY: this item alone has these rows of this head.
    let factors = unsafe { pass.factors.row_mut(head, rows.clone()) };
    // Softmax follows each tile of rows while its scores are in the first-level cache, where all keys of a head stay too.
    for run in by.tiles(0..rows.len()) {
        let codes = &scratch.codes[run.start * stride..];
        for panel in 0..panels {
            let epilogue = Epilogue::new(&scratch.head, panel, width, zero_points, scale, None, then);
            by.multiply(codes, stride, run.len(), scratch.head.panel(panel), None, &mut tile);
            let to = (here, 0..run.len(), panel * PANEL..(panel + 1) * PANEL);
            // SAFETY: the member's own memory.
            unsafe { epilogue.finish(s, &tile, &scratch.sums[run.clone()], to, None) };
        }
        for (i, row) in run.enumerate() {
            // SAFETY: the member's own memory, and this item alone has these rows of this head.
            let (scores, powers) =
                unsafe { (here.row(i, 0..tokens), pass.powers.row_mut(head * tokens + rows.start + row, 0..tokens)) };
            // All heads' powers exceed the cache: later rows are asked for in time.
            for at in (0..tokens).step_by(16) {
                s.prefetch(powers.as_ptr().wrapping_add(2 * pass.powers.stride() + at));
            }
            factors[row] = exact::softmax(s, pass.model.arithmetic, scores, powers);
            most = exact::larger(factors[row], most);
        }
    }
    pass.range(layer, Tensor::Probabilities).include((0.0, most));
}

/// Contexts of some queries.
#[inline(always)]
pub(super) fn context<S: Simd, M: Multiply>(
    s: S,
    by: &mut M,
    pass: &Pass<'_>,
    scratch: &mut MemberScratch,
    queries: Queries,
) {
    let Queries { head, rows, layer, fresh } = queries;
    let tokens = pass.tokens;
    let [probability, value] = [Tensor::Probabilities, Tensor::Value].map(|tensor| pass.quantization(layer, tensor));
    if fresh {
        pack_head(s, pass, scratch, (pass.value, value), head, Pack::Values);
    }
    let zero_points = (probability.zero_point, value.zero_point - 128);
    let scale = probability.scale * value.scale;
    let columns = head_columns(pass, head);
    // SAFETY: written in an earlier phase.
    let factors = unsafe { pass.factors.row(head, rows.clone()) };
    let mut tile = Tile::new();
    let mut spread = Spread::new();
    for run in by.tiles(0..rows.len()) {
        let first = head * tokens + rows.start;
        let left = (pass.powers, first + run.start..first + run.end, 0..tokens);
        let stride = quantize(s, scratch, probability, left, Some(&factors[run.clone()]));
        let to_rows = rows.start + run.start..rows.start + run.end;
        for panel in 0..scratch.head.panel_count() {
            let epilogue = Epilogue::new(&scratch.head, panel, tokens, zero_points, scale, None, Then::Nothing);
            by.multiply(&scratch.codes, stride, run.len(), scratch.head.panel(panel), None, &mut tile);
            let first = columns.start + panel * PANEL;
            let to = (pass.context, to_rows.clone(), first..columns.end.min(first + PANEL));
            // SAFETY: this item alone has these rows of this head.
            unsafe { epilogue.finish(s, &tile, &scratch.sums, to, Some(&mut spread)) };
        }
    }
    pass.range(layer, Tensor::Context).include(spread.ends());
}
