//! The trace a request is part of: read from its headers once, for every surface, and given to what it embeds.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use crate::contract::request::TraceContext;

/// Longest header that is passed on.
const MAX_LENGTH: usize = 512;

tokio::task_local! {
    static CURRENT: Option<Arc<TraceContext>>;
}

/// Runs a request with its trace context at hand. The streams of gRPC go on after their handler and have none.
pub(super) async fn keep(request: Request, next: Next) -> Response {
    match read(request.headers()) {
        None => next.run(request).await,
        trace => CURRENT.scope(trace, next.run(request)).await,
    }
}

/// The trace context of the request that is being handled.
pub(super) fn current() -> Option<Arc<TraceContext>> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

fn read(headers: &HeaderMap) -> Option<Arc<TraceContext>> {
    let text = |name| headers.get(name)?.to_str().ok().filter(|text| text.len() <= MAX_LENGTH).map(str::to_owned);
    Some(Arc::new(TraceContext { traceparent: text("traceparent")?, tracestate: text("tracestate") }))
}
