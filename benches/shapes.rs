//! Every family in the sizes people run: time to load, milliseconds for 32 and 256 tokens, memory. Random weights, made on the fly.
//!
//! `cargo bench --bench shapes [-- NAME... --precision bf16]`; each shape runs in a process of its own, so that its memory is its
//! own. `benches/peers/shapes.py` runs it beside torch.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use text2vec_engine::cpu::PackedEncoder;
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_engine::family::parameters::NamedTensor;
use text2vec_engine::family::{self, Masks};
use text2vec_kernel::Result;
use text2vec_kernel::{Kernels, Precision};

/// The argument by which this program calls itself.
const ONE: &str = "--one-shape";

/// Name, model type, and what its `config.json` says; published models of that shape are named in the reference's README.
fn shapes() -> Vec<(&'static str, &'static str, Value)> {
    let bert = |vocabulary: usize, hidden: usize, heads: usize, layers: usize, positions: usize| {
        json!({
            "vocab_size": vocabulary, "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": 4 * hidden, "max_position_embeddings": positions, "pad_token_id": 1,
        })
    };
    let t5 = |hidden: usize, heads: usize, layers: usize, between: usize, feed_forward: &str| {
        json!({
            "vocab_size": 32128, "d_model": hidden, "d_kv": 64, "num_heads": heads, "num_layers": layers, "d_ff": between,
            "feed_forward_proj": feed_forward,
        })
    };
    let llama = |vocabulary: usize,
                 hidden: usize,
                 (heads, key_heads, size): (usize, usize, usize),
                 layers: usize,
                 between| {
        json!({
            "vocab_size": vocabulary, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": key_heads,
            "head_dim": size, "num_hidden_layers": layers, "intermediate_size": between,
        })
    };
    let mut gemma = llama(262_144, 768, (3, 1, 256), 24, 1152);
    gemma["sliding_window"] = json!(512);
    gemma["use_bidirectional_attention"] = json!(true);
    let modern = |vocabulary: usize, hidden: usize, heads: usize, layers: usize, between: usize| {
        json!({
            "vocab_size": vocabulary, "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": between, "local_attention": 128,
        })
    };
    let nomic = json!({
        "vocab_size": 30528, "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "activation_function": "swiglu",
        "rotary_emb_base": 1000, "type_vocab_size": 2, "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false,
    });
    let experts = json!({
        "vocab_size": 250_048, "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "activation_function": "gelu",
        "type_vocab_size": 1, "num_experts": 8, "moe_top_k": 2, "moe_every_n_layers": 2,
    });
    let mut gte = bert(250_048, 768, 12, 12, 8192);
    gte["rope_theta"] = json!(20_000);
    gte["rope_scaling"] = json!({"type": "ntk", "factor": 8.0});
    gte["type_vocab_size"] = json!(1);
    vec![
        ("MiniLM-L6", "bert", bert(30522, 384, 12, 6, 512)),
        ("MiniLM-L12", "bert", bert(30522, 384, 12, 12, 512)),
        ("multilingual-MiniLM-L12", "bert", bert(250_037, 384, 12, 12, 512)),
        ("distilbert-base", "distilbert", json!({})),
        ("bge-base", "bert", bert(30522, 768, 12, 12, 512)),
        ("bge-large", "bert", bert(30522, 1024, 16, 24, 512)),
        ("mpnet-base", "mpnet", bert(30527, 768, 12, 12, 514)),
        ("dpr", "dpr", json!({})),
        ("xlm-roberta-base", "xlm-roberta", bert(250_002, 768, 12, 12, 514)),
        ("bge-m3", "xlm-roberta", bert(250_002, 1024, 16, 24, 8194)),
        ("t5-base", "t5", t5(768, 12, 12, 3072, "relu")),
        ("t5-large", "t5", t5(1024, 16, 24, 4096, "relu")),
        ("flan-t5-base", "t5", t5(768, 12, 12, 2048, "gated-gelu")),
        ("flan-t5-large", "t5", t5(1024, 16, 24, 2816, "gated-gelu")),
        ("eurobert-210m", "eurobert", llama(128_256, 768, (12, 12, 64), 12, 3072)),
        ("qwen3-embedding-0.6b", "qwen3", llama(151_669, 1024, (16, 8, 128), 28, 3072)),
        ("qwen3-embedding-4b", "qwen3", llama(151_665, 2560, (32, 8, 128), 36, 9728)),
        ("embeddinggemma-300m", "gemma3_text", gemma),
        ("mmbert-small", "modernbert", modern(256_000, 384, 6, 22, 1152)),
        ("modernbert-base", "modernbert", modern(50_368, 768, 12, 22, 1152)),
        ("nomic-embed-v1.5", "nomic_bert", nomic),
        ("nomic-embed-v2-moe", "nomic_bert", experts),
        ("gte-multilingual-base", "new", gte),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, precision] = &arguments[..]
        && first == ONE
    {
        let shape = shapes().into_iter().find(|(known, ..)| known == name).expect("a shape of the list");
        let precision = precision.parse().expect("a precision");
        return run(shape, precision).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let after = |flag: &str| arguments.iter().skip_while(|argument| *argument != flag).nth(1).cloned();
    let precision = after("--precision").unwrap_or_else(|| "f32".to_owned());
    let wanted = |name: &str| {
        let mut named = arguments.iter().filter(|it| !it.starts_with('-') && **it != precision).peekable();
        named.peek().is_none() || named.any(|argument| argument == name)
    };
    let heads = ["MB packed", "load s", "ms, 32 tok.", "ms, 256", "RSS, MB", "peak, MB"];
    println!("{:<24} {}", format!("shape, {precision}"), heads.map(|head| format!("{head:>11}")).join(" "));
    for (name, ..) in shapes().iter().filter(|(name, ..)| wanted(name)) {
        let this = std::env::current_exe().expect("this program");
        let status = Command::new(this).args([ONE, name, &precision]).status().expect("a process");
        assert!(status.success(), "{name} failed");
    }
}

fn run((name, model_type, config): (&str, &str, Value), precision: Precision) -> Result<()> {
    let start = Instant::now();
    let config = config.as_object().expect("an object");
    let architecture = family::architecture(model_type, config, Masks::AsConfigured)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut encoder =
        PackedEncoder::new(&architecture, (Kernels::fastest(precision, threads)?, precision), threads, random)?;
    let load = start.elapsed().as_secs_f64();
    let mut milliseconds = |tokens: u32| -> Result<f64> {
        let mut batch = TokenBatch::new();
        let ids: Vec<u32> = (0..tokens).map(|i| 2 + i * 911 % 30_000).collect();
        batch.push(&ids, &vec![0; ids.len()]);
        let states = encoder.forward(&batch)?;
        assert!(states.values.iter().all(|value| value.is_finite()), "{name}: a value that is not finite");
        let mut times: Vec<f64> = (0..11)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(encoder.forward(&batch)).map(|_| start.elapsed().as_secs_f64() * 1e3)
            })
            .collect::<Result<_>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    };
    let (short, long) = (milliseconds(32)?, milliseconds(256)?);
    let megabytes = encoder.model().memory() / 1_000_000;
    let (now, peak) = (memory("VmRSS:") / 1000, memory("VmHWM:") / 1000);
    println!("{name:<24} {megabytes:>11} {load:>11.1} {short:>11.2} {long:>11.2} {now:>11} {peak:>11}");
    Ok(())
}

/// Small repeatable values, of a size at which states stay of a size.
fn random(name: &str, shape: &[usize]) -> Result<NamedTensor> {
    let (scale, offset) = match *shape {
        [_, inputs] if !name.contains("embed") => (1.0 / (inputs as f32).sqrt(), 0.0),
        [_, _] => (0.5, 0.0),
        _ => (0.1, if name.to_lowercase().contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 }),
    };
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ name.len() as u64;
    let mut value = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale + offset
    };
    Ok((shape.to_vec(), (0..shape.iter().product()).map(|_| value()).collect()))
}

/// Kilobytes of this process in memory: now (`VmRSS:`), or at most so far (`VmHWM:`).
fn memory(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
