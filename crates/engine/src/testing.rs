//! Small random models of every family, for the executors' tests.

use std::collections::HashMap;

use serde_json::json;

use crate::encoder::TokenBatch;
use crate::family;
use crate::family::architecture::{Architecture, NamedTensor, Parameters};
use text2vec_kernel::testing::values;

/// A name for each family, and for T5's two kinds.
pub(crate) const FAMILIES: [&str; 6] = ["bert", "roberta", "distilbert", "mpnet", "t5", "gated t5"];

/// A small model of a family; every family reads its own keys.
pub(crate) fn architecture(family: &str, hidden: usize, heads: usize) -> Architecture {
    let between = 2 * hidden + 3;
    let config = json!({
        "vocab_size": 50, "max_position_embeddings": 140, "pad_token_id": 1,
        "hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": between, "num_hidden_layers": 2,
        "dim": hidden, "n_heads": heads, "hidden_dim": between, "n_layers": 2,
        "d_model": hidden, "num_heads": heads, "d_ff": between, "num_layers": 2, "d_kv": 20,
        "feed_forward_proj": if family == "gated t5" { "gated-gelu" } else { "relu" },
    });
    let model_type = family.trim_start_matches("gated ");
    family::architecture(model_type, config.as_object().unwrap()).unwrap()
}

/// Random tensors, all that the architecture has.
pub(crate) fn tensors(architecture: &Architecture) -> HashMap<String, NamedTensor> {
    let mut tensors = HashMap::new();
    let mut parameters = Parameters::new(architecture, |name, shape| {
        let (scale, offset) = match *shape {
            _ if name.contains("bias.weight") => (1.0, 0.0),
            _ if name.contains("embed") || name.contains("shared") => (0.5, 0.0),
            // T5's scores are not scaled: its checkpoints have small queries instead.
            [_, inputs] if name.contains("SelfAttention.q") => (0.5 / (inputs as f32).sqrt(), 0.0),
            [_, inputs] => (2.0 / (inputs as f32).sqrt(), 0.0),
            _ => (0.5, if name.ends_with("weight") { 1.0 } else { 0.0 }),
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
