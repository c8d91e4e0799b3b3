//! The reference container's HTTP API over real sockets: what Weaviate sends, and the reference's own exchanges replayed.

use crate::support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use support::{FakeBackend, TestServer, fixture, floats, max_difference, options};
use text2vec_sidecar::backend::local::{Inference, LocalBackend, LocalOptions};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::proto::VectorizeRequest;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::server::{Lifetimes, Limits, ServerOptions};

fn client() -> Client {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("client")
}

/// Requests as Weaviate's Go client writes them, byte for byte, without Content-Type.
#[tokio::test]
async fn every_request_of_weaviate_is_accepted() {
    // Whole texts: under the transformers profile an empty query has no sentence, which is an error of its own.
    let server =
        TestServer::start_model(LocalOptions { direct_tokenize: true, ..options(Profile::Transformers) }).await;
    let cases = fixture("contract/wire_exchange.json");
    let mut accepted = 0;
    for case in cases.as_array().expect("a list") {
        let body = case["expected"]["request_body"].as_str().unwrap_or_default();
        if body.is_empty() {
            continue;
        }
        let mut request = client().post(server.url("/vectors")).body(body.to_owned());
        for (name, value) in case["expected"]["request_headers"].as_object().expect("headers") {
            request = request.header(name, value.as_str().expect("a header value"));
        }
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let answer: Value = response.json().await.expect("JSON");
        let sent: Value = serde_json::from_str(body).expect("the request is JSON");
        if matches!(sent["config"]["pooling_strategy"].as_str(), None | Some("" | "masked_mean" | "cls")) {
            assert_eq!(status, StatusCode::OK, "{}: {answer}", case["name"]);
            assert_eq!(floats(&answer["vector"]).len(), 384);
            assert_eq!((&answer["dim"], &answer["dims"], &answer["text"]), (&json!(384), &json!(384), &sent["text"]));
        } else {
            // Accepted as a request; the pooling strategy is what is refused.
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(answer["error"].as_str().expect("error").starts_with("invalid pooling method"), "{answer}");
        }
        accepted += 1;
    }
    println!("{accepted} requests accepted");
    assert!(accepted >= 40, "only {accepted}");
    server.stop().await;
}

