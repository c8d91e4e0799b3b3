//! Forwarding over real sockets: the wire as Weaviate's client has it, its start-up and meta, every kind of upstream, and
//! another sidecar, whose vectors arrive bit by bit.

use crate::support;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::upstream::{Act, Arrived, Upstream, container, ok, status};
use support::{FakeBackend, TestServer, fixture};
use text2vec_sidecar::backend::meta::{Meta, ModelReport, Served, Subject};
use text2vec_sidecar::backend::paired::Paired;
use text2vec_sidecar::backend::remote::credentials::Credentials;
use text2vec_sidecar::backend::remote::directory::ClassUpstreams;
use text2vec_sidecar::backend::remote::guard::Allowed;
use text2vec_sidecar::backend::remote::{Remote, RemoteOptions, startup};
use text2vec_sidecar::backend::{Backend, Embedding, ModelInfo};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::config::ReferenceEnv;
use text2vec_sidecar::contract::call::{Call, EmbedSettings, Text};
use text2vec_sidecar::error::{Error, ErrorKind, Result};
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::object::Properties;
use text2vec_sidecar::proto::object_result::Result as Outcome;
use text2vec_sidecar::proto::{ClassConfig, Object, VectorizeInputRequest, VectorizeObjectRequest};
use text2vec_sidecar::server::{Limits, ModuleOptions, ServerOptions};

async fn connect(url: &str) -> Arc<Remote> {
    connect_with(url, &RemoteOptions::default()).await
}

async fn connect_with(url: &str, options: &RemoteOptions) -> Arc<Remote> {
    startup::connect(Some(url), Some(url), false, options).await.expect("connected").passage.expect("one")
}

async fn one(backend: &dyn Backend, call: Call) -> Result<Embedding> {
    backend.embed(call).await?.pop().expect("a result")
}

/// A server whose classes may name what listens at 127.0.0.1.
async fn module_server() -> TestServer {
    let allowed = Allowed::parse("127.0.0.1").expect("a pattern");
    let directory = ClassUpstreams::new(allowed, RemoteOptions::default(), Box::new(|backend| backend));
    let module = ModuleOptions { upstreams: Some(Arc::new(directory)), ..ModuleOptions::default() };
    let server = TestServer::start_with(ServerOptions { module, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(7)));
    server
}

#[derive(Deserialize)]
struct Exchange {
    name: String,
    task: String,
    text: String,
    class_settings: Map<String, Value>,
    response_status: u16,
    response_body: String,
    #[serde(default)]
    response_headers: BTreeMap<String, String>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    request_body: String,
    request_path: Option<String>,
    request_method: Option<String>,
    vector: Option<Vec<f64>>,
    error: Option<String>,
    error_prefix: Option<String>,
}

