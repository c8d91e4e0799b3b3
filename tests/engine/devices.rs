//! Everything that a GPU's way has and the CPU's has not, but for the card: cards that are the CPU itself. The refusals of a
//! real build for GPUs are in `cuda.rs`.

use crate::support;

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use support::nearness::{FAMILIES, Nearness, cosine, family, load_on, nearness, precisions, texts};
use support::{fixture, floats, max_difference};
use text2vec_engine::device::Card;
use text2vec_kernel::Kernels;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Engine, LocalBackend, LocalOptions, Precision};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::Result;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Cards that are the CPU.
fn cards(count: usize) -> Vec<Card> {
    let card = |number| Card { number, name: "no card".to_owned(), device: candle_core::Device::Cpu };
    (0..count).map(card).collect()
}

fn load(count: usize, options: &LocalOptions) -> Result<LocalBackend> {
    load_on(cards(count), options)
}

fn options(name: &str) -> LocalOptions {
    LocalOptions { profile: Some(Profile::SentenceTransformers), ..LocalOptions::new(fixtures(name)) }
}

/// What `cuda.rs` asks of a card, asked of what stands in for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_makes_the_cpu_s_vectors() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().step_by(2).map(String::as_str).collect();
    // Under Candle one of each kind: the others are not told apart by what a device does. Of our kernels some are a family's alone.
    let families = if cfg!(feature = "emulated-gpu") { FAMILIES } else { &["bert", "mpnet", "t5-gated"] };
    for &name in families {
        // That all others have the reference's vectors in f32 is shown by `emulated`.
        let is_shown = !["bert", "mpnet", "t5-gated"].contains(&name);
        for precision in precisions(name).filter(|&precision| precision != Precision::F32 || !is_shown) {
            let found = nearness(&family(name), &cards(1), precision, &texts).await;
            println!("{name} in {precision}: {found}");
            assert!(found.suffices(name, precision), "{name} in {precision}: {found}");
            assert!(found.vectors > texts.len(), "{name}: {found}");
            // Not the same numbers twice: the device has its own, and 16 bits are seen.
            assert!(found.difference > 0.0, "{name} in {precision}: {found}");
            assert!(
                precision == Precision::F32 || !found.suffices(name, Precision::F32),
                "{name} in {precision}: {found}"
            );
        }
    }
    let wrong = |difference, cosine| Nearness { vectors: 1, difference, cosine };
    assert!(!wrong(2e-4, 1.0).suffices("bert", Precision::F32) && !wrong(0.0, 0.99).suffices("bert", Precision::F32));
    assert!(
        !wrong(0.01, 0.9998).suffices("bert", Precision::F16) && !wrong(0.01, 0.998).suffices("bert", Precision::Bf16)
    );
    assert!(!wrong(f64::NAN, f64::NAN).suffices("bert", Precision::F16));
}

/// The reference's vectors, for every family, by many calls at once on two cards.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_shared_out_over_cards_and_have_the_reference_s_vectors() {
    for family in ["bert", "xlm-roberta", "mpnet", "distilbert", "t5-gated", "model2vec"] {
        let golden = &fixture(&format!("families/{family}/golden.json"))["sentence-transformers"];
        let golden: Vec<_> = golden.as_array().expect("vectors").iter().collect();
        let texts = fixture("families/texts.json");
        let texts = texts.as_array().expect("texts").iter().map(|entry| entry["text"].as_str().expect("a text"));
        let texts: Vec<&str> = texts.collect();
        let backend =
            load(2, &options(&format!("families/{family}"))).unwrap_or_else(|error| panic!("{family}: {error}"));
        let sidecar = &backend.meta().to_json()["sidecar"];
        assert_eq!(sidecar["device"], "cuda:0,1");
        let own = if cfg!(feature = "emulated-gpu") { "cuda" } else { "candle-packed" };
        assert_eq!(sidecar["engine"], if family == "model2vec" { "candle" } else { own });
        let mut calls = Vec::new();
        for round in 0..8 {
            calls.push(backend.embed(Call::passages(texts.iter().copied())));
            let text = texts[round % texts.len()];
            calls.push(backend.embed(Call::query(text)));
        }
        let answers = join_all(calls).await;
        let mut compared = 0;
        for answers in answers.into_iter().step_by(2) {
            for (answer, golden) in answers.expect("the call").iter().zip(&golden) {
                if golden.is_null() {
                    continue;
                }
                let off = max_difference(&answer.as_ref().expect("a vector").vector, &floats(golden));
                assert!(off <= 1e-5, "{family}: {off:e}");
                compared += 1;
            }
        }
        assert!(compared >= 8 * 12, "{family}: {compared}");
    }
}