/// `/vectors` is as lenient with `dimensions` as the reference: under `sentence-transformers` a negative number drops
/// values from the end, 0 and too many are the whole vector, and under `transformers` nothing of it counts. One thing is
/// not kept: a vector with nothing in it.
#[tokio::test]
async fn dimensions_that_make_no_sense_never_give_an_empty_vector() {
    let given = [(0, 384), (385, 384), (5000, 384), (i64::MAX, 384), (-10, 374), (-383, 1)];
    let nothing = [-384, -385, i64::MIN];
    for profile in [Profile::SentenceTransformers, Profile::Transformers] {
        let server = TestServer::start_model(options(profile)).await;
        let ask = async |dimensions: i64, texts: bool| {
            let key = if texts { "texts" } else { "text" };
            let text = if texts { json!(["The London Eye"]) } else { json!("The London Eye") };
            let body = json!({key: text, "config": {"dimensions": dimensions}});
            let response = client().post(server.url("/vectors")).json(&body).send().await.expect("an answer");
            (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
        };
        let cuts = profile == Profile::SentenceTransformers;
        for texts in [false, true] {
            for (dimensions, length) in given {
                let (status, answer) = ask(dimensions, texts).await;
                let vector = if texts { &answer["vectors"][0] } else { &answer["vector"] };
                let length = if cuts { length } else { 384 };
                assert_eq!((status, floats(vector).len()), (200, length), "{profile} {dimensions}");
            }
            for dimensions in nothing {
                let (status, answer) = ask(dimensions, texts).await;
                assert_eq!(status, if cuts { 400 } else { 200 }, "{profile} {dimensions}: {answer}");
                let told = answer["error"].as_str().is_some_and(|error| error.contains("use 1 to 384"));
                assert_eq!(told, cuts, "{answer}");
            }
        }
        server.stop().await;
    }
}

/// Where our answer is meant to differ from the reference's, and why. Names are those of the exchanges.
const WANTED_DEVIATIONS: &[(&str, &[&str], u16, &str)] = &[
    ("pool_bad", &["A", "B"], 400, "the caller's mistake, not the server's"),
    ("pool_bad_empty_text", &["A", "B"], 400, "the caller's mistake, not the server's"),
    ("empty_text", &["A"], 400, "no sentence, no vector: said clearly instead of a Python error"),
    ("ws_text", &["A"], 400, "no sentence, no vector: said clearly instead of a Python error"),
    ("lone_surrogate", &["A", "C"], 400, "not text; the reference's server fails on it"),
    ("nan_dim", &["A", "C"], 400, "not JSON; the reference's server fails on it"),
];

/// Not replayed: pages of FastAPI itself, and paths where a friendlier answer is fine.
const NOT_REPLAYED: &[&str] = &["openapi", "docs_none", "meta_slash", "root"];

async fn replay(file: &str, options: LocalOptions) {
    let server = TestServer::start_model(options).await;
    let exchanges = fixture(&format!("minilm/http_{file}.json"));
    let mut replayed = 0;
    for exchange in exchanges.as_array().expect("a list") {
        let name = exchange["name"].as_str().expect("name");
        if NOT_REPLAYED.contains(&name) {
            continue;
        }
        let method: Method = exchange["method"].as_str().expect("method").parse().expect("method");
        let mut request = client().request(method, server.url(exchange["path"].as_str().expect("path")));
        for (header, value) in exchange["headers"].as_object().into_iter().flatten() {
            request = request.header(header, value.as_str().expect("a header value"));
        }
        if let Some(body) = exchange["request_body"].as_str() {
            // One character per byte.
            request =
                request.body(body.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect::<Vec<_>>());
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.bytes().await.expect("a body");
        let deviation = WANTED_DEVIATIONS.iter().find(|(case, files, _, _)| *case == name && files.contains(&file));
        let reference_status = exchange["status"].as_u64().expect("status") as u16;
        let expected_status = deviation.map_or(reference_status, |(_, _, status, _)| *status);
        assert_eq!(status, expected_status, "{file} {name}: {}", String::from_utf8_lossy(&body));
        if exchange["method"] != "HEAD" {
            check_body(file, name, status, deviation.is_some(), exchange, &body);
        }
        replayed += 1;
    }
    println!("http_{file}: {replayed} exchanges replayed");
    assert!(replayed >= 7);
    server.stop().await;
}

fn check_body(file: &str, name: &str, status: u16, deviates: bool, exchange: &Value, body: &[u8]) {
    let parse = || -> Value {
        serde_json::from_slice(body).unwrap_or_else(|error| panic!("{file} {name} is not JSON: {error}"))
    };
    match status {
        204 => assert!(body.is_empty()),
        200 if name == "meta" => {
            let ours = parse();
            let reference: Value = serde_json::from_str(exchange["body"].as_str().expect("body")).expect("JSON");
            assert!(ours["model_path"].is_string());
            for key in ["model_type", "hidden_size", "num_hidden_layers", "vocab_size"] {
                assert_eq!(ours["model"][key], reference["model"][key], "{file} {key}");
            }
        }
        200 => {
            let ours = parse();
            let summary = &exchange["body_summary"];
            assert_eq!(ours["text"], summary["text"], "{file} {name}");
            assert_eq!((&ours["dim"], &ours["dims"]), (&summary["dim"], &summary["dim"]), "{file} {name}");
            for key in summary["keys"].as_array().expect("keys") {
                assert!(ours.get(key.as_str().expect("a key")).is_some(), "{file} {name} lacks {key}");
            }
            // The int8 vectors of D are another matter; the f32 ones must be the same.
            if file != "D" {
                let head = floats(&summary["vector_head"]);
                let difference = max_difference(&floats(&ours["vector"])[..head.len()], &head);
                assert!(difference < 2e-5, "{file} {name}: {difference}");
            }
        }
        _ => {
            let ours = parse();
            assert!(ours["error"].as_str().is_some_and(|text| !text.is_empty()), "{file} {name}: {ours}");
            if deviates {
                return;
            }
            let reference: Value = serde_json::from_str(exchange["body"].as_str().expect("body")).expect("JSON");
            let shape = |detail: &Value| match detail {
                Value::Array(entries) => entries
                    .iter()
                    .map(|entry| {
                        let mut place = entry["loc"].as_array().expect("loc").clone();
                        if entry["type"] == "json_invalid" {
                            place.truncate(1); // character offsets are not compared
                        }
                        json!([entry["type"], place])
                    })
                    .collect(),
                other => other.clone(),
            };
            assert_eq!(shape(&ours["detail"]), shape(&reference["detail"]), "{file} {name}");
        }
    }
}

#[tokio::test]
async fn the_transformers_mode_replayed() {
    replay("A", options(Profile::Transformers)).await;
}

#[tokio::test]
async fn direct_tokenize_replayed() {
    replay("B", LocalOptions { direct_tokenize: true, ..options(Profile::Transformers) }).await;
}

#[tokio::test]
async fn the_sentence_transformers_mode_replayed() {
    replay("C", options(Profile::SentenceTransformers)).await;
}

#[tokio::test]
async fn the_onnx_mode_replayed() {
    replay("D", options(Profile::Onnx)).await;
}

#[tokio::test]
async fn probes_tell_starting_ready_and_draining_apart() {
    let server = TestServer::start_unready(Limits::default()).await;
    let get = |path: &'static str| {
        let request = client().get(server.url(path));
        async move {
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.bytes().await.expect("body"))
        }
    };
    assert_eq!(get("/.well-known/live").await.0, 204);
    for path in ["/.well-known/ready", "/meta"] {
        let (status, body) = get(path).await;
        assert_eq!(status, 503, "{path}");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["error"], "not ready: the model is being loaded", "{path}");
    }
    let refused = client().post(server.url("/vectors")).body(r#"{"text":"x"}"#).send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    assert_eq!(get("/.well-known/ready").await.0, 204);
    server.readiness.draining();
    let (status, body) = get("/.well-known/ready").await;
    assert_eq!((status, String::from_utf8_lossy(&body).contains("shutting down")), (503, true));
    // What still arrives is served.
    let served = client().post(server.url("/vectors")).body(r#"{"text":"x"}"#).send().await.expect("an answer");
    assert_eq!(served.status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn meta_tells_that_a_gpu_is_asked_for_in_vain() {
    for cuda_wanted in [false, true] {
        let server = TestServer::start_with(ServerOptions { cuda_wanted, ..ServerOptions::default() }).await;
        server.readiness.ready(Arc::new(FakeBackend::new(3)));
        let meta: Value = client().get(server.url("/meta")).send().await.expect("meta").json().await.expect("JSON");
        assert_eq!(meta["sidecar"]["cuda_ignored"], cuda_wanted);
        server.stop().await;
    }
}

#[tokio::test]
async fn slashes_and_methods_are_taken_as_clients_send_them() {
    let server = TestServer::start(Arc::new(FakeBackend::new(3))).await;
    for path in ["/vectors", "/vectors/", "//vectors", "//vectors//", "/vectors?x=1"] {
        let response = client().post(server.url(path)).body(r#"{"text":"ab"}"#).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let answer: Value = response.json().await.expect("JSON");
        assert_eq!(answer, json!({"text": "ab", "vector": [2.0, 3.0, 4.0], "dim": 3, "dims": 3}));
    }
    assert_eq!(client().get(server.url("//.well-known/ready")).send().await.expect("an answer").status(), 204);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_keeps_what_succeeds() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let post = |body: Value| {
        let request = client().post(server.url("/vectors")).json(&body);
        async move {
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
        }
    };
    let (status, answer) = post(json!({"texts": ["a", "bc"], "config": {"task_type": "query"}})).await;
    let expected = json!({"texts": ["a", "bc"], "vectors": [[1.0, 2.0], [2.0, 3.0]], "dim": 2, "dims": 2});
    assert_eq!((status, answer), (200, expected));
    let (status, answer) = post(json!({"texts": ["a", "fail"]})).await;
    assert_eq!((status, &answer["vectors"]), (200, &json!([[1.0, 2.0], null])));
    assert_eq!(answer["errors"], json!([null, "this text fails"]));
    let (status, answer) = post(json!({"texts": ["fail"]})).await;
    assert_eq!((status, answer["error"].as_str()), (400, Some("this text fails")));
    let (status, answer) = post(json!({"texts": []})).await;
    assert_eq!((status, answer["vectors"].clone()), (200, json!([])));
    let (status, answer) = post(json!({"texts": ["a", 5], "config": 5})).await;
    assert_eq!((status, answer["detail"].as_array().map(Vec::len)), (422, Some(2)));
    assert_eq!(answer["detail"][0]["loc"], json!(["body", "texts", 1]));
    server.stop().await;
}

#[tokio::test]
async fn limits_are_named_in_their_errors() {
    let server = TestServer::start_unready(Limits { max_body_bytes: 1000, max_texts: 2, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let big = client().post(server.url("/vectors")).body(vec![b' '; 1001]).send().await.expect("an answer");
    assert_eq!(big.status(), 413);
    let answer: Value = big.json().await.expect("JSON");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("--max-body-bytes")), "{answer}");
    let many =
        client().post(server.url("/vectors")).json(&json!({"texts": ["a", "b", "c"]})).send().await.expect("answer");
    assert_eq!(many.status(), 413);
    let answer: Value = many.json().await.expect("JSON");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("--max-texts")), "{answer}");
    server.stop().await;
}

/// A sender who stops in the middle is told so over both protocols, and holds no room any longer.
#[tokio::test]
async fn bodies_that_do_not_arrive_are_given_up() {
    use futures_util::{StreamExt, stream};
    let limits = Limits { max_inflight_bytes: 4_000, max_body_wait: Duration::from_millis(300), ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let stopping = |start: &'static [u8]| {
        let start = stream::iter([Ok::<_, std::io::Error>(start)]);
        reqwest::Body::wrap_stream(start.chain(stream::pending()))
    };
    let begun = Instant::now();
    let slow = client().post(server.url("/vectors")).header("content-length", 3_900).body(stopping(b"{"));
    let slow = slow.send().await.expect("an answer");
    assert_eq!(slow.status(), 408);
    let answer: Value = slow.json().await.expect("JSON");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("--max-body-wait")), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());

    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let slow = h2.post(server.url("/text2vec.v1.Vectorizer/Vectorize")).header("content-type", "application/grpc");
    let slow = slow.body(stopping(&[0, 0, 0, 15, 0, 7])).send().await.expect("an answer");
    assert_eq!(slow.headers()["grpc-status"], "4", "{:?}", slow.headers());
    assert!(slow.headers()["grpc-message"].to_str().is_ok_and(|text| text.contains("--max-body-wait")));

    let text = "word ".repeat(600);
    let served = client().post(server.url("/vectors")).json(&json!({"text": text})).send().await.expect("an answer");
    assert_eq!(served.status(), 200);
    server.stop().await;
}

