//! A model's weights on a card: matrices whose rows begin on 16 bytes, with zeros beyond their columns.

use text2vec_kernel::{
    Activation, Block as HostBlock, Dense, Error as ModelError, Experts as HostExperts, HeadNorms, MOST_EXPERTS, Mask,
    Norm as HostNorm, NormPlacement, Outer, PositionBias, Rotary, Shape,
};

use crate::arguments::{MOST_TABLES, NormParameters};
use crate::card::{Address, Card, CardResult, Epilogue, Number, bytes_of};
use crate::error::Result;
use crate::queue::LARGEST_HEAD;

/// Columns of a matrix and rows of a weight are a multiple of this.
const GROUP: usize = 8;

/// Columns with those that are added to be a multiple of 8.
pub(crate) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(GROUP)
}

/// Rows of numbers on the card.
pub(crate) struct Matrix<C: Card> {
    pub(crate) memory: C::Memory,
    pub(crate) stride: usize,
}

/// A linear layer, with padded inputs and outputs.
pub(crate) struct Linear<C: Card> {
    pub(crate) weight: Matrix<C>,
    pub(crate) bias: Option<C::Memory>,
    pub(crate) outputs: usize,
}

/// A norm's parameters, in f32.
pub(crate) struct Norm<C: Card> {
    gamma: C::Memory,
    beta: Option<C::Memory>,
    pub(crate) width: usize,
    epsilon: f32,
    rms: bool,
}

impl<C: Card> Norm<C> {
    pub(crate) fn parameters(&self, card: &C) -> NormParameters {
        let beta = self.beta.as_ref().map_or(Address::NOWHERE, |beta| card.address(beta));
        NormParameters { gamma: card.address(&self.gamma), beta, epsilon: self.epsilon, rms: self.rms.into() }
    }
}

/// A block's weights.
pub(crate) struct Block<C: Card> {
    /// Queries, keys and values of all heads, side by side.
    pub(crate) projection: Linear<C>,
    pub(crate) head_norms: Option<[Norm<C>; 2]>,
    pub(crate) rotary: Option<usize>,
    pub(crate) mask: Mask,
    pub(crate) attention_output: Linear<C>,
    pub(crate) attention_norm: Option<Norm<C>>,
    pub(crate) attention_second_norm: Option<Norm<C>>,
    pub(crate) attention_output_norm: Option<Norm<C>>,
    pub(crate) feed_forward: FeedForward<C>,
    pub(crate) output_norm: Norm<C>,
    pub(crate) feed_forward_norm: Option<Norm<C>>,
}

/// A feed-forward, or several.
pub(crate) enum FeedForward<C: Card> {
    /// `up` makes the factors too, where there are some, beside the others.
    One { up: Linear<C>, down: Linear<C> },
    /// Each for some of the rows.
    Experts {
        router: C::Memory,
        router_bias: Option<C::Memory>,
        experts: Vec<[Linear<C>; 2]>,
        taken: usize,
        bias: Option<C::Memory>,
    },
}

/// All of a model.
pub(crate) struct Model<C: Card> {
    pub(crate) shape: Shape,
    pub(crate) tables: Vec<Matrix<C>>,
    pub(crate) table_width: usize,
    pub(crate) embedding_norm: Option<Norm<C>>,
    pub(crate) embedding_projection: Option<Linear<C>>,
    pub(crate) position_bias: Option<PositionBias>,
    pub(crate) rotaries: Vec<Rotary>,
    pub(crate) blocks: Vec<Block<C>>,
    /// Which block each layer is.
    pub(crate) order: Vec<usize>,
    pub(crate) final_norm: Option<Norm<C>>,
}

impl<C: Card> Model<C> {
    /// Whether some of its feed-forwards are of experts.
    pub(crate) fn has_experts(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block.feed_forward, FeedForward::Experts { .. }))
    }

    /// Each block is on the card before the next is asked for.
    pub(crate) fn new(
        card: &C,
        number: Number,
        shape: Shape,
        outer: Outer,
        mut block: impl FnMut(usize) -> text2vec_kernel::Result<HostBlock>,
    ) -> Result<Model<C>> {
        check(shape, &outer)?;
        let on = Loader { card, number, shape };
        let projection = &outer.embedding_projection;
        let table_width = projection.as_ref().map_or(shape.hidden, |dense| dense.weight.len() / shape.hidden);
        let table = |table: &Vec<f32>| on.matrix(&[table], table_width);
        let mut model = Model {
            shape,
            tables: outer.tables.iter().map(table).collect::<Result<_>>()?,
            table_width,
            embedding_norm: on.optional(outer.embedding_norm, table_width)?,
            embedding_projection: match outer.embedding_projection {
                Some(dense) => Some(on.linear([&dense], table_width, on.residual())?),
                None => None,
            },
            position_bias: outer.position_bias,
            rotaries: outer.rotaries,
            blocks: Vec::new(),
            order: if outer.order.is_empty() { (0..shape.layers).collect() } else { outer.order },
            final_norm: on.optional(outer.final_norm, shape.hidden)?,
        };
        for layer in 0..shape.layers {
            let is_used = model.order.contains(&layer);
            let next = if is_used { block(layer)? } else { continue };
            model.blocks.push(on.block(layer, next)?);
        }
        // Blocks that no layer uses are not there: layers name those that are by their place.
        let used: Vec<usize> = (0..shape.layers).filter(|layer| model.order.contains(layer)).collect();
        let place = |layer: &usize| used.iter().position(|used| used == layer);
        let order: Option<Vec<usize>> = model.order.iter().map(place).collect();
        model.order = order.ok_or_else(|| ModelError::unusable("a layer that names a block beyond the last"))?;
        Ok(model)
    }
}

