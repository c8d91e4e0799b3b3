//! Spans to an OTLP collector, as the standard `OTEL_*` variables say. Off unless they name an endpoint.
//!
//! A collector that cannot be reached costs nobody anything: spans wait in a bounded queue, what does not fit is dropped,
//! a failing delivery is logged once and counted, and the end of the process waits no longer than [`LAST_WORDS`].

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter as Otlp, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    Config, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample, SpanData, SpanExporter,
};
use tokio::runtime::Handle;

use super::context;
use super::metrics::metrics;

/// How long the end of the process waits for the last spans to be delivered.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a delivery may take where no variable says so.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What gRPC can write is less than what a variable can hold.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Name of the service where no variable gives one.
const SERVICE_NAME: &str = "text2vec-sidecar";

/// The samplers there are.
const SAMPLERS: &[&str] = &[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What the variables ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    endpoint: Option<String>,
    grpc: bool,
    /// For one delivery over HTTP; the exporter over gRPC reads it by itself.
    timeout: Duration,
    /// What is asked for and cannot be done, with what is done instead.
    warnings: Vec<String>,
}

impl Settings {
    fn read(get: impl Fn(&str) -> Option<String>) -> Settings {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| Some((name.to_owned(), get(name)?)));
        let timeout = first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]);
        let timeout =
            timeout.and_then(|(_, timeout)| timeout.trim().parse().ok()).map_or(TIMEOUT, Duration::from_millis);
        let timeout = timeout.min(LONGEST_TIMEOUT);
        let mut settings = Settings { endpoint: None, grpc: false, timeout, warnings: Vec::new() };
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return settings;
        }
        let mut warn = |text: String| settings.warnings.push(text);
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return settings,
            Some(other) => {
                warn(format!("OTEL_TRACES_EXPORTER is {other}, and there is otlp and none: no traces are exported"));
                return settings;
            }
        }
        let endpoint = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
        let Some((_, endpoint)) = endpoint else { return settings };
        if let Some(sampler) = get("OTEL_TRACES_SAMPLER") {
            let ratio = get("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.trim().parse::<f64>().ok());
            if !SAMPLERS.contains(&&*sampler) {
                let known = SAMPLERS.join(", ");
                warn(format!("OTEL_TRACES_SAMPLER is {sampler}, and there is {known}: taking parentbased_always_on"));
            } else if sampler.ends_with("traceidratio") && !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
                warn(format!("OTEL_TRACES_SAMPLER is {sampler}: set OTEL_TRACES_SAMPLER_ARG to a number from 0 to 1"));
            }
        }
        let compression = first(["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"]);
        let is_known = |name: &str| ["gzip", "none"].iter().any(|known| name.eq_ignore_ascii_case(known));
        if let Some((name, compression)) = compression.filter(|(_, compression)| !is_known(compression)) {
            warn(format!("{name} is {compression}, and there is gzip and none: set one of them"));
        }
        let protocol = first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        let grpc = match protocol.as_ref().map(|(name, protocol)| (name, protocol.as_str())) {
            Some((_, "grpc")) => true,
            Some((_, "http/protobuf")) => false,
            None => {
                if endpoint.trim_end_matches('/').ends_with(":4317") {
                    warn(format!(
                        "traces go to {endpoint} by http/protobuf, but 4317 is usually the port for grpc: if so, set \
                         OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
                    ));
                }
                false
            }
            Some((name, other)) => {
                warn(format!("{name} is {other}, and there is grpc and http/protobuf: taking http/protobuf"));
                false
            }
        };
        Settings { endpoint: Some(endpoint), grpc, ..settings }
    }
}

/// The provider of spans, if they are to be exported; and warnings to be logged once there is a log. Must be called within
/// tokio, which is what delivers.
pub fn provider() -> (Option<SdkTracerProvider>, Vec<String>) {
    let Settings { endpoint, grpc, timeout, mut warnings } = Settings::read(|name| std::env::var(name).ok());
    let unknown = context::unknown_propagators();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        warnings.push(format!("OTEL_PROPAGATORS names {unknown}, and there are tracecontext, baggage and none"));
    }
    let Some(endpoint) = endpoint else { return (None, warnings) };
    let exporter = match grpc {
        true => over_grpc(&endpoint),
        false => over_http(&endpoint, timeout),
    };
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            warnings.push(format!("no traces are exported to {endpoint}: {error}"));
            return (None, warnings);
        }
    };
    let delivery = Delivery { otlp: Arc::new(exporter), runtime: Handle::current(), failing: AtomicBool::new(false) };
    // Sampler, limits and batches are read from the variables by the SDK; so is the service's name, if it is there.
    let sampler = OfRequests(Config::default().sampler);
    let builder = SdkTracerProvider::builder().with_sampler(sampler).with_resource(resource());
    let provider = builder.with_batch_exporter(delivery).build();
    (Some(provider), warnings)
}

