//! The description of the API is true: every operation that it has is asked, well and badly in each way, and each answer is
//! held against it. What it says and nobody ever saw fails too.

mod backends;
mod checker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use text2vec_sidecar::backend::Backend;
use text2vec_sidecar::backend::local::{LocalBackend, LocalOptions};
use text2vec_sidecar::backend::paired::Paired;
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::error::ErrorKind;
use text2vec_sidecar::server::{Access, Limits, Readiness, ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::backends::Told;
use self::checker::{Answer, Answered, Asked, Checker, client};
use crate::support::{TestServer, options, repository};

/// The names that the document's examples have.
const EMBEDDER: &str = "all-MiniLM-L6-v2";
const RERANKER: &str = "bge-reranker-base";

/// Answers that are described and cannot be provoked: path, method, status, why.
const NOT_PROVOKED: &[(&str, &str, u16, &str)] = &[
    ("/tokenize", "post", 424, "only a bug of the tokenizer's"),
    ("/decode", "post", 424, "only a bug of the tokenizer's"),
    ("/models/{name}/tokenize", "post", 424, "only a bug of the tokenizer's"),
    ("/models/{name}/decode", "post", 424, "only a bug of the tokenizer's"),
];

/// An operation that takes texts: its path, a good body, the same with another text, and how the text fails.
struct Op {
    path: &'static str,
    of_a_model: bool,
    body: fn(&str) -> Value,
    /// A body with an error in it.
    bad: fn() -> Value,
}

const OPS: &[Op] = &[
    Op {
        path: "/vectors",
        of_a_model: true,
        body: |text| json!({"text": text, "config": {"task_type": "query"}}),
        bad: || json!({"text": 7}),
    },
    Op {
        path: "/rerank",
        of_a_model: true,
        body: |text| json!({"query": "q", "documents": [text, {"text": "x"}]}),
        bad: || json!({"query": "q"}),
    },
    Op {
        path: "/rerank",
        of_a_model: true,
        body: |text| json!({"query": "q", "texts": [text], "return_text": true}),
        bad: || json!({"texts": ["a"]}),
    },
    Op {
        path: "/rerank",
        of_a_model: true,
        body: |text| json!({"query": "q", "documents": [text], "model": RERANKER, "top_n": 1}),
        bad: || json!({"query": "q", "documents": ["a"], "top_n": 0}),
    },
    Op {
        path: "/v1/rerank",
        of_a_model: true,
        body: |text| json!({"query": "q", "documents": [text, "x"], "top_n": 1}),
        bad: || json!({"query": "q", "documents": [], "top_n": 0}),
    },
    Op {
        path: "/v2/rerank",
        of_a_model: true,
        body: |text| json!({"query": "q", "documents": [text], "return_documents": true}),
        bad: || json!({"documents": ["a"]}),
    },
    Op {
        path: "/v1/embeddings",
        of_a_model: true,
        body: |text| json!({"input": [text], "encoding_format": "base64"}),
        bad: || json!({"input": [1, 2]}),
    },
    Op {
        path: "/embeddings",
        of_a_model: true,
        body: |text| json!({"input": text, "dimensions": 2, "user": "me"}),
        bad: || json!({"input": "x", "dimensions": 0}),
    },
    Op {
        path: "/api/embed",
        of_a_model: false,
        body: |text| json!({"input": [text, "x"], "keep_alive": 5}),
        bad: || json!({}),
    },
    Op {
        path: "/api/embeddings",
        of_a_model: false,
        body: |text| json!({"prompt": text}),
        bad: || json!({"prompt": ["x"]}),
    },
    Op {
        path: "/embed",
        of_a_model: true,
        body: |text| json!({"inputs": text, "normalize": false}),
        bad: || json!({"inputs": []}),
    },
    Op {
        path: "/",
        of_a_model: true,
        body: |text| json!({"inputs": [text], "prompt_name": "passage"}),
        bad: || json!({"inputs": "x", "prompt_name": "no"}),
    },
];

/// Those that take a body and compute nothing by a backend.
const OTHERS: &[Op] = &[
    Op { path: "/api/show", of_a_model: false, body: |_| json!({"name": EMBEDDER}), bad: || json!({"model": 7}) },
    Op {
        path: "/tokenize",
        of_a_model: true,
        body: |text| json!({"inputs": [text, "b"]}),
        bad: || json!({"inputs": 7}),
    },
    Op { path: "/decode", of_a_model: true, body: |_| json!({"ids": [[101, 102], []]}), bad: || json!({"ids": ["x"]}) },
];

const GETS: &[(&str, bool)] = &[
    ("/meta", true),
    ("/v1/models", false),
    ("/v1/models/{model}", false),
    ("/api/tags", false),
    ("/api/ps", false),
    ("/api/version", false),
    ("/info", true),
    ("/health", true),
    ("/.well-known/live", true),
    ("/.well-known/ready", true),
    ("/metrics", false),
    ("/", true),
    ("/openapi.json", false),
    ("/docs", false),
    ("/docs/page.css", false),
    ("/docs/page.js", false),
];

impl Op {
    /// A request of it, and of the same below a model's path.
    fn asked(&self, body: &Value) -> Vec<Asked> {
        let named = || Asked::post(&below(self.path), body).parameter("name", model_of(self.path));
        let own = [Asked::post(self.path, body)];
        own.into_iter().chain(self.of_a_model.then(named)).collect()
    }
}

fn below(path: &str) -> String {
    format!("/models/{{name}}{}", path.trim_end_matches('/'))
}

fn model_of(path: &str) -> &'static str {
    if path.contains("rerank") { RERANKER } else { EMBEDDER }
}

