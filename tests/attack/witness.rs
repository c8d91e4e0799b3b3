//! A client that behaves well, and an orchestrator's probe: what they see while others attack.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::process::Connection;

/// No answer within this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// What nineteen of twenty queries may take at the most, and each probe's bound likewise.
const P95: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Witness {
    server: SocketAddr,
    seen: Seen,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    queries: Vec<Duration>,
    probes: Vec<Duration>,
    failures: Vec<String>,
}

impl Witness {
    pub(crate) fn start(server: SocketAddr) -> Witness {
        Witness { server, seen: Seen::default() }
    }

    /// Asks until then: queries on a connection that is kept, probes on a new one each, as orchestrators do.
    pub(crate) async fn watch_until(mut self, until: Instant) -> Seen {
        let mut kept = None;
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            let asked = Instant::now();
            match tokio::time::timeout(PATIENCE, query(self.server, &mut kept, number)).await {
                Ok(Ok(())) => self.seen.queries.push(asked.elapsed()),
                Ok(Err(error)) => self.seen.failures.push(format!("query {number}: {error}")),
                Err(_) => self.seen.failures.push(format!("query {number}: no answer within {PATIENCE:?}")),
            }
            self.probe(number).await;
            tokio::time::sleep(PAUSE).await;
        }
        self.seen
    }

    /// Probes only.
    pub(crate) async fn probe_until(mut self, until: Instant) -> Seen {
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            self.probe(number).await;
            tokio::time::sleep(PAUSE).await;
        }
        self.seen
    }

    async fn probe(&mut self, number: usize) {
        let asked = Instant::now();
        // Every path that an orchestrator may be told.
        let path = ["/.well-known/ready", "/.well-known/live", "/health"][number % 3];
        let probe = async { Connection::open(self.server).await.ok()?.get(path).await.ok() };
        match tokio::time::timeout(PATIENCE, probe).await {
            Ok(Some(answer)) if answer.status().is_success() => self.seen.probes.push(asked.elapsed()),
            Ok(Some(answer)) => self.seen.failures.push(format!("{path}: {}", answer.status())),
            Ok(None) => self.seen.failures.push(format!("{path}: the connection ended")),
            Err(_) => self.seen.failures.push(format!("{path}: no answer within {PATIENCE:?}")),
        }
    }
}

/// One query; a connection that the server has retired is replaced.
async fn query(server: SocketAddr, kept: &mut Option<Connection>, number: usize) -> Result<(), String> {
    let body =
        json!({"text": format!("which harbour is number {number}"), "config": {"task_type": "query"}}).to_string();
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(server).await.map_err(|error| error.to_string())?,
    };
    let answer = connection.post(body).await.map_err(|error| error.to_string())?;
    if answer.headers().get("connection").is_none_or(|value| value != "close") {
        *kept = Some(connection);
    }
    let value: Value = serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
    match value["vector"].as_array() {
        Some(vector) if answer.status() == 200 && vector.len() == 384 => Ok(()),
        _ => Err(format!("{}: {:.200}", answer.status(), value.to_string())),
    }
}

/// Of few times, all but the last: the machine itself may stand still for a moment.
fn share(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(((times.len().saturating_sub(1)) as f64 * share) as usize).copied().unwrap_or_default()
}

impl Seen {
    /// Every query and every probe succeeded, and soon enough.
    pub(crate) fn assert_served(&self) {
        self.assert_probed();
        assert!(self.queries.len() >= 5, "only {} queries were answered", self.queries.len());
        assert!(share(&self.queries, 0.95) <= P95, "queries: {self}");
    }

    /// Every probe succeeded, and soon enough.
    pub(crate) fn assert_probed(&self) {
        assert!(self.failures.is_empty(), "{} failures, the first: {}", self.failures.len(), self.failures[0]);
        assert!(self.probes.len() >= 5, "only {} probes were answered", self.probes.len());
        assert!(share(&self.probes, 0.95) <= P95, "probes: {self}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, times) in [("queries", &self.queries), ("probes", &self.probes)] {
            let [p50, p95, max] = [0.5, 0.95, 1.0].map(|part| share(times, part).as_millis());
            write!(f, "{} {name} p50 {p50} ms, p95 {p95}, max {max}; ", times.len())?;
        }
        write!(f, "{} failed", self.failures.len())
    }
}
