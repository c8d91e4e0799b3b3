//! Models with a language model's body: RMS norms before, rotary positions, gated feed-forwards, grouped heads of keys.

use serde_json::Value;

use super::architecture::{
    Architecture, BlockNames, FeedForwardNames, HeadNormNames, Index, LayerAttention, NormTensors, Projection, Table,
    plain,
};
use super::config::Config;
use super::known::Masks;
use crate::error::{Error, Result};
use text2vec_kernel::{Mask, NormPlacement, Shape, Style};

/// Llama's names of a block's layers.
const LLAMA: BlockNames = BlockNames::new(
    "layers",
    (
        Projection::Separate([plain("self_attn.q_proj"), plain("self_attn.k_proj"), plain("self_attn.v_proj")]),
        plain("self_attn.o_proj"),
    ),
    FeedForwardNames::Separate {
        up: plain("mlp.gate_proj"),
        gate: Some(plain("mlp.up_proj")),
        down: plain("mlp.down_proj"),
    },
    ("input_layernorm", "post_attention_layernorm"),
);

/// Norms of each head of queries and keys.
const HEAD_NORMS: HeadNormNames =
    HeadNormNames { query: "self_attn.q_norm", key: "self_attn.k_norm", over_all_heads: false };

/// The sizes under Llama's keys; `head_size` is the width of a head where the file names none.
fn shape(config: &Config<'_>, activation: &'static str, head_size: Option<usize>) -> Result<Shape> {
    let (hidden, heads) = (config.count("hidden_size", 1024)?, config.heads("num_attention_heads", 16)?);
    let head_size = config.count("head_dim", head_size.unwrap_or(hidden / heads))?;
    let key_heads = config.heads("num_key_value_heads", heads)?;
    if !heads.is_multiple_of(key_heads) {
        return Err(Error::unusable(format!(
            "config.json: num_key_value_heads is {key_heads}, which does not divide num_attention_heads, {heads}"
        )));
    }
    Ok(Shape {
        hidden,
        heads,
        intermediate: config.count("intermediate_size", 3072)?,
        layers: config.layers("num_hidden_layers", 28)?,
        activation: config.activation(activation, "silu")?,
        epsilon: config.epsilon("rms_norm_eps", 1e-6),
        style: Style {
            placement: NormPlacement::Before,
            rms_norm: true,
            gated: true,
            head_size: Some(head_size),
            key_heads: Some(key_heads),
            ..Style::default()
        },
    })
}

/// Blocks over the table of tokens, and a norm at the end; all layers alike in positions and mask.
fn body(config: &Config<'_>, shape: Shape, base: f64, mask: Mask) -> Result<Architecture> {
    config.without(&["attention_bias", "mlp_bias"])?;
    let vocabulary = config.count("vocab_size", 32000)?;
    let tables = vec![Table { names: &["embed_tokens.weight"], rows: vocabulary, index: Index::Id }];
    Ok(Architecture {
        rotaries: vec![config.rotary(shape.head_size(), None, ("rope_theta", base))?],
        attention: vec![LayerAttention { mask, rotary: Some(0) }; shape.layers],
        final_norm: Some("norm"),
        ..Architecture::new(shape, tables, LLAMA)
    })
}

/// Llama's block, in which every token sees all.
pub(super) fn eurobert(config: &Config<'_>) -> Result<Architecture> {
    let shape = Shape { epsilon: config.epsilon("rms_norm_eps", 1e-5), ..shape(config, "hidden_act", None)? };
    body(config, shape, 250_000.0, Mask::FULL)
}

/// Llama's block with norms of each head of queries and keys; a token sees those before it.
pub(super) fn qwen3(config: &Config<'_>) -> Result<Architecture> {
    config.without(&["use_sliding_window"])?;
    let shape = shape(config, "hidden_act", Some(128))?;
    let architecture = body(config, shape, 1_000_000.0, Mask::CAUSAL)?;
    Ok(Architecture { names: BlockNames { head_norms: Some(HEAD_NORMS), ..LLAMA }, ..architecture })
}

