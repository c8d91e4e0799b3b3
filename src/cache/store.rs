//! The vectors held, bounded by what they occupy, and the counters.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::keys::Key;
use crate::backend::Embedding;
use crate::contract::request::Task;
use crate::telemetry::metrics::{CacheStats, Report, Source};

/// The queries' share of the bytes: one in so many.
const QUERY_SHARE: u64 = 4;

/// What an entry costs beside key and value, in bytes: moka's nodes, counters and place in the hash table, 218 to 256
/// as a counting allocator saw it (moka 0.12.16, 64 bits, without and with a time to live), and what the system's
/// allocator adds to some six allocations.
const ENTRY_OVERHEAD: usize = 304;

/// Counters in front of the values behind an `Arc`.
const ARC_HEADER: usize = 2 * size_of::<usize>();

/// How large the cache may be, and how long it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes for vectors, keys and what surrounds them; 0 is no cache.
    pub max_bytes: u64,
    /// Entries older than this are forgotten; `None`: when room is needed. Vectors of one fingerprint do not age, so this
    /// is for upstreams whose model may change behind their back.
    pub ttl: Option<Duration>,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { max_bytes: 64 * 1024 * 1024, ttl: None }
    }
}

type Segment = moka::sync::Cache<Key, Embedding>;

/// The vectors held, and the counters.
pub(super) struct Store {
    passages: Segment,
    queries: Segment,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    evictions: Arc<AtomicU64>,
    max_bytes: u64,
    /// What was asked for, at most a hundred years.
    pub(super) ttl: Option<Duration>,
}

impl Store {
    pub(super) fn new(CacheOptions { max_bytes, ttl }: CacheOptions) -> Store {
        // moka refuses times beyond a thousand years.
        let ttl = ttl.map(|ttl| ttl.min(Duration::from_secs(100 * 365 * 24 * 3600)));
        let evictions = Arc::new(AtomicU64::new(0));
        let for_queries = max_bytes / QUERY_SHARE;
        Store {
            passages: segment(max_bytes - for_queries, ttl, &evictions),
            queries: segment(for_queries, ttl, &evictions),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            evictions,
            max_bytes,
            ttl,
        }
    }

    fn segment(&self, task: Task) -> &Segment {
        match task {
            Task::Passage => &self.passages,
            Task::Query => &self.queries,
        }
    }

    /// The vector, counted as a hit.
    pub(super) fn get(&self, key: &Key) -> Option<Embedding> {
        let found = self.segment(key.task).get(key)?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    pub(super) fn insert(&self, key: Key, embedding: Embedding) {
        self.segment(key.task).insert(key, embedding);
    }

    /// Counts texts that were not found: those that are to be computed, and those that share another's computation.
    pub(super) fn missed(&self, computed: usize, coalesced: usize) {
        self.misses.fetch_add(computed as u64, Ordering::Relaxed);
        self.coalesced.fetch_add(coalesced as u64, Ordering::Relaxed);
    }

    /// Makes moka evict what is over the bound now, not with a later access.
    pub(super) fn settle(&self) {
        self.passages.run_pending_tasks();
        self.queries.run_pending_tasks();
    }

    pub(super) fn stats(&self) -> CacheStats {
        self.settle();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: count(&self.hits),
            misses: count(&self.misses),
            coalesced: count(&self.coalesced),
            evictions: count(&self.evictions),
            entries: self.passages.entry_count() + self.queries.entry_count(),
            bytes: self.passages.weighted_size() + self.queries.weighted_size(),
            max_bytes: self.max_bytes,
        }
    }
}

impl Source for Store {
    fn report(&self, to: &mut Report) {
        let CacheStats { hits, misses, coalesced, evictions, entries, bytes, max_bytes } = self.stats();
        to.cache.hits += hits;
        to.cache.misses += misses;
        to.cache.coalesced += coalesced;
        to.cache.evictions += evictions;
        to.cache.entries += entries;
        to.cache.bytes += bytes;
        to.cache.max_bytes += max_bytes;
    }
}

/// One share of the room.
fn segment(max_bytes: u64, ttl: Option<Duration>, evictions: &Arc<AtomicU64>) -> Segment {
    let evictions = evictions.clone();
    let builder = Segment::builder()
        .eviction_policy(EvictionPolicy::lru())
        .max_capacity(max_bytes)
        .weigher(|_, embedding| u32::try_from(weight(embedding)).unwrap_or(u32::MAX))
        .eviction_listener(move |_, _, cause: RemovalCause| {
            if cause.was_evicted() {
                evictions.fetch_add(1, Ordering::Relaxed);
            }
        });
    match ttl {
        Some(ttl) => builder.time_to_live(ttl).build(),
        None => builder.build(),
    }
}

/// Bytes an entry occupies.
fn weight(embedding: &Embedding) -> usize {
    let Embedding { vector, ignored, .. } = embedding;
    size_of::<Key>()
        + size_of::<Embedding>()
        + ARC_HEADER
        + size_of_val::<[f32]>(vector)
        + ignored.capacity() * size_of::<&str>()
        + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_weighs_its_vector_and_all_around_it() {
        let embedding = |dimensions: usize, ignored: &[&'static str]| Embedding {
            vector: vec![0.0; dimensions].into(),
            tokens: 1,
            truncated: false,
            ignored: ignored.to_vec(),
        };
        let empty = weight(&embedding(0, &[]));
        assert!(empty > size_of::<Key>() + size_of::<Embedding>());
        assert_eq!(weight(&embedding(384, &[])) - empty, 384 * 4);
        assert_eq!(weight(&embedding(0, &["dimensions"])) - empty, size_of::<&str>());
    }
}
