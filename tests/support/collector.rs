//! An OTLP collector that keeps what it gets: gRPC and HTTP/protobuf on one port.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// A span and the resource it came from.
#[derive(Debug, Clone)]
pub struct Received {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Received {
    /// An attribute of the resource as text.
    pub fn resource(&self, key: &str) -> String {
        text(&self.resource, key).unwrap_or_default()
    }

    /// An attribute of the span as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    pub fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent(&self) -> String {
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

/// The collector. What it got is kept with the way it came: `grpc` or `http`, and the header `x-key`.
#[derive(Clone, Default)]
pub struct Collector {
    received: Arc<Mutex<Vec<Received>>>,
    ways: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Collector {
    /// Starts one and tells its URL.
    pub async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let over_http = collector.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let kind = headers.get("content-type").map(|kind| kind.as_bytes().to_vec());
            assert_eq!(kind.as_deref(), Some(&b"application/x-protobuf"[..]));
            let key = headers.get("x-key").map(|key| key.to_str().expect("text").to_owned());
            over_http.keep(
                "http",
                key.unwrap_or_default(),
                ExportTraceServiceRequest::decode(body).expect("a request"),
            );
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        let grpc = tonic::service::Routes::new(TraceServiceServer::new(collector.clone())).prepare();
        let router = Router::new().route("/v1/traces", post(take)).merge(grpc.into_axum_router().reset_fallback());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, url)
    }

    fn keep(&self, way: &'static str, key: String, request: ExportTraceServiceRequest) {
        self.ways.lock().expect("lock").push((way, key));
        for spans in request.resource_spans {
            let resource = spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let received = spans.map(|span| Received { resource: resource.clone(), span });
            self.received.lock().expect("lock").extend(received);
        }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Received> {
        self.received.lock().expect("lock").clone()
    }

    /// By which ways they came.
    pub fn ways(&self) -> Vec<(&'static str, String)> {
        self.ways.lock().expect("lock").clone()
    }

    /// Waits for this many spans of a trace.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<Received> {
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
        let key = request.metadata().get("x-key").map(|key| key.to_str().expect("text").to_owned());
        self.keep("grpc", key.unwrap_or_default(), request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
