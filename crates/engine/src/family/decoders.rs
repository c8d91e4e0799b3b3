//! Models with a language model's body: RMS norms before, rotary positions, gated feed-forwards, grouped heads of keys.

use super::architecture::{
    Architecture, BlockNames, FeedForwardNames, HeadNormNames, Index, LayerAttention, Masks, NormTensors, Projection,
    Table, biased, plain,
};
use super::config::{Config, unscaled};
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

/// The same where queries, keys and values have a bias.
const WITH_BIASES: BlockNames = BlockNames {
    projection: Projection::Separate([
        biased("self_attn.q_proj"),
        biased("self_attn.k_proj"),
        biased("self_attn.v_proj"),
    ]),
    ..LLAMA
};

/// Norms of each head of queries and keys.
const HEAD_NORMS: HeadNormNames =
    HeadNormNames { query: "self_attn.q_norm", key: "self_attn.k_norm", over_all_heads: false };

/// What a family has where its file names nothing, by transformers' configuration classes.
struct Defaults {
    vocabulary: usize,
    hidden: usize,
    /// Of queries, and of keys where they are fewer.
    heads: (usize, Option<usize>),
    /// Width of a head, where it does not follow from the others.
    head_size: Option<usize>,
    intermediate: usize,
    layers: usize,
    activation: (&'static str, &'static str),
    epsilon: f64,
    /// Of the rotary positions.
    base: f64,
}

/// The sizes under Llama's keys.
fn shape(config: &Config<'_>, defaults: &Defaults) -> Result<Shape> {
    let hidden = config.count("hidden_size", defaults.hidden)?;
    let heads = config.heads("num_attention_heads", defaults.heads.0)?;
    let key_heads = config.heads("num_key_value_heads", defaults.heads.1.unwrap_or(heads))?;
    if !heads.is_multiple_of(key_heads) {
        return Err(Error::unusable(format!(
            "config.json: num_key_value_heads is {key_heads}, which does not divide num_attention_heads, {heads}"
        )));
    }
    let (key, activation) = defaults.activation;
    Ok(Shape {
        hidden,
        heads,
        intermediate: config.count("intermediate_size", defaults.intermediate)?,
        layers: config.layers("num_hidden_layers", defaults.layers)?,
        activation: config.activation(key, activation)?,
        epsilon: config.epsilon("rms_norm_eps", defaults.epsilon)?,
        style: Style {
            placement: NormPlacement::Before,
            rms_norm: true,
            gated: true,
            head_size: Some(config.count("head_dim", defaults.head_size.unwrap_or(hidden / heads).max(1))?),
            key_heads: Some(key_heads),
            ..Style::default()
        },
    })
}

/// The table of tokens.
fn tokens(config: &Config<'_>, defaults: &Defaults) -> Result<Vec<Table>> {
    let rows = config.count("vocab_size", defaults.vocabulary)?;
    Ok(vec![Table { names: &["embed_tokens.weight"], rows, index: Index::Id }])
}

/// Blocks over the table of tokens, and a norm at the end; all layers alike in positions and mask.
fn body(config: &Config<'_>, defaults: &Defaults, mask: Mask) -> Result<Architecture> {
    config.without(&["attention_bias", "mlp_bias"])?;
    let shape = shape(config, defaults)?;
    if config.windowed_layers(shape.layers)?.is_some_and(|windowed| windowed.contains(&true)) {
        return Err(Error::unusable("config.json: layer_types names sliding_attention, which is not supported"));
    }
    Ok(Architecture {
        rotaries: vec![config.rotary(shape.head_size(), None, ("rope_theta", defaults.base))?],
        attention: vec![LayerAttention { mask, rotary: Some(0) }; shape.layers],
        final_norm: Some("norm"),
        ..Architecture::new(shape, tokens(config, defaults)?, LLAMA)
    })
}

/// Llama's block, in which every token sees all.
pub(super) fn eurobert(config: &Config<'_>) -> Result<Architecture> {
    let defaults = Defaults {
        vocabulary: 128_256,
        hidden: 768,
        heads: (12, None),
        intermediate: 3072,
        layers: 12,
        epsilon: 1e-5,
        base: 250_000.0,
        ..LLAMA_DEFAULTS
    };
    body(config, &defaults, Mask::FULL)
}

/// Whether a token sees those before it only. Language models do, unless `is_causal` says no: so transformers reads it from
/// version 5 on, and not before.
fn is_causal(config: &Config<'_>, masks: Masks) -> Result<bool> {
    Ok(masks == Masks::AsTransformers4 || config.flag("is_causal", true)?)
}

/// The mask of all layers of a language model.
fn mask(config: &Config<'_>, masks: Masks) -> Result<Mask> {
    Ok(if is_causal(config, masks)? { Mask::CAUSAL } else { Mask::FULL })
}

/// Llama's, which are Mistral's too but for what is named there.
const LLAMA_DEFAULTS: Defaults = Defaults {
    vocabulary: 32_000,
    hidden: 4096,
    heads: (32, None),
    head_size: None,
    intermediate: 11_008,
    layers: 32,
    activation: ("hidden_act", "silu"),
    epsilon: 1e-6,
    base: 10_000.0,
};

