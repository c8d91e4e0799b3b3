//! An upstream's replicas, chosen by load, left out when sick, asked again when they recover.
//!
//! Of two replicas picked by chance the one with less in flight is taken ("power of two choices"). This is a few lines of
//! our own rather than tower's `Balance`: a retry must go to a replica this request has not tried yet, a replica must
//! leave and return while requests are under way, and a caller who leaves must end its request where it runs, all of
//! which `Balance`, with its one queue behind a worker, hides.
//!
//! When all replicas are out of service, all are in: an answer that may fail beats one that must.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::base_url::Address;
use super::guard::Allowed;
use super::lookup::{Lookup, Replicas};
use super::options::RemoteOptions;
use super::replica::{Lease, Replica};
use super::retry::{ATTEMPTS, Budget, Failure};
use crate::backend::meta::ReplicaReport;
use crate::contract::request::Task;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::telemetry::metrics::labels::{Refusal, Stage};
use crate::telemetry::metrics::metrics;

/// Pauses before a replica is tried again when no other is left.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// See the module.
pub struct Pool {
    lookup: Arc<Lookup>,
    checking: Mutex<bool>,
    budget: Budget,
    slots: Semaphore,
    passage_slots: Semaphore,
    chance: (RandomState, AtomicU64),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("lookup", &self.lookup).finish_non_exhaustive()
    }
}

impl Pool {
    /// The replicas of one upstream. Nothing is looked up or dialled yet.
    pub fn new(addresses: Vec<Address>, guard: Option<Arc<Allowed>>, options: RemoteOptions) -> Arc<Pool> {
        let slots = options.concurrency.max(1);
        Arc::new(Pool {
            lookup: Arc::new(Lookup::new(addresses, guard, options)),
            checking: Mutex::new(false),
            budget: Budget::new(slots),
            slots: Semaphore::new(slots),
            // Queries have a quarter to themselves: an import must not make them wait behind it.
            passage_slots: Semaphore::new((slots - slots / 4).max(1)),
            chance: (RandomState::new(), AtomicU64::new(0)),
        })
    }

    /// The first of the base URLs: what the others are replicas of.
    pub fn address(&self) -> &Address {
        &self.lookup.addresses()[0]
    }

    /// The base URLs as people may see them.
    pub fn shown(&self) -> String {
        self.lookup.shown()
    }

    /// The same as the place of an error.
    pub fn place(&self) -> Place {
        self.lookup.place()
    }

    /// Every base URL.
    pub fn addresses(&self) -> &[Address] {
        self.lookup.addresses()
    }

    /// How all upstreams are asked.
    pub fn options(&self) -> &RemoteOptions {
        self.lookup.options()
    }

