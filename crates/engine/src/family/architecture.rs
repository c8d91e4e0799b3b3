//! What a transformer of some family is made of: sizes, tensor names, how tokens find rows in the embedding tables.
//!
//! A family is a function from `config.json` to an [`Architecture`], see [`architecture`](super::architecture()). The
//! executors ([`cpu`](crate::cpu), [`candle`](crate::candle)) know no families: they build whatever an architecture says.

use std::borrow::Cow;

use crate::encoder::TokenBatch;
use crate::error::Result;
#[cfg(doc)]
use text2vec_kernel::{Block, PositionBias};
use text2vec_kernel::{Mask, Rotary, Shape};

/// A transformer: its blocks, and what is before and after them. Tensor names are without a prefix such as `bert.`.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Sizes of the blocks and how they are made.
    pub shape: Shape,
    /// A tensor that every checkpoint of the family has; what stands before it in a checkpoint is the prefix.
    pub anchor: &'static str,
    /// The tables whose rows make the embedding; the first is the vocabulary's.
    pub tables: Vec<Table>,
    /// What the tables are multiplied by.
    pub table_scale: f32,
    /// The norm of the embedding.
    pub embedding_norm: Option<&'static str>,
    /// Where the tables are narrower than the hidden states: their width, and what makes hidden states of their normed sum.
    pub embedding_projection: Option<(usize, Linear)>,
    /// What a norm's tensors mean.
    pub norms: NormTensors,
    /// Tensors of a block.
    pub names: BlockNames,
    /// Other names, for checkpoints that have the tensor named first.
    pub variants: Vec<(&'static str, BlockNames)>,
    /// Positions that are added to scores.
    pub position_bias: Option<BiasSource>,
    /// Positions by which queries and keys are turned, of which a layer names one.
    pub rotaries: Vec<Rotary>,
    /// Who attends to whom in each layer; empty where all do, and nothing is turned.
    pub attention: Vec<LayerAttention>,
    /// Which block each layer is, where some are used more than once; empty for each once.
    pub order: Vec<usize>,
    /// The norm after the last block.
    pub final_norm: Option<&'static str>,
    /// The most tokens of a sequence that a configuration names, whatever the tables' rows.
    pub most_tokens: Option<usize>,
}

/// Attention in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Who sees whom.
    pub mask: Mask,
    /// Which of [`Architecture::rotaries`] turns queries and keys.
    pub rotary: Option<usize>,
}

/// Which masks a language model has that was trained to see all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masks {
    /// Those its configuration asks for.
    #[default]
    AsConfigured,
    /// Those of transformers 4.56, which knows neither `use_bidirectional_attention` nor `is_causal`: what the reference container
    /// computes.
    AsTransformers4,
}

/// What the tensors of norms mean, where it is not gamma and beta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NormTensors {
    /// There is no beta: it is 0.
    pub without_beta: bool,
    /// Gamma is 1 and what the tensor holds.
    pub one_and: bool,
}

/// An embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its tensor, `[rows, hidden]` (or the tables' own width), under the first of these names that exists.
    pub names: &'static [&'static str],
    /// Its rows.
    pub rows: usize,
    /// Which row a token takes.
    pub index: Index,
}

/// How a token finds its row in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// The token's id.
    Id,
    /// Its place in the sequence, counted from 0.
    Position,
    /// Its place counted from `padding_id + 1`. A padding token within a text has position `padding_id` and is not
    /// counted, as in transformers' `create_position_ids_from_input_ids`.
    PositionAfter {
        /// The id of the padding token.
        padding_id: u32,
    },
    /// Its token type.
    TokenType,
}

/// Where the numbers of relative positions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BiasSource {
    /// A table `[buckets, heads]`.
    Table {
        /// The tensor.
        name: &'static str,
        /// Its rows.
        buckets: usize,
        /// See [`PositionBias::Learned`].
        max_distance: usize,
    },
    /// They are computed: [`PositionBias::alibi`].
    Alibi,
}

