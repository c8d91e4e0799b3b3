//! How a pass is computed and shared out.

use std::ops::RangeInclusive;

use super::model::Transformer;
use super::shape::Shape;
use crate::caches::{cached_values, second_level};
use crate::dot::Factors;
use crate::operand::Form;
use crate::precision::Precision;
use crate::unit::Unit;
use crate::unit_product::BLOCK;

/// Below this many rows per thread products are shared out by columns: so few that a core waits for weights more than it
/// computes. all-MiniLM-L6-v2 on two cores of an AMD EPYC (Zen 4), ms by rows / by columns, the least of 25 rounds:
///
/// | tokens | f32 | f16 | bf16 | int8 |
/// |---|---|---|---|---|
/// | 6 | 1.39 / 0.89 | 0.86 / 0.76 | 0.41 / 0.38 | 0.25 / 0.24 |
/// | 8 | 1.43 / 0.94 | 1.12 / 1.18 | 0.45 / 0.48 | 0.29 / 0.32 |
/// | 12 | 1.43 / 1.28 | 1.43 / 1.39 | 0.65 / 0.70 | 0.38 / 0.43 |
/// | 16 | 1.64 / 1.65 | 1.79 / 1.81 | 0.85 / 0.87 | 0.49 / 0.52 |
/// | 32 | 3.18 / 3.29 | 3.65 / 3.62 | 1.87 / 1.92 | 0.95 / 1.02 |
const fn few_rows(factors: Factors) -> usize {
    match factors {
        Factors::F32 => 7,
        Factors::F32ByF16 | Factors::F32ByBf16 => 4,
        Factors::Bf16 | Factors::Bytes | Factors::Bf16Squares | Factors::ByteSquares => 3,
    }
}

/// The same on a matrix unit, whose time for fewer than sixteen rows is that for sixteen, on two cores of an Intel Xeon
/// (Emerald Rapids; a virtual machine, not quite idle):
///
/// | tokens | f32 | bf16x3 | bf16 | int8 |
/// |---|---|---|---|---|
/// | 16 | 4.60 / 2.61 | 2.07 / 1.31 | 1.05 / 0.78 | 0.64 / 0.71 |
/// | 32 | 4.44 / 3.30 | 1.86 / 1.92 | 0.83 / 0.97 | 0.71 / 1.10 |
const fn few_rows_on_unit(precision: Precision) -> usize {
    match precision {
        // Weights are split again for every block of rows.
        Precision::F32 => 64,
        Precision::Bf16x3 | Precision::F16 => 16,
        Precision::Bf16 => 12,
        Precision::Int8 => 8,
    }
}

/// The fewest and the most rows of a block in the rows schedule: with fewer, weights that no cache holds come too often; with
/// more, they hardly come less often.
const BLOCK_ROWS: RangeInclusive<usize> = 56..=126;
/// The fewest and the most rows of a block on a matrix unit, which reads weights faster than a cache that all cores share gives
/// them, and in f32 splits them again for every block.
const UNIT_BLOCK_ROWS: RangeInclusive<usize> = 64..=128;
/// Pieces per thread into which a product's columns are cut, so that a delayed thread holds up little.
const PIECES: usize = 4;

/// Rows of a block by vectors, in whole tiles: its feed-forward values stay in the second-level cache, of which so many values
/// are theirs.
fn block_rows(cached: usize, intermediate: usize, tile_rows: usize) -> usize {
    const { assert!(BLOCK_ROWS.start().is_multiple_of(2) && BLOCK_ROWS.end().is_multiple_of(2)) };
    let rows = (cached / intermediate / tile_rows * tile_rows).clamp(*BLOCK_ROWS.start(), *BLOCK_ROWS.end());
    // An even number: two may lie together.
    rows / 2 * 2
}

