//! Prometheus metrics. docs/observability.md lists them all.
//!
//! What is counted as it happens is counted in [`metrics`], of which there is one, as Prometheus scrapes processes. What a
//! queue or a cache knows by itself is asked for when a scrape comes ([`Source`]).
//!
//! Our own few atomics instead of a metrics crate: which series there are is known when this is compiled, so all are
//! there from the first scrape and counting is an atomic addition, without a registry to look into, a lock, or samples to
//! keep until somebody scrapes.

pub mod instrument;
pub mod labels;
pub mod page;
pub mod process;

use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use self::instrument::{Counter, Gauge, Histogram};
use self::labels::{Code, GRPC_CODES, HTTP_CODES, Priority, Refusal, Stage, Surface, UpstreamError};
use self::page::Page;
use self::process::Process;

/// Bounds for times: 100 µs, where a hit in the cache lies, to the 50 s after which Weaviate gives up.
#[rustfmt::skip]
const TIMES: &[u64] = &[
    100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000,
    1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 25_000_000_000, 50_000_000_000,
];

/// Bounds for texts in a forward pass.
const TEXTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256];

/// Bounds for tokens in a forward pass.
const TOKENS: &[u64] = &[8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// More codes than any surface has.
const CODES: usize = 20;

static METRICS: Metrics = Metrics::new();

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// See the module. Fields are named like their series.
#[derive(Debug)]
pub struct Metrics {
    requests: [[Counter; CODES]; Surface::ALL.len()],
    requests_in_flight: [Gauge; Surface::ALL.len()],
    request_duration: [Histogram; Surface::ALL.len()],
    stage_duration: [Histogram; Stage::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    upstream_errors: [Counter; UpstreamError::ALL.len()],
    /// Attempts made because an earlier one failed.
    pub upstream_retries: Counter,
    /// Texts that callers asked for.
    pub texts: Counter,
    /// Texts in a forward pass.
    pub batch_texts: Histogram,
    /// Tokens in a forward pass.
    pub batch_tokens: Histogram,
    /// Open connections.
    pub connections: Gauge,
    /// 1 while requests are served.
    pub ready: Gauge,
    /// 1 if a GPU was asked for that this build cannot use.
    pub cuda_unavailable: Gauge,
    /// Batches of spans that the collector did not take.
    pub trace_export_failures: Counter,
    sources: Mutex<Vec<Weak<dyn Source>>>,
}

/// Who knows something only when asked.
pub trait Source: Send + Sync {
    /// Adds what it knows.
    fn report(&self, to: &mut Report);
}

/// What the [`Source`]s know; where several know the same, it is their sum.
#[derive(Debug, Default)]
pub struct Report {
    /// By [`Priority`].
    pub queue: [Queue; 2],
    /// All caches.
    pub cache: CacheStats,
    /// Models computed here.
    pub models: Vec<Model>,
    /// Models that the operator's upstreams compute.
    pub upstreams: Vec<UpstreamModel>,
}

/// What waits.
#[derive(Debug, Default, Clone, Copy)]
pub struct Queue {
    /// Token sequences in the queue.
    pub sequences: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Calls that wait for room in it.
    pub at_the_door: u64,
}

/// What a cache has done and holds, or all of them. Counts are of texts since the start; `/meta` has the same names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct CacheStats {
    /// Answered from memory.
    pub hits: u64,
    /// Given to the backend behind.
    pub misses: u64,
    /// Joined to an equal text that was being computed, in the same call or another.
    pub coalesced: u64,
    /// Forgotten because room was needed or their time was over.
    pub evictions: u64,
    /// Vectors held.
    pub entries: u64,
    /// Bytes they occupy, never more than `max_bytes`.
    pub bytes: u64,
    /// The bound on `bytes`.
    pub max_bytes: u64,
}

/// A model and what it has computed.
#[derive(Debug, Default, Clone)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Profile it is served under.
    pub profile: &'static str,
    /// Length of its vectors.
    pub dimensions: Option<usize>,
    /// What computes it.
    pub device: String,
    /// Numbers of its weights.
    pub dtype: &'static str,
    /// Texts computed.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Texts that were cut.
    pub truncated_texts: u64,
    /// Texts that could not be computed.
    pub failed_texts: u64,
}

