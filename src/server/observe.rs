//! One layer around every surface: counts a request and its time, and makes it a span of the trace that it came with.
//!
//! A gRPC answer is over when its body is: its code is in the trailers, and a stream does its work while it is being read.
//! So the body is read within the request's span and trace context as well.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::contract::call::TraceContext;
use crate::telemetry::metrics::instrument::Entered;
use crate::telemetry::metrics::labels::{Code, Surface};
use crate::telemetry::metrics::metrics;
use crate::telemetry::{context, exports_traces};

/// Where gRPC says how a call ended.
const GRPC_STATUS: &str = "grpc-status";

type Trace = Option<Arc<TraceContext>>;

tokio::task_local! {
    static CURRENT: Trace;
}

/// The trace context that the request being handled came with.
pub(super) fn current() -> Trace {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Whether a request speaks gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The layer.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let surface = Surface::of(request.uri().path(), grpc);
    let trace: Trace =
        context::incoming(|name| request.headers().get(name).and_then(|value| value.to_str().ok())).map(Arc::new);
    let span = match surface.is_traced() && (exports_traces() || trace.is_some() || tracing::enabled!(LEVEL)) {
        true => span(&request, surface, trace.as_deref()),
        false => Span::none(),
    };
    let mut observation = Observation::begin(surface, span.clone());
    let response = CURRENT.scope(trace.clone(), next.run(request)).instrument(span).await;
    if !grpc {
        observation.code = Some(Code::Http(response.status().as_u16()));
        return response;
    }
    observation.code = grpc_code(response.headers());
    response.map(|body| Body::new(Observed { body, trace, observation }))
}

/// A request that never comes as far as the layer.
pub(super) fn refused_early(headers: &HeaderMap, path: &str) {
    let grpc = is_grpc(headers);
    let code = if grpc { Code::Grpc(8) } else { Code::Http(429) };
    Observation::begin(Surface::of(path, grpc), Span::none()).code = Some(code);
}

/// The level at which a request is logged by itself, its span around the line.
const LEVEL: tracing::Level = tracing::Level::DEBUG;

fn span(request: &Request, surface: Surface, trace: Option<&TraceContext>) -> Span {
    let span = if surface.is_grpc() {
        let method = request.uri().path().trim_start_matches('/');
        // What nobody serves may be called anything.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_');
        let method = if method.len() <= 64 && method.chars().all(is_name) { method } else { surface.as_str() };
        tracing::info_span!(
            "request",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            trace_id = Empty,
            t2v.surface = surface.as_str(),
            rpc.system = "grpc",
            rpc.method = method,
            rpc.grpc.status_code = Empty,
        )
    } else {
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        // Other methods may be any word.
        let method = match *request.method() {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::HEAD => "HEAD",
            _ => "_OTHER",
        };
        let name = route.map_or(method.to_owned(), |route| format!("{method} {route}"));
        tracing::info_span!(
            "request",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            trace_id = Empty,
            t2v.surface = surface.as_str(),
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
        )
    };
    context::join(&span, trace);
    span
}

fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok().map(Code::Grpc)
}

/// A request until it is over; dropping it is its end.
struct Observation {
    surface: Surface,
    begun: Instant,
    /// `None`: the caller left before there was one.
    code: Option<Code>,
    span: Span,
    _in_flight: Entered,
}

impl Observation {
    fn begin(surface: Surface, span: Span) -> Observation {
        let in_flight = metrics().in_flight(surface).enter();
        Observation { surface, begun: Instant::now(), code: None, span, _in_flight: in_flight }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::left(self.surface.is_grpc()));
        let took = self.begun.elapsed();
        metrics().request(self.surface, code, took);
        if self.span.is_disabled() {
            return;
        }
        match code {
            Code::Http(status) => self.span.record("http.response.status_code", status),
            Code::Grpc(number) => self.span.record("rpc.grpc.status_code", number),
        };
        if code.is_failure() {
            self.span.record("otel.status_code", "ERROR");
        }
        let _entered = self.span.enter();
        tracing::event!(LEVEL, code = code.as_str(), milliseconds = took.as_secs_f64() * 1e3, "answered");
    }
}

/// The body of a gRPC answer.
struct Observed {
    body: Body,
    trace: Trace,
    observation: Observation,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Observed { body, trace, observation } = self.get_mut();
        let frame = {
            let _entered = observation.span.enter();
            CURRENT.sync_scope(trace.clone(), || Pin::new(body).poll_frame(context))
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            observation.code = grpc_code(trailers).or(observation.code);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
