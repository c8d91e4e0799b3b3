//! Forwarding: texts go to another server, vectors come back, checked.
//!
//! | to find | look in |
//! |---|---|
//! | URL schemes, user-info, what may be shown | [`address`] |
//! | which addresses may be dialled (the SSRF guard) | [`guard`] |
//! | replicas, balancing, health, attempts | [`pool`], [`retry`] |
//! | connections, TLS, one HTTP exchange | [`client`], [`resolve`], [`credentials`] |
//! | the wire formats | [`t2v`], [`sidecar`], [`tei`], [`openai`] |
//! | waiting at start, probing, `/meta` | [`startup`] |
//! | upstreams that classes name | [`directory`] |
//!
//! # What a caller sees when an upstream misbehaves
//!
//! One replica, t2v kind; with more replicas what is tried again goes to another one. Kept by `tests/remote_faults.rs`.
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
pub mod client;
pub mod credentials;
pub mod directory;
pub mod guard;
pub mod openai;
pub mod pool;
pub mod resolve;
pub mod retry;
pub mod sidecar;
pub mod startup;
pub mod t2v;
pub mod tei;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use self::address::Kind;
use self::client::Tls;
use self::credentials::Credentials;
use self::pool::Pool;
use self::resolve::{Resolve, System};
use super::{Backend, Embedding, ModelInfo};
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry;
use crate::telemetry::metrics::{Report, Source, UpstreamModel};

/// Bytes of text in one request, where several go into one.
const BATCH_BYTES: usize = 1024 * 1024;

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
    Sidecar,
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
            Speaks::Sidecar => Kind::Sidecar,
            Speaks::Tei { .. } => Kind::Tei,
            Speaks::OpenAi(_) => Kind::OpenAi,
        }
    }

    /// Texts in one request.
    fn batch(&self) -> usize {
        match self {
            Speaks::T2v { texts: false } => 1,
            Speaks::T2v { texts: true } | Speaks::Sidecar => sidecar::BATCH,
            Speaks::Tei { batch } => *batch,
            Speaks::OpenAi(_) => openai::BATCH,
        }
    }
}

/// A backend that asks another server. See the module.
pub struct Remote {
    pool: Arc<Pool>,
    speaks: OnceCell<Speaks>,
    /// Of the upstream, not of a replica: all of them serve one model.
    lengths: Mutex<HashMap<Option<i64>, usize>>,
    total_timeout: Duration,
    info: ModelInfo,
    /// What the upstream's meta was at start.
    meta: Map<String, Value>,
}

impl Remote {
    /// An upstream of which nothing is known yet but what its URL says.
    fn new(pool: Arc<Pool>, speaks: Option<Speaks>, options: &RemoteOptions, fingerprint: String) -> Remote {
        let info = ModelInfo { name: pool.shown(), fingerprint, dimensions: 0 };
        Remote {
            pool,
            speaks: OnceCell::new_with(speaks),
            lengths: Mutex::default(),
            total_timeout: options.total_timeout,
            info,
            meta: Map::new(),
        }
    }

    /// What speaks there; found out now if it could not be at start.
    async fn speaks(&self) -> Result<&Speaks> {
        self.speaks.get_or_try_init(|| startup::detect(&self.pool)).await
    }

