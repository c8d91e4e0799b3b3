//! BERT, XLM-RoBERTa and DistilBERT on the CPU engine: which tensors their blocks are made of, and how their tokens
//! find rows in the embedding tables.
//!
//! The three are one architecture: post-norm blocks over the norm of summed embeddings. They differ in tensor names, in
//! position numbers, and in whether there are token types.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Encoder, HiddenStates, TokenBatch};
use crate::backend::local::kernel::{Activation, Block, Dense, Executor, Kernels, Norm, Precision, Shape, Transformer};
use crate::error::{Error, Result};

/// Which relative of BERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Positions from 0, token types.
    Bert,
    /// RoBERTa and XLM-RoBERTa: positions from `padding_id + 1` on, token types. A padding token within a text has
    /// position `padding_id` and is not counted, as in transformers' `create_position_ids_from_input_ids`.
    Roberta {
        /// The id of the padding token.
        padding_id: u32,
    },
    /// Positions from 0, no token types, names of its own.
    DistilBert,
}

/// What `config.json` says of an encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BertConfig {
    /// Names, positions and token types.
    pub family: Family,
    /// Sizes of the blocks.
    pub shape: Shape,
    /// Rows of the word embedding.
    pub vocabulary: usize,
    /// Rows of the position embedding.
    pub positions: usize,
    /// Rows of the token type embedding; not used by DistilBERT.
    pub token_types: usize,
}

impl BertConfig {
    /// Reads `config.json`. What it leaves out has BERT's defaults, as in transformers' `BertConfig`: the files of some
    /// models hold a few keys only.
    pub fn from_json(config: &Map<String, Value>) -> Result<BertConfig> {
        let count = |key: &str, default: usize| match config.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_u64() {
                Some(count) if (1..=u64::from(u32::MAX)).contains(&count) => Ok(count as usize),
                _ => Err(Error::config(format!("config.json: {key} must be a positive number, got {value}"))),
            },
        };
        let activation = match config.get("hidden_act").and_then(Value::as_str).unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let message = format!("config.json: the activation '{other}' is not supported: use the engine candle");
                return Err(Error::config(message));
            }
        };
        let shape = Shape {
            hidden: count("hidden_size", 768)?,
            heads: count("num_attention_heads", 12)?,
            intermediate: count("intermediate_size", 3072)?,
            layers: count("num_hidden_layers", 12)?,
            activation,
            epsilon: config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32,
        };
        Ok(BertConfig {
            family: Family::Bert,
            shape,
            vocabulary: count("vocab_size", 30522)?,
            positions: count("max_position_embeddings", 512)?,
            token_types: count("type_vocab_size", 2)?,
        })
    }
}

/// A tensor in f32: its shape and its values, row-major.
pub type NamedTensor = (Vec<usize>, Vec<f32>);

/// An encoder of BERT's family on the CPU engine.
pub struct PackedBert {
    family: Family,
    longest: usize,
    executor: Executor,
}

