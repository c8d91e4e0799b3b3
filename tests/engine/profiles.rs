//! Model directories as users have them, and what each makes the server do: marker files of the reference's images, Hub
//! caches, prompts, prefixes, dimensions.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::{fixture, floats, max_difference, model_dir, norm, options};
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::backend::{Backend, Embedding};
use text2vec_sidecar::contract::call::{Call, EmbedSettings};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::hub::HubConfig;
use text2vec_sidecar::model::locate::{self, Image, Layout};

/// The real model's files, linked into another directory.
fn link_model(to: &Path) {
    fs::create_dir_all(to.join("1_Pooling")).expect("a directory");
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ] {
        std::os::unix::fs::symlink(model_dir().join(name), to.join(name)).expect("a link");
    }
}

/// Loads what `--model` would name, without any network.
fn load(path: &Path, change: impl FnOnce(&mut LocalOptions)) -> (LocalBackend, Layout) {
    let offline =
        HubConfig::from_vars(|name| (name == "HF_HUB_OFFLINE").then(|| "1".to_owned())).expect("a configuration");
    let found = locate::find(path.to_str().expect("a path"), None, &offline).expect("a model").expect("a model");
    let mut options = LocalOptions { marker_root: Some(found.markers), id: found.id, ..LocalOptions::new(found.path) };
    change(&mut options);
    (LocalBackend::load(&options).expect("the model loads"), found.layout)
}

async fn embed(backend: &LocalBackend, call: Call) -> Embedding {
    backend.embed(call).await.expect("the call").remove(0).expect("a vector")
}

#[tokio::test]
async fn marker_files_choose_the_profile() {
    let image = tempfile::tempdir().expect("a directory");
    link_model(image.path());
    let (plain, layout) = load(image.path(), |_| {});
    assert_eq!((plain.profile(), layout), ((Profile::SentenceTransformers, "modules.json"), Layout::Plain));
    fs::write(image.path().join("onnx_runtime"), "false").expect("write");
    assert_eq!(load(image.path(), |_| {}).0.profile().0, Profile::SentenceTransformers);
    fs::write(image.path().join("onnx_runtime"), "true").expect("write");
    let (onnx, layout) = load(image.path(), |_| {});
    assert_eq!((onnx.profile().0, layout), (Profile::Onnx, Layout::ReferenceImage));
    let (chosen, _) = load(image.path(), |options| options.profile = Some(Profile::Transformers));
    assert_eq!(chosen.profile(), (Profile::Transformers, "--profile"));
}

/// `COPY ./my-model /app/models/model`, the reference's recipe for a model of one's own, takes the folder as
/// sentence-transformers made it. Its container answers with the vectors of file A all the same.
#[tokio::test]
async fn a_model_put_into_an_image_has_the_vectors_of_the_reference_s_custom_image() {
    let folder = tempfile::tempdir().expect("a directory");
    link_model(folder.path());
    assert!(folder.path().join("modules.json").is_file());
    let (backend, _) = load(folder.path(), |options| options.hints.image = Some(Image::Transformers));
    assert_eq!(backend.profile().0, Profile::Transformers);
    let (golden, texts) = (fixture("minilm/A.json"), fixture("minilm/texts.json"));
    let (mut worst, mut least, mut compared) = (0f64, 1f64, 0);
    for (text, expected) in texts.as_array().expect("texts").iter().zip(golden["results"].as_array().expect("results"))
    {
        if expected["status"] != 200 {
            continue;
        }
        let vector = embed(&backend, Call::passage(text["text"].as_str().expect("text"))).await.vector;
        let expected = floats(&expected["vector"]);
        let dot: f64 = vector.iter().zip(&expected).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        least = least.min(dot / norm(&vector) / norm(&expected));
        worst = worst.max(max_difference(&vector, &expected) / norm(&expected).max(1.0));
        compared += 1;
    }
    println!("{compared} texts: least cosine {least:.4}, largest difference {worst:.1e} of the length");
    assert!(compared >= 50 && worst <= 1e-5, "{compared} texts, {worst:e}");
}

#[tokio::test]
async fn a_sentence_transformers_image_is_a_hub_cache_with_markers_beside_it() {
    let image = tempfile::tempdir().expect("a directory");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = image.path().join("models--sentence-transformers--all-MiniLM-L6-v2");
    link_model(&repository.join("snapshots").join(commit));
    fs::create_dir_all(repository.join("refs")).expect("a directory");
    fs::write(repository.join("refs/main"), commit).expect("write");
    fs::write(image.path().join("model_name"), "sentence-transformers/all-MiniLM-L6-v2").expect("write");
    let (backend, layout) = load(image.path(), |_| {});
    assert_eq!(layout, Layout::ReferenceImage);
    // This id alone would mean the transformers profile: the marker file goes first.
    assert_eq!(backend.profile(), (Profile::SentenceTransformers, "the marker file model_name"));
    assert_eq!(backend.info().name, "sentence-transformers/all-MiniLM-L6-v2");
    let reference = LocalBackend::load(&options(Profile::SentenceTransformers)).expect("the model loads");
    let call = Call::passage("The London Eye");
    assert_eq!(embed(&backend, call.clone()).await, embed(&reference, call).await);
}