fn gets() -> Vec<Asked> {
    let asked = |&(path, of_a_model): &(&str, bool)| {
        let own = Asked::get(path).parameter("model", EMBEDDER);
        [Some(own), of_a_model.then(|| Asked::get(&below(path)).parameter("name", EMBEDDER))]
    };
    GETS.iter().flat_map(asked).flatten().collect()
}

/// An embedder and a reranker under the names of the examples.
async fn server(options: ServerOptions) -> TestServer {
    let readiness = Readiness::of([Some(EMBEDDER.to_owned()), Some(RERANKER.to_owned())]);
    readiness.model_ready(0, Told::embedder(EMBEDDER));
    readiness.model_ready(1, Told::reranker(RERANKER));
    TestServer::start_serving(options, readiness).await
}

fn limited() -> ServerOptions {
    let limits = Limits { max_body_bytes: 4000, max_texts: 3, max_text_bytes: 1000, ..Limits::default() };
    ServerOptions { limits, ..ServerOptions::default() }
}

/// A server with real models, which have tokenizers.
async fn real(limits: Limits) -> TestServer {
    let readiness = Readiness::of([Some(EMBEDDER.to_owned()), Some(RERANKER.to_owned())]);
    let reranker = LocalOptions::new(repository().join("tests/fixtures/rerankers/bert-1"));
    readiness.model_ready(1, Arc::new(LocalBackend::load(&reranker).expect("the reranker loads")));
    let model = LocalBackend::load(&options(Profile::Transformers)).expect("the model loads");
    let cached = Cached::around(Arc::new(model), CacheOptions::default()).expect("room");
    readiness.model_ready(0, cached);
    TestServer::start_serving(ServerOptions { limits, ..ServerOptions::default() }, readiness).await
}

