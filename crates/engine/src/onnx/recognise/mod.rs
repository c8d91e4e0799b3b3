//! Which encoder a graph is: BERT and its relatives as optimum exports them and ONNX Runtime's dynamic quantisation
//! leaves them. Weights are found by walking from the output to the inputs, whatever their names.
//!
//! ```text
//! parts        what is found, and how its weights are read
//! walk         from a value back to what it is made of
//! operations   norms, products, linear layers, GELU
//! layer        a block: attention and feed-forward
//! embedding    the sum of tables before the first block
//! ```

mod embedding;
mod layer;
mod operations;
mod parts;
mod walk;

pub use self::parts::{Layer, NormAt, Rows, Table};

use self::walk::Walk;
use super::reader::{Fault, Graph};

/// A quantised encoder, found in a graph.
#[derive(Debug)]
pub struct Recognised<'a> {
    /// Attention heads.
    pub heads: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width between the feed-forward matrices.
    pub intermediate: usize,
    /// LayerNorm's epsilon.
    pub epsilon: f32,
    /// Embedding tables in the order in which their rows are added.
    pub tables: Vec<Table<'a>>,
    /// The norm of the embeddings.
    pub embedding_norm: NormAt<'a>,
    /// The blocks, the first one first.
    pub layers: Vec<Layer<'a>>,
}

/// Finds the encoder of a graph.
///
/// # Errors
/// In words, which node does not fit and what was expected in its place, or what is not supported.
pub fn recognise<'a>(graph: &'a Graph<'a>) -> Result<Recognised<'a>, Fault> {
    let walk = Walk { graph };
    let output = *graph.outputs.first().ok_or("the graph has no output")?;
    let mut layers = Vec::new();
    let mut sizes = None;
    let (sum, mut norm) = walk.norm(output)?;
    let mut sum = sum;
    while !walk.is_embedding(sum) {
        let (layer, input, heads, width) = walk.layer(sum, norm)?;
        if sizes.replace((heads, width)).is_some_and(|other| other != (heads, width)) {
            return Err("its layers have different numbers of heads".into());
        }
        layers.push(layer);
        (sum, norm) = walk.norm(input)?;
    }
    layers.reverse();
    let Some((heads, width)) = sizes else { return Err("it has no layers".into()) };
    let epsilons = layers.iter().flat_map(|layer| [layer.attention_norm.epsilon, layer.output_norm.epsilon]);
    if epsilons.into_iter().any(|epsilon| epsilon != norm.epsilon) {
        return Err("its norms have different epsilons, which is not supported".into());
    }
    let intermediate = walk.tensor(layers[0].up.bias)?.shape.iter().product();
    let tables = walk.tables(sum)?;
    let hidden = heads.checked_mul(width).ok_or("its heads are too wide")?;
    Ok(Recognised { heads, hidden, intermediate, epsilon: norm.epsilon, tables, embedding_norm: norm, layers })
}
