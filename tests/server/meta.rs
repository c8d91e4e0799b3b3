//! What `GET /meta` answers, to the last field and in its order, for each kind of backend; and what the other surfaces tell
//! of a model.

use crate::support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::upstream::{Arrived, Upstream, container, ok};
use support::{FakeBackend, TestServer, model_dir, options};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::LocalBackend;
use text2vec_sidecar::backend::paired::Paired;
use text2vec_sidecar::backend::remote::{Remote, RemoteOptions, startup};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::model::card;

/// In what is expected: whatever is there. It depends on the machine, on a port, or on time.
const ANY: &str = "*";

/// What is expected with the answer's own values where any will do.
fn filled(expected: &Value, answer: &Value) -> Value {
    match (expected, answer) {
        (Value::String(any), answer) if any == ANY => answer.clone(),
        (Value::Object(expected), Value::Object(answer)) => {
            let value = |(name, expected): (&String, &Value)| {
                (name.clone(), answer.get(name).map_or_else(|| expected.clone(), |answer| filled(expected, answer)))
            };
            expected.iter().map(value).collect()
        }
        (Value::Array(expected), Value::Array(answer)) if expected.len() == answer.len() => {
            expected.iter().zip(answer).map(|(expected, answer)| filled(expected, answer)).collect()
        }
        _ => expected.clone(),
    }
}

/// Compares an answer's bytes: names of fields are in alphabetical order.
fn assert_told(text: &str, expected: &Value) {
    let answer = serde_json::from_str(text).expect("JSON");
    assert_eq!(text, filled(expected, &answer).to_string());
}

/// The same of answers whose fields have the order of their types.
fn assert_says(text: &str, expected: &Value) {
    let answer: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(answer, filled(expected, &answer));
}

/// What `GET /meta` and the surfaces of Ollama and TEI tell of a server's model.
struct Told {
    meta: String,
    running: String,
    show: String,
    info: String,
}

async fn told(backend: Arc<dyn Backend>) -> Told {
    let server = TestServer::start(backend).await;
    let get = async |path| {
        let answer = reqwest::get(server.url(path)).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.expect("a body")
    };
    let show = reqwest::Client::new().post(server.url("/api/show")).body("{}").send().await.expect("an answer");
    let told = Told {
        meta: get("/meta").await,
        running: get("/api/ps").await,
        show: show.text().await.expect("a body"),
        info: get("/info").await,
    };
    server.stop().await;
    told
}

/// Objects as one.
fn joined(objects: impl IntoIterator<Item = Value>) -> Value {
    objects.into_iter().flat_map(|object| object.as_object().expect("an object").clone()).collect()
}

/// What a server with default options adds.
fn of_the_server(models: &Value) -> Value {
    json!({
        "cuda_ignored": false,
        "max_answer_bytes": 134_217_728,
        "max_body_bytes": 67_108_864,
        "max_body_wait_seconds": 60.0,
        "max_class_bytes": 1_048_576,
        "max_connections": 8192,
        "max_head_bytes": 32768,
        "max_head_wait_seconds": 10.0,
        "max_inflight_bytes": 268_435_456,
        "max_text_bytes": 4_194_304,
        "max_texts": 10000,
        "max_tokenize_bytes": 262_144,
        "max_wait_seconds": 45.0,
        "max_write_wait_seconds": 60.0,
        "models": models,
        "surface_normalize": true,
    })
}

/// What a local backend says of the real model.
fn of_the_model(profile: &str) -> Value {
    let (max_tokens, fingerprint) = match profile {
        "transformers" => (500, "99132a512317baaf1912dea01fc04ac8"),
        "sentence-transformers" => (256, "1b5b9d9f31c847ca9c89c201b1504c4b"),
        _ => (512, "0f0973d54e2177765131b6f0175d7c63"),
    };
    json!({
        "apply_dimensions": false,
        "attention": "bidirectional",
        "batch_tokens": ANY,
        "device": "cpu",
        "dimensions": 384,
        "direct_tokenize": false,
        "engine": ANY,
        "failed_texts": 0,
        "fingerprint": fingerprint,
        "ignored_dimensions": 0,
        "ignored_pooling": 0,
        "license": license(),
        "max_tokens": max_tokens,
        "max_waiting_tokens": ANY,
        "model": "all-MiniLM-L6-v2",
        "pooling": "mean",
        "precision": "f32",
        "profile": profile,
        "profile_chosen_by": "--profile",
        "queries_first": true,
        "reference_quirks": [],
        "task_prefixes": false,
        "threads": ANY,
        "truncated_texts": 0,
        "version": env!("CARGO_PKG_VERSION"),
        "waiting_tokens": {"passage": 0, "query": 0},
    })
}

