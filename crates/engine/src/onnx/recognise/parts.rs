//! What a graph is recognised as, by the names of its weights, and how these are read.

use text2vec_kernel::Norm;
use text2vec_kernel::quantized::{QuantizedBlock, QuantizedDense, QuantizedTable, ScoreScale};

use super::super::reader::{Fault, Graph};
use super::walk::Walk;

/// What chooses a row of an embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// The token's id.
    Tokens,
    /// The token's type.
    Types,
    /// Always the first row: there is one type only.
    First,
    /// The token's place, from 0.
    Positions,
    /// As RoBERTa counts: padding has its own id as position, all others count on from there.
    PositionsBehind(u32),
}

/// A quantised embedding table.
#[derive(Debug)]
pub struct Table<'a> {
    /// What chooses the row.
    pub rows: Rows,
    pub(super) weight: Weight<'a>,
}

/// A norm's parameters.
#[derive(Debug, Clone, Copy)]
pub struct NormAt<'a> {
    pub(super) gamma: &'a str,
    pub(super) beta: &'a str,
    pub(super) epsilon: f32,
}

/// Names of a quantised weight's parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight<'a> {
    pub(super) codes: &'a str,
    pub(super) scale: &'a str,
    pub(super) zero_point: &'a str,
}

/// A linear layer's parts, and what it is applied to.
#[derive(Debug, Clone, Copy)]
pub(super) struct DenseAt<'a> {
    pub(super) input: &'a str,
    pub(super) weight: Weight<'a>,
    pub(super) bias: &'a str,
}

/// A block's parts.
#[derive(Debug)]
pub struct Layer<'a> {
    pub(super) query: DenseAt<'a>,
    pub(super) key: DenseAt<'a>,
    pub(super) value: DenseAt<'a>,
    pub(super) query_scale: Option<f32>,
    pub(super) key_scale: Option<f32>,
    pub(super) score_scale: ScoreScale,
    pub(super) attention_output: DenseAt<'a>,
    pub(super) attention_norm: NormAt<'a>,
    pub(super) up: DenseAt<'a>,
    pub(super) down: DenseAt<'a>,
    pub(super) output_norm: NormAt<'a>,
}

impl Weight<'_> {
    /// Its scale and zero point, in signed codes.
    fn scale(&self, walk: &Walk<'_>) -> Result<(f32, i32), Fault> {
        let (scale, zero_point) = (walk.tensor(self.scale)?, walk.tensor(self.zero_point)?);
        match (scale.floats()?.as_ref(), &zero_point.codes()?[..]) {
            ([scale], [zero_point_code]) => {
                if zero_point.element_type() != walk.tensor(self.codes)?.element_type() {
                    return Err(format!("the zero point of '{}' is of another type", self.codes));
                }
                Ok((*scale, i32::from(*zero_point_code)))
            }
            _ => Err(format!(
                "the weight '{}' has a scale per channel: only one scale per weight is supported",
                self.codes
            )),
        }
    }
}

impl Table<'_> {
    /// Reads the table: its codes, `hidden` wide.
    ///
    /// # Errors
    /// In words, what is wrong: a weight is missing, of another width, or not in 8-bit codes of one scale.
    pub fn read(&self, graph: &Graph<'_>, hidden: usize) -> Result<QuantizedTable, Fault> {
        let walk = Walk { graph };
        let codes = walk.tensor(self.weight.codes)?;
        if codes.shape.len() != 2 || codes.shape[1] != hidden {
            return Err(format!(
                "the table '{}' has the shape {:?} where {hidden} columns belong",
                codes.name, codes.shape
            ));
        }
        let (scale, zero_point) = self.weight.scale(&walk)?;
        Ok(QuantizedTable { codes: codes.codes()?, scale, zero_point })
    }
}

impl NormAt<'_> {
    /// Reads gamma and beta.
    ///
    /// # Errors
    /// In words, which of them is missing or not in f32.
    pub fn read(&self, graph: &Graph<'_>) -> Result<Norm, Fault> {
        let walk = Walk { graph };
        let read = |name| Ok::<_, Fault>(walk.tensor(name)?.floats()?.into_owned());
        Ok(Norm { gamma: read(self.gamma)?, beta: read(self.beta)? })
    }
}

impl DenseAt<'_> {
    fn read(&self, graph: &Graph<'_>, inputs: usize, outputs: usize) -> Result<QuantizedDense, Fault> {
        let walk = Walk { graph };
        let codes = walk.tensor(self.weight.codes)?;
        if codes.shape != [inputs, outputs] {
            return Err(format!(
                "the weight '{}' has the shape {:?} where {:?} belongs",
                codes.name,
                codes.shape,
                [inputs, outputs]
            ));
        }
        let (scale, zero_point) = self.weight.scale(&walk)?;
        let bias = walk.tensor(self.bias)?.floats()?.into_owned();
        Ok(QuantizedDense { codes: codes.codes()?, scale, zero_point, bias })
    }
}

impl Layer<'_> {
    /// Reads the block's weights.
    ///
    /// # Errors
    /// In words, what is wrong with the first weight that is missing, of another shape, or not in 8-bit codes of one scale.
    pub fn read(&self, graph: &Graph<'_>, hidden: usize, intermediate: usize) -> Result<QuantizedBlock, Fault> {
        Ok(QuantizedBlock {
            query: self.query.read(graph, hidden, hidden)?,
            key: self.key.read(graph, hidden, hidden)?,
            value: self.value.read(graph, hidden, hidden)?,
            query_scale: self.query_scale,
            key_scale: self.key_scale,
            score_scale: self.score_scale,
            attention_output: self.attention_output.read(graph, hidden, hidden)?,
            attention_norm: self.attention_norm.read(graph)?,
            up: self.up.read(graph, hidden, intermediate)?,
            down: self.down.read(graph, intermediate, hidden)?,
            output_norm: self.output_norm.read(graph)?,
        })
    }
}
