//! The model families: one function each, from `config.json` to an [`Architecture`].
//!
//! To add a family, add its function and its line in [`architecture`]. Defaults are those of transformers' configuration
//! classes.

use serde_json::{Map, Value};

use super::architecture::{Architecture, BiasTable, BlockNames, Config, Index, Table, activation};
use crate::error::{Error, Result};
use text2vec_kernel::{Activation, Shape, Style};

/// The transformer that `config.json` describes, by its model type.
///
/// # Errors
/// `Unusable` for a model type that is not supported, and for a value that is of another kind or not supported.
pub fn architecture(model_type: &str, config: &Map<String, Value>) -> Result<Architecture> {
    let config = Config(config);
    match model_type {
        "bert" => bert(&config),
        "dpr" => dpr(&config),
        "distilbert" => distilbert(&config),
        "roberta" => roberta(&config, 50265),
        "xlm-roberta" | "camembert" => roberta(&config, 30522),
        "mpnet" => mpnet(&config),
        "t5" => t5(&config),
        other => Err(Error::unusable(format!(
            "the architecture '{other}' is not supported: supported are bert, distilbert, roberta, xlm-roberta, mpnet, \
             t5, dpr and model2vec"
        ))),
    }
}

const WORDS: &[&str] = &["embeddings.word_embeddings.weight"];
const POSITIONS: &[&str] = &["embeddings.position_embeddings.weight"];
const TOKEN_TYPES: &[&str] = &["embeddings.token_type_embeddings.weight"];

/// Post-norm blocks over the norm of summed word, position and token type embeddings.
fn bert(config: &Config<'_>) -> Result<Architecture> {
    config.absolute_positions()?;
    Ok(Architecture {
        shape: bert_shape(config)?,
        anchor: WORDS[0],
        tables: vec![
            Table { names: WORDS, rows: config.count("vocab_size", 30522)?, index: Index::Id },
            Table { names: POSITIONS, rows: config.count("max_position_embeddings", 512)?, index: Index::Position },
            Table { names: TOKEN_TYPES, rows: config.count("type_vocab_size", 2)?, index: Index::TokenType },
        ],
        embedding_norm: Some("embeddings.LayerNorm"),
        names: BlockNames {
            layers: "encoder.layer",
            attention: ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
            attention_norm: "attention.output.LayerNorm",
            up: "intermediate.dense",
            gate: "",
            down: "output.dense",
            output_norm: "output.LayerNorm",
            biases: true,
        },
        position_bias: None,
        final_norm: None,
    })
}

/// BERT, without a projection of its output.
fn dpr(config: &Config<'_>) -> Result<Architecture> {
    match config.0.get("projection_dim").and_then(Value::as_u64) {
        None | Some(0) => bert(config),
        Some(_) => Err(Error::unusable("config.json: DPR with a projection (projection_dim) is not supported")),
    }
}

/// BERT without token types, under names of its own.
fn distilbert(config: &Config<'_>) -> Result<Architecture> {
    Ok(Architecture {
        shape: Shape {
            hidden: config.count("dim", 768)?,
            heads: config.count("n_heads", 12)?,
            intermediate: config.count("hidden_dim", 3072)?,
            layers: config.count("n_layers", 6)?,
            activation: config.activation("activation", "gelu")?,
            epsilon: 1e-12,
            style: Style::default(),
        },
        anchor: WORDS[0],
        tables: vec![
            Table { names: WORDS, rows: config.count("vocab_size", 30522)?, index: Index::Id },
            Table { names: POSITIONS, rows: config.count("max_position_embeddings", 512)?, index: Index::Position },
        ],
        embedding_norm: Some("embeddings.LayerNorm"),
        names: BlockNames {
            layers: "transformer.layer",
            attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
            attention_norm: "sa_layer_norm",
            up: "ffn.lin1",
            gate: "",
            down: "ffn.lin2",
            output_norm: "output_layer_norm",
            biases: true,
        },
        position_bias: None,
        final_norm: None,
    })
}

/// BERT with positions that start behind the padding token's id: RoBERTa, XLM-RoBERTa and CamemBERT.
fn roberta(config: &Config<'_>, vocabulary: usize) -> Result<Architecture> {
    let mut architecture = bert(config)?;
    architecture.tables[0].rows = config.count("vocab_size", vocabulary)?;
    architecture.tables[1].index = Index::PositionAfter { padding_id: config.id("pad_token_id", 1)? };
    Ok(architecture)
}

