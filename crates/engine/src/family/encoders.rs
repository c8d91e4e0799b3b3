//! Encoders with rotary positions or slopes in place of a table of positions, and gated feed-forwards: ModernBERT, NomicBERT,
//! GTE, JinaBERT.

use serde_json::Value;

use super::architecture::{
    Architecture, BiasSource, BlockNames, ExpertNames, FeedForwardNames, Half, HeadNormNames, Index, LayerAttention,
    Linear, NormTensors, Projection, Table, biased, plain,
};
use super::bert::{BERT, TOKEN_TYPES, WORDS, bert_shape};
use super::config::{Config, unscaled};
use crate::error::{Error, Result};
use text2vec_kernel::{Activation, ExpertShape, MOST_EXPERTS, Mask, NormPlacement, Shape, Style};

/// Norms before, without beta; none before the first attention, as the embedding has just been normed. Every third layer sees
/// all, the others a window, each with a base of its own.
pub(super) fn modernbert(config: &Config<'_>) -> Result<Architecture> {
    let shape = Shape {
        hidden: config.count("hidden_size", 768)?,
        heads: config.heads("num_attention_heads", 12)?,
        intermediate: config.count("intermediate_size", 1152)?,
        layers: config.layers("num_hidden_layers", 22)?,
        activation: config.activation("hidden_activation", "gelu")?,
        epsilon: config.epsilon("norm_eps", 1e-5)?,
        style: Style { placement: NormPlacement::Before, gated: true, ..Style::default() },
    };
    let linear = |name, key| Ok::<_, Error>(Linear { name, biased: config.flag(key, false)? });
    let tables = vec![Table {
        names: &["embeddings.tok_embeddings.weight"],
        rows: config.count("vocab_size", 50368)?,
        index: Index::Id,
    }];
    let names = BlockNames {
        attention_norm_from: 1,
        ..BlockNames::new(
            "layers",
            (Projection::Fused(linear("attn.Wqkv", "attention_bias")?), linear("attn.Wo", "attention_bias")?),
            FeedForwardNames::Fused {
                both: linear("mlp.Wi", "mlp_bias")?,
                activated: Half::First,
                down: linear("mlp.Wo", "mlp_bias")?,
            },
            ("attn_norm", "mlp_norm"),
        )
    };
    let size = shape.head_size();
    let global = config.rotary(size, Some("full_attention"), ("global_rope_theta", 160_000.0))?;
    // One that is there and null is the global one.
    let local_base = match config.0.get("local_rope_theta") {
        Some(Value::Null) => config.number("global_rope_theta", 160_000.0)?,
        _ => 10_000.0,
    };
    let local = config.rotary(size, Some("sliding_attention"), ("local_rope_theta", local_base))?;
    let near = Mask::around(config.count("local_attention", 128)? / 2);
    let attention = |&has_window: &bool| match has_window {
        true => LayerAttention { mask: near, rotary: Some(1) },
        false => LayerAttention { mask: Mask::FULL, rotary: Some(0) },
    };
    Ok(Architecture {
        embedding_norm: Some("embeddings.norm"),
        norms: NormTensors { without_beta: !config.flag("norm_bias", false)?, one_and: false },
        rotaries: vec![global, local],
        attention: windowed_layers(config, shape.layers)?.iter().map(attention).collect(),
        final_norm: Some("final_norm"),
        ..Architecture::new(shape, tables, names)
    })
}

/// Which of ModernBERT's layers have a window: `layer_types` says so, or all but every so many-th from the first on.
fn windowed_layers(config: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    match config.windowed_layers(layers)? {
        Some(windowed) => Ok(windowed),
        None => {
            let every = config.count("global_attn_every_n_layers", 3)?;
            Ok((0..layers).map(|layer| !layer.is_multiple_of(every)).collect())
        }
    }
}

