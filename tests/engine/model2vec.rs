//! Tables of token vectors as the model2vec container serves them: token ids and vectors of model2vec itself, which
//! `fixtures/model2vec/make.py` asked for.

use crate::support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{fixture, floats, max_difference};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions, chosen};
use text2vec_sidecar::contract::call::{Call, EmbedSettings};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::locate::Image;
use text2vec_sidecar::model::modules::ProfileHints;
use text2vec_sidecar::model::tokenizer::{MODEL2VEC_MAX_TOKENS, TextTokenizer};

/// max |difference| to model2vec.
const TOLERANCE: f64 = 1e-6;

fn dir(model: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    if model == "wordpiece" { fixtures.join("families/model2vec") } else { fixtures.join("model2vec").join(model) }
}

fn options(model: &str) -> LocalOptions {
    LocalOptions { profile: Some(Profile::Model2vec), ..LocalOptions::new(dir(model)) }
}

fn texts() -> Vec<String> {
    let of = |file| fixture(file).as_array().expect("a list").clone();
    let entries = of("families/texts.json").into_iter().chain(of("minilm/texts.json"));
    entries.map(|entry| entry["text"].as_str().expect("a text").to_owned()).collect()
}

/// The models and what model2vec makes of the texts with them.
fn golden() -> Vec<(String, Value)> {
    let golden = fixture("model2vec/golden.json");
    golden.as_object().expect("models").clone().into_iter().collect()
}

#[test]
fn token_ids_are_model2vecs() {
    let texts = texts();
    let mut cut = 0;
    for (model, expected) in golden() {
        let tokenizer = TextTokenizer::load(&dir(&model), MODEL2VEC_MAX_TOKENS);
        let tokenizer = tokenizer.and_then(TextTokenizer::as_model2vec).expect("a tokenizer");
        let expected = expected["ids"].as_array().expect("ids");
        assert_eq!(texts.len(), expected.len());
        for (text, ids) in texts.iter().zip(expected) {
            let tokens = tokenizer.encode(text).expect("tokens");
            assert_eq!(Value::from(tokens.ids), *ids, "{model}: {text:?}");
            cut += usize::from(tokens.truncated);
        }
    }
    assert!(cut > 10, "{cut} texts are over a limit");
}

#[tokio::test]
async fn vectors_are_model2vecs() {
    let texts = texts();
    for (model, expected) in golden() {
        let expected = expected["vectors"].as_array().expect("vectors");
        for engine in [Engine::Auto, Engine::Candle] {
            let backend = LocalBackend::load(&LocalOptions { engine, ..options(&model) }).expect("the model loads");
            let answers = backend.embed(Call::passages(texts.clone())).await.expect("the call");
            let mut worst = 0f64;
            for ((text, answer), expected) in texts.iter().zip(answers).zip(expected) {
                let vector = answer.expect("a vector").vector;
                worst = worst.max(max_difference(&vector, &floats(expected)));
                let alone = backend.embed(Call::queries([text.clone()])).await.expect("the call").remove(0);
                assert_eq!(alone.expect("a vector").vector, vector, "{model}: the same alone, as a query");
            }
            println!("{model} {engine:?}: {worst:e}");
            assert!(worst <= TOLERANCE, "{model} {engine:?}: {worst:e}");
        }
    }
}

#[tokio::test]
async fn dimensions_count_where_the_operator_says_so() {
    let settings = EmbedSettings { dimensions: Some(8), ..EmbedSettings::default() };
    for apply_dimensions in [false, true] {
        let backend = LocalBackend::load(&LocalOptions { apply_dimensions, ..options("wordlevel") }).expect("a model");
        let answers = backend.embed(Call::new(vec!["the river".into()], settings.clone())).await.expect("the call");
        let answer = answers.into_iter().next().expect("an answer").expect("a vector");
        let (length, ignored) = if apply_dimensions { (8, &[][..]) } else { (24, &["dimensions"][..]) };
        assert_eq!((answer.vector.len(), &answer.ignored[..]), (length, ignored));
        assert!((support::norm(&answer.vector) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn the_profile_is_chosen_in_the_image_and_refused_elsewhere() {
    let of = |image| {
        let hints = ProfileHints { image, ..ProfileHints::default() };
        chosen(&LocalOptions { profile: None, hints, ..options("wordpiece") }).expect("a choice").profile
    };
    assert_eq!(of(Some(Image::Model2vec)), Profile::Model2vec);
    assert_eq!(of(Some(Image::Transformers)), Profile::SentenceTransformers);
    assert_eq!(of(None), Profile::SentenceTransformers);
    let bert = LocalOptions { dir: dir("wordpiece").join("../bert"), ..options("wordpiece") };
    let error = chosen(&bert).expect_err("no table");
    assert!(error.message().contains("is for tables"), "{error}");
    let shared = LocalOptions { profile: Some(Profile::SentenceTransformers), ..options("clusters") };
    let error = LocalBackend::load(&shared).expect_err("tokens share rows");
    assert!(error.message().contains("use the profile model2vec"), "{error}");
}

/// A file that names rows and weights that are not there.
#[test]
fn damaged_tables_are_refused() {
    let there = std::fs::read(dir("clusters").join("model.safetensors")).expect("weights");
    let header = u64::from_le_bytes(there[..8].try_into().expect("eight bytes")) as usize + 8;
    let places: Value = serde_json::from_slice(&there[8..header]).expect("a header");
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(dir("clusters").join(name), folder.path().join(name)).expect("a copy");
    }
    let start = header + places["mapping"]["data_offsets"][0].as_u64().expect("a place") as usize;
    for row in [40i32, -1, i32::MAX] {
        let mut damaged = there.clone();
        damaged[start + 8..start + 12].copy_from_slice(&row.to_le_bytes());
        std::fs::write(folder.path().join("model.safetensors"), damaged).expect("weights");
        let error = LocalBackend::load(&LocalOptions { dir: folder.path().into(), ..options("clusters") });
        let error = error.map(|_| ()).expect_err("refused");
        assert!(error.message().contains(&format!("the row {row} of a table of 40")), "{error}");
    }
}
