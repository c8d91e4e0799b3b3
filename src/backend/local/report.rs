//! The queue and the models, as a scrape of the metrics finds them. Each is in the metrics for as long as it is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::batcher::{Batcher, Class, Piece};
use super::model::Model;
use crate::backend::ModelInfo;
use crate::contract::request::Profile;
use crate::telemetry::metrics::{self, Report, Source, metrics};

/// A queue.
pub(super) struct ReportedQueue<P: Piece>(Batcher<P>);

impl<P: Piece + 'static> ReportedQueue<P> {
    /// Puts a queue into the metrics.
    pub(super) fn new(batcher: Batcher<P>) -> Arc<ReportedQueue<P>> {
        kept(ReportedQueue(batcher))
    }
}

impl<P: Piece + 'static> Source for ReportedQueue<P> {
    fn report(&self, to: &mut Report) {
        for class in Class::ALL {
            let depth = self.0.depth(class);
            let priority = match class {
                Class::Query => metrics::labels::Priority::Query,
                Class::Passage => metrics::labels::Priority::Passage,
            };
            let metrics::Queue { sequences, tokens, at_the_door } = &mut to.queue[priority as usize];
            *sequences += depth.pieces as u64;
            *tokens += depth.tokens as u64;
            *at_the_door += depth.at_the_door as u64;
        }
    }
}

/// A model.
pub(super) struct ReportedModel {
    labels: metrics::Model,
    model: Arc<Model>,
}

impl ReportedModel {
    /// Puts a model into the metrics.
    pub(super) fn new(
        info: &ModelInfo,
        profile: Profile,
        (device, dtype): (&str, &'static str),
        model: Arc<Model>,
    ) -> Arc<ReportedModel> {
        let labels = metrics::Model {
            name: info.name.clone(),
            profile: profile.as_str(),
            dimensions: info.dimensions,
            device: device.to_owned(),
            dtype,
            ..metrics::Model::default()
        };
        kept(ReportedModel { labels, model })
    }
}

impl Source for ReportedModel {
    fn report(&self, to: &mut Report) {
        let counters = &self.model.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        to.model(metrics::Model {
            texts: count(&counters.texts),
            tokens: count(&counters.tokens),
            truncated_texts: count(&counters.truncated_texts),
            failed_texts: count(&counters.failed_texts),
            ..self.labels.clone()
        });
    }
}

fn kept<S: Source + 'static>(source: S) -> Arc<S> {
    let source = Arc::new(source);
    let asked: Arc<dyn Source> = source.clone();
    metrics().ask(Arc::downgrade(&asked));
    source
}
