//! One port for HTTP/1.1, h2c and gRPC. Surfaces only translate their wire format; this file binds them together:
//! readiness, the accept loop, shutdown.

mod answers;
mod auth;
mod classes;
mod connection;
mod cors;
mod decoding;
mod followed;
mod freed;
mod grpc;
mod health;
mod http;
mod inflight;
mod itself;
mod models;
mod observe;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::middleware;
use futures_util::FutureExt;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::answers::{AnswerRoom, hold_answer, keep};
pub use self::auth::Access;
use self::auth::guard;
use self::classes::Classes;
use self::connection::{Connections, Room, later};
pub use self::cors::Origins;
use self::inflight::{BodyRoom, hold_room};
pub use self::models::Readiness;
pub use self::tls::Tls;
use crate::backend::remote::itself::Itself;
use crate::backend::{Backend, Directory, Embedding, TextTokenizer};
use crate::contract::endpoint::Endpoints;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

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
    /// How long a body, or a gRPC message, may take to arrive, once there is room for it.
    pub max_body_wait: Duration,
    /// How long a connection may take for its TLS handshake, for its first byte, and for a head that has begun.
    pub max_head_wait: Duration,
    /// Bytes of a request's head: its target and its headers, 32 more for each of these.
    pub max_head_bytes: usize,
    /// Connections served at once.
    pub max_connections: usize,
    /// Bytes of a class: of its JSON, and of what is kept of it.
    pub max_class_bytes: usize,
    /// Bytes of request bodies in memory at once, of all requests that are being read or answered.
    pub max_inflight_bytes: usize,
    /// Bytes of text whose tokens one request may ask for; of token ids in a request, each counts as four.
    pub max_tokenize_bytes: usize,
    /// Bytes of vectors in memory at once, of all answers that are being made or sent.
    pub max_answer_bytes: usize,
    /// How long we wait for whoever is to read an answer.
    pub max_write_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body_bytes: 64 * 1024 * 1024,
            max_texts: 10_000,
            max_text_bytes: 4 * 1024 * 1024,
            max_wait: Duration::from_secs(45),
            max_body_wait: Duration::from_secs(60),
            max_head_wait: Duration::from_secs(10),
            max_head_bytes: 32 * 1024,
            max_connections: 8192,
            max_class_bytes: 1024 * 1024,
            max_inflight_bytes: 256 * 1024 * 1024,
            max_tokenize_bytes: 256 * 1024,
            max_answer_bytes: 128 * 1024 * 1024,
            max_write_wait: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Token ids in one request.
    fn most_token_ids(&self) -> usize {
        self.max_tokenize_bytes / size_of::<u32>()
    }

    /// Refuses a request with too many token ids.
    fn check_token_ids(&self, ids: usize) -> Result<()> {
        let most = self.most_token_ids();
        if ids > most {
            metrics().refused(Refusal::MaxTokenizeBytes);
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{ids} token ids in one request, {most} are allowed: send less at once or raise --max-tokenize-bytes, \
                     which is four times that"
                ),
            ));
        }
        Ok(())
    }
}

/// How the surfaces answer that come from elsewhere (OpenAI's, Ollama's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurfaceOptions {
    /// Vectors are scaled to length 1, as these APIs' own servers do; else they are as the profile makes them.
    pub normalize: bool,
}

impl Default for SurfaceOptions {
    fn default() -> Self {
        SurfaceOptions { normalize: true }
    }
}

/// What the module service is told by the operator, as Weaviate's module is by its environment.
#[derive(Debug, Clone, Default)]
pub struct ModuleOptions {
    /// Where texts are embedded when the class does not say, and which URLs mean this sidecar.
    pub endpoints: Endpoints,
    /// Objects' texts are lower-cased (`LOWERCASE_VECTORIZATION_INPUT`).
    pub lowercase_input: bool,
    /// The backends behind URLs that classes name; without, they may name none.
    pub upstreams: Option<Arc<dyn Directory>>,
}

