//! The gRPC surface `text2vec.v1`, with health and reflection.

use std::pin::Pin;

use axum::Router;
use futures_util::{Stream, StreamExt};
use serde_json::{Map, Value};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Service, health};
use crate::backend::Embedding;
use crate::contract::request::{EmbedRequest, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::proto;
use crate::proto::module_server::{Module, ModuleServer};
use crate::proto::vectorizer_server::{Vectorizer, VectorizerServer};

/// Texts of one stream that are worked on at the same time; more wait in the connection's flow control.
const STREAM_IN_FLIGHT: usize = 64;

/// Services that `grpc.health.v1` knows by name, beside `""`.
const SERVICES: &[&str] = &["text2vec.v1.Vectorizer", "text2vec.v1.Module"];

/// Every gRPC route.
pub(super) async fn router(service: Service) -> Router {
    let max = service.limits.max_body_bytes;
    let health = health::grpc_health(&service.readiness, SERVICES).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are compiled in; that they can be read is checked by every test that starts a server.
    let v1 = reflection().build_v1().expect("descriptors of this build");
    let v1alpha = reflection().build_v1alpha().expect("descriptors of this build");
    Routes::new(VectorizerServer::new(service.clone()).max_decoding_message_size(max))
        .add_service(ModuleServer::new(service).max_decoding_message_size(max))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare()
        .into_axum_router()
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(Code::from(error.kind().meaning().grpc_code), error.message())
    }
}

impl From<Error> for proto::Error {
    fn from(error: Error) -> proto::Error {
        proto::Error { code: error.kind().meaning().grpc_code, message: error.message().to_owned() }
    }
}

impl From<Result<Embedding>> for proto::VectorizeResult {
    fn from(result: Result<Embedding>) -> proto::VectorizeResult {
        use proto::vectorize_result::Result as Outcome;
        match result {
            Ok(embedding) => proto::VectorizeResult {
                tokens: embedding.tokens,
                truncated: embedding.truncated,
                ignored_settings: embedding.ignored.iter().map(|&name| name.to_owned()).collect(),
                result: Some(Outcome::Vector(proto::Vector { values: embedding.vector.to_vec() })),
            },
            Err(error) => proto::VectorizeResult { result: Some(Outcome::Error(error.into())), ..Default::default() },
        }
    }
}

/// The settings of a request, without a text.
fn settings(service: &Service, options: Option<proto::VectorizeOptions>) -> Result<EmbedRequest> {
    let options = options.unwrap_or_default();
    let backend = service.readiness.backend()?;
    if !options.model.is_empty() && options.model != backend.info().name {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "no model '{}' is served here: there is '{}', also meant by \"\"",
                options.model,
                backend.info().name
            ),
        ));
    }
    let task = match proto::Task::try_from(options.task) {
        Ok(proto::Task::Query) => Task::Query,
        Ok(proto::Task::Passage | proto::Task::Unspecified) => Task::Passage,
        Err(_) => return Err(Error::invalid(format!("unknown task {}: use TASK_PASSAGE or TASK_QUERY", options.task))),
    };
    Ok(EmbedRequest {
        text: String::new(),
        task_name: Some(task.as_str().into()),
        pooling: Some(options.pooling_strategy),
        dimensions: options.dimensions,
        prompt: options.prompt,
    })
}

#[tonic::async_trait]
impl Vectorizer for Service {
    async fn vectorize(
        &self,
        request: Request<proto::VectorizeRequest>,
    ) -> Result<Response<proto::VectorizeResponse>, Status> {
        let proto::VectorizeRequest { texts, options } = request.into_inner();
        let settings = settings(self, options)?;
        let requests = texts.into_iter().map(|text| EmbedRequest { text, ..settings.clone() }).collect();
        let results = self.embed(requests).await?.into_iter().map(Into::into).collect();
        let backend = self.readiness.backend()?;
        let info = backend.info();
        Ok(Response::new(proto::VectorizeResponse {
            results,
            model: info.name.clone(),
            fingerprint: info.fingerprint.clone(),
        }))
    }