#[tokio::test]
async fn every_answer_is_as_it_is_described() {
    let server = server(limited()).await;
    let mut checker = Checker::of(&server).await;
    examples_fit(&mut checker);
    good_requests(&mut checker, &server).await;
    refused_bodies(&mut checker, &server).await;
    errors_of_every_kind(&mut checker, &server).await;
    unknown_names(&mut checker, &server).await;
    server.stop().await;
    slow_bodies(&mut checker).await;
    tokenizers(&mut checker).await;
    many_who_ask_for_tokens(&mut checker).await;
    servers_that_are_not_ready(&mut checker).await;
    broken_models(&mut checker).await;
    guarded(&mut checker).await;
    pairs(&mut checker).await;

    assert!(checker.faults.is_empty(), "{}", checker.faults.join("\n\n"));
    let known: BTreeSet<Answered> =
        NOT_PROVOKED.iter().map(|&(path, method, status, _)| (path.into(), method.into(), status)).collect();
    let described = checker.described();
    let unseen: Vec<_> = described.difference(&checker.seen).filter(|answer| !known.contains(answer)).collect();
    assert!(unseen.is_empty(), "described, and nobody ever saw it: {unseen:#?}");
    let stale: Vec<_> =
        known.iter().filter(|answer| checker.seen.contains(answer) || !described.contains(answer)).collect();
    assert!(stale.is_empty(), "it can be provoked, or is not described: {stale:?}");
    let paths = checker.document["paths"].as_object().expect("paths");
    let operations: usize = paths.values().map(|item| item.as_object().expect("operations").len()).sum();
    println!(
        "{} exchanges held against {} answers of {operations} operations on {} paths, {} schemas",
        checker.exchanges,
        described.len(),
        paths.len(),
        checker.document["components"]["schemas"].as_object().expect("schemas").len()
    );
    assert!(checker.exchanges > 300, "{}", checker.exchanges);
}

/// Examples are what they are examples of.
fn examples_fit(checker: &mut Checker) {
    fn contents(value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
        let fields = value.as_object().into_iter().flatten();
        for (name, value) in fields {
            let at = format!("{at}/{}", name.replace('/', "~1").replace('{', "%7B").replace('}', "%7D"));
            if let Some(examples) = value.get("examples").and_then(Value::as_object) {
                for example in examples.values() {
                    found.push((format!("{at}/schema").replace(' ', "%20"), example["value"].clone()));
                }
            }
            contents(value, &at, found);
        }
    }
    let mut found = Vec::new();
    for part in ["paths", "components"] {
        contents(&checker.document[part].clone(), &format!("/{part}"), &mut found);
    }
    assert!(found.len() > 60, "{}", found.len());
    for (place, example) in found {
        assert_eq!(checker.misfit(&place, &example), None, "{place}: {example}");
    }
}

async fn good_requests(checker: &mut Checker, server: &TestServer) {
    for asked in gets() {
        let answer = checker.exchange(server, &asked).await;
        assert!((200..300).contains(&answer.status), "{asked:?}");
    }
    // Each example of a request is a request.
    let paths = checker.document["paths"].as_object().expect("paths").clone();
    for (path, item) in &paths {
        let examples = &item["post"]["requestBody"]["content"]["application/json"]["examples"];
        for example in examples.as_object().into_iter().flat_map(|examples| examples.values()) {
            let asked = Asked::post(path, &example["value"]).parameter("name", model_of(path));
            if ["/tokenize", "/decode"].iter().all(|end| !path.ends_with(end)) {
                assert_eq!(checker.exchange(server, &asked).await.status, 200, "{asked:?}");
            }
        }
    }
    for op in OPS {
        for asked in op.asked(&(op.body)("a text")) {
            let answer = checker.exchange(server, &asked.header("x-request-timeout", "30")).await;
            assert_eq!(answer.status, 200, "{}", op.path);
        }
    }
    for (path, body) in [
        ("/vectors", json!({"texts": ["a", "fail", "b"]})),
        ("/vectors", json!({"texts": []})),
        ("/vectors", json!({"text": "a", "texts": ["b"], "config": null})),
        ("/rerank", json!({"query": "q", "property": "p"})),
        ("/rerank", json!({"query": "q", "documents": []})),
        ("/rerank", json!({"query": "q", "texts": "a", "raw_scores": true, "truncation_direction": "Right"})),
        ("/v1/embeddings", json!({"input": ["a", "b"], "encoding_format": "float", "model": EMBEDDER})),
        ("/v1/embeddings", json!({"input": "a", "encoding_format": null, "dimensions": null})),
        ("/api/embed", json!({"input": [], "model": format!("{EMBEDDER}:latest"), "truncate": true})),
        ("/api/show", json!({"model": RERANKER})),
        ("/api/show", json!({})),
    ] {
        assert_eq!(checker.exchange(server, &Asked::post(path, &body)).await.status, 200, "{path} {body}");
    }
    let info = checker.exchange(server, &Asked::get("/models/{name}/info").parameter("name", RERANKER)).await;
    assert_eq!(info.json()["model_type"]["reranker"]["label2id"], json!({"LABEL_0": 0}));
}

