//! The CPU engine beside Candle, on the real weights: the same hidden states on every instruction set this CPU has.

use crate::support;

use serde_json::Value;
use support::{fixture, is_emulated, max_difference, model_dir, options};
use text2vec_engine::candle::plain::CandleEncoder;
use text2vec_engine::cpu::PackedEncoder;
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_engine::family::{self, Masks};
use text2vec_engine::weights::{Weights, weight_files};
use text2vec_kernel::{InstructionSet, Kernels, Precision, cores};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::tokenizer::TextTokenizer;

fn config() -> serde_json::Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(model_dir().join("config.json")).expect("config.json")).expect("JSON")
}

/// Every other golden text as a sequence of its own, of 2 to 512 tokens.
fn sequences() -> Vec<TokenBatch> {
    let tokenizer = TextTokenizer::load(&model_dir(), 512).expect("a tokenizer");
    let texts = fixture("minilm/texts.json");
    let texts = texts.as_array().expect("a list").iter().map(|entry| entry["text"].as_str().expect("text"));
    let batch = |text| {
        let tokens = tokenizer.encode(text).expect("tokens");
        let mut batch = TokenBatch::new();
        batch.push(&tokens.ids, &tokens.type_ids);
        batch
    };
    texts.step_by(2).filter(|text| !is_emulated() || text.len() < 700).map(batch).collect()
}

#[test]
fn hidden_states_are_those_of_candle_and_bits_do_not_depend_on_batch_or_threads() {
    let architecture = family::architecture("bert", &config(), Masks::AsConfigured).expect("a description");
    let weights = Weights::open(&weight_files(&model_dir()).expect("files"), architecture.anchor).expect("weights");
    let candle = CandleEncoder::new(&architecture, &candle_core::Device::Cpu, |name, _| weights.tensor(name));
    let mut candle = candle.expect("candle");
    let sequences = sequences();
    let expected: Vec<_> = sequences.iter().map(|batch| candle.forward(batch).expect("candle").values).collect();
    for (number, kernels) in Kernels::available().into_iter().enumerate() {
        let set = kernels.instruction_set();
        // All texts on the widest set; the portable kernels are an order of magnitude slower.
        let step = if set == InstructionSet::Portable {
            4
        } else if number == 0 {
            1
        } else {
            2
        };
        let compared = || sequences.iter().step_by(step);
        let mut packed = TokenBatch::new();
        compared().for_each(|batch| packed.push(batch.ids(), batch.type_ids()));
        let tensors = |name: &str, _: &[usize]| weights.tensor(name);
        let one = PackedEncoder::new(&architecture, (kernels, Precision::F32), 1, tensors);
        let mut one = one.expect("an encoder");
        let mut two = one.sibling(2).expect("two threads");
        let together = two.forward(&packed).expect("all packed");
        let mut worst = 0f64;
        for ((batch, expected), range) in compared().zip(expected.iter().step_by(step)).zip(packed.ranges()) {
            let alone = one.forward(batch).expect("alone").values;
            worst = worst.max(max_difference(&alone, expected));
            let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same(&alone, together.rows(range)), "{set}: packed on two threads, {} tokens", batch.tokens());
            let split = two.forward(batch).expect("on two threads").values;
            assert!(same(&alone, &split), "{set}: alone on two threads, {} tokens", batch.tokens());
        }
        println!("{set}: hidden states differ from Candle's by at most {worst:.2e}");
        assert!(worst <= 1e-5, "{set}: {worst}");
    }
}

#[tokio::test]
async fn the_engine_can_be_chosen() {
    let vector = async |engine| {
        let backend = LocalBackend::load(&LocalOptions { engine, ..options(Profile::Transformers) }).expect("it loads");
        let vector = backend.embed(Call::passage("The London Eye")).await.expect("the call").remove(0);
        (backend.engine().0, vector.expect("a vector").vector)
    };
    let (name, auto) = vector(Engine::Auto).await;
    let kernels = Kernels::fastest(Precision::F32, cores()).expect("a measurement");
    assert_eq!(name, kernels.engine(Precision::F32));
    // Every set this CPU has can be pinned, and says so.
    for kernels in Kernels::available() {
        let (name, other) = vector(Engine::Kernels(kernels.instruction_set())).await;
        assert_eq!(name, kernels.engine(Precision::F32));
        assert!(max_difference(&auto, &other) < 5e-6, "{name}");
    }
    for engine in ["portable", "candle", "candle-packed"] {
        let (name, other) = vector(engine.parse().expect("an engine")).await;
        assert_eq!(name, engine);
        assert!(max_difference(&auto, &other) < 5e-6);
    }
    assert!("sse".parse::<Engine>().is_err());
}
