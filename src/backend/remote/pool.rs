//! The replicas behind one upstream: found by name, chosen by load, taken out when sick, asked again when they recover.
//!
//! Of two replicas picked by chance the one with less in flight is taken ("power of two choices"). This is a few lines of
//! our own rather than tower's `Balance`: a retry must go to a replica this request has not tried yet, a replica must
//! leave and return while requests are under way, and a caller who leaves must end its request where it runs, all of
//! which `Balance`, with its one queue behind a worker, hides.
//!
//! A replica that cannot be reached is out at once, one that fails otherwise after [`FAILURES`] in a row, for a second,
//! then longer each time. It returns when it answers a health check, not by trying it on a caller's text. When all are
//! out, all are in: an answer that may fail beats one that must.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use reqwest::Client;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::address::{Address, Kind};
use super::guard::{self, Allowed};
use super::retry::{ATTEMPTS, Budget, Failure};
use super::{RemoteOptions, client};
use crate::contract::request::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::{Refusal, Stage};
use crate::telemetry::metrics::metrics;

/// Failures in a row after which a replica is out.
const FAILURES: u32 = 3;

/// A replica is out for so long the first time, twice as long each further time, up to the second.
const FIRST_OUT: Duration = Duration::from_secs(1);
const LONGEST_OUT: Duration = Duration::from_secs(30);

/// After so long without trouble, a replica's past is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How long a health check may take.
const CHECK: Duration = Duration::from_millis(500);

/// Pauses before a replica is tried again when no other is left.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// One server behind an upstream's name.
pub struct Replica {
    /// The base URL it came from.
    pub address: Address,
    /// Where it is.
    pub at: SocketAddr,
    /// Dials `at` only.
    pub client: Client,
    /// Credentials, read again now and then.
    headers: RwLock<HeaderMap>,
    in_flight: AtomicUsize,
    health: Mutex<Health>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    times_out: u32,
    /// Out, and not asked again before then.
    out_until: Option<Instant>,
    returned: Option<Instant>,
}

impl Replica {
    /// The credentials to send.
    pub fn headers(&self) -> HeaderMap {
        self.headers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in(&self) -> bool {
        self.health().out_until.is_none()
    }

    fn succeeded(&self) {
        let mut health = self.health();
        health.failures = 0;
        if health.returned.is_some_and(|returned| returned.elapsed() > FORGIVEN) {
            *health = Health::default();
        }
    }

    /// Whether this put it out.
    fn failed(&self, at_once: bool) -> bool {
        let mut health = self.health();
        health.failures += 1;
        if health.out_until.is_some() || !(at_once || health.failures >= FAILURES) {
            return false;
        }
        health.put_out();
        true
    }
}

impl Health {
    fn put_out(&mut self) {
        let length = FIRST_OUT.saturating_mul(1 << self.times_out.min(10)).min(LONGEST_OUT);
        self.out_until = Some(Instant::now() + length);
        self.times_out += 1;
    }
}

/// Counts a request on its replica until it ends or is dropped.
struct Lease(Arc<Replica>);

impl Lease {
    fn new(replica: Arc<Replica>) -> Lease {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(replica)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

type Replicas = Arc<[Arc<Replica>]>;

/// See the module.
pub struct Pool {
    addresses: Vec<Address>,
    /// `None`: the operator named the upstream himself.
    guard: Option<Arc<Allowed>>,
    options: RemoteOptions,
    /// And when their names were last looked up.
    replicas: RwLock<(Replicas, Option<Instant>)>,
    looking: tokio::sync::Mutex<()>,
    checking: Mutex<bool>,
    budget: Budget,
    slots: Semaphore,
    passage_slots: Semaphore,
    chance: (RandomState, AtomicU64),
}

impl Pool {
    /// The replicas of one upstream. Nothing is looked up or dialled yet.
    pub fn new(addresses: Vec<Address>, guard: Option<Arc<Allowed>>, options: RemoteOptions) -> Arc<Pool> {
        let slots = options.concurrency.max(1);
        Arc::new(Pool {
            addresses,
            guard,
            replicas: RwLock::new((Arc::new([]), None)),
            looking: tokio::sync::Mutex::default(),
            checking: Mutex::new(false),
            budget: Budget::new(slots),
            slots: Semaphore::new(slots),
            // Queries have a quarter to themselves: an import must not make them wait behind it.
            passage_slots: Semaphore::new((slots - slots / 4).max(1)),
            chance: (RandomState::new(), AtomicU64::new(0)),
            options,
        })
    }

    /// The first of the base URLs: what the others are replicas of.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// The base URLs as people may see them.
    pub fn shown(&self) -> String {
        self.addresses.iter().map(Address::shown).collect::<Vec<_>>().join(",")
    }

    /// Every base URL.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// How all upstreams are asked.
    pub fn options(&self) -> &RemoteOptions {
        &self.options
    }

    /// Requests that may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.options.concurrency.max(1)
    }

    /// For `/meta`: where each replica is and how it does.
    pub fn report(&self) -> Value {
        let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner).0.clone();
        let report = |replica: &Arc<Replica>| {
            json!({
                "url": replica.address.shown(),
                "address": replica.at.to_string(),
                "in_flight": replica.in_flight.load(Ordering::Relaxed),
                "in_service": replica.is_in(),
            })
        };
        replicas.iter().map(report).collect()
    }