/// Llama's own block; a token sees those before it.
pub(super) fn llama(config: &Config<'_>, masks: Masks) -> Result<Architecture> {
    body(config, &LLAMA_DEFAULTS, mask(config, masks)?)
}

/// Llama's block in which a token sees those before it that are in the window, if there is one.
///
/// Where `is_causal` says no, it sees `sliding_window` tokens on either side, itself not counted.
pub(super) fn mistral(config: &Config<'_>, masks: Masks) -> Result<Architecture> {
    let defaults = Defaults { heads: (32, Some(8)), intermediate: 14_336, ..LLAMA_DEFAULTS };
    let window = match config.0.contains_key("sliding_window") {
        true => config.count_or_none("sliding_window")?,
        false => Some(4096),
    };
    let mask = match (is_causal(config, masks)?, window) {
        (true, Some(window)) => Mask { before: window - 1, after: 0 },
        (false, Some(window)) => Mask::around(window),
        (true, None) => Mask::CAUSAL,
        (false, None) => Mask::FULL,
    };
    body(config, &defaults, mask)
}

/// Llama's block with biases of queries, keys and values; a token sees those before it.
pub(super) fn qwen2(config: &Config<'_>, masks: Masks) -> Result<Architecture> {
    let architecture = qwen(config, &Defaults { head_size: None, ..QWEN_DEFAULTS }, masks)?;
    Ok(Architecture { names: WITH_BIASES, ..architecture })
}

/// Llama's block with norms of each head of queries and keys; a token sees those before it.
pub(super) fn qwen3(config: &Config<'_>, masks: Masks) -> Result<Architecture> {
    let architecture = qwen(config, &QWEN_DEFAULTS, masks)?;
    Ok(Architecture { names: BlockNames { head_norms: Some(HEAD_NORMS), ..LLAMA }, ..architecture })
}

/// Qwen3's, which are Qwen2's too but for the heads' width.
const QWEN_DEFAULTS: Defaults = Defaults {
    vocabulary: 151_936,
    hidden: 4096,
    heads: (32, Some(32)),
    head_size: Some(128),
    intermediate: 22016,
    layers: 32,
    activation: ("hidden_act", "silu"),
    epsilon: 1e-6,
    base: 10_000.0,
};

fn qwen(config: &Config<'_>, defaults: &Defaults, masks: Masks) -> Result<Architecture> {
    config.without(&["use_sliding_window"])?;
    body(config, defaults, mask(config, masks)?)
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
    if !is_causal(config, masks)? {
        return Err(Error::unusable("config.json: is_causal is false, which is not supported for gemma3_text"));
    }
    let defaults = Defaults {
        vocabulary: 262_208,
        hidden: 2304,
        heads: (8, Some(4)),
        head_size: Some(256),
        intermediate: 9216,
        layers: 26,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        epsilon: 1e-6,
        base: 1_000_000.0,
    };
    let mut shape = shape(config, &defaults)?;
    shape.style.placement = NormPlacement::Around;
    shape.style.score_scale = Some((1.0 / config.number("query_pre_attn_scalar", 256.0)?.sqrt()) as f32);
    let is_bidirectional = masks == Masks::AsConfigured && config.flag("use_bidirectional_attention", false)?;
    let window = config.count("sliding_window", 4096)?;
    let (full, near) = match is_bidirectional {
        true => (Mask::FULL, Mask::around(window / 2)),
        false => (Mask::CAUSAL, Mask { before: window - 1, after: 0 }),
    };
    let has_window = windowed_layers(config, shape.layers)?;
    let size = shape.head_size();
    let local = match config.object("rope_parameters")? {
        Some(_) => config.rotary(size, Some("sliding_attention"), ("rope_local_base_freq", 10_000.0))?,
        // A scaling is for the others.
        None => unscaled(config.number("rope_local_base_freq", 10_000.0)?, size)?,
    };
    let attention = |&has_window: &bool| LayerAttention {
        mask: if has_window { near } else { full },
        rotary: Some(usize::from(has_window)),
    };
    Ok(Architecture {
        table_scale: (shape.hidden as f32).sqrt(),
        norms: NormTensors { one_and: true, ..NormTensors::default() },
        rotaries: vec![config.rotary(size, Some("full_attention"), ("rope_theta", defaults.base))?, local],
        attention: has_window.iter().map(attention).collect(),
        final_norm: Some("norm"),
        ..Architecture::new(
            shape,
            tokens(config, &defaults)?,
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
    if let Some(windowed) = config.windowed_layers(layers)? {
        return Ok(windowed);
    }
    let key = match config.0.contains_key("sliding_window_pattern") {
        true => "sliding_window_pattern",
        false => "_sliding_window_pattern",
    };
    let every = config.count(key, 6)?;
    Ok((1..=layers).map(|number| !number.is_multiple_of(every)).collect())
}