/// Bodies wait for room as they come, over both protocols; whoever finds none in time is refused by the same rule.
#[tokio::test]
async fn bodies_in_memory_are_bounded() {
    use tokio::io::AsyncWriteExt;
    let (max_inflight_bytes, max_wait) = (1_000_000, Duration::from_millis(100));
    let limits = Limits { max_inflight_bytes, max_body_bytes: 700_000, max_wait, ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let mut slow = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let head = "POST /vectors HTTP/1.1\r\nHost: x\r\nContent-Length: 690000\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.expect("a part of a body");
    slow.write_all(&[b' '; 680_000]).await.expect("a part of a body");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let text = "word ".repeat(60_000);
    let refused = client().post(server.url("/vectors")).json(&json!({"text": text})).send().await.expect("an answer");
    assert_eq!(refused.status(), 429);
    let answer: Value = refused.json().await.expect("JSON");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("--max-inflight-bytes")), "{answer}");
    let channel = tonic::transport::Channel::from_shared(server.url("")).expect("a URL");
    let mut grpc = VectorizerClient::new(channel.connect().await.expect("a connection"));
    let request = VectorizeRequest { texts: vec![text.clone()], ..VectorizeRequest::default() };
    let status = grpc.vectorize(request.clone()).await.expect_err("no room");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("--max-inflight-bytes"), "{status}");
    drop(slow);
    tokio::time::sleep(Duration::from_millis(100)).await;
    grpc.vectorize(request).await.expect("there is room again");
    let served = client().post(server.url("/vectors")).json(&json!({"text": text})).send().await.expect("an answer");
    assert_eq!(served.status(), 200);
    server.stop().await;
}