/// BERT's order of norms with rotary positions; feed-forwards are gated, or some of them mixtures of experts.
pub(super) fn nomic_bert(config: &Config<'_>) -> Result<Architecture> {
    config.without(&[
        "prenorm",
        "use_rms_norm",
        "parallel_block",
        "rotary_emb_interleaved",
        "causal",
        "expert_choice_router",
    ])?;
    config.without(&["moe_normalize_expert_weights", "scale_attn_by_inverse_layer_idx"])?;
    if config.0.get("num_shared_experts").and_then(Value::as_u64).is_some_and(|count| count > 0) {
        return Err(Error::unusable("config.json: num_shared_experts is not supported"));
    }
    let (activation, gated) = match config.word("activation_function", "gelu") {
        "swiglu" => (Activation::Silu, true),
        "geglu" => (Activation::Gelu, true),
        _ => (config.activation("activation_function", "gelu")?, false),
    };
    if config.0.get("n_embd").is_none_or(Value::is_null) {
        return Err(Error::unusable(
            "config.json names no n_embd: NomicBERT is served from files as its repositories have them",
        ));
    }
    let hidden = config.count("n_embd", 768)?;
    let experts = match config.count_or_none("num_experts")? {
        Some(count) if config.count_or_none("moe_every_n_layers")?.is_some() => Some(ExpertShape {
            count,
            taken: config.count("moe_top_k", 1)?,
            every: config.count("moe_every_n_layers", 1)?,
        }),
        _ => None,
    };
    match experts {
        Some(ExpertShape { count, taken, .. }) if taken > count => {
            return Err(Error::unusable(format!("config.json: moe_top_k is {taken}, but num_experts {count}")));
        }
        Some(ExpertShape { count, .. }) if count > MOST_EXPERTS => {
            return Err(Error::unusable(format!(
                "config.json: num_experts is {count}, but {MOST_EXPERTS} is the most"
            )));
        }
        Some(_) if gated => {
            return Err(Error::unusable("config.json: activation_function is gated, which experts are not here"));
        }
        _ => {}
    }
    let shape = Shape {
        hidden,
        heads: config.heads("n_head", 12)?,
        intermediate: config.count("n_inner", 4 * hidden)?,
        layers: config.layers("n_layer", 12)?,
        activation,
        epsilon: config.epsilon("layer_norm_epsilon", 1e-5)?,
        style: Style { gated, experts, ..Style::default() },
    };
    let linear = |name, key| Ok::<_, Error>(Linear { name, biased: config.flag(key, true)? });
    let down = linear("mlp.fc2", "mlp_fc2_bias")?;
    let feed_forward = match gated {
        true => FeedForwardNames::Separate {
            up: linear("mlp.fc12", "mlp_fc1_bias")?,
            gate: Some(linear("mlp.fc11", "mlp_fc1_bias")?),
            down,
        },
        false => FeedForwardNames::Separate { up: linear("mlp.fc1", "mlp_fc1_bias")?, gate: None, down },
    };
    let attention = (
        Projection::Fused(linear("attn.Wqkv", "qkv_proj_bias")?),
        // Its bias comes and goes with that of the projection.
        linear("attn.out_proj", "qkv_proj_bias")?,
    );
    let names = BlockNames {
        experts: experts.map(|_| ExpertNames {
            router: "mlp.router.layer.weight",
            up: "mlp.experts.mlp.w1",
            down: "mlp.experts.mlp.w2",
            bias: "mlp.experts.bias",
        }),
        ..BlockNames::new("encoder.layers", attention, feed_forward, ("norm1", "norm2"))
    };
    let fraction = config.number("rotary_emb_fraction", 1.0)?;
    let columns = (shape.head_size() as f64 * fraction.min(1.0)) as usize;
    let base = config.number("rotary_emb_base", 10_000.0)?;
    Ok(Architecture {
        embedding_norm: Some("emb_ln"),
        rotaries: vec![unscaled(base, columns)?],
        attention: vec![LayerAttention { mask: Mask::FULL, rotary: Some(0) }; shape.layers],
        // Beyond what it was trained on, frequencies depend on a sequence's length.
        most_tokens: match config.0.get("rotary_scaling_factor").and_then(Value::as_f64) {
            Some(factor) if factor != 0.0 => Some(config.count("max_trained_positions", 2048)?),
            _ => None,
        },
        ..Architecture::new(shape, words_and_types(config, 30528, 2)?, names)
    })
}