/// What cannot be computed by these kernels.
fn check(shape: Shape, outer: &Outer) -> Result<()> {
    let refused = |message: String| Err(ModelError::unusable(message).into());
    let size = shape.head_size();
    if size == 0 || size > LARGEST_HEAD || shape.key_heads() == 0 || !shape.heads.is_multiple_of(shape.key_heads()) {
        return refused(format!("heads of {size} columns: up to {LARGEST_HEAD} can be computed on a GPU"));
    }
    if outer.tables.is_empty() || outer.tables.len() > MOST_TABLES {
        return refused(format!("{} embedding tables: 1 to {MOST_TABLES} can be used", outer.tables.len()));
    }
    if let Some(bias) = &outer.position_bias {
        bias.check(shape.heads)?;
    }
    if outer.rotaries.iter().any(|rotary| 2 * rotary.frequencies.len() > size) {
        return refused(format!("rotary positions of more than the {size} columns of a head"));
    }
    match shape.style.experts {
        Some(experts) if experts.count > MOST_EXPERTS || experts.taken > experts.count => {
            refused(format!("{} experts: up to {MOST_EXPERTS} can be used", experts.count))
        }
        Some(_) if shape.style.gated || shape.style.placement == NormPlacement::Around => {
            refused("experts with gates or with norms around them are not supported".to_owned())
        }
        _ => Ok(()),
    }
}

/// Brings values to the card, as these numbers.
pub(crate) fn bring<C: Card>(card: &C, values: &[f32], number: Number) -> CardResult<C::Memory> {
    let bytes = bytes_of(number, values);
    let memory = card.take(bytes.len().max(1))?;
    // SAFETY: memory of that size, which nobody else knows yet.
    unsafe { card.write(card.address(&memory), &bytes)? };
    Ok(memory)
}

/// Brings weights to the card.
struct Loader<'c, C> {
    card: &'c C,
    number: Number,
    shape: Shape,
}

