//! `Cached`: a [`Backend`] around a [`Backend`] that remembers vectors and computes equal texts once.
//!
//! - **Key**: 128 bits of SHA-256 over a secret of this process, the model's fingerprint, the call's settings as the
//!   caller wrote them, and the text. Who chooses texts cannot look for collisions without the secret.
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
//!   computation. The deadline is a point in time, so asking again does not prolong it.

mod flights;
mod keys;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join, try_join_all};
use tracing::Instrument;
use tracing::field::Empty;

use self::flights::{Batch, Claim, Flight, Flights, Seat, compute};
use self::keys::{Key, KeyMaker};
pub use self::store::CacheOptions;
use self::store::Store;
use crate::backend::meta::{CacheReport, Meta};
use crate::backend::{Backend, Embedding, ModelInfo, TextTokenizer};
use crate::contract::call::Call;
use crate::error::{Error, ErrorKind, Result};
pub use crate::telemetry::metrics::CacheStats;
use crate::telemetry::metrics::{Source, metrics};

/// So many times a text joins another call's computation before its caller asks by itself.
const JOINS: usize = 2;

/// A text joins another call's computation if that has no more bytes to compute until then than the text's own call, and
/// this many: else it comes sooner by itself.
const JOIN_BYTES: usize = 16 * 1024;

/// See the module.
pub struct Cached {
    inner: Arc<dyn Backend>,
    keys: KeyMaker,
    store: Arc<Store>,
    flights: Arc<Flights>,
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
            Arc::new(Cached { inner, keys, store, flights: Arc::default() })
        })
    }

    /// Puts a cache around another model's backend that shares this one's room and counters. Neither finds the other's
    /// vectors.
    pub fn beside(&self, inner: Arc<dyn Backend>) -> Arc<Cached> {
        let keys = self.keys.for_model(&inner.info().fingerprint);
        Arc::new(Cached { inner, keys, store: self.store.clone(), flights: self.flights.clone() })
    }

    /// The counters, and what is held now.
    pub fn stats(&self) -> CacheStats {
        self.store.stats()
    }

    /// Embeds all texts, from memory as far as possible.
    async fn embed_all(&self, call: &Call) -> Result<Vec<Result<Embedding>>> {
        let keys = self.keys.keys(call).await;
        let mut answers: Vec<Option<Result<Embedding>>> = keys.iter().map(|key| self.store.get(key).map(Ok)).collect();
        let span = tracing::Span::current();
        if !span.is_disabled() {
            span.record("t2v.cache.hits", answers.iter().flatten().count());
        }
        let missing: Vec<usize> = (0..answers.len()).filter(|&text| answers[text].is_none()).collect();
        if !missing.is_empty() {
            let asked = Asked { call, keys: &keys };
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
            let deadline = asked.call.deadline;
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
        let Asked { call, keys } = asked;
        let mut work = Work::default();
        let mut joined: HashMap<u64, usize> = HashMap::new();
        let mut positions: HashMap<Key, usize> = HashMap::new();
        let mut own: Vec<usize> = Vec::new();
        let mut own_seats: Vec<(usize, usize)> = Vec::new();
        let mut claims: Vec<(Key, usize)> = Vec::new();
        let patience = JOIN_BYTES + texts.iter().map(|&text| call.texts[text].len()).sum::<usize>();
        // Declared after `work`: a batch whose last clone is dropped under this lock would ask for it again.
        let mut seats = self.flights.seats();
        for &text in texts {
            let key = keys[text];
            if let Some(&position) = positions.get(&key) {
                own_seats.push((text, position));
                continue;
            }
            let seat = seats.get(&key).filter(|seat| !left.contains(&seat.number));
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
            if join || !seats.contains_key(&key) {
                // A computation writes its vectors before it leaves its seats: look again, now that none is joined.
                if let Some(embedding) = self.store.get(&key) {
                    work.answers.push((text, Ok(embedding)));
                    continue;
                }
                claims.push((key, own.len()));
            }
            positions.insert(key, own.len());
            own_seats.push((text, own.len()));
            own.push(text);
        }
        self.store.missed(own.len(), texts.len() - work.answers.len() - own.len());
        if !own.is_empty() {
            let number = self.flights.number();
            let claimed = claims.iter().map(|&(key, _)| key).collect();
            let claim = Claim { flights: self.flights.clone(), number, keys: claimed };
            let own_keys = own.iter().map(|&text| keys[text]).collect();
            let own_call = Call {
                texts: own.iter().map(|&text| call.texts[text].clone()).collect(),
                purpose: call.purpose.clone(),
                deadline: call.deadline,
                trace: call.trace.clone(),
            };
            let flight = Arc::new(Flight::new(&own_call.texts));
            // Whoever drives it, it is a part of this call's trace.
            let future = compute(self.inner.clone(), (own_call, own_keys), self.store.clone(), claim, flight.clone());
            let future = future.in_current_span().boxed().shared();
            if let Some(weak) = future.downgrade() {
                let seat =
                    |(key, position)| (key, Seat { number, position, future: weak.clone(), flight: flight.clone() });
                seats.extend(claims.into_iter().map(seat));
            }
            work.own = Some((Batch { number, future, flight }, own_seats));
        }
        work
    }
}

impl Backend for Cached {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        let span = tracing::debug_span!("cache", t2v.texts = call.texts.len(), t2v.cache.hits = Empty);
        async move { self.embed_all(&call).await }.instrument(span).boxed()
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

/// A call, and the keys of its texts.
#[derive(Clone, Copy)]
struct Asked<'a> {
    call: &'a Call,
    keys: &'a [Key],
}

/// Half of the time until a deadline.
fn half_way(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
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

/// Whether any call with this text would get this answer.
fn is_of_the_text(answer: &Result<Embedding>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge),
    }
}
