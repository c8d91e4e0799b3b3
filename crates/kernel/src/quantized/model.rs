//! Weights of a quantised encoder: as a graph has them, and packed.

use std::fmt;

use super::arithmetic::Arithmetic;
use super::panels::{Layout, Panels};
use super::product::{MOST_INPUTS, Products};
use super::tile::GROUP;
use crate::dispatch::Kernels;
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::transformer::Norm;
use crate::unit::Unit;

/// A linear layer with quantised weights: weight = (code - zero_point) × scale.
#[derive(Clone, Default, PartialEq)]
pub struct QuantizedDense {
    /// `[inputs, outputs]`, row-major. Unsigned codes of a file are given less 128, and so is their zero point.
    pub codes: Vec<i8>,
    /// The weights' scale.
    pub scale: f32,
    /// The code of 0.
    pub zero_point: i32,
    /// `[outputs]`, in f32.
    pub bias: Vec<f32>,
}

impl fmt::Debug for QuantizedDense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("QuantizedDense");
        shown.field("codes", &[self.codes.len()]).field("scale", &self.scale);
        shown.field("zero_point", &self.zero_point).field("bias", &[self.bias.len()]).finish()
    }
}

/// An embedding table with quantised weights.
#[derive(Clone, Default, PartialEq)]
pub struct QuantizedTable {
    /// `[rows, hidden]`, as in [`QuantizedDense`].
    pub codes: Vec<i8>,
    /// The scale of all rows.
    pub scale: f32,
    /// The code of 0.
    pub zero_point: i32,
}

impl fmt::Debug for QuantizedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("QuantizedTable");
        shown.field("codes", &[self.codes.len()]).field("scale", &self.scale);
        shown.field("zero_point", &self.zero_point).finish()
    }
}

/// What happens to the attention's scores before softmax.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ScoreScale {
    /// Nothing: queries and keys are scaled themselves.
    #[default]
    None,
    /// They are multiplied.
    Multiply(f32),
    /// They are divided.
    Divide(f32),
}

/// The parameters of one block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantizedBlock {
    /// `[hidden, hidden]`
    pub query: QuantizedDense,
    /// `[hidden, hidden]`
    pub key: QuantizedDense,
    /// `[hidden, hidden]`
    pub value: QuantizedDense,
    /// What queries are multiplied by.
    pub query_scale: Option<f32>,
    /// What keys are multiplied by.
    pub key_scale: Option<f32>,
    /// What is done to the scores.
    pub score_scale: ScoreScale,
    /// `[hidden, hidden]`
    pub attention_output: QuantizedDense,
    /// After the attention's output and its input are added.
    pub attention_norm: Norm,
    /// `[hidden, intermediate]`, GELU behind it.
    pub up: QuantizedDense,
    /// `[intermediate, hidden]`
    pub down: QuantizedDense,
    /// After the feed-forward's output and its input are added.
    pub output_norm: Norm,
}

/// Sizes of a quantised encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizedShape {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`.
    pub heads: usize,
    /// Width between the two feed-forward matrices.
    pub intermediate: usize,
    /// LayerNorm's epsilon.
    pub epsilon: f32,
}

/// A packed linear layer.
pub(super) struct Linear {
    pub(super) panels: Panels,
    pub(super) inputs: usize,
    pub(super) scale: f32,
    pub(super) zero_point: i32,
    /// Whole panels.
    pub(super) bias: Vec<f32>,
}

/// A packed block.
pub(super) struct Block {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) query_scale: Option<f32>,
    pub(super) key_scale: Option<f32>,
    pub(super) score_scale: ScoreScale,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: Norm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) output_norm: Norm,
}

/// Packed weights of a quantised encoder.
pub struct QuantizedTransformer {
    pub(super) kernels: Kernels,
    pub(super) arithmetic: Arithmetic,
    pub(super) products: Products,
    /// What multiplies in place of vectors, where there are some rows.
    pub(super) unit: Option<Unit>,
    pub(super) shape: QuantizedShape,
    pub(super) tables: Vec<QuantizedTable>,
    pub(super) embedding_norm: Norm,
    pub(super) blocks: Vec<Block>,
}