/// As the model's card has it, if it came with the model.
fn license() -> Option<String> {
    card::license(&model_dir(), None)
}

/// The cache's block before it has seen a text.
fn of_the_cache(ttl: &Value) -> Value {
    json!({
        "bytes": 0,
        "coalesced": 0,
        "entries": 0,
        "evictions": 0,
        "hits": 0,
        "max_bytes": 67_108_864,
        "misses": 0,
        "ttl_seconds": ttl,
    })
}

fn real(sidecar: &Value) -> Value {
    let config = std::fs::read(model_dir().join("config.json")).expect("a config");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    json!({"model": config, "model_path": model_dir().to_str().expect("a path"), "sidecar": sidecar})
}

fn load(profile: Profile) -> Arc<LocalBackend> {
    Arc::new(LocalBackend::load(&options(profile)).expect("the model loads"))
}

fn cached(backend: Arc<dyn Backend>, ttl: Option<Duration>) -> Arc<Cached> {
    Cached::around(backend, CacheOptions { max_bytes: 67_108_864, ttl }).expect("a cache")
}

async fn connect(url: &str) -> Arc<Remote> {
    let services = startup::connect(Some(url), Some(url), true, &RemoteOptions::default()).await.expect("ready");
    services.passage.expect("an upstream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_here_and_behind_the_cache() {
    for profile in [Profile::Transformers, Profile::SentenceTransformers] {
        let model = load(profile);
        let (own, server) = (of_the_model(profile.as_str()), of_the_server(&json!(["all-MiniLM-L6-v2"])));
        let plain = told(model.clone()).await;
        assert_told(&plain.meta, &real(&joined([own.clone(), server.clone()])));
        let details = json!({
            "families": ["bert"],
            "family": "bert",
            "format": "safetensors",
            "parameter_size": "",
            "parent_model": "",
            "quantization_level": "F32",
        });
        let max_tokens = own["max_tokens"].clone();
        let running = json!({"models": [{
            "context_length": max_tokens,
            "details": details,
            "digest": own["fingerprint"],
            "expires_at": "2200-01-01T00:00:00Z",
            "model": "all-MiniLM-L6-v2:latest",
            "name": "all-MiniLM-L6-v2:latest",
            "size": 0,
            "size_vram": 0,
        }]});
        assert_says(&plain.running, &running);
        let show = json!({
            "capabilities": ["embedding"],
            "details": details,
            "license": license().unwrap_or_default(),
            "model_info": {
                "bert.context_length": max_tokens,
                "bert.embedding_length": 384,
                "general.architecture": "bert",
                "general.basename": "all-MiniLM-L6-v2",
            },
            "modelfile": "",
            "modified_at": "1970-01-01T00:00:00Z",
            "parameters": "",
            "template": "",
        });
        assert_says(&plain.show, &show);
        let info = json!({
            "auto_truncate": true,
            "docker_label": null,
            "max_batch_requests": null,
            "max_batch_tokens": 65536,
            "max_client_batch_size": 10000,
            "max_concurrent_requests": 8192,
            "max_input_length": max_tokens,
            "model_dtype": "float32",
            "model_id": "all-MiniLM-L6-v2",
            "model_sha": null,
            "model_type": {"embedding": {"pooling": "mean"}},
            "sha": null,
            "tokenization_workers": ANY,
            "version": env!("CARGO_PKG_VERSION"),
        });
        assert_says(&plain.info, &info);
        for (ttl, seconds) in [(None, json!(null)), (Some(Duration::from_millis(1500)), json!(1.5))] {
            let told = told(cached(model.clone(), ttl)).await;
            let cache = json!({"cache": of_the_cache(&seconds)});
            assert_told(&told.meta, &real(&joined([own.clone(), server.clone(), cache])));
            assert_eq!(
                (told.running, told.show, told.info),
                (plain.running.clone(), plain.show.clone(), plain.info.clone())
            );
        }
    }
}

/// The limits stand on both sides of a pair; behind a cache, which is one for both, beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_and_behind_the_cache() {
    let (passage, query) = (load(Profile::Transformers), load(Profile::Onnx));
    let pair = Arc::new(Paired::new(passage, query).expect("a pair"));
    let server = of_the_server(&json!(["all-MiniLM-L6-v2 + all-MiniLM-L6-v2"]));
    let side = |profile: &str, server: &Value| real(&joined([of_the_model(profile), server.clone()]));
    let plain = told(pair.clone()).await;
    assert_told(&plain.meta, &json!({"passage": side("transformers", &server), "query": side("onnx", &server)}));
    let unknown = json!({
        "families": [],
        "family": "",
        "format": "",
        "parameter_size": "",
        "parent_model": "",
        "quantization_level": "",
    });
    let running: Value = serde_json::from_str(&plain.running).expect("JSON");
    assert_eq!((&running["models"][0]["details"], &running["models"][0]["context_length"]), (&unknown, &json!(0)));
    let show: Value = serde_json::from_str(&plain.show).expect("JSON");
    assert_eq!((&show["details"], &show["license"]), (&unknown, &json!("")));
    let info: Value = serde_json::from_str(&plain.info).expect("JSON");
    let about = ["model_dtype", "max_input_length", "max_batch_tokens", "tokenization_workers"].map(|name| &info[name]);
    assert_eq!((about, &info["model_type"]["embedding"]["pooling"]), ([&json!(null); 4], &json!(null)));
    let told = told(cached(pair, None)).await;
    let whole = joined([server, json!({"cache": of_the_cache(&json!(null))})]);
    let (passage, query) = (side("transformers", &json!({})), side("onnx", &json!({})));
    assert_told(&told.meta, &json!({"passage": passage, "query": query, "sidecar": whole}));
    assert_eq!((told.running, told.show, told.info), (plain.running, plain.show, plain.info));
}

