//! Quantised ONNX graphs: bit for bit what ONNX Runtime 1.22 makes of them. `fixtures/onnx/make.py` made the tiny ones.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{fixture, floats};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::encoder::{Encoder, TokenBatch};
use text2vec_sidecar::backend::local::kernel::Kernels;
use text2vec_sidecar::backend::local::onnx::OnnxEncoder;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::contract::request::{EmbedRequest, Profile};

const MODELS: [&str; 3] = ["bert-u8", "bert-s8", "xlm-roberta-u8"];

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
}

fn graph(name: &str) -> Vec<u8> {
    std::fs::read(dir(name).join("model_quantized.onnx")).expect("the graph")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn ids(entry: &Value) -> Vec<u32> {
    entry["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn hidden_states_have_the_bits_of_the_original() {
    for model in MODELS {
        let golden = fixture(&format!("onnx/{model}/golden.json"));
        let results = golden["results"].as_array().expect("results");
        assert!(results.len() >= 12);
        for kernels in Kernels::available() {
            for threads in [1, 2, 3] {
                let mut encoder = OnnxEncoder::from_bytes(&graph(model), kernels, threads).expect(model);
                let mut together = TokenBatch::new();
                let mut alone = Vec::new();
                for entry in results {
                    let ids = ids(entry);
                    let types = vec![0; ids.len()];
                    let mut batch = TokenBatch::new();
                    batch.push(&ids, &types);
                    together.push(&ids, &types);
                    let states = encoder.forward(&batch).expect("states");
                    let want: Vec<f32> = floats(&entry["first_state"]);
                    assert_eq!(states.rows(0..1), want, "{model} {kernels:?} {threads} threads: {}", entry["text"]);
                    alone.extend(states.values);
                }
                assert_eq!(encoder.forward(&together).expect("states").values, alone, "{model}: neighbours matter");
            }
        }
    }
}

#[tokio::test]
async fn a_directory_of_an_onnx_image_is_served_as_the_reference_does() {
    for model in MODELS {
        let backend = LocalBackend::load(&LocalOptions::new(dir(model))).expect("the model loads");
        assert_eq!(backend.profile(), (Profile::Onnx, "the marker file onnx_runtime"));
        assert_eq!(backend.meta()["sidecar"]["precision"], "int8 (onnx)");
        let golden = fixture(&format!("onnx/{model}/golden.json"));
        for entry in golden["results"].as_array().expect("results") {
            let request = EmbedRequest::passage(entry["text"].as_str().expect("text"));
            let vector = backend.embed(vec![request]).await.expect("the call").remove(0).expect("a vector").vector;
            let cosine = cosine(&vector, &floats(&entry["vector"]));
            assert!(cosine > 0.999_999_9, "{model}: {cosine} for {}", entry["text"]);
        }
    }
}
