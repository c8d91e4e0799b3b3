//! Cross-encoders of every family that has a head, with the scores of sentence-transformers' `CrossEncoder`, which
//! `fixtures/rerankers/make.py` asked for.

use crate::support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use support::fixture;
use text2vec_kernel::Precision;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Engine, Inference, LocalBackend, LocalOptions, chosen};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::ErrorKind;
use text2vec_sidecar::model::modules::ModelDescription;
use text2vec_sidecar::model::tokenizer::{PairRules, TextTokenizer};

/// max |difference| to the CrossEncoder, of logits and of scores.
const TOLERANCE: f64 = 1e-5;

fn dir(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rerankers").join(model)
}

fn load(options: &LocalOptions) -> LocalBackend {
    let inference = Arc::new(Inference::start(Some(2), DEFAULT_WAITING_TOKENS).expect("two threads"));
    LocalBackend::load_beside(options, inference).unwrap_or_else(|error| panic!("{}: {error}", options.dir.display()))
}

fn pairs() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pairs = fixture("rerankers/pairs.json");
    pairs.as_array().expect("a list").iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn golden() -> Vec<(String, Value)> {
    let golden = fixture("rerankers/golden.json");
    golden.as_object().expect("models").clone().into_iter().collect()
}

/// Calls of the documents of each query, with the pairs' numbers.
fn calls(pairs: &[(String, String)]) -> Vec<(Vec<usize>, Call)> {
    let mut calls: Vec<(&str, Vec<usize>)> = Vec::new();
    for (number, (query, _)) in pairs.iter().enumerate() {
        match calls.iter_mut().find(|(other, _)| other == query) {
            Some((_, numbers)) => numbers.push(number),
            None => calls.push((query, vec![number])),
        }
    }
    let call = |(query, numbers): (&str, Vec<usize>)| {
        let call = Call::pairs(query, numbers.iter().map(|&number| pairs[number].1.as_str()));
        (numbers, call)
    };
    calls.into_iter().map(call).collect()
}

fn crc32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    !bytes.into_iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn token_ids_and_types_are_those_of_transformers() {
    let pairs = pairs();
    assert!(pairs.len() >= 30);
    for (model, golden) in golden() {
        let description = ModelDescription::read(&dir(&model), &dir(&model)).expect("a description");
        let rules = PairRules::read(&description.dir, &description.config, false).expect("a configuration");
        let tokenizer = TextTokenizer::load(&dir(&model), 512).and_then(|it| it.for_pairs(rules)).expect("a tokenizer");
        for (number, (query, document)) in pairs.iter().enumerate() {
            let tokens = tokenizer.pair(&tokenizer.query(query).expect("a query"), document).expect("tokens");
            let ids = crc32(tokens.ids.iter().flat_map(|id| id.to_le_bytes()));
            assert_eq!(golden["lengths"][number], tokens.ids.len(), "{model} {number}");
            assert_eq!(golden["ids"][number], ids, "{model} {number}");
            let sum: u32 = tokens.type_ids.iter().sum();
            // Of a model without a table of types, transformers has some all the same.
            let is_told = ["bert", "electra", "albert"].iter().any(|family| model.starts_with(family));
            assert!(!is_told || golden["types"][number] == sum, "{model} {number}");
        }
    }
}

