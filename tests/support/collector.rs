//! An OTLP collector that keeps what it gets: gRPC and HTTP/protobuf on one port.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

/// A span and the resource it came from.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Received {
    /// An attribute of the resource as text.
    pub(super) fn resource(&self, key: &str) -> String {
        text(&self.resource, key).unwrap_or_default()
    }

    /// An attribute of the span as text.
    pub(super) fn attribute(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    pub(super) fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(super) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(super) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let AnyValue { value } = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?;
    Some(match value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How spans came.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    /// `grpc` or `http`.
    pub protocol: &'static str,
    /// The header `x-key`.
    pub key: String,
    /// `gzip`, or nothing.
    pub encoding: String,
}

impl Way {
    fn of(protocol: &'static str, headers: &HeaderMap, encoding: &str) -> Way {
        let text = |name| headers.get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default();
        Way { protocol, key: text("x-key"), encoding: text(encoding) }
    }
}

/// The collector.
#[derive(Clone, Default)]
pub(super) struct Collector {
    received: Arc<Mutex<Vec<Received>>>,
    ways: Arc<Mutex<Vec<Way>>>,
}

impl Collector {
    /// Starts one and tells its URL.
    pub(super) async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let over_http = collector.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let kind = headers.get("content-type").map(|kind| kind.as_bytes().to_vec());
            assert_eq!(kind.as_deref(), Some(&b"application/x-protobuf"[..]));
            let way = Way::of("http", &headers, "content-encoding");
            let mut plain = Vec::new();
            match &*way.encoding {
                "gzip" => GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip"),
                _ => Read::read_to_end(&mut &*body, &mut plain).expect("bytes"),
            };
            over_http.keep(way, ExportTraceServiceRequest::decode(&*plain).expect("a request"));
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        let service = TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        let grpc = tonic::service::Routes::new(service).prepare();
        let router = Router::new().route("/v1/traces", post(take)).merge(grpc.into_axum_router().reset_fallback());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, url)
    }

    fn keep(&self, way: Way, request: ExportTraceServiceRequest) {
        self.ways.lock().expect("lock").push(way);
        for spans in request.resource_spans {
            let resource = spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let received = spans.map(|span| Received { resource: resource.clone(), span });
            self.received.lock().expect("lock").extend(received);
        }
    }

    /// All spans so far.
    pub(super) fn spans(&self) -> Vec<Received> {
        self.received.lock().expect("lock").clone()
    }

    /// By which ways they came.
    pub(super) fn ways(&self) -> Vec<Way> {
        self.ways.lock().expect("lock").clone()
    }

    /// Waits for this many spans of a trace.
    pub(super) async fn trace(&self, id: &str, count: usize) -> Vec<Received> {
        let begun = Instant::now();
        loop {
            let spans: Vec<Received> = self.spans().into_iter().filter(|span| span.trace_id() == id).collect();
            if spans.len() >= count {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| &span.span.name).collect();
            assert!(begun.elapsed() < Duration::from_secs(20), "{} of {count} spans came: {names:?}", names.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.keep(Way::of("grpc", &metadata.into_headers(), "grpc-encoding"), message);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