    async fn embed_all(&self, requests: &[EmbedRequest]) -> Result<Vec<Result<Embedding>>> {
        let speaks = self.speaks().await?;
        let batches = batches(requests, speaks.batch());
        let answers = batches.into_iter().map(|batch| self.batch(speaks, requests, batch));
        let answers: Vec<_> =
            futures_util::stream::iter(answers).buffer_unordered(self.pool.concurrency()).collect().await;
        let missing = || Err(Error::internal("the upstream gave no answer for the text"));
        let mut results: Vec<Option<Result<Embedding>>> = vec![None; requests.len()];
        for (text, answer) in answers.into_iter().flatten() {
            results[text] = Some(answer.and_then(|embedding| self.checked(embedding, &requests[text])));
        }
        let results: Vec<Result<Embedding>> = results
            .into_iter()
            .map(|result| result.unwrap_or_else(missing).map_err(|error| self.named(error)))
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

    /// The answers for some texts of a call. A batch that is refused for one of its texts is halved until that text
    /// stands alone.
    async fn batch(
        &self,
        speaks: &Speaks,
        requests: &[EmbedRequest],
        texts: Vec<usize>,
    ) -> Vec<(usize, Result<Embedding>)> {
        let mut answers = Vec::with_capacity(texts.len());
        let mut parts = vec![texts];
        while let Some(mut part) = parts.pop() {
            let Some(&first) = part.first() else { continue };
            let asked: Vec<&EmbedRequest> = part.iter().map(|&text| &requests[text]).collect();
            let deadline = requests[first].deadline.unwrap_or_else(|| Instant::now() + self.total_timeout);
            let answer = match speaks {
                Speaks::T2v { .. } if asked.len() == 1 => {
                    t2v::one(&self.pool, asked[0], deadline).await.map(|embedding| vec![Ok(embedding)])
                }
                Speaks::T2v { .. } => t2v::many(&self.pool, &asked, deadline).await,
                Speaks::Sidecar => sidecar::many(&self.pool, &asked, deadline).await,
                Speaks::Tei { .. } => tei::many(&self.pool, &asked, deadline).await,
                Speaks::OpenAi(openai) => openai.many(&self.pool, &asked, deadline).await,
            };
            match answer {
                Ok(results) => {
                    for (text, result) in part.into_iter().zip(results) {
                        // `errors` beside `vectors` has no kinds: alone, the text gets its error's status.
                        if result.is_err()
                            && asked.len() > 1
                            && matches!(speaks, Speaks::T2v { .. })
                            && self.pool.may_ask_again()
                        {
                            parts.push(vec![text]);
                        } else {
                            answers.push((text, result));
                        }
                    }
                }
                Err(error)
                    if part.len() > 1
                        && matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::TooLarge)
                        && self.pool.may_ask_again() =>
                {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([part, half]);
                }
                Err(error) => answers.extend(part.into_iter().map(|text| (text, Err(error.clone())))),
            }
        }
        answers
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
        let named = |key: &str| self.meta.get(key).and_then(Value::as_str);
        // A sidecar says `model` of itself, text-embeddings-inference `model_id`; for OpenAI's API we say it.
        let name = theirs("model").or_else(|| named("model_id")).or_else(|| named("model"));
        let known = self.lengths.lock().unwrap_or_else(PoisonError::into_inner).get(&None).copied();
        to.upstream(UpstreamModel {
            name: name.map_or_else(|| self.info.name.clone(), str::to_owned),
            profile: theirs("profile").unwrap_or_default().to_owned(),
            dimensions: known,
            dtype: theirs("precision").unwrap_or_default().to_owned(),
        });
    }
}

/// The texts of a call by settings, in order, at most so many and so much in one batch.
fn batches(requests: &[EmbedRequest], most: usize) -> Vec<Vec<usize>> {
    let alike = |a: &EmbedRequest, b: &EmbedRequest| {
        (&a.task_name, &a.pooling, a.dimensions, &a.prompt) == (&b.task_name, &b.pooling, b.dimensions, &b.prompt)
    };
    let mut full: Vec<Vec<usize>> = Vec::new();
    // The batch that is being filled, for each of the settings met so far.
    let mut open: Vec<(Vec<usize>, usize)> = Vec::new();
    for (text, request) in requests.iter().enumerate() {
        if most == 1 {
            full.push(vec![text]);
            continue;
        }
        let length = request.text.len();
        match open.iter_mut().find(|(batch, _)| alike(&requests[batch[0]], request)) {
            None => open.push((vec![text], length)),
            Some((batch, bytes)) if batch.len() >= most || *bytes + length > BATCH_BYTES => {
                full.push(std::mem::replace(batch, vec![text]));
                *bytes = length;
            }
            Some((batch, bytes)) => {
                batch.push(text);
                *bytes += length;
            }
        }
    }
    full.extend(open.into_iter().map(|(batch, _)| batch));
    full
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
    fn texts_are_batched_by_settings_number_and_size() {
        let mut requests: Vec<EmbedRequest> = (0..5).map(|i| EmbedRequest::passage(i.to_string())).collect();
        requests.insert(1, EmbedRequest::query("q"));
        assert_eq!(batches(&requests, 2), [vec![0, 2], vec![3, 4], vec![5], vec![1]]);
        assert_eq!(batches(&requests[..2], 1), [vec![0], vec![1]]);
        let large = vec![EmbedRequest::passage("x".repeat(BATCH_BYTES - 1)); 3];
        assert_eq!(batches(&large, 10).len(), 3);
        assert!(batches(&[], 10).is_empty());
    }

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
