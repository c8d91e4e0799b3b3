//! The precisions beside f32, on the real weights: how far their vectors are off, and that nothing else moves them.

use crate::support;

use std::path::Path;

use serde_json::Value;
use support::{is_emulated, model_dir, options};
use text2vec_engine::cpu::PackedEncoder;
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_engine::family::{self, Masks};
use text2vec_engine::pooling;
use text2vec_engine::pooling::PoolingMode;
use text2vec_engine::weights::{Weights, weight_files};
use text2vec_kernel::{InstructionSet, Kernels};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions, Precision};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::tokenizer::TextTokenizer;

/// The first passages of the corpus, each as a sequence of its own.
fn passages(count: usize) -> Vec<TokenBatch> {
    let tokenizer = TextTokenizer::load(&model_dir(), 256).expect("a tokenizer");
    let corpus = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/corpus.jsonl"));
    let sequence = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let tokens = tokenizer.encode(entry["text"].as_str().expect("a text")).expect("tokens");
        let mut batch = TokenBatch::new();
        batch.push(&tokens.ids, &tokens.type_ids);
        batch
    };
    corpus.expect("the corpus").lines().take(count).map(sequence).collect()
}

fn encoder(kernels: Kernels, precision: Precision) -> PackedEncoder {
    let config = std::fs::read_to_string(model_dir().join("config.json")).expect("config.json");
    let architecture =
        family::architecture("bert", &serde_json::from_str(&config).expect("JSON"), Masks::AsConfigured).expect("BERT");
    let weights = Weights::open(&weight_files(&model_dir()).expect("files"), architecture.anchor).expect("weights");
    let tensors = |name: &str, _: &[usize]| weights.tensor(name);
    PackedEncoder::new(&architecture, (kernels, precision), 1, tensors).expect("an encoder")
}

/// Mean pooled vectors of length 1.
fn vectors(encoder: &mut PackedEncoder, passages: &[TokenBatch]) -> Vec<Vec<f32>> {
    let vector = |batch: &TokenBatch| {
        let states = encoder.forward(batch).expect("states");
        let mut vector = pooling::pool(&states.values, states.width, PoolingMode::Mean);
        let norm = support::norm(&vector) as f32;
        vector.iter_mut().for_each(|value| *value /= norm);
        vector
    };
    passages.iter().map(vector).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / (support::norm(a) * support::norm(b))
}

/// The ten nearest others of each vector.
fn nearest(vectors: &[Vec<f32>]) -> Vec<Vec<usize>> {
    let mut cosines = vec![vec![0f64; vectors.len()]; vectors.len()];
    for (index, vector) in vectors.iter().enumerate() {
        for (other, another) in vectors.iter().enumerate().skip(index + 1) {
            let found = cosine(vector, another);
            (cosines[index][other], cosines[other][index]) = (found, found);
        }
    }
    let of = |(index, cosines): (usize, &Vec<f64>)| {
        let mut others: Vec<usize> = (0..cosines.len()).filter(|&other| other != index).collect();
        others.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
        others.truncate(10);
        others
    };
    cosines.iter().enumerate().map(of).collect()
}

/// Run with `--nocapture` to see the figures.
#[test]
fn vectors_are_close_to_those_of_f32() {
    let count = if is_emulated() { 20 } else { 200 };
    let all = passages(count);
    // The portable kernels are much slower; their products are compared with the others' in unit tests.
    let sets = Kernels::available().into_iter().filter(|kernels| kernels.instruction_set() != InstructionSet::Portable);
    for (number, kernels) in sets.enumerate() {
        let set = kernels.instruction_set();
        // All passages on the widest set; the others round by the same code.
        let passages = &all[..if number == 0 { count } else { 20 }];
        let exact = vectors(&mut encoder(kernels, Precision::F32), passages);
        let exact_nearest = nearest(&exact);
        for (precision, mean_bar, least_bar) in [
            (Precision::Bf16x3, 0.999_999_99, 0.999_999_99),
            (Precision::F16, 0.999_999, 0.999_999),
            (Precision::Bf16, 0.9999, 0.9999),
            (Precision::Int8, 0.998, 0.996),
        ] {
            let got = vectors(&mut encoder(kernels, precision), passages);
            let cosines: Vec<f64> = got.iter().zip(&exact).map(|(a, b)| cosine(a, b)).collect();
            let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
            let least = cosines.iter().copied().fold(f64::INFINITY, f64::min);
            let got_nearest = nearest(&got);
            let kept = got_nearest.iter().zip(&exact_nearest).map(|(a, b)| a.iter().filter(|i| b.contains(i)).count());
            let overlap = kept.sum::<usize>() as f64 / (10 * got.len()) as f64;
            let apart = got.iter().zip(&exact).map(|(a, b)| support::max_difference(a, b)).fold(0.0, f64::max);
            println!(
                "{set} {precision}: cosine mean {mean:.7} min {least:.7}, top-10 overlap {overlap:.4}, differences up to \
                 {apart:.1e}"
            );
            if precision == Precision::Bf16x3 {
                assert!(apart <= 4e-6, "{set}: {apart:e} of the norm");
            }
            assert!(mean >= mean_bar && least >= least_bar, "{set} {precision}: mean {mean}, min {least}");
            assert!(overlap > 0.9, "{set} {precision}: {overlap}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_or_threads_in_any_precision() {
    let passages = passages(if is_emulated() { 4 } else { 16 });
    for (number, kernels) in Kernels::available().into_iter().enumerate() {
        let set = kernels.instruction_set();
        let step = if set == InstructionSet::Portable {
            13
        } else if number == 0 {
            1
        } else {
            3
        };
        let compared = || passages.iter().step_by(step);
        let mut packed = TokenBatch::new();
        compared().for_each(|batch| packed.push(batch.ids(), batch.type_ids()));
        for precision in [Precision::Bf16x3, Precision::F16, Precision::Bf16, Precision::Int8] {
            let mut one = encoder(kernels, precision);
            let mut two = one.sibling(2).expect("two threads");
            let together = two.forward(&packed).expect("all packed");
            for (batch, range) in compared().zip(packed.ranges()) {
                let alone = one.forward(batch).expect("alone").values;
                let split = two.forward(batch).expect("on two threads").values;
                let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same(&alone, together.rows(range)), "{set} {precision}: packed, {} tokens", batch.tokens());
                assert!(same(&alone, &split), "{set} {precision}: two threads, {} tokens", batch.tokens());
            }
        }
    }
}

#[test]
fn the_precision_is_part_of_the_fingerprint_and_candle_has_f32_only() {
    let load =
        |precision, engine| LocalBackend::load(&LocalOptions { precision, engine, ..options(Profile::Transformers) });
    let mut fingerprints = Vec::new();
    for precision in Precision::ALL {
        let backend = load(precision, Engine::Auto).expect("it loads");
        assert_eq!(backend.meta().to_json()["sidecar"]["precision"], precision.name());
        fingerprints.push(backend.info().fingerprint.clone());
    }
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), Precision::ALL.len());
    let Err(error) = load(Precision::Int8, Engine::Candle) else { panic!("candle took int8") };
    assert!(error.message().contains("--precision int8"), "{error}");
}
