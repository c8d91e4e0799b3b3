//! `Cached`: a [`Backend`] around a [`Backend`] that remembers vectors and computes equal texts once.
//!
//! - **Key**: 128 bits of SHA-256 over a secret of this process, the model's fingerprint, and everything in the request
//!   that can change the vector, as the caller wrote it. Who chooses texts cannot look for collisions without the secret.
//! - **Room**: moka with its LRU policy, entries weighed by what they occupy. Queries have a quarter of the bytes to
//!   themselves, so that an import cannot flush them.
//! - **Equal misses** in flight share one computation, within a call and across calls. The computation belongs to all who
//!   wait for it: it goes on while one of them is left, and is dropped with the last. So a caller who leaves neither
//!   fails nor delays another, and work that nobody wants is abandoned as it is without a cache. The price: a batch whose
//!   caller left is finished if another call waits for one of its texts.
//! - **Nobody waits for another's work.** Who joined has each text as soon as it is computed, not when the call that computes
//!   it ends. A text far behind in a large call is not waited for but computed beside it. Who joined waits at most for half
//!   of the time its own deadline leaves, and then asks anew: so its own deadline counts as it does without a cache.
//! - **Errors** are never kept. An error of a text itself (its settings are invalid, it is too large) is everybody's who
//!   sent that text. Any other error, overload and deadline above all, is of the call that met it: who merely joined that
//!   call asks again, joining once more at most, then by itself. So nobody is told of a limit that another one hit, and a
//!   hundred joiners do not all rush at a backend that has just refused one.
//! - **Priority and deadline** stay the call's. The task is part of the key, so a query never waits for a passage's
//!   computation. The deadline is a point in time, so asking again does not prolong it; of equal texts in one call the
//!   first one's counts.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem::size_of;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared, select, try_join, try_join_all};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::Instrument;
use tracing::field::Empty;

use crate::backend::meta::{CacheReport, Meta};
use crate::backend::{Backend, Embedding, ModelInfo, TextTokenizer};
use crate::contract::request::{EmbedRequest, Task};
use crate::error::{Error, ErrorKind, Result};
pub use crate::telemetry::metrics::CacheStats;
use crate::telemetry::metrics::{Report, Source, metrics};

/// The queries' share of the bytes: one in so many.
const QUERY_SHARE: u64 = 4;

/// What an entry costs beside key and value, in bytes: moka's nodes, counters and place in the hash table, 218 to 256
/// as a counting allocator saw it (moka 0.12.16, 64 bits, without and with a time to live), and what the system's
/// allocator adds to some six allocations.
const ENTRY_OVERHEAD: usize = 304;

/// Counters in front of the values behind an `Arc`.
const ARC_HEADER: usize = 2 * size_of::<usize>();

/// So many times a text joins another call's computation before its caller asks by itself.
const JOINS: usize = 2;

/// A text joins another call's computation if that has no more bytes to compute until then than the text's own call, and
/// this many: else it comes sooner by itself.
const JOIN_BYTES: usize = 16 * 1024;

/// After so many bytes hashed other tasks get a turn; after so many entries written, what is too much is evicted.
const BYTES_PER_TURN: usize = 256 * 1024;
const ENTRIES_PER_TURN: usize = 64;

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

/// See the module.
pub struct Cached {
    inner: Arc<dyn Backend>,
    keys: KeyMaker,
    store: Arc<Store>,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("inner", &self.inner.info()).finish_non_exhaustive()
    }
}

impl Cached {
    /// Puts a cache around a backend, or nothing if it is to have no room.
    pub fn around(inner: Arc<dyn Backend>, options: CacheOptions) -> Option<Arc<Cached>> {
        (options.max_bytes > 0).then(|| {
            let keys = KeyMaker::new(&inner.info().fingerprint);
            let store = Arc::new(Store::new(options));
            let source: Arc<dyn Source> = store.clone();
            metrics().ask(Arc::downgrade(&source));
            Arc::new(Cached { inner, keys, store })
        })
    }

    /// Puts a cache around another model's backend that shares this one's room and counters. Neither finds the other's
    /// vectors.
    pub fn beside(&self, inner: Arc<dyn Backend>) -> Arc<Cached> {
        let keys = self.keys.for_model(&inner.info().fingerprint);
        Arc::new(Cached { inner, keys, store: self.store.clone() })
    }

    /// The counters, and what is held now.
    pub fn stats(&self) -> CacheStats {
        self.store.stats()
    }

