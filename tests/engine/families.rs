//! Tiny models of every family, with vectors written once by transformers and sentence-transformers doing what the
//! reference container does: `fixtures/families/make.py` and `make_modern.py`. Every executor must give them.

use crate::support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use support::{fixture, floats, max_difference};
use text2vec_engine::family::Masks;
use text2vec_kernel::{InstructionSet, Kernels, Precision};
use text2vec_sidecar::backend::local::sentences::{collapse_whitespace, split_sentences};
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Engine, Inference, LocalBackend, LocalOptions};
use text2vec_sidecar::backend::{Backend, Embedding};
use text2vec_sidecar::contract::call::{Call, EmbedSettings};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::modules::ModelDescription;

/// Families that `make_modern.py` makes.
const MODERN: [&str; 16] = [
    "albert",
    "electra",
    "modernbert",
    "nomic-bert",
    "nomic-bert-moe",
    "gte",
    "gte-en",
    "jina-v2",
    "jina-v2-code",
    "eurobert",
    "qwen3",
    "qwen2",
    "mistral",
    "llama",
    "gemma3",
    "gemma3-causal",
];

/// max |difference| to the reference.
const TOLERANCE: f64 = 1e-5;

fn dir(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(family)
}

fn texts() -> Vec<String> {
    let texts = fixture("families/texts.json");
    let text = |entry: &Value| entry["text"].as_str().expect("a text").to_owned();
    texts.as_array().expect("a list").iter().map(text).collect()
}

/// What stands for a container's marker files: beside them, masks are the reference's.
fn container() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("text2vec-families-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("trust_remote_code"), "False").expect("a marker file");
    dir
}

/// A mode of the reference as options of ours, and the pooling strategy to ask for.
fn mode(family: &str, mode: &str) -> (LocalOptions, Option<String>) {
    if let Some(mode) = mode.strip_prefix("causal-") {
        let (options, pooling) = self::mode(family, mode);
        return (LocalOptions { marker_root: Some(container()), ..options }, pooling);
    }
    let mode = mode.strip_suffix("-query").unwrap_or(mode);
    let (kind, pooling) = match mode.strip_suffix("-cls") {
        Some(kind) => (kind, Some("cls".to_owned())),
        None => (mode, None),
    };
    let (profile, direct_tokenize) = match kind {
        "direct" => (Profile::Transformers, true),
        name => (name.parse().expect("a profile"), false),
    };
    (LocalOptions { profile: Some(profile), direct_tokenize, ..LocalOptions::new(dir(family)) }, pooling)
}

/// Every mode of a family's goldens, all texts in one call and each alone, on the kernels that would be taken. The other
/// executors take turns, so that each has a mode and most have several: Candle, plainly and on packed rows as on a GPU, and, for
/// the newer families, every instruction set (the others have had that elsewhere).
async fn check(family: &str, modes: usize) {
    check_file(family, "golden.json", modes).await;
}

