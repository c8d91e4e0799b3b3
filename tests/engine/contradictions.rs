//! Models of today's families whose configuration contradicts itself, their weights, or what is supported: each is refused with
//! the file and the field.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions};

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name)
}

/// A copy of a family's model with one key of its configuration changed (`null` takes it away).
fn changed(name: &str, key: &str, value: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    copy(&family(name), dir.path());
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    config[key] = value;
    fs::write(path, config.to_string()).expect("write");
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("a model") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).expect("copy") }
    }
}

fn load(dir: &Path, engine: Engine) -> Result<(), String> {
    let options = LocalOptions { engine, ..LocalOptions::new(dir) };
    LocalBackend::load(&options).map(drop).map_err(|error| error.message().to_owned())
}

#[test]
fn each_is_refused_with_the_file_and_the_field() {
    // A family, a key, its value, and what the answer names.
    let cases: [(&str, &str, Value, &[&str]); 54] = [
        ("eurobert", "num_key_value_heads", json!(3), &["num_key_value_heads", "num_attention_heads"]),
        ("eurobert", "num_key_value_heads", json!(4), &["self_attn.k_proj.weight", "[16, 32]"]),
        ("eurobert", "head_dim", json!(7), &["7 columns"]),
        ("eurobert", "attention_bias", json!(true), &["attention_bias"]),
        ("eurobert", "mlp_bias", json!("no"), &["mlp_bias", "true or false"]),
        ("eurobert", "rope_theta", json!(-1), &["rope_theta", "greater than 0"]),
        ("eurobert", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), &["yarn", "linear"]),
        ("eurobert", "rope_scaling", json!("linear"), &["rope_scaling", "an object"]),
        ("eurobert", "hidden_act", json!("mish"), &["mish"]),
        ("eurobert", "num_hidden_layers", json!(4), &["layers.3."]),
        ("qwen3", "use_sliding_window", json!(true), &["use_sliding_window"]),
        ("qwen3", "head_dim", json!(16), &["self_attn.q_proj.weight", "[48, 32]"]),
        ("qwen3", "num_hidden_layers", json!(4_000_000_000u32), &["num_hidden_layers", "4000000000"]),
        ("qwen3", "head_dim", json!(4_000_000_000u32), &["4000000000 columns"]),
        ("qwen3", "vocab_size", json!(400), &["embed_tokens.weight", "[333, 32]"]),
        ("gemma3", "layer_types", json!(["full_attention"]), &["layer_types", "num_hidden_layers"]),
        ("gemma3", "layer_types", json!(["full_attention", "chunked_attention", "", ""]), &["layer_types", "chunked"]),
        ("gemma3", "head_dim", json!(4_000_000_000u32), &["4000000000 columns"]),
        ("gemma3", "sliding_window", json!(0), &["sliding_window", "positive"]),
        ("gemma3", "query_pre_attn_scalar", json!(0), &["query_pre_attn_scalar", "greater than 0"]),
        ("gemma3", "attn_logit_softcapping", json!(50.0), &["attn_logit_softcapping"]),
        ("gemma3", "use_bidirectional_attention", json!("all"), &["use_bidirectional_attention", "true or false"]),
        ("modernbert", "norm_bias", json!(true), &["norm.bias"]),
        ("modernbert", "layer_types", json!(["full_attention"]), &["layer_types"]),
        ("modernbert", "global_attn_every_n_layers", json!(0), &["global_attn_every_n_layers"]),
        ("nomic-bert", "prenorm", json!(true), &["prenorm"]),
        ("nomic-bert", "rotary_emb_interleaved", json!(true), &["rotary_emb_interleaved"]),
        ("nomic-bert", "rotary_emb_fraction", json!(0.1), &["0 columns"]),
        ("nomic-bert-moe", "moe_top_k", json!(5), &["moe_top_k", "num_experts"]),
        ("nomic-bert-moe", "num_experts", json!(3), &["mlp.router.layer.weight", "[4, 32]"]),
        ("nomic-bert-moe", "num_shared_experts", json!(1), &["num_shared_experts"]),
        ("gte", "layer_norm_type", json!("rms_norm"), &["layer_norm_type"]),
        ("gte", "logn_attention_scale", json!(true), &["logn_attention_scale"]),
        ("jina-v2", "num_attention_heads", json!(4_000_000_000u32), &["num_attention_heads"]),
        ("gte", "intermediate_size", json!(1_000_000_000), &["describes", "the files hold"]),
        ("qwen2", "use_sliding_window", json!(true), &["use_sliding_window"]),
        ("qwen2", "is_causal", json!("no"), &["is_causal", "true or false"]),
        ("qwen2", "num_key_value_heads", json!(4), &["self_attn.k_proj.weight"]),
        ("gemma3", "is_causal", json!(false), &["is_causal"]),
        ("mistral", "sliding_window", json!(-1), &["sliding_window", "positive"]),
        ("mistral", "layer_types", json!(vec!["sliding_attention"; 3]), &["layer_types"]),
        ("llama", "rope_scaling", llama3(json!({"low_freq_factor": 4.0})), &["low_freq_factor", "high_freq_factor"]),
        ("llama", "rope_scaling", llama3(json!({"factor": 0})), &["factor", "greater than 0"]),
        ("llama", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), &["llama3", "low_freq_factor"]),
        ("deberta-v2", "max_relative_positions", json!(5), &["position_buckets", "5"]),
        ("deberta-v2", "embedding_size", json!(16), &["embeddings.word_embeddings.weight", "[106, 16]"]),
        ("deberta-v2", "conv_kernel_size", json!(3), &["conv_kernel_size", "not supported"]),
        ("deberta-v2", "attention_head_size", json!(16), &["attention_head_size"]),
        ("deberta-v2", "pos_att_type", json!("p2c|p2p"), &["pos_att_type", "p2p"]),
        ("deberta-v2", "position_buckets", json!(1), &["position_buckets"]),
        ("deberta-v2", "position_buckets", json!(16), &["rel_embeddings.weight", "[32, 32]"]),
        ("deberta-v2", "max_position_embeddings", json!(4_000_000_000u32), &["max_position_embeddings"]),
        ("deberta-v2", "share_att_key", json!(false), &["pos_key_proj.weight"]),
        ("albert", "num_hidden_groups", json!(9), &["num_hidden_groups", "num_hidden_layers"]),
    ];
    let mut wrong = Vec::new();
    for (name, key, value, words) in cases {
        let dir = changed(name, key, value.clone());
        for engine in [Engine::Auto, Engine::Candle, Engine::CandlePacked] {
            let case = format!("{name}, {key} = {value}, {engine:?}");
            match std::panic::catch_unwind(|| load(dir.path(), engine)) {
                Err(_) => wrong.push(format!("{case}: a panic")),
                Ok(Ok(())) => wrong.push(format!("{case}: it loads")),
                Ok(Err(error)) => {
                    println!("{case}: {error}");
                    let names_file = error.contains(&*dir.path().to_string_lossy()) || error.contains("config.json");
                    if !names_file || words.iter().any(|word| !error.contains(word)) {
                        wrong.push(format!("{case}: not {words:?} in: {error}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rotary positions of Llama 3 with something else in them.
fn llama3(more: Value) -> Value {
    let mut scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    });
    scaling.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    scaling
}

/// Any number in any configuration: it loads, or says why not; it never panics, and never takes memory or time for what the file
/// only claims.
#[test]
fn no_number_is_too_absurd_to_be_read() {
    let absurd =
        [json!(0), json!(-1), json!(1), json!(1.5), json!(1e30), json!(u64::MAX), json!(4_294_967_295u32), json!(null)];
    let mut wrong = Vec::new();
    for name in [
        "eurobert",
        "qwen3",
        "gemma3",
        "modernbert",
        "nomic-bert-moe",
        "gte",
        "jina-v2",
        "albert",
        "electra",
        "mistral",
        "deberta-v2",
    ] {
        let config: Value =
            serde_json::from_slice(&fs::read(family(name).join("config.json")).expect("read")).expect("JSON");
        let numbers = config.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
        for (key, _) in numbers.filter(|(key, _)| !key.contains("drop") && !key.ends_with("token_id")) {
            for number in &absurd {
                let dir = changed(name, key, number.clone());
                let begun = Instant::now();
                if std::panic::catch_unwind(|| load(dir.path(), Engine::Auto).is_ok()).is_err() {
                    wrong.push(format!("{name}: {key} = {number}: a panic"));
                }
                // Milliseconds, or a table of billions of entries.
                if begun.elapsed() > Duration::from_secs(4) {
                    wrong.push(format!("{name}: {key} = {number}: {:?}", begun.elapsed()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not supported is named, with what is near to it and what to do.
#[test]
fn a_family_that_nobody_can_serve_is_named_with_what_is_near() {
    for (model_type, near) in [("phi3", "qwen3"), ("gemma3", "gemma3_text"), ("deberta", "deberta-v2"), ("mamba", "")] {
        let dir = changed("bert", "model_type", json!(model_type));
        let error = load(dir.path(), Engine::Auto).expect_err("not served");
        assert!(error.contains(&format!("'{model_type}'")) && error.contains(near), "{error}");
        assert!(error.contains("--upstream") && error.contains("nomic_bert"), "{error}");
    }
}
