//! A build for GPUs: refused clearly where there is none, and the CPU's vectors where there is one. `make cuda-check` runs this.
#![cfg(feature = "cuda")]

mod support;

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::floats;
use text2vec_sidecar::config::REFERENCE_VARIABLES;

/// What the machine says, as far as a test may guess it: with a driver there are these files.
fn has_driver() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| std::path::Path::new(path).exists())
}

fn sidecar(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
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
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/bert").to_owned()
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
    compile("libcuda.so.1", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cuda/driver.c"));
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

fn vectors(output: &Output) -> Vec<Vec<f32>> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let vector = |line: &str| floats(&serde_json::from_str::<Value>(line).expect("JSON")["vector"]);
    text.lines().map(vector).collect()
}

/// Where there is a card: its vectors beside the CPU's. Where there is none: the same command is refused.
#[test]
fn a_card_makes_the_cpu_s_vectors() {
    let model = model();
    let long = "A long text about many things. ".repeat(20);
    let embed = |flags: &[&str]| {
        run(&mut sidecar(
            &[&["embed", "--model", &model], flags, &["a text", "another one, somewhat longer", &long]].concat(),
        ))
    };
    let on_cpu = embed(&["--device", "cpu"]);
    for (precision, least) in [("f32", 1.0 - 1e-7), ("f16", 0.9999), ("bf16", 0.999)] {
        let on_card = embed(&["--device", "cuda", "--precision", precision]);
        if !has_driver() {
            assert_refused(&on_card, &["no NVIDIA driver"]);
            continue;
        }
        assert_eq!(on_card.status.code(), on_cpu.status.code(), "{}", String::from_utf8_lossy(&on_card.stderr));
        for (a, b) in vectors(&on_cpu).iter().zip(&vectors(&on_card)) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine >= least, "{precision}: cosine {cosine}");
        }
    }
    if !has_driver() {
        println!("no GPU here: vectors of a card were not compared");
    }
}
