//! One port for HTTP/1.1, h2c and gRPC. Surfaces only translate their wire format; this file binds them together:
//! readiness, the accept loop, shutdown.

mod classes;
mod connection;
mod grpc;
mod health;
mod http;
mod inflight;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::middleware;
use futures_util::FutureExt;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::classes::Classes;
use self::connection::Connections;
use self::inflight::{BodyRoom, hold_room};
use crate::backend::{Backend, Embedding};
use crate::contract::endpoint::Endpoints;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};

/// Limits on what one request may carry. An answer that refuses names the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an HTTP body or of a gRPC message we accept.
    pub max_body_bytes: usize,
    /// Texts, or objects, of one request.
    pub max_texts: usize,
    /// Bytes of one text.
    pub max_text_bytes: usize,
    /// How long a request may wait for its turn. Weaviate gives a request up after 50 s.
    pub max_wait: Duration,
    /// Connections served at once.
    pub max_connections: usize,
    /// Bytes of request bodies in memory at once, of all requests that are being read or answered.
    pub max_inflight_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body_bytes: 64 * 1024 * 1024,
            max_texts: 10_000,
            max_text_bytes: 4 * 1024 * 1024,
            max_wait: Duration::from_secs(45),
            max_connections: 8192,
            max_inflight_bytes: 256 * 1024 * 1024,
        }
    }
}

/// What the module service is told by the operator, as Weaviate's module is by its environment.
#[derive(Debug, Clone, Default)]
pub struct ModuleOptions {
    /// Where texts are embedded when the class does not say, and which URLs mean this sidecar.
    pub endpoints: Endpoints,
    /// Objects' texts are lower-cased (`LOWERCASE_VECTORIZATION_INPUT`).
    pub lowercase_input: bool,
}

/// Where the server is in its life.
#[derive(Clone)]
enum Phase {
    /// The port is bound, nothing can be embedded yet; the text says why.
    Starting(Arc<str>),
    /// Loaded and warmed.
    Ready(Arc<dyn Backend>),
    /// Stopping: what is in flight is finished.
    Draining(Arc<dyn Backend>),
}

/// The server's readiness, shared by every surface: a latch that goes from starting to ready to draining.
#[derive(Clone)]
pub struct Readiness {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness { phase: Arc::new(watch::Sender::new(Phase::Starting("the model is being loaded".into()))) }
    }
}

impl Readiness {
    /// Not ready yet, for the given reason.
    pub fn starting(&self, reason: &str) {
        self.phase.send_replace(Phase::Starting(reason.into()));
    }

    /// Ready: the backend is loaded and warmed.
    pub fn ready(&self, backend: Arc<dyn Backend>) {
        self.phase.send_replace(Phase::Ready(backend));
    }

    /// No longer ready; requests that still arrive are served.
    pub fn draining(&self) {
        self.phase.send_modify(|phase| {
            if let Phase::Ready(backend) = phase {
                *phase = Phase::Draining(backend.clone());
            }
        });
    }

    /// Why the server is not ready, or `None` when it is.
    fn reason(&self) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Starting(reason) => Some(reason.to_string()),
            Phase::Ready(_) => None,
            Phase::Draining(_) => Some("the server is shutting down".to_owned()),
        }
    }

    fn backend(&self) -> Result<Arc<dyn Backend>> {
        match &*self.phase.borrow() {
            Phase::Starting(reason) => Err(Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))),
            Phase::Ready(backend) | Phase::Draining(backend) => Ok(backend.clone()),
        }
    }

    fn is_draining(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Draining(_))
    }

    fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

/// What the surfaces share.
#[derive(Clone)]
struct Service {
    readiness: Readiness,
    limits: Limits,
    module: Arc<Module>,
}

/// What the module service needs beside the backend.
struct Module {
    endpoints: Endpoints,
    lowercase_input: bool,
    classes: Classes,
}

