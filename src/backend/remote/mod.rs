//! Forwarding: texts go to another server, vectors come back, checked.
//!
//! | to find | look in |
//! |---|---|
//! | URL schemes, user-info, what may be shown | [`address`] |
//! | which addresses may be dialled (the SSRF guard) | [`guard`] |
//! | how many texts go into one request, learned | [`batch`] |
//! | replicas, balancing, health, attempts | [`pool`], [`retry`] |
//! | connections, TLS, one HTTP exchange | [`client`], [`resolve`], [`credentials`] |
//! | the wire formats | [`t2v`], [`sidecar`], [`tei`], [`openai`] |
//! | waiting at start, probing, `/meta` | [`startup`] |
//! | an upstream that is this sidecar | [`itself`] |
//! | upstreams that classes name | [`directory`] |
//!
//! # What a caller sees when an upstream misbehaves
//!
//! One replica, t2v kind; with more replicas what is tried again goes to another one. Kept by `tests/remote/remote_faults.rs`.
//!
//! | the upstream | tried again | the caller sees | text contains |
//! |---|---|---|---|
//! | answers slowly, in time | no | the vector | |
//! | never answers | no | deadline_exceeded 504 | `no answer within` |
//! | cannot be reached | yes | upstream 502 | `send POST request: Post` |
//! | closes without an answer | once | upstream 502 | `send POST request: Post` |
//! | breaks off in mid-answer | no | upstream 502 | `read response body` |
//! | 500, plain text | no | upstream 502 | `failed to parse vectorization response (status 500)` |
//! | 500, JSON error | no | upstream 502 | `fail with status 500: kaboom` |
//! | 502, HTML | yes | upstream 502 | `failed to parse vectorization response (status 502)` |
//! | 503 with Retry-After, then well | yes | the vector | |
//! | 429 with Retry-After, then well | yes | the vector | |
//! | 429 without Retry-After | no | overloaded 429 | `fail with status 429` |
//! | 422 | no | invalid_argument 400 | `fail with status 422` |
//! | 413 for one text | no | too_large 413 | `fail with status 413` |
//! | 401 | no | upstream 502 | `fail with status 401` |
//! | 307 | no | upstream 502 | `fail with status 307` |
//! | 200 without a vector | no | upstream 502 | `status 200 without a vector` |
//! | 200 with an empty vector | no | upstream 502 | `an empty vector` |
//! | 200 with NaN | no | upstream 502 | `failed to parse vectorization response (status 200)` |
//! | 200 with a number beyond float32 | no | upstream 502 | `no float32` |
//! | 200 with another length than before | no | upstream 502 | `2 dimensions, before they were 3` |
//! | 200, JSON cut short | no | upstream 502 | `failed to parse vectorization response (status 200)` |
//! | fails every other time (502) | yes | the vector | |
//! | DNS with one dead address | yes | the vector | |
//!
//! Nothing of this is ever cached, and nothing lasts longer than the deadline.

pub mod address;
pub mod batch;
pub mod client;
pub mod credentials;
pub mod directory;
pub mod guard;
pub mod itself;
pub mod openai;
pub mod pool;
pub mod resolve;
pub mod retry;
pub mod sidecar;
pub mod startup;
pub mod t2v;
pub mod tei;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use self::address::Kind;
use self::batch::{Learned, Size, batches};
use self::client::Tls;
use self::credentials::Credentials;
use self::itself::Itself;
use self::pool::Pool;
use self::resolve::{Resolve, System};
use super::{Backend, Embedding, ModelInfo};
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry;
use crate::telemetry::metrics::{Report, Source, UpstreamModel};

/// The name of a model whose upstream tells none, as the reference container.
const UNNAMED: &str = "upstream";

/// Models of one upstream that are served under their own names: what else it lists can be named in its URL.
const MODELS: usize = 64;

/// Lengths of vectors remembered: one for each `dimensions` that was asked for.
const LENGTHS: usize = 64;