/// The kernels for GPUs themselves, on the CPU: `make gpu-check`.
#[cfg(feature = "emulated-gpu")]
#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_for_gpus_have_the_reference_s_vectors_of_every_family() {
    let texts = fixture("families/texts.json");
    let texts = texts.as_array().expect("texts").iter().map(|entry| entry["text"].as_str().expect("a text"));
    let texts: Vec<&str> = texts.collect();
    let mut families = 0;
    let mut names: Vec<_> = std::fs::read_dir(fixtures("families")).expect("families").flatten().collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        let family = entry.file_name().into_string().expect("UTF-8");
        // By candle-transformers, and a table.
        if !entry.path().is_dir() || ["deberta-v2", "model2vec"].contains(&family.as_str()) {
            continue;
        }
        let golden = fixture(&format!("families/{family}/golden.json"));
        let Some(golden) = golden["sentence-transformers"].as_array() else { continue };
        let backend = load(1, &options(&format!("families/{family}")));
        let backend = backend.unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(backend.meta().to_json()["sidecar"]["engine"], "cuda", "{family}");
        let answers = backend.embed(Call::passages(texts.iter().copied())).await.expect("the call");
        let (mut worst, mut compared) = (0f64, 0);
        for (answer, golden) in answers.iter().zip(golden).filter(|(_, golden)| !golden.is_null()) {
            worst = worst.max(max_difference(&answer.as_ref().expect("a vector").vector, &floats(golden)));
            compared += 1;
        }
        println!("{family}: {compared} texts, at most {worst:.1e} off");
        assert!(compared >= 12 && worst <= 1e-5, "{family}: {worst:e}, {compared} compared");
        families += 1;
    }
    assert!(families >= 20, "{families}");
}

#[tokio::test]
async fn precisions_are_told_apart() {
    let call = || Call::passage("A text about the precision of numbers, of some length.");
    let exact = LocalBackend::load(&options("families/bert")).expect("on the CPU");
    let wanted = exact.embed(call()).await.expect("the call").remove(0).expect("a vector").vector;
    let mut fingerprints = Vec::new();
    for (precision, name, least) in [
        (Precision::F32, "f32", 1.0 - 1e-9),
        (Precision::F16, "f16 throughout", 0.9999),
        (Precision::Bf16, "bf16 throughout", 0.999),
    ] {
        let backend = load(1, &LocalOptions { precision, ..options("families/bert") }).expect("it loads");
        assert_eq!(backend.meta().to_json()["sidecar"]["precision"], name);
        let vector = backend.embed(call()).await.expect("the call").remove(0).expect("a vector").vector;
        let found = cosine(&vector, &wanted);
        assert!(found >= least, "{precision}: {found}");
        fingerprints.push(backend.info().fingerprint.clone());
    }
    // The CPU's f32 vectors but for rounding, so the CPU's fingerprint; 16 bits throughout are something else.
    assert_eq!(fingerprints[0], exact.info().fingerprint);
    let half = LocalBackend::load(&LocalOptions { precision: Precision::F16, ..options("families/bert") });
    fingerprints.push(half.expect("on the CPU").info().fingerprint.clone());
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 4);
}

#[test]
fn what_only_the_cpu_can_do_is_refused_on_a_card() {
    let refused = |options: LocalOptions, words: &[&str]| {
        let error = load(1, &options).expect_err("a refusal");
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    };
    let bert = || options("families/bert");
    refused(LocalOptions { precision: Precision::Int8, ..bert() }, &["--precision int8", "f16, bf16 or f32"]);
    let kernels = Engine::Kernels(Kernels::detect().instruction_set());
    for engine in [kernels, Engine::Candle] {
        refused(LocalOptions { engine, ..bert() }, &["--engine", "--device cpu"]);
    }
    refused(LocalOptions::new(fixtures("onnx/bert-u8")), &["model_quantized.onnx", "--device cpu", "safetensors"]);
    refused(LocalOptions { precision: Precision::F16, ..options("families/model2vec") }, &["f32 only"]);
    assert!(load(1, &LocalOptions { engine: Engine::CandlePacked, ..bert() }).is_ok());
}