impl Service {
    /// Embeds the texts of one request; a text over its limit is refused alone.
    async fn embed(&self, mut requests: Vec<EmbedRequest>) -> Result<Vec<Result<Embedding>>> {
        let backend = self.readiness.backend()?;
        self.check_texts(requests.len())?;
        let deadline = Instant::now() + self.limits.max_wait;
        for request in &mut requests {
            request.deadline = Some(deadline);
        }
        let max = self.limits.max_text_bytes;
        let too_long: Vec<(usize, usize)> = requests
            .iter()
            .enumerate()
            .filter(|(_, request)| request.text.len() > max)
            .map(|(index, request)| (index, request.text.len()))
            .collect();
        if too_long.is_empty() {
            return backend.embed(requests).await;
        }
        requests.retain(|request| request.text.len() <= max);
        let mut results = if requests.is_empty() { Vec::new() } else { backend.embed(requests).await? };
        for (index, length) in too_long {
            let message = format!("a text of {length} bytes, {max} are allowed: split it or raise --max-text-bytes");
            results.insert(index.min(results.len()), Err(Error::new(ErrorKind::TooLarge, message)));
        }
        Ok(results)
    }

    /// Refuses a request with too many texts or objects.
    fn check_texts(&self, texts: usize) -> Result<()> {
        let max = self.limits.max_texts;
        if texts > max {
            let message =
                format!("{texts} texts in one request, {max} are allowed: send less at once or raise --max-texts");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    async fn embed_one(&self, request: EmbedRequest) -> Result<Embedding> {
        let mut results = self.embed(vec![request]).await?;
        results.pop().unwrap_or_else(|| Err(Error::internal("the backend gave no answer for the text")))
    }

    fn meta(&self) -> Result<Map<String, Value>> {
        let mut meta = self.readiness.backend()?.meta();
        if let Some(Value::Object(sidecar)) = meta.get_mut("sidecar") {
            sidecar.insert("max_body_bytes".into(), json!(self.limits.max_body_bytes));
            sidecar.insert("max_texts".into(), json!(self.limits.max_texts));
            sidecar.insert("max_text_bytes".into(), json!(self.limits.max_text_bytes));
            sidecar.insert("max_wait_seconds".into(), json!(self.limits.max_wait.as_secs_f64()));
            sidecar.insert("max_connections".into(), json!(self.limits.max_connections));
            sidecar.insert("max_inflight_bytes".into(), json!(self.limits.max_inflight_bytes));
        }
        Ok(meta)
    }
}

/// When connections and the server end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// After this long a connection is asked to make room for a new one (`Connection: close`, GOAWAY), so that replicas
    /// added behind one address get traffic.
    pub max_connection_age: Duration,
    /// From the wish to stop until new connections are refused: time for others to notice that the server is not ready.
    pub drain_delay: Duration,
    /// From the wish to stop until everything ends, finished or not.
    pub shutdown_grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            max_connection_age: Duration::from_secs(300),
            drain_delay: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// Everything [`run`] can be told.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Limits on requests.
    pub limits: Limits,
    /// The module service.
    pub module: ModuleOptions,
    /// Ends of connections and of the server.
    pub lifetimes: Lifetimes,
}

/// Serves on a bound listener until `shutdown` resolves, then drains: unready at once, no new connections after
/// [`Lifetimes::drain_delay`], what is in flight finished within [`Lifetimes::shutdown_grace`].
///
/// Live as soon as this is called; ready when `readiness` says so.
pub async fn run(
    listener: TcpListener,
    readiness: Readiness,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let ServerOptions { limits, module: ModuleOptions { endpoints, lowercase_input }, lifetimes } = options;
    let module = Arc::new(Module { endpoints, lowercase_input, classes: Classes::default() });
    let service = Service { readiness: readiness.clone(), limits, module };
    let router = http::router(service.clone()).merge(grpc::router(service).await.reset_fallback());
    let router = router.layer(middleware::from_fn_with_state(BodyRoom::new(limits), hold_room));
    let mut connections =
        Connections::new(router, readiness.clone(), limits.max_connections, lifetimes.max_connection_age);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.accept(&listener) => {}
        }
    }
    readiness.draining();
    let deadline = tokio::time::Instant::now() + lifetimes.shutdown_grace;
    let mut refusing = std::pin::pin!(tokio::time::sleep(lifetimes.drain_delay.min(lifetimes.shutdown_grace)));
    loop {
        tokio::select! {
            () = &mut refusing => break,
            () = connections.accept(&listener) => {}
        }
    }
    // Whoever waits in the system's queue came in time.
    while connections.accept(&listener).now_or_never().is_some() {}
    drop(listener);
    match connections.finish(deadline).await {
        0 => tracing::info!("stopped: nothing was left undone"),
        left => tracing::warn!("stopped: {left} connections were cut off after {:?}", lifetimes.shutdown_grace),
    }
    Ok(())
}