impl<C: Card> Loader<'_, C> {
    /// The numbers of the rows that blocks add to: f32 where these are not normed again and grow from block to block.
    fn residual(&self) -> Number {
        residual(self.shape, self.number)
    }

    /// Values in a row, as these numbers.
    fn values(&self, values: &[f32], number: Number) -> CardResult<C::Memory> {
        bring(self.card, values, number)
    }

    /// Rows of several matrices, each with as many more as make a multiple of 8.
    fn matrix(&self, parts: &[&[f32]], width: usize) -> Result<Matrix<C>> {
        let stride = padded(width);
        let mut values = Vec::new();
        for part in parts {
            if width == 0 || !part.len().is_multiple_of(width) {
                return Err(ModelError::internal(format!("{} weights in rows of {width}", part.len())).into());
            }
            let begun = values.len();
            for row in part.chunks_exact(width) {
                values.extend_from_slice(row);
                values.resize(values.len().next_multiple_of(stride), 0.0);
            }
            values.resize(begun + padded(part.len() / width) * stride, 0.0);
        }
        Ok(Matrix { memory: self.values(&values, self.number)?, stride })
    }

    /// Layers of the same inputs as one, whose outputs are padded each; with a bias in the numbers of what it is added to.
    fn linear<const N: usize>(&self, parts: [&Dense; N], inputs: usize, to: Number) -> Result<Linear<C>> {
        let outputs = parts.map(|part| part.weight.len() / inputs.max(1));
        let weight = self.matrix(&parts.map(|part| &part.weight[..]), inputs)?;
        let bias = if parts.iter().all(|part| part.bias.is_empty()) {
            None
        } else {
            let mut values = Vec::new();
            for (part, outputs) in parts.iter().zip(outputs) {
                let begun = values.len();
                values.extend_from_slice(&part.bias);
                values.resize(begun + padded(outputs), 0.0);
            }
            Some(self.values(&values, to)?)
        };
        Ok(Linear { weight, bias, outputs: outputs.map(padded).iter().sum() })
    }

    fn norm(&self, norm: HostNorm, width: usize) -> Result<Norm<C>> {
        let rms = self.shape.style.rms_norm;
        if norm.gamma.len() != width || (norm.beta.len() != width && !norm.beta.is_empty()) {
            return Err(ModelError::internal(format!("a norm of {} columns for {width}", norm.gamma.len())).into());
        }
        let beta = Some(norm.beta).filter(|beta| !beta.is_empty());
        Ok(Norm {
            gamma: self.values(&norm.gamma, Number::F32)?,
            beta: beta.map(|beta| self.values(&beta, Number::F32)).transpose()?,
            width,
            epsilon: self.shape.epsilon,
            rms,
        })
    }

    fn optional(&self, norm: Option<HostNorm>, width: usize) -> Result<Option<Norm<C>>> {
        norm.map(|norm| self.norm(norm, width)).transpose()
    }

    fn block(&self, layer: usize, block: HostBlock) -> Result<Block<C>> {
        let shape = self.shape;
        let hidden = shape.hidden;
        // Side by side without padding between: heads are found by their size.
        let mut all = Dense::default();
        let widths = [shape.attention_width(), shape.key_width(), shape.key_width()];
        let parts = [block.query, block.key, block.value];
        let is_biased = parts.iter().any(|part| !part.bias.is_empty());
        for (mut part, width) in parts.into_iter().zip(widths) {
            if part.weight.len() != width * hidden {
                return Err(ModelError::internal(format!("{} weights for {width} columns", part.weight.len())).into());
            }
            all.weight.append(&mut part.weight);
            if is_biased {
                part.bias.resize(width, 0.0);
                all.bias.append(&mut part.bias);
            }
        }
        let of_sum = |has_norm: bool| if has_norm { self.number } else { self.residual() };
        let (around_attention, around_feed_forward) =
            (block.attention_output_norm.is_some(), block.feed_forward_norm.is_some());
        let feed_forward = match (block.experts, shape.experts(layer)) {
            (Some(experts), Some(sizes)) => self.experts(experts, sizes.taken)?,
            _ => {
                let up = match &block.gate {
                    Some(gate) => self.linear([&block.up, gate], hidden, self.number)?,
                    None => self.linear([&block.up], hidden, self.number)?,
                };
                let down = self.linear([&block.down], shape.intermediate, of_sum(around_feed_forward))?;
                FeedForward::One { up, down }
            }
        };
        Ok(Block {
            projection: self.linear([&all], hidden, self.number)?,
            head_norms: match block.head_norms {
                Some(HeadNorms { query, key }) => {
                    let widths = [query.gamma.len(), key.gamma.len()];
                    Some([self.norm(query, widths[0])?, self.norm(key, widths[1])?])
                }
                None => None,
            },
            rotary: block.rotary,
            mask: block.mask,
            attention_output: self.linear(
                [&block.attention_output],
                shape.attention_width(),
                of_sum(around_attention),
            )?,
            attention_norm: self.optional(block.attention_norm, hidden)?,
            attention_second_norm: self.optional(block.attention_second_norm, hidden)?,
            attention_output_norm: self.optional(block.attention_output_norm, hidden)?,
            feed_forward,
            output_norm: self.norm(block.output_norm, hidden)?,
            feed_forward_norm: self.optional(block.feed_forward_norm, hidden)?,
        })
    }

    fn experts(&self, experts: HostExperts, taken: usize) -> Result<FeedForward<C>> {
        let shape = self.shape;
        let biased = |values: &Vec<f32>| match values.is_empty() {
            true => Ok(None),
            false => self.values(values, Number::F32).map(Some),
        };
        let pair = |(up, down): (&Dense, &Dense)| {
            let up = self.linear([up], shape.hidden, self.number)?;
            Ok([up, self.linear([down], shape.intermediate, self.number)?])
        };
        Ok(FeedForward::Experts {
            router: self.values(&experts.router.weight, Number::F32)?,
            router_bias: biased(&experts.router.bias)?,
            experts: experts.up.iter().zip(&experts.down).map(pair).collect::<Result<_>>()?,
            taken,
            bias: biased(&experts.bias)?,
        })
    }
}

/// The numbers of the rows that blocks add to.
pub(crate) fn residual(shape: Shape, number: Number) -> Number {
    if shape.style.placement == NormPlacement::After { number } else { Number::F32 }
}

/// What a product does itself of an activation: GELU by the error function is none of it, only its approximation, and that not
/// as exactly as f32 is to be.
pub(crate) fn epilogue(shape: Shape, number: Number) -> Option<Epilogue> {
    match shape.activation {
        _ if shape.style.gated => None,
        Activation::GeluTanh if number == Number::F32 => None,
        Activation::GeluTanh => Some(Epilogue::GeluTanh),
        Activation::Relu => Some(Epilogue::Relu),
        Activation::Gelu | Activation::Silu => None,
    }
}