async fn check_file(family: &str, file: &str, modes: usize) {
    let golden = fixture(&format!("families/{family}/{file}"));
    let mut golden = golden.as_object().expect("modes").clone();
    if family == "qwen3" && file == "golden.json" {
        // The reference pads these on the left, so its first token is padding for all but the longest of 25 sentences: that is
        // no vector of the text. golden.padding-right.json has what is computed here.
        golden.remove("transformers-cls");
    }
    assert_eq!(golden.len(), modes, "{family}");
    let texts = texts();
    for (turn, (name, expected)) in golden.iter().enumerate() {
        let expected = expected.as_array().expect("vectors");
        assert!(texts.len() >= 12 && texts.len() == expected.len());
        let (options, pooling) = mode(family, name);
        let sets = Kernels::available();
        let set = MODERN.contains(&family).then(|| Engine::Kernels(sets[turn % sets.len()].instruction_set()));
        let by_candle = match family {
            // By candle-transformers, whatever is asked for.
            "deberta-v2" => &[][..],
            // Candle takes most of an emulator's time, and nothing of it is ours.
            _ if support::is_emulated() => &[],
            // All there is to see of some.
            _ if modes < 3 => &[Engine::Candle, Engine::CandlePacked],
            _ if turn % 2 == 0 => &[Engine::Candle],
            _ => &[Engine::CandlePacked],
        };
        for engine in [Engine::Auto].into_iter().chain(by_candle.iter().copied()).chain(set) {
            let inference = Arc::new(Inference::start(Some(2), DEFAULT_WAITING_TOKENS).expect("two threads"));
            let backend = LocalBackend::load_beside(&LocalOptions { engine, ..options.clone() }, inference);
            let backend = backend.unwrap_or_else(|error| panic!("{family} {name} {engine:?}: {error}"));
            let settings = EmbedSettings { pooling: pooling.clone(), ..EmbedSettings::default() };
            let settings = match name.ends_with("-query") {
                true => EmbedSettings { pooling: settings.pooling, ..EmbedSettings::query() },
                false => settings,
            };
            let call = Call::new(texts.iter().map(Into::into).collect(), settings);
            let answers = backend.embed(call.clone()).await.expect("the call");
            let (mut worst, mut compared) = (0f64, 0);
            for (number, (answer, expected)) in answers.iter().zip(expected).enumerate() {
                if expected.is_null() {
                    let error = answer.as_ref().expect_err("the reference refuses this text");
                    assert_eq!(error.kind().meaning().http_status, 400, "{family} {name} text {number}: {error}");
                    continue;
                }
                let vector =
                    &answer.as_ref().unwrap_or_else(|error| panic!("{family} {name} {number}: {error}")).vector;
                assert_eq!(Some(vector.len()), backend.info().dimensions);
                worst = worst.max(max_difference(vector, &floats(expected)));
                compared += 1;
                // Candle has no promise to keep but the tolerance. It and candle-transformers are slow.
                let is_exact = !by_candle.contains(&engine);
                let is_slow = !is_exact || family == "deberta-v2";
                if is_slow && number % 4 != 0 {
                    continue;
                }
                let alone = Call { texts: vec![call.texts[number].clone()], ..call.clone() };
                let alone = backend.embed(alone).await.expect("the call").remove(0);
                let alone = alone.expect("a vector").vector;
                match is_exact {
                    true => assert_eq!(&alone, vector, "{family} {name} text {number}: alone and in a batch"),
                    false => assert!(max_difference(&alone, vector) <= TOLERANCE),
                }
            }
            println!("{family} {name} {}: {compared} texts, at most {worst:.1e} off", backend.engine().0);
            assert!(compared >= 12 && worst <= TOLERANCE, "{family} {name} {engine:?}: {worst:e}, {compared} compared");
        }
    }
}

/// The cosines of the narrower precisions, of tiny random models at that: what is rounded has few columns to be lost in.
#[tokio::test]
async fn modern_families_are_near_in_narrower_precisions() {
    for family in MODERN {
        let golden = fixture(&format!("families/{family}/golden.json"));
        let expected = golden["direct"].as_array().expect("vectors").clone();
        for (precision, least) in
            [(Precision::Bf16x3, 0.99999), (Precision::F16, 0.9999), (Precision::Bf16, 0.99), (Precision::Int8, 0.95)]
        {
            let (options, _) = mode(family, "direct");
            let backend = LocalBackend::load(&LocalOptions { precision, ..options }).expect("a model");
            let answers = backend.embed(Call::passages(texts())).await.expect("the call");
            let pairs = answers.iter().zip(&expected).filter(|(_, expected)| !expected.is_null());
            let cosine = |(answer, expected): (&text2vec_sidecar::error::Result<Embedding>, &Value)| {
                let (a, b) = (&answer.as_ref().expect("a vector").vector, floats(expected));
                let dot =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
                dot(a, &b) / (dot(a, a) * dot(&b, &b)).sqrt()
            };
            let worst = pairs.map(cosine).fold(1.0, f64::min);
            println!("{family} {precision}: cosine at least {worst:.6}");
            assert!(worst >= least, "{family} {precision}: {worst}");
        }
    }
}