/// Each query's documents in one call, on our kernels and on Candle's operations as on a GPU, and each pair alone.
#[tokio::test]
async fn scores_are_those_of_the_cross_encoder() {
    let pairs = pairs();
    for (model, golden) in golden() {
        for engine in [Engine::Auto, Engine::CandlePacked] {
            if engine == Engine::CandlePacked && (support::is_emulated() || model.starts_with("deberta")) {
                continue;
            }
            let backend = load(&LocalOptions { engine, ..LocalOptions::new(dir(&model)) });
            assert_eq!(backend.profile().0, Profile::CrossEncoder, "{model}");
            let scoring = backend.info().scoring.clone().expect("a reranker");
            let mut worst = 0f64;
            for (numbers, call) in calls(&pairs) {
                let answers = backend.embed(call.clone()).await.expect("the call");
                for (at, (number, answer)) in numbers.into_iter().zip(answers).enumerate() {
                    let logits = answer.expect("logits").vector;
                    let floats =
                        |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).expect("numbers") };
                    let (expected, scores) = (floats(&golden["logits"][number]), floats(&golden["scores"][number]));
                    assert_eq!(logits.len(), expected.len());
                    for (&logit, (expected, score)) in logits.iter().zip(expected.iter().zip(scores)) {
                        let activated = f64::from(scoring.activation.apply(logit));
                        worst = worst.max((f64::from(logit) - expected).abs()).max((activated - score).abs());
                    }
                    if engine == Engine::Auto && !support::is_emulated() {
                        let alone = Call { texts: vec![call.texts[at].clone()], ..call.clone() };
                        let alone = backend.embed(alone).await.expect("the call").remove(0).expect("logits");
                        assert_eq!(alone.vector, logits, "{model} {number}: the same bits alone");
                    }
                }
            }
            println!("{model} {engine:?}: {worst:.1e}");
            assert!(worst <= TOLERANCE, "{model} {engine:?}: {worst:e}");
        }
    }
}

/// Scores in narrower numbers are near, and rank alike where scores are well apart.
#[tokio::test]
async fn narrower_precisions_are_near() {
    let pairs = pairs();
    for (model, bounds) in [("bert-1", [0.02, 0.1, 0.3]), ("xlm-roberta-1", [0.02, 0.1, 0.3])] {
        let golden = golden().into_iter().find(|(name, _)| name == model).expect("the model").1;
        for (precision, bound) in [Precision::F16, Precision::Bf16, Precision::Int8].into_iter().zip(bounds) {
            let backend = load(&LocalOptions { precision, ..LocalOptions::new(dir(model)) });
            let mut worst = 0f64;
            for (numbers, call) in calls(&pairs) {
                for (number, answer) in numbers.into_iter().zip(backend.embed(call).await.expect("the call")) {
                    let logit = f64::from(answer.expect("logits").vector[0]);
                    worst = worst.max((logit - golden["logits"][number][0].as_f64().expect("a number")).abs());
                }
            }
            println!("{model} {precision}: {worst:.1e}");
            assert!(worst <= bound, "{model} {precision}: {worst:e}");
        }
    }
}

#[tokio::test]
async fn what_a_model_does_not_do_is_refused() {
    let reranker = load(&LocalOptions::new(dir("bert-1")));
    let embedder = load(&LocalOptions::new(dir("../families/bert")));
    for (backend, call, words) in
        [(&reranker, Call::query("a"), "makes no vectors"), (&embedder, Call::pairs("a", ["b"]), "does not rerank")]
    {
        let error = backend.embed(call).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains(words), "{error}");
    }
    let wrong = |options: LocalOptions| LocalBackend::load(&options).map(|_| ()).expect_err("refused").to_string();
    let no_head =
        wrong(LocalOptions { profile: Some(Profile::CrossEncoder), ..LocalOptions::new(dir("../families/bert")) });
    assert!(no_head.contains("classifier.weight"), "{no_head}");
    let t5 = wrong(LocalOptions { profile: Some(Profile::CrossEncoder), ..LocalOptions::new(dir("../families/t5")) });
    assert!(t5.contains("a t5 model cannot rerank here"), "{t5}");
    let graph =
        wrong(LocalOptions { profile: Some(Profile::CrossEncoder), ..LocalOptions::new(dir("../onnx/bert-u8")) });
    assert!(graph.contains("model.safetensors"), "{graph}");
}

/// A classifier's body can still be asked for its vectors, as the reference container has them.
#[test]
fn a_profile_that_is_asked_for_is_kept() {
    for (profile, expected) in [(None, Profile::CrossEncoder), (Some(Profile::Transformers), Profile::Transformers)] {
        let options = LocalOptions { profile, ..LocalOptions::new(dir("bert-1")) };
        assert_eq!(chosen(&options).expect("a choice").profile, expected);
    }
    assert!(
        LocalBackend::load(&LocalOptions { profile: Some(Profile::Transformers), ..LocalOptions::new(dir("bert-1")) })
            .is_ok()
    );
}
