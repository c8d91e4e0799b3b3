//! Who may ask: one layer for HTTP and gRPC. Health, the description of the API and, unless told otherwise, `/metrics` are open to
//! all; so are the files of the page for browsers, which hold no secret: what the page shows it asks for with the reader's
//! token. Everything else shows what [`Access`] asks for.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::Response;

use super::access::Access;
use super::health::is_probe;
use super::http::description::is_open;
use super::http::errors::error_response_at;
use super::http::page;
use super::observe::is_grpc;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Whether nothing need be shown for this.
fn is_open_to_all(access: &Access, request: &Request) -> bool {
    let path = request.uri().path();
    let is_open_path =
        is_probe(path) || is_open(path) || (!access.guards_metrics() && path.trim_end_matches('/') == "/metrics");
    is_open_path || (access.has_page() && page::is_asked_for(request))
}

/// Lets a request through or answers it, in the shape of the surface it was meant for.
pub(super) async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    // Whoever shows headers after this does not show this one.
    for value in request.headers_mut().iter_mut().filter(|(name, _)| *name == AUTHORIZATION).map(|(_, value)| value) {
        value.set_sensitive(true);
    }
    if is_open_to_all(&access, &request) {
        return next.run(request).await;
    }
    let Err(error) = access.check(&request) else { return next.run(request).await };
    let may_try_a_token = access.wants_a_token(&request);
    metrics().refused(Refusal::Credentials);
    let path = request.uri().path();
    tracing::debug!(path, "refused: {error}");
    if is_grpc(request.headers()) {
        return tonic::Status::from(error).into_http();
    }
    let mut response = error_response_at(path, &error);
    if may_try_a_token {
        for challenge in ["Bearer realm=\"text2vec-sidecar\"", "Basic realm=\"text2vec-sidecar\", charset=\"UTF-8\""] {
            response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
    }
    response
}