impl PackedBert {
    /// Builds the encoder from named tensors, without a prefix such as `bert.`, and with LayerNorm's parameters called
    /// `weight` and `bias`. Each tensor is asked for once and packed before the next block's.
    ///
    /// `threads` run one forward pass, the caller's included. A tensor of another shape than the configuration says is an
    /// error that names it; a missing tensor is the source's error.
    pub fn new(
        config: &BertConfig,
        (kernels, precision): (Kernels, Precision),
        threads: usize,
        tensors: impl FnMut(&str) -> Result<NamedTensor>,
    ) -> Result<PackedBert> {
        let mut tensors = Checked(tensors);
        let BertConfig { family, shape, vocabulary, positions, token_types } = *config;
        let Shape { hidden, intermediate, .. } = shape;
        let longest = match family {
            Family::Roberta { padding_id } => positions.saturating_sub(padding_id as usize + 1),
            Family::Bert | Family::DistilBert => positions,
        };
        let mut tables = vec![
            tensors.matrix("embeddings.word_embeddings.weight", vocabulary, hidden)?,
            tensors.matrix("embeddings.position_embeddings.weight", positions, hidden)?,
        ];
        if family != Family::DistilBert {
            tables.push(tensors.matrix("embeddings.token_type_embeddings.weight", token_types, hidden)?);
        }
        let embedding_norm = tensors.norm("embeddings.LayerNorm", hidden)?;
        let names = match family {
            Family::Bert | Family::Roberta { .. } => &BERT_NAMES,
            Family::DistilBert => &DISTILBERT_NAMES,
        };
        let model = Transformer::new(kernels, precision, shape, tables, &embedding_norm, |layer| {
            let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
            Ok(Block {
                query: tensors.dense(&name(names.query), hidden, hidden)?,
                key: tensors.dense(&name(names.key), hidden, hidden)?,
                value: tensors.dense(&name(names.value), hidden, hidden)?,
                attention_output: tensors.dense(&name(names.attention_output), hidden, hidden)?,
                attention_norm: tensors.norm(&name(names.attention_norm), hidden)?,
                up: tensors.dense(&name(names.up), intermediate, hidden)?,
                down: tensors.dense(&name(names.down), hidden, intermediate)?,
                output_norm: tensors.norm(&name(names.output_norm), hidden)?,
            })
        })?;
        Ok(PackedBert { family, longest, executor: Executor::new(Arc::new(model), threads)? })
    }

    /// Another encoder over the same weights, with threads and scratch memory of its own.
    pub fn sibling(&self, threads: usize) -> Result<PackedBert> {
        let executor = Executor::new(Arc::clone(self.executor.model()), threads)?;
        Ok(PackedBert { executor, ..*self })
    }

    /// The packed weights.
    pub fn model(&self) -> &Transformer {
        self.executor.model()
    }

    /// Threads of a forward pass.
    pub fn threads(&self) -> usize {
        self.executor.threads()
    }

    /// Each token's row in the position embedding.
    fn positions(&self, batch: &TokenBatch) -> Vec<u32> {
        let mut positions = Vec::with_capacity(batch.tokens());
        for range in batch.ranges() {
            match self.family {
                Family::Bert | Family::DistilBert => positions.extend(0..range.len() as u32),
                Family::Roberta { padding_id } => {
                    let mut last = padding_id;
                    positions.extend(batch.ids()[range].iter().map(|&id| {
                        if id == padding_id {
                            return padding_id;
                        }
                        last += 1;
                        last
                    }));
                }
            }
        }
        positions
    }
}

impl Encoder for PackedBert {
    fn forward(&mut self, batch: &TokenBatch) -> Result<HiddenStates> {
        if let Some(length) = batch.lengths().iter().find(|&&length| length > self.longest) {
            return Err(Error::invalid(format!("a sequence of {length} tokens: the model takes {}", self.longest)));
        }
        // The tokenizer's and the model's vocabulary do not fit: nothing the caller could mend.
        let vocabulary = self.executor.model().table_rows(0);
        if let Some(id) = batch.ids().iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::config(format!("tokenizer.json makes the id {id}, but the model knows {vocabulary}")));
        }
        let positions = self.positions(batch);
        let rows = [batch.ids(), &positions, batch.type_ids()];
        let tables = if self.family == Family::DistilBert { 2 } else { 3 };
        let values = self.executor.forward(&rows[..tables], batch.lengths())?;
        Ok(HiddenStates { values, width: self.hidden_size() })
    }

    fn hidden_size(&self) -> usize {
        self.executor.model().shape().hidden
    }
}

/// What a family calls the tensors of a block.
struct BlockNames {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    output_norm: &'static str,
}

