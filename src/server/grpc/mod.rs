//! The gRPC surface `text2vec.v1`, with health and reflection.

mod module;
mod value;
mod vectorizer;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use futures_util::Stream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::{Service, health};
use crate::error::{Error, ErrorKind, Result};
use crate::proto;
use crate::proto::module_server::ModuleServer;
use crate::proto::vectorizer_server::VectorizerServer;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Texts of one stream that are worked on at the same time; more wait in the connection's flow control. Answers come in the
/// order of the texts, though the interface promises less.
const STREAM_IN_FLIGHT: usize = 64;

/// Methods to which a caller sends a stream of messages.
const STREAMS: [&str; 4] = [
    "/text2vec.v1.Vectorizer/VectorizeStream",
    "/text2vec.v1.Module/VectorizeBatchStream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Whether the method of this path takes a stream of messages.
pub(super) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Services that `grpc.health.v1` knows by name, beside `""`.
const SERVICES: &[&str] = &["text2vec.v1.Vectorizer", "text2vec.v1.Module"];

/// What a streaming method answers.
type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

/// Metadata of a failed call, what `reason` is to a text's error.
const REASON: &str = "t2v-reason";

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let meaning = error.kind().meaning();
        let mut status = Status::new(Code::from(meaning.grpc_code), error.message());
        status.metadata_mut().insert(REASON, MetadataValue::from_static(meaning.label));
        status
    }
}

impl From<Error> for proto::Error {
    fn from(error: Error) -> proto::Error {
        let meaning = error.kind().meaning();
        proto::Error { code: meaning.grpc_code, message: error.message().to_owned(), reason: meaning.label.to_owned() }
    }
}

/// Runs a call no longer than its caller waits for it (`grpc-timeout`). What is given up costs nothing more.
async fn within_deadline<T>(metadata: &MetadataMap, call: impl Future<Output = Result<T>>) -> Result<T, Status> {
    let Some(patience) = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?)) else {
        return Ok(call.await?);
    };
    let answer = tokio::time::timeout(patience, call).await.unwrap_or_else(|_| {
        metrics().refused(Refusal::Deadline);
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("not done within the caller's deadline of {patience:?}")))
    });
    Ok(answer?)
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("3S", Some(Duration::from_secs(3))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("3", None),
            ("-3S", None),
            ("3é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }
}