    /// The replicas in the order in which to ask them a question that is no text, those in service first.
    pub async fn in_turn(self: &Arc<Self>, deadline: Instant) -> Result<Vec<Arc<Replica>>> {
        let replicas = self.replicas(deadline).await?;
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
                let replicas = self.replicas(deadline).await?;
                let replica = self.pick(&replicas, &tried)?;
                tried.push(replica.clone());
                let others = replicas.iter().any(|other| other.is_in() && !is_among(other, &tried));
                (Lease::new(replica), others)
            };
            let begun = Instant::now();
            let limit = deadline.saturating_duration_since(begun).min(self.options.attempt_timeout);
            let span = span(&lease.0, texts, attempts + 1);
            let outcome = attempt(lease.0.clone(), limit).instrument(span.clone()).await;
            metrics().stage(Stage::Remote, begun.elapsed());
            let failure = match outcome {
                Ok(answer) => {
                    lease.0.succeeded();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            metrics().upstream_error(failure.label());
            span.record("otel.status_code", "ERROR").record("error.type", failure.label().as_str());
            drop(span);
            self.note(&lease.0, &failure);
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
            Error::new(ErrorKind::Overloaded, message)
        })
    }

    /// The replicas as the names have them now. Names are looked up again while requests go on with what is known.
    async fn replicas(self: &Arc<Self>, deadline: Instant) -> Result<Replicas> {
        let known = || self.replicas.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (replicas, looked_up) = known();
        let fresh = looked_up.is_some_and(|at| at.elapsed() < self.options.refresh);
        if fresh && !replicas.is_empty() {
            return Ok(replicas);
        }
        if !replicas.is_empty() {
            if self.looking.try_lock().is_ok() {
                // So that those who come meanwhile do not start another.
                self.replicas.write().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
                let pool = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = pool.look_up().await {
                        tracing::warn!("{error}: going on with the addresses known before");
                    }
                });
            }
            return Ok(replicas);
        }
        let first = async {
            let _one_at_a_time = self.looking.lock().await;
            let (replicas, _) = known();
            if replicas.is_empty() { self.look_up().await } else { Ok(replicas) }
        };
        let late = |_| {
            Error::new(
                ErrorKind::DeadlineExceeded,
                format!("upstream {}: its name was not found in time", self.shown()),
            )
        };
        tokio::time::timeout_at(deadline.into(), first).await.map_err(late)?
    }

    /// Looks every name up, checks every address, and keeps the replicas that are still there.
    async fn look_up(&self) -> Result<Replicas> {
        let before = self.replicas.read().unwrap_or_else(PoisonError::into_inner).0.clone();
        let mut replicas: Vec<Arc<Replica>> = Vec::new();
        let mut problem = None;
        let mut seen = HashSet::new();
        for address in &self.addresses {
            let found = self.ips(address).await;
            let ips = found.unwrap_or_else(|error| {
                problem = Some(error);
                Vec::new()
            });
            for ip in ips {
                let at = SocketAddr::new(ip, address.port());
                if !seen.insert((address.shown().to_owned(), at)) {
                    continue;
                }
                match self.replica(&before, address, at) {
                    Ok(replica) => replicas.push(replica),
                    Err(error) => problem = Some(error),
                }
            }
        }
        if let Some(refusal) = problem.take_if(|problem| problem.kind() == ErrorKind::PermissionDenied) {
            return Err(refusal);
        }
        if replicas.is_empty() {
            return Err(problem.unwrap_or_else(|| {
                Error::new(ErrorKind::Upstream, format!("upstream {}: its name has no address", self.shown()))
            }));
        }
        let replicas: Replicas = replicas.into();
        *self.replicas.write().unwrap_or_else(PoisonError::into_inner) = (replicas.clone(), Some(Instant::now()));
        Ok(replicas)
    }

    async fn ips(&self, address: &Address) -> Result<Vec<IpAddr>> {
        if let Some(allowed) = &self.guard {
            allowed.may_resolve(address)?;
        }
        if let Some(ip) = address.literal() {
            return Ok(vec![ip]);
        }
        let failed = |error: std::io::Error| match &self.guard {
            // Users who may not name a host are not told whether there is one.
            Some(allowed) if !allowed.knows(address) => guard::refused(address),
            _ => {
                let text = format!("upstream {}: its name cannot be looked up: {error}", address.shown());
                Error::new(ErrorKind::Upstream, text)
            }
        };
        self.options.resolver.resolve(address.host()).await.map_err(failed)
    }

    /// The guard stands here: no client for an address that may not be dialled.
    fn replica(&self, before: &[Arc<Replica>], address: &Address, at: SocketAddr) -> Result<Arc<Replica>> {
        match &self.guard {
            Some(allowed) => allowed.check(address, at.ip(), self.options.credentials.go_to(address))?,
            None => guard::never(address, at.ip())?,
        }
        let headers = self.options.credentials.headers(address)?;
        if let Some(known) = before.iter().find(|replica| replica.at == at && replica.address == *address) {
            *known.headers.write().unwrap_or_else(PoisonError::into_inner) = headers;
            return Ok(known.clone());
        }
        Ok(Arc::new(Replica {
            client: client::client(address, at, &self.options.tls, self.options.connect_timeout)?,
            address: address.clone(),
            at,
            headers: RwLock::new(headers),
            in_flight: AtomicUsize::new(0),
            health: Mutex::default(),
        }))
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
        let load = |index: usize| choice.get(index).map(|replica| replica.in_flight.load(Ordering::Relaxed));
        let chosen = if load(second) < load(first) { second } else { first };
        let none = || Error::new(ErrorKind::Upstream, format!("upstream {}: no replica", self.shown()));
        choice.get(chosen).map(|&replica| replica.clone()).ok_or_else(none)
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
        let replicas = self.replicas.read().unwrap_or_else(PoisonError::into_inner).0.clone();
        let due = |replica: &&Arc<Replica>| replica.health().out_until.is_some_and(|until| until <= Instant::now());
        futures_util::future::join_all(replicas.iter().filter(due).map(|replica| async move {
            let answers = is_well(replica).await;
            let mut health = replica.health();
            if answers {
                let times_out = health.times_out;
                *health = Health { times_out, returned: Some(Instant::now()), ..Health::default() };
                tracing::info!(upstream = replica.address.shown(), at = %replica.at, "back in service");
            } else {
                health.put_out();
            }
        }))
        .await;
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
        t2v.upstream.kind = replica.address.kind.map(Kind::as_str),
        t2v.texts = texts,
        t2v.attempt = attempt,
    )
}

fn is_among(replica: &Arc<Replica>, tried: &[Arc<Replica>]) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(replica, other))
}

/// Whether a server answers at its health path with anything but trouble.
async fn is_well(replica: &Replica) -> bool {
    let url = replica.address.below(match replica.address.kind {
        Some(Kind::Tei) => "/health",
        Some(Kind::OpenAi) => "/models",
        Some(Kind::T2v | Kind::Sidecar) | None => "/.well-known/ready",
    });
    let request = replica.client.get(url).headers(replica.headers());
    client::exchange(request, "health check", CHECK).await.is_ok_and(|answer| answer.status < 500)
}
