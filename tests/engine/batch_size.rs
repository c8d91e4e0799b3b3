//! An upstream that takes less at once than it is sent: no text is refused for that, none is lost or embedded twice, and
//! what worked is remembered.

use crate::support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use support::upstream::{Act, Upstream, ok, status};
use support::{FakeBackend, TestServer};
use text2vec_sidecar::backend::meta::{Meta, SidecarBlock};
use text2vec_sidecar::backend::remote::{Remote, RemoteOptions, startup};
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::error::{ErrorKind, Result};
use text2vec_sidecar::server::{Limits, ServerOptions, SurfaceOptions};

/// Few retries, so that a client that takes them for what is refused for its size is soon out of them.
async fn connect(url: &str) -> Arc<Remote> {
    connect_with(url, 4).await
}

async fn connect_with(url: &str, concurrency: usize) -> Arc<Remote> {
    let options = RemoteOptions { concurrency, ..RemoteOptions::default() };
    startup::connect(Some(url), Some(url), false, &options).await.expect("connected").passage.expect("one")
}

/// Notes the texts of each call.
struct Noting(FakeBackend, Mutex<Vec<Vec<String>>>);

impl Noting {
    fn new() -> Arc<Noting> {
        Arc::new(Noting(FakeBackend::new(3), Mutex::default()))
    }

    /// The calls since this was asked last.
    fn calls(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.1.lock().expect("lock"))
    }
}

impl Backend for Noting {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        self.1.lock().expect("lock").push(call.texts.iter().cloned().map(String::from).collect());
        self.0.embed(call)
    }

    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn meta(&self) -> Meta {
        // What makes it a sidecar to those who ask.
        Meta { sidecar: Some(SidecarBlock::default()), ..Meta::default() }
    }
}

