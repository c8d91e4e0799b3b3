//! Weights of an encoder, packed.

use std::fmt;

use super::shape::{Block, ExpertShape, Experts, HeadNorms, Norm, NormPlacement, Outer, Shape};
use super::steps::{FeedForward, PackedBlock, PackedNorm, Products, Router, Step, Steps};
use crate::dispatch::Kernels;
use crate::error::{Error, Result};
use crate::linear::{Arena, Dense, Linear, Packing};
use crate::position_bias::PositionBias;
use crate::precision::Precision;
use crate::rotary::Rotary;
use crate::table::Table;
use crate::unit::Unit;
use crate::unit_product::BLOCK as UNIT_COLUMNS;

/// Sequences of fewer tokens are computed by vectors in f32 and int8: a unit has the same time for sixteen rows as for one.
const SHORT: usize = 16;

/// Most experts of a block.
pub const MOST_EXPERTS: usize = 128;

/// Packed weights of an encoder: immutable, shared by its executors.
pub struct Transformer {
    pub(super) kernels: Kernels,
    pub(super) precision: Precision,
    pub(super) shape: Shape,
    pub(super) arena: Arena,
    pub(super) tables: Vec<Table>,
    /// Width of the tables' rows.
    pub(super) table_width: usize,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) rotaries: Vec<Rotary>,
    pub(super) steps: Vec<Step>,
}

impl Transformer {
    /// Packs an encoder.
    ///
    /// `block` gives the parameters of one block at a time, so that no more than one lies unpacked in memory.
    ///
    /// # Errors
    /// `Unusable` for sizes that do not fit together and for weights that the precision cannot hold, `Internal` for a gate
    /// where the style has none or the other way about, and what `block` says.
    pub fn new<E: From<Error>>(
        kernels: Kernels,
        precision: Precision,
        shape: Shape,
        outer: Outer,
        mut block: impl FnMut(usize) -> Result<Block, E>,
    ) -> Result<Transformer, E> {
        let mut refused = None;
        let mut given = |layer| block(layer).map_err(|error| refused = Some(error)).ok();
        let packed = Transformer::pack(kernels, precision, shape, outer, &mut given);
        refused.map_or_else(|| Ok(packed?), Err)
    }

    fn pack(
        kernels: Kernels,
        precision: Precision,
        shape: Shape,
        outer: Outer,
        block: &mut dyn FnMut(usize) -> Option<Block>,
    ) -> Result<Transformer> {
        let Shape { hidden, layers, .. } = shape;
        check_sizes(shape)?;
        let Outer { tables, embedding_norm, embedding_projection, position_bias, rotaries, order, final_norm } = outer;
        let table_width = match &embedding_projection {
            Some(projection) => projection.weight.len() / hidden,
            None => hidden,
        };
        if table_width == 0 {
            return Err(Error::unusable("the projection of the embedding has no inputs"));
        }
        if let Some(table) = tables.iter().find(|table| table.is_empty() || table.len() % table_width != 0) {
            return Err(Error::unusable(format!(
                "an embedding table of {} values has no rows of {table_width}",
                table.len()
            )));
        }
        // One after the other, so that each is freed before the next is packed.
        let tables =
            tables.into_iter().map(|table| Table::pack(precision, table, table_width)).collect::<Result<_>>()?;
        if let Some(bias) = &position_bias {
            bias.check(shape.heads)?;
        }
        if rotaries.iter().any(|rotary| 2 * rotary.frequencies.len() > shape.head_size()) {
            return Err(Error::unusable("a rotary turns more columns than a head has"));
        }
        if order.iter().any(|&layer| layer >= layers) {
            return Err(Error::internal("the order of layers names a block that is not there"));
        }
        let packing = Packing { kernels, precision };
        let projection_room = embedding_projection.as_ref().map_or(0, |_| packing.room(hidden, table_width));
        // Gamma and beta of two norms.
        let outer_room = projection_room + 4 * Arena::room(hidden.max(table_width));
        let room = (0..layers).map(|layer| block_room(packing, shape, layer)).sum::<usize>();
        let mut packer = Packer { packing, shape, arena: Arena::with_room(outer_room + room) };
        let embedding_norm = embedding_norm.map(|norm| packer.norm(&norm, table_width)).transpose()?;
        let projection = embedding_projection.map(|dense| packer.linear(&dense, table_width, hidden)).transpose()?;
        let final_norm = final_norm.map(|norm| packer.norm(&norm, hidden)).transpose()?;
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let parameters = block(layer).ok_or_else(|| Error::unusable(format!("block {layer} is not there")))?;
            if parameters.rotary.is_some_and(|rotary| rotary >= rotaries.len()) {
                return Err(Error::internal("a block names a rotary that is not there"));
            }
            blocks.push(packer.block(layer, &parameters)?);
        }
        let mut steps = Steps::new(shape, embedding_norm, projection);
        match &order[..] {
            [] => blocks.into_iter().for_each(|block| steps.block(block)),
            order => order.iter().for_each(|&layer| steps.block(blocks[layer].clone())),
        }
        let steps = steps.finish(final_norm);
        let arena = packer.arena;
        Ok(Transformer { kernels, precision, shape, arena, tables, table_width, position_bias, rotaries, steps })
    }

    /// Its sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The kernels it is packed for.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// The numbers of its weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of packed weights and embedding tables.
    pub fn memory(&self) -> usize {
        size_of_val(self.arena.values()) + self.tables.iter().map(Table::memory).sum::<usize>()
    }

    /// What multiplies in place of vectors.
    pub(super) fn unit(&self) -> Option<Unit> {
        self.kernels.unit(self.precision)
    }

    /// Whether a sequence of that many tokens is computed by vectors where there is a unit. That may depend on its own length
    /// alone: not on what it is packed with. Where weights serve both, a unit is not worth its while for so few rows.
    pub(super) fn is_short(&self, tokens: usize) -> bool {
        let is_alike = matches!(self.precision, Precision::F32 | Precision::Int8);
        let serves_both = is_alike && self.kernels.panel_width() == UNIT_COLUMNS;
        self.unit().is_some() && serves_both && tokens < SHORT
    }

    /// Whether some blocks have a mixture of experts.
    pub(super) fn has_experts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Experts(_)))
    }

    /// Rows of an embedding table.
    pub fn table_rows(&self, table: usize) -> usize {
        self.tables[table].rows()
    }
}

