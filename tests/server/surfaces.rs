//! The HTTP surfaces for callers without tasks: OpenAI, Ollama, TEI. Shapes to the last field, since clients parse them
//! strictly; `make e2e` has the clients themselves.

use crate::support;

use std::sync::Arc;

use reqwest::Client;
use serde_json::{Value, json};
use support::{FakeBackend, TestServer, floats, max_difference, norm, options};
use text2vec_sidecar::backend::local::{LocalOptions, Precision};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::server::{Limits, ServerOptions, SurfaceOptions};

fn client() -> Client {
    Client::builder().no_proxy().build().expect("client")
}

async fn post(server: &TestServer, path: &str, body: Value) -> (u16, Value) {
    let response = client().post(server.url(path)).json(&body).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn get(server: &TestServer, path: &str) -> (u16, Value) {
    let response = client().get(server.url(path)).send().await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a body");
    (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") })
}

/// Field names of an object, sorted.
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Scaled to length 1 and rounded once, as JSON has it: in the fewest digits that read back to the same float32.
fn unit<const N: usize>(vector: [f32; N]) -> [f64; N] {
    let length = norm(&vector);
    vector.map(|value| ((f64::from(value) / length) as f32).to_string().parse().expect("a number"))
}

/// The bytes of base64 text, as little-endian float32.
fn base64_floats(text: &str) -> Vec<f32> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = Vec::new();
    for sign in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|&letter| letter == sign).expect("a letter of base64");
        bits.extend((0..6).rev().map(|bit| (value >> bit & 1) as u8));
    }
    let bytes: Vec<u8> = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit)).collect();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

#[tokio::test]
async fn openai_answers_as_its_clients_read_it() {
    let server = TestServer::start(Arc::new(FakeBackend::new(3))).await;
    let (status, answer) = post(&server, "/v1/embeddings", json!({"model": "fake", "input": ["ab", "c"]})).await;
    let entry = |index: usize, vector: [f64; 3]| json!({"object": "embedding", "index": index, "embedding": vector});
    let expected = json!({
        "object": "list",
        "data": [entry(0, unit([2.0, 3.0, 4.0])), entry(1, unit([1.0, 2.0, 3.0]))],
        "model": "fake",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    });
    assert_eq!((status, answer), (200, expected));
    // One text alone, no model: the default one. Unknown fields such as `user` are nobody's business.
    let (status, answer) = post(&server, "/v1/embeddings", json!({"input": "ab", "user": "me"})).await;
    assert_eq!((status, &answer["data"][0]["embedding"]), (200, &json!(unit([2.0, 3.0, 4.0]))));
    assert_eq!(answer["model"], "fake");

    // Weaviate's text2vec-openai paces its batches by these, and crawls without them.
    let answer =
        client().post(server.url("/v1/embeddings")).json(&json!({"input": "ab"})).send().await.expect("an answer");
    for what in ["requests", "tokens"] {
        let header =
            |kind: &str| answer.headers()[&format!("x-ratelimit-{kind}-{what}")].to_str().expect("text").to_owned();
        for kind in ["limit", "remaining"] {
            assert!(header(kind).parse::<u32>().expect("a number") >= 1_000_000, "{kind} {what}");
        }
        assert_eq!(header("reset"), "0s");
    }

    let body = json!({"model": "fake", "input": "ab", "encoding_format": "base64"});
    let (_, answer) = post(&server, "/v1/embeddings", body).await;
    assert_eq!(
        base64_floats(answer["data"][0]["embedding"].as_str().expect("base64")),
        unit([2.0, 3.0, 4.0]).map(|value| value as f32)
    );

    let (_, answer) = post(&server, "/v1/embeddings", json!({"model": "fake", "input": "ab", "dimensions": 2})).await;
    let cut = floats(&answer["data"][0]["embedding"]);
    assert!(max_difference(&cut, &[2.0 / 13f32.sqrt(), 3.0 / 13f32.sqrt()]) < 1e-6, "{cut:?}");

    let model = json!({"id": "fake", "object": "model", "created": 0, "owned_by": "text2vec-sidecar"});
    assert_eq!(get(&server, "/v1/models").await, (200, json!({"object": "list", "data": [model]})));
    assert_eq!(get(&server, "/v1/models/fake").await, (200, model));
    server.stop().await;
}