#[tokio::test]
async fn bert() {
    check("bert", 6).await;
}

/// BERT with a SentencePiece tokenizer whose padding id is not the configuration's.
#[tokio::test]
async fn multilingual_bert() {
    check("bert-multilingual", 6).await;
}

#[tokio::test]
async fn distilbert() {
    check("distilbert", 6).await;
}

#[tokio::test]
async fn roberta() {
    check("roberta", 6).await;
}

#[tokio::test]
async fn xlm_roberta() {
    check("xlm-roberta", 6).await;
}

#[tokio::test]
async fn mpnet() {
    check("mpnet", 6).await;
}

#[tokio::test]
async fn albert() {
    check("albert", 5).await;
}

#[tokio::test]
async fn electra() {
    check("electra", 5).await;
}

#[tokio::test]
async fn modernbert() {
    check("modernbert", 5).await;
}

#[tokio::test]
async fn nomic_bert() {
    check("nomic-bert", 5).await;
    check("nomic-bert-moe", 6).await;
}

/// Multilingual, with a prefix of the names and a table of one token type; and English, without either.
#[tokio::test]
async fn gte() {
    check("gte", 5).await;
    check("gte-en", 5).await;
}

#[tokio::test]
async fn jina_v2() {
    check("jina-v2", 5).await;
    check("jina-v2-code", 5).await;
}

#[tokio::test]
async fn eurobert() {
    check("eurobert", 5).await;
}

#[tokio::test]
async fn qwen3() {
    check("qwen3", 5).await;
    check_file("qwen3", "golden.padding-right.json", 1).await;
}

/// Bidirectional, as configured, and with the reference's causal masks.
#[tokio::test]
async fn qwen2() {
    check("qwen2", 12).await;
}

/// With a window.
#[tokio::test]
async fn mistral() {
    check("mistral", 6).await;
}

/// A family's model alone, without what sentence-transformers adds, and with one of its configurations.
fn copied(family: &str, config: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for (from, to) in [(config, "config.json")]
        .into_iter()
        .chain(["model.safetensors", "tokenizer.json", "tokenizer_config.json"].map(|name| (name, name)))
    {
        std::fs::copy(dir(family).join(from), copy.path().join(to)).expect("copy");
    }
    copy
}

/// Llama's tokenizer puts before and after a text what `tokenizer_config.json` says, whatever `tokenizer.json` has.
#[tokio::test]
async fn switches_of_llama_s_tokenizer_decide() {
    let mut found = Vec::new();
    for switches in
        [json!({}), json!({"add_bos_token": false}), json!({"add_bos_token": false, "add_eos_token": false})]
    {
        let copy = copied("mistral", "config.json");
        let path = copy.path().join("tokenizer_config.json");
        let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        settings.as_object_mut().expect("an object").extend(switches.as_object().expect("an object").clone());
        std::fs::write(path, settings.to_string()).expect("write");
        let backend = LocalBackend::load(&LocalOptions::new(copy.path())).expect("a model");
        let answer = backend.embed(Call::passages(["a text"])).await.expect("the call").remove(0).expect("a vector");
        found.push((answer.tokens, backend.info().fingerprint.clone()));
    }
    let tokens: Vec<_> = found.iter().map(|(tokens, _)| *tokens).collect();
    assert_eq!(tokens, [tokens[2] + 2, tokens[2] + 1, tokens[2]]);
    assert!(found[0].1 != found[1].1 && found[1].1 != found[2].1, "each has a fingerprint of its own: {found:?}");
}

