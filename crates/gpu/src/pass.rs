//! A pass of some texts: what the card is asked for, layer by layer.

use std::cell::RefCell;

use text2vec_kernel::{Activation, Mask, NormPlacement};

use crate::arguments::{
    ActivationArguments, AddNormedArguments, AttentionArguments, EmbeddingArguments, HeadsArguments, MOST_TABLES,
    NormArguments, NormParameters,
};
use crate::card::{Address, Card, CardResult, Epilogue, Number, Product};
use crate::layout::Size;
use crate::places::{Place, Places};
use crate::queue::Queue;
use crate::weights::{Block, FeedForward, Linear, Model, Norm, epilogue, residual};

mod experts;

/// What a pass is told of its texts, on the card.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub(crate) rows_of: [Address; MOST_TABLES],
    pub(crate) positions: Address,
    pub(crate) tiles: Address,
}

/// A pass of this size.
pub(crate) struct Pass<'p, C: Card> {
    pub(crate) queue: Queue<'p, C>,
    pub(crate) model: &'p Model<C>,
    pub(crate) places: Places,
    pub(crate) input: Input,
    pub(crate) size: Size,
    /// Where the host hears how many rows took each expert, if this pass may wait for it.
    pub(crate) totals: Option<&'p RefCell<C::Staging>>,
    /// Cosines and sines of each of the model's rotaries.
    pub(crate) turns: Vec<Address>,
    /// Numbers of relative positions, of sequences up to so long.
    pub(crate) bias: (Address, usize),
}

/// Where a product's sums go, and to what they are added.
#[derive(Debug, Clone, Copy)]
struct To {
    place: Place,
    number: Number,
    added: Address,
}