/// What the surfaces share.
#[derive(Clone)]
struct Service {
    readiness: Readiness,
    limits: Limits,
    surfaces: SurfaceOptions,
    module: Arc<Module>,
    /// The model that is meant; `None` is the default one.
    model: Option<Arc<str>>,
    /// Who embeds instead of a model of this server.
    upstream: Option<Arc<dyn Backend>>,
    /// Turns of those who ask for tokens, not for vectors.
    tokenizing: Arc<Semaphore>,
    /// Room for answers, and for texts that come in streams.
    answers: AnswerRoom,
    bodies: BodyRoom,
}

/// So many ask the tokenizer at once for what it makes of a text: each keeps a thread busy.
const TOKENIZING: usize = 2;

/// What the module service needs beside the backend.
struct Module {
    endpoints: Endpoints,
    lowercase_input: bool,
    upstreams: Option<Arc<dyn Directory>>,
    classes: Classes,
    cuda_wanted: bool,
}

impl Service {
    fn new(
        readiness: Readiness,
        limits: Limits,
        surfaces: SurfaceOptions,
        options: ModuleOptions,
        (answers, bodies): (AnswerRoom, BodyRoom),
        cuda_wanted: bool,
    ) -> Service {
        let ModuleOptions { endpoints, lowercase_input, upstreams } = options;
        let classes = Classes::new(limits.max_class_bytes);
        let module = Module { endpoints, lowercase_input, upstreams, classes, cuda_wanted };
        let tokenizing = Arc::new(Semaphore::new(TOKENIZING));
        Service {
            readiness,
            limits,
            surfaces,
            module: Arc::new(module),
            model: None,
            upstream: None,
            tokenizing,
            answers,
            bodies,
        }
    }

    /// The same service, by the model of this name; an empty one is the model meant so far.
    fn of_model(&self, name: &str) -> Result<Service> {
        if name.is_empty() {
            return Ok(self.clone());
        }
        self.readiness.backend(Some(name))?;
        Ok(Service { model: Some(name.into()), ..self.clone() })
    }

    fn backend(&self) -> Result<Arc<dyn Backend>> {
        let own = self.readiness.backend(self.model.as_deref())?;
        Ok(self.upstream.clone().unwrap_or(own))
    }

    /// Embeds the texts of one request; a text over its limit is refused alone.
    async fn embed(&self, mut requests: Vec<EmbedRequest>) -> Result<Vec<Result<Embedding>>> {
        let backend = self.backend().inspect_err(|error| {
            if error.kind() == ErrorKind::Unavailable {
                metrics().refused(Refusal::NotReady);
            }
        })?;
        self.check_texts(requests.len())?;
        metrics().texts.add(requests.len() as u64);
        let deadline = Instant::now().checked_add(self.limits.max_wait);
        let held = self.answers.admit(requests.len(), backend.info().dimensions).await?;
        let trace = observe::current();
        for request in &mut requests {
            request.deadline = deadline;
            request.trace.clone_from(&trace);
        }
        let max = self.limits.max_text_bytes;
        let too_long: Vec<(usize, usize)> = requests
            .iter()
            .enumerate()
            .filter(|(_, request)| request.text.len() > max)
            .map(|(index, request)| (index, request.text.len()))
            .collect();
        requests.retain(|request| request.text.len() <= max);
        let mut results = if requests.is_empty() { Vec::new() } else { backend.embed(requests).await? };
        if let Some(held) = held {
            keep(held);
        }
        for (index, length) in too_long {
            metrics().refused(Refusal::MaxTextBytes);
            let message = format!("a text of {length} bytes, {max} are allowed: split it or raise --max-text-bytes");
            results.insert(index.min(results.len()), Err(Error::new(ErrorKind::TooLarge, message)));
        }
        Ok(results)
    }

