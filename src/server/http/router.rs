//! Every path, and what is said about others.

use axum::extract::DefaultBodyLimit;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, extract};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::errors::{error_response_at, json_response};
use super::path::Scoped;
use super::{metrics, ollama, openai, page, path, rerank, t2v, tei};
use crate::error::{Error, ErrorKind};
use crate::server::health;
use crate::server::observe::is_grpc;
use crate::server::service::Service;

/// Every HTTP route, with those of the page for browsers if it is wanted.
pub(in crate::server) fn router(service: Service, with_page: bool) -> Router {
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
        ("/rerank", post(rerank::rerank)),
        ("/v1/rerank", post(rerank::rerank_v1)),
        ("/v2/rerank", post(rerank::rerank_v1)),
        ("/tokenize", post(tei::tokenize)),
        ("/decode", post(tei::decode)),
        ("/info", get_only(get(tei::info))),
        ("/health", get(tei::health)),
    ];
    for (path, route) in of_a_model {
        router = router.route(&format!("{path}/"), route.clone()).route(path, route);
    }
    let front = if with_page { get(page_or_welcome) } else { get(welcome) };
    for file in page::FILES.iter().filter(|_| with_page) {
        router = router.route(file.path, get(async |headers: HeaderMap| file.answer(&headers)));
    }
    // Their callers name the model in the body.
    router
        .route("/", front.post(tei::embeddings))
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

/// `GET /` where there is a page: a browser gets it, all others the text.
async fn page_or_welcome(scoped: Scoped, request: extract::Request) -> Response {
    let mut response = match page::is_asked_for(&request) {
        true => page::DOCUMENT.answer(request.headers()),
        false => welcome(scoped).await.into_response(),
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    response
}

/// `GET /`: what this is and where to look.
async fn welcome(Scoped(_): Scoped) -> impl IntoResponse {
    let text = format!("text2vec-sidecar {} is running: text in, vectors out.\n\n{PATHS}\n", env!("CARGO_PKG_VERSION"));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text)
}

/// What there is.
const PATHS: &str = "There are /vectors, /meta, /.well-known/live and /.well-known/ready; /embed, /tokenize, /decode, /info and \
                     /health; /v1/embeddings; /rerank, /v1/rerank and /v2/rerank; each of these also below /models/<name>; /v1/models; /api/embed, /api/tags, \
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
    let message = "this path takes another method: POST for texts (/vectors, /embed, /tokenize, /v1/embeddings, /rerank, /v1/rerank, /api/embed) and \
                   /api/show, GET for the others";
    json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": message, "detail": "Method Not Allowed"}))
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