/// RoBERTa's positions and a bias by relative position as well, shared by all blocks; no token types.
fn mpnet(config: &Config<'_>) -> Result<Architecture> {
    let positions = config.count("max_position_embeddings", 512)?;
    Ok(Architecture {
        shape: bert_shape(config)?,
        anchor: WORDS[0],
        tables: vec![
            Table { names: WORDS, rows: config.count("vocab_size", 30527)?, index: Index::Id },
            // MPNet's padding id is 1 whatever the configuration says (`MPNetEmbeddings`).
            Table { names: POSITIONS, rows: positions, index: Index::PositionAfter { padding_id: 1 } },
        ],
        embedding_norm: Some("embeddings.LayerNorm"),
        names: BlockNames {
            layers: "encoder.layer",
            attention: ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"],
            attention_norm: "attention.LayerNorm",
            up: "intermediate.dense",
            gate: "",
            down: "output.dense",
            output_norm: "output.LayerNorm",
            biases: true,
        },
        position_bias: Some(BiasTable {
            name: "encoder.relative_attention_bias.weight",
            buckets: config.count("relative_attention_num_buckets", 32)?,
            max_distance: 128,
        }),
        final_norm: None,
    })
}

/// T5's encoder, alone or out of the whole model: pre-norm blocks without biases, RMS norms, unscaled scores with a bias
/// by relative position (kept in the first block, used by all), no positions in the embedding.
fn t5(config: &Config<'_>) -> Result<Architecture> {
    let feed_forward = config.word("feed_forward_proj", "relu");
    let gated = feed_forward.starts_with("gated-");
    Ok(Architecture {
        shape: Shape {
            hidden: config.count("d_model", 512)?,
            heads: config.count("num_heads", 8)?,
            intermediate: config.count("d_ff", 2048)?,
            layers: config.count("num_layers", 6)?,
            activation: match feed_forward {
                // As transformers' T5Config has it: here, and only here, GELU is the tanh form.
                "gated-gelu" => Activation::GeluTanh,
                other => activation(other.strip_prefix("gated-").unwrap_or(other))?,
            },
            epsilon: config.epsilon("layer_norm_epsilon", 1e-6),
            style: Style {
                pre_norm: true,
                rms_norm: true,
                unscaled: true,
                gated,
                head_size: Some(config.count("d_kv", 64)?),
            },
        },
        anchor: "encoder.final_layer_norm.weight",
        tables: vec![Table {
            names: &["shared.weight", "encoder.embed_tokens.weight"],
            rows: config.count("vocab_size", 32128)?,
            index: Index::Id,
        }],
        embedding_norm: None,
        names: BlockNames {
            layers: "encoder.block",
            attention: [
                "layer.0.SelfAttention.q",
                "layer.0.SelfAttention.k",
                "layer.0.SelfAttention.v",
                "layer.0.SelfAttention.o",
            ],
            attention_norm: "layer.0.layer_norm",
            up: if gated { "layer.1.DenseReluDense.wi_0" } else { "layer.1.DenseReluDense.wi" },
            gate: "layer.1.DenseReluDense.wi_1",
            down: "layer.1.DenseReluDense.wo",
            output_norm: "layer.1.layer_norm",
            biases: false,
        },
        position_bias: Some(BiasTable {
            name: "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            buckets: config.count("relative_attention_num_buckets", 32)?,
            max_distance: config.count("relative_attention_max_distance", 128)?,
        }),
        final_norm: Some("encoder.final_layer_norm"),
    })
}

/// The sizes under BERT's keys.
fn bert_shape(config: &Config<'_>) -> Result<Shape> {
    Ok(Shape {
        hidden: config.count("hidden_size", 768)?,
        heads: config.count("num_attention_heads", 12)?,
        intermediate: config.count("intermediate_size", 3072)?,
        layers: config.count("num_hidden_layers", 12)?,
        activation: config.activation("hidden_act", "gelu")?,
        epsilon: config.epsilon("layer_norm_eps", 1e-12),
        style: Style::default(),
    })
}
