//! Several models behind one port: each by its name, on every wire, and on one inference thread.

use crate::support;

use std::sync::Arc;

use reqwest::Client;
use serde_json::{Value, json};
use support::{FakeBackend, TestServer, floats, model_dir, options};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{Inference, LocalBackend};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::call::Call;
use text2vec_sidecar::contract::endpoint::Endpoints;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{
    ClassConfig, MetaInfoRequest, VectorizeInputRequest, VectorizeOptions, VectorizeRequest, vectorize_result,
};
use text2vec_sidecar::server::{ModuleOptions, Readiness, ServerOptions};
use tonic::Code;

fn client() -> Client {
    Client::builder().no_proxy().build().expect("client")
}

/// `two` has two dimensions and is the default, `three` three.
async fn server() -> TestServer {
    let readiness = Readiness::of(["two", "three"].map(|name| Some(name.to_owned())));
    readiness.model_ready(0, Arc::new(FakeBackend::new(2)));
    readiness.model_ready(1, Arc::new(FakeBackend::new(3)));
    let endpoints = Endpoints::new(None, "http://t2v:8080");
    let module = ModuleOptions { endpoints, ..ModuleOptions::default() };
    TestServer::start_serving(ServerOptions { module, ..ServerOptions::default() }, readiness).await
}

