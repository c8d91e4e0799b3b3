//! The card's memory for passes of so many rows.

use std::cell::RefCell;

use text2vec_kernel::NormPlacement;

use crate::card::{Address, Card, CardResult, Number};
use crate::layout::{RECORDED_ROWS, Takers};
use crate::weights::{Model, padded, residual};

/// Rows on the card, and how far apart they are, in numbers.
pub(crate) type Place = (Address, usize);

/// Where the matrices of a pass lie; nowhere where the model has no use for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// What blocks read, with norms after them: hidden states.
    pub(crate) states: Place,
    /// What blocks add to in f32: hidden states with norms before, or sums of experts' shares.
    pub(crate) wide: Place,
    /// Norms of `wide`.
    pub(crate) normed: Place,
    /// Embeddings that are yet to be projected.
    pub(crate) embedded: Place,
    /// Queries, keys and values.
    pub(crate) projected: Place,
    /// What attention makes of them.
    pub(crate) context: Place,
    /// Sums that are yet to be normed.
    pub(crate) sums: Place,
    /// Between the products of a feed-forward, factors beside.
    pub(crate) between: Place,
    /// The same, multiplied by the factors.
    pub(crate) gated: Place,
    /// Each row's share of each expert.
    pub(crate) shares: Place,
    /// Rows that took an expert. Nobody reads `context` by then: these are in its place where they are as wide.
    pub(crate) gathered: Place,
    /// Which these are.
    pub(crate) takers: Address,
}

/// Memory for them.
pub(crate) struct Arena<C: Card> {
    /// Rows of each matrix.
    pub(crate) rows: usize,
    pub(crate) places: Places,
    /// How many rows took each expert, for the host. There only for passes that may wait for it.
    pub(crate) totals: Option<RefCell<C::Staging>>,
    _memory: Vec<C::Memory>,
}

impl<C: Card> Arena<C> {
    pub(crate) fn new(card: &C, model: &Model<C>, number: Number, rows: usize) -> CardResult<Arena<C>> {
        let shape = model.shape;
        let mut memory = Vec::new();
        let mut take = |bytes: usize| -> CardResult<Address> {
            memory.push(card.take(bytes)?);
            Ok(memory.last().map_or(Address::NOWHERE, |memory| card.address(memory)))
        };
        let is_after = shape.style.placement == NormPlacement::After;
        let has_experts = model.has_experts();
        let has_norms_of_outputs =
            model.blocks.iter().any(|block| block.attention_output_norm.is_some() || block.feed_forward_norm.is_some());
        let (hidden, intermediate) = (shape.hidden, shape.intermediate);
        let between = if shape.style.gated { 2 * padded(intermediate) } else { intermediate };
        let experts = shape.style.experts.map_or(0, |experts| experts.count);
        // Passes of fewer rows compute all experts for all of them.
        let has_takers = has_experts && rows > RECORDED_ROWS;
        let takers = if has_takers { take(4 * Takers { rows, experts }.words())? } else { Address::NOWHERE };
        let mut place = |is_needed: bool, columns: usize, number: Number| -> CardResult<Place> {
            let stride = padded(columns);
            let first = if is_needed { take(rows * stride * number.bytes())? } else { Address::NOWHERE };
            Ok((first, stride))
        };
        let context = place(true, shape.attention_width(), number)?;
        let is_as_wide = context.1 == padded(hidden);
        let places = Places {
            states: place(is_after, hidden, number)?,
            wide: place(!is_after || has_experts, hidden, Number::F32)?,
            normed: place(!is_after, hidden, number)?,
            embedded: place(model.embedding_projection.is_some(), model.table_width, number)?,
            projected: place(true, shape.projected_width(), number)?,
            context,
            sums: place(is_after || has_experts || has_norms_of_outputs, hidden, number)?,
            between: place(true, between, number)?,
            gated: place(shape.style.gated, intermediate, number)?,
            shares: (place(has_experts, experts, Number::F32)?.0, experts),
            gathered: if is_as_wide { context } else { place(has_takers, hidden, number)? },
            takers,
        };
        debug_assert!(residual(shape, number) == Number::F32 || is_after);
        let totals = if has_takers { Some(RefCell::new(card.staging(4 * experts)?)) } else { None };
        Ok(Arena { rows, places, totals, _memory: memory })
    }
}
