//! Weights of an encoder, packed.

use std::fmt;
use std::ops::Range;

use super::shape::{Block, Norm, Outer, Shape};
use crate::dispatch::Kernels;
use crate::error::{Error, Result};
use crate::linear::{Arena, Dense, Linear, Packing};
use crate::position_bias::PositionBias;
use crate::precision::Precision;
use crate::table::Table;
use crate::unit::Unit;
use crate::unit_product::BLOCK as UNIT_COLUMNS;

/// Sequences of fewer tokens are computed by vectors in f32 and int8: a unit has the same time for sixteen rows as for one.
const SHORT: usize = 16;

/// A packed block.
pub(super) struct PackedBlock {
    pub(super) projection: Linear,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: PackedNorm,
    pub(super) up: Linear,
    pub(super) gate: Option<Linear>,
    pub(super) down: Linear,
    pub(super) output_norm: PackedNorm,
}

impl PackedBlock {
    /// Its products in the order of computing.
    fn products(&mut self) -> impl Iterator<Item = &mut Linear> {
        let PackedBlock { projection, attention_output, gate, up, down, .. } = self;
        [Some(projection), Some(attention_output), gate.as_mut(), Some(up), Some(down)].into_iter().flatten()
    }
}

/// Where a norm's gamma and beta lie in the arena.
pub(super) struct PackedNorm {
    pub(super) gamma: Range<usize>,
    pub(super) beta: Range<usize>,
}

/// Packed weights of an encoder: immutable, shared by its executors.
pub struct Transformer {
    pub(super) kernels: Kernels,
    pub(super) precision: Precision,
    pub(super) shape: Shape,
    pub(super) arena: Arena,
    pub(super) tables: Vec<Table>,
    pub(super) embedding_norm: Option<PackedNorm>,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) final_norm: Option<PackedNorm>,
    pub(super) blocks: Vec<PackedBlock>,
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
        let Shape { hidden, heads, intermediate, layers, style, .. } = shape;
        let Outer { tables, embedding_norm, position_bias, final_norm } = outer;
        let divided = heads > 0 && (hidden % heads == 0 || style.head_size.is_some());
        let sized = hidden > 0 && divided && intermediate > 0 && (1..1 << 10).contains(&shape.head_size());
        let sized = sized && heads < 1 << 10;
        if !sized || hidden.max(intermediate) > 1 << 20 || layers > 1 << 12 {
            return Err(Error::unusable(format!(
                "a transformer of {layers} layers, {hidden} hidden and {intermediate} intermediate columns and {heads} \
                 heads cannot be built: the heads must divide the hidden size"
            )));
        }
        if let Some(table) = tables.iter().find(|table| table.is_empty() || table.len() % hidden != 0) {
            return Err(Error::unusable(format!(
                "an embedding table of {} values has no rows of {hidden}",
                table.len()
            )));
        }
        // One after the other, so that each is freed before the next is packed.
        let tables = tables.into_iter().map(|table| Table::pack(precision, table, hidden)).collect::<Result<_>>()?;
        if let Some(bias) = &position_bias {
            bias.check(heads)?;
        }
        let width = shape.attention_width();
        let norm_room = 2 * Arena::room(hidden);
        let ups = if style.gated { 2 } else { 1 };
        let packing = Packing { kernels, precision };
        let block_room = packing.room(3 * width, hidden)
            + packing.room(hidden, width)
            + ups * packing.room(intermediate, hidden)
            + packing.room(hidden, intermediate)
            + 2 * norm_room;
        let mut arena = Arena::with_room(2 * norm_room + layers * block_room);
        let embedding_norm = embedding_norm.map(|norm| pack_norm(&mut arena, &norm, shape)).transpose()?;
        let final_norm = final_norm.map(|norm| pack_norm(&mut arena, &norm, shape)).transpose()?;
        // The scores' factor goes into the queries once and for all.
        let scale = if style.unscaled { 1.0 } else { 1.0 / (shape.head_size() as f32).sqrt() };
        let mut blocks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let parameters = block(layer).ok_or_else(|| Error::unusable(format!("block {layer} is not there")))?;
            let mut pack = |parts: &[(&Dense, f32)], inputs: usize, outputs: usize| -> Result<Linear> {
                for (part, _) in parts {
                    if part.weight.len() != inputs * outputs {
                        return Err(Error::unusable(format!(
                            "a weight of {} values where {outputs} × {inputs} belong",
                            part.weight.len()
                        )));
                    }
                }
                Linear::pack(packing, &mut arena, parts, inputs)
            };
            let Block { query, key, value, .. } = &parameters;
            let projection = pack(&[(query, scale), (key, 1.0), (value, 1.0)], hidden, width)?;
            let attention_output = pack(&[(&parameters.attention_output, 1.0)], width, hidden)?;
            let up = pack(&[(&parameters.up, 1.0)], hidden, intermediate)?;
            if parameters.gate.is_some() != style.gated {
                return Err(Error::internal("a gated block has a gate, and no other"));
            }
            let gate = parameters.gate.as_ref().map(|gate| pack(&[(gate, 1.0)], hidden, intermediate)).transpose()?;
            let down = pack(&[(&parameters.down, 1.0)], intermediate, hidden)?;
            let attention_norm = pack_norm(&mut arena, &parameters.attention_norm, shape)?;
            let output_norm = pack_norm(&mut arena, &parameters.output_norm, shape)?;
            blocks.push(PackedBlock { projection, attention_output, attention_norm, up, gate, down, output_norm });
        }
        let mut products: Vec<_> = blocks.iter_mut().flat_map(PackedBlock::products).collect();
        for at in 1..products.len() {
            let (before, after) = products.split_at_mut(at);
            before[at - 1].set_next(after[0]);
        }
        Ok(Transformer { kernels, precision, shape, arena, tables, embedding_norm, position_bias, final_norm, blocks })
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

fn pack_norm(arena: &mut Arena, norm: &Norm, shape: Shape) -> Result<PackedNorm> {
    let beta = if shape.style.rms_norm { 0 } else { shape.hidden };
    for (values, belong) in [(&norm.gamma, shape.hidden), (&norm.beta, beta)] {
        if values.len() != belong {
            return Err(Error::unusable(format!("a norm of {} values where {belong} belong", values.len())));
        }
    }
    Ok(PackedNorm { gamma: arena.put(&norm.gamma)?, beta: arena.put(&norm.beta)? })
}