/// What is told of the masks, and when a model that asks for all tokens to be seen is causal all the same.
#[test]
fn masks_follow_what_is_replaced() {
    let copy = tempfile::tempdir().expect("a directory");
    std::fs::copy(dir("qwen2").join("tokenizer.json"), copy.path().join("tokenizer.json")).expect("copy");
    let read = |more: Value, trusted: Option<&str>| {
        let markers = tempfile::tempdir().expect("a directory");
        if let Some(trusted) = trusted {
            std::fs::write(markers.path().join("trust_remote_code"), trusted).expect("write");
        }
        let mut config = json!({"model_type": "qwen2"});
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        std::fs::write(copy.path().join("config.json"), config.to_string()).expect("write");
        let description = ModelDescription::read(copy.path(), markers.path()).expect("a description");
        (description.masks(Default::default()), description.may_be_bidirectional())
    };
    let code = json!({"AutoModel": "modeling_qwen.Qwen2Model"});
    assert_eq!(read(json!({}), None), (Masks::AsConfigured, false));
    assert_eq!(read(json!({"auto_map": code}), None), (Masks::AsConfigured, true));
    assert_eq!(read(json!({"auto_map": code, "is_causal": false}), None), (Masks::AsConfigured, false));
    assert_eq!(read(json!({"is_causal": false}), Some("false")), (Masks::AsTransformers4, false));
    assert_eq!(read(json!({"is_causal": false}), Some("true")), (Masks::AsTransformers4, false));
    // The container ran the model's own code.
    assert_eq!(read(json!({"auto_map": code, "is_causal": false}), Some("true")), (Masks::AsConfigured, false));
}

/// The same models with `config.json` in the form that transformers 5 writes.
#[tokio::test]
async fn configurations_of_transformers_5_are_read() {
    let texts = &texts()[..6];
    for family in ["qwen2", "mistral", "llama", "qwen3", "deberta-v2"] {
        let copy = copied(family, "config.transformers5.json");
        let vectors = async |dir: PathBuf| -> Vec<_> {
            let options =
                LocalOptions { profile: Some(Profile::Transformers), direct_tokenize: true, ..LocalOptions::new(dir) };
            let backend = LocalBackend::load(&options).expect("a model");
            let answers = backend.embed(Call::passages(texts)).await.expect("the call");
            answers.into_iter().map(|answer| answer.expect("a vector").vector).collect()
        };
        assert_eq!(vectors(copy.path().to_owned()).await, vectors(dir(family)).await, "{family}");
    }
}

/// With the rotary positions of Llama 3.
#[tokio::test]
async fn llama() {
    check("llama", 5).await;
}

/// By candle-transformers, whatever the engine.
#[tokio::test]
async fn deberta_v2() {
    check("deberta-v2", 5).await;
    let load = |options: LocalOptions| LocalBackend::load(&options).map(|backend| backend.engine().0);
    let options = || LocalOptions::new(dir("deberta-v2"));
    for engine in [Engine::Auto, Engine::Candle, Engine::CandlePacked] {
        assert_eq!(load(LocalOptions { engine, ..options() }).expect("a model"), "candle-transformers");
    }
    let engine = Engine::Kernels(InstructionSet::Portable);
    let refused = load(LocalOptions { engine, ..options() }).expect_err("no kernels");
    assert!(refused.message().contains("portable") && refused.message().contains("--engine"), "{refused}");
    let refused = load(LocalOptions { precision: Precision::Bf16, ..options() }).expect_err("f32 only");
    assert!(refused.message().contains("--precision"), "{refused}");
}

/// Bidirectional, as configured, and with the reference's causal masks.
#[tokio::test]
async fn gemma3() {
    check("gemma3", 12).await;
}

#[tokio::test]
async fn causal_gemma3() {
    check("gemma3-causal", 6).await;
}

#[tokio::test]
async fn t5() {
    check("t5", 1).await;
}

/// The encoder out of a whole T5 of version 1.1, as flan-t5 is.
#[tokio::test]
async fn gated_t5() {
    check("t5-gated", 1).await;
}

#[tokio::test]
async fn dpr() {
    check("dpr-context", 2).await;
    check("dpr-question", 2).await;
}

