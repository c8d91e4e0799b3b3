//! W3C Trace Context and Baggage, in and out. `OTEL_PROPAGATORS` says which of the two; both by default.
//!
//! Where spans are exported, what goes out names our span as the parent. Where they are not, what came in is passed on as
//! it came, so that a trace goes through a sidecar that takes no part in it. Baggage is always passed on as it came.

use std::collections::HashMap;
use std::sync::OnceLock;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::contract::call::TraceContext;

/// Longest `traceparent` and `tracestate` that are read.
const MAX_TRACE: usize = 512;

/// Longest `baggage`: what the recommendation asks everyone to pass on.
const MAX_BAGGAGE: usize = 8192;

/// Which headers are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Propagators {
    trace: bool,
    baggage: bool,
}

impl Propagators {
    /// The ones of this process.
    fn chosen() -> Propagators {
        static CHOSEN: OnceLock<Propagators> = OnceLock::new();
        *CHOSEN.get_or_init(|| Propagators::read(std::env::var("OTEL_PROPAGATORS").ok().as_deref()).0)
    }

    /// The chosen ones, and those that we do not have.
    fn read(variable: Option<&str>) -> (Propagators, Vec<&str>) {
        let Some(names) = variable.filter(|names| !names.trim().is_empty()) else {
            return (Propagators { trace: true, baggage: true }, Vec::new());
        };
        let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let has = |name| names.contains(&name);
        let propagators = Propagators { trace: has("tracecontext"), baggage: has("baggage") };
        let unknown = names.iter().filter(|name| !["tracecontext", "baggage", "none"].contains(name)).copied();
        (propagators, unknown.collect())
    }
}

/// What `OTEL_PROPAGATORS` asks for that we do not have.
pub(super) fn unknown_propagators() -> Vec<String> {
    let variable = std::env::var("OTEL_PROPAGATORS").ok();
    Propagators::read(variable.as_deref()).1.into_iter().map(str::to_owned).collect()
}

/// The context a request brought, by its headers.
pub fn incoming<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<TraceContext> {
    let Propagators { trace, baggage } = Propagators::chosen();
    let read = |wanted: bool, name, longest| {
        header(name).filter(|text: &&str| wanted && text.len() <= longest).map(str::to_owned)
    };
    let traceparent = read(trace, "traceparent", MAX_TRACE);
    let context = TraceContext {
        // Without its parent it means nothing.
        tracestate: traceparent.as_ref().and_then(|_| read(trace, "tracestate", MAX_TRACE)),
        traceparent,
        baggage: read(baggage, "baggage", MAX_BAGGAGE),
    };
    (context != TraceContext::default()).then_some(context)
}

/// Makes a request's first span a part of the trace it came with, if it did, and writes the trace's id into the span's
/// field `trace_id`, for the log.
pub fn join(span: &Span, given: Option<&TraceContext>) {
    if super::exports_traces() {
        if let Some(given) = given {
            let headers = headers(given);
            let headers: HashMap<String, String> =
                headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
            // Fails for a span that is disabled, which has no parent to be told.
            let _ = span.set_parent(parent);
        }
        let context = span.context();
        let own = context.span().span_context().clone();
        if own.is_valid() {
            span.record("trace_id", tracing::field::display(own.trace_id()));
        }
    } else if let Some(id) = given.and_then(|given| trace_id(given.traceparent.as_deref()?)) {
        span.record("trace_id", id);
    }
}

/// The headers for a request to another server, made where the current span is the one that makes it. `given` is what the
/// request that caused it came with.
pub fn outgoing(given: Option<&TraceContext>) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if super::exports_traces() && Propagators::chosen().trace {
        let context = Span::current().context();
        let own = context.span().span_context().clone();
        if own.is_valid() {
            let flags = own.trace_flags().to_u8();
            out.push(("traceparent", format!("00-{}-{}-{flags:02x}", own.trace_id(), own.span_id())));
            let state = own.trace_state().header();
            if !state.is_empty() {
                out.push(("tracestate", state));
            }
        }
    }
    let is_ours = !out.is_empty();
    let passed_on = given.into_iter().flat_map(headers).filter(|&(name, _)| !is_ours || name == "baggage");
    out.extend(passed_on.map(|(name, value)| (name, value.to_owned())));
    out
}

fn headers(context: &TraceContext) -> impl Iterator<Item = (&'static str, &str)> {
    let TraceContext { traceparent, tracestate, baggage } = context;
    let header = |name, value: &'_ Option<String>| value.is_some().then_some(name);
    [
        (header("traceparent", traceparent), traceparent.as_deref()),
        (header("tracestate", tracestate), tracestate.as_deref()),
        (header("baggage", baggage), baggage.as_deref()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name?, value?)))
}

/// The trace's id, if it is one.
fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    let is_id =
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn headers_are_read_and_passed_on_as_they_came() {
        let read = |given: &'static [(&str, &str)]| {
            incoming(move |name| given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value))
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("tracestate", "a=b")]), None, "a state without a parent");
        let all = read(&[("traceparent", PARENT), ("tracestate", "a=b"), ("baggage", "user=1")]).expect("a context");
        let sent = outgoing(Some(&all));
        let expected = [("traceparent", PARENT), ("tracestate", "a=b"), ("baggage", "user=1")];
        assert_eq!(sent, expected.map(|(name, value)| (name, value.to_owned())));
        let alone = read(&[("baggage", "user=1")]).expect("a context");
        assert_eq!(outgoing(Some(&alone)), [("baggage", "user=1".to_owned())]);
        let long: &'static str = "x".repeat(MAX_TRACE + 1).leak();
        assert_eq!(incoming(|name| (name == "traceparent").then_some(long)), None);
        assert_eq!(outgoing(None), []);
    }

    #[test]
    fn propagators_are_chosen_by_name() {
        let read = |names| Propagators::read(names);
        let both = Propagators { trace: true, baggage: true };
        assert_eq!(read(None), (both, vec![]));
        assert_eq!(read(Some("")), (both, vec![]));
        assert_eq!(read(Some("tracecontext, baggage")), (both, vec![]));
        assert_eq!(read(Some("none")), (Propagators { trace: false, baggage: false }, vec![]));
        assert_eq!(read(Some("b3,baggage")), (Propagators { trace: false, baggage: true }, vec!["b3"]));
    }

    #[test]
    fn ids_are_told_from_other_things() {
        assert_eq!(trace_id(PARENT), Some("0af7651916cd43dd8448eb211c80319c"));
        for odd in ["", "00", "00-xyz-1-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "a secret text"]
        {
            assert_eq!(trace_id(odd), None, "{odd}");
        }
    }
}