impl fmt::Debug for Transformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Transformer");
        shown.field("kernels", &self.kernels).field("precision", &self.precision);
        shown.field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Whether blocks of these sizes can be built.
fn check_sizes(shape: Shape) -> Result<()> {
    let Shape { hidden, heads, intermediate, layers, style, .. } = shape;
    let divided = heads > 0 && (hidden % heads == 0 || style.head_size.is_some());
    let sized = hidden > 0 && divided && intermediate > 0 && (1..1 << 10).contains(&shape.head_size());
    let sized = sized && heads < 1 << 10;
    if !sized || hidden.max(intermediate) > 1 << 20 || !(1..=1 << 12).contains(&layers) {
        return Err(Error::unusable(format!(
            "a transformer of {layers} layers, {hidden} hidden and {intermediate} intermediate columns and {heads} heads \
             cannot be built: the heads must divide the hidden size"
        )));
    }
    let key_heads = shape.key_heads();
    if key_heads == 0 || heads % key_heads != 0 {
        return Err(Error::unusable(format!(
            "{key_heads} heads of keys for {heads} heads of queries cannot be built: they must divide them"
        )));
    }
    let fits = |ExpertShape { count, taken, every }: ExpertShape| {
        let sized = (1..=MOST_EXPERTS).contains(&count) && (1..=count).contains(&taken) && every > 0;
        sized && !style.gated && style.placement != NormPlacement::Around
    };
    if let Some(experts @ ExpertShape { count, taken, every }) = style.experts
        && !fits(experts)
    {
        return Err(Error::unusable(format!(
            "a mixture of {count} experts, of which {taken} are taken, in every {every}th block cannot be built: at most \
             {MOST_EXPERTS} without gates, and without norms around them, are supported"
        )));
    }
    Ok(())
}

/// Values of the arena that a block takes.
fn block_room(packing: Packing, shape: Shape, layer: usize) -> usize {
    let Shape { hidden, intermediate, style, .. } = shape;
    let width = shape.attention_width();
    let attention = packing.room(shape.projected_width(), hidden) + packing.room(hidden, width);
    let pair = packing.room(intermediate, hidden) + packing.room(hidden, intermediate);
    let feed_forward = match shape.experts(layer) {
        Some(experts) => {
            let router = Arena::room(experts.count * hidden) + Arena::room(experts.count);
            experts.count * pair + router + Arena::room(hidden)
        }
        None if style.gated => pair + packing.room(intermediate, hidden),
        None => pair,
    };
    // Gamma and beta each.
    let norms = 5 * 2 * Arena::room(hidden) + 4 * Arena::room(width);
    attention + feed_forward + norms
}

/// Packs layers and norms into an arena.
struct Packer {
    packing: Packing,
    shape: Shape,
    arena: Arena,
}

impl Packer {
    fn linear(&mut self, dense: &Dense, inputs: usize, outputs: usize) -> Result<Linear> {
        self.side_by_side(&[(dense, 1.0, outputs)], inputs)
    }

    /// Layers with the same inputs as one, each with its factor and its outputs.
    fn side_by_side(&mut self, parts: &[(&Dense, f32, usize)], inputs: usize) -> Result<Linear> {
        for (part, _, outputs) in parts {
            if part.weight.len() != inputs * outputs {
                return Err(Error::unusable(format!(
                    "a weight of {} values where {outputs} × {inputs} belong",
                    part.weight.len()
                )));
            }
        }
        let parts: Vec<_> = parts.iter().map(|&(part, factor, _)| (part, factor)).collect();
        Linear::pack(self.packing, &mut self.arena, &parts, inputs)
    }

