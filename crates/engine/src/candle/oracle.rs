//! Our families beside candle-transformers' own, by others' hands, from one `config.json` and the same tensors.

use std::collections::HashMap;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{jina_bert, modernbert, nomic_bert, qwen2, qwen3};
use serde_json::{Value, json};
use text2vec_kernel::{Kernels, Precision};

use crate::cpu::PackedEncoder;
use crate::encoder::Encoder;
use crate::family::{self, Masks};
use crate::testing::{batch, tensors, text};

/// Lengths of texts: one token, less and more than a window.
const LENGTHS: [usize; 4] = [1, 5, 13, 40];

/// Computes states of ids, `[1, tokens]`.
type Forward = Box<dyn FnMut(&Tensor) -> candle_core::Result<Tensor>>;

/// The largest difference of any state, relative to the largest state. `prefix` stands before the library's names of tensors.
fn difference(
    model_type: &str,
    config: &Value,
    prefix: &str,
    library: impl FnOnce(VarBuilder<'_>, Value) -> candle_core::Result<Forward>,
) -> f32 {
    let keys = config.as_object().expect("an object");
    let mut architecture = family::architecture(model_type, keys, Masks::AsConfigured).expect("a family");
    architecture.settle(|_| false);
    let tensors = tensors(&architecture);
    let ours = |name: &str, _: &[usize]| Ok(tensors[name].clone());
    let mut ours = PackedEncoder::new(&architecture, (Kernels::detect(), Precision::F32), 1, ours).expect("an encoder");
    let theirs: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).expect("a tensor");
            (format!("{prefix}{name}"), tensor)
        })
        .collect();
    let theirs = VarBuilder::from_tensors(theirs, DType::F32, &Device::Cpu);
    let mut theirs = library(theirs, config.clone()).expect("a model of the library");
    let mut largest = (0.0f32, 0.0f32);
    for length in LENGTHS {
        let (ids, _) = text(length, 3 + length as u64);
        let one = batch(&[(ids.clone(), vec![0; length])]);
        let states = ours.forward(&one).expect("states").values;
        let ids = Tensor::new(ids, &Device::Cpu).expect("ids").unsqueeze(0).expect("a row");
        let expected = theirs(&ids).expect("states").flatten_all().expect("rows").to_vec1::<f32>().expect("numbers");
        assert_eq!(states.len(), expected.len(), "{model_type}");
        for (ours, theirs) in states.iter().zip(&expected) {
            assert!(ours.is_finite() && theirs.is_finite(), "{model_type}: {ours} and {theirs}");
            largest = (largest.0.max((ours - theirs).abs()), largest.1.max(theirs.abs()));
        }
    }
    largest.0 / largest.1
}

fn read<T: serde::de::DeserializeOwned>(config: Value) -> candle_core::Result<T> {
    serde_json::from_value(config).map_err(candle_core::Error::wrap)
}

/// What all configurations of language models say here.
fn language_model(more: Value) -> Value {
    let mut config = json!({
        "vocab_size": 60, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 64, "max_window_layers": 3,
        "tie_word_embeddings": true, "rope_theta": 500.0, "rms_norm_eps": 1e-5, "use_sliding_window": false,
        "hidden_act": "silu",
    });
    let more = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(more);
    config
}

#[test]
fn qwen2_is_candle_transformers() {
    let found = difference("qwen2", &language_model(json!({})), "model.", |tensors, config| {
        let mut model = qwen2::Model::new(&read(config)?, tensors)?;
        Ok(Box::new(move |ids| {
            model.clear_kv_cache();
            model.forward(ids, 0, None)
        }))
    });
    assert!(found < 2e-6, "{found}");
}

#[test]
fn qwen3_is_candle_transformers() {
    let config = language_model(json!({"head_dim": 16, "attention_bias": false}));
    let found = difference("qwen3", &config, "model.", |tensors, config| {
        let config: qwen3::Config = read(config)?;
        // What it keeps of one text would be seen by the next.
        let model = qwen3::Model::new(&config, tensors)?;
        Ok(Box::new(move |ids| model.clone().forward(ids, 0)))
    });
    assert!(found < 2e-6, "{found}");
}

#[test]
fn modernbert_is_candle_transformers() {
    let config = json!({
        "vocab_size": 60, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "norm_eps": 1e-5, "pad_token_id": 1,
        "global_attn_every_n_layers": 3, "global_rope_theta": 9000.0, "local_attention": 8, "local_rope_theta": 100.0,
        "hidden_activation": "gelu",
    });
    let found = difference("modernbert", &config, "model.", |tensors, config| {
        let model = modernbert::ModernBert::load(tensors, &read(config)?)?;
        Ok(Box::new(move |ids| model.forward(ids, &ids.ones_like()?)))
    });
    assert!(found < 2e-6, "{found}");
}

#[test]
fn nomic_bert_is_candle_transformers() {
    let config = json!({
        "vocab_size": 60, "n_embd": 48, "n_head": 4, "n_layer": 2, "n_inner": 96, "n_positions": 64, "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-6, "rotary_emb_base": 1000.0, "rotary_emb_fraction": 1.0, "activation_function": "swiglu",
        "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false,
    });
    let found = difference("nomic_bert", &config, "", |tensors, config| {
        let model = nomic_bert::NomicBertModel::load(tensors, &read(config)?)?;
        Ok(Box::new(move |ids| model.forward(ids, None, None)))
    });
    assert!(found < 2e-6, "{found}");
}

#[test]
fn jina_bert_is_candle_transformers() {
    let config = json!({
        "vocab_size": 60, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 96,
        "hidden_act": "gelu", "max_position_embeddings": 64, "type_vocab_size": 2, "initializer_range": 0.02,
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "alibi", "feed_forward_type": "geglu",
    });
    let found = difference("bert", &config, "", |tensors, config| {
        let model = jina_bert::BertModel::new(tensors, &read(config)?)?;
        Ok(Box::new(move |ids| model.forward(ids)))
    });
    assert!(found < 2e-6, "{found}");
}