/// How upstreams are asked. The same for all of them.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Certificates.
    pub tls: Tls,
    /// Tokens and headers by host.
    pub credentials: Credentials,
    /// For one attempt, its answer read.
    pub attempt_timeout: Duration,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For everything, where a request has no deadline of its own.
    pub total_timeout: Duration,
    /// Requests under way to one upstream.
    pub concurrency: usize,
    /// Names are looked up again after so long.
    pub refresh: Duration,
    /// How long an upstream may take to become ready at start; Weaviate's limit.
    pub startup_limit: Duration,
    /// How to know that an upstream is this sidecar; `None`: there is no server here.
    pub itself: Option<Itself>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions {
            resolver: Arc::new(System),
            tls: Tls::default(),
            credentials: Credentials::default(),
            attempt_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(45),
            concurrency: 64,
            refresh: Duration::from_secs(10),
            startup_limit: Duration::from_secs(120),
            itself: None,
        }
    }
}

/// What speaks at the other end, and what it can do.
#[derive(Debug)]
pub enum Speaks {
    /// One text per request, unless it is known to answer `texts`.
    T2v {
        /// Another sidecar.
        texts: bool,
    },
    /// gRPC.
    Sidecar {
        /// Which of its models is asked for; empty: its default one.
        model: String,
    },
    /// Batches of so many texts.
    Tei {
        /// `max_client_batch_size`.
        batch: usize,
    },
    /// OpenAI's API.
    OpenAi(openai::OpenAi),
}

impl Speaks {
    /// What it is, without what it can do.
    pub fn kind(&self) -> Kind {
        match self {
            Speaks::T2v { .. } => Kind::T2v,
            Speaks::Sidecar { .. } => Kind::Sidecar,
            Speaks::Tei { .. } => Kind::Tei,
            Speaks::OpenAi(_) => Kind::OpenAi,
        }
    }

    /// Texts in one request.
    fn batch(&self) -> usize {
        match self {
            Speaks::T2v { texts: false } => 1,
            Speaks::T2v { texts: true } | Speaks::Sidecar { .. } => sidecar::BATCH,
            Speaks::Tei { batch } => *batch,
            Speaks::OpenAi(_) => openai::BATCH,
        }
    }
}

/// Texts of a call that go into one request.
struct Part {
    texts: Vec<usize>,
    /// The halving it is of, where it is a half.
    of: Option<usize>,
}

/// A batch that was refused, and those of its halves that were accepted.
struct Halving {
    whole: Size,
    accepted: Vec<Size>,
}

/// A backend that asks another server. See the module.
pub struct Remote {
    pool: Arc<Pool>,
    speaks: OnceCell<Speaks>,
    /// Of the upstream, not of a replica: all of them serve one model.
    lengths: Mutex<HashMap<Option<i64>, usize>>,
    /// How much it takes at once.
    learned: Learned,
    total_timeout: Duration,
    info: ModelInfo,
    /// What the upstream's meta was at start.
    meta: Map<String, Value>,
}

impl Remote {
    /// An upstream of which nothing is known yet but what its URL says. The URL is the operator's own matter and no name:
    /// names go to every caller.
    fn new(pool: Arc<Pool>, speaks: Option<Speaks>, options: &RemoteOptions, fingerprint: String) -> Remote {
        let info = ModelInfo { name: UNNAMED.to_owned(), fingerprint, dimensions: None };
        Remote {
            pool,
            speaks: OnceCell::new_with(speaks),
            lengths: Mutex::default(),
            learned: Learned::default(),
            total_timeout: options.total_timeout,
            info,
            meta: Map::new(),
        }
    }

    /// Whether the upstream says what its model is called.
    pub fn names_its_model(&self) -> bool {
        self.info.name != UNNAMED
    }

    /// The names that the upstream's models have there, each with the backend that asks for it; the first is this one's
    /// where it has another name. Nothing is asked or embedded for it.
    pub fn models(self: &Arc<Self>) -> Vec<(String, Arc<Remote>)> {
        let told = self.meta.get("sidecar").and_then(|sidecar| sidecar.get("models")?.as_array());
        let told: Vec<&str> = told.into_iter().flatten().filter_map(Value::as_str).collect();
        let (own, others): (&[&str], Vec<&str>) = match self.speaks.get() {
            Some(Speaks::OpenAi(openai)) => (&[], openai.others.iter().map(String::as_str).collect()),
            Some(Speaks::T2v { texts: true } | Speaks::Sidecar { .. }) => {
                let (own, others) = told.split_at(told.len().min(1));
                (own, others.to_vec())
            }
            _ => (&[], Vec::new()),
        };
        let own = own.iter().map(|name| Some(((*name).to_owned(), self.clone())));
        let others = others.into_iter().map(|name| Some((name.to_owned(), self.of_model(name)?)));
        own.chain(others).flatten().filter(|(name, _)| *name != self.info.name).take(MODELS).collect()
    }