    /// Refuses a number of dimensions that no vector of the model can have: there is neither such a vector nor a setting to
    /// ignore.
    fn check_dimensions(&self, wanted: i64) -> Result<()> {
        let model = self.backend()?.info().clone();
        match (usize::try_from(wanted).unwrap_or(0), model.dimensions) {
            (0, _) => Err(Error::invalid(format!("'dimensions' is {wanted}: use 1 or more, or leave it out"))),
            // Of an upstream that did not answer at start the length is not known before there is a vector.
            (wanted, Some(there_are)) if wanted > there_are => Err(beyond(wanted, there_are, &model.name)),
            _ => Ok(()),
        }
    }

    /// Refuses a request with too many texts or objects.
    fn check_texts(&self, texts: usize) -> Result<()> {
        let max = self.limits.max_texts;
        if texts > max {
            metrics().refused(Refusal::MaxTexts);
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

    /// Asks the model's tokenizer something, on a thread for blocking work, when it is this call's turn.
    ///
    /// # Errors
    /// `InvalidArgument` where the model is not here, `Overloaded` where its turn does not come in time.
    async fn with_tokenizer<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&TextTokenizer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let backend = self.backend()?;
        if backend.tokenizer().is_none() {
            return Err(Error::invalid(format!(
                "the tokens of {} are not known here, as its texts are embedded elsewhere or by two models: send texts",
                backend.info().name
            )));
        }
        let turn = tokio::time::timeout(self.limits.max_wait, self.tokenizing.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            metrics().refused(Refusal::MaxWait);
            return Err(Error::new(ErrorKind::Overloaded, "too many ask for tokens: try again later"));
        };
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            backend.tokenizer().map(ask)
        });
        let gone = || Error::internal("the tokenizer did not answer");
        asked.await.ok().flatten().ok_or_else(gone)?
    }

    async fn meta(&self) -> Result<Map<String, Value>> {
        let mut meta = self.backend()?.live_meta().await?.unwrap_or_default();
        let models: Vec<_> = self.readiness.listed().into_iter().map(|(name, _)| name).collect();
        for sidecar in own_blocks(&mut meta) {
            sidecar.insert("max_body_bytes".into(), json!(self.limits.max_body_bytes));
            sidecar.insert("max_texts".into(), json!(self.limits.max_texts));
            sidecar.insert("max_text_bytes".into(), json!(self.limits.max_text_bytes));
            sidecar.insert("max_class_bytes".into(), json!(self.limits.max_class_bytes));
            sidecar.insert("max_wait_seconds".into(), json!(self.limits.max_wait.as_secs_f64()));
            sidecar.insert("max_body_wait_seconds".into(), json!(self.limits.max_body_wait.as_secs_f64()));
            sidecar.insert("max_head_wait_seconds".into(), json!(self.limits.max_head_wait.as_secs_f64()));
            sidecar.insert("max_head_bytes".into(), json!(self.limits.max_head_bytes));
            sidecar.insert("max_connections".into(), json!(self.limits.max_connections));
            sidecar.insert("max_inflight_bytes".into(), json!(self.limits.max_inflight_bytes));
            sidecar.insert("max_tokenize_bytes".into(), json!(self.limits.max_tokenize_bytes));
            sidecar.insert("surface_normalize".into(), json!(self.surfaces.normalize));
            sidecar.insert("max_answer_bytes".into(), json!(self.limits.max_answer_bytes));
            sidecar.insert("max_write_wait_seconds".into(), json!(self.limits.max_write_wait.as_secs_f64()));
            sidecar.insert("models".into(), json!(models));
            sidecar.insert("cuda_ignored".into(), json!(self.module.cuda_wanted));
        }
        Ok(meta)
    }
}

/// The refusal of more dimensions than a model's vectors have.
fn beyond(wanted: usize, there_are: usize, model: &str) -> Error {
    Error::invalid(format!(
        "'dimensions' is {wanted}, but the vectors of {model} have {there_are}: ask for as many or fewer"
    ))
}

