//! Who may ask: every way to show a token, over HTTP/1.1, HTTP/2 and gRPC, and the reference's own exchanges.

use crate::support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use support::{FakeBackend, TestServer, fixture, floats, max_difference, options};
use text2vec_sidecar::backend::local::LocalBackend;
use text2vec_sidecar::backend::meta::Meta;
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::Result;
use text2vec_sidecar::proto::VectorizeRequest;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::server::{Access, ServerOptions};
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const LIST: &str = "token1,token2, token3 ";

async fn guarded(access: Access, backend: Arc<dyn Backend>) -> TestServer {
    let server = TestServer::start_with(ServerOptions { access, ..ServerOptions::default() }).await;
    server.readiness.ready(backend);
    server
}

async fn guarded_by_list() -> TestServer {
    guarded(Access::new(Some(LIST), None, false).expect("tokens"), Arc::new(FakeBackend::new(3))).await
}

fn clients() -> [(&'static str, Client); 2] {
    [("HTTP/1.1", Client::builder().no_proxy()), ("HTTP/2", Client::builder().no_proxy().http2_prior_knowledge())]
        .map(|(name, builder)| (name, builder.build().expect("a client")))
}

async fn channel(server: &TestServer) -> Channel {
    Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("connected")
}

/// One text over gRPC with this header.
async fn vectorize(channel: Channel, authorization: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(VectorizeRequest { texts: vec!["a".into()], ..VectorizeRequest::default() });
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().expect("a header value"));
    }
    VectorizerClient::new(channel).vectorize(request).await.map(drop)
}

/// What is shown, and whether it opens the server.
const SHOWN: &[(Option<&str>, bool)] = &[
    (None, false),
    (Some("Bearer wrong"), false),
    (Some("Bearer token"), false),
    (Some("Bearer token11"), false),
    (Some("Bearer"), false),
    (Some("token1"), false),
    (Some("Digest token1"), false),
    (Some("Bearer token1"), true),
    (Some("bearer token2"), true),
    (Some("Bearer  token3"), true),
    (Some("Basic YW55OnRva2VuMQ=="), true),  // any:token1
    (Some("Basic OnRva2VuMg=="), true),      // :token2
    (Some("Basic YW55Ondyb25n"), false),     // any:wrong
    (Some("Basic dG9rZW4xOmFueQ=="), false), // token1:any
    (Some("Basic token1"), false),
];

