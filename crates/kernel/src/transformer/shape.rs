//! What a stack of blocks is made of, as checkpoints have it.

use std::fmt;

use crate::linear::Dense;
use crate::mask::Mask;
use crate::math::Activation;
use crate::position_bias::PositionBias;
use crate::rotary::Rotary;

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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// Where norms stand.
    pub placement: NormPlacement,
    /// Norms divide by the root of the mean square: no mean is taken off, no beta added.
    pub rms_norm: bool,
    /// What scores are multiplied by, where it is not 1 ÷ √head size.
    pub score_scale: Option<f32>,
    /// A second matrix beside `up`, whose outputs are factors of the activated ones.
    pub gated: bool,
    /// The width of a head, where it is not `hidden / heads`.
    pub head_size: Option<usize>,
    /// Heads of keys and values, where there are fewer than of queries (grouped-query attention). They divide `heads`:
    /// as many neighbouring queries' heads share one.
    pub key_heads: Option<usize>,
    /// Some blocks have several feed-forwards, of which each token takes a few.
    pub experts: Option<ExpertShape>,
}

impl Style {
    /// BERT's.
    pub const BERT: Style = Style {
        placement: NormPlacement::After,
        rms_norm: false,
        score_scale: None,
        gated: false,
        head_size: None,
        key_heads: None,
        experts: None,
    };
}

impl Default for Style {
    fn default() -> Self {
        Style::BERT
    }
}

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormPlacement {
    /// After the sums of a part's input and its output (BERT).
    #[default]
    After,
    /// Before attention and feed-forward (T5, Llama).
    Before,
    /// Before attention and feed-forward, and of their outputs before those are added (Gemma).
    Around,
}

/// A mixture of experts in place of a feed-forward, as NomicBERT v2 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertShape {
    /// Feed-forwards of a block.
    pub count: usize,
    /// How many of them a token takes: those with its highest probabilities, by which their outputs are weighted.
    pub taken: usize,
    /// Blocks have them whose index, divided by this, leaves 1.
    pub every: usize,
}

impl Shape {
    /// Width of a head.
    pub fn head_size(&self) -> usize {
        self.style.head_size.unwrap_or(self.hidden / self.heads.max(1))
    }

    /// Width of the queries of all heads.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_size()
    }

    /// Heads of keys, and of values.
    pub fn key_heads(&self) -> usize {
        self.style.key_heads.unwrap_or(self.heads)
    }

    /// Width of the keys of all heads, and of the values.
    pub fn key_width(&self) -> usize {
        self.key_heads() * self.head_size()
    }

    /// Width of queries, keys and values side by side.
    pub fn projected_width(&self) -> usize {
        self.attention_width() + 2 * self.key_width()
    }

    /// What scores are multiplied by.
    pub fn score_scale(&self) -> f32 {
        self.style.score_scale.unwrap_or(1.0 / (self.head_size() as f32).sqrt())
    }

    /// Weights of all blocks, without biases and norms; as many as can be counted.
    pub fn weights(&self) -> u64 {
        let [hidden, intermediate, layers] = [self.hidden, self.intermediate, self.layers].map(|size| size as u64);
        let wide = [self.projected_width(), self.attention_width()].map(|size| size as u64);
        let attention = hidden.saturating_mul(wide[0]).saturating_add(hidden.saturating_mul(wide[1]));
        let feed_forward = 2u64.saturating_mul(hidden).saturating_mul(intermediate);
        layers.saturating_mul(attention.saturating_add(feed_forward))
    }

    /// The mixture of experts of a block, if it has one.
    pub fn experts(&self, layer: usize) -> Option<ExpertShape> {
        self.style.experts.filter(|experts| layer % experts.every.max(1) == 1)
    }
}

/// A norm's parameters, as many as it has columns each; an RMS norm has no beta.
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