fn misfit(what: &str, found: usize, wanted: usize) -> Error {
    Error::unusable(format!("{what} has {found} values where {wanted} belong"))
}

fn finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

impl Linear {
    fn pack(name: &str, dense: &QuantizedDense, (inputs, outputs): (usize, usize), layout: Layout) -> Result<Linear> {
        if dense.codes.len() != inputs * outputs {
            return Err(misfit(name, dense.codes.len(), inputs * outputs));
        }
        if dense.bias.len() != outputs {
            return Err(misfit(&format!("the bias of {name}"), dense.bias.len(), outputs));
        }
        check_scale(name, dense.scale, dense.zero_point)?;
        if !finite(&dense.bias) {
            return Err(Error::unusable(format!("the bias of {name} is not finite")));
        }
        let mut panels = Panels::zeroed(inputs, outputs, layout);
        for (group, codes) in dense.codes.chunks(GROUP * outputs).enumerate() {
            let mut rows = codes.chunks_exact(outputs);
            panels.set_rows(group, std::array::from_fn(|_| rows.next()));
        }
        let mut bias = dense.bias.clone();
        bias.resize(panels.column_sums.len(), 0.0);
        Ok(Linear { panels, inputs, scale: dense.scale, zero_point: dense.zero_point, bias })
    }
}

fn check_scale(name: &str, scale: f32, zero_point: i32) -> Result<()> {
    if !scale.is_finite() || scale <= 0.0 || i8::try_from(zero_point).is_err() {
        return Err(Error::unusable(format!(
            "{name} has the scale {scale} and the zero point {zero_point}: a scale is above 0, a zero point is a code"
        )));
    }
    Ok(())
}

fn check_norm(norm: &Norm, hidden: usize) -> Result<()> {
    for values in [&norm.gamma, &norm.beta] {
        if values.len() != hidden {
            return Err(misfit("a norm", values.len(), hidden));
        }
        if !finite(values) {
            return Err(Error::unusable("a norm's parameters are not finite"));
        }
    }
    Ok(())
}

impl QuantizedTransformer {
    /// Packs an encoder whose embedding is the norm of `(tables[0] + tables[1]) + tables[2]`, one row of each per token.
    /// `block` gives one block at a time.
    ///
    /// # Errors
    /// `Unusable` for sizes that do not fit and for scales, epsilons or biases that nothing can be computed with, and what
    /// `block` says.
    pub fn new<E: From<Error>>(
        (kernels, arithmetic): (Kernels, Arithmetic),
        shape: QuantizedShape,
        tables: Vec<QuantizedTable>,
        embedding_norm: Norm,
        blocks: usize,
        mut block: impl FnMut(usize) -> Result<QuantizedBlock, E>,
    ) -> Result<QuantizedTransformer, E> {
        let mut refused = None;
        let mut given = |layer| block(layer).map_err(|error| refused = Some(error)).ok();
        let packed =
            QuantizedTransformer::pack((kernels, arithmetic), shape, tables, embedding_norm, blocks, &mut given);
        refused.map_or_else(|| Ok(packed?), Err)
    }