#[tokio::test]
async fn the_same_tokens_open_every_protocol() {
    let server = guarded_by_list().await;
    for &(authorization, opens) in SHOWN {
        for (protocol, client) in clients() {
            let mut request = client.post(server.url("/vectors")).body(r#"{"text":"a"}"#);
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let status = request.send().await.expect("an answer").status();
            let expected = if opens { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(status, expected, "{protocol} {authorization:?}");
        }
        let answer = vectorize(channel(&server).await, authorization).await;
        match (opens, answer) {
            (true, answer) => answer.unwrap_or_else(|status| panic!("gRPC {authorization:?}: {status}")),
            (false, answer) => {
                let status = answer.expect_err("refused");
                assert_eq!(status.code(), Code::Unauthenticated, "gRPC {authorization:?}");
                assert!(status.message().contains("Authorization: Bearer <token>"), "{status}");
            }
        }
    }
    // As Weaviate shows a token: in its URL.
    let url = server.url("/vectors").replace("http://", "http://any:token1@");
    let answer = clients()[0].1.post(url).body(r#"{"text":"a"}"#).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn each_surface_refuses_in_its_own_shape() {
    let server = guarded_by_list().await;
    type TextOf = fn(&Value) -> &Value;
    let texts: [(&str, TextOf); 9] = [
        ("/vectors", |body| &body["error"]),
        ("/models/fake/vectors", |body| &body["error"]),
        ("//vectors", |body| &body["error"]),
        ("/v1/embeddings", |body| &body["error"]["message"]),
        ("/api/embed", |body| &body["error"]),
        ("/api/embeddings", |body| &body["error"]),
        ("/embed", |body| &body["error"]),
        ("/models/fake/embed", |body| &body["error"]),
        ("/no/such/path", |body| &body["error"]),
    ];
    let (_, client) = &clients()[0];
    for (path, text) in texts {
        let answer =
            client.post(server.url(path)).bearer_auth("verysecret").body("{}").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        let schemes: Vec<_> = answer.headers().get_all(WWW_AUTHENTICATE).iter().map(|value| value.as_bytes()).collect();
        assert!(
            schemes.len() == 2 && schemes[0].starts_with(b"Bearer realm=") && schemes[1].starts_with(b"Basic realm=")
        );
        let body: Value = answer.json().await.expect("JSON");
        let text = text(&body).as_str().unwrap_or_else(|| panic!("{path}: {body}"));
        assert!(text.starts_with("Unauthorized: ") && text.contains("Bearer <token>"), "{path}: {text}");
        assert!(!body.to_string().contains("verysecret"));
    }
    let openai = client.get(server.url("/v1/models")).send().await.expect("an answer");
    let body: Value = openai.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "invalid_api_key", "{body}");
    for path in ["/", "/meta", "/info", "/docs2", "/api/tags", "/v1/models", "/models/fake/meta", "/models/fake/docs"] {
        let status = client.get(server.url(path)).send().await.expect("an answer").status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn probes_and_the_description_need_no_token() {
    let open = guarded_by_list().await;
    let closed_metrics = Access::new(Some(LIST), None, true).expect("tokens");
    let closed_metrics = guarded(closed_metrics, Arc::new(FakeBackend::new(3))).await;
    for (protocol, client) in clients() {
        for path in [
            "/.well-known/live",
            "/.well-known/ready",
            "/health",
            "/models/fake/.well-known/ready",
            "/openapi.json",
            "/docs",
            "/docs/page.js",
        ] {
            let status = client.get(open.url(path)).send().await.expect("an answer").status();
            assert!(status.is_success(), "{protocol} {path}: {status}");
        }
        for (server, is_open) in [(&open, true), (&closed_metrics, false)] {
            let status = client.get(server.url("/metrics")).send().await.expect("an answer").status();
            assert_eq!(status != StatusCode::UNAUTHORIZED, is_open, "{protocol}");
        }
    }
    let channel = channel(&open).await;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.expect("an answer");
    assert_eq!(health.into_inner().status, 1);
    // Reflection tells what there is, and is not a probe.
    let asked = tokio_stream::iter([ServerReflectionRequest::default()]);
    let status = ServerReflectionClient::new(channel).server_reflection_info(asked).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    open.stop().await;
    closed_metrics.stop().await;
}

/// The answer must arrive although most of the body was never read.
#[tokio::test]
async fn a_large_request_is_refused_with_an_answer() {
    let server = guarded_by_list().await;
    for (protocol, client) in clients() {
        for size in [100_000, 1_000_000, 20_000_000] {
            for _ in 0..5 {
                let answer = client.post(server.url("/vectors")).bearer_auth("no").body(vec![b' '; size]).send().await;
                let answer = answer.unwrap_or_else(|error| panic!("{protocol}, {size} bytes: {error:?}"));
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{protocol}, {size} bytes");
            }
        }
    }
    server.stop().await;
}

/// Answers when it is let.
struct Slow {
    inner: FakeBackend,
    begun: Notify,
    go: Notify,
}

impl Backend for Slow {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            if call.texts.iter().any(|text| *text == *"slow") {
                self.begun.notify_one();
                self.go.notified().await;
            }
            self.inner.embed(call).await
        })
    }

    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn meta(&self) -> Meta {
        self.inner.meta()
    }
}

/// The status for a token, over one connection for all calls.
async fn status(client: &Client, server: &TestServer, token: &str) -> u16 {
    let request = client.post(server.url("/vectors")).bearer_auth(token).body(r#"{"text":"a"}"#);
    request.send().await.expect("an answer").status().as_u16()
}

async fn becomes(client: &Client, server: &TestServer, token: &str, expected: u16) {
    let started = Instant::now();
    while status(client, server, token).await != expected {
        assert!(started.elapsed() < Duration::from_secs(20), "'{token}' is not answered with {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn tokens_are_rotated_under_live_requests() {
    let dir = tempfile::tempdir().expect("a directory");
    let file: PathBuf = dir.path().join("tokens");
    std::fs::write(&file, "# for loaders\nold\n").expect("write");
    let access = Access::new(Some("fixed"), Some(file.clone()), false).expect("tokens");
    let backend = Arc::new(Slow { inner: FakeBackend::new(3), begun: Notify::new(), go: Notify::new() });
    let server = Arc::new(guarded(access, backend.clone()).await);
    let [(_, one), (_, two)] = clients();
    for client in [&one, &two] {
        assert_eq!(status(client, &server, "old").await, 200);
        assert_eq!(status(client, &server, "new").await, 401);
    }
    let slow = one.post(server.url("/vectors")).bearer_auth("old").body(r#"{"text":"slow"}"#).send();
    let slow = tokio::spawn(slow);
    backend.begun.notified().await;
    let stop = Arc::new(AtomicBool::new(false));
    let steady = tokio::spawn({
        let (server, client, stop) = (server.clone(), two.clone(), stop.clone());
        async move {
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(status(&client, &server, "fixed").await, 200);
                answers += 1;
            }
            answers
        }
    });
    // As a mounted secret is replaced: another file takes the name.
    let next = dir.path().join("next");
    std::fs::write(&next, "new\n").expect("write");
    std::fs::rename(&next, &file).expect("rename");
    becomes(&one, &server, "new", 200).await;
    assert_eq!(status(&one, &server, "old").await, 401);
    assert_eq!(status(&two, &server, "old").await, 401);
    let grpc = channel(&server).await;
    vectorize(grpc.clone(), Some("Bearer new")).await.expect("answered");
    assert_eq!(vectorize(grpc, Some("Bearer old")).await.expect_err("refused").code(), Code::Unauthenticated);
    // What had begun is finished.
    backend.go.notify_one();
    assert_eq!(slow.await.expect("a task").expect("an answer").status(), StatusCode::OK);
    // A file without a token, and one that is gone, change nothing.
    std::fs::write(&file, "# nothing\n").expect("write");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(status(&one, &server, "new").await, 200);
    std::fs::remove_file(&file).expect("remove");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(status(&one, &server, "new").await, 200);
    std::fs::write(&file, "newest").expect("write");
    becomes(&one, &server, "newest", 200).await;
    assert_eq!(status(&one, &server, "new").await, 401);
    stop.store(true, Ordering::Relaxed);
    assert!(steady.await.expect("every answer was 200") > 20);
}

/// Where our answer is meant to differ from the reference's, and why. Names are those of the exchanges.
const WANTED_DEVIATIONS: &[(&str, u16, &str)] = &[
    ("vec_none_invalid_body", 401, "who has no token learns nothing of a body's validity, and has none read"),
    ("vec_bad_invalid_json", 401, "the same with a wrong token"),
    ("meta_basic", 200, "the token as password of Basic: all that an unmodified Weaviate can send"),
];

/// Pages of FastAPI itself.
const NOT_REPLAYED: &[&str] = &["docs_none"];

#[tokio::test]
async fn the_references_exchanges_are_replayed() {
    let backend = LocalBackend::load(&options(Profile::Transformers)).expect("the model loads");
    let server = guarded(Access::new(Some(LIST), None, false).expect("tokens"), Arc::new(backend)).await;
    let exchanges = fixture("minilm/http_auth.json");
    let (mut replayed, mut deviating) = (0, 0);
    for exchange in exchanges.as_array().expect("a list") {
        let name = exchange["name"].as_str().expect("a name");
        if NOT_REPLAYED.contains(&name) {
            continue;
        }
        let method: Method = exchange["method"].as_str().expect("a method").parse().expect("a method");
        let mut request = clients()[0].1.request(method, server.url(exchange["path"].as_str().expect("a path")));
        for (header, value) in exchange["headers"].as_object().into_iter().flatten() {
            request = request.header(header, value.as_str().expect("a header value"));
        }
        if let Some(body) = exchange["request_body"].as_str() {
            request = request.body(body.to_owned());
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let theirs = exchange["status"].as_u64().expect("a status") as u16;
        let deviation = WANTED_DEVIATIONS.iter().find(|(case, ..)| *case == name);
        if let Some((_, ours, why)) = deviation {
            assert_ne!(*ours, theirs, "{name} does not deviate: {why}");
            deviating += 1;
        }
        assert_eq!(status, deviation.map_or(theirs, |(_, status, _)| *status), "{name}");
        let body = answer.bytes().await.expect("a body");
        let ours: Value = if status == 204 { json!(null) } else { serde_json::from_slice(&body).expect("JSON") };
        match status {
            204 => assert!(body.is_empty()),
            401 => {
                assert!(ours["error"].as_str().is_some_and(|text| text.starts_with("Unauthorized")), "{name}: {ours}")
            }
            _ if name == "vec_ok" => {
                let summary = &exchange["body_summary"];
                assert_eq!((&ours["text"], &ours["dim"]), (&summary["text"], &summary["dim"]));
                let head = floats(&summary["vector_head"]);
                assert!(max_difference(&floats(&ours["vector"])[..head.len()], &head) < 2e-5);
            }
            _ => assert_eq!(ours["model"]["model_type"], "bert", "{name}"),
        }
        replayed += 1;
    }
    println!("http_auth: {replayed} exchanges replayed, {deviating} with wanted deviations");
    assert_eq!((replayed, deviating), (18, WANTED_DEVIATIONS.len()));
    server.stop().await;
}