#[tokio::test]
async fn openai_errors_have_its_shape() {
    let limits = Limits { max_body_bytes: 1000, max_texts: 2, ..Limits::default() };
    let server = TestServer::start_unready(limits).await;
    let (status, answer) = post(&server, "/v1/embeddings", json!({"input": "x"})).await;
    assert_eq!((status, &answer["error"]["type"]), (503, &json!("server_error")));
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    let invalid = "invalid_request_error";
    for (body, status, kind, param, code, words) in [
        (json!({}), 400, invalid, json!("input"), Value::Null, "missing"),
        (json!({"input": []}), 400, invalid, json!("input"), Value::Null, "empty list"),
        (json!({"input": [1, 2, 3]}), 400, invalid, json!("input"), Value::Null, "token ids"),
        (json!({"input": [[1, 2], [3]]}), 400, invalid, json!("input"), Value::Null, "token ids"),
        (json!({"input": "x", "dimensions": 4}), 400, invalid, json!("dimensions"), Value::Null, "have 3"),
        (json!({"input": "x", "dimensions": 0}), 400, invalid, json!("dimensions"), Value::Null, "above 0"),
        (json!({"input": "x", "dimensions": -3}), 400, invalid, json!("dimensions"), Value::Null, "above 0"),
        (json!({"input": "x", "dimensions": 1e30}), 400, invalid, json!("dimensions"), Value::Null, "above 0"),
        (json!({"input": "x", "dimensions": u64::MAX}), 400, invalid, json!("dimensions"), Value::Null, "have 3"),
        (
            json!({"input": "x", "encoding_format": "int8"}),
            400,
            invalid,
            json!("encoding_format"),
            Value::Null,
            "base64",
        ),
        (json!({"input": "x", "model": "gpt"}), 404, invalid, Value::Null, json!("model_not_found"), "'fake'"),
        (json!({"input": ["good", "fail"]}), 400, invalid, Value::Null, Value::Null, "text 1: this text fails"),
        (json!({"input": ["a", "b", "c"]}), 413, invalid, Value::Null, Value::Null, "--max-texts"),
        (json!({"input": "x".repeat(2000)}), 413, invalid, Value::Null, Value::Null, "--max-body-bytes"),
    ] {
        let (got, answer) = post(&server, "/v1/embeddings", body.clone()).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert_eq!(fields(&answer["error"]), ["code", "message", "param", "type"]);
        let error = &answer["error"];
        assert_eq!((&error["type"], &error["param"], &error["code"]), (&json!(kind), &param, &code), "{body}");
        assert!(error["message"].as_str().expect("text").contains(words), "{body}: {answer}");
    }
    for path in ["/v1/models/gpt", "/v1/chat/completions"] {
        let (status, answer) = get(&server, path).await;
        assert_eq!((status, fields(&answer["error"]).len()), (404, 4), "{path}");
    }
    let response = client().post(server.url("/v1/embeddings")).body("{\"input\": ").send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    server.stop().await;
}

/// `param` is the field at fault, or the place in its list; of the request as a whole, of a text or of a model there is none.
#[tokio::test]
async fn openai_s_param_names_the_field_at_fault() {
    let server = TestServer::start_unready(Limits { max_texts: 2, max_text_bytes: 100, ..Limits::default() }).await;
    let param = async |body: String, patience: &str| {
        let request = client().post(server.url("/v1/embeddings")).header("X-Request-Timeout", patience).body(body);
        let response = request.send().await.expect("an answer");
        assert!(response.status().is_client_error() || response.status() == 503, "{}", response.status());
        let answer: Value = response.json().await.expect("JSON");
        answer["error"]["param"].clone()
    };
    assert_eq!(param(json!({"input": "x"}).to_string(), "9").await, Value::Null, "not ready");
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    let none = Value::Null;
    for (body, expected) in [
        (json!({}), json!("input")),
        (json!({"input": null}), json!("input")),
        (json!({"input": 7}), json!("input")),
        (json!({"input": {"input": "x"}}), json!("input")),
        (json!({"input": []}), json!("input")),
        (json!({"input": [1, 2]}), json!("input")),
        (json!({"input": [[1], [2]]}), json!("input")),
        (json!({"input": ["a", true]}), json!("input[1]")),
        (json!({"input": [1, "a"]}), json!("input[1]")),
        (json!({"input": "x", "model": 7}), json!("model")),
        (json!({"input": "x", "encoding_format": 7}), json!("encoding_format")),
        (json!({"input": "x", "encoding_format": "'int8'"}), json!("encoding_format")),
        (json!({"input": "x", "dimensions": "3"}), json!("dimensions")),
        (json!({"input": "x", "dimensions": 0}), json!("dimensions")),
        (json!({"input": "x", "dimensions": 4}), json!("dimensions")),
        (json!({"input": "x", "model": "'gpt'"}), none.clone()),
        (json!({"input": "fail"}), none.clone()),
        (json!({"input": ["a", "fail"]}), none.clone()),
        (json!({"input": ["a", "b", "c"]}), none.clone()),
        (json!({"input": "x".repeat(200)}), none.clone()),
        (json!(["input"]), none.clone()),
        (json!("input"), none.clone()),
    ] {
        assert_eq!(param(body.to_string(), "9").await, expected, "{body}");
    }
    for (body, expected) in
        [("", &none), ("{", &none), ("'input'", &none), ("{\"input\": \"\\ud800\"}", &json!("input"))]
    {
        assert_eq!(param(body.to_owned(), "9").await, *expected, "{body}");
    }
    assert_eq!(param(json!({"input": "x"}).to_string(), "'soon'").await, none, "a header is no field");
    server.stop().await;
}

