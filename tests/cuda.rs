//! A build for GPUs: refused clearly where there is none, and the CPU's vectors where there is one. `make cuda-check` runs this.
//!
//! Without a GPU, a card that is the CPU takes its place: tests/fixtures/cuda/card/driver.cpp says what that shows.
//!
//! On a machine with a GPU and without Rust: `T2V_BIN=<binary> CARGO_MANIFEST_DIR=<repository> <this test> --nocapture`.
#![cfg(feature = "cuda")]

mod support;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use candle_core::cuda::kernels::{self, Module};
use futures_util::FutureExt;
use serde_json::Value;
use support::nearness::{FAMILIES, cosine, family, nearness, precisions, texts};
use support::process::{Connection, Process};
use support::{floats, max_difference, repository};
use text2vec_engine::device;
use text2vec_sidecar::backend::local::{Device, Precision};
use text2vec_sidecar::config::REFERENCE_VARIABLES;

/// What the machine says, as far as a test may guess it: with a driver there are these files.
fn has_driver() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

fn sidecar(arguments: &[&str]) -> Command {
    let binary =
        std::env::var_os("T2V_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_text2vec-sidecar").to_owned().into());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars() {
        if name.starts_with("T2V_") || name.starts_with("HF_") || REFERENCE_VARIABLES.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.env("RUST_LOG", "error").args(arguments).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

/// One line on stderr that holds every given word, exit code 1, nothing on stdout.
fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "more than a line: {text}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

fn model() -> String {
    family("bert").to_str().expect("UTF-8").to_owned()
}

/// Every way to ask for a GPU, in every command that computes.
#[test]
fn a_gpu_that_is_not_there_is_refused_and_never_replaced_by_the_cpu() {
    let model = model();
    let refusals: &[&str] = match has_driver() {
        false => &["a GPU is asked for", "no NVIDIA driver", "libcuda.so.1", "--gpus all", "--device cpu"],
        true => &["a GPU is asked for", "no card cuda:63", "CUDA_CORE", "--device cpu"],
    };
    // Card 63 is not there even on a machine with GPUs.
    let serve = ["--model", &model, "--listen", "127.0.0.1:0"];
    assert_refused(&run(sidecar(&serve).args(["--device", "cuda:63"])), refusals);
    assert_refused(&run(sidecar(&serve).args(["--device", "cuda:63,62"])), refusals);
    assert_refused(&run(sidecar(&serve).env("T2V_DEVICE", "cuda:63")), refusals);
    assert_refused(&run(sidecar(&serve).args(["--check", "--device=cuda:63", "--precision=f16"])), refusals);
    assert_refused(&run(&mut sidecar(&["embed", "--model", &model, "--device", "cuda:63", "a text"])), refusals);
    for enabled in ["1", "true"] {
        let mut command = sidecar(&serve);
        assert_refused(&run(command.env("ENABLE_CUDA", enabled).env("CUDA_CORE", "cuda:63")), refusals);
    }
    if !has_driver() {
        assert_refused(&run(sidecar(&serve).env("ENABLE_CUDA", "1")), refusals);
        assert_refused(&run(sidecar(&serve).args(["--device", "cuda"])), refusals);
    }
}

/// A folder with a driver that says what it is told, and with these libraries, which hold nothing.
fn fake_driver(libraries: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let compile = |file: &str, source: &str| {
        let mut command = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
        command.args(["-shared", "-fPIC", "-x", "c", source, "-o"]).arg(folder.path().join(file));
        assert!(command.stdin(Stdio::null()).status().expect("a C compiler").success());
    };
    compile("libcuda.so.1", repository().join("tests/fixtures/cuda/driver.c").to_str().expect("UTF-8"));
    libraries.iter().for_each(|library| compile(library, "/dev/null"));
    folder
}

/// Every refusal that another machine would show, by the real binary.
#[test]
fn drivers_and_cards_that_do_not_fit_are_refused_with_the_remedy() {
    let model = model();
    let libraries = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];
    let (whole, bare) = (fake_driver(&libraries), fake_driver(&[]));
    let refused = |folder: &tempfile::TempDir, device: &str, says: &[(&str, &str)], words: &[&str]| {
        let mut command = sidecar(&["embed", "--model", &model, "--device", device, "a text"]);
        command.env("LD_LIBRARY_PATH", folder.path()).envs(says.iter().copied());
        assert_refused(&run(&mut command), &[words, &["--device cpu"]].concat());
    };
    refused(&whole, "cuda", &[("FAKE_DRIVER_VERSION", "12040")], &["for CUDA 12.4", "needs 13.", "newer driver"]);
    // A machine that has the real libraries finds them.
    if !has_driver() {
        refused(&bare, "cuda", &[], &["libcublasLt.so.13", "libcurand.so.10", "LD_LIBRARY_PATH"]);
    }
    let broken = [("FAKE_DRIVER_ERROR", "803")];
    refused(&whole, "cuda", &broken, &["does not start", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "nvidia-smi"]);
    for none in [("FAKE_DRIVER_ERROR", "100"), ("FAKE_CARDS", "0")] {
        refused(&whole, "cuda", &[none], &["shows no card", "CUDA_VISIBLE_DEVICES"]);
    }
    let cards = ["no card cuda:2", "cuda:0 (New card), cuda:1 (Old card)"];
    refused(&whole, "cuda:0,2", &[], &cards);
    refused(&whole, "cuda:0,1", &[], &["cuda:1 (Old card)", "capability 6.1", "CUDA_COMPUTE_CAP=61"]);
    // All that was asked fits, but the card does not start: this driver can no more than answer.
    refused(&whole, "cuda:0", &[], &["cuda:0 (New card) cannot be used", "CUDA_ERROR_STUB_LIBRARY", "nvidia-smi"]);
}

