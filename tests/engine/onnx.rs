//! Quantised ONNX graphs: bit for bit what ONNX Runtime 1.22 makes of them. `fixtures/onnx/make.py` made the tiny ones.

use crate::support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{fixture, floats};
use text2vec_engine::encoder::{Encoder, TokenBatch};
use text2vec_engine::onnx::OnnxEncoder;
use text2vec_kernel::Kernels;
use text2vec_kernel::quantized::Arithmetic;
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;

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

/// What the runtime made of each text on an architecture.
fn golden(model: &str, arithmetic: Arithmetic) -> Value {
    let file = match arithmetic {
        Arithmetic::X86_64 => "golden",
        Arithmetic::Arm64 => "golden.arm64",
    };
    fixture(&format!("onnx/{model}/{file}.json"))
}

#[test]
fn hidden_states_have_the_bits_of_the_original() {
    for (model, arithmetic) in MODELS.into_iter().flat_map(|model| Arithmetic::ALL.map(|it| (model, it))) {
        let golden = golden(model, arithmetic);
        let results = golden["results"].as_array().expect("results");
        assert!(results.len() >= 12);
        for kernels in Kernels::available() {
            for threads in [1, 2, 3] {
                let mut encoder = OnnxEncoder::from_bytes(&graph(model), (kernels, arithmetic), threads).expect(model);
                let mut together = TokenBatch::new();
                let mut alone = Vec::new();
                for entry in results {
                    let ids = ids(entry);
                    let types = vec![0; ids.len()];
                    let mut batch = TokenBatch::new();
                    batch.push(&ids, &types);
                    together.push(&ids, &types);
                    let states = encoder.forward(&batch).expect("states");
                    alone.extend_from_slice(&states.values);
                    let want: Vec<f32> = floats(&entry["first_state"]);
                    let text = &entry["text"];
                    assert_eq!(states.rows(0..1), want, "{model} {arithmetic} {kernels:?} {threads} threads: {text}");
                }
                assert_eq!(encoder.forward(&together).expect("states").values, alone, "{model}: neighbours matter");
            }
        }
    }
}

