//! The API of text-embeddings-inference: `POST /embed`, `GET /info`, `GET /health`, also below `/models/<name>`.
//!
//! Errors have TEI's shape, `{"error": "…", "error_type": "Validation"}`, and its statuses. Without `prompt_name` a text
//! is embedded as it is; `query`, and `passage` or `document`, are the model's own prompts for a task. Without
//! `normalize: true` a vector is as the profile makes it, and without `truncate: false` a text that is too long is cut.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::plain::{Fields, embed, without_task};
use super::written::{Part, list, written};
use super::{Scoped, json_response, respond_with};
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::server::Service;

/// `POST /embed`.
pub async fn embeddings(Scoped(service): Scoped, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    match answer(&service, &headers, body).await {
        Ok(response) => response,
        Err(error) => error_response(&error),
    }
}

async fn answer(service: &Service, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response> {
    let mut fields = Fields::read(service, body)?;
    let texts = fields.texts("inputs")?;
    if texts.is_empty() {
        return Err(Error::invalid("'inputs' is an empty list: send a text"));
    }
    let request: fn(String) -> EmbedRequest = match fields.string("prompt_name")?.as_deref() {
        None => without_task,
        Some("query") => |text| EmbedRequest::query(text),
        Some("passage" | "document") => |text| EmbedRequest::passage(text),
        Some(other) => {
            return Err(Error::invalid(format!("no prompt is named '{other}': use query, passage or document")));
        }
    };
    if fields.string("truncation_direction")?.is_some_and(|direction| !direction.eq_ignore_ascii_case("right")) {
        return Err(Error::invalid("'truncation_direction' can only be right: a long text loses its end"));
    }
    let normalize = fields.boolean("normalize")?.unwrap_or(false);
    let may_cut = fields.boolean("truncate")?.unwrap_or(true);
    let dimensions = fields.dimensions()?;
    let mut embeddings = embed(service, headers, texts.into_iter().map(request).collect(), dimensions).await?;
    if let (false, Some(index)) = (may_cut, embeddings.iter().position(|embedding| embedding.truncated)) {
        let message = "is longer than the model's token limit, and 'truncate' is false: shorten it or let it be cut";
        return Err(Error::new(ErrorKind::TooLarge, format!("'inputs[{index}]' {message}")));
    }
    if normalize {
        embeddings = embeddings.iter().map(|embedding| embedding.shortened(embedding.vector.len())).collect();
    }
    Ok(written(list(embeddings.into_iter().map(|embedding| [Part::Vector(embedding.vector)]))))
}

/// `GET /info`. What TEI has and we do not is null.
pub async fn info(Scoped(service): Scoped) -> Response {
    let (backend, meta) = match (service.backend(), service.meta().await) {
        (Ok(backend), Ok(meta)) => (backend, meta),
        (Err(error), _) | (_, Err(error)) => return error_response(&error),
    };
    let about = |key: &str| meta.get("sidecar").and_then(|sidecar| sidecar.get(key)).cloned().unwrap_or_default();
    let precision = about("precision");
    let dtype = match precision.as_str() {
        Some("f32") => json!("float32"),
        Some("f16") => json!("float16"),
        Some("bf16") => json!("bfloat16"),
        _ => precision,
    };
    let body = json!({
        "model_id": backend.info().name,
        "model_sha": null,
        "model_dtype": dtype,
        "model_type": {"embedding": {"pooling": about("pooling")}},
        "max_concurrent_requests": service.limits.max_connections,
        "max_input_length": about("max_tokens"),
        "max_batch_tokens": about("max_waiting_tokens"),
        "max_batch_requests": null,
        "max_client_batch_size": service.limits.max_texts,
        "auto_truncate": true,
        "tokenization_workers": about("threads"),
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
    });
    json_response(StatusCode::OK, &body)
}

/// `GET /health`: 200 when ready.
pub async fn health(Scoped(service): Scoped) -> Response {
    match service.readiness.reason_for(service.model.as_deref()) {
        None => StatusCode::OK.into_response(),
        Some(reason) => error_response(&Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))),
    }
}

/// An error as TEI's clients expect it.
pub fn error_response(error: &Error) -> Response {
    let (kind, status) = match error.kind() {
        ErrorKind::InvalidArgument => ("Validation", StatusCode::UNPROCESSABLE_ENTITY),
        ErrorKind::Unauthenticated => ("Validation", StatusCode::UNAUTHORIZED),
        ErrorKind::TooLarge => ("Validation", StatusCode::PAYLOAD_TOO_LARGE),
        ErrorKind::Overloaded => ("Overloaded", StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable => ("Unhealthy", StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::DeadlineExceeded => ("Overloaded", StatusCode::GATEWAY_TIMEOUT),
        _ => ("Backend", StatusCode::FAILED_DEPENDENCY),
    };
    let mut response = respond_with(error, &json!({"error": error.message(), "error_type": kind}));
    *response.status_mut() = status;
    response
}