#[test]
fn nonsense_is_refused_before_anything_is_asked_of_a_driver() {
    let model = model();
    let output = run(sidecar(&["embed", "--model", &model, "x"]).env("ENABLE_CUDA", "1").env("CUDA_CORE", "first"));
    assert_refused(&output, &["CUDA_CORE is 'first'", "cuda:0", "ENABLE_CUDA"]);
    let output = run(&mut sidecar(&["embed", "--model", &model, "--device", "cuda:0,0", "x"]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("twice"));
}

#[test]
fn the_cpu_is_used_where_it_is_asked_for() {
    let model = model();
    for command in [
        &mut sidecar(&["embed", "--model", &model, "a text"]),
        sidecar(&["embed", "--model", &model, "--device", "cpu", "a text"]).env("ENABLE_CUDA", "1"),
        sidecar(&["embed", "--model", &model, "a text"]).env("ENABLE_CUDA", "0").env("CUDA_CORE", "first"),
    ] {
        let output = run(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!vectors(&output)[0].is_empty());
    }
    let printed = |command: &mut Command| String::from_utf8(run(command).stdout).expect("UTF-8");
    let line = |text: String| text.lines().find(|line| line.starts_with("device")).expect("a line").to_owned();
    let wanted = line(printed(sidecar(&["--print-config"]).env("ENABLE_CUDA", "1").env("CUDA_CORE", "cuda:1")));
    assert!(wanted.contains("cuda:1") && wanted.contains("ENABLE_CUDA"), "{wanted}");
}

/// Candle looks its kernels up by name when they are first needed. All that the executor needs are in this build, for every
/// precision.
#[test]
fn the_kernels_of_every_precision_are_in_this_build() {
    let has = |module: &Module, name: &str| module.ptx().contains(&format!(".entry {name}("));
    let mut needed = vec![(&kernels::BINARY, "badd_u32".to_owned()), (&kernels::INDEXING, "is_u32_f32".to_owned())];
    for precision in ["f32", "f16", "bf16"] {
        let of_each: [(&Module, &[&str]); 4] = [
            (&kernels::UNARY, &["ugelu_erf", "ugelu", "urelu", "ucopy"]),
            (&kernels::BINARY, &["badd", "bmul"]),
            (&kernels::REDUCE, &["softmax", "layernorm", "rmsnorm"]),
            (&kernels::INDEXING, &["is_u32"]),
        ];
        for (module, names) in of_each {
            needed.extend(names.iter().map(|name| (module, format!("{name}_{precision}"))));
        }
        if precision != "f32" {
            needed.push((&kernels::CAST, format!("cast_f32_{precision}")));
            needed.push((&kernels::CAST, format!("cast_{precision}_f32")));
        }
    }
    let missing: Vec<_> = needed.iter().filter(|(module, name)| !has(module, name)).map(|(_, name)| name).collect();
    assert!(missing.is_empty(), "not in this build, for cards of this capability: {missing:?}");
    assert!(!has(&kernels::UNARY, "no_such_kernel"));
}

fn vectors(output: &Output) -> Vec<Vec<f32>> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let vector = |line: &str| floats(&serde_json::from_str::<Value>(line).expect("JSON")["vector"]);
    text.lines().map(vector).collect()
}

