//! An attempt's trace context goes along with its request, so that the upstream's spans hang below ours.

use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::contract::request::EmbedRequest;
use crate::telemetry;

/// The trace context of an attempt, as headers.
pub fn trace_headers(request: &EmbedRequest) -> HeaderMap {
    let context = telemetry::context::outgoing(request.trace.as_deref()).into_iter();
    let header = |(name, value): (_, String)| Some((HeaderName::from_static(name), value.try_into().ok()?));
    context.filter_map(header).collect::<HeaderMap<HeaderValue>>()
}

/// The request of an attempt with its trace context.
pub fn traced(send: RequestBuilder, request: &EmbedRequest) -> RequestBuilder {
    send.headers(trace_headers(request))
}