/// Norms around, of which the tensors hold what is above 1, a table times √hidden, most layers with a window and a base of their
/// own.
///
/// With `use_bidirectional_attention` a token sees all, and in a window those at most half of `sliding_window` away. Otherwise,
/// and by [`Masks::AsTransformers4`], it sees those before it: in a window itself and the `sliding_window` - 1 before.
pub(super) fn gemma3(config: &Config<'_>, masks: Masks) -> Result<Architecture> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if config.0.get(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::unusable(format!("config.json: {key} is not supported")));
        }
    }
    config.without(&["attention_bias"])?;
    let mut shape = shape(config, "hidden_activation", Some(256))?;
    if config.0.get("hidden_activation").is_none_or(Value::is_null) {
        shape.activation = config.activation("hidden_activation", "gelu_pytorch_tanh")?;
    }
    shape.style.placement = NormPlacement::Around;
    shape.style.score_scale = Some((1.0 / config.number("query_pre_attn_scalar", 256.0)?.sqrt()) as f32);
    let is_bidirectional = masks == Masks::AsConfigured && config.flag("use_bidirectional_attention", false)?;
    let window = config.count("sliding_window", 4096)?;
    let (full, near) = match is_bidirectional {
        true => (Mask::FULL, Mask::around(window / 2)),
        false => (Mask::CAUSAL, Mask { before: window - 1, after: 0 }),
    };
    let has_window = windowed_layers(config, shape.layers)?;
    let vocabulary = config.count("vocab_size", 262_208)?;
    let tables = vec![Table { names: &["embed_tokens.weight"], rows: vocabulary, index: Index::Id }];
    let size = shape.head_size();
    let local = match config.object("rope_parameters")? {
        Some(_) => config.rotary(size, Some("sliding_attention"), ("rope_local_base_freq", 10_000.0))?,
        // A scaling is for the others.
        None => text2vec_kernel::Rotary::of_base(config.number("rope_local_base_freq", 10_000.0)?, size),
    };
    let attention = |&has_window: &bool| LayerAttention {
        mask: if has_window { near } else { full },
        rotary: Some(usize::from(has_window)),
    };
    Ok(Architecture {
        table_scale: (shape.hidden as f32).sqrt(),
        norms: NormTensors { one_and: true, ..NormTensors::default() },
        rotaries: vec![config.rotary(size, Some("full_attention"), ("rope_theta", 1_000_000.0))?, local],
        attention: has_window.iter().map(attention).collect(),
        final_norm: Some("norm"),
        ..Architecture::new(
            shape,
            tables,
            BlockNames {
                head_norms: Some(HEAD_NORMS),
                attention_output_norm: Some("post_attention_layernorm"),
                output_norm: "pre_feedforward_layernorm",
                feed_forward_norm: Some("post_feedforward_layernorm"),
                ..LLAMA
            },
        )
    })
}

/// Which layers have a window: `layer_types` says so, or all but every so many-th.
fn windowed_layers(config: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    let Some(kinds) = config.0.get("layer_types").filter(|kinds| !kinds.is_null()) else {
        let key = if config.0.contains_key("sliding_window_pattern") {
            "sliding_window_pattern"
        } else {
            "_sliding_window_pattern"
        };
        let every = config.count(key, 6)?;
        return Ok((1..=layers).map(|number| !number.is_multiple_of(every)).collect());
    };
    let windowed = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::unusable(format!("config.json: layer_types names {kind}, which is not supported"))),
    };
    let kinds: Vec<bool> = kinds.as_array().into_iter().flatten().map(windowed).collect::<Result<_>>()?;
    if kinds.len() != layers {
        return Err(Error::unusable(format!(
            "config.json: layer_types names {} layers, but num_hidden_layers is {layers}",
            kinds.len()
        )));
    }
    Ok(kinds)
}