/// A linear layer's tensors: `<name>.weight`, and `<name>.bias` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// What stands before `.weight`.
    pub name: &'static str,
    /// Whether there is a bias.
    pub biased: bool,
}

/// A layer with a bias.
pub const fn biased(name: &'static str) -> Linear {
    Linear { name, biased: true }
}

/// A layer without a bias.
pub const fn plain(name: &'static str) -> Linear {
    Linear { name, biased: false }
}

/// What a family calls the tensors of a block: `<layers>.<block>.<part>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockNames {
    /// The list of blocks.
    pub layers: &'static str,
    /// Queries, keys and values.
    pub projection: Projection,
    /// Norms of queries and keys.
    pub head_norms: Option<HeadNormNames>,
    /// The layer after attention.
    pub attention_output: Linear,
    /// See [`Block::attention_norm`].
    pub attention_norm: &'static str,
    /// The first block that has it.
    pub attention_norm_from: usize,
    /// See [`Block::attention_second_norm`].
    pub attention_second_norm: Option<&'static str>,
    /// See [`Block::attention_output_norm`].
    pub attention_output_norm: Option<&'static str>,
    /// The feed-forward.
    pub feed_forward: FeedForwardNames,
    /// The mixture in place of it, in the blocks that [`Shape::experts`] says.
    pub experts: Option<ExpertNames>,
    /// See [`Block::output_norm`].
    pub output_norm: &'static str,
    /// See [`Block::feed_forward_norm`].
    pub feed_forward_norm: Option<&'static str>,
}

impl BlockNames {
    /// With the two norms that every block has.
    pub const fn new(
        layers: &'static str,
        (projection, attention_output): (Projection, Linear),
        feed_forward: FeedForwardNames,
        (attention_norm, output_norm): (&'static str, &'static str),
    ) -> BlockNames {
        BlockNames {
            layers,
            projection,
            head_norms: None,
            attention_output,
            attention_norm,
            attention_norm_from: 0,
            attention_second_norm: None,
            attention_output_norm: None,
            feed_forward,
            experts: None,
            output_norm,
            feed_forward_norm: None,
        }
    }
}

/// Queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// One layer each.
    Separate([Linear; 3]),
    /// One layer with the outputs of all three, in this order.
    Fused(Linear),
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadNormNames {
    /// Of queries.
    pub query: &'static str,
    /// Of keys.
    pub key: &'static str,
    /// They are of all heads together, not of each.
    pub over_all_heads: bool,
}

/// The layers of a feed-forward. `up` is the one that the activation is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardNames {
    /// `up`, `down`, and in a gated feed-forward the factors.
    Separate {
        /// Its outputs are activated.
        up: Linear,
        /// Its outputs are factors of these.
        gate: Option<Linear>,
        /// From there back to the hidden states.
        down: Linear,
    },
    /// One layer with the outputs of `up` and `gate`.
    Fused {
        /// Both.
        both: Linear,
        /// Which half is `up`.
        activated: Half,
        /// From there back to the hidden states.
        down: Linear,
    },
}

/// A half of a layer's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Tensors of a mixture of experts, by their whole names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// `[experts, hidden]`
    pub router: &'static str,
    /// `[experts × intermediate, hidden]`
    pub up: &'static str,
    /// `[experts × intermediate, hidden]`: each expert's the other way round than a layer's weight.
    pub down: &'static str,
    /// `[hidden]`
    pub bias: &'static str,
}

impl Architecture {
    /// Blocks over tables, and nothing else.
    pub fn new(shape: Shape, tables: Vec<Table>, names: BlockNames) -> Architecture {
        Architecture {
            shape,
            anchor: tables.first().and_then(|table| table.names.first()).copied().unwrap_or_default(),
            tables,
            table_scale: 1.0,
            embedding_norm: None,
            embedding_projection: None,
            norms: NormTensors::default(),
            names,
            variants: Vec::new(),
            position_bias: None,
            rotaries: Vec::new(),
            attention: Vec::new(),
            order: Vec::new(),
            final_norm: None,
            most_tokens: None,
        }
    }

