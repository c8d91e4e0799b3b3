//! `compare`: a server and a model here, as somebody asks who wants to swap one for the other.

use crate::support;

use std::process::{Command, Output};

use support::{FakeBackend, TestServer, model_dir, options};
use text2vec_sidecar::contract::request::Profile;

async fn compare(url: String, profile: &'static str, texts: Option<&'static str>) -> Output {
    let run = move || {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
        command.args(["compare", &url]).arg(model_dir()).args(["--profile", profile]).env("RUST_LOG", "error");
        if let Some(texts) = texts {
            let path = dir.path().join("texts");
            std::fs::write(&path, texts).expect("write");
            command.arg("--texts").arg(path);
        }
        command.output().expect("the binary runs")
    };
    tokio::task::spawn_blocking(run).await.expect("a task")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_a_model_here_are_told_equal_or_different() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    for url in [server.url(""), server.url("").replace("http://", "grpc://")] {
        let same = compare(url, "transformers", None).await;
        let printed = String::from_utf8_lossy(&same.stdout);
        println!("{printed}");
        assert_eq!(same.status.code(), Some(0), "{printed} {}", String::from_utf8_lossy(&same.stderr));
        for part in [
            "profile         transformers (chosen by: --profile) and transformers",
            "dimensions      384 and 384",
            "15 compared, 1 refused by both, 0 that",
            "the same vectors",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
    }
    let different = compare(server.url(""), "onnx", Some("One sentence. And another one!\n\nA third\n")).await;
    let printed = String::from_utf8_lossy(&different.stdout);
    println!("{printed}");
    assert_eq!(different.status.code(), Some(1), "{printed}");
    for part in [
        "2 compared, 0 refused by both, 1 that",
        "only the first side refuses it",
        "different: do not mix",
        "the first side's profile is transformers (chosen by: --profile), the second's onnx (chosen by: --profile)",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let error = String::from_utf8_lossy(&different.stderr);
    assert!(error.contains("must not share a collection"), "{error}");
    server.stop().await;
}

/// Between two servers nothing is computed here: what computes is not asked for, be it a card that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_compared_without_a_device() {
    let server = TestServer::start(std::sync::Arc::new(FakeBackend::new(3))).await;
    let urls = [server.url(""), server.url("").replace("http://", "grpc://")];
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"));
        command.arg("compare").args(urls).env("RUST_LOG", "error");
        command.env("ENABLE_CUDA", "1").env("CUDA_CORE", "cuda:0").output().expect("the binary runs")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("a task");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("dimensions      3 and 3") && printed.contains("the same vectors"), "{printed}");
    server.stop().await;
}
