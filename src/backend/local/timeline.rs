//! A call on its way through the queue and the forward passes: how long it waited, and a span for each of the two where
//! its trace is recorded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing::Span;
use tracing::field::Empty;

use super::batcher::Class;
use crate::telemetry::metrics::labels::Stage;
use crate::telemetry::metrics::metrics;

/// See the module.
pub(super) struct Timeline {
    /// What the call is a part of.
    parent: Span,
    texts: usize,
    class: Class,
    /// Since it first asked for its turn.
    queued: OnceLock<Queued>,
    /// Whether something of it was dispatched.
    dispatched: AtomicBool,
}

struct Queued {
    since: Instant,
    /// Only where spans are wanted.
    spans: Option<Spans>,
}

struct Spans {
    /// `queue`, then `forward`, then nothing.
    stage: Mutex<Option<Span>>,
    /// The last forward pass that had something of the call, by its number.
    last_pass: AtomicU64,
    passes: AtomicU64,
    pass_texts: AtomicU64,
    pass_tokens: AtomicU64,
}

impl Timeline {
    /// A call of so many texts.
    pub(super) fn new(texts: usize, class: Class) -> Timeline {
        let (queued, dispatched) = (OnceLock::new(), AtomicBool::new(false));
        Timeline { parent: Span::current(), texts, class, queued, dispatched }
    }

    /// It asks for its turn now.
    pub(super) fn ask(&self) {
        self.queued.get_or_init(|| {
            let queue = tracing::debug_span!("queue", t2v.texts = self.texts, t2v.priority = self.class.as_str());
            let spans = (!queue.is_disabled()).then(|| Spans {
                stage: Mutex::new(Some(queue)),
                last_pass: AtomicU64::new(0),
                passes: AtomicU64::new(0),
                pass_texts: AtomicU64::new(0),
                pass_tokens: AtomicU64::new(0),
            });
            Queued { since: Instant::now(), spans }
        });
    }

    /// Where something is logged about the call, so that the line says which request it was.
    pub(super) fn log(&self, log: impl FnOnce()) {
        self.parent.in_scope(log);
    }

    /// One of its sequences goes into the forward pass of this number (from 1), which begins now and has so many texts and
    /// tokens of all calls.
    pub(super) fn dispatched(&self, pass: u64, now: Instant, texts: usize, tokens: usize) {
        let is_first = !self.dispatched.swap(true, Ordering::Relaxed);
        if is_first {
            let waited = self.queued.get().map(|queued| now.saturating_duration_since(queued.since));
            metrics().stage(Stage::Queue, waited.unwrap_or_default());
        }
        let Some(spans) = self.spans() else { return };
        if is_first {
            let forward = tracing::debug_span!(
                parent: &self.parent,
                "forward",
                t2v.batches = Empty,
                t2v.batch.texts = Empty,
                t2v.batch.tokens = Empty,
                t2v.dimensions = Empty,
            );
            // The span of the queue ends with this.
            spans.stage.lock().unwrap_or_else(PoisonError::into_inner).replace(forward);
        }
        if spans.last_pass.swap(pass, Ordering::Relaxed) != pass {
            spans.passes.fetch_add(1, Ordering::Relaxed);
            spans.pass_texts.fetch_add(texts as u64, Ordering::Relaxed);
            spans.pass_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        }
    }

    /// All its texts are answered, with vectors of this length.
    pub(super) fn finish(&self, dimensions: Option<usize>) {
        let Some(spans) = self.spans() else { return };
        let stage = spans.stage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stage) = stage {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            stage
                .record("t2v.batches", count(&spans.passes))
                .record("t2v.batch.texts", count(&spans.pass_texts))
                .record("t2v.batch.tokens", count(&spans.pass_tokens))
                .record("t2v.dimensions", dimensions);
        }
    }

    fn spans(&self) -> Option<&Spans> {
        self.queued.get()?.spans.as_ref()
    }
}
