//! A forwarder: upstreams as models of their own, under the names the operator gave and those they have there, and never
//! under their URLs.

use crate::support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::process::Process;
use support::upstream::{Act, Arrived, Upstream, container, ok, status};
use support::{FakeBackend, TestServer, floats, model_dir};
use text2vec_sidecar::server::{Readiness, ServerOptions};

/// OpenAI's API with these models; the vector of the n-th is [n, 2, 2].
fn openai(models: &'static [&'static str]) -> impl Fn(&Arrived) -> Act {
    move |arrived: &Arrived| match arrived.path.as_str() {
        "/v1/models" => {
            let data: Vec<_> = models.iter().map(|id| json!({"id": id, "object": "model"})).collect();
            ok(json!({"object": "list", "data": data}).to_string())
        }
        "/v1/embeddings" => {
            let body: Value = serde_json::from_str(&arrived.body).expect("JSON");
            let Some(place) = models.iter().position(|id| *id == body["model"]) else {
                return status(404, r#"{"error":{"message":"no such model"}}"#);
            };
            let entry = |index| json!({"object": "embedding", "index": index, "embedding": [place, 2, 2]});
            let data: Vec<_> = (0..body["input"].as_array().expect("texts").len()).map(entry).collect();
            ok(json!({"data": data, "usage": {"prompt_tokens": 1}}).to_string())
        }
        _ => status(404, "{}"),
    }
}

async fn start(flags: &[&str]) -> Process {
    let mut command = Process::command();
    command.args(flags);
    Process::launch(command).await
}

async fn get(server: &Process, path: &str) -> String {
    let response = reqwest::get(server.url(path)).await.expect("an answer");
    assert_eq!(response.status(), 200, "{path}");
    response.text().await.expect("a body")
}

async fn listed(server: &Process) -> Vec<String> {
    let names = |body: String, list: &str, key: &str| -> Vec<String> {
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let entries = body[list].as_array().expect("a list");
        entries.iter().map(|entry| entry[key].as_str().expect("a name").to_owned()).collect()
    };
    let ids = names(get(server, "/v1/models").await, "data", "id");
    // Ollama's names have a tag each.
    let tagged = |id: &String| if id.contains(':') { id.clone() } else { format!("{id}:latest") };
    let tags = names(get(server, "/api/tags").await, "models", "name");
    assert_eq!(tags, ids.iter().map(tagged).collect::<Vec<_>>());
    ids
}

/// The raw vector that a model's name gives.
async fn vector(server: &Process, path: &str, model: &str) -> Vec<f32> {
    let body = json!({"model": model, "input": "x", "text": "x", "inputs": "x", "normalize": false});
    let response = reqwest::Client::new().post(server.url(path)).json(&body).send().await.expect("an answer");
    let answer: Value = response.json().await.expect("JSON");
    match path {
        "/v1/embeddings" => {
            assert_eq!(answer["model"], model, "{answer}");
            floats(&answer["data"][0]["embedding"])
        }
        path if path.ends_with("/embed") => floats(&answer[0]),
        _ => floats(&answer["vector"]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_models_by_their_names() {
    let reference = |arrived: &Arrived| match arrived.path.as_str() {
        "/meta" => ok(r#"{"model":{"model_type":"bert"},"model_path":"./models/model"}"#),
        _ => container(arrived),
    };
    let (many, one) = (Upstream::start(openai(&["zero", "org/one:v1"])).await, Upstream::start(reference).await);
    let first = format!("fast=openai+http://{}/v1", many.address);
    let second = format!("plain=t2v+http://{}", one.address);
    let server = start(&["--surface-normalize=false", "--upstream", &first, "--upstream", &second]).await;
    assert_eq!(listed(&server).await, ["fast", "plain", "upstream", "zero", "org/one:v1", "one:v1"]);
    for (model, expected) in [("fast", [0.0, 2.0, 2.0]), ("zero", [0.0, 2.0, 2.0]), ("org/one:v1", [1.0, 2.0, 2.0])] {
        assert_eq!(vector(&server, "/v1/embeddings", model).await, expected, "{model}");
    }
    assert_eq!(vector(&server, "/vectors", "").await, [0.0, 2.0, 2.0], "the first is the default one");
    let plain = vector(&server, "/models/plain/vectors", "").await;
    assert_eq!((plain.len(), one.count("/vectors") > 0), (3, true));
    assert_eq!(vector(&server, "/models/plain/embed", "").await, plain);
    // Whoever may ask for vectors learns names, not where they come from.
    let unknown = reqwest::get(server.url("/v1/models/gpt")).await.expect("an answer").text().await.expect("a body");
    let mut told = vec![unknown];
    for path in ["/v1/models", "/v1/models/zero", "/v1/models/plain", "/api/tags", "/info", "/models/plain/info"] {
        told.push(get(&server, path).await);
    }
    for text in told {
        for upstream in [&many, &one] {
            assert!(!text.contains(&upstream.address.port().to_string()), "{text}");
        }
        assert!(!text.contains("127.0.0.1") && !text.contains("http"), "{text}");
    }
}

/// In front of a sidecar with several models, each is there by its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecars_models_are_served_by_their_names() {
    let readiness = Readiness::of(["two", "three"].map(|name| Some(name.to_owned())));
    readiness.model_ready(0, Arc::new(FakeBackend::new(2)));
    readiness.model_ready(1, Arc::new(FakeBackend::new(3)));
    let upstream = TestServer::start_serving(ServerOptions::default(), readiness).await;
    for scheme in ["http", "grpc"] {
        let server = start(&["--upstream", &format!("{scheme}://{}", upstream.address)]).await;
        assert_eq!(listed(&server).await, ["two", "three"], "{scheme}");
        for (path, model, length) in [
            ("/v1/embeddings", "two", 2),
            ("/v1/embeddings", "three", 3),
            ("/vectors", "", 2),
            ("/models/three/vectors", "", 3),
            ("/models/two/embed", "", 2),
        ] {
            assert_eq!(vector(&server, path, model).await.len(), length, "{scheme} {path} {model}");
        }
        let meta: Value = serde_json::from_str(&get(&server, "/models/three/meta").await).expect("JSON");
        assert_eq!(meta["sidecar"]["models"], json!(["two", "three"]), "{scheme}: {meta}");
    }
    upstream.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_here_and_an_upstream_are_served_beside_each_other() {
    let upstream = Upstream::start(container).await;
    let (model, other) = (model_dir(), format!("other=t2v+http://{}", upstream.address));
    let model = format!("here={}", model.to_str().expect("a path"));
    let server = start(&["--model", &model, "--upstream", &other]).await;
    let names = ["here", "sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2", "other", "upstream"];
    assert_eq!(listed(&server).await, names);
    assert_eq!(vector(&server, "/vectors", "").await.len(), 384);
    assert_eq!(vector(&server, "/models/other/vectors", "").await.len(), 3);
}

/// What no two may share, and what there is no place for.
#[test]
fn names_are_given_once() {
    for (flags, words) in [
        (&["--upstream", "a=http://h:1", "--upstream", "a=http://h:2"][..], "two models are named 'a'"),
        (&["--model", "a=x", "--upstream", "a=http://h:2"], "two models are named 'a'"),
        (&["--upstream", "http://h:1", "--upstream", "http://h:2"], "several upstreams need names"),
        (&["--passage-model", "a", "--query-model", "b", "--upstream", "c=http://h:1"], "are served alone"),
    ] {
        let output = Process::command().args(flags).output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{flags:?}: {text}");
    }
}