    /// The same upstream, asked for another of its models.
    fn of_model(&self, name: &str) -> Option<Arc<Remote>> {
        let (pool, speaks) = match self.speaks.get()? {
            Speaks::OpenAi(_) => (self.pool.clone(), Speaks::OpenAi(openai::OpenAi::new(name.to_owned()))),
            Speaks::Sidecar { .. } => (self.pool.clone(), Speaks::Sidecar { model: name.to_owned() }),
            Speaks::T2v { texts } => {
                let addresses = self.pool.addresses().iter().map(|address| address.of_model(name));
                let addresses = addresses.collect::<Option<Vec<_>>>()?;
                (Pool::new(addresses, None, self.pool.options().clone()), Speaks::T2v { texts: *texts })
            }
            Speaks::Tei { .. } => return None,
        };
        let fingerprint = startup::fingerprint(&format!("{name} of {}", self.info.fingerprint), &Map::new());
        let mut remote = Remote::new(pool, Some(speaks), self.pool.options(), fingerprint);
        name.clone_into(&mut remote.info.name);
        Some(Arc::new(remote))
    }

    /// What speaks there; found out now if it could not be at start.
    async fn speaks(&self) -> Result<&Speaks> {
        self.speaks.get_or_try_init(|| startup::detect(&self.pool)).await
    }

