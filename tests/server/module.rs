//! Service `Module` over a real connection: objects in, the module's vectors out. What the contract says of texts and
//! settings is tested in `tests/contract/contract.rs`; here it is the service around it.

use crate::support;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use support::{FakeBackend, TestServer, options};
use text2vec_sidecar::backend::local::LocalBackend;
use text2vec_sidecar::backend::paired::Paired;
use text2vec_sidecar::contract::endpoint::Endpoints;
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::object::Properties;
use text2vec_sidecar::proto::object_result::Result as Outcome;
use text2vec_sidecar::proto::vectorize_batch_stream_request::Message;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{self, ClassConfig, Object};
use text2vec_sidecar::server::{Limits, ModuleOptions, ServerOptions};
use tonic::Code;
use tonic::transport::Channel;

const CLASS: &str = r#"{"class":"Article","vectorizer":"text2vec-transformers",
    "properties":[{"name":"title","dataType":["text"]},{"name":"body","dataType":["text"]},{"name":"stars","dataType":["int"]}]}"#;

fn config(class_json: &str) -> Option<ClassConfig> {
    Some(ClassConfig { class_json: class_json.to_owned(), ..ClassConfig::default() })
}

fn object(json: impl ToString) -> Object {
    Object { properties: Some(Properties::Json(json.to_string())), ..Object::default() }
}

async fn channel(server: &TestServer) -> Channel {
    Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("a connection")
}

fn vector(result: &proto::ObjectResult) -> &[f32] {
    match &result.result {
        Some(Outcome::Vector(vector)) => &vector.values,
        other => panic!("no vector: {other:?}"),
    }
}

fn error(result: &proto::ObjectResult) -> &proto::Error {
    match &result.result {
        Some(Outcome::Error(error)) => error,
        other => panic!("no error: {other:?}"),
    }
}

/// Short objects of varied text.
fn articles(count: usize) -> Vec<Object> {
    let words = ["river", "stone", "engine", "orchard", "violin", "harbour", "comet", "lantern", "meadow", "anvil"];
    (0..count)
        .map(|i| object(json!({"title": format!("{} {}", words[i % 10], i), "body": words[i / 10 % 10], "stars": i})))
        .collect()
}

#[tokio::test]
async fn a_thousand_objects_are_the_same_alone_in_a_batch_and_in_a_stream() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let mut client = ModuleClient::new(channel(&server).await);
    let objects = articles(1000);
    let batch = proto::VectorizeBatchRequest {
        objects: objects.clone(),
        config: config(CLASS),
        return_text: true,
        ..Default::default()
    };
    let batch = client.vectorize_batch(batch).await.expect("the batch").into_inner().results;
    assert_eq!(batch.len(), 1000);
    assert_eq!(batch[1].text, "Article river stone 1");

    let header = Message::Header(proto::VectorizeBatchHeader { config: config(CLASS), return_text: true });
    let messages = std::iter::once(header)
        .chain(objects.clone().into_iter().map(Message::Object))
        .map(|message| proto::VectorizeBatchStreamRequest { message: Some(message) });
    let answers = client.vectorize_batch_stream(tokio_stream::iter(messages)).await.expect("the stream").into_inner();
    let answers: Vec<_> = futures_util::StreamExt::collect(answers).await;
    let streamed: BTreeMap<u64, _> =
        answers.into_iter().map(|answer| answer.expect("an item")).map(|item| (item.index, item.result)).collect();
    assert_eq!(streamed.len(), 1000);

    for (index, object) in objects.into_iter().enumerate().step_by(4) {
        let request = proto::VectorizeObjectRequest { object: Some(object), config: config(CLASS), return_text: true };
        let alone = client.vectorize_object(request).await.expect("alone").into_inner().result.expect("a result");
        assert_eq!(alone.text, batch[index].text);
        assert_eq!(vector(&alone), vector(&batch[index]), "object {index}: alone and in the batch");
        assert_eq!(Some(alone), streamed[&(index as u64)], "object {index}: alone and in the stream");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_poisoned_object_of_a_thousand_costs_one_error() {
    let nan = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) };
    let nan = prost_types::Struct { fields: [("stars".to_owned(), nan)].into() };
    let poisons = [
        ("a wrong type", object(json!({"title": 5})), Code::InvalidArgument),
        ("a lone surrogate", object(r#"{"title":"\ud800"}"#), Code::InvalidArgument),
        ("broken JSON", object("{"), Code::InvalidArgument),
        ("NaN", Object { properties: Some(Properties::Struct(nan)), ..Object::default() }, Code::InvalidArgument),
        ("an unknown property", object(json!({"nobody": "x"})), Code::InvalidArgument),
        ("a text over the limit", object(json!({"body": "x".repeat(3000)})), Code::ResourceExhausted),
    ];
    let server = TestServer::start_unready(Limits { max_text_bytes: 2000, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(4)));
    let mut client = ModuleClient::new(channel(&server).await);
    for (name, poison, code) in poisons {
        let mut objects = articles(1000);
        objects[500] = Object { id: "poison".into(), ..poison };
        let request = proto::VectorizeBatchRequest { objects, config: config(CLASS), ..Default::default() };
        let results = client.vectorize_batch(request).await.expect("the batch").into_inner().results;
        let vectors = results.iter().filter(|result| matches!(result.result, Some(Outcome::Vector(_)))).count();
        assert_eq!((results.len(), vectors), (1000, 999), "{name}");
        let error = error(&results[500]);
        println!("{name}: {}", error.message);
        assert_eq!(error.code, code as i32, "{name}: {}", error.message);
    }
    server.stop().await;
}

#[tokio::test]
async fn empty_and_skipped_objects_get_neither_vector_nor_error() {
    let server = TestServer::start(Arc::new(FakeBackend::new(4))).await;
    let mut client = ModuleClient::new(channel(&server).await);
    let class = r#"{"class":"A","moduleConfig":{"text2vec-transformers":{"vectorizeClassName":false}},
                    "properties":[{"name":"title","dataType":["text"]}]}"#;
    let objects = vec![object(json!({"title": ""})), object(json!({"title": "x"})), object(json!({"title": "y"}))];
    let request =
        proto::VectorizeBatchRequest { objects, skip: vec![false, true], config: config(class), return_text: true };
    let results = client.vectorize_batch(request).await.expect("the batch").into_inner().results;
    assert_eq!(results[0].result, Some(Outcome::Skipped(true)));
    assert_eq!(results[1].result, Some(Outcome::Skipped(true)));
    assert_eq!((vector(&results[2]).len(), results[2].text.as_str()), (4, "y"));
    server.stop().await;
}