#[tokio::test]
async fn static_embeddings() {
    check("model2vec", 1).await;
}

#[test]
fn the_texts_are_split_as_by_nltk() {
    let texts = fixture("families/texts.json");
    for entry in texts.as_array().expect("a list") {
        let text = collapse_whitespace(entry["text"].as_str().expect("a text"));
        let sentences: Vec<_> = split_sentences(&text).into_iter().map(|span| &text[span]).collect();
        assert_eq!(Value::from(sentences), entry["sentences"]);
    }
}

/// What the goldens are only worth something with: tokenizers and texts that meet every rule.
#[tokio::test]
async fn the_texts_reach_the_limits() {
    for (family, limits) in [
        ("bert", [500, 100, 512]),
        ("bert-multilingual", [500, 128, 512]),
        ("distilbert", [500, 512, 512]),
        ("roberta", [500, 64, 512]),
        ("xlm-roberta", [500, 512, 512]),
        ("mpnet", [500, 384, 512]),
        ("t5", [500, 256, 512]),
        ("t5-gated", [500, 512, 512]),
    ] {
        for (profile, limit) in ["transformers", "sentence-transformers", "onnx"].into_iter().zip(limits) {
            let backend = LocalBackend::load(&mode(family, profile).0).expect("the model loads");
            assert_eq!(backend.max_tokens(), limit, "{family} {profile}");
            let answers = backend.embed(Call::passages(texts())).await.expect("the call");
            let truncated = answers.iter().flatten().filter(|answer| answer.truncated).count();
            assert!((1..8).contains(&truncated), "{family} {profile}: {truncated} texts over the limit");
        }
    }
}

#[tokio::test]
async fn dpr_says_which_habit_of_the_reference_it_keeps() {
    let quirks = |profile: &str| {
        let backend = LocalBackend::load(&mode("dpr-context", profile).0).expect("the model loads");
        backend.meta().to_json()["sidecar"]["reference_quirks"].clone()
    };
    let kept = quirks("transformers");
    assert!(kept[0].as_str().is_some_and(|quirk| quirk.contains("25 sentences")), "{kept}");
    assert_eq!(quirks("direct"), Value::from(Vec::<String>::new()));
}

#[test]
fn auto_serves_t5_and_static_embeddings_as_the_reference_does() {
    for (family, profile) in [
        ("t5", Profile::SentenceTransformers),
        ("t5-gated", Profile::SentenceTransformers),
        ("model2vec", Profile::SentenceTransformers),
        ("dpr-question", Profile::Transformers),
    ] {
        let dir = dir(family);
        let description = ModelDescription::read(&dir, &dir).expect("a description");
        assert_eq!(description.auto_profile(Default::default(), None).0, profile, "{family}");
    }
    let load = |profile| LocalBackend::load(&mode("model2vec", profile).0).map(|_| ());
    assert!(load("transformers").expect_err("a table is no transformer").message().contains("sentence-transformers"));
    assert!(load("onnx").is_err());
}

/// What was chosen for a model is in `/meta`, and another mask is another fingerprint.
#[test]
fn meta_says_which_mask_and_which_prompts_were_chosen() {
    let said = |marker_root| {
        let options = LocalOptions { profile: Some(Profile::SentenceTransformers), ..LocalOptions::new(dir("gemma3")) };
        let backend = LocalBackend::load(&LocalOptions { marker_root, ..options }).expect("a model");
        backend.meta().to_json()["sidecar"].clone()
    };
    let (configured, container) = (said(None), said(Some(container())));
    assert_eq!(configured["attention"], "bidirectional, with windows");
    assert_eq!(container["attention"], "causal, as in the reference container");
    assert_ne!(configured["fingerprint"], container["fingerprint"]);
    assert_eq!(configured["query_prompt"], "task: search result | query: ");
    assert_eq!(configured["passage_prompt"], "title: none | text: ");
    assert_eq!(configured["pooling"], "mean");
}
