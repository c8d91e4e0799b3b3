//! BERT and those made like it, with learned positions: tables or biases by distance.

use serde_json::Value;

use super::architecture::{
    Architecture, BiasSource, BlockNames, FeedForwardNames, Index, Linear, Projection, Table, biased, plain,
};
use super::config::{Config, activation};
use crate::error::{Error, Result};
use text2vec_kernel::{Activation, NormPlacement, Shape, Style};

pub(super) const WORDS: &[&str] = &["embeddings.word_embeddings.weight"];
const POSITIONS: &[&str] = &["embeddings.position_embeddings.weight"];
pub(super) const TOKEN_TYPES: &[&str] = &["embeddings.token_type_embeddings.weight"];

/// BERT's names of a block's layers.
pub(super) const BERT: BlockNames = BlockNames::new(
    "encoder.layer",
    (
        Projection::Separate([
            biased("attention.self.query"),
            biased("attention.self.key"),
            biased("attention.self.value"),
        ]),
        biased("attention.output.dense"),
    ),
    FeedForwardNames::Separate { up: biased("intermediate.dense"), gate: None, down: biased("output.dense") },
    ("attention.output.LayerNorm", "output.LayerNorm"),
);

/// Post-norm blocks over the norm of summed word, position and token type embeddings.
pub(super) fn bert(config: &Config<'_>) -> Result<Architecture> {
    config.absolute_positions()?;
    let tables = vec![
        Table { names: WORDS, rows: config.count("vocab_size", 30522)?, index: Index::Id },
        Table { names: POSITIONS, rows: config.count("max_position_embeddings", 512)?, index: Index::Position },
        Table { names: TOKEN_TYPES, rows: config.count("type_vocab_size", 2)?, index: Index::TokenType },
    ];
    Ok(Architecture {
        embedding_norm: Some("embeddings.LayerNorm"),
        ..Architecture::new(bert_shape(config)?, tables, BERT)
    })
}

/// BERT, without a projection of its output.
pub(super) fn dpr(config: &Config<'_>) -> Result<Architecture> {
    match config.0.get("projection_dim").and_then(Value::as_u64) {
        None | Some(0) => bert(config),
        Some(_) => Err(Error::unusable("config.json: DPR with a projection (projection_dim) is not supported")),
    }
}

/// BERT over narrower tables and a projection of their normed sum, where their width is not the hidden states'.
pub(super) fn electra(config: &Config<'_>) -> Result<Architecture> {
    let mut architecture = bert(config)?;
    architecture.shape.hidden = config.count("hidden_size", 256)?;
    architecture.shape.heads = config.heads("num_attention_heads", 4)?;
    architecture.shape.intermediate = config.count("intermediate_size", 1024)?;
    let width = config.count("embedding_size", 128)?;
    if width != architecture.shape.hidden {
        architecture.embedding_projection = Some((width, biased("embeddings_project")));
    }
    Ok(architecture)
}

/// BERT with one block, or a few, for all layers, over narrower tables and a projection of their normed sum.
pub(super) fn albert(config: &Config<'_>) -> Result<Architecture> {
    config.absolute_positions()?;
    let defaults = Shape {
        hidden: config.count("hidden_size", 4096)?,
        heads: config.heads("num_attention_heads", 64)?,
        intermediate: config.count("intermediate_size", 16384)?,
        activation: config.activation("hidden_act", "gelu_new")?,
        ..bert_shape(config)?
    };
    let (layers, groups) = (config.layers("num_hidden_layers", 12)?, config.layers("num_hidden_groups", 1)?);
    if groups > layers {
        return Err(Error::unusable(format!(
            "config.json: num_hidden_groups is {groups}, but num_hidden_layers {layers}"
        )));
    }
    if config.count("inner_group_num", 1)? != 1 {
        return Err(Error::unusable("config.json: inner_group_num is not 1, which is not supported"));
    }
    let tables = vec![
        Table { names: WORDS, rows: config.count("vocab_size", 30000)?, index: Index::Id },
        Table { names: POSITIONS, rows: config.count("max_position_embeddings", 512)?, index: Index::Position },
        Table { names: TOKEN_TYPES, rows: config.count("type_vocab_size", 2)?, index: Index::TokenType },
    ];
    // The block of a group is behind its number.
    const ATTENTION: [Linear; 4] = [
        biased("albert_layers.0.attention.query"),
        biased("albert_layers.0.attention.key"),
        biased("albert_layers.0.attention.value"),
        biased("albert_layers.0.attention.dense"),
    ];
    let [query, key, value, output] = ATTENTION;
    let names = BlockNames::new(
        "encoder.albert_layer_groups",
        (Projection::Separate([query, key, value]), output),
        FeedForwardNames::Separate {
            up: biased("albert_layers.0.ffn"),
            gate: None,
            down: biased("albert_layers.0.ffn_output"),
        },
        ("albert_layers.0.attention.LayerNorm", "albert_layers.0.full_layer_layer_norm"),
    );
    let projection = (config.count("embedding_size", 128)?, biased("encoder.embedding_hidden_mapping_in"));
    Ok(Architecture {
        embedding_norm: Some("embeddings.LayerNorm"),
        embedding_projection: Some(projection),
        // As transformers spreads layers over groups.
        order: (0..layers).map(|layer| layer * groups / layers).collect(),
        ..Architecture::new(Shape { layers: groups, ..defaults }, tables, names)
    })
}