/// Requests that servers of this process refused for their number of texts.
async fn refused(server: &TestServer) -> usize {
    let page = reqwest::get(server.url("/metrics")).await.expect("a page").text().await.expect("text");
    let line = page.lines().find_map(|line| line.strip_prefix(r#"t2v_refused_requests_total{reason="max_texts"} "#));
    line.expect("a sample").parse().expect("a number")
}

/// A server that is not ready yet, whose vectors are as its backend makes them on every surface.
async fn start(limits: Limits) -> TestServer {
    let surfaces = SurfaceOptions { normalize: false };
    TestServer::start_with(ServerOptions { limits, surfaces, ..ServerOptions::default() }).await
}

/// The backend's vector of a text, as an upstream of this scheme gives it: TEI's are of length 1 where nothing else is said.
fn expected(scheme: &str, text: &str) -> f32 {
    let vector = [0, 1, 2].map(|i| (text.len() + i) as f32);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if scheme == "tei+http" { vector[0] / length } else { vector[0] }
}

/// Every text with a vector of its own length, in order; `long` is refused as too large.
fn check(scheme: &str, texts: &[String], answers: &[Result<Embedding>], long: &str) {
    assert_eq!(texts.len(), answers.len());
    for (text, answer) in texts.iter().zip(answers) {
        match answer {
            Ok(embedding) => {
                let expected = expected(scheme, text);
                assert!((embedding.vector[0] - expected).abs() <= 1e-6 * expected, "{scheme} {text:.20}");
            }
            Err(error) => {
                assert_eq!((text.as_str(), error.kind()), (long, ErrorKind::TooLarge), "{error}");
                assert!(error.message().contains("--max-text-bytes"), "{error}");
            }
        }
        assert_eq!(answer.is_err(), text == long, "{text}");
    }
}

/// Texts of different lengths, each its own.
fn texts(call: usize, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{call} {i} {}", "x".repeat(i % 50))).collect()
}

fn passages(texts: &[String]) -> Call {
    Call::passages(texts)
}

/// The only test here whose upstreams refuse for the number of texts by their own: it counts those of the process.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_texts_that_another_sidecar_takes_is_learned() {
    let backend = Noting::new();
    let server = start(Limits { max_texts: 8, max_text_bytes: 1000, ..Limits::default() }).await;
    server.readiness.ready(backend.clone());
    for scheme in ["grpc", "t2v+http", "http", "openai+http"] {
        let remote = connect(&format!("{scheme}://{}", server.address)).await;
        let before = refused(&server).await;
        backend.calls();
        for call in 0..40 {
            let texts = texts(call, 64);
            let answers = remote.embed(passages(&texts)).await.expect("the call");
            check(scheme, &texts, &answers, "");
            let sizes: Vec<_> = backend.calls().iter().map(Vec::len).collect();
            assert_eq!(sizes, [8; 8], "{scheme}, call {call}: none twice");
        }
        // 64 texts, twice 32, four times 16; then it is known.
        let refusals = refused(&server).await - before;
        println!("{scheme}: {refusals} refused, 320 accepted");
        assert!((3..=7).contains(&refusals), "{scheme}: {refusals} refused");

        // Callers at the same time to an upstream of which nothing is known yet.
        let remote = connect(&format!("{scheme}://{}", server.address)).await;
        let calls: Vec<Vec<String>> = (0..20).map(|call| texts(call, 100)).collect();
        let answers = futures_util::future::join_all(calls.iter().map(|texts| remote.embed(passages(texts)))).await;
        for (texts, answers) in calls.iter().zip(answers) {
            check(scheme, texts, &answers.expect("the call"), "");
        }
        backend.calls();
    }

    // One text too many bytes long, in every call: an error of its own, and its neighbours stay together.
    let long = "y".repeat(1001);
    for scheme in ["grpc", "t2v+http", "tei+http", "openai+http"] {
        let remote = connect(&format!("{scheme}://{}", server.address)).await;
        for call in 0..20 {
            let mut texts = texts(call, 64);
            texts[37].clone_from(&long);
            check(scheme, &texts, &remote.embed(passages(&texts)).await.expect("the call"), &long);
        }
        let before = refused(&server).await;
        backend.calls();
        let texts = texts(0, 64);
        check(scheme, &texts, &remote.embed(passages(&texts)).await.expect("the call"), "");
        assert_eq!((backend.calls().len(), refused(&server).await - before), (8, 0), "{scheme}");
        // Alone it is refused all the same.
        check(
            scheme,
            std::slice::from_ref(&long),
            &remote.embed(passages(std::slice::from_ref(&long))).await.expect("the call"),
            &long,
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_that_another_sidecar_takes_are_learned() {
    let backend = Noting::new();
    let server = start(Limits { max_body_bytes: 200_000, ..Limits::default() }).await;
    server.readiness.ready(backend.clone());
    for scheme in ["grpc", "t2v+http", "openai+http"] {
        let remote = connect(&format!("{scheme}://{}", server.address)).await;
        backend.calls();
        // 64 texts of 10,000 to 10,063 bytes.
        let texts: Vec<String> = (0..64).map(|i| "z".repeat(10_000 + i)).collect();
        for call in 0..10 {
            check(scheme, &texts, &remote.embed(passages(&texts)).await.expect("the call"), "");
            let mut seen: Vec<usize> = backend.calls().concat().iter().map(String::len).collect();
            seen.sort_unstable();
            assert_eq!(seen, (10_000..10_064).collect::<Vec<_>>(), "{scheme}, call {call}: each once");
        }
        // Short ones still go together.
        let short = self::texts(0, 64);
        check(scheme, &short, &remote.embed(passages(&short)).await.expect("the call"), "");
        assert_eq!(backend.calls().len(), 1, "{scheme}");
    }
    server.stop().await;
}

/// A sidecar that takes as many texts as `limit` says, each answered after `takes`.
async fn scripted(limit: Arc<AtomicUsize>, takes: Duration) -> Upstream {
    Upstream::start(move |arrived| match arrived.path.as_str() {
        "/meta" => ok(r#"{"sidecar":{}}"#),
        "/vectors" => {
            let sent: Value = serde_json::from_str(&arrived.body).expect("JSON");
            let length = |text: &Value| [text.as_str().expect("a text").len() as f32, 1.0, 2.0];
            let answer = match sent["texts"].as_array() {
                Some(texts) if texts.len() > limit.load(Ordering::SeqCst) => {
                    status(413, r#"{"error":"too many texts"}"#)
                }
                Some(texts) => ok(json!({"vectors": texts.iter().map(length).collect::<Vec<_>>()}).to_string()),
                None => ok(json!({"vector": length(&sent["text"])}).to_string()),
            };
            Act::Later(takes, Box::new(answer))
        }
        _ => status(404, "{}"),
    })
    .await
}

/// Down to one text per request, and further down after a restart with a smaller limit.
#[tokio::test(flavor = "multi_thread")]
async fn smaller_limits_are_learned_anew() {
    let limit = Arc::new(AtomicUsize::new(20));
    let upstream = scripted(limit.clone(), Duration::ZERO).await;
    let remote = connect(&upstream.url()).await;
    for (now, kept, requests) in [(20, 16, 4), (3, 2, 32), (1, 1, 64)] {
        limit.store(now, Ordering::SeqCst);
        let texts = texts(now, 64);
        check("t2v+http", &texts, &remote.embed(passages(&texts)).await.expect("the call"), "");
        let before = upstream.count("/vectors");
        check("t2v+http", &texts, &remote.embed(passages(&texts)).await.expect("the call"), "");
        assert_eq!(upstream.count("/vectors") - before, requests, "at most {now} texts, {kept} at once");
    }
}

/// Halving does not outlive the caller's deadline: what came in time is kept, what was not asked for says so.
#[tokio::test(flavor = "multi_thread")]
async fn halving_ends_with_the_deadline() {
    let upstream = scripted(Arc::new(AtomicUsize::new(8)), Duration::from_millis(400)).await;
    // One request after the other: 3 refused and 8 accepted would take 4.4 s.
    let remote = connect_with(&upstream.url(), 1).await;
    let (started, texts) = (Instant::now(), texts(0, 64));
    let deadline = Some(started + Duration::from_millis(3200));
    let answers = remote.embed(Call { deadline, ..passages(&texts) }).await;
    assert!(started.elapsed() < Duration::from_millis(6400), "{:?}", started.elapsed());
    let answers = answers.expect("some came in time");
    let in_time = answers.iter().take_while(|answer| answer.is_ok()).count();
    println!("{in_time} of 64 in time");
    check("t2v+http", &texts[..in_time], &answers[..in_time], "");
    for answer in &answers[in_time..] {
        assert_eq!(answer.as_ref().expect_err("after one that was late").kind(), ErrorKind::DeadlineExceeded);
    }
    let last = answers[63].as_ref().expect_err("too late").message();
    assert!(last.contains("no time was left"), "{last}");
    check("t2v+http", &texts, &remote.embed(passages(&texts)).await.expect("the call"), "");
}