/// A model at an upstream, as far as it is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct UpstreamModel {
    /// Its name, else the upstream's URL.
    pub name: String,
    /// Profile it is served under there; empty where the upstream does not say.
    pub profile: String,
    /// Length of its vectors.
    pub dimensions: Option<usize>,
    /// Numbers of its weights; empty where the upstream does not say.
    pub dtype: String,
}

impl Report {
    /// Adds a model of an upstream; two sides of a pair may have the same.
    pub fn upstream(&mut self, model: UpstreamModel) {
        if !self.upstreams.contains(&model) {
            self.upstreams.push(model);
        }
    }

    /// Adds a model; one of the same name and settings is the same model to Prometheus.
    pub fn model(&mut self, model: Model) {
        let same = |known: &&mut Model| {
            (&known.name, known.profile, known.dimensions, known.dtype)
                == (&model.name, model.profile, model.dimensions, model.dtype)
        };
        match self.models.iter_mut().find(same) {
            None => self.models.push(model),
            Some(known) => {
                known.texts += model.texts;
                known.tokens += model.tokens;
                known.truncated_texts += model.truncated_texts;
                known.failed_texts += model.failed_texts;
            }
        }
    }
}

impl Metrics {
    const fn new() -> Metrics {
        Metrics {
            requests: [const { [const { Counter::new() }; CODES] }; Surface::ALL.len()],
            requests_in_flight: [const { Gauge::new() }; Surface::ALL.len()],
            request_duration: [const { Histogram::of_times(TIMES) }; Surface::ALL.len()],
            stage_duration: [const { Histogram::of_times(TIMES) }; Stage::ALL.len()],
            refused: [const { Counter::new() }; Refusal::ALL.len()],
            upstream_errors: [const { Counter::new() }; UpstreamError::ALL.len()],
            upstream_retries: Counter::new(),
            texts: Counter::new(),
            batch_texts: Histogram::of_numbers(TEXTS),
            batch_tokens: Histogram::of_numbers(TOKENS),
            connections: Gauge::new(),
            ready: Gauge::new(),
            cuda_unavailable: Gauge::new(),
            trace_export_failures: Counter::new(),
            sources: Mutex::new(Vec::new()),
        }
    }

    /// A request ended.
    pub fn request(&self, surface: Surface, code: Code, took: Duration) {
        self.requests[surface as usize][code.index()].inc();
        self.request_duration[surface as usize].time(took);
    }

    /// Requests under way.
    pub fn in_flight(&self, surface: Surface) -> &Gauge {
        &self.requests_in_flight[surface as usize]
    }