    /// Embeds all texts, from memory as far as possible.
    async fn embed_all(&self, requests: Vec<EmbedRequest>) -> Result<Vec<Result<Embedding>>> {
        let keys = self.keys.keys(&requests).await;
        let mut answers: Vec<Option<Result<Embedding>>> = keys.iter().map(|key| self.store.get(key).map(Ok)).collect();
        let span = tracing::Span::current();
        if !span.is_disabled() {
            span.record("t2v.cache.hits", answers.iter().flatten().count());
        }
        let missing: Vec<usize> = (0..answers.len()).filter(|&text| answers[text].is_none()).collect();
        if !missing.is_empty() {
            let asked = Asked { keys: &keys, requests: &requests };
            for (text, answer) in self.resolve(asked, missing, Vec::new(), 0).await? {
                answers[text] = Some(answer);
            }
        }
        // Not reached: who computes is at last the call itself, and a computation answers every text or fails.
        let missing = || Err(Error::internal("the backend gave no answer for the text"));
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect())
    }

    /// Answers for texts that are not in memory. Those that came to nothing at another call are asked for again, in the next
    /// round; `left` are computations that were given up.
    fn resolve<'a>(
        &'a self,
        asked: Asked<'a>,
        texts: Vec<usize>,
        left: Vec<u64>,
        round: usize,
    ) -> BoxFuture<'a, Result<Answers>> {
        Box::pin(async move {
            let deadline = texts.iter().filter_map(|&text| asked.requests[text].deadline).min();
            let Work { mut answers, own, joined } = self.begin(asked, &texts, &left, round < JOINS);
            let own = async {
                let Some((Batch { future, flight, .. }, seats)) = own else { return Ok::<_, Error>(Vec::new()) };
                // An error of our own call is its answer: what others still compute need not be awaited.
                future.await?;
                Ok(seats.into_iter().filter_map(|(text, position)| Some((text, flight.answer(position)?))).collect())
            };
            let left = &left;
            let others = joined.into_iter().map(|(batch, seats)| async move {
                let positions: Vec<usize> = seats.iter().map(|&(_, position)| position).collect();
                batch.wait(&positions, deadline.map(half_way)).await;
                let (mut answers, mut again) = (Vec::new(), Vec::new());
                for (text, position) in seats {
                    match batch.flight.answer(position).filter(is_of_the_text) {
                        Some(answer) => answers.push((text, answer)),
                        None => again.push(text),
                    }
                }
                let number = batch.number;
                // If nobody else waits for it, it ends here.
                drop(batch);
                if !again.is_empty() {
                    let left = left.iter().copied().chain([number]).collect();
                    answers.extend(self.resolve(asked, again, left, round + 1).await?);
                }
                Ok(answers)
            });
            let (own, others) = try_join(own, try_join_all(others)).await?;
            answers.extend(own);
            answers.extend(others.into_iter().flatten());
            Ok(answers)
        })
    }

    /// Finds for each text who computes it: another call, if one is at it that has not much else to do before, and `join`
    /// allows; else this one.
    fn begin(&self, asked: Asked<'_>, texts: &[usize], left: &[u64], join: bool) -> Work {
        let Asked { keys, requests } = asked;
        let store = &self.store;
        let mut work = Work::default();
        let mut joined: HashMap<u64, usize> = HashMap::new();
        let mut positions: HashMap<Key, usize> = HashMap::new();
        let mut own: Vec<usize> = Vec::new();
        let mut own_seats: Vec<(usize, usize)> = Vec::new();
        let mut claims: Vec<(Key, usize)> = Vec::new();
        let patience = JOIN_BYTES + texts.iter().map(|&text| requests[text].text.len()).sum::<usize>();
        // Declared after `work`: a batch whose last clone is dropped under this lock would ask for it again.
        let mut flights = store.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for &text in texts {
            let key = keys[text];
            if let Some(&position) = positions.get(&key) {
                own_seats.push((text, position));
                continue;
            }
            let seat = flights.get(&key).filter(|seat| !left.contains(&seat.number));
            if let Some(seat) = seat
                && join
                && seat.flight.ahead_of(seat.position) <= patience
                && let Some(future) = seat.future.upgrade()
            {
                let batch = *joined.entry(seat.number).or_insert_with(|| {
                    let batch = Batch { number: seat.number, future, flight: seat.flight.clone() };
                    work.joined.push((batch, Vec::new()));
                    work.joined.len() - 1
                });
                work.joined[batch].1.push((text, seat.position));
                continue;
            }
            // Without `join`, what another call is computing is computed beside it. Else the seat is ours: also one whose
            // callers have all left, and one that this call does not wait for.
            if join || !flights.contains_key(&key) {
                // A computation writes its vectors before it leaves its seats: look again, now that none is joined.
                if let Some(embedding) = store.get(&key) {
                    work.answers.push((text, Ok(embedding)));
                    continue;
                }
                claims.push((key, own.len()));
            }
            positions.insert(key, own.len());
            own_seats.push((text, own.len()));
            own.push(text);
        }
        store.misses.fetch_add(own.len() as u64, Ordering::Relaxed);
        let coalesced = texts.len() - work.answers.len() - own.len();
        store.coalesced.fetch_add(coalesced as u64, Ordering::Relaxed);
        if !own.is_empty() {
            let number = store.next_flight.fetch_add(1, Ordering::Relaxed);
            let claim =
                Claim { store: store.clone(), flight: number, keys: claims.iter().map(|&(key, _)| key).collect() };
            let own_keys = own.iter().map(|&text| keys[text]).collect();
            let own_requests: Vec<_> = own.iter().map(|&text| requests[text].clone()).collect();
            let flight = Arc::new(Flight::new(&own_requests));
            // Whoever drives it, it is a part of this call's trace.
            let future = compute(self.inner.clone(), own_keys, own_requests, claim, flight.clone());
            let future = future.in_current_span().boxed().shared();
            if let Some(weak) = future.downgrade() {
                let seat =
                    |(key, position)| (key, Seat { number, position, future: weak.clone(), flight: flight.clone() });
                flights.extend(claims.into_iter().map(seat));
            }
            work.own = Some((Batch { number, future, flight }, own_seats));
        }
        work
    }
}