/// The directory alone says whose vectors it has, whatever CPU we run on.
#[tokio::test]
async fn a_directory_of_an_arm64_image_has_that_image_s_vectors() {
    let model = "xlm-roberta-u8";
    let copy = tempfile::tempdir().expect("a directory");
    for file in std::fs::read_dir(dir(model)).expect("the model").flatten() {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
    }
    let load = || LocalBackend::load(&LocalOptions::new(copy.path())).expect("the model loads");
    let vectors = async |backend: &LocalBackend, entries: &[Value]| {
        let texts = entries.iter().map(|entry| entry["text"].as_str().expect("text"));
        let answers = backend.embed(Call::passages(texts)).await.expect("the call");
        answers.into_iter().map(|answer| answer.expect("a vector").vector).collect::<Vec<_>>()
    };
    let mut fingerprints = Vec::new();
    for (made_for, arithmetic, precision) in [
        ("AVX-512", Arithmetic::X86_64, "int8 (onnx)"),
        ("amd64 (AVX2)", Arithmetic::X86_64, "int8 (onnx)"),
        ("ARM64", Arithmetic::Arm64, "int8 (onnx, arm64)"),
    ] {
        std::fs::write(copy.path().join("onnx_quantization_info"), made_for).expect("the marker");
        let backend = load();
        assert_eq!(backend.meta().to_json()["sidecar"]["precision"], precision);
        fingerprints.push(backend.info().fingerprint.clone());
        let golden = golden(model, arithmetic);
        let results = golden["results"].as_array().expect("results");
        for (vector, entry) in vectors(&backend, results).await.iter().zip(results) {
            let apart = support::max_difference(vector, &floats(&entry["vector"]));
            assert!(apart < 2e-7, "{made_for}: {apart} for {}", entry["text"]);
        }
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
    assert_ne!(fingerprints[0], fingerprints[2], "another codes, another fingerprint");
}

#[tokio::test]
async fn a_directory_of_an_onnx_image_is_served_as_the_reference_does() {
    for model in MODELS {
        let backend = LocalBackend::load(&LocalOptions::new(dir(model))).expect("the model loads");
        assert_eq!(backend.profile(), (Profile::Onnx, "the marker file onnx_runtime"));
        assert_eq!(backend.meta().to_json()["sidecar"]["precision"], "int8 (onnx)");
        let golden = fixture(&format!("onnx/{model}/golden.json"));
        for entry in golden["results"].as_array().expect("results") {
            let call = Call::passage(entry["text"].as_str().expect("text"));
            let vector = backend.embed(call).await.expect("the call").remove(0).expect("a vector").vector;
            let cosine = cosine(&vector, &floats(&entry["vector"]));
            assert!(cosine > 0.999_999_9, "{model}: {cosine} for {}", entry["text"]);
        }
    }
}

/// As somebody starts it who has such a directory.
#[test]
fn the_program_serves_a_directory_with_nothing_but_a_graph() {
    for model in MODELS {
        let mut program = support::program();
        let output = program.args(["embed", "--model"]).arg(dir(model)).arg("hello").output().expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{model}: {said}");
        let vector: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
        assert!(!floats(&vector["vector"]).is_empty(), "{model}: {vector}");
    }
}

/// The reference's own vectors for the real model, wherever it lies.
#[tokio::test]
async fn the_real_image_gives_the_references_vectors() {
    let Some(dir) = std::env::var_os("T2V_TEST_ONNX_DIR") else {
        return println!("T2V_TEST_ONNX_DIR names no directory: only the tiny models are tested");
    };
    let backend = LocalBackend::load(&LocalOptions::new(PathBuf::from(dir))).expect("the model loads");
    assert_eq!(backend.profile().0, Profile::Onnx);
    let (texts, golden) = (fixture("minilm/texts.json"), fixture("minilm/D-avx2.json"));
    let results = golden["results"].as_array().expect("results");
    let mut cosines = Vec::new();
    let mut worst = 0f32;
    for (text, result) in texts.as_array().expect("a list").iter().zip(results) {
        assert_eq!(text["id"], result["id"]);
        let call = Call::passage(text["text"].as_str().expect("text"));
        let vector = backend.embed(call).await.expect("the call").remove(0).expect("a vector").vector;
        let want: Vec<f32> = floats(&result["vector"]);
        cosines.push(cosine(&vector, &want));
        worst = vector.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    cosines.sort_by(f64::total_cmp);
    let (least, median) = (cosines[0], cosines[cosines.len() / 2]);
    println!("{} texts: cosine min {least:.9}, median {median:.9}; largest difference {worst:e}", cosines.len());
    assert_eq!(cosines.len(), 54);
    assert!(median >= 0.999_99 && least >= 0.999_99);
}

/// A protocol buffer that can be changed: fields by number.
mod buffer {
    pub(super) fn number(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    pub(super) fn field(id: u64, content: &[u8]) -> Vec<u8> {
        [number(id << 3 | 2), number(content.len() as u64), content.to_vec()].concat()
    }

    pub(super) fn integer(id: u64, value: i64) -> Vec<u8> {
        [number(id << 3), number(value as u64)].concat()
    }

    /// The fields of a message: id, and the bytes of those that have a length.
    pub(super) fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        fn take(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let start = bytes;
            let tag = take(&mut bytes);
            let mut content = Vec::new();
            match tag & 7 {
                0 => {
                    take(&mut bytes);
                }
                2 => {
                    let length = take(&mut bytes) as usize;
                    content = bytes[..length].to_vec();
                    bytes = &bytes[length..];
                }
                5 => bytes = &bytes[4..],
                kind => panic!("kind {kind}"),
            }
            found.push((tag >> 3, content, start[..start.len() - bytes.len()].to_vec()));
        }
        found
    }
}

/// The graph with every field of the given number changed; `None` keeps it.
fn with(bytes: &[u8], id: u64, mut change: impl FnMut(&[u8]) -> Option<Vec<Vec<u8>>>) -> Vec<u8> {
    let mut changed = 0;
    let mut graph = Vec::new();
    let mut model = Vec::new();
    for (number, content, whole) in buffer::fields(bytes) {
        if number != 7 {
            model.extend(whole);
            continue;
        }
        for (number, content, whole) in buffer::fields(&content) {
            match (number == id).then(|| change(&content)).flatten() {
                Some(contents) => {
                    changed += 1;
                    contents.iter().for_each(|content| graph.extend(buffer::field(id, content)));
                }
                None => graph.extend(whole),
            }
        }
    }
    assert!(changed > 0, "nothing was changed");
    model.extend(buffer::field(7, &graph));
    model
}

const NODE: u64 = 1;
const WEIGHT: u64 = 5;

/// Whether a node or a weight has some text in it: names, types.
fn has(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|window| window == text.as_bytes())
}

fn replace(content: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut content = content.to_vec();
    while let Some(at) = content.windows(from.len()).position(|window| window == from.as_bytes()) {
        content[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    content
}

/// A weight with its shape changed, or with fields added.
fn weight(bytes: &[u8], name: &str, drop: &[u64], add: &[Vec<u8>]) -> Vec<u8> {
    with(bytes, WEIGHT, |content| {
        let named = buffer::fields(content).iter().any(|(id, content, _)| *id == 8 && content == name.as_bytes());
        named.then(|| {
            let kept = buffer::fields(content).into_iter().filter(|(id, ..)| !drop.contains(id));
            vec![kept.map(|(.., whole)| whole).chain(add.iter().cloned()).collect::<Vec<_>>().concat()]
        })
    })
}

#[test]
fn broken_graphs_are_errors_that_say_what_is_wrong() {
    let good = graph("bert-u8");
    let bias = "encoder.layer.0.attention.self.query.bias";
    let table = "embeddings.word_embeddings.weight";
    let gamma = "encoder.layer.1.output.LayerNorm.weight";
    let node = |op: &'static str, to: &'static str| {
        with(&good, NODE, |content| has(content, op).then(|| vec![replace(content, op, to)]))
    };
    let without = |text: &'static str, id: u64| with(&good, id, |content| has(content, text).then(Vec::new));
    let nan = f32::NAN.to_le_bytes().repeat(42);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "no graph"),
        ("text", b"not a model".to_vec(), "not an ONNX file"),
        ("zeros", vec![0; 4096], "no graph"),
        ("two graphs", [good.clone(), good.clone()].concat(), "two graphs"),
        ("cut in half", good[..good.len() / 2].to_vec(), "cut off"),
        ("one byte short", good[..good.len() - 1].to_vec(), "cut off"),
        ("endless number", [vec![0x3a], vec![0xff; 12]].concat(), "does not end"),
        ("huge field", [vec![0x3a], buffer::number(u64::MAX)].concat(), "cut off"),
        ("group", vec![0x3b, 0x3c], "no known kind"),
        ("missing weight", without(bias, WEIGHT), "needs 'encoder.layer.0.attention.self.query.bias'"),
        ("missing node", without("Softmax", NODE), "needs '"),
        ("no outputs", without("last_hidden_state", 12), "no output"),
        ("nodes twice", with(&good, NODE, |c| has(c, "Erf").then(|| vec![c.to_vec(), c.to_vec()])), "made twice"),
        ("negative size", weight(&good, bias, &[1], &[buffer::integer(1, -42)]), "has the shape [-42]"),
        ("size too small", weight(&good, bias, &[1], &[buffer::integer(1, 41)]), "the shape [41] but 42 values"),
        ("huge size", weight(&good, bias, &[1], &[buffer::integer(1, i64::MAX)]), "has the shape"),
        (
            "huge product",
            weight(&good, bias, &[1], &(0..8).map(|_| buffer::integer(1, 1 << 30)).collect::<Vec<_>>()),
            "adds no bias",
        ),
        ("many sizes", weight(&good, bias, &[], &vec![buffer::integer(1, 1); 9]), "has the shape"),
        ("another type", weight(&good, bias, &[2], &[buffer::integer(2, 10)]), "of type Other(10)"),
        ("another file", weight(&good, bias, &[9], &[buffer::integer(14, 1)]), "another file"),
        ("NaN bias", weight(&good, bias, &[9], &[buffer::field(9, &nan)]), "not finite"),
        ("NaN norm", weight(&good, gamma, &[9], &[buffer::field(9, &nan)]), "not finite"),
        (
            "NaN scale",
            weight(&good, &format!("{table}_scale"), &[4, 9], &[buffer::field(9, &f32::NAN.to_le_bytes())]),
            "the scale NaN",
        ),
        (
            "scales per channel",
            weight(
                &good,
                &format!("{table}_scale"),
                &[1, 4, 9],
                &[buffer::integer(1, 42), buffer::field(9, &[0; 168])],
            ),
            "one scale per weight",
        ),
        (
            "narrow table",
            weight(&good, &format!("{table}_quantized"), &[1], &[buffer::integer(1, 60), buffer::integer(1, 21)]),
            "42 columns belong",
        ),
        ("another activation", node("Erf", "Sin"), "GELU"),
        ("another softmax", node("Softmax", "Hardmax"), "the attention's softmax"),
        ("static quantisation", node("MatMulInteger", "QLinearMatMul"), "stands where"),
        ("another order", node("Transpose", "Traverse_"), "stands where"),
    ];
    assert!(cases.len() >= 20);
    for (name, bytes, expected) in cases {
        let error = OnnxEncoder::from_bytes(&bytes, (Kernels::detect(), Arithmetic::X86_64), 1).err();
        let error = error.unwrap_or_else(|| panic!("{name} was accepted"));
        assert!(error.message().contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_graph_in_a_circle_is_refused() {
    // Softmax of its own result.
    let good = graph("bert-u8");
    let looped = with(&good, NODE, |content| {
        has(content, "Softmax").then(|| {
            let fields = buffer::fields(content);
            let output = fields.iter().find(|(id, ..)| *id == 2).expect("an output").1.clone();
            let field = |(id, _, whole): &(u64, Vec<u8>, Vec<u8>)| {
                if *id == 1 { buffer::field(1, &output) } else { whole.clone() }
            };
            vec![fields.iter().map(field).collect::<Vec<_>>().concat()]
        })
    });
    let error = OnnxEncoder::from_bytes(&looped, (Kernels::detect(), Arithmetic::X86_64), 1).expect_err("an error");
    assert!(error.message().contains("neither a weight nor a node before it"), "{error}");
}

#[test]
fn a_graph_cut_anywhere_is_an_error() {
    let good = graph("bert-u8");
    for cut in (0..good.len()).step_by(211) {
        assert!(
            OnnxEncoder::from_bytes(&good[..cut], (Kernels::detect(), Arithmetic::X86_64), 1).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_changed_byte_never_panics() {
    let good = graph("bert-u8");
    let mut state = 1u64;
    for _ in 0..400 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut bytes = good.clone();
        let at = (state >> 33) as usize % bytes.len();
        bytes[at] = (state >> 20) as u8;
        // Many a change is of a weight's code, which makes another model.
        if let Ok(mut encoder) = OnnxEncoder::from_bytes(&bytes, (Kernels::detect(), Arithmetic::X86_64), 1) {
            let mut batch = TokenBatch::new();
            batch.push(&[2, 5, 6, 3], &[0; 4]);
            assert!(encoder.forward(&batch).is_ok_and(|states| states.values.len() == 4 * 42));
        }
    }
}

#[test]
fn a_graph_that_cannot_be_run_names_the_file_the_node_and_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("model_quantized.onnx");
    let changed = with(&graph("bert-u8"), NODE, |c| has(c, "Erf").then(|| vec![replace(c, "Erf", "Sin")]));
    std::fs::write(&path, changed).expect("a file");
    let error = OnnxEncoder::load(&path, (Kernels::detect(), Arithmetic::X86_64), 1).expect_err("an error");
    for part in ["model_quantized.onnx cannot be run", "/intermediate_act_fn/", "--profile onnx", "safetensors"] {
        assert!(error.message().contains(part), "{error}");
    }
}

#[test]
fn bad_input_is_an_error() {
    let mut encoder =
        OnnxEncoder::from_bytes(&graph("bert-u8"), (Kernels::detect(), Arithmetic::X86_64), 2).expect("the model");
    let mut forward = |ids: &[u32]| {
        let mut batch = TokenBatch::new();
        batch.push(ids, &vec![0; ids.len()]);
        encoder.forward(&batch)
    };
    assert!(forward(&[5; 81]).is_err_and(|error| error.message().contains("the model takes 80")));
    assert!(forward(&[999]).is_err_and(|error| error.message().contains("the model knows")));
    assert_eq!(forward(&[]).expect("nothing").values.len(), 0);
    assert_eq!(forward(&[5; 80]).expect("states").values.len(), 80 * 42);
}

/// Which weights are taken where a directory has both: the reference's marker decides, and a chosen profile.
#[test]
fn the_marker_decides_between_graph_and_f32_weights() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = |name: &str| std::fs::copy(self::dir("bert-u8").join(name), dir.path().join(name)).expect("a copy");
    for name in ["model_quantized.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        copy(name);
    }
    let load =
        |profile: Option<Profile>| LocalBackend::load(&LocalOptions { profile, ..LocalOptions::new(dir.path()) });
    let precision = |backend: LocalBackend| backend.meta().to_json()["sidecar"]["precision"].clone();
    let alone = load(None).expect("a graph alone");
    assert_eq!(alone.profile(), (Profile::Onnx, "there are no weights but model_quantized.onnx"));
    assert_eq!(precision(alone), "int8 (onnx)");
    // Weights that are there but cannot be read: who asks for them sees why.
    std::fs::write(dir.path().join("model.safetensors"), b"broken").expect("a file");
    let error = load(None).expect_err("f32 weights come first");
    assert!(error.message().contains("model.safetensors"), "{error}");
    copy("onnx_runtime");
    assert_eq!(precision(load(None).expect("the marker")), "int8 (onnx)");
    assert!(load(Some(Profile::Transformers)).is_err_and(|error| error.message().contains("model.safetensors")));
}
