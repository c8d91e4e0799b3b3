//! What a local backend says of itself in `/meta`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::LocalBackend;
use super::batcher::Class;
use super::inference::Inference;
use super::plan::Treatment;
use crate::backend::ModelInfo;
use crate::backend::meta::{Meta, ModelReport, Served, Subject, WaitingTokens};
use crate::contract::request::Task;

/// How a model treats texts, and on what; nothing has happened yet.
pub(super) fn unused(info: &ModelInfo, treatment: &Treatment, inference: &Inference) -> ModelReport {
    let pooling: Vec<_> = treatment.pooling().iter().map(|mode| mode.as_str()).collect();
    ModelReport {
        version: env!("CARGO_PKG_VERSION"),
        model: info.name.clone(),
        fingerprint: info.fingerprint.clone(),
        profile: treatment.profile.as_str(),
        dimensions: info.dimensions,
        labels: info.scoring.as_ref().map(|scoring| scoring.labels.clone()).unwrap_or_default(),
        activation: info.scoring.as_ref().map(|scoring| scoring.activation.name()),
        max_tokens: treatment.max_tokens(),
        pooling: pooling.join("+"),
        query_prompt: treatment.prompt(Task::Query).map(str::to_owned),
        passage_prompt: treatment.prompt(Task::Passage).map(str::to_owned),
        direct_tokenize: treatment.direct_tokenize,
        task_prefixes: treatment.task_prefixes,
        reference_quirks: treatment.quirks(),
        apply_dimensions: treatment.apply_dimensions,
        device: inference.device(),
        threads: inference.threads(),
        ..ModelReport::default()
    }
}

impl LocalBackend {
    /// What was so when it was loaded, and what has happened since.
    pub(super) fn report(&self) -> Meta {
        let (counters, batcher) = (&self.model.counters, self.inference.batcher());
        let waiting = |class| batcher.depth(class).tokens;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let model = ModelReport {
            truncated_texts: count(&counters.truncated_texts),
            ignored_dimensions: count(&counters.ignored_dimensions),
            ignored_pooling: count(&counters.ignored_pooling),
            failed_texts: count(&counters.failed_texts),
            queries_first: self.queries_first,
            batch_tokens: batcher.options().batch_tokens,
            max_waiting_tokens: batcher.options().waiting_tokens,
            waiting_tokens: WaitingTokens { query: waiting(Class::Query), passage: waiting(Class::Passage) },
            ..self.loaded.clone()
        };
        let subject = Subject::Model { model: self.config.clone(), model_path: self.path.clone() };
        Meta::of(subject, Served::Model(Box::new(model)))
    }
}