/// Where there is a card, its vectors beside the CPU's: all families' tiny models, the real one where it is, and as the binary
/// prints them. Where there is none it says so, in a line that `make cuda-check` repeats at its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_makes_the_cpu_s_vectors() {
    let cards = match device::open(&Device::Cuda(vec![0])) {
        Ok(cards) => cards,
        Err(error) => {
            assert!(!has_driver(), "there is a driver, but: {error}");
            println!("NO GPU HERE: no vector of a card was compared");
            return;
        }
    };
    let own = texts();
    let mut models: Vec<_> = FAMILIES.iter().map(|name| (*name, family(name), own.clone())).collect();
    let real = repository().join("models/all-MiniLM-L6-v2");
    if real.join("model.safetensors").is_file() {
        let corpus = include_str!("../benches/corpus.jsonl").lines().take(500);
        let text =
            |line| serde_json::from_str::<Value>(line).expect("JSON")["text"].as_str().expect("a text").to_owned();
        models.push(("all-MiniLM-L6-v2", real, own.iter().cloned().chain(corpus.map(text)).collect()));
    } else {
        println!("all-MiniLM-L6-v2 is not there (`make model`): tiny models only");
    }
    let mut failed = Vec::new();
    for (name, path, texts) in &models {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for precision in precisions(name) {
            // A card is not at hand every day: one that fails does not hide the others.
            match AssertUnwindSafe(nearness(path, &cards, precision, &texts)).catch_unwind().await {
                Ok(found) => {
                    println!("{}, {name} in {precision}: {found}", cards[0].name);
                    if !found.suffices(name, precision) {
                        failed.push(format!("{name} in {precision}"));
                    }
                }
                Err(_) => failed.push(format!("{name} in {precision}, which panicked")),
            }
        }
    }
    assert!(failed.is_empty(), "too far from the CPU's vectors: {failed:?}");
    println!("COMPARED ON A CARD: {}", cards[0].name);
}

/// The same by the real binary; without a card it refuses.
#[test]
fn the_binary_embeds_on_a_card() {
    let model = model();
    let embed =
        |flags: &[&str]| run(&mut sidecar(&[&["embed", "--model", &model], flags, &["a text", "another"]].concat()));
    let (on_cpu, on_card) = (embed(&["--device", "cpu"]), embed(&["--device", "cuda"]));
    if !has_driver() {
        assert_refused(&on_card, &["no NVIDIA driver"]);
        return;
    }
    assert!(on_card.status.success(), "{}", String::from_utf8_lossy(&on_card.stderr));
    let differences =
        vectors(&on_cpu).iter().zip(&vectors(&on_card)).map(|(a, b)| max_difference(a, b)).collect::<Vec<_>>();
    assert!(differences.len() == 2 && differences.iter().all(|&difference| difference <= 1e-4), "{differences:?}");
}

/// Where the libraries of a card that is the CPU lie.
fn stand_in() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("card");
        let mut build = Command::new("sh");
        build.arg(repository().join("tests/fixtures/cuda/card/build.sh")).arg(&folder).stdin(Stdio::null());
        assert!(build.status().expect("a shell").success(), "the card's libraries do not compile");
        folder
    })
}

