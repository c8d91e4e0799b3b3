//! The gRPC interface over a real connection. `make e2e` does the same with grpcurl and Python's grpcio.

use crate::support;

use std::sync::Arc;

use support::{FakeBackend, TestServer, max_difference, options};
use text2vec_sidecar::contract::request::Profile;
use text2vec_sidecar::proto::module_client::ModuleClient;
use text2vec_sidecar::proto::vectorize_result::Result as Outcome;
use text2vec_sidecar::proto::vectorizer_client::VectorizerClient;
use text2vec_sidecar::proto::{self, VectorizeOptions, VectorizeRequest, VectorizeStreamRequest};
use text2vec_sidecar::server::Limits;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn channel(server: &TestServer) -> Channel {
    Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("a connection")
}

fn texts(texts: &[&str]) -> VectorizeRequest {
    VectorizeRequest { texts: texts.iter().map(|&text| text.to_owned()).collect(), options: None }
}

#[tokio::test]
async fn one_bad_text_does_not_fail_its_neighbours() {
    let server = TestServer::start_model(options(Profile::Transformers)).await;
    let mut client = VectorizerClient::new(channel(&server).await);
    let answer = client.vectorize(texts(&["hello", " ", "world"])).await.expect("an answer").into_inner();
    assert_eq!((answer.model.as_str(), answer.fingerprint.len()), ("all-MiniLM-L6-v2", 32));
    let [first, bad, last] = &answer.results[..] else { panic!("three results, not {}", answer.results.len()) };
    for good in [first, last] {
        assert!(matches!(&good.result, Some(Outcome::Vector(vector)) if vector.values.len() == 384));
        assert_eq!((good.tokens, good.truncated), (3, false));
    }
    let Some(Outcome::Error(error)) = &bad.result else { panic!("{bad:?}") };
    assert_eq!((error.code, &*error.reason), (Code::InvalidArgument as i32, "invalid_argument"));
    server.stop().await;
}

#[tokio::test]
async fn options_reach_the_encoder() {
    let server = TestServer::start_model(options(Profile::SentenceTransformers)).await;
    let mut client = VectorizerClient::new(channel(&server).await);
    let mut vectorize = async |options: VectorizeOptions| {
        let request = VectorizeRequest { texts: vec!["hello".into()], options: Some(options) };
        let mut results = client.vectorize(request).await.expect("an answer").into_inner().results;
        let result = results.remove(0);
        match result.result {
            Some(Outcome::Vector(vector)) => (vector.values, result.ignored_settings),
            other => panic!("{other:?}"),
        }
    };
    let (full, ignored) = vectorize(VectorizeOptions::default()).await;
    assert_eq!((full.len(), ignored.len()), (384, 0));
    let (cut, _) = vectorize(VectorizeOptions { dimensions: Some(64), ..Default::default() }).await;
    assert_eq!(cut.len(), 64);
    let (prompted, _) = vectorize(VectorizeOptions { prompt: Some("about: ".into()), ..Default::default() }).await;
    assert!(max_difference(&full, &prompted) > 1e-3, "the prompt changed nothing");
    let odd = VectorizeOptions { pooling_strategy: "cls".into(), ..Default::default() };
    let (same, ignored) = vectorize(odd).await;
    assert_eq!((same, ignored), (full, vec!["poolingStrategy".to_owned()]));
    server.stop().await;
}

