//! The HTTP surfaces, one file each, and what they share: error answers and the paths around them.

mod json;
mod metrics;
mod ollama;
mod openai;
mod path;
mod plain;
mod t2v;
mod tei;
mod written;

use std::future::Future;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, extract};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};

pub(super) use self::path::{Scoped, routed};
use super::observe::is_grpc;
use super::{Service, health};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics as counted;

/// Every HTTP route.
pub(super) fn router(service: Service) -> Router {
    let max_body_bytes = service.limits.max_body_bytes;
    let mut router = Router::new();
    // Each also below /models/<name>, which makes that a base URL like any container's.
    let of_a_model: [(&str, MethodRouter<Service>); path::OF_A_MODEL.len()] = [
        ("/.well-known/live", get_only(get(health::live))),
        ("/.well-known/ready", get_only(get(health::ready))),
        ("/meta", get_only(get(t2v::meta))),
        ("/vectors", post(t2v::vectors)),
        ("/v1/embeddings", post(openai::embeddings)),
        ("/embeddings", post(openai::embeddings)),
        ("/embed", post(tei::embeddings)),
        ("/tokenize", post(tei::tokenize)),
        ("/decode", post(tei::decode)),
        ("/info", get_only(get(tei::info))),
        ("/health", get(tei::health)),
    ];
    for (path, route) in of_a_model {
        router = router.route(&format!("{path}/"), route.clone()).route(path, route);
    }
    // Their callers name the model in the body.
    router
        .route("/", get(welcome).post(tei::embeddings))
        .route("/metrics", get_only(get(metrics::metrics)))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*model}", get(openai::model))
        .route("/api/embed", post(ollama::embed_many))
        .route("/api/embeddings", post(ollama::embed_one))
        .route("/api/show", post(ollama::show))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::running))
        .route("/api/version", get(ollama::version))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(from_fn(readable_path))
        .with_state(service)
}

/// Refuses a path that is no text once its `%` are read: whoever looks for a name in it would say so in its own way.
async fn readable_path(request: extract::Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_text(path) {
        return next.run(request).await;
    }
    let message = format!("the path {path} is not UTF-8 text once its % are read: encode names as UTF-8");
    error_response_at(path, &Error::invalid(message))
}

/// Whether a path is UTF-8 with its escapes read. What is no escape stands for itself.
fn is_text(path: &str) -> bool {
    percent_decode_str(path).decode_utf8().is_ok()
}

/// The reference container answers HEAD with 405; axum would answer it like GET.
fn get_only(route: MethodRouter<Service>) -> MethodRouter<Service> {
    route.head(method_not_allowed)
}

/// `GET /`: what this is and where to look, for whoever opens it in a browser.
async fn welcome(Scoped(_): Scoped) -> impl IntoResponse {
    let text = format!("text2vec-sidecar {} is running: text in, vectors out.\n\n{PATHS}\n", env!("CARGO_PKG_VERSION"));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text)
}

/// Header by which a caller says how many seconds it waits; fractions are fine.
pub(super) const TIMEOUT_HEADER: &str = "x-request-timeout";

/// Runs a call no longer than its caller waits for it. What is given up costs nothing more.
async fn within_deadline<T>(headers: &HeaderMap, call: impl Future<Output = Result<T>>) -> Result<T> {
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
fn read_body(service: &Service, body: Result<Bytes, BytesRejection>) -> Result<Bytes> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            counted().refused(Refusal::MaxBodyBytes);
            let limit = service.limits.max_body_bytes;
            let message = format!("the body is larger than {limit} bytes: send less at once or raise --max-body-bytes");
            return Error::new(ErrorKind::TooLarge, message);
        }
        let causes = std::iter::successors(Some(&rejection as &dyn std::error::Error), |error| error.source());
        match causes.filter_map(|error| error.downcast_ref::<Error>()).next() {
            Some(ours) => ours.clone(),
            None => Error::invalid(format!("the body could not be read: {}", rejection.body_text())),
        }
    })
}

/// What there is.
const PATHS: &str = "There are /vectors, /meta, /.well-known/live and /.well-known/ready; /embed, /tokenize, /decode, /info and \
                     /health; /v1/embeddings, each of these also below /models/<name>; /v1/models; /api/embed, /api/tags, \
                     /api/ps, /api/show and /api/version; /metrics; gRPC on the same port";

async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    // The port is shared: a gRPC client asking for an unknown service wants a gRPC status.
    if is_grpc(&headers) {
        return tonic::Status::unimplemented(format!("no such gRPC method: {}", uri.path())).into_http();
    }
    let message = format!("no such path: {}. {PATHS}", uri.path());
    if uri.path().starts_with("/v1/") {
        return error_response_at(uri.path(), &Error::new(ErrorKind::NotFound, message));
    }
    json_response(StatusCode::NOT_FOUND, &json!({"error": message, "detail": "Not Found"}))
}

async fn method_not_allowed() -> Response {
    let message = "this path takes another method: POST for texts (/vectors, /embed, /tokenize, /v1/embeddings, /api/embed) and \
                   /api/show, GET for the others";
    json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": message, "detail": "Method Not Allowed"}))
}

/// An error as JSON with `error`, which is what Weaviate shows to its user.
pub(super) fn error_response(error: &Error) -> Response {
    error_response_with(error, None)
}

/// An error in the shape of the surface that a path belongs to.
pub(super) fn error_response_at(path: &str, error: &Error) -> Response {
    match path.trim_end_matches('/') {
        "/embeddings" => openai::error_response(error),
        path if path.starts_with("/v1/") => openai::error_response(error),
        "" | "/embed" | "/tokenize" | "/decode" => tei::error_response(error),
        _ => error_response(error),
    }
}

/// [`error_response`], with the `detail` the reference container has for it.
fn error_response_with(error: &Error, detail: Option<Value>) -> Response {
    let mut body = json!({"error": error.message()});
    if let (Some(detail), Some(object)) = (detail, body.as_object_mut()) {
        object.insert("detail".into(), detail);
    }
    respond_with(error, &body)
}

/// An error in a surface's own words, with the status of its kind.
fn respond_with(error: &Error, body: &Value) -> Response {
    let meaning = error.kind().meaning();
    let status = StatusCode::from_u16(meaning.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body);
    if matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Unavailable) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
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
    use super::*;

    #[test]
    fn a_path_is_text_or_not() {
        for path in ["/", "/a%20b", "/%c3%A4", "/%", "/%f", "/%zz", "/a%2Fb"] {
            assert!(is_text(path), "{path}");
        }
        for path in ["/%ff%fe", "/models/%ff/meta", "/%c3", "/%80"] {
            assert!(!is_text(path), "{path}");
        }
    }
}