// Endpoint, headers and compression are read from the variables by the exporters. Certificates are the system's, which an image may not
// have, so they are looked for only where the endpoint needs them.

fn over_grpc(endpoint: &str) -> Result<Otlp, String> {
    let mut builder = Otlp::builder().with_tonic();
    if !is_plain(endpoint) {
        builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    builder.build().map_err(|error| error.to_string())
}

fn over_http(endpoint: &str, timeout: Duration) -> Result<Otlp, String> {
    let mut client = reqwest::Client::builder().timeout(timeout);
    if is_plain(endpoint) {
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(|error| match error.source() {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    })?;
    Otlp::builder().with_http().with_http_client(client).build().map_err(|error| error.to_string())
}

fn is_plain(endpoint: &str) -> bool {
    endpoint.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
}

fn resource() -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&"service.name".into()).map(|name| name.to_string()).unwrap_or_default();
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match name.starts_with("unknown_service") {
        true => builder.with_service_name(SERVICE_NAME).build(),
        false => builder.build(),
    }
}

/// The sampler that the variables ask for, for requests and what they cause: what the sidecar does of itself, such as
/// warming up, begins no trace.
#[derive(Debug, Clone)]
struct OfRequests(Box<dyn ShouldSample>);

impl ShouldSample for OfRequests {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|parent| parent.span().span_context().is_valid());
        if has_parent || *kind == SpanKind::Server {
            return self.0.should_sample(parent, trace, name, kind, attributes, links);
        }
        let decision = SamplingDecision::Drop;
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::NONE }
    }
}

/// The exporter, run by tokio: the SDK's own thread has nothing that drives connections and timers.
#[derive(Debug)]
struct Delivery {
    otlp: Arc<Otlp>,
    runtime: Handle,
    failing: AtomicBool,
}

impl SpanExporter for Delivery {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let otlp = self.otlp.clone();
        let delivered = self.runtime.spawn(async move { otlp.export(batch).await }).await;
        let delivered = delivered.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        match &delivered {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("traces are delivered again");
                }
            }
            Err(error) => {
                metrics().trace_export_failures.inc();
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!("traces cannot be delivered and are dropped (said once until it changes): {error}");
                }
            }
        }
        delivered
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nobody else has it yet: this is called before the first export.
        if let Some(otlp) = Arc::get_mut(&mut self.otlp) {
            otlp.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        Settings::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_named() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(read(&[]).endpoint, None);
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).endpoint, None);
        assert_eq!(read(&[ENDPOINT]).endpoint.as_deref(), Some("http://collector:4318"));
        assert_eq!(
            read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x/y")]).endpoint.as_deref(),
            Some("http://x/y")
        );
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            let settings = read(&[ENDPOINT, off]);
            assert_eq!((settings.endpoint, settings.warnings.len()), (None, 0), "{off:?}");
        }
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "1")]).endpoint.as_deref(), Some("http://collector:4318"));
        for (sampler, ratio, warnings) in [
            ("always_off", "", 0),
            ("parentbased_traceidratio", "0.25", 0),
            ("traceidratio", "", 1),
            ("traceidratio", "25%", 1),
            ("xray", "", 1),
        ] {
            let settings = read(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
            assert_eq!(settings.warnings.len(), warnings, "{sampler} {ratio}");
        }
        for (compression, warnings) in [("gzip", 0), ("none", 0), ("zstd", 1), ("yes", 1)] {
            let settings = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_COMPRESSION", compression)]);
            assert_eq!((settings.endpoint.is_some(), settings.warnings.len()), (true, warnings), "{compression}");
        }
        assert_eq!(read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "250")]).timeout, Duration::from_millis(250));
        let odd = read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert_eq!((odd.endpoint, odd.warnings.len()), (None, 1));
    }

    /// Where there are no certificates at all, as in a bare image.
    #[tokio::test]
    async fn a_plain_endpoint_needs_no_certificates() {
        assert!(is_plain("http://collector:4318") && is_plain("HTTP://c"));
        assert!(!is_plain("https://collector:4318") && !is_plain("collector:4317"));
        over_http("http://127.0.0.1:4318", TIMEOUT).expect("an exporter");
        over_grpc("http://127.0.0.1:4317").expect("an exporter");
    }

    #[test]
    fn the_protocol_is_http_unless_grpc_is_said() {
        let with = |endpoint, protocol| {
            let settings =
                read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
            (settings.grpc, settings.warnings.len())
        };
        assert_eq!(with("http://c:4317", "grpc"), (true, 0));
        assert_eq!(with("http://c:4318", "http/protobuf"), (false, 0));
        assert_eq!(with("http://c:4318", ""), (false, 0));
        assert_eq!(with("http://c:4317/", ""), (false, 1), "the port for grpc");
        assert_eq!(with("http://c:4318", "http/json"), (false, 1));
        let own = [("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
        let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")];
        assert!(read(&[&own[..], &endpoint].concat()).grpc, "the one for traces goes first");
    }
}