impl Backend for Cached {
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        let span = tracing::debug_span!("cache", t2v.texts = requests.len(), t2v.cache.hits = Empty);
        self.embed_all(requests).instrument(span).boxed()
    }

    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn trouble(&self) -> Option<&'static str> {
        self.inner.trouble()
    }

    fn tokenizer(&self) -> Option<&TextTokenizer> {
        self.inner.tokenizer()
    }

    /// The inner backend's meta, with `sidecar.cache`.
    fn meta(&self) -> Meta {
        self.with_stats(self.inner.meta())
    }

    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Meta>>> {
        Box::pin(async move { Ok(self.inner.live_meta().await?.map(|meta| self.with_stats(meta))) })
    }
}

impl Cached {
    fn with_stats(&self, mut meta: Meta) -> Meta {
        let ttl_seconds = self.store.ttl.map(|ttl| ttl.as_secs_f64());
        meta.sidecar.get_or_insert_default().cache = Some(CacheReport { stats: self.stats(), ttl_seconds });
        meta
    }
}

/// Answers for texts of a call, by their indices.
type Answers = Vec<(usize, Result<Embedding>)>;

/// A call's texts.
#[derive(Clone, Copy)]
struct Asked<'a> {
    keys: &'a [Key],
    requests: &'a [EmbedRequest],
}

/// Half of the time until a deadline.
fn half_way(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// What became of one call to the backend behind, as a whole.
type Outcome = Result<()>;

/// A computation that all who wait for it drive, each with a clone.
struct Batch {
    number: u64,
    future: Shared<BoxFuture<'static, Outcome>>,
    flight: Arc<Flight>,
}

impl Batch {
    /// Waits until these texts are told, nothing more will be, or the time is over.
    async fn wait(&self, positions: &[usize], until: Option<Instant>) {
        let told = std::pin::pin!(self.flight.told(positions));
        let done = select(told, self.future.clone());
        match until {
            Some(until) => drop(tokio::time::timeout_at(until.into(), done).await),
            None => drop(done.await),
        }
    }
}

/// How far a computation is.
struct Flight {
    /// Of each text.
    results: Vec<OnceLock<Result<Embedding>>>,
    /// Bytes of each text and those before it.
    bytes: Vec<usize>,
    /// Bytes of the texts told.
    bytes_told: AtomicUsize,
    news: Notify,
}

impl Flight {
    fn new(requests: &[EmbedRequest]) -> Flight {
        let mut sum = 0;
        let bytes = requests.iter().map(|request| {
            sum += request.text.len();
            sum
        });
        Flight {
            bytes: bytes.collect(),
            results: requests.iter().map(|_| OnceLock::new()).collect(),
            bytes_told: AtomicUsize::new(0),
            news: Notify::new(),
        }
    }

    fn tell(&self, position: usize, result: Result<Embedding>) {
        if self.results.get(position).is_some_and(|place| place.set(result).is_ok()) {
            let before = position.checked_sub(1).map_or(0, |before| self.bytes[before]);
            self.bytes_told.fetch_add(self.bytes[position] - before, Ordering::Relaxed);
            self.news.notify_waiters();
        }
    }

    /// Bytes of the texts that are to be computed before this one, and its own.
    fn ahead_of(&self, position: usize) -> usize {
        self.bytes[position].saturating_sub(self.bytes_told.load(Ordering::Relaxed))
    }

    /// Waits until all these texts are told.
    async fn told(&self, positions: &[usize]) {
        let mut missing = positions;
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // From now on; what was told before is seen below.
            news.as_mut().enable();
            while let [first, rest @ ..] = missing {
                if self.results[*first].get().is_none() {
                    break;
                }
                missing = rest;
            }
            if missing.is_empty() {
                return;
            }
            news.await;
        }
    }

    /// The answer at a position, if it is there.
    fn answer(&self, position: usize) -> Option<Result<Embedding>> {
        self.results.get(position)?.get().cloned()
    }

    fn is_whole(&self) -> bool {
        self.results.iter().all(|result| result.get().is_some())
    }
}