async fn refused_bodies(checker: &mut Checker, server: &TestServer) {
    for op in OPS.iter().chain(OTHERS) {
        for body in [(op.bad)(), json!([]), json!("x"), Value::Null] {
            for asked in op.asked(&body) {
                let status = checker.exchange(server, &asked).await.status;
                assert!([400, 422].contains(&status), "{asked:?}: {status}");
            }
        }
        for asked in op.asked(&Value::Null) {
            for body in
                ["", "{", "{\"a\": \u{1}}", "{\"text\": \"\\ud800\", \"query\": \"\\ud800\", \"model\": \"\\ud800\"}"]
            {
                let status = checker.exchange(server, &asked.clone().body(body)).await.status;
                assert!([400, 422].contains(&status), "{asked:?} {body}: {status}");
            }
            let broken = asked.clone().header("content-encoding", "gzip").body("no gzip");
            assert!([400, 422].contains(&checker.exchange(server, &broken).await.status), "{broken:?}");
            let coded = asked.clone().header("content-encoding", "br").body("{}");
            assert_eq!(checker.exchange(server, &coded).await.status, 415, "{coded:?}");
            let large = asked.clone().body(json!({"text": "x".repeat(5000)}).to_string());
            assert_eq!(checker.exchange(server, &large).await.status, 413, "{large:?}");
        }
    }
    for op in OPS {
        for asked in op.asked(&(op.body)("a")) {
            let asked = asked.header("x-request-timeout", "soon");
            assert!([400, 422].contains(&checker.exchange(server, &asked).await.status), "{asked:?}");
        }
        for asked in op.asked(&(op.body)(&"x".repeat(1500))) {
            assert_eq!(checker.exchange(server, &asked).await.status, 413, "a long text: {asked:?}");
        }
    }
    for (path, body, status) in [
        ("/vectors", json!({"texts": ["a", "b", "c", "d"]}), 413),
        ("/vectors", json!({"texts": ["a", 7, null], "config": {"dimensions": "x", "task_type": 1}}), 422),
        ("/vectors", json!({"text": "a", "config": 7}), 422),
        ("/vectors", json!({"texts": ["fail"]}), 400),
        ("/embed", json!({"inputs": ["a", "b", "c", "d"]}), 413),
        ("/embed", json!({"inputs": ["a", "long"], "truncate": false}), 413),
        ("/rerank", json!({"query": "q", "texts": ["a", "b", "c", "d"]}), 413),
        ("/rerank", json!({"query": "q", "texts": ["long"], "truncate": false}), 413),
        ("/rerank", json!({"query": "q", "documents": [7]}), 400),
        ("/rerank", json!({"query": "q", "documents": ["a"], "model": EMBEDDER}), 400),
        ("/v1/embeddings", json!({"input": "a", "model": RERANKER}), 200),
        ("/api/embed", json!({"input": "long", "truncate": false}), 400),
    ] {
        let answer = checker.exchange(server, &Asked::post(path, &body)).await;
        assert_eq!(answer.status, status, "{path} {body}: {:?}", answer.json());
    }
    let no_json = Asked::post("/vectors", &json!({"text": "a"})).header("content-type", "text/plain");
    assert_eq!(checker.exchange(server, &no_json).await.status, 422);
    let no_text = Asked::post("/vectors", &Value::Null).body([b'"', 0xff, b'"']);
    assert_eq!(checker.exchange(server, &no_text).await.json()["detail"], "There was an error parsing the body");
}

