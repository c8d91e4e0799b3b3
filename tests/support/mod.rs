//! What several tests need: the real model, a server on a free port, a plain HTTP client.
#![allow(dead_code)] // each test binary uses its part of this

pub(crate) mod certificates;
pub(crate) mod nearness;
pub(crate) mod process;
pub(crate) mod upstream;
pub(crate) mod weight_files;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::backend::meta::{Meta, SidecarBlock, Subject};
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::contract::call::{Call, Text};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::{Error, Result};
use text2vec_sidecar::server::{self, Limits, Readiness, ServerOptions};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The real all-MiniLM-L6-v2. `make model` gets it; `make test` calls that first.
pub(crate) fn model_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2");
    assert!(dir.join("model.safetensors").is_file(), "{} is missing: run `make model` first", dir.display());
    dir
}

/// The emulator with its arguments in which this runs, as `make test-arm` has it.
const EMULATED: &str = "T2V_TEST_EMULATED";

/// Whether this runs in an emulator: tests whose time is arithmetic take fewer and shorter texts then.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os(EMULATED).is_some()
}

/// The program that was just built, in the emulator if there is one.
pub(crate) fn program() -> std::process::Command {
    let program = env!("CARGO_BIN_EXE_text2vec-sidecar");
    let Ok(emulator) = std::env::var(EMULATED) else { return std::process::Command::new(program) };
    let mut words = emulator.split_whitespace();
    let mut command = std::process::Command::new(words.next().expect("the emulator's name"));
    command.args(words).arg(program);
    command
}

/// The real model under a profile.
pub(crate) fn options(profile: Profile) -> LocalOptions {
    LocalOptions { profile: Some(profile), ..LocalOptions::new(model_dir()) }
}

/// Where the repository is: where it was built, or, for tests that were carried to another machine, what the variable says.
pub(crate) fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// A fixture file as JSON.
pub(crate) fn fixture(name: &str) -> Value {
    let path = repository().join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A running server. Dropping it without [`TestServer::stop`] leaves it to the end of the test's runtime.
pub(crate) struct TestServer {
    pub address: SocketAddr,
    pub readiness: Readiness,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl TestServer {
    /// Starts a server that is not ready yet.
    pub(crate) async fn start_unready(limits: Limits) -> TestServer {
        TestServer::start_with(ServerOptions { limits, ..ServerOptions::default() }).await
    }

    /// Starts a server that is not ready yet, told everything. Tests have no time for a drain delay.
    pub(crate) async fn start_with(options: ServerOptions) -> TestServer {
        TestServer::start_serving(options, Readiness::default()).await
    }

    /// Starts a server of these models, told everything.
    pub(crate) async fn start_serving(mut options: ServerOptions, readiness: Readiness) -> TestServer {
        options.lifetimes.drain_delay = Duration::ZERO;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server::run(listener, readiness.clone(), options, async {
            let _ = stopped.await;
        }));
        TestServer { address, readiness, stop, server }
    }

    /// Starts a ready server in front of a backend.
    pub(crate) async fn start(backend: Arc<dyn Backend>) -> TestServer {
        let server = TestServer::start_unready(Limits::default()).await;
        server.readiness.ready(backend);
        server
    }

    /// Starts a ready server with the real model.
    pub(crate) async fn start_model(options: LocalOptions) -> TestServer {
        TestServer::start(Arc::new(LocalBackend::load(&options).expect("the model loads"))).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Shuts down in order.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.server.await.expect("the server task").expect("the server");
    }
}

/// A backend of known vectors: `dimensions` values that follow from the text's length. The text `fail` fails.
pub(crate) struct FakeBackend {
    pub info: ModelInfo,
}

impl FakeBackend {
    pub(crate) fn new(dimensions: usize) -> FakeBackend {
        FakeBackend {
            info: ModelInfo {
                name: "fake".into(),
                fingerprint: "0".into(),
                dimensions: Some(dimensions),
                ..ModelInfo::default()
            },
        }
    }
}

impl Backend for FakeBackend {
    fn embed(&self, call: Call) -> futures_util::future::BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        let dimensions = self.info.dimensions.expect("known");
        let embed = move |text: Text| match &*text {
            "fail" => Err(Error::invalid("this text fails")),
            text => Ok(Embedding {
                vector: (0..dimensions).map(|i| (text.len() + i) as f32).collect(),
                tokens: 1,
                truncated: false,
                ignored: Vec::new(),
            }),
        };
        Box::pin(async move { Ok(call.texts.into_iter().map(embed).collect()) })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn meta(&self) -> Meta {
        let fields = Map::from_iter([("model".to_owned(), Value::from("fake"))]);
        Meta { subject: Subject::Upstream(fields.into()), sidecar: Some(SidecarBlock::default()) }
    }
}

/// A vector of JSON numbers.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number") as f32).collect()
}

/// Largest absolute difference.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max)
}

/// Length of a vector.
pub(crate) fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}