/// Whatever it says is passed on, in the types it came in.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_container_and_behind_the_cache() {
    let theirs =
        json!({"model": {"model_type": "bert", "vocab_size": 30522}, "model_path": "./models/model", "sidecar_": []});
    let body = theirs.to_string();
    let upstream = Upstream::start(move |arrived: &Arrived| match arrived.path.as_str() {
        "/meta" => ok(body.clone()),
        _ => container(arrived),
    });
    let upstream = upstream.await;
    let remote = connect(&upstream.url()).await;
    let forwarding = json!({
        "fingerprint": remote.info().fingerprint,
        "upstream": {
            "kind": "t2v",
            "replicas": [{
                "address": upstream.address.to_string(),
                "in_flight": 0,
                "in_service": true,
                "url": upstream.url(),
            }],
            "url": upstream.url(),
        },
    });
    let server = of_the_server(&json!(["upstream"]));
    let plain = told(remote.clone()).await;
    let own = joined([forwarding.clone(), server.clone()]);
    assert_told(&plain.meta, &joined([theirs.clone(), json!({"sidecar": own})]));
    let show: Value = serde_json::from_str(&plain.show).expect("JSON");
    let details = json!({
        "families": ["bert"],
        "family": "bert",
        "format": "",
        "parameter_size": "",
        "parent_model": "",
        "quantization_level": "",
    });
    let about = json!({"general.architecture": "bert", "general.basename": "upstream", "bert.embedding_length": 3});
    assert_eq!((&show["details"], &show["model_info"], &show["license"]), (&details, &about, &json!("")));
    let info: Value = serde_json::from_str(&plain.info).expect("JSON");
    let about = ["model_dtype", "max_input_length", "max_batch_tokens", "tokenization_workers"].map(|name| &info[name]);
    assert_eq!((about, &info["model_type"]["embedding"]["pooling"]), ([&json!(null); 4], &json!(null)));
    let told = told(cached(remote, None)).await;
    let own = joined([own, json!({"cache": of_the_cache(&json!(null))})]);
    assert_told(&told.meta, &joined([theirs, json!({"sidecar": own})]));
    assert_eq!((told.running, told.show, told.info), (plain.running, plain.show, plain.info));
}