    type VectorizeStreamStream = Pin<Box<dyn Stream<Item = Result<proto::VectorizeStreamResponse, Status>> + Send>>;

    async fn vectorize_stream(
        &self,
        request: Request<Streaming<proto::VectorizeStreamRequest>>,
    ) -> Result<Response<Self::VectorizeStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |item| {
            let service = service.clone();
            async move {
                let proto::VectorizeStreamRequest { id, text, options } = item?;
                let result = match settings(&service, options) {
                    Ok(settings) => service.embed_one(EmbedRequest { text, ..settings }).await,
                    Err(error) => Err(error),
                };
                Ok(proto::VectorizeStreamResponse { id, result: Some(result.into()) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffer_unordered(STREAM_IN_FLIGHT))))
    }
}

fn unimplemented<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("Module.{method} is not there yet; Vectorizer.Vectorize embeds texts")))
}

#[tonic::async_trait]
impl Module for Service {
    async fn meta_info(
        &self,
        _request: Request<proto::MetaInfoRequest>,
    ) -> Result<Response<proto::MetaInfoResponse>, Status> {
        Ok(Response::new(proto::MetaInfoResponse { meta: Some(to_struct(self.meta()?)) }))
    }

    async fn class_config_defaults(
        &self,
        _request: Request<proto::ClassConfigDefaultsRequest>,
    ) -> Result<Response<proto::ClassConfigDefaultsResponse>, Status> {
        unimplemented("ClassConfigDefaults")
    }

    async fn property_config_defaults(
        &self,
        _request: Request<proto::PropertyConfigDefaultsRequest>,
    ) -> Result<Response<proto::PropertyConfigDefaultsResponse>, Status> {
        unimplemented("PropertyConfigDefaults")
    }

    async fn validate_class(
        &self,
        _request: Request<proto::ValidateClassRequest>,
    ) -> Result<Response<proto::ValidateClassResponse>, Status> {
        unimplemented("ValidateClass")
    }

    async fn vectorizable_properties(
        &self,
        _request: Request<proto::VectorizablePropertiesRequest>,
    ) -> Result<Response<proto::VectorizablePropertiesResponse>, Status> {
        unimplemented("VectorizableProperties")
    }

    async fn vectorize_object(
        &self,
        _request: Request<proto::VectorizeObjectRequest>,
    ) -> Result<Response<proto::VectorizeObjectResponse>, Status> {
        unimplemented("VectorizeObject")
    }

    async fn vectorize_batch(
        &self,
        _request: Request<proto::VectorizeBatchRequest>,
    ) -> Result<Response<proto::VectorizeBatchResponse>, Status> {
        unimplemented("VectorizeBatch")
    }

    async fn vectorize_input(
        &self,
        _request: Request<proto::VectorizeInputRequest>,
    ) -> Result<Response<proto::VectorizeInputResponse>, Status> {
        unimplemented("VectorizeInput")
    }

    async fn vector_for_params(
        &self,
        _request: Request<proto::VectorForParamsRequest>,
    ) -> Result<Response<proto::VectorForParamsResponse>, Status> {
        unimplemented("VectorForParams")
    }

    type VectorizeBatchStreamStream =
        Pin<Box<dyn Stream<Item = Result<proto::VectorizeBatchStreamResponse, Status>> + Send>>;

    async fn vectorize_batch_stream(
        &self,
        _request: Request<Streaming<proto::VectorizeBatchStreamRequest>>,
    ) -> Result<Response<Self::VectorizeBatchStreamStream>, Status> {
        unimplemented("VectorizeBatchStream")
    }
}

/// A JSON object as a protobuf Struct. Numbers become doubles.
fn to_struct(object: Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct { fields: object.into_iter().map(|(key, value)| (key, to_proto_value(value))).collect() }
}

fn to_proto_value(value: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(on) => Kind::BoolValue(on),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(to_proto_value).collect() })
        }
        Value::Object(object) => Kind::StructValue(to_struct(object)),
    };
    prost_types::Value { kind: Some(kind) }
}
