//! A reranker and a model2vec model beside an embedder, on one port: `/rerank` as Weaviate and TEI speak it, `/v1/rerank`, gRPC
//! `Rerank`, and who is asked where nobody is named.

use crate::support;

use std::path::Path;
use std::sync::Arc;

use reqwest::Client;
use serde_json::{Value, json};
use support::{TestServer, fixture, floats, max_difference};
use text2vec_sidecar::backend::local::{DEFAULT_WAITING_TOKENS, Inference, LocalBackend, LocalOptions};
use text2vec_sidecar::cache::{CacheOptions, Cached};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::reranker_client::RerankerClient;
use text2vec_sidecar::proto::{
    ClassConfig, ClassConfigDefaultsRequest, Object, RerankRequest, ValidateClassRequest, VectorizeInputRequest,
    VectorizeObjectRequest, object, object_result, rerank_result,
};
use text2vec_sidecar::server::{Limits, Readiness, ServerOptions};
use tonic::Code;

const QUERY: &str = "Which wheel is at the river?";

/// Models of these names and fixtures, loaded with one queue and one cache, in this order.
async fn server_of(models: &[(&str, &str)], limits: Limits) -> TestServer {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let readiness = Readiness::of(models.iter().map(|(name, _)| Some((*name).to_owned())));
    let inference = Arc::new(Inference::start(Some(2), DEFAULT_WAITING_TOKENS).expect("two threads"));
    let mut cache: Option<Arc<Cached>> = None;
    for (place, (_, fixture)) in models.iter().enumerate() {
        let profile = fixture.starts_with("model2vec").then_some(Profile::Model2vec);
        let options = LocalOptions { profile, ..LocalOptions::new(fixtures.join(fixture)) };
        let backend = Arc::new(LocalBackend::load_beside(&options, inference.clone()).expect("the model loads"));
        let cached = match &cache {
            Some(cache) => cache.beside(backend),
            None => Cached::around(backend, CacheOptions::default()).expect("room"),
        };
        cache.get_or_insert(cached.clone());
        readiness.model_ready(place, cached);
    }
    TestServer::start_serving(ServerOptions { limits, ..ServerOptions::default() }, readiness).await
}

async fn server() -> TestServer {
    let models = [
        ("embed", "families/bert"),
        ("m2v", "model2vec/wordlevel"),
        ("rank", "rerankers/bert-1"),
        ("nli", "rerankers/bert-3"),
        ("logits", "rerankers/modernbert-1"),
    ];
    server_of(&models, Limits::default()).await
}