#[tokio::test]
async fn task_prefixes_are_put_in_front_and_the_marker_file_beats_the_variable() {
    let image = tempfile::tempdir().expect("a directory");
    link_model(image.path());
    let task = |text: &str, task: Option<&'static str>| {
        let settings = EmbedSettings { task_name: task.map(Into::into), ..EmbedSettings::default() };
        Call::new(vec![text.into()], settings)
    };
    let (plain, _) = load(image.path(), |_| {});
    let (prefixed, _) = load(image.path(), |options| options.reference_prefixes = true);
    for (named, written) in [
        (task("x", Some("query")), "query: x"),
        (task("x", Some("passage")), "passage: x"),
        (task("x", Some("odd")), "odd: x"),
        (task("x", None), "x"),
    ] {
        assert_eq!(embed(&prefixed, named).await.vector, embed(&plain, task(written, None)).await.vector, "{written}");
    }
    // The build script of the reference writes Python's False, which is not the exact text true.
    fs::write(image.path().join("use_query_passage_prefixes"), "False").expect("write");
    let (marked, _) = load(image.path(), |options| options.reference_prefixes = true);
    let query = task("x", Some("query"));
    assert_eq!(embed(&marked, query.clone()).await.vector, embed(&plain, query).await.vector);
}

#[tokio::test]
async fn the_models_own_prompts_follow_the_task() {
    let dir = tempfile::tempdir().expect("a directory");
    link_model(dir.path());
    let (plain, _) = load(dir.path(), |_| {});
    let prompts = json!({"prompts": {"query": "search: ", "document": "found: "}, "default_prompt_name": null});
    fs::remove_file(dir.path().join("config_sentence_transformers.json")).expect("remove");
    fs::write(dir.path().join("config_sentence_transformers.json"), prompts.to_string()).expect("write");
    let (prompted, _) = load(dir.path(), |_| {});
    let vector = async |backend, call| embed(backend, call).await.vector;
    assert_eq!(vector(&prompted, Call::query("x")).await, vector(&plain, Call::passage("search: x")).await);
    assert_eq!(vector(&prompted, Call::passage("x")).await, vector(&plain, Call::passage("found: x")).await);
    let (transformers, _) = load(dir.path(), |options| options.profile = Some(Profile::Transformers));
    assert!(norm(&vector(&transformers, Call::query("x")).await) > 2.0, "not normalised, no prompt");
}

#[tokio::test]
async fn dimensions_are_applied_where_told_and_what_had_no_effect_is_counted() {
    let call = |dimensions| {
        let settings = EmbedSettings { dimensions: Some(dimensions), ..EmbedSettings::default() };
        Call::new(vec!["The London Eye".into()], settings)
    };
    let as_reference = LocalBackend::load(&options(Profile::Transformers)).expect("the model loads");
    let full = embed(&as_reference, call(100)).await;
    assert_eq!((full.vector.len(), full.ignored), (384, vec!["dimensions"]));
    let long = Call::passage("word ".repeat(600));
    assert!(embed(&as_reference, long).await.truncated);
    let sidecar = &as_reference.meta().to_json()["sidecar"];
    assert_eq!((&sidecar["ignored_dimensions"], &sidecar["truncated_texts"]), (&json!(1), &json!(1)));

    let applying = LocalOptions { apply_dimensions: true, ..options(Profile::Transformers) };
    let applying = LocalBackend::load(&applying).expect("the model loads");
    let cut = embed(&applying, call(100)).await;
    assert_eq!((&cut.vector[..], cut.ignored.len()), (&full.vector[..100], 0));
    assert_ne!(applying.info().fingerprint, as_reference.info().fingerprint);

    let onnx =
        LocalBackend::load(&LocalOptions { apply_dimensions: true, ..options(Profile::Onnx) }).expect("it loads");
    let cut = embed(&onnx, call(100)).await;
    assert!((norm(&cut.vector) - 1.0).abs() < 1e-6 && cut.vector.len() == 100, "cut, then normalised");
    let scaled: Vec<f32> =
        full.vector[..100].iter().map(|v| (f64::from(*v) / norm(&full.vector[..100])) as f32).collect();
    assert!(max_difference(&cut.vector, &scaled) < 1e-6);
}