/// Where the texts without an answer get theirs. Each batch with the call's texts that have a place in it, and their
/// positions there.
#[derive(Default)]
struct Work {
    /// Found in memory after all.
    answers: Answers,
    own: Option<(Batch, Vec<(usize, usize)>)>,
    joined: Vec<(Batch, Vec<(usize, usize)>)>,
}

/// Where a key is being computed. Weak: the table must not keep a computation alive that nobody waits for.
struct Seat {
    number: u64,
    position: usize,
    future: WeakShared<BoxFuture<'static, Outcome>>,
    flight: Arc<Flight>,
}

/// The seats a computation holds; given up when it ends or is dropped.
struct Claim {
    store: Arc<Store>,
    flight: u64,
    keys: Vec<Key>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut flights = self.store.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            // Another computation may have taken over the seat.
            if flights.get(key).is_some_and(|seat| seat.number == self.flight) {
                flights.remove(key);
            }
        }
    }
}

/// Asks the backend, keeps what it answers and tells it. Holds `claim` to its end, after the vectors can be found in the
/// store.
async fn compute(
    inner: Arc<dyn Backend>,
    keys: Vec<Key>,
    requests: Vec<EmbedRequest>,
    claim: Claim,
    flight: Arc<Flight>,
) -> Outcome {
    let store = &claim.store;
    let mut told = 0usize;
    let tell = |index: usize, result: Result<Embedding>| {
        if let (Some(key), Ok(embedding)) = (keys.get(index), &result) {
            store.insert(*key, embedding.clone());
        }
        flight.tell(index, result);
        told += 1;
        if told.is_multiple_of(ENTRIES_PER_TURN) {
            store.settle();
        }
    };
    // A panic would poison the computation for all who share it.
    let result = AssertUnwindSafe(async { inner.embed_each(requests, Box::new(tell)).await }).catch_unwind().await;
    store.settle();
    match result {
        Err(_) => Err(Error::internal("the backend panicked")),
        Ok(Ok(())) if !flight.is_whole() => Err(Error::internal("the backend did not answer all texts")),
        Ok(result) => result,
    }
}

/// Whether any call with this text would get this answer.
fn is_of_the_text(answer: &Result<Embedding>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge),
    }
}

/// What a vector is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Which share of the room it uses; also in the digest, by its name.
    task: Task,
    digest: [u8; 16],
}

/// Makes keys for one model.
struct KeyMaker {
    /// Has taken in the secret.
    secret: Sha256,
    /// Has taken in the secret and the fingerprint.
    start: Sha256,
}

impl KeyMaker {
    fn new(fingerprint: &str) -> KeyMaker {
        // The standard library's hash maps are seeded with 128 bits from the operating system.
        let seeded = RandomState::new();
        let mut secret = Sha256::new();
        for word in 0..4u64 {
            let mut hasher = seeded.build_hasher();
            hasher.write_u64(word);
            secret.update(hasher.finish().to_le_bytes());
        }
        KeyMaker { start: secret.clone(), secret }.for_model(fingerprint)
    }

    /// Keys under the same secret, for another model.
    fn for_model(&self, fingerprint: &str) -> KeyMaker {
        let mut start = self.secret.clone();
        start.update((fingerprint.len() as u64).to_le_bytes());
        start.update(fingerprint);
        KeyMaker { secret: self.secret.clone(), start }
    }