    /// Takes the names of the first variant whose tensor there is.
    pub fn settle(&mut self, has: impl Fn(&str) -> bool) {
        if let Some((_, names)) = self.variants.iter().find(|(marker, _)| has(marker)) {
            self.names = *names;
        }
    }

    /// Width of the tables' rows.
    pub fn table_width(&self) -> usize {
        self.embedding_projection.map_or(self.shape.hidden, |(width, _)| width)
    }

    /// Attention in one block.
    pub fn attention(&self, layer: usize) -> LayerAttention {
        self.attention.get(layer).copied().unwrap_or(LayerAttention { mask: Mask::FULL, rotary: None })
    }

    /// The blocks in the order in which layers use them.
    pub fn blocks_in_order(&self) -> Vec<usize> {
        if self.order.is_empty() { (0..self.shape.layers).collect() } else { self.order.clone() }
    }

    /// Who attends to whom, in a word: what people are told.
    pub fn masks(&self) -> &'static str {
        let masks = || self.attention.iter().map(|attention| attention.mask);
        match (masks().any(|mask| mask.after == 0), masks().any(|mask| mask != Mask::FULL && mask.after > 0)) {
            (true, _) => "causal",
            (false, true) => "bidirectional, with windows",
            (false, false) => "bidirectional",
        }
    }

    /// The most tokens of a sequence; `usize::MAX` where positions are only relative.
    pub fn longest(&self) -> usize {
        let longest = |table: &Table| match table.index {
            Index::Position => Some(table.rows),
            Index::PositionAfter { padding_id } => Some(table.rows.saturating_sub(padding_id as usize + 1)),
            Index::Id | Index::TokenType => None,
        };
        self.tables.iter().filter_map(longest).chain(self.most_tokens).min().unwrap_or(usize::MAX)
    }

    /// For each table the row of each token.
    ///
    /// # Errors
    /// `Invalid` for a sequence that is too long, `Unusable` for an id beyond the vocabulary.
    pub fn rows<'b>(&self, batch: &'b TokenBatch) -> Result<Vec<Cow<'b, [u32]>>> {
        batch.check(self.longest(), self.tables.first().map_or(0, |table| table.rows))?;
        let rows = |table: &Table| match table.index {
            Index::Id => Cow::Borrowed(batch.ids()),
            Index::TokenType => Cow::Borrowed(batch.type_ids()),
            Index::Position => batch.ranges().flat_map(|range| 0..range.len() as u32).collect(),
            Index::PositionAfter { padding_id } => {
                batch.ranges().flat_map(|range| positions_after(padding_id, &batch.ids()[range])).collect()
            }
        };
        Ok(self.tables.iter().map(rows).collect())
    }
}