/// All of these ask the card for work on memory of the model and of the arena, whose matrices have the rows of the pass's size,
/// rounded up; so they are unsafe on the one condition that both outlive the work.
impl<C: Card> Pass<'_, C> {
    fn rows(&self) -> u32 {
        self.size.rows as u32
    }

    fn is_after(&self) -> bool {
        self.model.shape.style.placement == NormPlacement::After
    }

    fn norm_of(&self, norm: Option<&Norm<C>>) -> NormParameters {
        norm.map_or(NormParameters::NONE, |norm| norm.parameters(self.queue.card))
    }

    /// Asks for everything from tokens to states. Answers where these are.
    pub(crate) unsafe fn forward(&self) -> CardResult<Place> {
        let Places { states, wide, normed, .. } = self.places;
        // SAFETY: the caller's promise, here and in all that follows.
        unsafe {
            self.embed()?;
            for &place in &self.model.order {
                let block = &self.model.blocks[place];
                if self.is_after() { self.block_with_norms_after(block)? } else { self.block_with_norms_before(block)? }
            }
            if self.is_after() {
                if self.model.final_norm.is_some() {
                    self.norm(self.model.final_norm.as_ref(), (states, false), states)?;
                }
                return Ok(states);
            }
            self.norm(self.model.final_norm.as_ref(), (wide, true), normed)?;
            Ok(normed)
        }
    }

    unsafe fn embed(&self) -> CardResult<()> {
        let Places { states, wide, embedded, .. } = self.places;
        let model = self.model;
        let hidden = if self.is_after() { states } else { wide };
        let to = if model.embedding_projection.is_some() { embedded } else { hidden };
        let mut tables = [Address::NOWHERE; MOST_TABLES];
        for (place, table) in tables.iter_mut().zip(&model.tables) {
            *place = self.queue.card.address(&table.memory);
        }
        let arguments = EmbeddingArguments {
            tables,
            rows_of: self.input.rows_of,
            to: to.0,
            norm: self.norm_of(model.embedding_norm.as_ref()),
            tables_count: model.tables.len() as u32,
            rows: self.rows(),
            width: model.table_width as u32,
            stride: to.1 as u32,
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.queue.embed(to.0 == wide.0 && !self.is_after(), &arguments)?;
            if let Some(projection) = &model.embedding_projection {
                let number = residual(model.shape, self.queue.number);
                let to = To { place: hidden, number, added: Address::NOWHERE };
                self.multiply(projection, embedded, to, Epilogue::None)?;
            }
        }
        Ok(())
    }

    unsafe fn block_with_norms_after(&self, block: &Block<C>) -> CardResult<()> {
        let Places { states, wide, context, sums, .. } = self.places;
        let number = self.queue.number;
        // SAFETY: the caller's promise.
        unsafe {
            self.attend(block, states)?;
            let onto_states = To { place: sums, number, added: states.0 };
            self.multiply(&block.attention_output, context, onto_states, Epilogue::None)?;
            let mut norm = self.norm_arguments(block.attention_norm.as_ref(), sums, states);
            if let Some(second) = &block.attention_second_norm {
                norm = NormArguments { added: states.0, second: second.parameters(self.queue.card), ..norm };
            }
            self.queue.norm(false, &norm)?;
            match &block.feed_forward {
                FeedForward::One { .. } => {
                    self.feed_forward(block, states, onto_states)?;
                    self.norm(Some(&block.output_norm), (sums, false), states)
                }
                FeedForward::Experts { .. } => {
                    self.experts(block, states, Some(states))?;
                    self.norm(Some(&block.output_norm), (wide, true), states)
                }
            }
        }
    }

    unsafe fn block_with_norms_before(&self, block: &Block<C>) -> CardResult<()> {
        let Places { wide, normed, context, sums, .. } = self.places;
        let onto_wide = To { place: wide, number: Number::F32, added: wide.0 };
        let aside = To { place: sums, number: self.queue.number, added: Address::NOWHERE };
        // SAFETY: the caller's promise.
        unsafe {
            self.norm(block.attention_norm.as_ref(), (wide, true), normed)?;
            self.attend(block, normed)?;
            match &block.attention_output_norm {
                None => self.multiply(&block.attention_output, context, onto_wide, Epilogue::None)?,
                Some(norm) => {
                    self.multiply(&block.attention_output, context, aside, Epilogue::None)?;
                    self.add_normed(norm, sums, wide)?;
                }
            }
            self.norm(Some(&block.output_norm), (wide, true), normed)?;
            match (&block.feed_forward, &block.feed_forward_norm) {
                (FeedForward::Experts { .. }, _) => self.experts(block, normed, None),
                (FeedForward::One { .. }, None) => self.feed_forward(block, normed, onto_wide),
                (FeedForward::One { .. }, Some(norm)) => {
                    self.feed_forward(block, normed, aside)?;
                    self.add_normed(norm, sums, wide)
                }
            }
        }
    }

    /// Queries, keys and values of rows, and what attention makes of them.
    unsafe fn attend(&self, block: &Block<C>, from: Place) -> CardResult<()> {
        let Places { projected, context, .. } = self.places;
        let shape = self.model.shape;
        let (heads, key_heads, size) = (shape.heads as u32, shape.key_heads() as u32, shape.head_size() as u32);
        let to = To { place: projected, number: self.queue.number, added: Address::NOWHERE };
        // SAFETY: the caller's promise.
        unsafe {
            self.multiply(&block.projection, from, to, Epilogue::None)?;
            if block.head_norms.is_some() || block.rotary.is_some() {
                let norms = block.head_norms.as_ref();
                let pairs = block.rotary.map_or(0, |rotary| self.model.rotaries[rotary].frequencies.len());
                let over_all = norms.is_some_and(|[query, _]| query.width != shape.head_size());
                self.queue.prepare_heads(&HeadsArguments {
                    projected: projected.0,
                    query: self.norm_of(norms.map(|[query, _]| query)),
                    key: self.norm_of(norms.map(|[_, key]| key)),
                    turns: block.rotary.map_or(Address::NOWHERE, |rotary| self.turns[rotary]),
                    positions: self.input.positions,
                    rows: self.rows(),
                    stride: projected.1 as u32,
                    heads,
                    key_heads,
                    size,
                    pairs: pairs as u32,
                    over_all: over_all.into(),
                })?;
            }
            let Mask { before, after } = block.mask;
            let distance = |distance: usize| u32::try_from(distance).unwrap_or(u32::MAX);
            self.queue.attend(
                self.size.tiles,
                &AttentionArguments {
                    projected: projected.0,
                    context: context.0,
                    tiles: self.input.tiles,
                    bias: self.bias.0,
                    projected_stride: projected.1 as u32,
                    context_stride: context.1 as u32,
                    heads,
                    key_heads,
                    size,
                    before: distance(before),
                    after: distance(after),
                    bias_longest: self.bias.1 as u32,
                    scale: shape.score_scale(),
                },
            )
        }
    }

    unsafe fn feed_forward(&self, block: &Block<C>, from: Place, to: To) -> CardResult<()> {
        let FeedForward::One { up, down } = &block.feed_forward else { return Ok(()) };
        // SAFETY: the caller's promise.
        unsafe {
            let between = self.activated(self.size.rows, up, from)?;
            self.multiply(down, between, to, Epilogue::None)
        }
    }

    /// The first product of a feed-forward, of the first rows, activated and multiplied by its factors. Answers where that is.
    unsafe fn activated(&self, rows: usize, up: &Linear<C>, from: Place) -> CardResult<Place> {
        let Places { between, gated, .. } = self.places;
        let shape = self.model.shape;
        let to = To { place: between, number: self.queue.number, added: Address::NOWHERE };
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(epilogue) = epilogue(shape, self.queue.number) {
                self.multiply_some(rows, up, from, to, epilogue)?;
                return Ok(between);
            }
            self.multiply_some(rows, up, from, to, Epilogue::None)?;
            let (to, gate) = if shape.style.gated { (gated, gated.1) } else { (between, 0) };
            let arguments = ActivationArguments {
                from: between.0,
                to: to.0,
                gate: gate as u32,
                rows: rows as u32,
                width: to.1 as u32,
                from_stride: between.1 as u32,
                to_stride: to.1 as u32,
                activation: match shape.activation {
                    Activation::Gelu => 0,
                    Activation::GeluTanh => 1,
                    Activation::Relu => 2,
                    Activation::Silu => 3,
                },
            };
            self.queue.activate(&arguments)?;
            Ok(to)
        }
    }

    unsafe fn multiply(&self, linear: &Linear<C>, from: Place, to: To, epilogue: Epilogue) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.multiply_some(self.size.rows, linear, from, to, epilogue) }
    }

    /// The product of the first rows.
    unsafe fn multiply_some(
        &self,
        rows: usize,
        linear: &Linear<C>,
        from: Place,
        to: To,
        epilogue: Epilogue,
    ) -> CardResult<()> {
        let card = self.queue.card;
        let product = Product {
            rows,
            depth: linear.weight.stride,
            columns: linear.outputs,
            number: self.queue.number,
            to_number: to.number,
            from,
            weight: (card.address(&linear.weight.memory), linear.weight.stride),
            bias: linear.bias.as_ref().map_or(Address::NOWHERE, |bias| card.address(bias)),
            epilogue,
            added: to.added,
            to: to.place,
        };
        // SAFETY: the caller's promise.
        unsafe { self.queue.multiply(&product) }
    }

    fn norm_arguments(&self, norm: Option<&Norm<C>>, from: Place, to: Place) -> NormArguments {
        NormArguments {
            from: from.0,
            to: to.0,
            added: Address::NOWHERE,
            first: self.norm_of(norm),
            second: NormParameters::NONE,
            rows: self.rows(),
            width: self.model.shape.hidden as u32,
            from_stride: from.1 as u32,
            to_stride: to.1 as u32,
        }
    }

    /// The norm of rows, which are of f32 if that is said; the rows themselves without a norm.
    unsafe fn norm(&self, norm: Option<&Norm<C>>, (from, is_wide): (Place, bool), to: Place) -> CardResult<()> {
        // SAFETY: the caller's promise.
        unsafe { self.queue.norm(is_wide, &self.norm_arguments(norm, from, to)) }
    }

    unsafe fn add_normed(&self, norm: &Norm<C>, from: Place, to: Place) -> CardResult<()> {
        let arguments = AddNormedArguments {
            from: from.0,
            to: to.0,
            norm: norm.parameters(self.queue.card),
            rows: self.rows(),
            width: self.model.shape.hidden as u32,
            from_stride: from.1 as u32,
            to_stride: to.1 as u32,
        };
        // SAFETY: the caller's promise.
        unsafe { self.queue.add_normed(&arguments) }
    }
}