/// Where Weaviate's client accepts what is no usable vector, and we do not.
const WANTED_DEVIATIONS: &[(&str, &str)] = &[
    ("answer without a vector, passage: null vector and no error", "status 200 without a vector"),
    ("answer without a vector, query: empty vector and no error", "status 200 without a vector"),
    ("vector null, passage", "status 200 without a vector"),
    ("answer is JSON null", "status 200 without a vector"),
    ("empty vector", "an empty vector"),
    // Many writers of JSON have null where there was a NaN.
    ("null inside the vector is zero", "an element that is not a number"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_is_weaviates() {
    let server = module_server().await;
    let mut client = ModuleClient::connect(server.url("")).await.expect("a connection");
    let cases: Vec<Exchange> = serde_json::from_value(fixture("contract/wire_exchange.json")).expect("cases");
    let (mut vectors, mut errors, mut refused, mut silent) = (0, 0, 0, 0);
    for case in cases {
        let name = &case.name;
        let headers: String =
            case.response_headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = Act::Answer(case.response_status, headers, case.response_body.clone());
        let upstream = Upstream::start(move |_| answer.clone()).await;
        // The object's text is its one property.
        let mut settings = case.class_settings.clone();
        settings.insert("vectorizeClassName".into(), false.into());
        settings.insert("inferenceUrl".into(), upstream.url().into());
        let class = json!({
            "class": "A",
            "moduleConfig": {"text2vec-transformers": settings},
            "properties": [{"name": "t", "dataType": ["text"]}],
        });
        let config = Some(ClassConfig { class_json: class.to_string(), ..ClassConfig::default() });
        let got: std::result::Result<Option<Vec<f32>>, String> = match case.task.as_str() {
            "passage" => {
                let properties = Properties::Json(json!({"t": case.text}).to_string());
                let object = Some(Object { properties: Some(properties), ..Object::default() });
                let request = VectorizeObjectRequest { object, config, return_text: false };
                let answer = client.vectorize_object(request).await;
                answer.map_err(|status| status.message().to_owned()).and_then(|answer| {
                    match answer.into_inner().result.and_then(|result| result.result) {
                        Some(Outcome::Vector(vector)) => Ok(Some(vector.values)),
                        Some(Outcome::Skipped(_)) => Ok(None),
                        Some(Outcome::Error(error)) => Err(error.message),
                        None => panic!("{name}: no result"),
                    }
                })
            }
            _ => {
                let answer = client.vectorize_input(VectorizeInputRequest { input: case.text.clone(), config }).await;
                answer
                    .map(|answer| Some(answer.into_inner().vector.expect("a vector").values))
                    .map_err(|status| status.message().to_owned())
            }
        };
        let requests = upstream.requests();
        if case.expected.request_body.is_empty() {
            assert!(requests.is_empty() && got == Ok(None), "{name}: {got:?}");
            silent += 1;
            continue;
        }
        let first = &requests[0];
        assert_eq!(first.body, case.expected.request_body, "{name}");
        assert_eq!(Some(&first.path), case.expected.request_path.as_ref(), "{name}");
        assert_eq!(Some(&first.method), case.expected.request_method.as_ref(), "{name}");
        for absent in ["content-type", "authorization", "transfer-encoding"] {
            assert!(!first.headers.contains_key(absent), "{name}: {absent}");
        }
        // Only what asks for patience is asked again.
        assert!(requests.len() == 1 || case.response_status == 502, "{name}: {} requests", requests.len());
        let deviation = WANTED_DEVIATIONS.iter().find(|(deviating, _)| deviating == name);
        match (got, &case.expected.error, deviation) {
            (Err(error), None, Some((_, text))) => {
                assert!(error.contains(text), "{name}: {error}");
                refused += 1;
            }
            (Ok(Some(vector)), None, None) => {
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let expected = case.expected.vector.unwrap_or_default().into_iter().map(|value| value as f32).collect();
                assert_eq!(bits(vector), bits(expected), "{name}");
                vectors += 1;
            }
            (Err(error), Some(expected), None) => {
                let expected = case.expected.error_prefix.as_ref().unwrap_or(expected);
                assert!(error.starts_with(expected.as_str()), "{name}: {error}");
                // After Weaviate's own words: the decoder's, what FastAPI said, and which upstream it was.
                let rest = &error[expected.len()..];
                assert!(rest.ends_with(&format!("(upstream {})", upstream.url())), "{name}: {error}");
                errors += 1;
            }
            (got, expected, _) => panic!("{name}: {got:?}, not {expected:?}"),
        }
    }
    println!("{vectors} vectors, {errors} errors, {refused} refused, {silent} not sent");
    assert_eq!((vectors, errors, refused, silent), (13, 22, WANTED_DEVIATIONS.len(), 1));
}

/// The environment as Weaviate reads it, up to the probes.
#[tokio::test(flavor = "multi_thread")]
async fn starting_probes_what_the_environment_names() {
    let mut probed = 0;
    for case in fixture("contract/env_validation.json").as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let (Some(waits), Some(probes)) =
            (case["expected"]["waits_for_startup"].as_bool(), case["expected"]["ready_probes"].as_u64())
        else {
            continue;
        };
        let mut services = HashMap::new();
        for host in ["common", "passage", "query"] {
            services.insert(format!("http://{host}.example:8080"), Upstream::start(container).await);
        }
        let get = |variable: &str| {
            let url = case["env"][variable].as_str()?;
            Some(services.get(url).map_or(url.to_owned(), Upstream::url))
        };
        let environment = ReferenceEnv::read(get).expect("valid");
        assert_eq!(environment.wait_off.is_none(), waits, "{name}");
        let urls = environment.inference_urls.expect("URLs");
        let options = RemoteOptions::default();
        let sides = startup::connect(Some(&urls.passage), Some(&urls.query), waits, &options).await.expect("ready");
        let (passage, query) = (sides.passage.expect("passages"), sides.query.expect("queries"));
        assert_eq!(Arc::ptr_eq(&passage, &query), urls.is_one_service(), "{name}");
        let ready = services.values().filter(|service| service.count("/.well-known/ready") > 0).count();
        assert_eq!(ready as u64, probes, "{name}");
        probed += 1;
    }
    assert_eq!(probed, 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_in_weaviates_words() {
    let options = RemoteOptions { startup_limit: Duration::from_millis(1500), ..RemoteOptions::default() };
    let unready = Upstream::start(|arrived| match arrived.path.as_str() {
        "/.well-known/ready" => status(503, ""),
        _ => container(arrived),
    })
    .await;
    let gone = Upstream::start(container).await.url();
    let hangs = Upstream::start(|_| Act::Hang).await;
    let wait = |passage: String, query: String| {
        let options = options.clone();
        async move {
            let started = Instant::now();
            let waited = startup::connect(Some(&passage), Some(&query), true, &options).await;
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
            waited.expect_err("not ready").message().to_owned()
        }
    };
    let one = wait(unready.url(), unready.url()).await;
    let text = "init remote vectorizer: init context expired before remote was ready: not ready: status 503";
    assert!(one.starts_with(text), "{one}");
    let two = wait(unready.url(), gone.clone()).await;
    for text in [
        "init remote vectorizer: [passage] init context expired before remote was ready: not ready: status 503",
        "[query] init context expired before remote was ready: send check ready request: Get \"",
    ] {
        assert!(two.contains(text), "{two}");
    }
    assert!(wait(hangs.url(), hangs.url()).await.contains("send check ready request: Get"), "a probe ends");
    // It becomes ready while it is waited for.
    let later = Upstream::start(|arrived| match arrived.path.as_str() {
        "/.well-known/ready" if arrived.number == 0 => status(503, ""),
        _ => container(arrived),
    })
    .await;
    let options = RemoteOptions { startup_limit: Duration::from_secs(10), ..RemoteOptions::default() };
    startup::connect(Some(&later.url()), Some(&later.url()), true, &options).await.expect("ready at the second probe");
}

/// Without what this sidecar says of itself.
fn without_sidecar(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object.remove("sidecar");
        for side in ["passage", "query"] {
            if let Some(inner) = object.remove(side) {
                object.insert(side.to_owned(), without_sidecar(inner));
            }
        }
    }
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_is_merged_as_weaviate_does() {
    let cases = fixture("contract/meta_merge.json");
    for case in cases.as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let side = |side: &Value| {
            let (code, body) =
                (side["status"].as_u64().unwrap_or(200) as u16, side["body"].as_str().unwrap_or("").to_owned());
            Upstream::start(move |arrived: &Arrived| match arrived.path.as_str() {
                "/meta" => status(code, body.clone()),
                _ => container(arrived),
            })
        };
        let passage = side(&case["passage"]).await;
        let backend: Arc<dyn Backend> = match case.get("query") {
            None => connect(&passage.url()).await,
            Some(query) => {
                let query = side(query).await;
                let (one, other) = (passage.url(), query.url());
                let sides =
                    startup::connect(Some(&one), Some(&other), false, &RemoteOptions::default()).await.expect("sides");
                // The upstreams live as long as the server is asked.
                Box::leak(Box::new(query));
                Arc::new(Paired::new(sides.passage.expect("one"), sides.query.expect("other")).expect("a pair"))
            }
        };
        let cached = Cached::around(backend, CacheOptions::default()).expect("a cache");
        let server = TestServer::start(cached).await;
        let answer = reqwest::get(server.url("/meta")).await.expect("an answer");
        let good = answer.status().is_success();
        let body: Value = answer.json().await.expect("JSON");
        match case["expected"].get("meta") {
            Some(expected) => assert_eq!(&without_sidecar(body), expected, "{name}"),
            None => {
                let expected = &case["expected"];
                let text = expected.get("error_prefix").unwrap_or(&expected["error"]).as_str().expect("a text");
                assert!(!good && body["error"].as_str().expect("error").starts_with(text), "{name}: {body}");
            }
        }
    }
}

/// The reference container as its recorded answers have it: the numbers in its digits, its meta, its errors.
async fn reference_container() -> (Upstream, HashMap<String, Vec<f32>>) {
    let ids: HashMap<String, String> = fixture("minilm/texts.json")
        .as_array()
        .expect("texts")
        .iter()
        .map(|text| (text["id"].to_string(), text["text"].as_str().expect("text").to_owned()))
        .collect();
    let mut answers: HashMap<String, (u16, String)> = HashMap::new();
    let mut vectors = HashMap::new();
    for result in fixture("minilm/A.json")["results"].as_array().expect("results") {
        let text = &ids[&result["id"].to_string()];
        if result["status"] == 200 {
            let body = json!({"text": text, "vector": result["vector"], "dim": 384}).to_string();
            answers.insert(text.clone(), (200, body));
            vectors.insert(text.clone(), support::floats(&result["vector"]));
        }
    }
    let exchanges = fixture("minilm/http_A.json");
    let body = |name: &str| {
        let found = exchanges.as_array().expect("exchanges").iter().find(|exchange| exchange["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no exchange {name}"));
        (found["status"].as_u64().expect("status") as u16, found["body"].as_str().expect("a body").to_owned())
    };
    answers.insert(String::new(), body("empty_text"));
    let (meta, not_found) = (body("meta").1, body("root").1);
    let upstream = Upstream::start(move |arrived| match arrived.path.as_str() {
        "/meta" => ok(meta.clone()),
        "/.well-known/ready" => status(204, ""),
        "/vectors" => {
            let sent: Value = serde_json::from_str(&arrived.body).expect("JSON");
            match answers.get(sent["text"].as_str().expect("text")) {
                Some((code, body)) => status(*code, body.clone()),
                None => ok(json!({"text": "", "vector": vec![0.5; 384], "dim": 384}).to_string()),
            }
        }
        _ => status(404, not_found.clone()),
    });
    (upstream.await, vectors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_container_is_forwarded_to_bit_by_bit() {
    let (container, vectors) = reference_container().await;
    let url = container.url();
    let sides = startup::connect(Some(&url), Some(&url), true, &RemoteOptions::default()).await.expect("ready");
    let server = TestServer::start(sides.passage.expect("one")).await;
    assert!(vectors.len() >= 50, "{}", vectors.len());
    for (text, expected) in &vectors {
        let body = json!({"text": text, "config": {"pooling_strategy": "masked_mean", "task_type": "passage"}});
        let answer = reqwest::Client::new().post(server.url("/vectors")).json(&body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        let got: Vec<u32> = support::floats(&answer["vector"]).into_iter().map(f32::to_bits).collect();
        assert_eq!(got, expected.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), "{text}");
    }
    let meta: Value = reqwest::get(server.url("/meta")).await.expect("an answer").json().await.expect("JSON");
    let theirs: Value = reqwest::get(container.url() + "/meta").await.expect("an answer").json().await.expect("JSON");
    assert_eq!(meta["sidecar"]["upstream"]["kind"], "t2v");
    assert_eq!(without_sidecar(meta), theirs);
    let answer =
        reqwest::Client::new().post(server.url("/vectors")).json(&json!({"text": ""})).send().await.expect("one");
    assert_eq!(answer.status(), 502);
    let error: Value = answer.json().await.expect("JSON");
    assert!(error["error"].as_str().expect("error").starts_with("fail with status 500: 'int' object"), "{error}");
}

/// Any finite bits, by text, task and settings.
struct Noise(ModelInfo);

impl Backend for Noise {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        let settings = call.to_embed().expect("texts to embed").clone();
        let texts = call.texts;
        let embed = |text: Text| {
            if text == *"bad" {
                return Err(Error::invalid("this text fails"));
            }
            let seed = format!("{}{:?}{:?}{:?}", &*text, settings.task(), settings.pooling, settings.prompt);
            let mut state = seed
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            let length = settings.dimensions.map_or(96, |dimensions| dimensions as usize);
            let vector = (0..length).map(|_| {
                loop {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let value = f32::from_bits((state >> 32) as u32);
                    if value.is_finite() {
                        break value;
                    }
                }
            });
            Ok(Embedding {
                vector: vector.collect(),
                tokens: 5,
                truncated: text.len() > 3,
                ignored: vec!["poolingStrategy"],
            })
        };
        let results = texts.into_iter().map(embed).collect();
        Box::pin(async move { Ok(results) })
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn meta(&self) -> Meta {
        let (model, fingerprint) = ("noise".to_owned(), "noise".to_owned());
        let model = ModelReport { model, fingerprint, ..ModelReport::default() };
        Meta::of(Subject::default(), Served::Model(Box::new(model)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sidecar_gives_the_bits_of_the_local_answer() {
    let noise = Arc::new(Noise(ModelInfo {
        name: "noise".into(),
        fingerprint: "noise".into(),
        dimensions: Some(96),
        ..ModelInfo::default()
    }));
    let server = TestServer::start(noise.clone()).await;
    // 700 texts, a call for each of the settings, with the numbers of its texts.
    let mut calls: Vec<(Vec<usize>, Call)> = Vec::new();
    for i in 0..700 {
        let settings = EmbedSettings {
            task_name: Some(if i % 3 == 0 { "query" } else { "passage" }.into()),
            pooling: Some(if i % 5 == 0 { "cls" } else { "masked_mean" }.into()),
            dimensions: (i % 7 == 0).then_some(32),
            prompt: None,
        };
        let text = Text::from(if i == 350 { "bad".to_owned() } else { format!("text {}", i % 650) });
        match calls.iter_mut().find(|(_, call)| call.to_embed() == Some(&settings)) {
            Some((numbers, call)) => {
                numbers.push(i);
                call.texts.push(text);
            }
            None => calls.push((vec![i], Call::new(vec![text], settings))),
        }
    }
    assert_eq!(calls.len(), 8);
    for scheme in ["grpc", "http", "t2v+http"] {
        let remote = connect(&format!("{scheme}://{}", server.address)).await;
        assert_eq!(remote.info().dimensions, Some(96), "{scheme}");
        for (numbers, call) in &calls {
            let local = noise.embed(call.clone()).await.expect("the call");
            let answers = remote.embed(call.clone()).await.expect("the call");
            assert_eq!(answers.len(), local.len());
            for (&i, (got, expected)) in numbers.iter().zip(answers.iter().zip(&local)) {
                match (got, expected) {
                    (Ok(got), Ok(expected)) => {
                        let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&got.vector), bits(&expected.vector), "{scheme} {i}");
                        if scheme == "grpc" {
                            assert_eq!(got, expected, "tokens, truncation and settings as well");
                        }
                    }
                    (Err(got), Err(_)) => {
                        assert_eq!((i, got.kind()), (350, ErrorKind::InvalidArgument), "{scheme} {got}");
                        assert!(got.message().contains("this text fails"), "{scheme}: {got}");
                    }
                    other => panic!("{scheme} {i}: {other:?}"),
                }
            }
        }
        let meta = remote.live_meta().await.expect("meta").expect("an object").to_json();
        assert_eq!(meta["sidecar"]["upstream"]["sidecar"]["fingerprint"], "noise", "{scheme}");
    }
    server.stop().await;
}

/// Two kinds of error share RESOURCE_EXHAUSTED: a batch that is too large is sent in parts, a text that is too large is
/// refused as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_with_smaller_limits_gets_smaller_batches() {
    let server = TestServer::start_unready(Limits { max_texts: 40, max_text_bytes: 100, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    let remote = connect(&format!("grpc://{}", server.address)).await;
    let texts = (0..300).map(|i| "x".repeat(if i == 70 { 101 } else { 1 + i % 90 }));
    let answers = remote.embed(Call::passages(texts)).await.expect("the call");
    for (i, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(embedding) => assert_eq!(embedding.vector[0], (1 + i % 90) as f32),
            Err(error) => assert_eq!((i, error.kind()), (70, ErrorKind::TooLarge), "{error}"),
        }
    }
    server.stop().await;
}

/// The length of its vectors is not known then, and no reason to refuse `dimensions`.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_was_not_there_at_start_gives_shortened_vectors_later() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let upstream = Upstream::start(move |arrived| match is_up.load(Ordering::Relaxed) {
        true => container(arrived),
        false => status(500, "starting"),
    })
    .await;
    let remote = connect(&upstream.url().replace("http", "t2v+http")).await;
    assert_eq!(remote.info().dimensions, None);
    up.store(true, Ordering::Relaxed);
    let server = TestServer::start(remote).await;
    let ask = async |dimensions: usize| -> Value {
        let body = json!({"input": "a text", "dimensions": dimensions}).to_string();
        let answer = reqwest::Client::new().post(server.url("/v1/embeddings")).body(body).send().await;
        answer.expect("an answer").json().await.expect("JSON")
    };
    let (two, four) = (ask(2).await, ask(4).await);
    assert_eq!(two["data"][0]["embedding"].as_array().map(Vec::len), Some(2), "{two}");
    assert!(four["error"]["message"].as_str().expect("a text").contains("have 3"), "{four}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_embeddings_inference_is_asked_in_batches() {
    let upstream = Upstream::start(|arrived| match (arrived.path.as_str(), arrived.body.contains("bad")) {
        ("/info", _) => ok(r#"{"model_id":"org/model","model_sha":"abc","max_client_batch_size":8}"#),
        ("/embed", true) => status(422, r#"{"error":"no such token","error_type":"Tokenizer"}"#),
        ("/embed", false) => {
            let sent: Value = serde_json::from_str(&arrived.body).expect("JSON");
            assert_eq!(sent["truncate"], true);
            let texts = sent["inputs"].as_array().expect("texts");
            assert!(texts.len() <= 8);
            let vectors: Vec<_> = texts.iter().map(|text| [text.as_str().expect("text").len() as f32, 0.25]).collect();
            ok(serde_json::to_string(&vectors).expect("JSON"))
        }
        _ => status(404, ""),
    })
    .await;
    for url in [upstream.url(), upstream.url().replace("http", "tei+http")] {
        let remote = connect(&url).await;
        let before = upstream.count("/embed");
        let texts = (0..20).map(|i| "x".repeat(i + 1));
        let answers = remote.embed(Call::passages(texts)).await.expect("the call");
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(&*answer.as_ref().expect("a vector").vector, [i as f32 + 1.0, 0.25], "{url}");
        }
        assert_eq!(upstream.count("/embed") - before, 3, "20 texts in batches of 8");
        // One bad text fails alone, its neighbours have their vectors.
        let texts = (0..8).map(|i| if i == 5 { "bad" } else { "good" });
        let answers = remote.embed(Call::passages(texts)).await.expect("the call");
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!(answer.as_ref().err().map(Error::kind), (i == 5).then_some(ErrorKind::InvalidArgument), "{i}");
        }
        let error = answers[5].as_ref().expect_err("refused");
        assert!(error.message().contains("no such token"), "{error}");
        assert_eq!(remote.live_meta().await.expect("meta").expect("an object").to_json()["model_id"], "org/model");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_compatible_servers_are_asked_for_base64() {
    for refuses in [false, true] {
        let upstream = Upstream::start(move |arrived| {
            if arrived.path == "/v1/models" {
                return ok(r#"{"object":"list","data":[{"id":"listed"}]}"#);
            }
            if arrived.path != "/v1/embeddings" {
                return status(404, "");
            }
            assert_eq!(arrived.headers.get("authorization").map(String::as_str), Some("Bearer open sesame"));
            assert_eq!(arrived.headers.get("openai-organization").map(String::as_str), Some("org-1"));
            let sent: Value = serde_json::from_str(&arrived.body).expect("JSON");
            let base64 = sent["encoding_format"] == "base64";
            if base64 && refuses {
                return status(400, r#"{"error":{"message":"unknown encoding_format 'base64'"}}"#);
            }
            let model = sent["model"].as_str().expect("a model");
            assert!(["listed", "named"].contains(&model), "{model}");
            // Backwards, to see that the index counts.
            let data: Vec<_> = (0..sent["input"].as_array().expect("texts").len())
                .rev()
                .map(|index| match base64 {
                    // 1.5 and 0.1 as float32.
                    true => json!({"index": index, "embedding": "AADAP83MzD0="}),
                    false => json!({"index": index, "embedding": [1.5, 0.1]}),
                })
                .collect();
            ok(json!({"data": data, "usage": {"prompt_tokens": 4}}).to_string())
        })
        .await;
        let credentials = Credentials::parse("127.0.0.1=open sesame", "", "127.0.0.1=OpenAI-Organization:org-1");
        let options = RemoteOptions { credentials: credentials.expect("credentials"), ..RemoteOptions::default() };
        for url in [upstream.url(), format!("openai+{}/v1?model=named", upstream.url())] {
            let remote = connect_with(&url, &options).await;
            let answers = remote.embed(Call::passages(["a", "b"])).await.expect("call");
            for answer in answers {
                assert_eq!(&*answer.expect("a vector").vector, [1.5, 0.1], "{url}");
            }
            assert_eq!(one(&*remote, Call::query("q")).await.expect("a vector").tokens, 4);
            assert_eq!(remote.meta().to_json()["sidecar"]["upstream"]["kind"], "openai");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_passed_on_and_secrets_are_not_told() {
    let upstream = Upstream::start(|arrived| match arrived.body.contains("fails") {
        true => status(500, r#"{"error":"kaboom"}"#),
        false => container(arrived),
    })
    .await;
    let url = upstream.url().replace("http://", "http://user:hunter2@") + "/?key=hunter3";
    // A query swallows the path behind it, as Weaviate has it: take one without for the vectors.
    let shown = connect(&url).await;
    let remote = connect(&upstream.url().replace("http://", "http://user:hunter2@")).await;
    let server = TestServer::start(remote.clone()).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let post = |text: &str| {
        let post = reqwest::Client::new().post(server.url("/vectors")).json(&json!({"text": text}));
        post.header("traceparent", trace).header("tracestate", "a=1").send()
    };
    assert_eq!(post("x").await.expect("an answer").status(), 200);
    let last = upstream.requests().pop().expect("a request");
    assert_eq!(last.headers.get("traceparent").map(String::as_str), Some(trace));
    assert_eq!(last.headers.get("tracestate").map(String::as_str), Some("a=1"));
    assert_eq!(last.headers.get("authorization").map(String::as_str), Some("Basic dXNlcjpodW50ZXIy"));
    let error = post("fails").await.expect("an answer").text().await.expect("text");
    let meta = reqwest::get(server.url("/meta")).await.expect("an answer").text().await.expect("text");
    let gone = upstream.url().replace("http://", "http://user:hunter2@");
    drop(upstream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let unreachable = post("x").await.expect("an answer").text().await.expect("text");
    assert!(unreachable.contains("send POST request"), "{unreachable}");
    let opened = format!(
        "{:?}",
        startup::connect(
            Some(&gone),
            Some(&gone),
            true,
            &RemoteOptions { startup_limit: Duration::from_millis(10), ..RemoteOptions::default() }
        )
        .await
        .err()
    );
    for text in [error, meta, unreachable, opened, shown.info().name.clone(), format!("{:?}", shown.meta())] {
        assert!(!text.contains("hunter") && !text.contains("dXNlcj"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_of_upstreams_share_their_room_and_never_mix() {
    let answers = |first: f32| {
        move |arrived: &Arrived| match arrived.path.as_str() {
            "/vectors" => ok(format!(r#"{{"vector":[{first},2,3]}}"#)),
            _ => container(arrived),
        }
    };
    let (a, b) = (Upstream::start(answers(1.0)).await, Upstream::start(answers(5.0)).await);
    let (one_remote, other_remote) = (connect(&a.url()).await, connect(&b.url()).await);
    assert_ne!(one_remote.info().fingerprint, other_remote.info().fingerprint);
    let first = Cached::around(one_remote, CacheOptions::default()).expect("a cache");
    let second = first.beside(other_remote);
    for _ in 0..3 {
        assert_eq!(one(&*first, Call::passage("x")).await.expect("a vector").vector[0], 1.0);
        assert_eq!(one(&*second, Call::passage("x")).await.expect("a vector").vector[0], 5.0);
    }
    // One request each, beside the one at the start.
    assert_eq!((a.count("/vectors"), b.count("/vectors")), (2, 2));
    assert_eq!((first.stats().entries, second.stats().hits), (2, 4));
}

/// What the sidecar adds to an upstream's own time, at the median: printed, and bounded where nothing else runs.
#[tokio::test(flavor = "multi_thread")]
async fn forwarding_adds_little() {
    let body = json!({"text": "", "vector": (0..384).map(|i| f64::from(i) / 768.0).collect::<Vec<_>>(), "dim": 384})
        .to_string();
    let upstream = Upstream::start(move |arrived| match arrived.path.as_str() {
        "/vectors" => ok(body.clone()),
        _ => container(arrived),
    })
    .await;
    let server = TestServer::start(connect(&upstream.url()).await).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..600 {
        for (place, base) in [upstream.url(), server.url("")].into_iter().enumerate() {
            let started = Instant::now();
            let send = client.post(format!("{base}/vectors")).body(format!(r#"{{"text":"a short text {round}"}}"#));
            send.send().await.expect("an answer").bytes().await.expect("a body");
            times[place].push(started.elapsed());
        }
    }
    let [direct, forwarded] = times.map(|mut times| {
        times.drain(..100);
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("p50: direct {direct:?}, forwarded {forwarded:?}, added {:?}", forwarded.saturating_sub(direct));
    let bound =
        if std::env::var_os("T2V_MEASURE").is_some() { Duration::from_micros(500) } else { Duration::from_millis(20) };
    assert!(forwarded.saturating_sub(direct) <= bound, "direct {direct:?}, forwarded {forwarded:?}");
}