/// Whatever a backend says.
async fn errors_of_every_kind(checker: &mut Checker, server: &TestServer) {
    let kinds = [
        ErrorKind::Overloaded,
        ErrorKind::Internal,
        ErrorKind::Upstream,
        ErrorKind::Unavailable,
        ErrorKind::InvalidArgument,
    ];
    for op in OPS {
        for kind in kinds {
            for asked in op.asked(&(op.body)(&format!("kind:{}", kind.meaning().label))) {
                let answer = checker.exchange(server, &asked).await;
                assert!(answer.status >= 400, "{asked:?}");
            }
        }
        for asked in op.asked(&(op.body)("slow")) {
            let asked = asked.header("x-request-timeout", "0.01");
            assert_eq!(checker.exchange(server, &asked).await.status, 504, "{asked:?}");
        }
    }
}

/// A body that does not come: its head, and a piece of it.
async fn slow_bodies(checker: &mut Checker) {
    let limits = Limits { max_body_wait: Duration::from_millis(300), ..Limits::default() };
    let server = server(ServerOptions { limits, ..ServerOptions::default() }).await;
    let asked: Vec<Asked> = OPS.iter().chain(OTHERS).flat_map(|op| op.asked(&Value::Null)).collect();
    let answers = join_all(asked.iter().map(|asked| slowly(&server, asked))).await;
    for (asked, answer) in asked.iter().zip(answers) {
        assert_eq!(answer.status, 408, "{asked:?}");
        checker.hold(&asked.clone().body(""), &answer);
    }
    server.stop().await;
}

async fn slowly(server: &TestServer, asked: &Asked) -> Answer {
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    let head =
        format!("POST {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{{", asked.target());
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: body.as_bytes().to_vec() }
}

/// A name that is nobody's, in the path and in the body.
async fn unknown_names(checker: &mut Checker, server: &TestServer) {
    let of_models = GETS.iter().filter(|(_, of_a_model)| *of_a_model).map(|(path, _)| Asked::get(&below(path)));
    let posts =
        OPS.iter().chain(OTHERS).filter(|op| op.of_a_model).map(|op| Asked::post(&below(op.path), &(op.body)("a")));
    for asked in of_models.chain(posts) {
        for name in ["gpt", "org/gpt", "org%2Fgpt"] {
            assert_eq!(checker.exchange(server, &asked.clone().parameter("name", name)).await.status, 404, "{asked:?}");
        }
    }
    let model = Asked::get("/v1/models/{model}").parameter("model", "org/gpt");
    assert_eq!(checker.exchange(server, &model).await.status, 404);
    for path in [
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/embeddings",
        "/embeddings",
        "/api/embed",
        "/api/embeddings",
        "/api/show",
    ] {
        for key in ["documents", "texts"] {
            let body = json!({"model": "gpt", "query": "q", key: ["a"], "input": "a", "prompt": "a"});
            assert_eq!(checker.exchange(server, &Asked::post(path, &body)).await.status, 404, "{path} {key}");
        }
    }
}