    /// A stage ended.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stage_duration[stage as usize].time(took);
    }

    /// A request, or a text of one, was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].inc();
    }

    /// An attempt at an upstream failed.
    pub fn upstream_error(&self, error: UpstreamError) {
        self.upstream_errors[error as usize].inc();
    }

    /// Asks this source from now on, for as long as it is there.
    pub fn ask(&self, source: Weak<dyn Source>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|source| source.strong_count() > 0);
        sources.push(source);
    }

    /// All metrics in Prometheus' text format.
    pub fn page(&self) -> String {
        // A source may be dropped here, and whatever it holds with it: not under the lock.
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report = Report::default();
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.report(&mut report);
        }
        let mut page = Page::default();
        self.requests_on(&mut page);
        self.work_on(&mut page, &report);
        cache_on(&mut page, &report.cache);
        models_on(&mut page, &report);
        self.process_on(&mut page);
        page.into_text()
    }

    fn requests_on(&self, page: &mut Page) {
        page.counters("t2v_requests_total", "Requests answered, by surface and HTTP status or gRPC code.");
        for &surface in Surface::ALL {
            let codes: Vec<&str> = match surface.is_grpc() {
                true => GRPC_CODES.to_vec(),
                false => HTTP_CODES.iter().map(|&(_, code)| code).collect(),
            };
            for (code, counter) in codes.into_iter().zip(&self.requests[surface as usize]) {
                page.sample(&[("surface", surface.as_str()), ("code", code)], counter.get());
            }
        }
        page.gauges("t2v_requests_in_flight", "Requests being answered.");
        for &surface in Surface::ALL {
            page.sample(&[("surface", surface.as_str())], self.requests_in_flight[surface as usize].get());
        }
        page.histograms("t2v_request_duration_seconds", "From a request's headers to the end of its answer.");
        for &surface in Surface::ALL {
            page.histogram(&[("surface", surface.as_str())], &self.request_duration[surface as usize].read());
        }
        page.counters("t2v_refused_requests_total", "Requests, or single texts, refused, by the limit they met.");
        for &refusal in Refusal::ALL {
            page.sample(&[("reason", refusal.as_str())], self.refused[refusal as usize].get());
        }
        page.gauge("t2v_connections", "Open connections.", self.connections.get() as f64);
    }

    fn work_on(&self, page: &mut Page, report: &Report) {
        page.counter("t2v_texts_total", "Texts that callers asked for.", self.texts.get());
        page.histograms("t2v_stage_duration_seconds", "Time by stage: docs/observability.md says what each is.");
        for &stage in Stage::ALL {
            page.histogram(&[("stage", stage.as_str())], &self.stage_duration[stage as usize].read());
        }
        page.histograms("t2v_batch_texts", "Texts in a forward pass.");
        page.histogram(&[], &self.batch_texts.read());
        page.histograms("t2v_batch_tokens", "Tokens in a forward pass.");
        page.histogram(&[], &self.batch_tokens.read());
        let mut queue = |name, help, number: fn(&Queue) -> u64| {
            page.gauges(name, help);
            for &priority in Priority::ALL {
                page.sample(&[("priority", priority.as_str())], number(&report.queue[priority as usize]));
            }
        };
        queue("t2v_queue_depth", "Token sequences waiting to be computed.", |queue| queue.sequences);
        queue("t2v_queue_tokens", "Tokens waiting to be computed.", |queue| queue.tokens);
        queue("t2v_queue_at_the_door", "Calls waiting for room in the queue.", |queue| queue.at_the_door);
        let truncated = report.models.iter().map(|model| model.truncated_texts).sum();
        page.counter("t2v_truncated_texts_total", "Texts cut at the model's token limit.", truncated);
        page.counters("t2v_upstream_errors_total", "Attempts at upstreams that brought no vectors.");
        for &error in UpstreamError::ALL {
            page.sample(&[("kind", error.as_str())], self.upstream_errors[error as usize].get());
        }
        let retries = self.upstream_retries.get();
        page.counter("t2v_upstream_retries_total", "Attempts at upstreams after a failed one.", retries);
    }

    fn process_on(&self, page: &mut Page) {
        page.gauges("t2v_build_info", "1, with what was built.");
        let build = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
        page.sample(&build, 1);
        page.gauge("t2v_ready", "1 when the server is ready.", self.ready.get() as f64);
        let help = "1 if ENABLE_CUDA asks for a GPU, which this build cannot use.";
        page.gauge("t2v_cuda_unavailable", help, self.cuda_unavailable.get() as f64);
        let failures = self.trace_export_failures.get();
        page.counter("t2v_trace_export_failures_total", "Batches of spans the collector did not take.", failures);
        let process = Process::now();
        if let Some(bytes) = process.resident_bytes {
            page.gauge("process_resident_memory_bytes", "Resident memory.", bytes);
        }
        if let Some(start) = process.start_seconds {
            page.gauge("process_start_time_seconds", "Start of the process since the Unix epoch.", start);
        }
        if let Some(seconds) = process.cpu_seconds {
            page.counters("process_cpu_seconds_total", "User and system CPU time.");
            page.sample(&[], seconds);
        }
    }
}

fn cache_on(page: &mut Page, cache: &CacheStats) {
    page.counter("t2v_cache_hits_total", "Texts answered from the cache.", cache.hits);
    page.counter("t2v_cache_misses_total", "Texts the cache did not have.", cache.misses);
    let help = "Texts joined to an equal one that was being computed.";
    page.counter("t2v_cache_coalesced_total", help, cache.coalesced);
    page.counter("t2v_cache_evictions_total", "Vectors forgotten for want of room or for age.", cache.evictions);
    page.gauge("t2v_cache_entries", "Vectors in the cache.", cache.entries as f64);
    page.gauge("t2v_cache_bytes", "Bytes the cache occupies.", cache.bytes as f64);
    page.gauge("t2v_cache_max_bytes", "Bytes the cache may occupy.", cache.max_bytes as f64);
}

