//! An attempt's trace context goes along with its request, so that the upstream's spans hang below ours.

use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::contract::call::TraceContext;
use crate::telemetry;

/// The trace context of an attempt, as headers; `trace` is what the call came with.
pub fn trace_headers(trace: Option<&TraceContext>) -> HeaderMap {
    let context = telemetry::context::outgoing(trace).into_iter();
    let header = |(name, value): (_, String)| Some((HeaderName::from_static(name), value.try_into().ok()?));
    context.filter_map(header).collect::<HeaderMap<HeaderValue>>()
}

/// The request of an attempt with its trace context.
pub fn traced(send: RequestBuilder, trace: Option<&TraceContext>) -> RequestBuilder {
    send.headers(trace_headers(trace))
}
