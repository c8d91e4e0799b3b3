//! What a stack of blocks is made of, as checkpoints have it.

use std::fmt;

use crate::linear::Dense;
use crate::math::Activation;
use crate::position_bias::PositionBias;

/// Sizes and make of a stack of transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`, unless the style has a width of heads.
    pub heads: usize,
    /// Width between the two feed-forward matrices.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// The feed-forward activation.
    pub activation: Activation,
    /// The norms' epsilon.
    pub epsilon: f32,
    /// How blocks are made.
    pub style: Style,
}

/// In what a family's blocks differ from BERT's, which are the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Norms stand before attention and feed-forward, not after the sums.
    pub pre_norm: bool,
    /// Norms divide by the root of the mean square: no mean is taken off, no beta added.
    pub rms_norm: bool,
    /// Scores are not divided by the root of the heads' width.
    pub unscaled: bool,
    /// A second matrix beside `up`, whose outputs are factors of the activated ones.
    pub gated: bool,
    /// The width of a head, where it is not `hidden / heads`.
    pub head_size: Option<usize>,
}

impl Shape {
    /// Width of a head.
    pub fn head_size(&self) -> usize {
        self.style.head_size.unwrap_or(self.hidden / self.heads.max(1))
    }

    /// Width of the queries, keys or values of all heads.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_size()
    }
}

/// A norm's parameters, `[hidden]` each; an RMS norm has no beta.
#[derive(Clone, Default, PartialEq)]
pub struct Norm {
    /// The factor per column.
    pub gamma: Vec<f32>,
    /// What is added per column.
    pub beta: Vec<f32>,
}

/// Sizes instead of values, of which there may be millions; so with all weights.
impl fmt::Debug for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Norm").field("gamma", &[self.gamma.len()]).field("beta", &[self.beta.len()]).finish()
    }
}

/// The parameters of one block: attention and its norm, feed-forward and its norm. Biases may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// `[heads × head size, hidden]`
    pub query: Dense,
    /// `[heads × head size, hidden]`
    pub key: Dense,
    /// `[heads × head size, hidden]`
    pub value: Dense,
    /// `[hidden, heads × head size]`
    pub attention_output: Dense,
    /// After the attention's output and its input are added; with pre-norm, before attention.
    pub attention_norm: Norm,
    /// `[intermediate, hidden]`
    pub up: Dense,
    /// `[intermediate, hidden]`, if the style is gated.
    pub gate: Option<Dense>,
    /// `[hidden, intermediate]`
    pub down: Dense,
    /// After the feed-forward's output and its input are added; with pre-norm, before the feed-forward.
    pub output_norm: Norm,
}

/// What an encoder has once, outside of its blocks.
#[derive(Clone, Default, PartialEq)]
pub struct Outer {
    /// The embedding is the sum of one row from each: `[rows, hidden]`.
    pub tables: Vec<Vec<f32>>,
    /// The norm of that sum.
    pub embedding_norm: Option<Norm>,
    /// Added to the scores of every block.
    pub position_bias: Option<PositionBias>,
    /// The norm after the last block.
    pub final_norm: Option<Norm>,
}

impl fmt::Debug for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<_> = self.tables.iter().map(|table| [table.len()]).collect();
        let mut shown = f.debug_struct("Outer");
        shown.field("tables", &tables).field("embedding_norm", &self.embedding_norm);
        shown.field("position_bias", &self.position_bias).field("final_norm", &self.final_norm).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shown_by_their_sizes() {
        let dense = || Dense { weight: vec![0.125; 6], bias: vec![0.125; 2] };
        let block = Block { query: dense(), gate: Some(dense()), ..Block::default() };
        let norm = Norm { gamma: vec![0.125; 3], beta: Vec::new() };
        let bias = PositionBias { values: vec![0.125; 4], max_distance: 8 };
        let outer = Outer {
            tables: vec![vec![0.125; 5]],
            embedding_norm: Some(norm),
            position_bias: Some(bias),
            final_norm: None,
        };
        assert_eq!(
            format!("{outer:?}"),
            "Outer { tables: [[5]], embedding_norm: Some(Norm { gamma: [3], beta: [0] }), position_bias: \
             Some(PositionBias { values: [4], max_distance: 8 }), final_norm: None }"
        );
        let shown = format!("{block:?}");
        assert!(shown.contains("query: Dense { weight: [6], bias: [2] }") && !shown.contains("0.125"), "{shown}");
    }
}