fn models_on(page: &mut Page, Report { models, upstreams, .. }: &Report) {
    page.gauges("t2v_model_info", "1, with a model computed here or at an upstream.");
    let mut info = |model: &str, profile: &str, dimensions: Option<usize>, device: &str, dtype: &str| {
        let dimensions = dimensions.map(|dimensions| dimensions.to_string()).unwrap_or_default();
        let labels =
            [("model", model), ("profile", profile), ("dimensions", &dimensions), ("device", device), ("dtype", dtype)];
        page.sample(&labels, 1);
    };
    for model in models {
        info(&model.name, model.profile, model.dimensions, &model.device, model.dtype);
    }
    for model in upstreams {
        info(&model.name, &model.profile, model.dimensions, "upstream", &model.dtype);
    }
    let mut counters = |name, help, number: fn(&Model) -> u64| {
        page.counters(name, help);
        // Models that differ in other things than the name have the name's series together.
        let mut names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let sum: u64 = models.iter().filter(|model| model.name == name).map(number).sum();
            page.sample(&[("model", name)], sum);
        }
    };
    counters("t2v_model_texts_total", "Texts computed, by model.", |model| model.texts);
    counters("t2v_model_tokens_total", "Tokens computed, by model.", |model| model.tokens);
    counters("t2v_model_truncated_texts_total", "Texts cut, by model.", |model| model.truncated_texts);
    counters("t2v_model_failed_texts_total", "Texts that could not be computed, by model.", |model| model.failed_texts);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Two;

    impl Source for Two {
        fn report(&self, to: &mut Report) {
            to.queue[Priority::Query as usize].sequences += 3;
            to.cache.hits += 5;
            let model = Model {
                name: "a \"b\"".into(),
                profile: "onnx",
                dimensions: Some(7),
                device: "cpu".into(),
                dtype: "f32",
                ..Model::default()
            };
            to.model(Model { texts: 1, ..model.clone() });
            to.model(Model { texts: 2, ..model.clone() });
            to.model(Model { texts: 4, profile: "transformers", truncated_texts: 6, ..model });
        }
    }

    #[test]
    fn every_series_is_there_once_and_sources_are_asked_while_they_live() {
        let metrics = Metrics::new();
        let before = metrics.page();
        let source: Arc<dyn Source> = Arc::new(Two);
        metrics.ask(Arc::downgrade(&source));
        metrics.request(Surface::Module, Code::Grpc(3), Duration::from_millis(3));
        metrics.refused(Refusal::MaxTexts);
        let page = metrics.page();
        for line in [
            "t2v_queue_depth{priority=\"query\"} 3",
            "t2v_queue_depth{priority=\"passage\"} 0",
            "t2v_cache_hits_total 5",
            "t2v_model_info{model=\"a \\\"b\\\"\",profile=\"onnx\",dimensions=\"7\",device=\"cpu\",dtype=\"f32\"} 1",
            "t2v_model_texts_total{model=\"a \\\"b\\\"\"} 7",
            "t2v_truncated_texts_total 6",
            "t2v_requests_total{surface=\"module\",code=\"INVALID_ARGUMENT\"} 1",
            "t2v_request_duration_seconds_bucket{surface=\"module\",le=\"0.0025\"} 0",
            "t2v_request_duration_seconds_bucket{surface=\"module\",le=\"0.005\"} 1",
            "t2v_refused_requests_total{reason=\"max_texts\"} 1",
        ] {
            assert!(page.lines().any(|known| known == line), "{line} is not in:\n{page}");
        }
        let series = |page: &str| -> Vec<String> {
            page.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
        };
        let mut all = series(&page);
        assert!(series(&before).iter().all(|series| all.contains(series)), "a series went");
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a series twice");
        drop(source);
        assert!(metrics.page().contains("t2v_cache_hits_total 0"));
    }
}
