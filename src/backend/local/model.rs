//! A model that is loaded, and what happened to its texts.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use text2vec_engine::dense::Head;
use text2vec_engine::encoder::Encoder;

/// What happened to texts since the start; shown in `/meta` and `/metrics`.
#[derive(Default)]
pub(super) struct Counters {
    /// Texts computed.
    pub texts: AtomicU64,
    /// Their tokens.
    pub tokens: AtomicU64,
    /// Texts, or sentences of texts, beyond the token limit.
    pub truncated_texts: AtomicU64,
    /// Requests whose `dimensions` had no effect.
    pub ignored_dimensions: AtomicU64,
    /// Requests whose pooling strategy had no effect.
    pub ignored_pooling: AtomicU64,
    /// Texts that could not be computed, panics included.
    pub failed_texts: AtomicU64,
}

/// A model as the inference threads see it.
pub(super) struct Model {
    /// One for each inference thread, locked by it alone and for a forward pass.
    pub(super) encoders: Vec<Mutex<Box<dyn Encoder>>>,
    /// What follows the pooling.
    pub(super) head: Head,
    /// What happened to its texts.
    pub counters: Counters,
}

impl Model {
    /// A model that is to be computed by these encoders, one for each inference thread, with these layers behind its pooling.
    pub(super) fn new(encoders: Vec<Box<dyn Encoder>>, head: Head) -> Model {
        let encoders = encoders.into_iter().map(Mutex::new).collect();
        Model { encoders, head, counters: Counters::default() }
    }
}
