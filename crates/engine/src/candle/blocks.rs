//! What both executors make of an architecture: its layers on a device, and the order in which a block computes them.

use candle_core::shape::ShapeWithOneHole;
use candle_core::{D, DType, Module, Result as CandleResult, Tensor};

use super::failure::unusable;
use super::parts::{activate, shares};
use crate::error::Result;
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use text2vec_kernel::{Activation, Block, Dense, ExpertShape, Mask, Norm, NormPlacement, PositionBias, Shape};

/// Where an executor's parameters go, and as what.
pub(super) trait Layers {
    type Linear: Module;
    type Norm: Module;

    fn tensor(&self, values: Vec<f32>, shape: impl ShapeWithOneHole) -> CandleResult<Tensor>;
    fn linear(&self, dense: Dense, inputs: usize) -> CandleResult<Self::Linear>;
    /// In f32 whatever the other numbers are: for a choice, which cannot be rounded.
    fn exact_linear(&self, dense: Dense, inputs: usize) -> CandleResult<Self::Linear>;
    fn norm(&self, norm: Norm, shape: Shape) -> CandleResult<Self::Norm>;
}

/// All layers of an architecture. `I` are those of a block's queries, keys and values.
pub(super) struct Stack<L: Layers, I> {
    tables: Vec<Tensor>,
    embedding_norm: Option<L::Norm>,
    embedding_projection: Option<L::Linear>,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) blocks: Vec<LayerBlock<L, I>>,
    final_norm: Option<L::Norm>,
}

impl<L: Layers, I> Stack<L, I> {
    /// From named tensors, each where it goes before the next is read. `input` makes the layers of a block's queries, keys and
    /// values.
    ///
    /// # Errors
    /// `Unusable` for weights that do not fit, and what `tensors` says.
    pub(super) fn new(
        on: &L,
        architecture: &Architecture,
        tensors: impl FnMut(&str, &[usize]) -> Result<NamedTensor>,
        input: impl Fn(&mut Block) -> CandleResult<I>,
    ) -> Result<Self> {
        let mut parameters = Parameters::new(architecture, tensors);
        let shape = architecture.shape;
        let outer = parameters.outer()?;
        if let Some(bias) = &outer.position_bias {
            bias.check(shape.heads)?;
        }
        let width = architecture.table_width();
        let norm = |norm: Option<Norm>| norm.map(|norm| on.norm(norm, shape)).transpose().map_err(unusable);
        let table = |values: Vec<f32>| on.tensor(values, ((), width)).map_err(unusable);
        let projection = outer.embedding_projection.map(|dense| on.linear(dense, width));
        let mut stack = Stack {
            tables: outer.tables.into_iter().map(table).collect::<Result<_>>()?,
            embedding_norm: norm(outer.embedding_norm)?,
            embedding_projection: projection.transpose().map_err(unusable)?,
            position_bias: outer.position_bias,
            blocks: Vec::new(),
            final_norm: norm(outer.final_norm)?,
        };
        for layer in 0..shape.layers {
            let mut block = parameters.block(layer)?;
            let input = input(&mut block).map_err(unusable)?;
            stack.blocks.push(LayerBlock::new(on, input, block, (layer, shape)).map_err(unusable)?);
        }
        Ok(stack)
    }