    fn norm(&mut self, norm: &Norm, width: usize) -> Result<PackedNorm> {
        let beta = if self.shape.style.rms_norm { 0 } else { width };
        for (values, belong) in [(&norm.gamma, width), (&norm.beta, beta)] {
            if values.len() != belong {
                return Err(Error::unusable(format!("a norm of {} values where {belong} belong", values.len())));
            }
        }
        Ok(PackedNorm { gamma: self.arena.put(&norm.gamma)?, beta: self.arena.put(&norm.beta)? })
    }

    fn block(&mut self, layer: usize, parameters: &Block) -> Result<PackedBlock> {
        let Shape { hidden, style, .. } = self.shape;
        let (width, key_width, scale) =
            (self.shape.attention_width(), self.shape.key_width(), self.shape.score_scale());
        // The scores' factor goes into the queries once and for all: into their norm, if they have one.
        let factor = if parameters.head_norms.is_some() { 1.0 } else { scale };
        let Block { query, key, value, .. } = parameters;
        let parts = [(query, factor, width), (key, 1.0, key_width), (value, 1.0, key_width)];
        let projection = self.side_by_side(&parts, hidden)?;
        let attention_output = self.linear(&parameters.attention_output, width, hidden)?;
        let feed_forward = self.feed_forward(layer, parameters)?;
        let placed = match style.placement {
            NormPlacement::After => parameters.attention_norm.is_some(),
            NormPlacement::Before | NormPlacement::Around => parameters.attention_second_norm.is_none(),
        };
        let around = style.placement == NormPlacement::Around;
        let [attention_output_norm, feed_forward_norm] =
            [&parameters.attention_output_norm, &parameters.feed_forward_norm];
        if !placed || attention_output_norm.is_some() != around || feed_forward_norm.is_some() != around {
            return Err(Error::internal("a block has the norms of its placement, and no others"));
        }
        let mut optional = |norm: &Option<Norm>| norm.as_ref().map(|norm| self.norm(norm, hidden)).transpose();
        let attention_norm = optional(&parameters.attention_norm)?;
        let attention_second_norm = optional(&parameters.attention_second_norm)?;
        let (attention_output_norm, feed_forward_norm) =
            (optional(attention_output_norm)?, optional(feed_forward_norm)?);
        let output_norm = self.norm(&parameters.output_norm, hidden)?;
        let head_norms = match &parameters.head_norms {
            Some(norms) => Some(self.head_norms(norms, scale)?),
            None => None,
        };
        Ok(PackedBlock {
            projection,
            head_norms,
            rotary: parameters.rotary,
            mask: parameters.mask,
            attention_output,
            attention_norm,
            attention_second_norm,
            attention_output_norm,
            feed_forward,
            output_norm,
            feed_forward_norm,
        })
    }

    fn head_norms(&mut self, HeadNorms { query, key }: &HeadNorms, scale: f32) -> Result<[PackedNorm; 2]> {
        let size = self.shape.head_size();
        let is_per_head = query.gamma.len() == size;
        let widths = match is_per_head {
            true => [size; 2],
            false => [self.shape.attention_width(), self.shape.key_width()],
        };
        let scaled = |values: &[f32]| values.iter().map(|value| value * scale).collect();
        let query = Norm { gamma: scaled(&query.gamma), beta: scaled(&query.beta) };
        Ok([self.norm(&query, widths[0])?, self.norm(key, widths[1])?])
    }

    fn feed_forward(&mut self, layer: usize, parameters: &Block) -> Result<FeedForward> {
        let Shape { hidden, intermediate, style, .. } = self.shape;
        if parameters.gate.is_some() != style.gated {
            return Err(Error::internal("a gated block has a gate, and no other"));
        }
        let experts = match (&parameters.experts, self.shape.experts(layer)) {
            (None, None) => {
                let up = self.linear(&parameters.up, hidden, intermediate)?;
                let gate = parameters.gate.as_ref();
                let gate = gate.map(|gate| self.linear(gate, hidden, intermediate)).transpose()?;
                let down = self.linear(&parameters.down, intermediate, hidden)?;
                return Ok(FeedForward::One(Box::new(Products { gate, up, down })));
            }
            (Some(experts), Some(shape)) if experts.up.len() == shape.count && experts.down.len() == shape.count => {
                (experts, shape)
            }
            _ => return Err(Error::internal("a block has the experts of its shape, and no others")),
        };
        let (Experts { router, up, down, bias }, ExpertShape { count, taken, .. }) = experts;
        if router.weight.len() != count * hidden || ![0, count].contains(&router.bias.len()) {
            return Err(Error::unusable(format!(
                "a router of {} values where {count} × {hidden} belong",
                router.weight.len()
            )));
        }
        let router = Router { weight: self.arena.put(&router.weight)?, bias: self.arena.put(&router.bias)? };
        let pair = |(up, down): (&Dense, &Dense)| {
            Ok((self.linear(up, hidden, intermediate)?, self.linear(down, intermediate, hidden)?))
        };
        let experts = up.iter().zip(down).map(pair).collect::<Result<_>>()?;
        if ![0, hidden].contains(&bias.len()) {
            return Err(Error::unusable(format!("a bias of {} values where {hidden} belong", bias.len())));
        }
        Ok(FeedForward::Experts { router, experts, taken, bias: self.arena.put(bias)? })
    }
}