/// No vector has such a length, under any profile: an error, neither an empty vector nor one of another length.
#[tokio::test]
async fn dimensions_that_no_vector_has_are_refused() {
    for profile in [Profile::SentenceTransformers, Profile::Transformers] {
        let server = TestServer::start_model(options(profile)).await;
        let mut client = VectorizerClient::new(channel(&server).await);
        for dimensions in [0, -1, -384, i64::MIN, 385, 5000, i64::MAX] {
            let options = Some(VectorizeOptions { dimensions: Some(dimensions), ..Default::default() });
            let request = VectorizeRequest { texts: vec!["hello".into()], options: options.clone() };
            let status = client.vectorize(request).await.expect_err("refused");
            assert_eq!(status.code(), Code::InvalidArgument, "{profile} {dimensions}: {status}");
            assert!(status.message().contains(&format!("'dimensions' is {dimensions}")), "{status}");
            let item = VectorizeStreamRequest { id: "a".into(), text: "hello".into(), options };
            let stream = client.vectorize_stream(tokio_stream::iter([item])).await.expect("a stream");
            let answer = stream.into_inner().message().await.expect("an answer").expect("one");
            let result = answer.result.expect("a result").result;
            assert!(matches!(result, Some(Outcome::Error(_))), "{profile} {dimensions}: {result:?}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_batch_of_2000_texts_of_1024_dimensions_passes() {
    let server = TestServer::start(Arc::new(FakeBackend::new(1024))).await;
    // What a client has to raise: answers of this size are beyond gRPC's default of 4 MiB.
    let mut client = VectorizerClient::new(channel(&server).await).max_decoding_message_size(64 * 1024 * 1024);
    let request = VectorizeRequest { texts: vec!["text".to_owned(); 2000], options: None };
    let answer = client.vectorize(request).await.expect("an answer").into_inner();
    assert_eq!(answer.results.len(), 2000);
    for result in &answer.results {
        assert!(matches!(&result.result, Some(Outcome::Vector(vector)) if vector.values.len() == 1024));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_answers_every_item_by_its_id() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let mut client = VectorizerClient::new(channel(&server).await);
    let items = (0..500).map(|i| VectorizeStreamRequest {
        id: i.to_string(),
        text: if i % 100 == 7 { "fail".to_owned() } else { "x".repeat(i) },
        options: None,
    });
    let answers = client.vectorize_stream(tokio_stream::iter(items)).await.expect("a stream").into_inner();
    let answers: Vec<_> = futures_util::StreamExt::collect::<Vec<_>>(answers).await;
    assert_eq!(answers.len(), 500);
    let mut seen = vec![false; 500];
    for answer in answers {
        let answer = answer.expect("an item");
        let index: usize = answer.id.parse().expect("our id");
        assert!(!std::mem::replace(&mut seen[index], true), "{index} twice");
        match answer.result.expect("a result").result.expect("an outcome") {
            Outcome::Vector(vector) => assert_eq!(vector.values[0], index as f32),
            Outcome::Error(error) => assert_eq!((index % 100, error.message.as_str()), (7, "this text fails")),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn unknown_models_and_tasks_are_refused_clearly() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let mut client = VectorizerClient::new(channel(&server).await);
    let mut status = async |options| {
        let request = VectorizeRequest { texts: vec!["x".into()], options: Some(options) };
        client.vectorize(request).await.map(|_| ()).map_err(|status| (status.code(), status.message().to_owned()))
    };
    assert_eq!(status(VectorizeOptions { model: "fake".into(), ..Default::default() }).await, Ok(()));
    let (code, message) =
        status(VectorizeOptions { model: "bge".into(), ..Default::default() }).await.expect_err("refused");
    assert_eq!((code, message.contains("'fake'")), (Code::NotFound, true), "{message}");
    let (code, _) = status(VectorizeOptions { task: 9, ..Default::default() }).await.expect_err("refused");
    assert_eq!(code, Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn limits_hold_for_grpc_too() {
    let server = TestServer::start_unready(Limits { max_body_bytes: 1000, max_texts: 2, ..Limits::default() }).await;
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    let mut client = VectorizerClient::new(channel(&server).await);
    let many = client.vectorize(texts(&["a", "b", "c"])).await.expect_err("too many");
    assert_eq!((many.code(), many.message().contains("--max-texts")), (Code::ResourceExhausted, true));
    assert_eq!(many.metadata().get("t2v-reason").expect("a reason"), "too_large");
    let big = client.vectorize(texts(&[&"x".repeat(2000)])).await.expect_err("too large");
    assert_eq!(big.code(), Code::OutOfRange, "{big}");
    server.stop().await;
}

#[tokio::test]
async fn health_follows_readiness_per_service() {
    let server = TestServer::start_unready(Limits::default()).await;
    let mut health = HealthClient::new(channel(&server).await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    };
    let services = ["", "text2vec.v1.Vectorizer", "text2vec.v1.Module"];
    for service in services {
        assert_eq!(check(service).await, Ok(ServingStatus::NotServing), "{service:?} before loading");
    }
    assert_eq!(check("nobody").await, Err(Code::NotFound));
    let mut client = VectorizerClient::new(channel(&server).await);
    let early = client.vectorize(texts(&["x"])).await.expect_err("not ready");
    assert_eq!((early.code(), early.message()), (Code::Unavailable, "not ready: the model is being loaded"));
    server.readiness.ready(Arc::new(FakeBackend::new(2)));
    for service in services {
        // The reporter follows a moment later.
        let mut status = check(service).await;
        for _ in 0..100 {
            if status == Ok(ServingStatus::Serving) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            status = check(service).await;
        }
        assert_eq!(status, Ok(ServingStatus::Serving), "{service:?} when ready");
    }
    server.stop().await;
}

#[tokio::test]
async fn meta_info_is_what_meta_answers() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let mut client = ModuleClient::new(channel(&server).await);
    let meta = client.meta_info(proto::MetaInfoRequest::default()).await.expect("an answer").into_inner().meta;
    let model = meta.expect("meta").fields.remove("model").and_then(|value| value.kind);
    assert_eq!(model, Some(prost_types::value::Kind::StringValue("fake".into())));
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_service_is_a_grpc_status() {
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let mut client = tonic::client::Grpc::new(channel(&server).await);
    client.ready().await.expect("ready");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/nobody.Service/Method");
    let codec = tonic_prost::ProstCodec::<proto::MetaInfoRequest, proto::MetaInfoResponse>::default();
    let status =
        client.unary(tonic::Request::new(proto::MetaInfoRequest::default()), path, codec).await.expect_err("none");
    assert_eq!(status.code(), Code::Unimplemented);
    server.stop().await;
}

/// Clients find the services without a proto file, whichever version of reflection they speak.
#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    macro_rules! listed {
        ($version:ident, $channel:expr) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = ServerReflectionRequest { host: String::new(), message_request };
            let mut client = ServerReflectionClient::new($channel);
            let answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("a stream");
            let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
            match answer.message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    let server = TestServer::start(Arc::new(FakeBackend::new(2))).await;
    let services = [listed!(v1, channel(&server).await), listed!(v1alpha, channel(&server).await)];
    for list in services {
        for name in ["text2vec.v1.Vectorizer", "text2vec.v1.Module", "grpc.health.v1.Health"] {
            assert!(list.iter().any(|listed| listed == name), "{name} is not in {list:?}");
        }
    }
    server.stop().await;
}