/// BERT without token types, under names of its own.
pub(super) fn distilbert(config: &Config<'_>) -> Result<Architecture> {
    let shape = Shape {
        hidden: config.count("dim", 768)?,
        heads: config.heads("n_heads", 12)?,
        intermediate: config.count("hidden_dim", 3072)?,
        layers: config.layers("n_layers", 6)?,
        activation: config.activation("activation", "gelu")?,
        epsilon: 1e-12,
        style: Style::default(),
    };
    let tables = vec![
        Table { names: WORDS, rows: config.count("vocab_size", 30522)?, index: Index::Id },
        Table { names: POSITIONS, rows: config.count("max_position_embeddings", 512)?, index: Index::Position },
    ];
    let names = BlockNames::new(
        "transformer.layer",
        (
            Projection::Separate([biased("attention.q_lin"), biased("attention.k_lin"), biased("attention.v_lin")]),
            biased("attention.out_lin"),
        ),
        FeedForwardNames::Separate { up: biased("ffn.lin1"), gate: None, down: biased("ffn.lin2") },
        ("sa_layer_norm", "output_layer_norm"),
    );
    Ok(Architecture { embedding_norm: Some("embeddings.LayerNorm"), ..Architecture::new(shape, tables, names) })
}

/// BERT with positions that start behind the padding token's id: RoBERTa, XLM-RoBERTa and CamemBERT.
pub(super) fn roberta(config: &Config<'_>, vocabulary: usize) -> Result<Architecture> {
    let mut architecture = bert(config)?;
    architecture.tables[0].rows = config.count("vocab_size", vocabulary)?;
    architecture.tables[1].index = Index::PositionAfter { padding_id: config.id("pad_token_id", 1)? };
    Ok(architecture)
}

/// RoBERTa's positions and a bias by relative position as well, shared by all blocks; no token types.
pub(super) fn mpnet(config: &Config<'_>) -> Result<Architecture> {
    let positions = config.count("max_position_embeddings", 512)?;
    let tables = vec![
        Table { names: WORDS, rows: config.count("vocab_size", 30527)?, index: Index::Id },
        // MPNet's padding id is 1 whatever the configuration says (`MPNetEmbeddings`).
        Table { names: POSITIONS, rows: positions, index: Index::PositionAfter { padding_id: 1 } },
    ];
    let names = BlockNames {
        projection: Projection::Separate([
            biased("attention.attn.q"),
            biased("attention.attn.k"),
            biased("attention.attn.v"),
        ]),
        attention_output: biased("attention.attn.o"),
        attention_norm: "attention.LayerNorm",
        ..BERT
    };
    Ok(Architecture {
        embedding_norm: Some("embeddings.LayerNorm"),
        position_bias: Some(BiasSource::Table {
            name: "encoder.relative_attention_bias.weight",
            buckets: config.count("relative_attention_num_buckets", 32)?,
            max_distance: 128,
        }),
        ..Architecture::new(bert_shape(config)?, tables, names)
    })
}

/// T5's encoder, alone or out of the whole model: pre-norm blocks without biases, RMS norms, unscaled scores with a bias
/// by relative position (kept in the first block, used by all), no positions in the embedding.
pub(super) fn t5(config: &Config<'_>) -> Result<Architecture> {
    let feed_forward = config.word("feed_forward_proj", "relu");
    let gated = feed_forward.starts_with("gated-");
    let shape = Shape {
        hidden: config.count("d_model", 512)?,
        heads: config.heads("num_heads", 8)?,
        intermediate: config.count("d_ff", 2048)?,
        layers: config.layers("num_layers", 6)?,
        activation: match feed_forward {
            // As transformers' T5Config has it: here, and only here, GELU is the tanh form.
            "gated-gelu" => Activation::GeluTanh,
            other => activation(other.strip_prefix("gated-").unwrap_or(other))?,
        },
        epsilon: config.epsilon("layer_norm_epsilon", 1e-6)?,
        style: Style {
            placement: NormPlacement::Before,
            rms_norm: true,
            score_scale: Some(1.0),
            gated,
            head_size: Some(config.count("d_kv", 64)?),
            ..Style::default()
        },
    };
    let tables = vec![Table {
        names: &["shared.weight", "encoder.embed_tokens.weight"],
        rows: config.count("vocab_size", 32128)?,
        index: Index::Id,
    }];
    let names = BlockNames::new(
        "encoder.block",
        (
            Projection::Separate([
                plain("layer.0.SelfAttention.q"),
                plain("layer.0.SelfAttention.k"),
                plain("layer.0.SelfAttention.v"),
            ]),
            plain("layer.0.SelfAttention.o"),
        ),
        FeedForwardNames::Separate {
            up: plain(if gated { "layer.1.DenseReluDense.wi_0" } else { "layer.1.DenseReluDense.wi" }),
            gate: gated.then_some(plain("layer.1.DenseReluDense.wi_1")),
            down: plain("layer.1.DenseReluDense.wo"),
        },
        ("layer.0.layer_norm", "layer.1.layer_norm"),
    );
    Ok(Architecture {
        anchor: "encoder.final_layer_norm.weight",
        position_bias: Some(BiasSource::Table {
            name: "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            buckets: config.count("relative_attention_num_buckets", 32)?,
            max_distance: config.count("relative_attention_max_distance", 128)?,
        }),
        final_norm: Some("encoder.final_layer_norm"),
        ..Architecture::new(shape, tables, names)
    })
}

/// The sizes under BERT's keys.
pub(super) fn bert_shape(config: &Config<'_>) -> Result<Shape> {
    Ok(Shape {
        hidden: config.count("hidden_size", 768)?,
        heads: config.heads("num_attention_heads", 12)?,
        intermediate: config.count("intermediate_size", 3072)?,
        layers: config.layers("num_hidden_layers", 12)?,
        activation: config.activation("hidden_act", "gelu")?,
        epsilon: config.epsilon("layer_norm_eps", 1e-12)?,
        style: Style::default(),
    })
}
