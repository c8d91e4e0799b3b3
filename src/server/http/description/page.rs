//! The document and the page that renders it, as they are sent: bytes that are there, under a policy that lets the
//! page fetch from this server alone.

use axum::body::Bytes;
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

/// The page runs its own script and style, and asks this server: nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn sent(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body.into()).into_response()
}

/// The document.
pub(in crate::server::http) fn json(document: Bytes) -> Response {
    sent("application/json", document)
}

/// `GET /docs`.
pub(in crate::server::http) async fn docs() -> Response {
    sent("text/html; charset=utf-8", Bytes::from_static(include_bytes!("page.html")))
}

/// `GET /docs/page.css`.
pub(in crate::server::http) async fn style() -> Response {
    sent("text/css; charset=utf-8", Bytes::from_static(include_bytes!("page.css")))
}

/// `GET /docs/page.js`.
pub(in crate::server::http) async fn script() -> Response {
    sent("text/javascript; charset=utf-8", Bytes::from_static(include_bytes!("page.js")))
}