/// A family's tiny model that takes texts of up to 48 tokens: there is less to try at start.
fn short_model(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    for file in family(name).read_dir().expect("a family's files") {
        let file = file.expect("a file");
        std::os::unix::fs::symlink(file.path(), folder.path().join(file.file_name())).expect("a link");
    }
    let config = folder.path().join("sentence_bert_config.json");
    // The link goes, not what it names.
    std::fs::remove_file(&config).ok();
    std::fs::write(config, r#"{"max_seq_length": 48, "do_lower_case": false}"#).expect("a file");
    folder
}

/// `embed` with this model. Batches of 1024 tokens fit into the card's memory, and not many more, unless the variables say
/// otherwise: what is tried at start is soon done.
fn embed(model: &tempfile::TempDir, flags: &[&str], texts: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = sidecar(&["embed", "--model", model.path().to_str().expect("UTF-8")]);
    command.args(flags).args(texts).env("LD_LIBRARY_PATH", stand_in());
    run(command.env("FAKE_CARD_MEMORY", "12000000").envs(variables.iter().copied()))
}

/// Everything between the command line and the kernels, by the real binary.
#[test]
fn a_card_that_is_the_cpu_makes_the_cpu_s_vectors() {
    if has_driver() {
        return;
    }
    let families = ["bert", "mpnet", "modernbert", "qwen3", "gemma3", "nomic-bert-moe"];
    let halves = [("bert", "f16"), ("bert", "bf16"), ("qwen3", "f16"), ("qwen3", "bf16")];
    let long = "A text about many things, one after another. ".repeat(7);
    let texts = ["a text", "Another text, which is somewhat longer.", &long];
    for (name, precision) in families.map(|name| (name, "f32")).into_iter().chain(halves) {
        let model = short_model(name);
        // Memory is taken in two ways.
        let pools: &[_] = if precision == "f16" { &[("FAKE_CARD_NO_POOLS", "1")] } else { &[] };
        let on_cpu = embed(&model, &["--device", "cpu"], &texts, &[]);
        let on_card = embed(&model, &["--device", "cuda", "--precision", precision], &texts, pools);
        assert!(on_card.status.success(), "{name} in {precision}: {}", String::from_utf8_lossy(&on_card.stderr));
        let (wanted, found) = (vectors(&on_cpu), vectors(&on_card));
        assert!(wanted.len() == texts.len() && found.len() == texts.len());
        for (wanted, found) in wanted.iter().zip(&found) {
            let (difference, cosine) = (max_difference(wanted, found), cosine(wanted, found));
            println!("the CPU as a card, {name} in {precision}: difference {difference:.1e}, cosine {cosine:.7}");
            let suffices = match precision {
                "f32" => difference <= 1e-5,
                "f16" => cosine >= 0.9999,
                _ => cosine >= 0.999,
            };
            assert!(suffices, "{name} in {precision}: difference {difference:.1e}, cosine {cosine:.7}");
        }
    }
}

#[test]
fn a_card_without_memory_for_a_model_is_refused_with_the_remedy() {
    if has_driver() {
        return;
    }
    // Little more than cuBLASLt's workspace.
    let variables = [("FAKE_CARD_MEMORY", "8500000")];
    let output = embed(&short_model("bert"), &["--device", "cuda"], &["a text"], &variables);
    assert_refused(&output, &["no memory left for this model", "--device cuda:N", "--precision f16"]);
}

/// How many graphs were launched, by a card's report.
fn graphs_of(output: &Output) -> usize {
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let graphs = report.split(" launches, ").nth(1).and_then(|rest| rest.split_once(" of them of graphs"));
    graphs.and_then(|(count, _)| count.parse().ok()).expect("a report")
}

/// The text that meets it is answered, and so are those after it; probes hear of it, as only a new process can use the card.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_card_fails_is_neither_ready_nor_alive() {
    if has_driver() {
        return;
    }
    let model = short_model("bert");
    let graphs = graphs_of(&embed(&model, &["--device", "cuda"], &["a text"], &[("FAKE_CARD_REPORT", "1")]));
    let mut command = Process::command();
    command.args(["--model", model.path().to_str().expect("UTF-8"), "--device", "cuda"]);
    command.env("LD_LIBRARY_PATH", stand_in()).env("FAKE_CARD_MEMORY", "12000000");
    // After what a start computes, and some texts.
    command.env("FAKE_CARD_FAILS_AT_GRAPH", (graphs + 10).to_string());
    let server = Process::launch(command).await;
    let mut connection = Connection::open(server.address).await.expect("a connection");
    let mut answered = 0;
    let (status, text) = loop {
        let body = serde_json::json!({"text": format!("text {answered}")}).to_string();
        let answer = connection.post(body).await.expect("an answer");
        if answer.status() != 200 {
            break (answer.status(), String::from_utf8_lossy(answer.body()).into_owned());
        }
        answered += 1;
        assert!(answered < 100, "the card does not fail");
    };
    assert!(
        answered > 0 && status == 500 && text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"),
        "{answered}, {status}: {text}"
    );
    let answer = connection.post(r#"{"text": "another"}"#).await.expect("an answer");
    let text = String::from_utf8_lossy(answer.body());
    assert!(answer.status() == 503 && text.contains("its GPU has failed"), "{}: {text}", answer.status());
    for probe in ["/.well-known/ready", "/.well-known/live"] {
        assert_eq!(connection.get(probe).await.expect("an answer").status(), 503, "{probe}");
    }
}

/// A card that fails goes on failing, as real ones do: at its first launch, while batches are tried, while passes are recorded, and
/// at the first text, which is computed by the last graph that is launched.
#[test]
fn a_card_that_fails_ends_the_command_with_its_words() {
    if has_driver() {
        return;
    }
    let model = short_model("bert");
    let embed = |variable: &str, value: usize| {
        let variables = [("FAKE_CARD_MEMORY", "1000000000"), (variable, &value.to_string())];
        embed(&model, &["--device", "cuda"], &["a text"], &variables)
    };
    let graphs = graphs_of(&embed("FAKE_CARD_REPORT", 1));
    for (variable, value) in
        [("FAKE_CARD_FAILS_AT", 1), ("FAKE_CARD_FAILS_AT", 100), ("FAKE_CARD_FAILS_AT_GRAPH", graphs - 1)]
    {
        assert_refused(&embed(variable, value), &["the forward pass failed"]);
    }
    let output = embed("FAKE_CARD_FAILS_AT_GRAPH", graphs);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("could not be embedded") && !text.contains("panicked"), "{text}");
}
