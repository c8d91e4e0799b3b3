//! What a transformer of some family is made of: sizes, tensor names, how tokens find rows in the embedding tables.
//!
//! A family is a function from `config.json` to an [`Architecture`], see [`architecture`](super::architecture()). The
//! executors ([`cpu`](crate::cpu), [`candle`](crate::candle)) know no families: they build whatever an architecture says.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

use crate::encoder::TokenBatch;
use crate::error::{Error, Result};
use text2vec_kernel::{Activation, Block, Dense, Norm, Outer, PositionBias, Shape};

/// A transformer: its blocks, and what is before and after them. Tensor names are without a prefix such as `bert.`.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Sizes of the blocks and how they are made.
    pub shape: Shape,
    /// A tensor that every checkpoint of the family has; what stands before it in a checkpoint is the prefix.
    pub anchor: &'static str,
    /// The tables whose rows make the embedding; the first is the vocabulary's.
    pub tables: Vec<Table>,
    /// The norm of the embedding.
    pub embedding_norm: Option<&'static str>,
    /// Tensors of a block.
    pub names: BlockNames,
    /// Relative positions: a tensor `[buckets, heads]`.
    pub position_bias: Option<BiasTable>,
    /// The norm after the last block.
    pub final_norm: Option<&'static str>,
}

/// An embedding table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its tensor, `[rows, hidden]`, under the first of these names that exists.
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
pub struct BiasTable {
    /// The tensor.
    pub name: &'static str,
    /// Its rows.
    pub buckets: usize,
    /// See [`PositionBias::max_distance`].
    pub max_distance: usize,
}

/// What a family calls the tensors of a block: `<layers>.<layer>.<part>.weight`, and `.bias` where it has biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockNames {
    /// The list of blocks.
    pub layers: &'static str,
    /// Queries, keys, values, and the layer after attention.
    pub attention: [&'static str; 4],
    /// See [`Block::attention_norm`].
    pub attention_norm: &'static str,
    /// The first feed-forward layer.
    pub up: &'static str,
    /// The factors beside it, in a gated feed-forward.
    pub gate: &'static str,
    /// The second feed-forward layer.
    pub down: &'static str,
    /// See [`Block::output_norm`].
    pub output_norm: &'static str,
    /// Whether linear layers have biases.
    pub biases: bool,
}

impl Architecture {
    /// The most tokens of a sequence; `usize::MAX` where positions are only relative.
    pub fn longest(&self) -> usize {
        let longest = |table: &Table| match table.index {
            Index::Position => Some(table.rows),
            Index::PositionAfter { padding_id } => Some(table.rows.saturating_sub(padding_id as usize + 1)),
            Index::Id | Index::TokenType => None,
        };
        self.tables.iter().filter_map(longest).min().unwrap_or(usize::MAX)
    }

    /// For each table the row of each token.
    ///
    /// # Errors
    /// `Invalid` for a sequence that is too long, `Unusable` for an id beyond the vocabulary.
    pub fn rows<'b>(&self, batch: &'b TokenBatch) -> Result<Vec<Cow<'b, [u32]>>> {
        let longest = self.longest();
        if let Some(length) = batch.lengths().iter().find(|&&length| length > longest) {
            return Err(Error::invalid(format!("a sequence of {length} tokens: the model takes {longest}")));
        }
        // The tokenizer's and the model's vocabulary do not fit: nothing the caller could mend.
        let vocabulary = self.tables.first().map_or(0, |table| table.rows);
        if let Some(id) = batch.ids().iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::unusable(format!("tokenizer.json makes the id {id}, but the model knows {vocabulary}")));
        }
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

/// A tensor in f32: its shape and its values, row-major.
pub type NamedTensor = (Vec<usize>, Vec<f32>);

/// The parameters of an architecture out of a source of tensors, which is told the name and the shape wanted. Each tensor
/// is asked for once; one of another shape is an error that names it; a missing one is the source's error.
pub struct Parameters<'a, F> {
    architecture: &'a Architecture,
    source: F,
}

impl<'a, F: FnMut(&str, &[usize]) -> Result<NamedTensor>> Parameters<'a, F> {
    /// Reads from `source`.
    pub fn new(architecture: &'a Architecture, source: F) -> Self {
        Parameters { architecture, source }
    }

    /// What the model has once.
    ///
    /// # Errors
    /// `Unusable` for a tensor of another shape, and what the source says.
    pub fn outer(&mut self) -> Result<Outer> {
        let Architecture { tables, embedding_norm, position_bias, final_norm, shape, .. } = self.architecture;
        Ok(Outer {
            tables: tables.iter().map(|table| self.table(table)).collect::<Result<_>>()?,
            embedding_norm: embedding_norm.map(|name| self.norm(name)).transpose()?,
            position_bias: match *position_bias {
                Some(BiasTable { name, buckets, max_distance }) => {
                    Some(PositionBias { values: self.tensor(name, &[buckets, shape.heads])?, max_distance })
                }
                None => None,
            },
            final_norm: final_norm.map(|name| self.norm(name)).transpose()?,
        })
    }