/// Rows of a block on a unit, in whole pairs of tiles: its values between the feed-forward matrices, so many words a row, take up to
/// half of the second-level cache.
fn unit_block_rows(cache_bytes: usize, between_words: usize) -> usize {
    let rows = cache_bytes / 2 / (between_words * size_of::<f32>());
    (rows / BLOCK * BLOCK).clamp(*UNIT_BLOCK_ROWS.start(), *UNIT_BLOCK_ROWS.end())
}

/// By what a pass is computed, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// What multiplies in place of vectors.
    pub(super) unit: Option<Unit>,
    /// How products read their rows.
    pub(super) form: Form,
    /// Words of the widest row that a product reads rounded.
    pub(super) operand_words: usize,
    /// Words of a row between the feed-forward matrices.
    pub(super) between_words: usize,
    /// Rows of a block in the rows schedule.
    pub(super) block_rows: usize,
    /// Below how many rows per thread products are shared out by columns.
    pub(super) few_rows: usize,
    pub(super) attention: Attention,
}

/// By what attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// By vectors in f32.
    Plain,
    /// By vectors, rounded to bf16: in precisions that round more than that, where it is faster.
    Rounded,
    /// On a unit, in so many parts of bf16.
    OnUnit(Unit, usize),
}

impl Attention {
    fn new(model: &Transformer, unit: Option<Unit>) -> Attention {
        if let Some((unit, parts)) = unit.zip(model.kernels.attention_parts(model.precision)) {
            return Attention::OnUnit(unit, parts);
        }
        let rounds = matches!(model.precision, Precision::Bf16 | Precision::Int8) && model.kernels.rounds_attention();
        if rounds { Attention::Rounded } else { Attention::Plain }
    }
}

impl Way {
    pub(super) fn new(model: &Transformer, unit: Option<Unit>) -> Way {
        let Shape { hidden, intermediate, .. } = model.shape;
        let form = model.kernels.form(model.precision, unit);
        let mut way = Way {
            unit,
            form,
            operand_words: form
                .row_words(hidden.max(intermediate).max(model.shape.attention_width()).max(model.table_width)),
            between_words: intermediate,
            block_rows: block_rows(cached_values(), intermediate, model.kernels.tile_rows()),
            few_rows: match unit {
                Some(_) => few_rows_on_unit(model.precision),
                None => few_rows(model.kernels.factors(model.precision)),
            },
            attention: Attention::new(model, unit),
        };
        if way.feeds_operand() {
            way.between_words = form.row_words(intermediate);
        }
        if unit.is_some() {
            way.block_rows = unit_block_rows(second_level(), way.between_words);
        }
        way
    }

    /// Whether the first feed-forward product writes what the second reads. Bytes have a scale that needs many columns.
    pub(super) fn feeds_operand(&self) -> bool {
        matches!(self.form, Form::Parts(_))
    }
}

/// How a forward pass is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    Columns,
    Rows,
}

impl Schedule {
    pub(super) fn for_rows(rows: usize, threads: usize, few: usize) -> Schedule {
        if threads > 1 && rows < few * threads { Schedule::Columns } else { Schedule::Rows }
    }
}

/// Into how many pieces a product's panels are cut: the fewest that make equal shares for all threads, if there is such a
/// number. A share too much for one thread, when a panel takes 30 µs, is time in which the others wait.
pub(super) fn pieces(panels: usize, threads: usize) -> usize {
    let least = threads * PIECES;
    (least..=panels)
        .find(|pieces| panels.is_multiple_of(*pieces) && pieces.is_multiple_of(threads))
        .unwrap_or(panels.min(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_as_many_rows_at_once_as_the_cache_holds() {
        // all-MiniLM-L6-v2 and BERT base in f32, bf16x3 and bf16.
        assert_eq!([2304, 1536, 768].map(|words| unit_block_rows(2 << 20, words)), [96, 128, 128]);
        assert_eq!([4608, 3072, 1536].map(|words| unit_block_rows(2 << 20, words)), [64, 64, 128]);
        assert_eq!(unit_block_rows(1 << 20, 768), 128);
    }
}
