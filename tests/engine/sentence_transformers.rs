//! Pooling, dense layers and their order, against sentence-transformers. `tests/fixtures/sentence_transformers/make.py`
//! made the vectors.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{fixture, floats, max_difference};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::{Call, EmbedSettings};
use text2vec_sidecar::contract::request::Profile;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentence_transformers")
}

/// A model directory with these modules behind the tiny transformer.
fn assemble(case: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(fixtures().join("model")).expect("the model") {
        let path = entry.expect("an entry").path();
        std::os::unix::fs::symlink(&path, dir.path().join(path.file_name().expect("a name"))).expect("a link");
    }
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let mut modules = vec![module("", "Transformer"), module("1_Pooling", "Pooling")];
    fs::create_dir(dir.path().join("1_Pooling")).expect("create");
    let mut pooling = case["pooling"].clone();
    // As in gtr-t5-xl, whose file has a number that is not the encoder's.
    pooling["word_embedding_dimension"] = json!(17);
    fs::write(dir.path().join("1_Pooling/config.json"), pooling.to_string()).expect("write");
    for name in case["dense"].as_array().expect("names") {
        let name = name.as_str().expect("a name");
        std::os::unix::fs::symlink(fixtures().join(name), dir.path().join(name)).expect("a link");
        modules.push(module(name, "Dense"));
    }
    if case["normalize"] == true {
        modules.push(module("3_Normalize", "Normalize"));
    }
    fs::write(dir.path().join("modules.json"), Value::from(modules).to_string()).expect("write");
    dir
}

fn options(dir: &Path) -> LocalOptions {
    LocalOptions { profile: Some(Profile::SentenceTransformers), ..LocalOptions::new(dir) }
}

#[tokio::test]
async fn every_pooling_and_dense_layer_gives_the_vectors_of_sentence_transformers() {
    let golden = fixture("sentence_transformers/vectors.json");
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).expect("texts");
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!((texts.len(), cases.len()), (14, 10));
    for case in cases {
        let dir = assemble(case);
        for engine in [Engine::Auto, Engine::Candle] {
            let backend = LocalBackend::load(&LocalOptions { engine, ..options(dir.path()) })
                .unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
            let mut worst = 0f64;
            for (dimensions, key) in [(None, "vectors"), (Some(7), "cut_to_7")] {
                let settings = EmbedSettings { dimensions, ..EmbedSettings::default() };
                let call = Call::new(texts.iter().map(Into::into).collect(), settings);
                let vectors = backend.embed(call).await.expect("the call");
                for (index, vector) in vectors.into_iter().enumerate() {
                    let vector = vector.expect("a vector").vector;
                    let expected = floats(&case[key][index]);
                    if dimensions.is_none() {
                        assert_eq!(backend.info().dimensions, Some(expected.len()), "{}", case["name"]);
                    }
                    worst = worst.max(max_difference(&vector, &expected));
                }
            }
            println!("{} ({engine:?}): {worst:.1e}", case["name"]);
            assert!(worst <= 1e-5, "{} ({engine:?}): {worst:e}", case["name"]);
        }
    }
}

/// Only its own profile runs a model's dense layers.
#[test]
fn other_profiles_leave_the_dense_layers_out() {
    let golden = fixture("sentence_transformers/vectors.json");
    let case = golden["cases"].as_array().expect("cases").iter().find(|case| case["name"] == "dense without bias");
    let dir = assemble(case.expect("the case"));
    let dimensions = |profile| {
        let options = LocalOptions { profile: Some(profile), ..LocalOptions::new(dir.path()) };
        LocalBackend::load(&options).expect("a model").info().dimensions
    };
    assert_eq!(dimensions(Profile::SentenceTransformers), Some(31));
    assert_eq!(dimensions(Profile::Transformers), Some(24));
}

#[test]
fn the_licence_is_in_meta() {
    let golden = fixture("sentence_transformers/vectors.json");
    let dir = assemble(&golden["cases"][0]);
    let license =
        || LocalBackend::load(&options(dir.path())).expect("a model").meta().to_json()["sidecar"]["license"].clone();
    assert_eq!(license(), Value::Null);
    fs::write(dir.path().join("README.md"), "---\nlicense: cc-by-nc-4.0\n---\n# A model").expect("write");
    assert_eq!(license(), "cc-by-nc-4.0");
}