    /// Requests that may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.options().concurrency.max(1)
    }

    /// For `/meta`: where each replica is and how it does.
    pub fn report(&self) -> Vec<ReplicaReport> {
        let replicas: Replicas = self.lookup.known();
        let report = |replica: &Arc<Replica>| ReplicaReport {
            url: replica.address.shown().to_owned(),
            address: replica.at.to_string(),
            in_flight: replica.in_flight(),
            in_service: replica.is_in(),
        };
        replicas.iter().map(report).collect()
    }

    /// The replicas in the order in which to ask them a question that is no text, those in service first.
    ///
    /// # Errors
    /// As [`Lookup::replicas`].
    pub async fn in_turn(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Arc<Replica>>> {
        let replicas = self.lookup.replicas(deadline).await?;
        let mut order = vec![self.pick(&replicas, &[])?];
        while order.len() < replicas.len() {
            order.push(self.pick(&replicas, &order)?);
        }
        Ok(order)
    }

    /// Whether a request that was answered may be made again in another form: from the same budget as retries.
    pub fn may_ask_again(&self) -> bool {
        self.budget.spend()
    }

    /// Attempts a request of so many texts until it is answered, refused, or there is no time or budget left. Dropping the
    /// future ends the attempt that runs. Each attempt runs in a span of its own.
    ///
    /// # Errors
    /// As [`Lookup::replicas`]; `Overloaded` if no other request made room in time; else what the last attempt met.
    pub async fn call<'a, T>(
        self: &'a Arc<Self>,
        task: Task,
        texts: usize,
        deadline: Instant,
        attempt: impl Fn(Arc<Replica>, Duration) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T> {
        let _slots = self.slot(task, deadline).await?;
        self.budget.earn();
        let mut tried: Vec<Arc<Replica>> = Vec::new();
        let mut attempts = 0;
        loop {
            let (lease, others) = {
                let replicas = self.lookup.replicas(deadline).await?;
                let replica = self.pick(&replicas, &tried)?;
                tried.push(replica.clone());
                let others = replicas.iter().any(|other| other.is_in() && !is_among(other, &tried));
                (Lease::new(replica), others)
            };
            let begun = Instant::now();
            let limit = deadline.saturating_duration_since(begun).min(self.options().attempt_timeout);
            let span = span(lease.replica(), texts, attempts + 1);
            let outcome = attempt(lease.replica().clone(), limit).instrument(span.clone()).await;
            metrics().stage(Stage::Remote, begun.elapsed());
            let failure = match outcome {
                Ok(answer) => {
                    lease.replica().succeeded();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            metrics().upstream_error(failure.label());
            span.record("otel.status_code", "ERROR").record("error.type", failure.label().as_str());
            drop(span);
            self.note(lease.replica(), &failure);
            drop(lease);
            attempts += 1;
            let pause = PAUSES[(attempts as usize - 1).min(PAUSES.len() - 1)];
            // Asking another replica after a connection that was never made adds no load anywhere.
            let (again, pause) = match &failure {
                Failure::Unsent(_) if others => (true, Duration::ZERO),
                Failure::Unsent(_) => (attempts < ATTEMPTS && self.budget.spend(), pause),
                Failure::Broken(_) => {
                    (attempts < 2 && self.budget.spend(), if others { Duration::ZERO } else { pause })
                }
                Failure::Busy(_, _) if others => (attempts < ATTEMPTS && self.budget.spend(), Duration::ZERO),
                Failure::Busy(_, wait) => (attempts < ATTEMPTS && self.budget.spend(), wait.unwrap_or(pause)),
                Failure::Late(_) | Failure::Fault(_) | Failure::Refused(_) => (false, pause),
            };
            // An upstream may ask for any number of seconds.
            if !again || pause >= deadline.saturating_duration_since(Instant::now()) {
                return Err(failure.error().clone());
            }
            metrics().upstream_retries.inc();
            tokio::time::sleep(pause).await;
        }
    }

    /// Room for one more request, queries before passages.
    async fn slot(
        &self,
        task: Task,
        deadline: Instant,
    ) -> Result<(Option<SemaphorePermit<'_>>, Option<SemaphorePermit<'_>>)> {
        let take = async {
            let passage = match task {
                Task::Passage => self.passage_slots.acquire().await.ok(),
                Task::Query => None,
            };
            (passage, self.slots.acquire().await.ok())
        };
        tokio::time::timeout_at(deadline.into(), take).await.map_err(|_| {
            metrics().refused(Refusal::UpstreamConcurrency);
            let message = format!(
                "upstream {}: {} requests are under way and none ended in time: try again later, or raise \
                 --upstream-concurrency",
                self.shown(),
                self.concurrency()
            );
            Error::new(ErrorKind::Overloaded, message).naming(self.place())
        })
    }

    fn pick(&self, replicas: &[Arc<Replica>], tried: &[Arc<Replica>]) -> Result<Arc<Replica>> {
        let fresh = |replica: &&Arc<Replica>| !is_among(replica, tried);
        let mut choice: Vec<&Arc<Replica>> = replicas.iter().filter(fresh).filter(|replica| replica.is_in()).collect();
        if choice.is_empty() {
            choice = replicas.iter().filter(|replica| replica.is_in()).collect();
        }
        if choice.is_empty() {
            choice = replicas.iter().filter(fresh).collect();
        }
        if choice.is_empty() {
            choice = replicas.iter().collect();
        }
        let random = self.chance.0.hash_one(self.chance.1.fetch_add(1, Ordering::Relaxed)) as usize;
        let first = random % choice.len().max(1);
        let second = (first + 1 + (random >> 16) % choice.len().saturating_sub(1).max(1)) % choice.len().max(1);
        let load = |index: usize| choice.get(index).map(|replica| replica.in_flight());
        let chosen = if load(second) < load(first) { second } else { first };
        choice.get(chosen).map(|&replica| replica.clone()).ok_or_else(|| self.no_replica())
    }

    /// What there is to say when nobody is left to ask.
    pub fn no_replica(&self) -> Error {
        Error::new(ErrorKind::Upstream, format!("upstream {}: no replica", self.shown())).naming(self.place())
    }

    /// What a failure says about the replica's health.
    fn note(self: &Arc<Self>, replica: &Arc<Replica>, failure: &Failure) {
        let out = match failure {
            Failure::Unsent(_) => replica.failed(true),
            Failure::Broken(_) | Failure::Busy(..) | Failure::Late(_) | Failure::Fault(_) => replica.failed(false),
            Failure::Refused(_) => {
                replica.succeeded();
                false
            }
        };
        if out {
            tracing::warn!(upstream = replica.address.shown(), at = %replica.at, "out of service: {}", failure.error());
            self.check_until_all_are_back();
        }
    }

    /// Health checks run only while a replica is out, and end with the pool.
    fn check_until_all_are_back(self: &Arc<Self>) {
        let mut checking = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *checking, true) {
            return;
        }
        let pool: Weak<Pool> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.check_those_out().await {
                    return;
                }
            }
        });
    }

    /// Whether some are still out.
    async fn check_those_out(&self) -> bool {
        let replicas = self.lookup.known();
        let due = replicas.iter().filter(|replica| replica.is_due());
        futures_util::future::join_all(due.map(|replica| replica.check())).await;
        let mut checking = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        *checking = replicas.iter().any(|replica| !replica.is_in());
        *checking
    }
}

/// The span of one attempt. It names the server, and nothing of the texts.
fn span(replica: &Replica, texts: usize, attempt: u32) -> Span {
    tracing::debug_span!(
        "remote",
        otel.kind = "client",
        otel.status_code = Empty,
        error.type = Empty,
        server.address = replica.address.host(),
        server.port = replica.address.port(),
        t2v.upstream.kind = replica.address.named_kind().map(|kind| kind.name),
        t2v.texts = texts,
        t2v.attempt = attempt,
    )
}

fn is_among(replica: &Arc<Replica>, tried: &[Arc<Replica>]) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(replica, other))
}