#[tokio::test]
async fn the_service_lower_cases_when_told_to() {
    let module = ModuleOptions { lowercase_input: true, ..ModuleOptions::default() };
    let server = TestServer::start_with(ServerOptions { module, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(4)));
    let mut client = ModuleClient::new(channel(&server).await);
    let request = proto::VectorizeObjectRequest {
        object: Some(object(json!({"title": "Über ALLES"}))),
        config: config(CLASS),
        return_text: true,
    };
    let result = client.vectorize_object(request).await.expect("an answer").into_inner().result.expect("a result");
    assert_eq!(result.text, "article über alles");
    server.stop().await;
}

#[tokio::test]
async fn classes_are_validated_in_weaviates_words_and_defaults_told() {
    let server = TestServer::start(Arc::new(FakeBackend::new(4))).await;
    let mut client = ModuleClient::new(channel(&server).await);
    let mut validate = async |class: &str| {
        let request = proto::ValidateClassRequest { config: config(class), auto_schema: None };
        client.validate_class(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(validate(CLASS).await.expect("an answer"), proto::ValidateClassResponse::default());
    assert_eq!(validate("").await.expect("an answer").error, "empty config");
    let bad = r#"{"class":"A","moduleConfig":{"text2vec-transformers":{"properties":[]}}}"#;
    let answer = validate(bad).await.expect("an answer");
    assert_eq!(answer.error, "properties field needs to have at least 1 property defined");
    let odd = r#"{"class":"A","moduleConfig":{"text2vec-transformers":{"poolingStrategy":"max"}}}"#;
    let answer = validate(odd).await.expect("an answer");
    assert_eq!((answer.error.as_str(), answer.warnings.len()), ("", 1));
    assert_eq!(validate("{").await.expect_err("not JSON").code(), Code::InvalidArgument);

    let defaults = client.class_config_defaults(proto::ClassConfigDefaultsRequest::default()).await.expect("an answer");
    let names: Vec<_> = defaults.into_inner().defaults.expect("defaults").fields.into_keys().collect();
    assert_eq!(names, ["poolingStrategy", "vectorizeClassName"]);
    let defaults =
        client.property_config_defaults(proto::PropertyConfigDefaultsRequest::default()).await.expect("an answer");
    let names: Vec<_> = defaults.into_inner().defaults.expect("defaults").fields.into_keys().collect();
    assert_eq!(names, ["skip", "vectorizePropertyName"]);
    let request = proto::VectorizablePropertiesRequest { config: config(CLASS) };
    let answer = client.vectorizable_properties(request).await.expect("an answer").into_inner();
    assert_eq!((answer.text, answer.media.len()), (true, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_query_vector_is_what_the_module_would_search_with() {
    let server = TestServer::start(Arc::new(FakeBackend::new(3))).await;
    let mut client = ModuleClient::new(channel(&server).await);
    let request = proto::VectorizeInputRequest { input: "abc".into(), config: None };
    let input = client.vectorize_input(request).await.expect("an answer").into_inner().vector.expect("a vector");
    assert_eq!(input.values, [3.0, 4.0, 5.0]);
    let failing = proto::VectorizeInputRequest { input: "fail".into(), config: config(CLASS) };
    let status = client.vectorize_input(failing).await.expect_err("it fails");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "remote client vectorize: this text fails"));

    let list = |values: &[&str]| proto::ConceptList { values: values.iter().map(|&value| value.to_owned()).collect() };
    let near_text = proto::NearText {
        concepts: vec!["a".into(), "abc".into()],
        move_to: Some(proto::Move { concepts: Some(list(&["abcdefgh"])), force: 0.5, ..Default::default() }),
        ..Default::default()
    };
    let mut search = async |near_text| {
        let request = proto::VectorForParamsRequest { near_text: Some(near_text), config: config(CLASS) };
        client.vector_for_params(request).await.map(|answer| answer.into_inner().vector.expect("a vector").values)
    };
    // Mean [2,3,4], then a quarter of the way to [8,9,10].
    assert_eq!(search(near_text.clone()).await.expect("a vector"), [3.5, 4.5, 5.5]);
    let both = proto::NearText { certainty: Some(0.5), distance: Some(0.0), ..near_text.clone() };
    let status = search(both).await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "nearText cannot provide both distance and certainty")
    );
    let failing = proto::Move { concepts: Some(list(&["fail"])), force: 0.5, ..Default::default() };
    let status = search(proto::NearText { move_away_from: Some(failing), ..near_text }).await.expect_err("it fails");
    let expected = "vectorize move away from: vectorize move to: remote client vectorize: this text fails";
    assert_eq!(status.message(), expected);
    server.stop().await;
}

#[tokio::test]
async fn urls_of_a_class_need_the_operators_leave() {
    let endpoints = Endpoints::new(None, "http://me:8080/");
    let module = ModuleOptions { endpoints, ..ModuleOptions::default() };
    let server = TestServer::start_with(ServerOptions { module, ..ServerOptions::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(3)));
    let mut client = ModuleClient::new(channel(&server).await);
    let class = |url: &str| {
        let module = json!({"text2vec-transformers": {"inferenceUrl": url}});
        config(&json!({"class": "A", "properties": [], "moduleConfig": module}).to_string())
    };
    let request = proto::VectorizeInputRequest { input: "x".into(), config: class("http://me:8080") };
    client.vectorize_input(request).await.expect("this sidecar itself");
    let request = proto::VectorizeInputRequest { input: "x".into(), config: class("http://other:8080") };
    let status = client.vectorize_input(request).await.expect_err("another server");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("--allow-upstream"), "{status}");
    server.stop().await;
}