/// A table of words, and one of token types where there are any.
fn words_and_types(config: &Config<'_>, words: usize, types: usize) -> Result<Vec<Table>> {
    let mut tables = vec![Table { names: WORDS, rows: config.count("vocab_size", words)?, index: Index::Id }];
    let types = match config.0.get("type_vocab_size") {
        None | Some(Value::Null) => Some(types),
        Some(_) => config.count_or_none("type_vocab_size")?,
    };
    tables.extend(types.map(|rows| Table { names: TOKEN_TYPES, rows, index: Index::TokenType }));
    Ok(tables)
}

/// BERT's order of norms with rotary positions and gated feed-forwards.
pub(super) fn gte(config: &Config<'_>) -> Result<Architecture> {
    config.without(&["logn_attention_scale"])?;
    if config.word("layer_norm_type", "layer_norm") != "layer_norm" {
        return Err(Error::unusable("config.json: layer_norm_type is not layer_norm, which is not supported"));
    }
    if config.word("position_embedding_type", "rope") != "rope" {
        return Err(Error::unusable("config.json: position_embedding_type is not rope, which is not supported"));
    }
    let mut shape = bert_shape(config)?;
    shape.style.gated = true;
    const OUTPUT: Linear = biased("attention.o_proj");
    let names = |projection| {
        BlockNames::new(
            "encoder.layer",
            (projection, OUTPUT),
            FeedForwardNames::Fused {
                both: plain("mlp.up_gate_proj"),
                activated: Half::Second,
                down: biased("mlp.down_proj"),
            },
            ("attn_ln", "mlp_ln"),
        )
    };
    let separate = [biased("attention.q_proj"), biased("attention.k_proj"), biased("attention.v_proj")];
    Ok(Architecture {
        embedding_norm: Some("embeddings.LayerNorm"),
        variants: vec![("encoder.layer.0.attention.q_proj.weight", names(Projection::Separate(separate)))],
        rotaries: vec![config.rotary(shape.head_size(), None, ("rope_theta", 10_000.0))?],
        attention: vec![LayerAttention { mask: Mask::FULL, rotary: Some(0) }; shape.layers],
        ..Architecture::new(
            shape,
            words_and_types(config, 30528, 1)?,
            names(Projection::Fused(biased("attention.qkv_proj"))),
        )
    })
}

/// BERT with slopes in place of positions (ALiBi) and gated feed-forwards; the models for code have norms of queries and keys
/// besides, and one more after attention.
pub(super) fn jina_v2(config: &Config<'_>) -> Result<Architecture> {
    let mut shape = bert_shape(config)?;
    shape.style.gated = true;
    shape.activation = match config.word("feed_forward_type", "geglu") {
        "geglu" => Activation::Gelu,
        "reglu" => Activation::Relu,
        other => {
            return Err(Error::unusable(format!("config.json: the feed_forward_type '{other}' is not supported")));
        }
    };
    let names = BlockNames {
        feed_forward: FeedForwardNames::Fused {
            both: plain("mlp.gated_layers"),
            activated: Half::First,
            down: biased("mlp.wo"),
        },
        output_norm: "mlp.layernorm",
        ..BERT
    };
    let for_code = BlockNames {
        head_norms: Some(HeadNormNames {
            query: "attention.self.layer_norm_q",
            key: "attention.self.layer_norm_k",
            over_all_heads: true,
        }),
        attention_second_norm: Some("layer_norm_1"),
        feed_forward: FeedForwardNames::Fused {
            both: plain("mlp.up_gated_layer"),
            activated: Half::Second,
            down: biased("mlp.down_layer"),
        },
        output_norm: "layer_norm_2",
        ..BERT
    };
    Ok(Architecture {
        embedding_norm: Some("embeddings.LayerNorm"),
        position_bias: Some(BiasSource::Alibi),
        variants: vec![("encoder.layer.0.mlp.up_gated_layer.weight", for_code)],
        ..Architecture::new(shape, words_and_types(config, 30522, 2)?, names)
    })
}
