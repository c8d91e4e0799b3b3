//! Errors in the shape of each surface, with the status of their kind.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};

/// An error as JSON with `error`, which is what Weaviate shows to its user.
pub(in crate::server) fn error_response(error: &Error) -> Response {
    error_response_with(error, None)
}

/// An error in the shape of the surface that a path belongs to.
pub(in crate::server) fn error_response_at(path: &str, error: &Error) -> Response {
    match path.trim_end_matches('/') {
        "/embeddings" => openai_error(error),
        "/v1/rerank" | "/v2/rerank" => rerank_error(error),
        path if path.starts_with("/v1/") => openai_error(error),
        "" | "/embed" | "/tokenize" | "/decode" => tei_error(error),
        _ => error_response(error),
    }
}

/// [`error_response`], with the `detail` the reference container has for it.
pub(super) fn error_response_with(error: &Error, detail: Option<Value>) -> Response {
    let mut body = json!({"error": error.message()});
    if let (Some(detail), Some(object)) = (detail, body.as_object_mut()) {
        object.insert("detail".into(), detail);
    }
    respond_with(error, &body)
}

/// An error in a surface's own words, with the status of its kind.
pub(super) fn respond_with(error: &Error, body: &Value) -> Response {
    let meaning = error.kind().meaning();
    let status = StatusCode::from_u16(meaning.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body);
    if matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Unavailable) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(super) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!("an answer could not be written as JSON: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// An error as OpenAI's clients expect it.
pub(super) fn openai_error(error: &Error) -> Response {
    respond_with(error, &openai_body(error))
}

fn openai_body(error: &Error) -> Value {
    let (kind, code) = match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::TooLarge | ErrorKind::UnsupportedCoding => {
            ("invalid_request_error", None)
        }
        ErrorKind::NotFound => ("invalid_request_error", Some("model_not_found")),
        ErrorKind::Unauthenticated => ("invalid_request_error", Some("invalid_api_key")),
        ErrorKind::PermissionDenied => ("permission_error", None),
        ErrorKind::Overloaded => ("rate_limit_error", Some("rate_limit_exceeded")),
        _ => ("server_error", None),
    };
    // Weaviate reads `param` and `code` as texts, which null passes for.
    let param = error.parameter_name();
    json!({"error": {"message": error.message(), "type": kind, "param": param, "code": code}})
}

/// An error as Cohere's clients (`message`), Jina's (`detail`) and those of servers that are like OpenAI's expect it.
pub(super) fn rerank_error(error: &Error) -> Response {
    let mut body = openai_body(error);
    if let Some(object) = body.as_object_mut() {
        object.insert("message".into(), error.message().into());
        object.insert("detail".into(), error.message().into());
    }
    respond_with(error, &body)
}

/// An error as TEI's clients expect it.
pub(super) fn tei_error(error: &Error) -> Response {
    let (kind, status) = match error.kind() {
        ErrorKind::InvalidArgument => ("Validation", StatusCode::UNPROCESSABLE_ENTITY),
        ErrorKind::NotFound => ("Validation", StatusCode::NOT_FOUND),
        ErrorKind::Unauthenticated => ("Validation", StatusCode::UNAUTHORIZED),
        ErrorKind::TooLarge => ("Validation", StatusCode::PAYLOAD_TOO_LARGE),
        ErrorKind::UnsupportedCoding => ("Validation", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ErrorKind::Overloaded => ("Overloaded", StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable => ("Unhealthy", StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::DeadlineExceeded => ("Overloaded", StatusCode::GATEWAY_TIMEOUT),
        _ => ("Backend", StatusCode::FAILED_DEPENDENCY),
    };
    let mut response = respond_with(error, &json!({"error": error.message(), "error_type": kind}));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text may begin with a quotation of anything, such as what a model or another server says.
    #[tokio::test]
    async fn openai_s_param_is_what_the_error_notes() {
        for (error, param) in [
            (Error::invalid("'café' is no word of mine"), Value::Null),
            (Error::invalid("'input' is missing").parameter("input"), json!("input")),
            (Error::invalid("no such length").parameter("dimensions").context("text 1"), json!("dimensions")),
            (Error::new(ErrorKind::Upstream, "'x'"), Value::Null),
        ] {
            let body = axum::body::to_bytes(openai_error(&error).into_body(), 1000).await.expect("a body");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((&body["error"]["param"], &body["error"]["message"]), (&param, &json!(error.message())));
        }
    }
}