/// What this sidecar says of itself in its meta: once, or on each side of a pair.
fn own_blocks(meta: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let is_whole = meta.contains_key("sidecar");
    meta.iter_mut().filter_map(move |(name, value)| match name.as_str() {
        "sidecar" => value.as_object_mut(),
        "passage" | "query" if !is_whole => value.get_mut("sidecar")?.as_object_mut(),
        _ => None,
    })
}

/// When connections and the server end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// After this long a connection is asked to make room for a new one (`Connection: close`, GOAWAY), so that replicas
    /// added behind one address get traffic.
    pub max_connection_age: Duration,
    /// A connection without a request under way is closed after this long. Go clients give theirs up after 90 s; a server
    /// that closes first makes them see resets.
    pub max_connection_idle: Duration,
    /// From the wish to stop until new connections are refused: time for others to notice that the server is not ready.
    pub drain_delay: Duration,
    /// From the wish to stop until everything ends, finished or not.
    pub shutdown_grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            max_connection_age: Duration::from_secs(300),
            max_connection_idle: Duration::from_secs(150),
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
    /// How the surfaces that come from elsewhere answer.
    pub surfaces: SurfaceOptions,
    /// The module service.
    pub module: ModuleOptions,
    /// Ends of connections and of the server.
    pub lifetimes: Lifetimes,
    /// What a request must show.
    pub access: Access,
    /// Whose pages a browser lets read the answers; `None`: nobody's.
    pub cors: Option<Origins>,
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<Arc<Tls>>,
    /// How many files this process may have open, connections among them; `None`: not known.
    pub open_files: Option<u64>,
    /// The operator asks for a GPU (`ENABLE_CUDA`), which this build cannot use; `/meta` says so.
    pub cuda_wanted: bool,
    /// How this process knows what it asks itself, if it forwards.
    pub itself: Option<Itself>,
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
    let ServerOptions { mut limits, surfaces, module, lifetimes, .. } = options;
    let room = Room::of(limits.max_connections, options.open_files);
    if room.places < limits.max_connections {
        tracing::warn!(
            files = options.open_files,
            "{} connections are served at once, not {}: more open files are not allowed; see ulimit -n",
            room.places,
            limits.max_connections
        );
        limits.max_connections = room.places;
    }
    let (answers, bodies) = (AnswerRoom::new(limits), BodyRoom::new(limits));
    let rooms = (answers.clone(), bodies.clone());
    let service = Service::new(readiness.clone(), limits, surfaces, module, rooms, options.cuda_wanted);
    let router = http::router(service.clone()).merge(grpc::router(service).await.reset_fallback());
    let router = router.layer(middleware::from_fn_with_state(bodies, hold_room));
    // Outside of it, so that room is held for what comes out.
    let router = router.layer(middleware::from_fn(decoding::decode));
    let router = router.layer(middleware::from_fn_with_state(answers.clone(), hold_answer));
    let access = options.access.with_certificates(options.tls.as_ref().is_some_and(|tls| tls.asks_for_certificates()));
    let router = match access.asks() {
        true => router.layer(middleware::from_fn_with_state(access.clone(), guard)),
        false => router,
    };
    // Before it is asked for credentials: what a browser asks beforehand has none, and a refusal must be readable there too.
    let router = match &options.cors {
        Some(origins) => router.layer(origins.layer()),
        None => router,
    };
    let router = match options.itself {
        Some(itself) => router.layer(middleware::from_fn_with_state(itself, itself::refuse)),
        None => router,
    };
    let router = router.layer(middleware::from_fn(observe::observe));
    // Ends with this function.
    let mut following = JoinSet::new();
    following.spawn(access.follow());
    following.spawn(answers.give_up_unread());
    following.spawn(readiness.clone().look_after());
    following.spawn(freed::give_back());
    if let Some(tls) = &options.tls {
        following.spawn(tls.clone().follow());
    }
    let mut connections = Connections::new(router, options.tls, readiness.clone(), &limits, &lifetimes, room);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.accept(&listener) => {}
        }
    }
    readiness.draining();
    let deadline = later(tokio::time::Instant::now(), lifetimes.shutdown_grace);
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