/// What a sidecar at the other end says of itself stands under `sidecar.upstream.sidecar`.
#[tokio::test(flavor = "multi_thread")]
async fn another_sidecar() {
    let upstream = TestServer::start(cached(load(Profile::Onnx), None)).await;
    // Each asks for a first text in its own words.
    for (scheme, kind, texts) in [("http", "t2v", 1), ("grpc", "sidecar", 2)] {
        let url = format!("{scheme}://{}", upstream.address);
        let remote = connect(&url).await;
        let server = of_the_server(&json!(["all-MiniLM-L6-v2"]));
        let seen = json!({"bytes": ANY, "entries": texts, "misses": texts});
        let cache = joined([of_the_cache(&json!(null)), seen]);
        let theirs = joined([of_the_model("onnx"), server.clone(), json!({"cache": cache})]);
        let replica = json!({"address": upstream.address.to_string(), "in_flight": 0, "in_service": true, "url": url});
        let forwarding = json!({
            "fingerprint": remote.info().fingerprint,
            "upstream": {"kind": kind, "replicas": [replica], "sidecar": theirs, "url": url},
        });
        let told = told(remote).await;
        assert_told(&told.meta, &real(&joined([forwarding, server])));
        let show: Value = serde_json::from_str(&told.show).expect("JSON");
        assert_eq!((&show["details"]["family"], &show["details"]["format"]), (&json!("bert"), &json!("")));
        let about = json!({
            "bert.embedding_length": 384,
            "general.architecture": "bert",
            "general.basename": "all-MiniLM-L6-v2",
        });
        assert_eq!(show["model_info"], about);
    }
    upstream.stop().await;
}

/// An upstream may say `null`, which Weaviate takes for nothing said, and anything under `sidecar`.
#[tokio::test(flavor = "multi_thread")]
async fn upstreams_that_say_odd_things() {
    for (body, sidecar) in [
        (r#"{"sidecar":[{"fingerprint":"a"}],"passage":{"sidecar":{}}}"#, Some(json!([{"fingerprint": "a"}]))),
        (r#"{"sidecar":null,"passage":{"sidecar":{}}}"#, Some(json!(null))),
        (r#"{"passage":{"sidecar":{}}}"#, None),
    ] {
        let upstream = Upstream::start(move |arrived: &Arrived| match arrived.path.as_str() {
            "/meta" => ok(body),
            _ => container(arrived),
        });
        let upstream = upstream.await;
        let mut forwarding = json!({"fingerprint": ANY, "upstream": {"kind": "t2v", "replicas": ANY, "url": ANY}});
        if let Some(sidecar) = sidecar {
            forwarding["upstream"]["sidecar"] = sidecar;
        }
        let own = joined([forwarding, of_the_server(&json!(["upstream"]))]);
        let told = told(connect(&upstream.url()).await).await;
        assert_told(&told.meta, &json!({"passage": {"sidecar": {}}, "sidecar": own}));
    }
    let null = Upstream::start(|arrived: &Arrived| match arrived.path.as_str() {
        "/meta" => ok("null"),
        _ => container(arrived),
    });
    let null = null.await;
    let remote = connect(&null.url()).await;
    assert_eq!(told(remote.clone()).await.meta, "{}");
    assert_eq!(told(cached(remote.clone(), None)).await.meta, "{}");
    let pair = Paired::new(remote, Arc::new(FakeBackend::new(3))).expect("a pair");
    let own = of_the_server(&json!(["upstream + fake"]));
    assert_told(&told(Arc::new(pair)).await.meta, &json!({"model": "fake", "sidecar": own}));
}