    fn pack(
        (kernels, arithmetic): (Kernels, Arithmetic),
        shape: QuantizedShape,
        tables: Vec<QuantizedTable>,
        embedding_norm: Norm,
        blocks: usize,
        block: &mut dyn FnMut(usize) -> Option<QuantizedBlock>,
    ) -> Result<QuantizedTransformer> {
        let QuantizedShape { hidden, heads, intermediate, epsilon } = shape;
        let sized = hidden > 0 && heads > 0 && intermediate > 0 && hidden % heads == 0;
        if !sized || hidden.max(intermediate) > MOST_INPUTS || blocks > 1 << 12 {
            return Err(Error::unusable(format!(
                "an encoder of {blocks} layers, {hidden} hidden and {intermediate} intermediate columns and {heads} \
                 heads cannot be built: the heads must divide the hidden size, and {MOST_INPUTS} columns are the limit"
            )));
        }
        if !(0.0..1.0).contains(&epsilon) {
            return Err(Error::unusable(format!("LayerNorm with the epsilon {epsilon} cannot be computed")));
        }
        if tables.is_empty() {
            return Err(Error::unusable("an encoder needs an embedding table"));
        }
        for table in &tables {
            if table.codes.is_empty() || table.codes.len() % hidden != 0 {
                return Err(misfit("an embedding table", table.codes.len(), hidden));
            }
            check_scale("an embedding table", table.scale, table.zero_point)?;
        }
        check_norm(&embedding_norm, hidden)?;
        let (products, unit) = (Products::of(kernels), kernels.unit(Precision::Int8));
        let layout = products.layout(unit);
        let pack = |index: usize, block: QuantizedBlock| {
            let linear = |part: &str, dense: &QuantizedDense, inputs: usize, outputs: usize| {
                Linear::pack(&format!("the {part} weight of layer {index}"), dense, (inputs, outputs), layout)
            };
            check_norm(&block.attention_norm, hidden)?;
            check_norm(&block.output_norm, hidden)?;
            Ok(Block {
                query: linear("query", &block.query, hidden, hidden)?,
                key: linear("key", &block.key, hidden, hidden)?,
                value: linear("value", &block.value, hidden, hidden)?,
                query_scale: block.query_scale,
                key_scale: block.key_scale,
                score_scale: block.score_scale,
                attention_output: linear("attention output", &block.attention_output, hidden, hidden)?,
                attention_norm: block.attention_norm,
                up: linear("first feed-forward", &block.up, hidden, intermediate)?,
                down: linear("second feed-forward", &block.down, intermediate, hidden)?,
                output_norm: block.output_norm,
            })
        };
        let lacks = |index: usize| Error::unusable(format!("block {index} is not there"));
        let blocks =
            (0..blocks).map(|index| pack(index, block(index).ok_or_else(|| lacks(index))?)).collect::<Result<_>>()?;
        Ok(QuantizedTransformer { kernels, arithmetic, products, unit, shape, tables, embedding_norm, blocks })
    }

    /// How panels lie that it multiplies.
    pub(super) fn layout(&self) -> Layout {
        self.products.layout(self.unit)
    }

    /// Its sizes.
    pub fn shape(&self) -> QuantizedShape {
        self.shape
    }

    /// Bytes of packed weights and embedding tables.
    pub fn memory(&self) -> usize {
        let linear = |block: &Block| {
            let parts = [&block.query, &block.key, &block.value, &block.attention_output, &block.up, &block.down];
            parts.iter().map(|linear| linear.panels.bytes()).sum::<usize>()
        };
        self.blocks.iter().map(linear).sum::<usize>() + self.tables.iter().map(|table| table.codes.len()).sum::<usize>()
    }

    /// Rows of an embedding table.
    pub fn table_rows(&self, table: usize) -> usize {
        self.tables[table].codes.len() / self.shape.hidden
    }
}

impl fmt::Debug for QuantizedTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("QuantizedTransformer");
        shown.field("kernels", &self.kernels).field("shape", &self.shape);
        shown.field("layers", &self.blocks.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shown_by_their_sizes() {
        let query = QuantizedDense { codes: vec![77; 6], scale: 0.5, zero_point: 1, bias: vec![0.125; 2] };
        let block = QuantizedBlock { query, ..QuantizedBlock::default() };
        let shown = format!("{block:?}");
        assert!(
            shown.contains("query: QuantizedDense { codes: [6], scale: 0.5, zero_point: 1, bias: [2] }"),
            "{shown}"
        );
        let table = QuantizedTable { codes: vec![77; 8], scale: 0.5, zero_point: 1 };
        assert_eq!(format!("{table:?}"), "QuantizedTable { codes: [8], scale: 0.5, zero_point: 1 }");
    }
}
