//! `GET /metrics`, for Prometheus.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::telemetry::metrics::{metrics as all, page};

/// Every metric of this process.
pub(super) async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, page::CONTENT_TYPE)], all().page())
}