/// Real models': their tokens, and what they say of themselves.
async fn tokenizers(checker: &mut Checker) {
    let server = real(Limits::default()).await;
    for asked in gets() {
        checker.exchange(&server, &asked).await;
    }
    for path in ["/models/{name}/meta", "/models/{name}/info"] {
        let asked = Asked::get(path).parameter("name", RERANKER);
        assert_eq!(checker.exchange(&server, &asked).await.status, 200, "{asked:?}");
    }
    for path in ["/rerank", "/v1/rerank"] {
        let body = json!({"query": "Which wheel is at the river?", "documents": ["The London Eye.", "Rain."]});
        assert_eq!(checker.exchange(&server, &Asked::post(path, &body)).await.status, 200, "{path}");
    }
    let (tokenize, decode) = (&OTHERS[1], &OTHERS[2]);
    let paths = checker.document["paths"].clone();
    for path in ["/tokenize", "/decode"] {
        let examples = &paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"];
        let answers = &paths[path]["post"]["responses"]["200"]["content"]["application/json"]["examples"];
        for (name, example) in examples.as_object().expect("examples") {
            let answer = checker.exchange(&server, &Asked::post(path, &example["value"])).await;
            assert_eq!(answer.json(), answers[name]["value"], "{path}: the example is what is answered");
        }
    }
    for op in [tokenize, decode] {
        for asked in op.asked(&(op.body)("Ships sail.")) {
            assert_eq!(checker.exchange(&server, &asked).await.status, 200, "{asked:?}");
        }
    }
    for (path, body) in [
        ("/embed", json!({"inputs": [101, 3719, 102]})),
        ("/embed", json!({"inputs": [[101, 3719, 102], "ships"]})),
        ("/tokenize", json!({"inputs": "ships", "add_special_tokens": false})),
        ("/decode", json!({"ids": [101, 3719, 102], "skip_special_tokens": false})),
    ] {
        assert_eq!(checker.exchange(&server, &Asked::post(path, &body)).await.status, 200, "{path} {body}");
    }
    server.stop().await;
}

/// Two have their turn at once; the others do not wait for long.
async fn many_who_ask_for_tokens(checker: &mut Checker) {
    let server = real(Limits { max_wait: Duration::from_millis(1), ..Limits::default() }).await;
    let (tokenize, decode) = (&OTHERS[1], &OTHERS[2]);
    let words = "ships sail at dawn ".repeat(10_000);
    for (op, body) in [(tokenize, json!({"inputs": words})), (decode, json!({"ids": vec![3719; 60_000]}))] {
        for asked in op.asked(&body) {
            let hurried = asked.clone().header("x-request-timeout", "0");
            assert_eq!(checker.exchange(&server, &hurried).await.status, 504, "{hurried:?}");
            let answers = join_all((0..24).map(|_| checker::sent(&server, &asked))).await;
            assert!(answers.iter().any(|answer| answer.status == 429), "{}: nobody waited", op.path);
            for answer in answers.iter().filter(|answer| answer.status != 200) {
                checker.hold(&asked, answer);
            }
        }
    }
    server.stop().await;
}

async fn servers_that_are_not_ready(checker: &mut Checker) {
    let readiness = Readiness::of([Some(EMBEDDER.to_owned()), Some(RERANKER.to_owned())]);
    let server = TestServer::start_serving(ServerOptions::default(), readiness).await;
    for asked in gets() {
        checker.exchange(&server, &asked).await;
    }
    for op in OPS.iter().chain(OTHERS) {
        for asked in op.asked(&(op.body)("a")) {
            assert_eq!(checker.exchange(&server, &asked).await.status, 503, "{asked:?}");
        }
    }
    server.stop().await;
}

/// A model that is beyond help, and an upstream that does not answer.
async fn broken_models(checker: &mut Checker) {
    let readiness = Readiness::of([Some(EMBEDDER.to_owned())]);
    readiness.model_ready(0, Told::broken(EMBEDDER));
    let server = TestServer::start_serving(ServerOptions::default(), readiness).await;
    for asked in gets() {
        checker.exchange(&server, &asked).await;
    }
    server.stop().await;
}