const BERT_NAMES: BlockNames = BlockNames {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

const DISTILBERT_NAMES: BlockNames = BlockNames {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

/// A source of tensors, each checked against the shape it should have.
struct Checked<F>(F);

impl<F: FnMut(&str) -> Result<NamedTensor>> Checked<F> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (found, values) = (self.0)(name)?;
        if found != shape || found.iter().product::<usize>() != values.len() {
            return Err(Error::config(format!(
                "the tensor '{name}' has the shape {found:?} where config.json asks for {shape:?}"
            )));
        }
        Ok(values)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.tensor(name, &[rows, columns])
    }

    fn dense(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Dense> {
        Ok(Dense {
            weight: self.matrix(&format!("{name}.weight"), outputs, inputs)?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm> {
        Ok(Norm {
            gamma: self.tensor(&format!("{name}.weight"), &[width])?,
            beta: self.tensor(&format!("{name}.bias"), &[width])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::backend::local::kernel::testing::{
        exact_attention, exact_gelu, exact_layer_norm, exact_product, values,
    };
    use crate::backend::local::kernel::{Activation, InstructionSet};

    fn config(family: Family, hidden: usize, heads: usize) -> BertConfig {
        let shape = Shape {
            hidden,
            heads,
            intermediate: 2 * hidden + 3,
            layers: 2,
            activation: Activation::Gelu,
            epsilon: 1e-12,
        };
        BertConfig { family, shape, vocabulary: 50, positions: 140, token_types: 2 }
    }

    /// Random tensors, all that the family has.
    fn tensors(config: &BertConfig) -> HashMap<String, NamedTensor> {
        let Shape { hidden, intermediate, layers, .. } = config.shape;
        let mut tensors = HashMap::new();
        let mut add = |name: String, shape: &[usize]| {
            let seed = 100 + tensors.len() as u64;
            let is_norm = name.to_lowercase().contains("norm");
            let scale = if shape.len() == 2 && !name.starts_with("emb") { 2.0 / (shape[1] as f32).sqrt() } else { 0.5 };
            let offset = if is_norm && name.ends_with("weight") { 1.0 } else { 0.0 };
            let values = values(shape.iter().product(), seed).iter().map(|x| x * scale + offset).collect();
            tensors.insert(name, (shape.to_vec(), values));
        };
        add("embeddings.word_embeddings.weight".into(), &[config.vocabulary, hidden]);
        add("embeddings.position_embeddings.weight".into(), &[config.positions, hidden]);
        if config.family != Family::DistilBert {
            add("embeddings.token_type_embeddings.weight".into(), &[config.token_types, hidden]);
        }
        add("embeddings.LayerNorm.weight".into(), &[hidden]);
        add("embeddings.LayerNorm.bias".into(), &[hidden]);
        let parts: [&str; 8] = match config.family {
            Family::DistilBert => [
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "ffn.lin1",
                "ffn.lin2",
                "sa_layer_norm",
                "output_layer_norm",
            ],
            _ => [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
                "attention.output.LayerNorm",
                "output.LayerNorm",
            ],
        };
        let layer_name = if config.family == Family::DistilBert { "transformer.layer" } else { "encoder.layer" };
        for layer in 0..layers {
            for (index, part) in parts.iter().enumerate() {
                let (outputs, inputs) = match index {
                    4 => (intermediate, Some(hidden)),
                    5 => (hidden, Some(intermediate)),
                    6 | 7 => (hidden, None),
                    _ => (hidden, Some(hidden)),
                };
                let weight: Vec<usize> = std::iter::once(outputs).chain(inputs).collect();
                add(format!("{layer_name}.{layer}.{part}.weight"), &weight);
                add(format!("{layer_name}.{layer}.{part}.bias"), &[outputs]);
            }
        }
        tensors
    }

    fn build(config: &BertConfig, kernels: (Kernels, Precision), threads: usize) -> PackedBert {
        let tensors = tensors(config);
        PackedBert::new(config, kernels, threads, |name| {
            tensors.get(name).cloned().ok_or_else(|| Error::config(format!("no tensor '{name}'")))
        })
        .unwrap()
    }

    /// The same encoder in plain f64 loops, for one sequence whose position numbers are given.
    fn exact(config: &BertConfig, ids: &[u32], types: &[u32], positions: &[u32]) -> Vec<f64> {
        let tensors = tensors(config);
        let Shape { hidden, heads, intermediate, layers, epsilon, .. } = config.shape;
        let get = |name: &str| tensors[name].1.as_slice();
        let mut states = Vec::new();
        for ((&id, &kind), &position) in ids.iter().zip(types).zip(positions) {
            for i in 0..hidden {
                let row = |table: &str, row: u32| {
                    f64::from(get(&format!("embeddings.{table}_embeddings.weight"))[row as usize * hidden + i])
                };
                let kind = if config.family == Family::DistilBert { 0.0 } else { row("token_type", kind) };
                states.push(row("word", id) + row("position", position) + kind);
            }
        }
        let norm = |rows: &mut [f64], name: &str| {
            let (gamma, beta) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
            exact_layer_norm(rows, gamma, beta, epsilon.into());
        };
        norm(&mut states, "embeddings.LayerNorm");
        let distil = config.family == Family::DistilBert;
        for layer in 0..layers {
            let name = |bert: &str, distilbert: &str| {
                if distil {
                    format!("transformer.layer.{layer}.{distilbert}")
                } else {
                    format!("encoder.layer.{layer}.{bert}")
                }
            };
            let product = |input: &[f64], name: String, depth: usize| {
                exact_product(input, get(&format!("{name}.weight")), get(&format!("{name}.bias")), depth)
            };
            let scale = 1.0 / ((hidden / heads) as f64).sqrt();
            let query = product(&states, name("attention.self.query", "attention.q_lin"), hidden);
            let key = product(&states, name("attention.self.key", "attention.k_lin"), hidden);
            let value = product(&states, name("attention.self.value", "attention.v_lin"), hidden);
            let mut projected = Vec::new();
            for row in 0..ids.len() {
                let row = row * hidden..(row + 1) * hidden;
                projected.extend(query[row.clone()].iter().map(|x| x * scale));
                projected.extend_from_slice(&key[row.clone()]);
                projected.extend_from_slice(&value[row]);
            }
            let context = exact_attention(&projected, heads, hidden / heads);
            let add = |states: &mut [f64], more: Vec<f64>| states.iter_mut().zip(more).for_each(|(x, y)| *x += y);
            add(&mut states, product(&context, name("attention.output.dense", "attention.out_lin"), hidden));
            norm(&mut states, &name("attention.output.LayerNorm", "sa_layer_norm"));
            let mut between = product(&states, name("intermediate.dense", "ffn.lin1"), hidden);
            between.iter_mut().for_each(|x| *x = exact_gelu(*x));
            add(&mut states, product(&between, name("output.dense", "ffn.lin2"), intermediate));
            norm(&mut states, &name("output.LayerNorm", "output_layer_norm"));
        }
        states
    }

    fn text(length: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
        let ids: Vec<u32> = values(length, seed).iter().map(|x| 2 + ((x + 1.0) * 24.0) as u32).collect();
        let types = ids.iter().map(|id| id % 2).collect();
        (ids, types)
    }

    fn batch(texts: &[(Vec<u32>, Vec<u32>)]) -> TokenBatch {
        let mut batch = TokenBatch::new();
        texts.iter().for_each(|(ids, types)| batch.push(ids, types));
        batch
    }

    #[test]
    fn every_family_matches_its_definition_in_f64() {
        for family in [Family::Bert, Family::Roberta { padding_id: 1 }, Family::DistilBert] {
            for (hidden, heads) in [(48, 3), (60, 4), (96, 3)] {
                let config = config(family, hidden, heads);
                for kernels in Kernels::available() {
                    let mut encoder = build(&config, (kernels, Precision::F32), 1);
                    for length in [1, 2, 9, 33, 64] {
                        let (mut ids, types) = text(length, 5);
                        let mut positions: Vec<u32> = (0..length as u32).collect();
                        if matches!(family, Family::Roberta { .. }) {
                            positions.iter_mut().for_each(|position| *position += 2);
                            if length > 5 {
                                // A padding token within the text.
                                ids[3] = 1;
                                positions[3] = 1;
                                positions[4..].iter_mut().for_each(|position| *position -= 1);
                            }
                        }
                        let exact = exact(&config, &ids, &types, &positions);
                        let got = encoder.forward(&batch(&[(ids, types)])).unwrap();
                        assert_eq!((got.width, got.values.len()), (hidden, length * hidden));
                        let error = got.values.iter().zip(&exact).map(|(&x, y)| (f64::from(x) - y).abs());
                        let error = error.fold(0.0, f64::max);
                        assert!(error < 1e-5, "{family:?} {hidden}/{heads} {kernels:?} {length}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_text_has_the_same_bits_alone_packed_and_with_any_number_of_threads() {
        let config = config(Family::Bert, 80, 2);
        let lengths = [7, 1, 40, 19, 2, 130, 33];
        let texts: Vec<_> = lengths.iter().zip(50..).map(|(&length, seed)| text(length, seed)).collect();
        for (kernels, precision) in Kernels::available().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it)))
        {
            let mut alone = build(&config, (kernels, precision), 1);
            let expected: Vec<_> =
                texts.iter().map(|text| alone.forward(&batch(std::slice::from_ref(text))).unwrap().values).collect();
            for threads in [1, 2, 3] {
                let mut encoder = alone.sibling(threads).unwrap();
                assert_eq!(encoder.threads(), threads);
                // All in one batch, in both orders, and each alone: few and many rows, so both schedules.
                let mut order: Vec<usize> = (0..texts.len()).collect();
                for _ in 0..2 {
                    let packed = batch(&order.iter().map(|&i| texts[i].clone()).collect::<Vec<_>>());
                    let states = encoder.forward(&packed).unwrap();
                    for (range, &i) in packed.ranges().zip(&order) {
                        assert_eq!(
                            states.rows(range),
                            expected[i],
                            "{kernels:?} {precision}, {threads} threads, text {i} packed"
                        );
                    }
                    order.reverse();
                }
                for (text, expected) in texts.iter().zip(&expected) {
                    let states = encoder.forward(&batch(std::slice::from_ref(text))).unwrap();
                    assert_eq!(
                        &states.values,
                        expected,
                        "{kernels:?} {precision}, {threads} threads, {} tokens",
                        text.0.len()
                    );
                }
            }
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let config = config(Family::Roberta { padding_id: 1 }, 48, 3);
        let mut encoder = build(&config, (Kernels::detect(), Precision::F32), 2);
        assert!(encoder.forward(&TokenBatch::new()).unwrap().values.is_empty());
        let empty_text = encoder.forward(&batch(&[text(0, 1), text(3, 1), text(0, 1)])).unwrap();
        assert_eq!(empty_text.values, encoder.forward(&batch(&[text(3, 1)])).unwrap().values);
        let error = encoder.forward(&batch(&[(vec![2, 50], vec![0, 0])])).unwrap_err();
        assert!(error.message().contains("50"), "{error}");
        assert!(encoder.forward(&batch(&[(vec![2, 3], vec![0, 2])])).is_err(), "an unknown token type");
        assert!(encoder.forward(&batch(&[text(138, 1)])).is_ok(), "positions 2 to 139");
        assert!(encoder.forward(&batch(&[text(139, 1)])).is_err(), "no position left");
    }

    #[test]
    fn weights_that_do_not_fit_are_errors_that_name_the_tensor() {
        let good = config(Family::Bert, 48, 3);
        let tensors = tensors(&good);
        let kernels = Kernels::with(InstructionSet::Portable).unwrap();
        let load = |config: &BertConfig, wrong: &str| {
            PackedBert::new(config, (kernels, Precision::F32), 1, |name| {
                let (mut shape, mut values) = tensors.get(name).cloned().ok_or_else(|| Error::config("missing"))?;
                if name == wrong {
                    shape.reverse();
                    values.pop();
                }
                Ok((shape, values))
            })
            .map(|_| ())
        };
        load(&good, "").unwrap();
        for name in tensors.keys() {
            assert!(load(&good, name).unwrap_err().message().contains(name.as_str()));
        }
        let changed = |change: &dyn Fn(&mut BertConfig)| {
            let mut config = good;
            change(&mut config);
            load(&config, "")
        };
        assert!(changed(&|config| config.shape.layers = 3).is_err());
        assert!(changed(&|config| config.shape.heads = 5).is_err());
        assert!(changed(&|config| config.shape.heads = 0).is_err());
        assert!(changed(&|config| config.shape.hidden = 0).is_err());
        assert!(changed(&|config| config.shape.intermediate = 7).is_err());
        assert!(changed(&|config| config.vocabulary = 51).is_err());
        assert!(changed(&|config| config.family = Family::DistilBert).is_err());
    }
}
