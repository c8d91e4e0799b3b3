//! What the operator sees: logs on stderr, traces by OTLP, metrics for Prometheus. Never with the content of a text.
//!
//! | to find | look in |
//! |---|---|
//! | exporting spans, the `OTEL_*` variables | [`otlp`] |
//! | `traceparent`, `tracestate`, `baggage` | [`context`] |
//! | counters, the page for Prometheus | [`mod@metrics`] |
//!
//! A request's first span is at level info, so the log shows it around its events. The spans of its stages are at level
//! debug: where no traces are exported, and nobody asked for a debug log, making one is a comparison.

pub mod context;
pub mod metrics;
pub mod otlp;

use std::io::IsTerminal;
use std::sync::OnceLock;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Whether this process exports spans; decided once, before the first request.
static EXPORTS: OnceLock<bool> = OnceLock::new();

/// Whether spans are exported.
pub fn exports_traces() -> bool {
    EXPORTS.get().is_some_and(|&exports| exports)
}

/// Holds what must be ended in order: dropping it delivers the last spans, within [`otlp::LAST_WORDS`].
#[must_use = "dropping it ends the export of traces"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider {
            // A collector that does not answer was reported by the delivery already.
            let _ = provider.shutdown_with_timeout(otlp::LAST_WORDS);
        }
    }
}

/// Starts logging. `RUST_LOG` chooses what is logged; without it, `info` and up.
pub fn init_logs(format: LogFormat) {
    let (filter, warning) = filter();
    // A second call in one process (tests) keeps the first subscriber.
    let _ = Registry::default().with(log(format, filter)).try_init();
    warning.into_iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// Starts logging, and exporting traces if the `OTEL_*` variables ask for it. Must be called within tokio.
pub fn init(format: LogFormat) -> Telemetry {
    let (provider, warnings) = otlp::provider();
    let (filter, warning) = filter();
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("text2vec-sidecar"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Spans only: an event's text may quote what an upstream said about a text.
            .with_filter(
                filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("text2vec_sidecar"))
                    .with_max_level_hint(LevelFilter::DEBUG),
            )
    });
    let _ = EXPORTS.set(provider.is_some());
    let _ = Registry::default().with(traces).with(log(format, filter)).try_init();
    for warning in warnings.into_iter().chain(warning) {
        tracing::warn!("{warning}");
    }
    if provider.is_some() {
        tracing::info!("traces are exported");
    }
    Telemetry { provider }
}

/// What `RUST_LOG` chooses, and what is wrong with it.
fn filter() -> (EnvFilter, Option<String>) {
    let usual = || EnvFilter::new("info");
    match std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default() {
        unset if unset.is_empty() => (usual(), None),
        text => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => {
                let warning = format!(
                    "RUST_LOG is '{text}', which cannot be read ({error}): info and above is logged; write such as \
                     RUST_LOG=warn, or RUST_LOG=info,text2vec_sidecar=debug"
                );
                (usual(), Some(warning))
            }
        },
    }
}

/// The layer that writes log lines.
fn log<S>(format: LogFormat, filter: EnvFilter) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stderr().is_terminal() && !no_color;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
    .with_filter(filter)
}
