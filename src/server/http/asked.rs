//! What a request says beside its fields: how long its caller waits, and its body or why there is none.

use std::future::Future;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};

use crate::error::{Error, ErrorKind, Result};
use crate::server::service::Service;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics as counted;

/// Header by which a caller says how many seconds it waits; fractions are fine.
pub(in crate::server) const TIMEOUT_HEADER: &str = "x-request-timeout";

/// Runs a call no longer than its caller waits for it. What is given up costs nothing more.
pub(super) async fn within_deadline<T>(headers: &HeaderMap, call: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return call.await };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    let patience = seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| Error::invalid(format!("{TIMEOUT_HEADER} must be a number of seconds, got {value:?}")))?;
    tokio::time::timeout(patience, call).await.unwrap_or_else(|_| {
        counted().refused(Refusal::Deadline);
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("not done within the caller's deadline of {patience:?}")))
    })
}

/// The body, or why there is none.
pub(super) fn read_body(service: &Service, body: Result<Bytes, BytesRejection>) -> Result<Bytes> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return service.limits.body_too_large();
        }
        let causes = std::iter::successors(Some(&rejection as &dyn std::error::Error), |error| error.source());
        match causes.filter_map(|error| error.downcast_ref::<Error>()).next() {
            Some(ours) => ours.clone(),
            None => Error::invalid(format!("the body could not be read: {}", rejection.body_text())),
        }
    })
}