/// The parameters of one block: attention and its norms, feed-forward and its norms. Biases may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// `[heads × head size, hidden]`
    pub query: Dense,
    /// `[key heads × head size, hidden]`
    pub key: Dense,
    /// `[key heads × head size, hidden]`
    pub value: Dense,
    /// Norms of queries and keys.
    pub head_norms: Option<HeadNorms>,
    /// By which of [`Outer::rotaries`] queries and keys are turned.
    pub rotary: Option<usize>,
    /// Which tokens attend to which.
    pub mask: Mask,
    /// `[hidden, heads × head size]`
    pub attention_output: Dense,
    /// After the attention's output and its input are added; with norms before, before attention, where there may be none.
    pub attention_norm: Option<Norm>,
    /// With norms after: a second one, after the first one's output and the attention's input are added (JinaBERT for code).
    pub attention_second_norm: Option<Norm>,
    /// With norms around: of the attention's output, before it is added.
    pub attention_output_norm: Option<Norm>,
    /// `[intermediate, hidden]`
    pub up: Dense,
    /// `[intermediate, hidden]`, if the style is gated.
    pub gate: Option<Dense>,
    /// `[hidden, intermediate]`
    pub down: Dense,
    /// In place of `up` and `down`, where [`Shape::experts`] says so.
    pub experts: Option<Experts>,
    /// After the feed-forward's output and its input are added; with norms before, before the feed-forward.
    pub output_norm: Norm,
    /// With norms around: of the feed-forward's output, before it is added.
    pub feed_forward_norm: Option<Norm>,
}

/// Norms of queries and keys, of the kind that the style's norms are: of each head, when they are as wide as a head, else of all
/// heads together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeadNorms {
    /// Of the queries.
    pub query: Norm,
    /// Of the keys.
    pub key: Norm,
}

/// A mixture of experts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Experts {
    /// Makes each expert's probability: `[experts, hidden]`.
    pub router: Dense,
    /// `[intermediate, hidden]` each.
    pub up: Vec<Dense>,
    /// `[hidden, intermediate]` each.
    pub down: Vec<Dense>,
    /// Added once, whatever a token's experts are: `[hidden]`, or empty.
    pub bias: Vec<f32>,
}

/// What an encoder has once, outside of its blocks.
#[derive(Clone, Default, PartialEq)]
pub struct Outer {
    /// The embedding is the sum of one row from each: `[rows, hidden]`, or as wide as the projection's inputs.
    pub tables: Vec<Vec<f32>>,
    /// The norm of that sum.
    pub embedding_norm: Option<Norm>,
    /// From the width of the tables to the hidden states', after the norm: `[hidden, table width]`.
    pub embedding_projection: Option<Dense>,
    /// Added to the scores of every block.
    pub position_bias: Option<PositionBias>,
    /// What blocks turn queries and keys by.
    pub rotaries: Vec<Rotary>,
    /// Which block each layer is, where some are used more than once (ALBERT); empty for each once.
    pub order: Vec<usize>,
    /// The norm after the last block.
    pub final_norm: Option<Norm>,
}

impl fmt::Debug for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<_> = self.tables.iter().map(|table| [table.len()]).collect();
        let mut shown = f.debug_struct("Outer");
        shown.field("tables", &tables).field("embedding_norm", &self.embedding_norm);
        shown.field("embedding_projection", &self.embedding_projection).field("position_bias", &self.position_bias);
        shown.field("rotaries", &self.rotaries).field("order", &self.order);
        shown.field("final_norm", &self.final_norm).finish()
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
        let bias = PositionBias::Learned { values: vec![0.125; 4], max_distance: 8 };
        let outer = Outer {
            tables: vec![vec![0.125; 5]],
            embedding_norm: Some(norm),
            position_bias: Some(bias),
            ..Outer::default()
        };
        let shown = format!("{outer:?}");
        let norm = "embedding_norm: Some(Norm { gamma: [3], beta: [0] })";
        assert!(shown.starts_with(&format!("Outer {{ tables: [[5]], {norm}")), "{shown}");
        assert!(shown.contains("Learned { values: [4], max_distance: 8 }") && !shown.contains("0.125"), "{shown}");
        let shown = format!("{block:?}");
        assert!(shown.contains("query: Dense { weight: [6], bias: [2] }") && !shown.contains("0.125"), "{shown}");
    }
}
