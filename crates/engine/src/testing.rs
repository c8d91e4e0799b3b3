//! Small random models of every family, for the executors' tests.

use std::collections::HashMap;

use serde_json::json;

use crate::encoder::TokenBatch;
use crate::error::{Error, Result};
use crate::family::architecture::Architecture;
use crate::family::parameters::{NamedTensor, Parameters};
use crate::family::{self, Masks};
use text2vec_kernel::testing::values;

/// A name for each family, and for kinds of one.
pub(crate) const FAMILIES: [&str; 22] = [
    "bert",
    "roberta",
    "distilbert",
    "mpnet",
    "t5",
    "gated t5",
    "albert",
    "electra",
    "modernbert",
    "nomic_bert",
    "nomic_bert with experts",
    "gte",
    "jina",
    "jina for code",
    "eurobert",
    "llama",
    "mistral",
    "qwen2",
    "bidirectional qwen2",
    "qwen3",
    "gemma3_text",
    "causal gemma3_text",
];

/// A small model of a family; every family reads its own keys.
pub(crate) fn architecture(family: &str, hidden: usize, heads: usize) -> Architecture {
    let between = 2 * hidden + 3;
    let mut config = json!({
        "vocab_size": 50, "type_vocab_size": 2, "max_position_embeddings": 140, "pad_token_id": 1,
        "hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": between, "num_hidden_layers": 2,
        "dim": hidden, "n_heads": heads, "hidden_dim": between, "n_layers": 2,
        "d_model": hidden, "num_heads": heads, "d_ff": between, "num_layers": 2, "d_kv": 20,
        "feed_forward_proj": if family == "gated t5" { "gated-gelu" } else { "relu" },
        "embedding_size": 20, "local_attention": 12, "rope_scaling": {"type": "linear", "factor": 2.0},
        "n_embd": hidden, "n_head": heads, "n_inner": between, "n_layer": 2, "activation_function": "swiglu",
        // A head's width of its own, and fewer heads of keys.
        "head_dim": 14, "num_key_value_heads": if heads.is_multiple_of(2) { heads / 2 } else { 1 },
        "query_pre_attn_scalar": 9, "sliding_window": 10, "sliding_window_pattern": 2,
        "use_bidirectional_attention": family == "gemma3_text",
    });
    let model_type = match family {
        "gated t5" => "t5",
        "nomic_bert with experts" => {
            config["activation_function"] = json!("gelu");
            config["num_experts"] = json!(3);
            config["moe_every_n_layers"] = json!(2);
            config["moe_top_k"] = json!(2);
            "nomic_bert"
        }
        "jina" | "jina for code" => {
            config["position_embedding_type"] = json!("alibi");
            "bert"
        }
        "causal gemma3_text" => "gemma3_text",
        "bidirectional qwen2" => {
            config["is_causal"] = json!(false);
            "qwen2"
        }
        "llama" => {
            let sizes = json!({"original_max_position_embeddings": 24, "low_freq_factor": 1, "high_freq_factor": 4});
            config["rope_scaling"] = sizes;
            config["rope_scaling"]["rope_type"] = json!("llama3");
            config["rope_scaling"]["factor"] = json!(8);
            "llama"
        }
        "gte" => {
            config["rope_scaling"] = json!({"type": "ntk", "factor": 8.0});
            "gte"
        }
        other => other,
    };
    let config = config.as_object().unwrap();
    let mut architecture = family::architecture(model_type, config, Masks::AsConfigured).unwrap();
    architecture.settle(|_| family == "jina for code");
    architecture
}

/// Random tensors, all that the architecture has.
pub(crate) fn tensors(architecture: &Architecture) -> HashMap<String, NamedTensor> {
    let mut tensors = HashMap::new();
    // Where 1 is added to what norms hold, they hold little.
    let gamma = if architecture.norms.one_and { 0.0 } else { 1.0 };
    let mut parameters = Parameters::new(architecture, |name, shape| {
        let (scale, offset) = match *shape {
            _ if name.contains("bias.weight") => (1.0, 0.0),
            [_, _] if name.contains("embed") || name.contains("shared") => (0.5, 0.0),
            // T5's scores are not scaled: its checkpoints have small queries instead.
            [_, inputs] if name.contains("SelfAttention.q") => (0.5 / (inputs as f32).sqrt(), 0.0),
            [_, inputs] => (2.0 / (inputs as f32).sqrt(), 0.0),
            _ => (0.5, if name.ends_with("weight") { gamma } else { 0.0 }),
        };
        let values = values(shape.iter().product(), 100 + tensors.len() as u64);
        let tensor = (shape.to_vec(), values.iter().map(|x| x * scale + offset).collect::<Vec<f32>>());
        tensors.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    });
    parameters.outer().unwrap();
    (0..architecture.shape.layers).for_each(|layer| drop(parameters.block(layer).unwrap()));
    tensors
}

/// Ids and token types of a sequence.
pub(crate) fn text(length: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let ids: Vec<u32> = values(length, seed).iter().map(|x| 2 + ((x + 1.0) * 24.0) as u32).collect();
    let types = ids.iter().map(|id| id % 2).collect();
    (ids, types)
}

/// These sequences in one batch.
pub(crate) fn batch(texts: &[(Vec<u32>, Vec<u32>)]) -> TokenBatch {
    let mut batch = TokenBatch::new();
    texts.iter().for_each(|(ids, types)| batch.push(ids, types));
    batch
}

/// What gives an executor a small model's tensors.
pub(crate) fn source(architecture: &Architecture) -> impl FnMut(&str, &[usize]) -> Result<NamedTensor> {
    let tensors = tensors(architecture);
    move |name, _| tensors.get(name).cloned().ok_or_else(|| Error::unusable(format!("no tensor '{name}'")))
}

/// The largest difference of two components.
pub(crate) fn worst(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max)
}

/// The cosine of two vectors.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