async fn post(server: &TestServer, path: &str, body: &Value) -> (u16, Value) {
    let client = Client::builder().no_proxy().build().expect("client");
    let response = client.post(server.url(path)).json(body).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// The first seventeen pairs of the goldens: the documents of [`QUERY`], and a model's numbers for them.
fn golden(model: &str, numbers: &str) -> (Vec<String>, Vec<f32>) {
    let (pairs, golden) = (fixture("rerankers/pairs.json"), fixture("rerankers/golden.json"));
    let pairs = pairs.as_array().expect("pairs").iter().take(17);
    let documents =
        pairs.inspect(|pair| assert_eq!(pair[0], QUERY)).map(|pair| pair[1].as_str().expect("a text").into());
    let numbers = golden[model][numbers].as_array().expect("numbers").iter().take(17);
    (documents.collect(), numbers.map(|row| floats(row)[0]).collect())
}

#[tokio::test]
async fn weaviate_gets_the_scores_in_the_order_of_its_documents() {
    let server = server().await;
    for (base, model) in [("", "bert-1"), ("/models/rank", "bert-1"), ("/models/logits", "modernbert-1")] {
        let (documents, expected) = golden(model, "scores");
        let body = json!({"query": QUERY, "documents": documents, "property": ""});
        let (status, answer) = post(&server, &format!("{base}/rerank"), &body).await;
        assert_eq!((status, &answer["query"]), (200, &json!(QUERY)), "{answer}");
        let scores = answer["scores"].as_array().expect("scores");
        let said: Vec<_> = scores.iter().map(|score| score["document"].as_str().expect("a text")).collect();
        assert_eq!(said, documents);
        let scores: Vec<f32> = scores.iter().map(|score| score["score"].as_f64().expect("a number") as f32).collect();
        assert!(max_difference(&scores, &expected) < 1e-5, "{base}");
        // Again, out of the cache, and one alone: the same digits.
        assert_eq!(post(&server, &format!("{base}/rerank/"), &body).await.1, answer);
        let alone = json!({"query": QUERY, "property": documents[3]});
        let (status, alone) = post(&server, &format!("{base}/rerank"), &alone).await;
        assert_eq!((status, &alone["score"]), (200, &answer["scores"][3]["score"]));
        assert_eq!((&alone["scores"], &alone["property"]), (&Value::Null, &json!(documents[3])));
    }
    let (status, answer) = post(&server, "/rerank", &json!({"query": "a", "documents": []})).await;
    assert_eq!((status, &answer["scores"]), (200, &json!([])));
    server.stop().await;
}

/// Clients of vLLM, llama.cpp and LiteLLM ask as Cohere's do, at Weaviate's path.
#[tokio::test]
async fn whoever_asks_as_cohere_s_clients_do_is_answered_so_at_weaviate_s_path() {
    let server = server().await;
    let (documents, _) = golden("bert-1", "scores");
    for (path, other, more) in [
        ("/rerank", "/v1/rerank", json!({"top_n": 2})),
        ("/rerank", "/v1/rerank", json!({"model": "rank"})),
        ("/rerank", "/v2/rerank", json!({"model": "logits", "top_n": 3, "return_documents": true})),
        ("/models/rank/rerank", "/models/rank/v1/rerank", json!({"return_documents": false})),
        ("/rerank", "/v1/rerank", json!({"model": "rank", "top_n": 0})),
        ("/rerank", "/v1/rerank", json!({"model": "rank", "top_n": "2"})),
        ("/rerank", "/v1/rerank", json!({"model": "none", "top_n": 2})),
        ("/rerank", "/v1/rerank", json!({"model": "rank", "documents": []})),
        ("/rerank", "/v1/rerank", json!({"model": "rank", "documents": null})),
        ("/rerank", "/v1/rerank", json!({"model": "rank", "texts": ["a"]})),
    ] {
        let mut body = json!({"query": QUERY, "documents": documents});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = post(&server, path, &body).await;
        assert_eq!(answer, post(&server, other, &body).await, "{more}");
        if let (200, Some(most)) = (answer.0, more["top_n"].as_u64()) {
            assert_eq!(answer.1["results"].as_array().map(Vec::len), Some(most as usize), "{answer:?}");
        }
    }
    // What Weaviate and TEI's clients send is theirs, whatever is null or unknown beside it.
    for (body, field) in [
        (json!({"query": "a", "documents": ["b"]}), "scores"),
        (json!({"query": "a", "documents": ["b"], "property": "p"}), "scores"),
        (json!({"query": "a", "documents": ["b"], "top_n": null, "model": null, "tenant": "x"}), "scores"),
        (json!({"query": "a", "documents": ["b"], "model": ""}), "scores"),
        (json!({"query": "a", "property": "p", "model": "rank"}), "score"),
    ] {
        let (status, answer) = post(&server, "/rerank", &body).await;
        assert!(status == 200 && !answer[field].is_null() && answer.get("results").is_none(), "{body}: {answer}");
    }
    let (status, answer) = post(&server, "/rerank", &json!({"query": "a", "texts": ["b"], "model": "logits"})).await;
    assert!(status == 200 && answer.is_array(), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn tei_s_clients_get_the_best_first() {
    let server = server().await;
    let (texts, logits) = golden("modernbert-1", "logits");
    let body = |more: Value| {
        let mut body = json!({"query": QUERY, "texts": texts});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    for (more, number) in [
        (json!({"raw_scores": true}), (|logit| logit) as fn(f32) -> f32),
        (json!({"return_text": true}), |logit| 1.0 / (1.0 + (-logit).exp())),
    ] {
        let (status, answer) = post(&server, "/models/logits/rerank", &body(more.clone())).await;
        assert_eq!(status, 200, "{answer}");
        let ranks = answer.as_array().expect("a list");
        assert_eq!(ranks.len(), texts.len());
        let mut last = f64::INFINITY;
        for rank in ranks {
            let (index, score) = (rank["index"].as_u64().expect("an index") as usize, rank["score"].as_f64());
            let score = score.expect("a number");
            assert!((score - f64::from(number(logits[index]))).abs() < 1e-5, "{rank}");
            assert!(score <= last, "best first");
            last = score;
            let text = if more["return_text"] == true { json!(texts[index]) } else { Value::Null };
            assert_eq!(rank["text"], text);
        }
    }
    let (_, info) = {
        let client = Client::builder().no_proxy().build().expect("client");
        let response = client.get(server.url("/models/nli/info")).send().await.expect("an answer");
        (response.status(), response.json::<Value>().await.expect("JSON"))
    };
    assert_eq!(info["model_type"]["reranker"]["id2label"]["1"], "entailment");
    for (more, status, words) in [
        (json!({"texts": []}), 422, "empty list"),
        (json!({"texts": [7]}), 422, "'texts'"),
        (json!({"query": null}), 422, "'query' is missing"),
        (json!({"truncation_direction": "left"}), 422, "only be right"),
        (json!({"truncate": false, "texts": ["short", "word ".repeat(600)]}), 413, "'texts[1]'"),
    ] {
        let (said, answer) = post(&server, "/rerank", &body(more)).await;
        assert_eq!((said, &answer["error_type"]), (status, &json!("Validation")), "{answer}");
        assert!(answer["error"].as_str().expect("a text").contains(words), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn cohere_s_and_jina_s_clients_get_the_best_first() {
    let server = server().await;
    let (documents, scores) = golden("bert-1", "scores");
    let best = |rank: usize| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
        order[rank]
    };
    let objects: Vec<Value> = documents.iter().map(|text| json!({"text": text, "title": "more"})).collect();
    for (path, body) in [
        ("/v1/rerank", json!({"model": "rank", "query": QUERY, "documents": documents, "top_n": 3})),
        ("/v2/rerank", json!({"model": "rank", "query": QUERY, "documents": objects, "top_n": 3})),
        (
            "/models/rank/v1/rerank",
            json!({"query": QUERY, "documents": documents, "top_n": 3, "return_documents": true}),
        ),
    ] {
        let (status, answer) = post(&server, path, &body).await;
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().expect("a list");
        assert_eq!(results.len(), 3);
        for (rank, result) in results.iter().enumerate() {
            let index = result["index"].as_u64().expect("an index") as usize;
            assert_eq!(index, best(rank), "{path}");
            let score = result["relevance_score"].as_f64().expect("a number");
            assert!((score - f64::from(scores[index])).abs() < 1e-5);
            let document = if body["return_documents"] == true { json!(documents[index]) } else { Value::Null };
            assert_eq!(result["document"]["text"], document);
        }
        assert!(answer["usage"]["total_tokens"].as_u64().expect("a number") > 17);
        assert!(!answer["model"].as_str().expect("a name").is_empty());
    }
    for (path, body, status, words) in [
        ("/v1/rerank", json!({"model": "none", "query": "a", "documents": ["b"]}), 404, "no model 'none'"),
        ("/v1/rerank", json!({"model": "embed", "query": "a", "documents": ["b"]}), 400, "does not rerank"),
        ("/v1/rerank", json!({"model": "nli", "query": "a", "documents": ["b"]}), 400, "contradiction, entailment"),
        ("/v1/rerank", json!({"query": "a"}), 400, "'documents' is missing"),
        ("/v1/rerank", json!({"query": "a", "documents": "b"}), 400, "a list of texts"),
        ("/v1/rerank", json!({"query": "a", "documents": []}), 400, "empty list"),
        ("/v1/rerank", json!({"query": "a", "documents": ["b", {"title": "c"}]}), 400, "'documents[1]'"),
        ("/v1/rerank", json!({"query": "a", "documents": ["b"], "top_n": 0}), 400, "'top_n'"),
        ("/models/none/v1/rerank", json!({"query": "a", "documents": ["b"]}), 404, "no model 'none'"),
    ] {
        let (said, answer) = post(&server, path, &body).await;
        assert_eq!(said, status, "{answer}");
        let message = answer["error"]["message"].as_str().expect("OpenAI's place");
        assert!(message.contains(words), "{message}");
        assert_eq!((&answer["message"], &answer["detail"]), (&json!(message), &json!(message)), "Cohere's and Jina's");
    }
    server.stop().await;
}

#[tokio::test]
async fn over_grpc_each_label_has_a_number_and_each_document_its_own_error() {
    let models = [("nli", "rerankers/xlm-roberta-3")];
    let server = server_of(&models, Limits { max_text_bytes: 6000, ..Limits::default() }).await;
    let mut client = RerankerClient::connect(server.url("")).await.expect("connected");
    let (pairs, golden) = (fixture("rerankers/pairs.json"), fixture("rerankers/golden.json"));
    let mut documents: Vec<String> =
        (0..17).map(|number| pairs[number][1].as_str().expect("a text").to_owned()).collect();
    documents.insert(5, "x".repeat(6001));
    for raw_scores in [false, true] {
        let request =
            RerankRequest { query: QUERY.into(), documents: documents.clone(), raw_scores, ..Default::default() };
        let answer = client.rerank(request).await.expect("an answer").into_inner();
        assert_eq!(
            (answer.results.len(), &answer.labels[..]),
            (18, &["contradiction", "entailment", "neutral"].map(String::from)[..])
        );
        for (place, result) in answer.results.into_iter().enumerate() {
            match result.result.expect("a result") {
                rerank_result::Result::Error(error) => {
                    assert_eq!((place, error.reason.as_str()), (5, "too_large"), "{}", error.message);
                }
                rerank_result::Result::Scores(scores) => {
                    let number = if place > 5 { place - 1 } else { place };
                    let expected =
                        floats(&golden["xlm-roberta-3"][if raw_scores { "logits" } else { "scores" }][number]);
                    assert!(max_difference(&scores.values, &expected) < 1e-5, "{place}");
                    assert_eq!(golden["xlm-roberta-3"]["lengths"][number], result.tokens);
                }
            }
        }
    }
    let refused = |query: String, documents, model: &str| RerankRequest {
        query,
        documents,
        model: model.into(),
        ..Default::default()
    };
    for (request, code, words) in [
        (refused("x".repeat(6001), vec!["a".into()], ""), Code::ResourceExhausted, "the query"),
        (refused("a".into(), vec!["a".into()], "none"), Code::NotFound, "no model 'none'"),
        (
            refused("a".into(), vec![String::new(); Limits::default().max_texts + 1], ""),
            Code::ResourceExhausted,
            "--max-texts",
        ),
    ] {
        let status = client.rerank(request).await.expect_err("refused");
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().contains(words), "{}", status.message());
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_names_no_model_gets_the_first_that_does_what_is_asked() {
    let server = server().await;
    for (path, body, dims) in [
        ("/vectors", json!({"text": "the river"}), 32),
        ("/models/m2v/vectors", json!({"text": "the river"}), 24),
        ("/models/m2v/vectors", json!({"text": ""}), 24),
    ] {
        let (status, answer) = post(&server, path, &body).await;
        assert_eq!((status, &answer["dim"]), (200, &json!(dims)), "{path} {answer}");
    }
    for (path, body, words) in [
        ("/models/rank/vectors", json!({"text": "a"}), "reranks and makes no vectors"),
        ("/models/embed/rerank", json!({"query": "a", "documents": ["b"]}), "does not rerank"),
        ("/models/m2v/rerank", json!({"query": "a", "documents": ["b"]}), "does not rerank"),
        ("/rerank", json!({"query": "a"}), "'documents' is missing"),
        ("/rerank", json!({"documents": ["a"]}), "'query' is missing"),
    ] {
        let (status, answer) = post(&server, path, &body).await;
        assert_eq!(status, 400, "{path} {answer}");
        assert!(answer["error"].as_str().expect("what Weaviate shows").contains(words), "{answer}");
    }
    server.stop().await;
    let alone = server_of(&[("embed", "families/bert")], Limits::default()).await;
    let (status, answer) = post(&alone, "/rerank", &json!({"query": "a", "documents": ["b"]})).await;
    assert_eq!(status, 404);
    assert!(answer["error"].as_str().expect("a text").contains("serve a cross-encoder"), "{answer}");
    alone.stop().await;
}

/// Of a query or a document far beyond the limit no more is kept than counts, and the cut is that of the whole.
#[tokio::test]
async fn texts_far_beyond_the_limit_are_cut_like_those_just_beyond_it() {
    let server = server_of(&[("rank", "rerankers/bert-1")], Limits::default()).await;
    let words = |count: usize| "the river flows ".repeat(count / 3);
    let scores = async |query: String, documents: &[String]| {
        let (status, answer) = post(&server, "/rerank", &json!({"query": query, "documents": documents})).await;
        assert_eq!(status, 200, "{answer}");
        let scores = answer["scores"].as_array().expect("scores").clone();
        scores.iter().map(|score| score["score"].as_f64().expect("a number")).collect::<Vec<_>>()
    };
    let started = std::time::Instant::now();
    let short: Vec<String> = (0..60).map(|at| format!("wheel {at}")).collect();
    assert_eq!(scores(words(200_000), &short).await, scores(words(1200), &short).await, "a long query");
    // Of both the longer one keeps a token more: 509 are left beside the special ones.
    for (query, document, like) in
        [(200_000, 30_000, (1500, 1200)), (30_000, 200_000, (1200, 1500)), (3000, 3000, (1500, 1500))]
    {
        let long = scores(words(query), &[words(document)]).await;
        assert_eq!(long, scores(words(like.0), &[words(like.1)]).await, "{query} and {document}");
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    let limited = server_of(&[("rank", "rerankers/bert-1")], Limits { max_text_bytes: 100, ..Limits::default() }).await;
    for (query, document, words) in
        [("x".repeat(101), "b".to_owned(), "the query"), ("a".into(), "x".repeat(101), "document 1")]
    {
        let (status, answer) = post(&limited, "/rerank", &json!({"query": query, "documents": ["b", document]})).await;
        assert_eq!(status, 413);
        let message = answer["error"].as_str().expect("a text");
        assert!(message.contains(words) && message.contains("--max-text-bytes"), "{message}");
    }
    limited.stop().await;
    server.stop().await;
}

/// Ollama knows no reranking: its clients are shown who makes vectors.
#[tokio::test]
async fn a_reranker_is_not_shown_to_those_who_want_vectors() {
    let server = server().await;
    let client = Client::builder().no_proxy().build().expect("client");
    let get = async |path: &str| client.get(server.url(path)).send().await.expect("an answer").json::<Value>().await;
    for path in ["/api/tags", "/api/ps"] {
        let answer = get(path).await.expect("JSON").to_string();
        assert!(
            answer.contains("m2v:latest") && !answer.contains("rank") && !answer.contains("nli"),
            "{path}: {answer}"
        );
    }
    let (_, shown) = post(&server, "/api/show", &json!({"model": "rank"})).await;
    assert_eq!(shown["capabilities"], json!([]));
    assert!(!shown.to_string().contains("embedding_length"), "{shown}");
    let meta = get("/models/nli/meta").await.expect("JSON");
    assert_eq!(meta["sidecar"]["labels"], json!(["contradiction", "entailment", "neutral"]));
    assert_eq!((&meta["sidecar"]["activation"], &meta["sidecar"]["dimensions"]), (&json!("identity"), &Value::Null));
    server.stop().await;
}

/// `text2vec-model2vec` beside `text2vec-transformers` in the module service: its defaults, and its model.
#[tokio::test]
async fn the_module_of_model2vec_has_its_own_defaults_and_its_own_model() {
    let server = server().await;
    let mut client = ModuleClient::connect(server.url("")).await.expect("connected");
    let module = |name: &str| name.to_owned();
    let mut defaults = Vec::new();
    for name in ["", "text2vec-transformers", "text2vec-model2vec"] {
        let request = ClassConfigDefaultsRequest { module_name: module(name) };
        let answer = client.class_config_defaults(request).await.expect("an answer").into_inner();
        let names: Vec<_> = answer.defaults.expect("defaults").fields.into_keys().collect();
        defaults.push(names.len());
    }
    assert_eq!(defaults, [2, 2, 1], "pooling is not model2vec's");
    let class = r#"{"class":"River","moduleConfig":{"text2vec-model2vec":{"poolingStrategy":"cls"},"text2vec-transformers":{}},
        "properties":[{"name":"text","dataType":["text"]}]}"#;
    let config =
        |name: &str| Some(ClassConfig { class_json: class.into(), module_name: module(name), ..Default::default() });
    let mut texts = Vec::new();
    let mut lengths = Vec::new();
    for name in ["text2vec-transformers", "text2vec-model2vec"] {
        let properties = Some(object::Properties::Json(r#"{"text":"the wheel"}"#.into()));
        let object = Some(Object { class: "River".into(), properties, ..Default::default() });
        let request = VectorizeObjectRequest { object, config: config(name), return_text: true };
        let result = client.vectorize_object(request).await.expect("an answer").into_inner().result.expect("a result");
        texts.push(result.text);
        match result.result {
            Some(object_result::Result::Vector(vector)) => lengths.push(vector.values.len()),
            other => panic!("{other:?}"),
        }
        let request = VectorizeInputRequest { input: "the wheel".into(), config: config(name) };
        let vector = client.vectorize_input(request).await.expect("an answer").into_inner().vector.expect("a vector");
        lengths.push(vector.values.len());
    }
    assert_eq!(texts, ["River the wheel", "the wheel"], "the class's name is left out unless it is asked for");
    assert_eq!(lengths, [32, 32, 24, 24]);
    let request = ValidateClassRequest { config: config("text2vec-model2vec"), ..Default::default() };
    let answer = client.validate_class(request).await.expect("an answer").into_inner();
    assert_eq!((answer.error.as_str(), answer.warnings.len()), ("", 0));
    let status = client
        .class_config_defaults(ClassConfigDefaultsRequest { module_name: "text2vec-openai".into() })
        .await
        .expect_err("no such module");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("text2vec-model2vec"), "{}", status.message());
    server.stop().await;
}
