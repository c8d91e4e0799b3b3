//! Errors in the shape of each surface, with the status of their kind.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind};

/// The body of an error, in the shape of a surface.
pub(super) trait ErrorBody: Serialize + ToSchema {
    /// The body that says this error.
    fn of(error: &Error) -> Self;

    /// The status of a kind of errors.
    fn status(kind: ErrorKind) -> StatusCode {
        StatusCode::from_u16(kind.meaning().http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What Weaviate shows to its user, and Ollama's clients to theirs.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlainError {
    /// What is wrong, and what to do.
    error: String,
    /// What the reference container says in this place, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<&'static str>,
}

/// As OpenAI's clients read it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenAiError {
    error: OpenAiFault,
}

/// What is wrong, in OpenAI's words.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenAiFault {
    /// What is wrong, and what to do.
    message: String,
    #[serde(rename = "type")]
    kind: OpenAiKind,
    /// The request's field at fault, or a place in its list, if it is one.
    #[schema(required)]
    param: Option<String>,
    #[schema(required)]
    code: Option<OpenAiCode>,
}

/// OpenAI's types of errors.
#[derive(Serialize, ToSchema)]
enum OpenAiKind {
    #[serde(rename = "invalid_request_error")]
    InvalidRequest,
    #[serde(rename = "permission_error")]
    Permission,
    #[serde(rename = "rate_limit_error")]
    RateLimit,
    #[serde(rename = "server_error")]
    Server,
}

/// OpenAI's codes of errors.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OpenAiCode {
    ModelNotFound,
    InvalidApiKey,
    RateLimitExceeded,
}

/// As Cohere's clients (`message`), Jina's (`detail`) and those of servers that are like OpenAI's (`error`) read it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RerankError {
    error: OpenAiFault,
    /// What is wrong, and what to do.
    message: String,
    /// The same.
    detail: String,
}

/// As the clients of text-embeddings-inference read it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeiError {
    /// What is wrong, and what to do.
    error: String,
    error_type: TeiKind,
}

/// Types of errors in text-embeddings-inference.
#[derive(Serialize, ToSchema)]
enum TeiKind {
    Validation,
    Overloaded,
    Unhealthy,
    Backend,
}

impl ErrorBody for PlainError {
    fn of(error: &Error) -> PlainError {
        PlainError { error: error.message().to_owned(), detail: None }
    }
}

impl PlainError {
    /// With the `detail` that the reference container has for it.
    pub(super) fn with_detail(error: impl Into<String>, detail: Option<&'static str>) -> PlainError {
        PlainError { error: error.into(), detail }
    }
}

impl ErrorBody for OpenAiError {
    fn of(error: &Error) -> OpenAiError {
        OpenAiError { error: OpenAiFault::of(error) }
    }
}

impl OpenAiFault {
    fn of(error: &Error) -> OpenAiFault {
        use {OpenAiCode as Code, OpenAiKind as Kind};
        let (kind, code) = match error.kind() {
            ErrorKind::InvalidArgument
            | ErrorKind::TooLarge
            | ErrorKind::SlowRequest
            | ErrorKind::UnsupportedCoding => (Kind::InvalidRequest, None),
            ErrorKind::NotFound => (Kind::InvalidRequest, Some(Code::ModelNotFound)),
            ErrorKind::Unauthenticated => (Kind::InvalidRequest, Some(Code::InvalidApiKey)),
            ErrorKind::PermissionDenied => (Kind::Permission, None),
            ErrorKind::Overloaded => (Kind::RateLimit, Some(Code::RateLimitExceeded)),
            _ => (Kind::Server, None),
        };
        // Weaviate reads `param` and `code` as texts, which null passes for.
        let param = error.parameter_name().map(str::to_owned);
        OpenAiFault { message: error.message().to_owned(), kind, param, code }
    }
}

impl ErrorBody for RerankError {
    fn of(error: &Error) -> RerankError {
        let (message, detail) = (error.message().to_owned(), error.message().to_owned());
        RerankError { error: OpenAiFault::of(error), message, detail }
    }
}

impl ErrorBody for TeiError {
    fn of(error: &Error) -> TeiError {
        TeiError { error: error.message().to_owned(), error_type: tei_meaning(error.kind()).0 }
    }

    fn status(kind: ErrorKind) -> StatusCode {
        tei_meaning(kind).1
    }
}

/// What text-embeddings-inference calls a kind of errors, and its status.
fn tei_meaning(kind: ErrorKind) -> (TeiKind, StatusCode) {
    match kind {
        ErrorKind::InvalidArgument => (TeiKind::Validation, StatusCode::UNPROCESSABLE_ENTITY),
        ErrorKind::NotFound => (TeiKind::Validation, StatusCode::NOT_FOUND),
        ErrorKind::Unauthenticated => (TeiKind::Validation, StatusCode::UNAUTHORIZED),
        ErrorKind::TooLarge => (TeiKind::Validation, StatusCode::PAYLOAD_TOO_LARGE),
        ErrorKind::SlowRequest => (TeiKind::Validation, StatusCode::REQUEST_TIMEOUT),
        ErrorKind::UnsupportedCoding => (TeiKind::Validation, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ErrorKind::Overloaded => (TeiKind::Overloaded, StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable => (TeiKind::Unhealthy, StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::DeadlineExceeded => (TeiKind::Overloaded, StatusCode::GATEWAY_TIMEOUT),
        _ => (TeiKind::Backend, StatusCode::FAILED_DEPENDENCY),
    }
}

/// An error in the shape of the surface that a path belongs to.
pub(in crate::server) fn error_response_at(path: &str, error: &Error) -> Response {
    match path.trim_end_matches('/') {
        "/embeddings" => openai_error(error),
        "/v1/rerank" | "/v2/rerank" => rerank_error(error),
        path if path.starts_with("/v1/") => openai_error(error),
        "" | "/embed" | "/tokenize" | "/decode" | "/info" | "/health" => tei_error(error),
        _ => error_response(error),
    }
}

/// An error as JSON with `error`, which is what Weaviate shows to its user.
pub(in crate::server) fn error_response(error: &Error) -> Response {
    refuse::<PlainError>(error)
}

/// An error as OpenAI's clients expect it.
pub(super) fn openai_error(error: &Error) -> Response {
    refuse::<OpenAiError>(error)
}

/// An error as Cohere's clients, Jina's and those of servers that are like OpenAI's expect it.
pub(super) fn rerank_error(error: &Error) -> Response {
    refuse::<RerankError>(error)
}

/// An error as TEI's clients expect it.
pub(super) fn tei_error(error: &Error) -> Response {
    refuse::<TeiError>(error)
}

/// An error in a surface's own words, with the status of its kind.
fn refuse<E: ErrorBody>(error: &Error) -> Response {
    respond_with(error.kind(), E::status(error.kind()), &E::of(error))
}

/// [`error_response`], with the `detail` the reference container has for it.
pub(super) fn error_response_with(error: &Error, detail: Option<&'static str>) -> Response {
    let body = PlainError::with_detail(error.message(), detail);
    respond_with(error.kind(), PlainError::status(error.kind()), &body)
}

fn respond_with(kind: ErrorKind, status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = json_response(status, body);
    if is_temporary(kind) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Whether the answer says in `Retry-After` when to try again.
pub(super) fn is_temporary(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