    /// Keys of a call's texts, letting other tasks run between long ones.
    async fn keys(&self, requests: &[EmbedRequest]) -> Vec<Key> {
        let mut keys = Vec::with_capacity(requests.len());
        let mut bytes = 0;
        for request in requests {
            keys.push(self.key(request));
            bytes += request.text.len();
            if bytes >= BYTES_PER_TURN {
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        keys
    }

    fn key(&self, request: &EmbedRequest) -> Key {
        // All fields by name: a new one must be thought of here. Deadline and trace cannot change the vector.
        let EmbedRequest { text, task_name, pooling, dimensions, prompt, deadline: _, trace: _ } = request;
        let mut hash = self.start.clone();
        // Lengths keep one field's end from being read as another's start.
        for field in [task_name.as_deref(), pooling.as_deref(), prompt.as_deref()] {
            hash.update([u8::from(field.is_some())]);
            hash.update((field.map_or(0, str::len) as u64).to_le_bytes());
            hash.update(field.unwrap_or_default());
        }
        hash.update([u8::from(dimensions.is_some())]);
        hash.update(dimensions.unwrap_or_default().to_le_bytes());
        hash.update(text);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        Key { task: request.task(), digest }
    }
}

type Segment = moka::sync::Cache<Key, Embedding>;

/// The vectors held, those being computed, and the counters.
struct Store {
    passages: Segment,
    queries: Segment,
    flights: Mutex<HashMap<Key, Seat>>,
    next_flight: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    evictions: Arc<AtomicU64>,
    max_bytes: u64,
    ttl: Option<Duration>,
}

impl Store {
    fn new(CacheOptions { max_bytes, ttl }: CacheOptions) -> Store {
        // moka refuses times beyond a thousand years.
        let ttl = ttl.map(|ttl| ttl.min(Duration::from_secs(100 * 365 * 24 * 3600)));
        let evictions = Arc::new(AtomicU64::new(0));
        let for_queries = max_bytes / QUERY_SHARE;
        Store {
            passages: segment(max_bytes - for_queries, ttl, &evictions),
            queries: segment(for_queries, ttl, &evictions),
            flights: Mutex::default(),
            next_flight: AtomicU64::new(0),
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

    fn get(&self, key: &Key) -> Option<Embedding> {
        let found = self.segment(key.task).get(key)?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    fn insert(&self, key: Key, embedding: Embedding) {
        self.segment(key.task).insert(key, embedding);
    }

    /// Makes moka evict what is over the bound now, not with a later access.
    fn settle(&self) {
        self.passages.run_pending_tasks();
        self.queries.run_pending_tasks();
    }

    fn stats(&self) -> CacheStats {
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
    fn everything_that_can_change_the_vector_is_in_the_key() {
        let maker = KeyMaker::new("model");
        let text = |text: &str| EmbedRequest { text: text.to_owned(), ..EmbedRequest::default() };
        let requests = [
            text("a"),
            text("b"),
            text(""),
            EmbedRequest::query("a"),
            EmbedRequest { task_name: Some("passage".into()), ..text("a") },
            EmbedRequest { task_name: Some("".into()), ..text("a") },
            EmbedRequest { pooling: Some("cls".into()), ..text("a") },
            EmbedRequest { pooling: Some("".into()), ..text("a") },
            EmbedRequest { prompt: Some("cls".into()), ..text("a") },
            EmbedRequest { prompt: Some("".into()), ..text("a") },
            EmbedRequest { dimensions: Some(0), ..text("a") },
            EmbedRequest { dimensions: Some(-1), ..text("a") },
            EmbedRequest { dimensions: Some(1), ..text("a") },
            // Fields that run into each other when lengths are left out.
            EmbedRequest { pooling: Some("x".into()), prompt: Some("\u{1}y".into()), ..text("a") },
            EmbedRequest { pooling: Some("x\u{1}".into()), prompt: Some("y".into()), ..text("a") },
            EmbedRequest { prompt: Some("z".into()), ..text("\0a") },
        ];
        let keys: Vec<Key> = requests.iter().map(|request| maker.key(request)).collect();
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(*key, maker.key(&requests[i]), "the same request has the same key");
            assert!(!keys[..i].contains(key), "{:?} has the key of another", requests[i]);
            let other = maker.for_model("other model");
            assert_ne!(*key, other.key(&requests[i]));
        }
    }

    #[test]
    fn keys_are_secret_to_the_process_and_differ_by_model() {
        let request = EmbedRequest::passage("a");
        assert_ne!(KeyMaker::new("model").key(&request), KeyMaker::new("model").key(&request));
        assert_eq!(KeyMaker::new("model").key(&request).task, Task::Passage);
        assert_eq!(KeyMaker::new("model").key(&EmbedRequest::query("a")).task, Task::Query);
    }

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