/// With the same model on both sides, under two profiles: the task is what decides, on every surface.
#[tokio::test]
async fn passages_and_queries_may_have_encoders_of_their_own() {
    let load = |profile| Arc::new(LocalBackend::load(&options(profile)).expect("the model loads"));
    let pair = Paired::new(load(Profile::Transformers), load(Profile::Onnx)).expect("a pair");
    let server = TestServer::start(Arc::new(pair)).await;
    let mut module = ModuleClient::new(channel(&server).await);
    let request = proto::VectorizeInputRequest { input: "hello".into(), config: None };
    let query = module.vectorize_input(request).await.expect("an answer").into_inner().vector.expect("a vector").values;
    assert!((support::norm(&query) - 1.0).abs() < 1e-6, "queries come from the normalising encoder");
    for (task, expects_query) in [("query", true), ("passage", false)] {
        let body = json!({"text": "hello", "config": {"task_type": task}}).to_string();
        let answer = reqwest::Client::new().post(server.url("/vectors")).body(body).send().await.expect("an answer");
        let answer: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(support::floats(&answer["vector"]) == query, expects_query, "{task}");
    }
    let meta =
        reqwest::get(server.url("/meta")).await.expect("an answer").json::<serde_json::Value>().await.expect("JSON");
    for side in ["passage", "query"] {
        assert_eq!(meta[side]["sidecar"]["max_body_wait_seconds"], 60.0, "{meta}");
    }
    let mut vectorizer = VectorizerClient::new(channel(&server).await);
    let options = proto::VectorizeOptions { task: proto::Task::Query as i32, ..Default::default() };
    let request = proto::VectorizeRequest { texts: vec!["hello".into()], options: Some(options) };
    let results = vectorizer.vectorize(request).await.expect("an answer").into_inner().results;
    let expected = proto::vectorize_result::Result::Vector(proto::Vector { values: query });
    assert_eq!(results[0].result, Some(expected));
    server.stop().await;
}
