//! One server behind an upstream's name: where it is, what is under way there, and whether it is in service.
//!
//! A replica that cannot be reached is out at once, one that fails otherwise after [`FAILURES`] in a row, for a second,
//! then longer each time. It returns when it answers a health check, not by trying it on a caller's text.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::header::HeaderMap;

use super::base_url::Address;
use super::client::{self, Asked};

/// Failures in a row after which a replica is out.
const FAILURES: u32 = 3;

/// A replica is out for so long the first time, twice as long each further time, up to the second.
const FIRST_OUT: Duration = Duration::from_secs(1);
const LONGEST_OUT: Duration = Duration::from_secs(30);

/// After so long without trouble, a replica's past is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How long a health check may take.
const CHECK: Duration = Duration::from_millis(500);

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

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers are credentials.
        f.debug_struct("Replica").field("address", &self.address).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Replica {
    /// A server nothing was asked of yet.
    pub fn new(address: Address, at: SocketAddr, client: Client, headers: HeaderMap) -> Replica {
        Replica {
            address,
            at,
            client,
            headers: RwLock::new(headers),
            in_flight: AtomicUsize::new(0),
            health: Mutex::default(),
        }
    }

    /// The credentials to send.
    pub fn headers(&self) -> HeaderMap {
        self.headers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the credentials: token files may have changed.
    pub fn set_headers(&self, headers: HeaderMap) {
        *self.headers.write().unwrap_or_else(PoisonError::into_inner) = headers;
    }

    /// Requests under way there.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is in service.
    pub fn is_in(&self) -> bool {
        self.health().out_until.is_none()
    }

    /// It gave an answer that stands.
    pub fn succeeded(&self) {
        let mut health = self.health();
        health.failures = 0;
        if health.returned.is_some_and(|returned| returned.elapsed() > FORGIVEN) {
            *health = Health::default();
        }
    }

    /// It failed; `at_once`: so badly that it is out. Whether this put it out.
    pub fn failed(&self, at_once: bool) -> bool {
        let mut health = self.health();
        health.failures += 1;
        if health.out_until.is_some() || !(at_once || health.failures >= FAILURES) {
            return false;
        }
        health.put_out();
        true
    }

    /// Whether it is out and has been for so long that it may be asked again.
    pub fn is_due(&self) -> bool {
        self.health().out_until.is_some_and(|until| until <= Instant::now())
    }

    /// A health check of a replica that is out: it returns, or stays out for longer.
    pub async fn check(&self) {
        let answers = self.is_well().await;
        let mut health = self.health();
        if answers {
            let times_out = health.times_out;
            *health = Health { times_out, returned: Some(Instant::now()), ..Health::default() };
            tracing::info!(upstream = self.address.shown(), at = %self.at, "back in service");
        } else {
            health.put_out();
        }
    }

    /// Whether it answers at its health path with anything but trouble.
    async fn is_well(&self) -> bool {
        let url = self.address.below(self.address.kind.health);
        let request = self.client.get(url).headers(self.headers());
        client::exchange(request, &Asked::new("health check"), CHECK).await.is_ok_and(|answer| answer.status < 500)
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
#[derive(Debug)]
pub struct Lease(Arc<Replica>);

impl Lease {
    /// Counts one more request.
    pub fn new(replica: Arc<Replica>) -> Lease {
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(replica)
    }

    /// The replica.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