/// Tokens: everything but health and the description is closed.
async fn guarded(checker: &mut Checker) {
    let access = Access::new(Some("secret"), None, true).expect("a token");
    let server = server(ServerOptions { access, ..ServerOptions::default() }).await;
    let posts = OPS.iter().chain(OTHERS).flat_map(|op| op.asked(&(op.body)("a")));
    for asked in gets().into_iter().chain(posts) {
        let (path, method) = asked.operation();
        let security = checker.document["paths"][path][&method]["security"].clone();
        let is_open = security == json!([{}]);
        let answer = checker.exchange(&server, &asked).await;
        assert_eq!(answer.status == 401, !is_open, "{asked:?}: {security}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), !is_open);
        let status = checker.exchange(&server, &asked.clone().header("authorization", "Bearer secret")).await.status;
        assert_ne!(status, 401, "{asked:?}");
        let basic = asked.header("authorization", "Basic YW55OnNlY3JldA=="); // any:secret
        assert_ne!(checker.exchange(&server, &basic).await.status, 401);
    }
    server.stop().await;
}

/// One for passages and one for queries: here and elsewhere, with a cache before them and without.
async fn pairs(checker: &mut Checker) {
    let (passage, query): (Arc<dyn Backend>, Arc<dyn Backend>) = (Told::embedder("a"), Told::embedder("b"));
    let model = Arc::new(LocalBackend::load(&options(Profile::Transformers)).expect("the model loads"));
    for (passage, query) in [(passage, query), (model.clone(), model)] {
        let pair: Arc<dyn Backend> = Arc::new(Paired::new(passage, query).expect("a pair"));
        let cached = Cached::around(pair.clone(), CacheOptions::default()).expect("room");
        for backend in [pair, cached] {
            let server = TestServer::start(backend).await;
            for asked in [Asked::get("/meta"), Asked::get("/info"), Asked::get("/api/tags"), Asked::get("/api/ps")] {
                assert_eq!(checker.exchange(&server, &asked).await.status, 200);
            }
            server.stop().await;
        }
    }
}

/// An operation is there with its method, and with no other: both directions.
#[tokio::test]
async fn methods_are_as_described() {
    let server = server(ServerOptions::default()).await;
    let checker = Checker::of(&server).await;
    for (path, item) in checker.document["paths"].as_object().expect("paths") {
        let target = path.replace("{name}", EMBEDDER).replace("{model}", EMBEDDER);
        for method in ["get", "post", "put", "delete", "patch"] {
            let known = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let response = client().request(known, server.url(&target)).send().await.expect("an answer");
            let is_there = response.status() != 405;
            assert_eq!(is_there, item.get(method).is_some(), "{method} {target}: {}", response.status());
        }
        // Beside the description, for whoever types it.
        if path.starts_with("/docs") || path == "/openapi.json" {
            let head = client().head(server.url(&target)).send().await.expect("an answer");
            assert_eq!(head.status(), 200, "HEAD {target}");
        }
    }
    server.stop().await;
}

/// The page and what it needs come from here alone, and the page names nothing that is elsewhere.
#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = server(ServerOptions::default()).await;
    for path in ["/docs", "/docs/page.css", "/docs/page.js", "/openapi.json"] {
        let answer = checker::sent(&server, &Asked::get(path)).await;
        let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        assert_eq!(answer.headers["content-security-policy"], policy, "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        let text = String::from_utf8(answer.body).expect("text");
        if path != "/openapi.json" {
            for word in ["http://", "https://", "//cdn", "innerHTML", "eval(", "style=", "onclick"] {
                assert!(!text.contains(word), "{path} has {word}");
            }
        }
    }
    let page = checker::sent(&server, &Asked::get("/docs")).await;
    let page = String::from_utf8(page.body).expect("text");
    // Beside it, so that it stands below a proxy's path too.
    let links = page.split(['<', '>']).flat_map(|tag| tag.split_once("href=\"").or(tag.split_once("src=\"")));
    let named: BTreeSet<_> = links.filter_map(|(_, link)| link.split('"').next()).collect();
    assert_eq!(named, BTreeSet::from(["#operations", "data:,", "docs/page.css", "docs/page.js", "openapi.json"]));
    server.stop().await;
}
