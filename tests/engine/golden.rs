//! The reference container's vectors for all-MiniLM-L6-v2, text by text. What made each file is in
//! `tests/fixtures/README.md`.

use crate::support;

use serde_json::Value;
use support::{fixture, floats, is_emulated, max_difference, model_dir, norm, options};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::{Call, EmbedSettings, Text};
use text2vec_sidecar::contract::request::Profile;

/// Texts of `minilm/texts.json`.
const TEXTS: usize = 54;

/// Every text alone, by its number.
fn calls(config: &Value) -> Vec<(u64, Call)> {
    let texts = fixture("minilm/texts.json");
    let word = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
    let call = |entry: &Value| {
        let settings = EmbedSettings {
            task_name: word("task_type").map(Into::into),
            pooling: word("pooling_strategy"),
            dimensions: config.get("dimensions").and_then(Value::as_i64),
            prompt: None,
        };
        let text = Text::from(entry["text"].as_str().expect("text"));
        (entry["id"].as_u64().expect("id"), Call::new(vec![text], settings))
    };
    texts.as_array().expect("a list").iter().map(call).collect()
}

/// Whether a text would take minutes in an emulator.
fn too_long(text: &str) -> bool {
    is_emulated() && text.len() > 1100
}

/// Embeds every text alone and compares. Reference statuses other than 200 must be errors here too.
async fn check(file: &str, options: LocalOptions, tolerance: impl Fn(f64) -> f64) {
    let golden = fixture(&format!("minilm/{file}.json"));
    let backend = LocalBackend::load(&options).expect("the model loads");
    let calls = calls(&golden["config"]);
    let results = golden["results"].as_array().expect("results");
    assert_eq!((calls.len(), results.len()), (TEXTS, TEXTS));
    let (mut worst, mut worst_id, mut refused) = (0f64, 0, 0);
    let mut compared = 0;
    for ((id, call), expected) in calls.into_iter().zip(results) {
        assert_eq!(expected["id"].as_u64(), Some(id));
        if too_long(&call.texts[0]) {
            continue;
        }
        compared += 1;
        let answer = backend.embed(call).await.expect("the call").remove(0);
        if expected["status"].as_u64() == Some(200) {
            let vector = answer.unwrap_or_else(|error| panic!("{file} text {id}: {error}")).vector;
            let expected = floats(&expected["vector"]);
            let share = max_difference(&vector, &expected) / tolerance(norm(&expected));
            if share > worst {
                (worst, worst_id) = (share, id);
            }
        } else {
            let error = answer.expect_err("the reference refuses this text");
            assert_eq!(error.kind().meaning().http_status, 400, "{file} text {id}: {error}");
            refused += 1;
        }
    }
    println!(
        "{file}: worst difference {worst:.3} of the tolerance (text {worst_id}) of {compared} texts, {refused} refused"
    );
    assert!(compared == TEXTS || is_emulated() && compared >= 46, "{compared} texts");
    assert!(worst <= 1.0, "{file} text {worst_id}: {worst} times the tolerance");
}

/// max |difference| ≤ 1e-5 × max(1, norm).
fn relative(norm: f64) -> f64 {
    1e-5 * norm.max(1.0)
}

/// Vectors of length 1.
fn unit(_: f64) -> f64 {
    2e-6
}

fn direct() -> LocalOptions {
    LocalOptions { direct_tokenize: true, ..options(Profile::Transformers) }
}

#[tokio::test]
async fn transformers_profile() {
    check("A", options(Profile::Transformers), relative).await;
}

#[tokio::test]
async fn transformers_profile_cls() {
    check("A-cls", options(Profile::Transformers), relative).await;
}

#[tokio::test]
async fn direct_tokenize() {
    check("B", direct(), relative).await;
}

#[tokio::test]
async fn direct_tokenize_cls() {
    check("B-cls", direct(), relative).await;
}

#[tokio::test]
async fn sentence_transformers_profile() {
    check("C-passage", options(Profile::SentenceTransformers), unit).await;
}

#[tokio::test]
async fn sentence_transformers_profile_128_dimensions() {
    check("C-dims128", options(Profile::SentenceTransformers), unit).await;
}

/// The reference's `onnx` images hold int8 weights; under this profile we serve the f32 weights with the same pooling.
/// How far that is from theirs is reported, not required.
#[tokio::test]
async fn onnx_profile_in_f32_beside_the_int8_reference() {
    let golden = fixture("minilm/D-avx2.json");
    let backend = LocalBackend::load(&options(Profile::Onnx)).expect("the model loads");
    let mut cosines = Vec::new();
    for ((id, call), expected) in calls(&golden["config"]).into_iter().zip(golden["results"].as_array().expect("list"))
    {
        if too_long(&call.texts[0]) {
            continue;
        }
        let vector = backend.embed(call).await.expect("the call").remove(0).expect("a vector").vector;
        assert!((norm(&vector) - 1.0).abs() < 1e-6, "text {id} is not normalised");
        let expected = floats(&expected["vector"]);
        cosines.push(vector.iter().zip(&expected).map(|(a, b)| f64::from(a * b)).sum::<f64>());
    }
    cosines.sort_by(f64::total_cmp);
    let (median, count) = (cosines[cosines.len() / 2], cosines.len());
    println!("cosine to int8: min {:.3}, median {median:.3}, max {:.3}", cosines[0], cosines[count - 1]);
    assert!(count == TEXTS || is_emulated(), "{count} texts");
    assert!(median > 0.85, "not even the same direction");
}

/// The same text alone and among 31 others of mixed lengths.
#[tokio::test]
async fn a_vector_does_not_depend_on_its_batch() {
    for options in [direct(), options(Profile::Transformers), options(Profile::SentenceTransformers)] {
        let backend = LocalBackend::load(&options).expect("the model loads");
        let batch: Vec<Text> = calls(&Value::Null)
            .into_iter()
            .flat_map(|(_, call)| call.texts)
            .filter(|text| !text.trim().is_empty() && !too_long(text))
            .take(32)
            .collect();
        assert_eq!(batch.len(), 32);
        let together = backend.embed(Call::passages(batch.clone())).await.expect("the call");
        let mut worst = 0f64;
        for (text, together) in batch.into_iter().zip(together) {
            let alone = backend.embed(Call::passage(text)).await.expect("the call").remove(0).expect("alone");
            worst = worst.max(max_difference(&alone.vector, &together.expect("together").vector));
        }
        println!("{:?}: alone and in a batch differ by at most {worst:e}", options.profile);
        assert!(worst <= 1e-6);
    }
}

/// The file's own limits (128 tokens, padded to 128) are not used.
#[tokio::test]
async fn the_tokenizer_file_s_truncation_and_padding_are_ignored() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(model_dir().join("tokenizer.json")).expect("file"))
        .expect("JSON");
    assert_eq!(file["truncation"]["max_length"], 128, "the trap this test is about");
    let backend = LocalBackend::load(&direct()).expect("the model loads");
    let embed = |text: String| backend.embed(Call::passage(text));
    let short = embed("a".into()).await.expect("the call").remove(0).expect("a vector");
    assert_eq!((short.tokens, short.truncated), (3, false));
    let long = embed("word ".repeat(300)).await.expect("the call").remove(0).expect("a vector");
    assert_eq!((long.tokens, long.truncated), (302, false));
    let cut = embed("word ".repeat(700)).await.expect("the call").remove(0).expect("a vector");
    assert_eq!((cut.tokens, cut.truncated), (500, true));
}