#[tokio::test]
async fn ollama_answers_as_its_clients_read_it() {
    let server = TestServer::start(Arc::new(FakeBackend::new(3))).await;
    let (status, answer) = post(&server, "/api/embed", json!({"model": "fake:latest", "input": ["ab", "c"]})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(fields(&answer), ["embeddings", "load_duration", "model", "prompt_eval_count", "total_duration"]);
    assert_eq!(answer["embeddings"], json!([unit([2.0, 3.0, 4.0]), unit([1.0, 2.0, 3.0])]));
    assert_eq!((&answer["model"], &answer["prompt_eval_count"]), (&json!("fake:latest"), &json!(2)));
    assert!(answer["total_duration"].as_u64().expect("a number") > 0);
    let (_, answer) = post(&server, "/api/embed", json!({"model": "fake", "input": "ab", "dimensions": 1})).await;
    assert_eq!(answer["embeddings"], json!([[1.0]]));
    let old = post(&server, "/api/embeddings", json!({"model": "fake", "prompt": "ab"})).await;
    assert_eq!(old, (200, json!({"embedding": unit([2.0, 3.0, 4.0])})));
    let (_, answer) = get(&server, "/api/tags").await;
    assert_eq!(fields(&answer["models"][0]), ["details", "digest", "model", "modified_at", "name", "size"]);
    assert_eq!((&answer["models"][0]["name"], &answer["models"][0]["digest"]), (&json!("fake:latest"), &json!("0")));
    assert_eq!(get(&server, "/api/version").await, (200, json!({"version": env!("CARGO_PKG_VERSION")})));

    for (path, body, status, words) in [
        ("/api/embed", json!({"model": "nomic", "input": "x"}), 404, "no model 'nomic'"),
        ("/api/embed", json!({"model": "fake"}), 400, "'input' is missing"),
        ("/api/embed", json!({"model": "fake", "input": [[1]]}), 400, "token ids"),
        ("/api/embed", json!({"model": "fake", "input": "x", "dimensions": 9}), 400, "have 3"),
        ("/api/embed", json!({"model": "fake", "input": "x", "dimensions": 0}), 400, "above 0"),
        ("/api/embed", json!({"model": "fake", "input": "x", "dimensions": -9}), 400, "above 0"),
        ("/api/embed", json!({"model": "fake", "input": ["a", "fail"]}), 400, "text 1: this text fails"),
        ("/api/embeddings", json!({"model": "fake"}), 400, "'prompt' is missing"),
    ] {
        let (got, answer) = post(&server, path, body.clone()).await;
        assert_eq!((got, fields(&answer)), (status, vec!["error"]), "{body}: {answer}");
        assert!(answer["error"].as_str().expect("text").contains(words), "{body}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tei_answers_as_its_clients_read_it() {
    let server = TestServer::start_unready(Limits { max_texts: 2, ..Limits::default() }).await;
    let (status, answer) = get(&server, "/health").await;
    assert_eq!((status, &answer["error_type"]), (503, &json!("Unhealthy")));
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    assert_eq!(get(&server, "/health").await, (200, Value::Null));
    assert_eq!(post(&server, "/embed", json!({"inputs": "ab"})).await, (200, json!([unit([2.0, 3.0, 4.0])])));
    let two = post(&server, "/embed", json!({"inputs": ["ab", "c"], "truncate": true})).await;
    assert_eq!(two, (200, json!([unit([2.0, 3.0, 4.0]), unit([1.0, 2.0, 3.0])])));
    for (body, vector) in [
        (json!({"inputs": "ab", "normalize": true}), json!(unit([2.0, 3.0, 4.0]))),
        (json!({"inputs": "ab", "normalize": null}), json!(unit([2.0, 3.0, 4.0]))),
        (json!({"inputs": "ab", "normalize": false}), json!([2.0, 3.0, 4.0])),
        (json!({"inputs": "ab", "dimensions": 2}), json!(unit([2.0, 3.0]))),
    ] {
        assert_eq!(post(&server, "/embed", body.clone()).await, (200, json!([vector])), "{body}");
    }
    let (status, info) = get(&server, "/info").await;
    assert_eq!((status, &info["model_id"], &info["max_client_batch_size"]), (200, &json!("fake"), &json!(2)));
    for (body, status, kind, words) in [
        (json!({}), 422, "Validation", "'inputs' is missing"),
        (json!({"inputs": []}), 422, "Validation", "empty list"),
        (json!({"inputs": [1, 2]}), 422, "Validation", "the tokens of fake are not known here"),
        (json!({"inputs": "x", "prompt_name": "summary"}), 422, "Validation", "query, passage or document"),
        (json!({"inputs": "x", "truncation_direction": "Left"}), 422, "Validation", "only be right"),
        (json!({"inputs": "x", "dimensions": 4}), 422, "Validation", "have 3"),
        (json!({"inputs": "x", "dimensions": 0}), 422, "Validation", "above 0"),
        (json!({"inputs": "x", "dimensions": -1}), 422, "Validation", "above 0"),
        (json!({"inputs": ["a", "b", "c"]}), 413, "Validation", "--max-texts"),
        (json!({"inputs": "fail"}), 422, "Validation", "this text fails"),
    ] {
        let (got, answer) = post(&server, "/embed", body.clone()).await;
        assert_eq!((got, fields(&answer)), (status, vec!["error", "error_type"]), "{body}: {answer}");
        assert_eq!(answer["error_type"], kind, "{body}");
        assert!(answer["error"].as_str().expect("text").contains(words), "{body}: {answer}");
    }
    server.stop().await;
}

/// One text, one vector, whichever way it comes; and as many tokens as the model was fed. What the profile leaves at
/// another length (4.6 here) is scaled to length 1, as clients of these surfaces expect, and the rest keeps its bits.
#[tokio::test]
async fn every_surface_gives_the_vector_of_the_profile_at_length_1() {
    for (profile, length) in [(Profile::Transformers, 4.55), (Profile::SentenceTransformers, 1.0)] {
        let server = TestServer::start_model(options(profile)).await;
        let text = "The London Eye is a wheel. It turns slowly.";
        let (_, own) = post(&server, "/vectors", json!({"text": text})).await;
        let raw = floats(&own["vector"]);
        assert!((norm(&raw) - length).abs() < 0.01, "{profile}: {}", norm(&raw));
        let (_, as_made) = post(&server, "/embed", json!({"inputs": text, "normalize": false})).await;
        assert_eq!(floats(&as_made[0]), raw, "{profile}");
        let own = match profile {
            Profile::Transformers => raw.iter().map(|&value| (f64::from(value) / norm(&raw)) as f32).collect(),
            _ => raw,
        };
        println!("{profile}: {length} on /vectors, {:.7} elsewhere", norm(&own));
        let (_, openai) = post(&server, "/v1/embeddings", json!({"input": [text, "x"]})).await;
        let (_, ollama) = post(&server, "/api/embed", json!({"input": [text]})).await;
        let (_, old) = post(&server, "/api/embeddings", json!({"prompt": text})).await;
        let (_, tei) = post(&server, "/embed", json!({"inputs": text})).await;
        let (_, as_query) = post(&server, "/embed", json!({"inputs": text, "prompt_name": "query"})).await;
        for vector in
            [&openai["data"][0]["embedding"], &ollama["embeddings"][0], &old["embedding"], &tei[0], &as_query[0]]
        {
            assert_eq!(floats(vector), own, "{profile}");
        }
        assert_eq!(openai["usage"]["prompt_tokens"].as_u64(), ollama["prompt_eval_count"].as_u64().map(|n| n + 3));
        let (_, cut) = post(&server, "/v1/embeddings", json!({"input": text, "dimensions": 64})).await;
        let cut = floats(&cut["data"][0]["embedding"]);
        let factor = norm(&own[..64]) as f32;
        let expected: Vec<f32> = own[..64].iter().map(|value| value / factor).collect();
        assert!(max_difference(&cut, &expected) < 1e-6, "{profile}");
        server.stop().await;
    }
}

/// `--surface-normalize false`: for a collection that was made with vectors as the profile makes them.
#[tokio::test]
async fn the_operator_may_leave_vectors_as_they_are() {
    for normalize in [true, false] {
        let surfaces = SurfaceOptions { normalize };
        let server = TestServer::start_with(ServerOptions { surfaces, ..ServerOptions::default() }).await;
        server.readiness.ready(Arc::new(FakeBackend::new(3)));
        let vector = if normalize { unit([2.0, 3.0, 4.0]) } else { [2.0, 3.0, 4.0] };
        let (_, openai) = post(&server, "/v1/embeddings", json!({"input": "ab"})).await;
        let (_, ollama) = post(&server, "/api/embed", json!({"input": "ab"})).await;
        let (_, old) = post(&server, "/api/embeddings", json!({"prompt": "ab"})).await;
        for answer in [&openai["data"][0]["embedding"], &ollama["embeddings"][0], &old["embedding"]] {
            assert_eq!(answer, &json!(vector));
        }
        // A request to TEI's surface says so itself, and fewer dimensions are scaled anyway.
        assert_eq!(post(&server, "/embed", json!({"inputs": "ab"})).await.1, json!([unit([2.0, 3.0, 4.0])]));
        let (_, cut) = post(&server, "/v1/embeddings", json!({"input": "ab", "dimensions": 2})).await;
        assert_eq!(cut["data"][0]["embedding"], json!(unit([2.0, 3.0])));
        let (_, own) = post(&server, "/vectors", json!({"text": "ab"})).await;
        assert_eq!(own["vector"], json!([2.0, 3.0, 4.0]));
        assert_eq!(get(&server, "/meta").await.1["sidecar"]["surface_normalize"], json!(normalize));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_text_that_would_be_cut_is_refused_on_request() {
    let server = TestServer::start_model(options(Profile::SentenceTransformers)).await;
    let long = "word ".repeat(1000);
    for (path, key, refused) in [("/api/embed", "input", 400), ("/embed", "inputs", 413)] {
        assert_eq!(post(&server, path, json!({key: ["short", &long]})).await.0, 200, "{path}");
        let (status, answer) = post(&server, path, json!({key: ["short", &long], "truncate": false})).await;
        assert_eq!(status, refused, "{path}");
        assert!(answer["error"].as_str().expect("text").contains("token limit"), "{answer}");
    }
    let (_, info) = get(&server, "/info").await;
    assert_eq!((&info["max_input_length"], &info["model_type"]["embedding"]["pooling"]), (&json!(256), &json!("mean")));
    server.stop().await;
}

#[tokio::test]
async fn precision_and_family_are_the_models_own() {
    for (precision, dtype) in [(Precision::F32, "float32"), (Precision::F16, "float16"), (Precision::Int8, "int8")] {
        let server = TestServer::start_model(LocalOptions { precision, ..options(Profile::Transformers) }).await;
        assert_eq!(get(&server, "/info").await.1["model_dtype"], dtype);
        let details = get(&server, "/api/tags").await.1["models"][0]["details"].clone();
        assert_eq!((&details["family"], &details["families"]), (&json!("bert"), &json!(["bert"])));
        assert_eq!(details["quantization_level"], precision.to_string().to_uppercase());
        assert_eq!(details["format"], "safetensors");
        server.stop().await;
    }
}

/// What a caller waits no longer for is not computed, and the answer says so, on each surface.
#[tokio::test]
async fn callers_deadlines_hold_on_every_surface() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let text = "a passage that takes a while. ".repeat(400);
    for (path, key) in [("/v1/embeddings", "input"), ("/api/embed", "input"), ("/embed", "inputs")] {
        let request = client().post(server.url(path)).header("X-Request-Timeout", "0.001").json(&json!({key: text}));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 504, "{path}");
        let answer: Value = response.json().await.expect("JSON");
        assert!(answer.to_string().contains("deadline"), "{path}: {answer}");
    }
    server.stop().await;
}