async fn post(server: &TestServer, path: &str, body: Value) -> (u16, Value) {
    let response = client().post(server.url(path)).json(&body).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

#[tokio::test]
async fn a_models_path_is_a_base_url_like_a_containers() {
    let server = server().await;
    for (base, dims) in [("", 2), ("/models/two", 2), ("/models/three", 3), ("/models/three/", 3)] {
        let (status, answer) = post(&server, &format!("{base}/vectors"), json!({"text": "x"})).await;
        assert_eq!((status, &answer["dims"]), (200, &json!(dims)), "{base}");
        let (_, answer) = post(&server, &format!("{base}/embed"), json!({"inputs": "x"})).await;
        assert_eq!(floats(&answer[0]).len(), dims, "{base}");
        for (path, status) in
            [("/meta", 200), ("/.well-known/ready", 204), ("/.well-known/live", 204), ("/health", 200)]
        {
            let response = client().get(server.url(&format!("{base}{path}"))).send().await.expect("an answer");
            assert_eq!(response.status(), status, "{base}{path}");
        }
    }
    for path in ["/models/four/vectors", "/models/four/embed"] {
        let (status, answer) = post(&server, path, json!({"text": "x", "inputs": "x"})).await;
        assert_eq!(status, 404);
        let message = answer["error"].as_str().expect("text");
        assert!(message.contains("no model 'four'") && message.contains("'two', 'three'"), "{message}");
    }
    let ready = client().get(server.url("/models/four/.well-known/ready")).send().await.expect("an answer");
    assert_eq!(ready.status(), 404);
    server.stop().await;
}

#[tokio::test]
async fn the_models_own_readiness_is_told_while_others_are_loaded() {
    let readiness = Readiness::of(["slow", "quick"].map(|name| Some(name.to_owned())));
    let server = TestServer::start_serving(ServerOptions::default(), readiness.clone()).await;
    readiness.model_ready(1, Arc::new(FakeBackend::new(2)));
    for (base, ready, vectors) in [("", 503, 503), ("/models/slow", 503, 503), ("/models/quick", 204, 200)] {
        let path = format!("{base}/.well-known/ready");
        assert_eq!(client().get(server.url(&path)).send().await.expect("an answer").status(), ready, "{path}");
        assert_eq!(post(&server, &format!("{base}/vectors"), json!({"text": "x"})).await.0, vectors, "{base}");
    }
    let (status, answer) = post(&server, "/vectors", json!({"text": "x"})).await;
    assert_eq!((status, &answer["error"]), (503, &json!("not ready: the model 'slow' is being loaded")));
    server.stop().await;
}

#[tokio::test]
async fn the_model_field_selects_over_openai_and_ollama() {
    let server = server().await;
    for (model, dims) in [(json!("two"), 2), (json!("three"), 3), (Value::Null, 2)] {
        let (_, answer) = post(&server, "/v1/embeddings", json!({"model": model, "input": "x"})).await;
        assert_eq!(floats(&answer["data"][0]["embedding"]).len(), dims, "{model}");
        let (_, answer) = post(&server, "/api/embed", json!({"model": model, "input": "x"})).await;
        assert_eq!(floats(&answer["embeddings"][0]).len(), dims, "{model}");
    }
    for path in ["/v1/embeddings", "/api/embed"] {
        let (status, answer) = post(&server, path, json!({"model": "four", "input": "x"})).await;
        assert_eq!((status, answer.to_string().contains("'two', 'three'")), (404, true), "{answer}");
    }
    let models = client().get(server.url("/v1/models")).send().await.expect("an answer");
    let models: Value = models.json().await.expect("JSON");
    let names: Vec<_> = models["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    // Both call themselves `fake`: that is the first one's.
    assert_eq!(names, ["two", "fake", "three"]);
    server.stop().await;
}

#[tokio::test]
async fn the_model_field_and_a_classs_url_select_over_grpc() {
    let server = server().await;
    let channel =
        tonic::transport::Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("connects");
    let mut vectorizer = VectorizerClient::new(channel.clone());
    let mut dims = async |model: &str| {
        let options = Some(VectorizeOptions { model: model.into(), ..Default::default() });
        let answer = vectorizer.vectorize(VectorizeRequest { texts: vec!["x".into()], options }).await?;
        match answer.into_inner().results.remove(0).result {
            Some(vectorize_result::Result::Vector(vector)) => Ok(vector.values.len()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(dims("").await.map_err(|status: tonic::Status| status.code()), Ok(2));
    assert_eq!(dims("three").await.map_err(|status| status.code()), Ok(3));
    let unknown = dims("four").await.expect_err("no such model");
    assert_eq!((unknown.code(), unknown.message().contains("'two', 'three'")), (Code::NotFound, true));

    let mut module = ModuleClient::new(channel);
    let class =
        |url: &str| format!(r#"{{"class":"A","moduleConfig":{{"text2vec-transformers":{{"inferenceUrl":"{url}"}}}}}}"#);
    let mut dims = async |class_json: String, model: &str| {
        let config = Some(ClassConfig { class_json, model: model.into(), ..ClassConfig::default() });
        let answer = module.vectorize_input(VectorizeInputRequest { input: "x".into(), config }).await;
        answer.map(|answer| answer.into_inner().vector.expect("a vector").values.len()).map_err(|status| status.code())
    };
    assert_eq!(dims(class("http://t2v:8080/models/three"), "").await, Ok(3));
    assert_eq!(dims(class("http://t2v:8080"), "").await, Ok(2));
    assert_eq!(dims(class("http://t2v:8080/models/four"), "").await, Err(Code::NotFound));
    assert_eq!(dims(String::new(), "three").await, Ok(3));
    assert_eq!(dims(class("http://t2v:8080/models/three"), "two").await, Ok(2), "the request's own word counts first");
    assert!(module.meta_info(MetaInfoRequest { model: "three".into() }).await.is_ok());
    let unknown = module.meta_info(MetaInfoRequest { model: "four".into() }).await.expect_err("no such model");
    assert_eq!(unknown.code(), Code::NotFound);
    server.stop().await;
}

/// Two models on one inference thread, with one cache, all at once: each text has the vector its model gives it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_share_a_thread_and_a_cache_do_not_mix() {
    let inference = Arc::new(Inference::start(None, 65_536).expect("a thread"));
    let load = |profile| LocalBackend::load_beside(&options(profile), inference.clone()).expect("the model loads");
    let profiles = [Profile::Transformers, Profile::SentenceTransformers];
    let [first, second] = profiles.map(|profile| Arc::new(load(profile)) as Arc<dyn Backend>);
    let cache = Cached::around(first, CacheOptions::default()).expect("a cache");
    let together: [Arc<dyn Backend>; 2] = [cache.clone(), cache.beside(second)];
    let call = || Call::passages((0..40).map(|i| format!("Text {i} of {}. It has a sentence more.", i * i)));
    let mut calls = Vec::new();
    for round in 0..2 {
        for (model, backend) in together.iter().enumerate() {
            let backend = backend.clone();
            let call = call();
            let embed = async move { backend.embed(call).await.expect("the call") };
            calls.push((round, model, tokio::spawn(embed)));
        }
    }
    let alone = profiles.map(|profile| LocalBackend::load(&options(profile)).expect("the model loads"));
    for (round, model, answers) in calls {
        let expected = alone[model].embed(call()).await.expect("the call");
        for (got, expected) in answers.await.expect("a task").into_iter().zip(expected) {
            let (got, expected) = (got.expect("a vector"), expected.expect("a vector"));
            assert_eq!(got.vector, expected.vector, "round {round}, model {model}");
        }
    }
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.misses), (80, 80), "one room, and no text of one model for the other: {stats:?}");
}

#[tokio::test]
async fn the_binary_serves_what_its_flags_name() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").to_string();
    let dir = model_dir();
    let dir = dir.to_str().expect("a path");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_text2vec-sidecar"))
        .args([
            "--listen",
            &free,
            "--model",
            &format!("mini={dir}"),
            "--model",
            &format!("text-embedding-3-small={dir}"),
        ])
        .env("RUST_LOG", "error")
        .spawn()
        .expect("the binary starts");
    let base = format!("http://{free}");
    let ready =
        async || client().get(format!("{base}/.well-known/ready")).send().await.is_ok_and(|r| r.status() == 204);
    let started = std::time::Instant::now();
    while !ready().await {
        assert!(started.elapsed().as_secs() < 60, "not ready after a minute");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let meta: Value = client().get(format!("{base}/meta")).send().await.expect("meta").json().await.expect("JSON");
    assert_eq!(meta["sidecar"]["models"], json!(["mini", "text-embedding-3-small"]));
    let mut vectors = Vec::new();
    for path in ["/vectors", "/models/mini/vectors", "/models/text-embedding-3-small/vectors"] {
        let answer =
            client().post(format!("{base}{path}")).json(&json!({"text": "hello"})).send().await.expect("answer");
        vectors.push(answer.json::<Value>().await.expect("JSON")["vector"].clone());
    }
    assert!(vectors[0].is_array() && vectors.iter().all(|vector| *vector == vectors[0]));
    child.kill().expect("ends");
    child.wait().expect("an end");
}