    /// What a block has.
    ///
    /// # Errors
    /// As [`Parameters::outer`].
    pub fn block(&mut self, layer: usize) -> Result<Block> {
        let Architecture { shape, names, .. } = self.architecture;
        let Shape { hidden, intermediate, style, .. } = *shape;
        let width = shape.attention_width();
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let [query, key, value, output] = names.attention;
        Ok(Block {
            query: self.dense(&name(query), width, hidden)?,
            key: self.dense(&name(key), width, hidden)?,
            value: self.dense(&name(value), width, hidden)?,
            attention_output: self.dense(&name(output), hidden, width)?,
            attention_norm: self.norm(&name(names.attention_norm))?,
            up: self.dense(&name(names.up), intermediate, hidden)?,
            gate: style.gated.then(|| self.dense(&name(names.gate), intermediate, hidden)).transpose()?,
            down: self.dense(&name(names.down), hidden, intermediate)?,
            output_norm: self.norm(&name(names.output_norm))?,
        })
    }

    fn table(&mut self, table: &Table) -> Result<Vec<f32>> {
        let shape = [table.rows, self.architecture.shape.hidden];
        let mut missing = None;
        for name in table.names {
            match (self.source)(name, &shape) {
                Ok(tensor) => return checked(name, tensor, &shape),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        Err(missing.unwrap_or_else(|| Error::internal("an embedding table without a name")))
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        checked(name, (self.source)(name, shape)?, shape)
    }

    fn dense(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Dense> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = match self.architecture.names.biases {
            true => self.tensor(&format!("{name}.bias"), &[outputs])?,
            false => Vec::new(),
        };
        Ok(Dense { weight, bias })
    }

    fn norm(&mut self, name: &str) -> Result<Norm> {
        let Shape { hidden, style, .. } = self.architecture.shape;
        let gamma = self.tensor(&format!("{name}.weight"), &[hidden])?;
        let beta = match style.rms_norm {
            true => Vec::new(),
            false => self.tensor(&format!("{name}.bias"), &[hidden])?,
        };
        Ok(Norm { gamma, beta })
    }
}

impl<F> fmt::Debug for Parameters<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters").field("architecture", &self.architecture).finish_non_exhaustive()
    }
}

fn checked(name: &str, (found, values): NamedTensor, shape: &[usize]) -> Result<Vec<f32>> {
    if found != shape || found.iter().product::<usize>() != values.len() {
        return Err(Error::unusable(format!(
            "the tensor '{name}' has the shape {found:?} where config.json asks for {shape:?}"
        )));
    }
    Ok(values)
}

/// `config.json`, read key by key. What it leaves out has the family's default, as in transformers' configurations: the
/// files of some models hold a few keys only.
#[derive(Debug)]
pub struct Config<'a>(pub &'a Map<String, Value>);

impl Config<'_> {
    /// A positive number.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_u64() {
                Some(count) if (1..=u64::from(u32::MAX)).contains(&count) => Ok(count as usize),
                _ => Err(Error::unusable(format!("config.json: {key} must be a positive number, got {value}"))),
            },
        }
    }

    /// A token's id, which may be 0.
    ///
    /// # Errors
    /// `Unusable` if something else stands there.
    pub fn id(&self, key: &str, default: u32) -> Result<u32> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| Error::unusable(format!("config.json: {key} must be a token's id, got {value}"))),
        }
    }

    /// A norm's epsilon.
    pub fn epsilon(&self, key: &str, default: f64) -> f32 {
        self.0.get(key).and_then(Value::as_f64).unwrap_or(default) as f32
    }

    /// A word.
    pub fn word(&self, key: &str, default: &'static str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or(default)
    }

    /// The activation that a word means.
    ///
    /// # Errors
    /// `Unusable` for one that is not supported.
    pub fn activation(&self, key: &str, default: &'static str) -> Result<Activation> {
        activation(self.word(key, default))
    }

    /// Whether positions are looked up in a table and added, as all models of the families here have it.
    ///
    /// # Errors
    /// `Unusable` if they are not.
    pub fn absolute_positions(&self) -> Result<()> {
        match self.word("position_embedding_type", "absolute") {
            "absolute" => Ok(()),
            other => Err(Error::unusable(format!("config.json: positions of the type '{other}' are not supported"))),
        }
    }
}

/// The activation by its name in transformers.
///
/// # Errors
/// `Unusable` for one that is not supported.
pub fn activation(name: &str) -> Result<Activation> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(Error::unusable(format!("config.json: the activation '{other}' is not supported"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::known::architecture;
    use super::*;

    fn of(model_type: &str, config: Value) -> Result<Architecture> {
        architecture(model_type, config.as_object().expect("an object"))
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
            ("bert", json!({"hidden_act": "swish"})),
            ("bert", json!({"position_embedding_type": "relative_key"})),
            ("roberta", json!({"pad_token_id": -1})),
            ("t5", json!({"feed_forward_proj": "gated-silu"})),
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