/// float32 → shortest text → float32 is the identity, for every kind of number.
#[tokio::test]
async fn floats_are_printed_so_that_they_read_back_the_same() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let response =
        client().post(server.url("/vectors")).body(r#"{"text":"The London Eye"}"#).send().await.expect("answer");
    let text = response.text().await.expect("text");
    let list = text.split_once('[').expect("[").1.split_once(']').expect("]").0;
    let direct: Vec<f32> = list.split(',').map(|number| number.parse().expect("a float32")).collect();
    let through_double: Vec<f32> =
        list.split(',').map(|number| number.parse::<f64>().expect("a double") as f32).collect();
    assert_eq!(direct.len(), 384);
    assert_eq!(direct, through_double);
    assert!(list.split(',').all(|number| number.len() <= 15), "more digits than a float32 needs");
    server.stop().await;
}

/// Weaviate gives a ready probe 500 ms, also while an import keeps every core busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_answers_while_32_callers_keep_the_cpu_full() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let client = Client::builder().no_proxy().build().expect("client");
    let text = "A passage of a few sentences. It keeps the encoder busy for a while, as an import does. ".repeat(4);
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let (client, url, text) = (client.clone(), server.url("/vectors"), text.clone());
            tokio::spawn(async move {
                let mut answered = 0;
                loop {
                    let body = json!({"text": format!("{caller} {answered} {text}")});
                    match client.post(&url).json(&body).send().await {
                        Ok(response) if response.status() == 200 => answered += 1,
                        other => panic!("a caller got {other:?}"),
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut times = Vec::new();
    // A new connection each time, as a kubelet makes it.
    for _ in 0..30 {
        let fresh = Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("client");
        let started = Instant::now();
        let response = fresh.get(server.url("/.well-known/ready")).send().await.expect("an answer");
        assert_eq!(response.status(), 204);
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times.sort_unstable();
    println!("slowest of 30 ready probes under load: {:?}", times[29]);
    for caller in callers {
        assert!(!caller.is_finished(), "a caller stopped early");
        caller.abort();
    }
    // The machine itself may stand still for a moment.
    assert!(times[26] < Duration::from_millis(500), "{times:?}");
}

#[tokio::test]
async fn a_caller_may_say_how_long_it_waits() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let post = |timeout: &'static str, texts: usize| {
        let body = json!({"texts": vec!["A sentence of some length, again and again. ".repeat(20); texts]});
        let request = client().post(server.url("/vectors")).header("X-Request-Timeout", timeout).json(&body);
        async move {
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
        }
    };
    let started = Instant::now();
    let (status, answer) = post("0.2", 500).await;
    assert_eq!(status, 504, "{answer}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(post("30", 1).await.0, 200);
    for bad in ["soon", "-1", "NaN", ""] {
        assert_eq!(post(bad, 1).await.0, 400, "{bad}");
    }
    server.stop().await;
}

/// The queue is bounded: who finds no room within --max-wait is refused, and told so in the documented way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_room_in_time_is_refused_and_told_how() {
    let inference = Arc::new(Inference::start(None, 2000).expect("a thread"));
    let backend = LocalBackend::load_beside(&options(Profile::Transformers), inference);
    let limits = Limits { max_wait: Duration::from_millis(100), ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    server.readiness.ready(Arc::new(backend.expect("the model loads")));
    let client = client();
    let calls = (0..200).map(|i| {
        let body = json!({"text": format!("{i} {}", "words and more words follow each other. ".repeat(40))});
        client.post(server.url("/vectors")).json(&body).send()
    });
    let (mut served, mut refused) = (0, 0);
    for response in futures_util::future::join_all(calls).await {
        let response = response.expect("an answer");
        match response.status().as_u16() {
            200 => served += 1,
            429 => {
                refused += 1;
                assert_eq!(response.headers()["retry-after"], "1");
                let answer: Value = response.json().await.expect("JSON");
                assert!(
                    answer["error"].as_str().is_some_and(|text| text.contains("too much work is waiting")),
                    "{answer}"
                );
            }
            other => panic!("status {other}"),
        }
    }
    println!("{served} served, {refused} refused");
    assert!(served > 0 && refused > 0);
    server.stop().await;
}

/// After its age a connection is told to close with its next answer, never between two requests.
#[tokio::test]
async fn old_connections_are_asked_to_close_with_their_next_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let lifetimes = Lifetimes { max_connection_age: Duration::from_secs(2), ..Lifetimes::default() };
    let server = TestServer::start_with(ServerOptions { lifetimes, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let mut stream = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let mut exchange = async |what: &str| {
        stream.write_all(b"GET /.well-known/ready HTTP/1.1\r\nHost: x\r\n\r\n").await.expect(what);
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.expect(what) == 0 {
                break;
            }
            answer.push(byte[0]);
        }
        String::from_utf8(answer).expect("text").to_lowercase()
    };
    assert!(!exchange("young").await.contains("connection: close"));
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let answer = exchange("old").await;
    assert!(answer.starts_with("http/1.1 204") && answer.contains("connection: close"), "{answer}");
    assert_eq!(exchange("closed").await, "");
    server.stop().await;
}

/// Whoever has one connection too many is told so; probes, which come on their own connections, are not.
#[tokio::test]
async fn a_connection_over_the_limit_is_refused_but_a_probe_is_not() {
    use support::process::Connection;
    let server = TestServer::start_unready(Limits { max_connections: 2, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address).await.expect("a connection");
        assert_eq!(connection.post(r#"{"text": "a"}"#).await.expect("an answer").status(), 200);
        open.push(connection);
    }
    let mut third = Connection::open(server.address).await.expect("a connection");
    let refusal = third.post(r#"{"text": "a"}"#).await.expect("an answer");
    assert_eq!(refusal.status(), 429);
    assert_eq!(refusal.headers()["retry-after"], "1");
    assert_eq!(refusal.headers()["connection"], "close");
    assert!(String::from_utf8_lossy(refusal.body()).contains("--max-connections"), "{:?}", refusal.body());
    let channel = tonic::transport::Channel::from_shared(server.url("")).expect("a URL");
    let mut grpc = VectorizerClient::new(channel.connect().await.expect("a connection"));
    let request = VectorizeRequest { texts: vec!["a".into()], ..VectorizeRequest::default() };
    let status = grpc.vectorize(request).await.expect_err("one connection too many");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.metadata().get("t2v-reason").expect("a reason"), "overloaded");
    assert!(status.message().contains("--max-connections"), "{status}");
    for _ in 0..3 {
        let ready = client().get(server.url("/.well-known/ready")).send().await.expect("an answer");
        assert_eq!(ready.status(), 204);
    }
    let meta: Value = open[0]
        .get("/meta")
        .await
        .map(|answer| serde_json::from_slice(answer.body()).expect("JSON"))
        .expect("an answer");
    assert_eq!(meta["sidecar"]["max_connections"], 2, "{meta}");
    assert_eq!(meta["sidecar"]["max_body_wait_seconds"], 60.0, "{meta}");
    drop((open, third, grpc));
    // The server notices by and by.
    for _ in 0..100 {
        let mut next = Connection::open(server.address).await.expect("a connection");
        if next.post(r#"{"text": "a"}"#).await.expect("an answer").status() == 200 {
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the places of those who left are not given to others");
}

/// Whatever stands in a path, a refusal says what is wrong.
#[tokio::test]
async fn odd_paths_are_refused_with_an_error() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    for (path, status) in [
        ("/models/%ff%fe/meta", 400),
        ("/models/%ff%fe/vectors", 400),
        ("/models/%ff/.well-known/ready", 400),
        ("/v1/models/%ff", 400),
        ("/v1/models/%c3", 400),
        ("/%ff", 400),
        ("/models/%00/meta", 404),
        ("/models/%F0%9F%98%80/meta", 404),
        ("/models/%/meta", 404),
        ("/models/a%2f..%2fb/meta", 404),
        ("/v1/models/%20", 404),
        ("/models/", 404),
        ("/models//meta", 404),
    ] {
        // No URL library between, which would change the path.
        let mut connection = support::process::Connection::open(server.address).await.expect("a connection");
        let answer = connection.get(path).await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}: {:?}", answer.body());
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_else(|error| panic!("{path}: {error}"));
        let error = &body["error"];
        assert!(error.is_string() || error["message"].is_string(), "{path}: {body}");
    }
    server.stop().await;
}

/// What was accepted before the end is answered; what comes after is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_answers_what_is_in_flight() {
    for round in 0..3 {
        let server = TestServer::start_model(options(Profile::Transformers)).await;
        let address = server.address;
        let calls: Vec<_> = (0..16)
            .map(|i| {
                let (client, url) = (client(), server.url("/vectors"));
                let text = format!("{round} {i} {}", "a passage that takes a while. ".repeat(20));
                let body = json!({"texts": (0..8).map(|one| format!("{one} {text}")).collect::<Vec<_>>()});
                tokio::spawn(async move { client.post(url).json(&body).send().await.map(|response| response.status()) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.stop().await;
        for call in calls {
            assert_eq!(call.await.expect("a task").expect("an answer"), 200, "round {round}");
        }
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "still listening");
    }
}