    async fn embed_all(&self, requests: &[EmbedRequest]) -> Result<Vec<Result<Embedding>>> {
        let speaks = self.speaks().await?;
        let mut results: Vec<Option<Result<Embedding>>> = vec![None; requests.len()];
        self.ask_for_all(speaks, requests, &mut results).await;
        let missing = || Err(Error::internal("the upstream gave no answer for the text"));
        let results: Vec<Result<Embedding>> = results
            .into_iter()
            .zip(requests)
            .map(|(result, request)| {
                let checked = result.unwrap_or_else(missing).and_then(|embedding| self.checked(embedding, request));
                checked.map_err(|error| self.named(error))
            })
            .collect();
        // When nothing succeeded and no text is to blame, it is the call that failed.
        let of_the_call = |result: &Result<Embedding>| match result {
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge),
        };
        if results.iter().all(of_the_call)
            && let Some(Err(error)) = results.first()
        {
            return Err(error.clone());
        }
        Ok(results)
    }

    /// Asks for the texts of a call, as many batches at once as there may be, and puts each text's answer in its place. A
    /// batch that is refused for its size or for one of its texts is halved until it is accepted or that text stands
    /// alone: in the first case at no cost, as the upstream did no work for it, in the second from the retries' budget.
    async fn ask_for_all(&self, speaks: &Speaks, requests: &[EmbedRequest], results: &mut [Option<Result<Embedding>>]) {
        let no_later = Instant::now() + self.total_timeout;
        let most = || self.learned.most(speaks.batch(), Instant::now());
        let mut halvings: Vec<Halving> = Vec::new();
        let whole = |texts| Part { texts, of: None };
        let mut waiting: VecDeque<Part> = batches(requests, 0..requests.len(), most()).into_iter().map(whole).collect();
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < self.pool.concurrency()
                && let Some(part) = waiting.pop_front()
            {
                let smaller = batches(requests, part.texts.iter().copied(), most());
                // Learned since it was cut.
                if smaller.len() > 1 {
                    smaller.into_iter().rev().for_each(|texts| waiting.push_front(whole(texts)));
                } else {
                    asked.push(self.ask(speaks, requests, part, no_later));
                }
            }
            let Some((part, answer)) = asked.next().await else { return };
            let Part { mut texts, of } = part;
            match answer {
                Ok(answers) => {
                    if let Some(halving) = of.and_then(|of| halvings.get_mut(of)) {
                        halving.accepted.push(Size::of(requests, &texts));
                        self.learn(halving);
                    }
                    let alone = texts.len() == 1;
                    for (text, answer) in texts.into_iter().zip(answers) {
                        // `errors` beside `vectors` has no kinds: alone, the text gets its error's status.
                        let untold = answer.is_err() && !alone && matches!(speaks, Speaks::T2v { .. });
                        if untold && self.pool.may_ask_again() {
                            waiting.push_back(whole(vec![text]));
                        } else {
                            results[text] = Some(answer);
                        }
                    }
                }
                Err(error) if texts.len() > 1 && self.may_be_halved(&error) => {
                    halvings.push(Halving { whole: Size::of(requests, &texts), accepted: Vec::new() });
                    let of = Some(halvings.len() - 1);
                    let second = texts.split_off(texts.len() / 2);
                    // In front: of many batches, few are refused before it is known what is accepted.
                    waiting.push_front(Part { texts: second, of });
                    waiting.push_front(Part { texts, of });
                }
                Err(error) => texts.into_iter().for_each(|text| results[text] = Some(Err(error.clone()))),
            }
        }
    }

    /// Whether the refused batch's halves may be asked for.
    fn may_be_halved(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::TooLarge => true,
            ErrorKind::InvalidArgument => self.pool.may_ask_again(),
            _ => false,
        }
    }

    fn learn(&self, halving: &Halving) {
        let [one, other] = *halving.accepted.as_slice() else { return };
        let half = Size { texts: one.texts.max(other.texts), bytes: one.bytes.max(other.bytes) };
        if self.learned.refused(halving.whole, half, Instant::now()) {
            tracing::info!(
                upstream = self.pool.shown(),
                texts = half.texts,
                bytes = half.bytes,
                "the upstream takes less at once than it was sent: smaller batches from now on"
            );
        }
    }

    /// The answers for one batch.
    async fn ask(
        &self,
        speaks: &Speaks,
        requests: &[EmbedRequest],
        part: Part,
        no_later: Instant,
    ) -> (Part, Result<Vec<Result<Embedding>>>) {
        let asked: Vec<&EmbedRequest> = part.texts.iter().map(|&text| &requests[text]).collect();
        let deadline = asked.first().and_then(|first| first.deadline).unwrap_or(no_later);
        let answer = match speaks {
            // Nothing of it is the upstream's fault.
            _ if Instant::now() >= deadline => {
                Err(Error::new(ErrorKind::DeadlineExceeded, "no time was left to ask for this text"))
            }
            Speaks::T2v { .. } if let [one] = asked[..] => {
                t2v::one(&self.pool, one, deadline).await.map(|embedding| vec![Ok(embedding)])
            }
            Speaks::T2v { .. } => t2v::many(&self.pool, &asked, deadline).await,
            Speaks::Sidecar { model } => sidecar::many(&self.pool, &asked, model, self.info.dimensions, deadline).await,
            Speaks::Tei { .. } => tei::many(&self.pool, &asked, deadline).await,
            Speaks::OpenAi(openai) => openai.many(&self.pool, &asked, deadline).await,
        };
        (part, answer)
    }

    /// Lets through only what can be a vector of this upstream: some finite numbers, as many as always.
    fn checked(&self, embedding: Embedding, request: &EmbedRequest) -> Result<Embedding> {
        let vector = &embedding.vector;
        let wrong = |text: String| Err(Error::new(ErrorKind::Upstream, text));
        if vector.is_empty() {
            return wrong("an empty vector".to_owned());
        }
        if let Some(position) = vector.iter().position(|value| !value.is_finite()) {
            return wrong(format!("the vector has {} at position {position}", vector[position]));
        }
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lengths.get(&request.dimensions).copied();
        match known {
            Some(length) if length != vector.len() => wrong(format!(
                "the vector has {} dimensions, before they were {length}: if the model there was changed, import again and \
                 restart this sidecar",
                vector.len()
            )),
            Some(_) => Ok(embedding),
            None => {
                if lengths.len() < LENGTHS {
                    lengths.insert(request.dimensions, vector.len());
                }
                drop(lengths);
                Ok(embedding)
            }
        }
    }

    /// The error with the upstream's name, if it has none yet.
    fn named(&self, error: Error) -> Error {
        let shown = self.pool.shown();
        if error.message().contains(self.pool.address().shown()) || error.message().contains(&shown) {
            return error;
        }
        Error::new(error.kind(), format!("{} (upstream {shown})", error.message()))
    }

    /// The `sidecar` block of `/meta`; what a sidecar at the other end says of itself goes into it.
    fn report(&self, theirs: Option<Value>) -> Value {
        let kind = self.speaks.get().map(|speaks| speaks.kind().as_str());
        let mut upstream = json!({
            "url": self.pool.shown(),
            "kind": kind,
            "replicas": self.pool.report(),
        });
        if let (Some(theirs), Some(object)) = (theirs, upstream.as_object_mut()) {
            object.insert("sidecar".into(), theirs);
        }
        json!({"upstream": upstream, "fingerprint": self.info.fingerprint})
    }

    fn with_report(&self, mut meta: Map<String, Value>) -> Map<String, Value> {
        let theirs = meta.remove("sidecar");
        meta.insert("sidecar".into(), self.report(theirs));
        meta
    }
}

