//! What this process asked itself, because an upstream's URL leads back to it: said so, whatever the path.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::backend::remote::itself::{HEADER, Itself, STATUS};

/// Answers requests with the own mark instead of serving them.
pub(super) async fn refuse(State(itself): State<Itself>, request: Request, next: Next) -> Response {
    if request.headers().get(HEADER).is_none_or(|mark| mark.as_bytes() != itself.mark().as_bytes()) {
        return next.run(request).await;
    }
    let body =
        json!({"error": "this sidecar asks itself: an upstream's URL leads back to it", "origin": itself.mark()});
    let status = StatusCode::from_u16(STATUS).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