fn positions_after(padding_id: u32, ids: &[u32]) -> impl Iterator<Item = u32> {
    ids.iter().scan(padding_id, move |last, &id| {
        if id == padding_id {
            return Some(padding_id);
        }
        *last += 1;
        Some(*last)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::known::architecture;
    use super::super::parameters::Parameters;
    use super::*;
    use crate::error::Error;
    use text2vec_kernel::Activation;

    fn of(model_type: &str, config: Value) -> Result<Architecture> {
        architecture(model_type, config.as_object().expect("an object"), Masks::AsConfigured)
    }

    #[test]
    fn positions_start_where_the_family_has_them() {
        let mut batch = TokenBatch::new();
        batch.push(&[5, 6, 1, 7], &[0; 4]);
        batch.push(&[8, 9], &[0; 2]);
        let positions = |architecture: Architecture| architecture.rows(&batch).expect("rows")[1].to_vec();
        assert_eq!(positions(of("bert", json!({})).expect("BERT")), [0, 1, 2, 3, 0, 1]);
        assert_eq!(positions(of("distilbert", json!({})).expect("DistilBERT")), [0, 1, 2, 3, 0, 1]);
        // A padding token within the text keeps the padding position and is not counted.
        let expected = [2, 3, 1, 4, 2, 3];
        assert_eq!(positions(of("xlm-roberta", json!({"pad_token_id": 1})).expect("XLM-R")), expected);
        assert_eq!(positions(of("mpnet", json!({"pad_token_id": 9})).expect("MPNet")), expected);
    }

    #[test]
    fn the_longest_sequence_is_what_the_position_table_leaves() {
        let longest = |model_type| of(model_type, json!({"max_position_embeddings": 514})).expect("a model").longest();
        assert_eq!(
            ["bert", "dpr", "roberta", "xlm-roberta", "mpnet", "t5"].map(longest),
            [514, 514, 512, 512, 512, usize::MAX]
        );
        let small = of("bert", json!({"max_position_embeddings": 3, "vocab_size": 10})).expect("a model");
        let rows = |ids: &[u32]| {
            let mut batch = TokenBatch::new();
            batch.push(ids, &vec![0; ids.len()]);
            small.rows(&batch).map(|_| ()).map_err(|error| error.message().to_owned())
        };
        assert_eq!(rows(&[1, 2, 9]), Ok(()));
        assert!(rows(&[1, 2, 3, 4]).expect_err("too long").contains("takes 3"));
        assert!(rows(&[10]).expect_err("not in the vocabulary").contains("10"));
    }

    #[test]
    fn a_sparse_configuration_has_its_family_s_defaults_and_a_wrong_one_is_refused() {
        let sparse = of("dpr", json!({"architectures": ["DPRContextEncoder"], "projection_dim": 0})).expect("DPR");
        assert_eq!((sparse.shape.hidden, sparse.shape.layers, sparse.tables[0].rows), (768, 12, 30522));
        assert_eq!(sparse, of("bert", json!({"hidden_size": null})).expect("BERT"));
        for (model_type, config) in [
            ("dpr", json!({"projection_dim": 128})),
            ("bert", json!({"hidden_size": 0})),
            ("bert", json!({"hidden_size": "768"})),
            ("bert", json!({"hidden_act": "mish"})),
            ("bert", json!({"position_embedding_type": "relative_key"})),
            ("roberta", json!({"pad_token_id": -1})),
            ("t5", json!({"feed_forward_proj": "gated-mish"})),
            ("t5", json!({"d_kv": 0})),
            ("gpt2", json!({})),
        ] {
            assert!(of(model_type, config.clone()).is_err(), "{model_type} {config}");
        }
    }

    #[test]
    fn a_table_is_found_under_any_of_its_names_and_asked_for_by_the_first() {
        let t5 = of("t5", json!({"vocab_size": 3, "d_model": 2, "num_heads": 1})).expect("T5");
        let outer = |table: &'static str| {
            let source =
                move |name: &str, shape: &[usize]| match name.ends_with("shared.weight") || name.contains("embed") {
                    true if name != table => Err(Error::unusable(format!("no '{name}'"))),
                    _ => Ok((shape.to_vec(), vec![0.5; shape.iter().product()])),
                };
            Parameters::new(&t5, source).outer().map(|outer| outer.tables)
        };
        assert_eq!(outer("shared.weight"), Ok(vec![vec![0.5; 6]]));
        assert_eq!(outer("encoder.embed_tokens.weight"), Ok(vec![vec![0.5; 6]]));
        assert_eq!(outer("other").expect_err("no table").message(), "no 'shared.weight'");
    }

    #[test]
    fn t5_has_a_gate_where_its_configuration_says_so() {
        let shape = |proj: &str| of("t5", json!({"feed_forward_proj": proj})).expect("T5").shape;
        assert_eq!((shape("relu").activation, shape("relu").style.gated), (Activation::Relu, false));
        assert_eq!((shape("gelu").activation, shape("gelu").style.gated), (Activation::Gelu, false));
        assert_eq!((shape("gated-gelu").activation, shape("gated-gelu").style.gated), (Activation::GeluTanh, true));
        assert_eq!((shape("gated-relu").activation, shape("gated-relu").style.gated), (Activation::Relu, true));
    }
}