impl Backend for Remote {
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            let named = |error: Error| self.named(error);
            if requests.is_empty() { Ok(Vec::new()) } else { self.embed_all(&requests).await.map_err(named) }
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// As it was at start.
    fn meta(&self) -> Map<String, Value> {
        self.with_report(self.meta.clone())
    }

    /// As the upstream has it now.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Map<String, Value>>>> {
        Box::pin(async move {
            let speaks = self.speaks().await?;
            Ok(startup::meta(&self.pool, speaks).await?.map(|meta| self.with_report(meta)))
        })
    }
}

impl Source for Remote {
    fn report(&self, to: &mut Report) {
        let theirs = |path: &str| self.meta.get("sidecar").and_then(|sidecar| sidecar.get(path)?.as_str());
        let known = self.lengths.lock().unwrap_or_else(PoisonError::into_inner).get(&None).copied();
        to.upstream(UpstreamModel {
            // The operator's own page: upstreams without names are told apart by their URLs.
            name: if self.names_its_model() { self.info.name.clone() } else { self.pool.shown() },
            profile: theirs("profile").unwrap_or_default().to_owned(),
            dimensions: known,
            dtype: theirs("precision").unwrap_or_default().to_owned(),
        });
    }
}

/// A vector as an upstream without token counts gives it.
fn embedding(vector: Vec<f32>, request: &EmbedRequest) -> Embedding {
    // A length that was asked for and not given: the setting had no effect.
    let asked = request.dimensions.and_then(|dimensions| usize::try_from(dimensions).ok()).filter(|&length| length > 0);
    let ignored = if asked.is_some_and(|length| length != vector.len()) { vec!["dimensions"] } else { Vec::new() };
    Embedding { vector: vector.into(), tokens: 0, truncated: false, ignored }
}

/// The trace context of an attempt, as headers.
fn trace_headers(request: &EmbedRequest) -> HeaderMap {
    let context = telemetry::context::outgoing(request.trace.as_deref()).into_iter();
    let header = |(name, value): (_, String)| Some((HeaderName::from_static(name), value.try_into().ok()?));
    context.filter_map(header).collect::<HeaderMap<HeaderValue>>()
}

fn traced(send: RequestBuilder, request: &EmbedRequest) -> RequestBuilder {
    send.headers(trace_headers(request))
}

/// What an error's body says, in a line: the places where servers put it, else its beginning.
fn said(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(entries) => {
            let texts: Vec<_> = entries.iter().filter_map(|entry| entry.get("msg")?.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(object) => object.get("message")?.as_str().map(str::to_owned),
        _ => None,
    };
    let found = ["error", "detail", "message"].iter().find_map(|name| detail(value.get(name)?));
    let text = found.unwrap_or_else(|| match value {
        Value::Null => String::from_utf8_lossy(&body[..body.len().min(1200)]).into_owned(),
        _ => String::new(),
    });
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_found_and_kept_short() {
        for (body, expected) in [
            (r#"{"error":"plain"}"#, "plain"),
            (r#"{"error":{"message":"nested","type":"x"}}"#, "nested"),
            (r#"{"detail":[{"msg":"Field required"},{"msg":"two"}]}"#, "Field required; two"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            ("<html>\n</html>", "<html> </html>"),
            ("", ""),
            ("{}", ""),
        ] {
            assert_eq!(said(body.as_bytes()), expected);
        }
        assert_eq!(said(&[b'x'; 5000]).len(), 300);
    }
}
