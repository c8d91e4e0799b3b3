//! What calls have in common: how long their caller waits, and what streams answer.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Texts of one stream that are worked on at the same time; more wait in the connection's flow control. Answers come in the
/// order of the texts, though the interface promises less.
pub(super) const STREAM_IN_FLIGHT: usize = 64;

/// What a streaming method answers.
pub(super) type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Methods to which a caller sends a stream of messages.
const STREAMS: [&str; 4] = [
    "/text2vec.v1.Vectorizer/VectorizeStream",
    "/text2vec.v1.Module/VectorizeBatchStream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Whether the method of this path takes a stream of messages.
pub(in crate::server) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Runs a call no longer than its caller waits for it (`grpc-timeout`). What is given up costs nothing more.
pub(super) async fn within_deadline<T>(
    metadata: &MetadataMap,
    call: impl Future<Output = Result<T>>,
) -> Result<T, Status> {
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