    /// The embedding of tokens, `[tokens, hidden]`. `rows` are those of each table.
    pub(super) fn embed<'t>(&self, rows: impl IntoIterator<Item = &'t Tensor>) -> CandleResult<Tensor> {
        let mut states: Option<Tensor> = None;
        for (table, rows) in self.tables.iter().zip(rows) {
            let found = table.index_select(rows, 0)?;
            states = Some(match states {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        let Some(states) = states else { candle_core::bail!("no embedding table") };
        let states = optional(&self.embedding_norm, states)?;
        match &self.embedding_projection {
            Some(projection) => projection.forward(&states),
            None => Ok(states),
        }
    }

    /// The last hidden states of those that the last block gives.
    pub(super) fn finish(&self, states: Tensor) -> CandleResult<Tensor> {
        optional(&self.final_norm, states)
    }
}

/// A block's layers. `I` are those of queries, keys and values.
pub(super) struct LayerBlock<L: Layers, I> {
    pub(super) attention_input: I,
    /// Of queries and keys.
    pub(super) head_norms: Option<[L::Norm; 2]>,
    pub(super) rotary: Option<usize>,
    pub(super) mask: Mask,
    pub(super) attention_output: L::Linear,
    norms: BlockNorms<L::Norm>,
    feed_forward: FeedForward<L::Linear>,
}

struct BlockNorms<N> {
    attention: Option<N>,
    attention_second: Option<N>,
    attention_output: Option<N>,
    output: N,
    feed_forward: Option<N>,
}

enum FeedForward<L> {
    One { up: L, gate: Option<L>, down: L },
    Experts { router: L, experts: Vec<(L, L)>, taken: usize, bias: Option<Tensor> },
}

impl<L: Layers, I> LayerBlock<L, I> {
    fn new(on: &L, attention_input: I, block: Block, (layer, shape): (usize, Shape)) -> CandleResult<Self> {
        let Shape { hidden, intermediate, .. } = shape;
        let norm = |norm: Norm| on.norm(norm, shape);
        let optional = |it: Option<Norm>| it.map(norm).transpose();
        let feed_forward = match (block.experts, shape.experts(layer)) {
            (Some(experts), Some(ExpertShape { taken, .. })) => {
                let pair = |(up, down)| Ok((on.linear(up, hidden)?, on.linear(down, intermediate)?));
                let bias = Some(experts.bias).filter(|bias| !bias.is_empty());
                FeedForward::Experts {
                    router: on.exact_linear(experts.router, hidden)?,
                    experts: experts.up.into_iter().zip(experts.down).map(pair).collect::<CandleResult<_>>()?,
                    taken,
                    bias: bias.map(|bias| on.tensor(bias, ((),))).transpose()?,
                }
            }
            _ => FeedForward::One {
                up: on.linear(block.up, hidden)?,
                gate: block.gate.map(|gate| on.linear(gate, hidden)).transpose()?,
                down: on.linear(block.down, intermediate)?,
            },
        };
        Ok(LayerBlock {
            attention_input,
            head_norms: match block.head_norms {
                Some(norms) => Some([norm(norms.query)?, norm(norms.key)?]),
                None => None,
            },
            rotary: block.rotary,
            mask: block.mask,
            attention_output: on.linear(block.attention_output, shape.attention_width())?,
            norms: BlockNorms {
                attention: optional(block.attention_norm)?,
                attention_second: optional(block.attention_second_norm)?,
                attention_output: optional(block.attention_output_norm)?,
                output: norm(block.output_norm)?,
                feed_forward: optional(block.feed_forward_norm)?,
            },
            feed_forward,
        })
    }

    /// The block's states out of those before it.
    pub(super) fn forward(
        &self,
        shape: Shape,
        states: Tensor,
        attend: impl Fn(&Tensor) -> CandleResult<Tensor>,
    ) -> CandleResult<Tensor> {
        let feed_forward = |states: &Tensor| self.feed_forward.forward(shape.activation, states);
        let norms = &self.norms;
        if shape.style.placement == NormPlacement::After {
            let mut normed = optional(&norms.attention, (&states + attend(&states)?)?)?;
            if let Some(norm) = &norms.attention_second {
                normed = norm.forward(&(&states + normed)?)?;
            }
            return norms.output.forward(&(&normed + feed_forward(&normed)?)?);
        }
        let attended = attend(&optional(&norms.attention, states.clone())?)?;
        let states = (states + optional(&norms.attention_output, attended)?)?;
        let fed = feed_forward(&norms.output.forward(&states)?)?;
        states + optional(&norms.feed_forward, fed)?
    }
}

impl<L: Module> FeedForward<L> {
    fn forward(&self, activation: Activation, states: &Tensor) -> CandleResult<Tensor> {
        match self {
            FeedForward::One { up, gate, down } => {
                let mut between = activate(activation, &up.forward(states)?)?;
                if let Some(gate) = gate {
                    between = (between * gate.forward(states)?)?;
                }
                down.forward(&between)
            }
            // All experts for all rows: simple, and slower than each for its own.
            FeedForward::Experts { router, experts, taken, bias } => {
                let rows = states.reshape(((), states.dim(D::Minus1)?))?;
                let shares = shares(&router.forward(&rows.to_dtype(DType::F32)?)?, *taken)?.to_dtype(rows.dtype())?;
                let mut sum = rows.zeros_like()?;
                for (index, (up, down)) in experts.iter().enumerate() {
                    let made = down.forward(&activate(activation, &up.forward(&rows)?)?)?;
                    sum = (sum + made.broadcast_mul(&shares.narrow(1, index, 1)?)?)?;
                }
                if let Some(bias) = bias {
                    sum = sum.broadcast_add(bias)?;
                }
                sum.reshape(states.shape())
            }
        }
    }
}

fn optional<N: Module>(norm: &Option<N>, states: Tensor) -> CandleResult<Tensor> {
    match norm {
        Some(norm) => norm.forward(&states),
        None => Ok(states),
    }
}
