//! Before an upstream is used: waiting until it is ready, finding out what it is, reading its meta.
//!
//! Waiting is the module's (`modules/text2vec-transformers/clients/startup.go`): a ready probe each second, half a second
//! each, two minutes in all, the passage and query services in parallel and labelled when they differ. One thing is
//! quicker: the first probe goes out at once, not after a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::address::{self, Kind};
use super::client::{Answer, exchange};
use super::guard::Allowed;
use super::itself;
use super::openai::{OpenAi, below_v1};
use super::pool::{Pool, Replica};
use super::retry::Failure;
use super::{Remote, RemoteOptions, Speaks, tei};
use crate::backend::Backend;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::{Source, metrics};

/// Between probes, and for one of them.
const INTERVAL: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_millis(500);

/// How long `/meta` and what it is made of may take to be answered.
const META: Duration = Duration::from_secs(5);

const READY: &str = "/.well-known/ready";

/// The services that the operator names, by task. Equal texts are one service.
pub struct Services {
    /// For objects; `None`: embedded here.
    pub passage: Option<Arc<Remote>>,
    /// For everything else; `None`: embedded here.
    pub query: Option<Arc<Remote>>,
}

/// Connects to what the operator named: waits for it if asked to, finds out what it is and how long its vectors are.
///
/// # Errors
/// `Config` for a URL that cannot be used, or that is this sidecar's own; `Unavailable`, in Weaviate's words, if it is not
/// ready in time.
pub async fn connect(
    passage: Option<&str>,
    query: Option<&str>,
    wait: bool,
    options: &RemoteOptions,
) -> Result<Services> {
    let pool = |url: &str| -> Result<Arc<Pool>> {
        let unusable = |error: Error| Error::config(error.message());
        let addresses = address::parse_list(url).map_err(unusable)?;
        let mistaken = addresses.iter().find_map(|address| Some((address, address.request_path()?)));
        if let Some((address, path)) = mistaken {
            let shown = address.shown();
            let base = shown.strip_suffix(path).unwrap_or(shown);
            return Err(Error::config(format!(
                "the upstream's URL {shown} ends with {path}, which is put behind it: give its base, {base}"
            )));
        }
        Ok(Pool::new(addresses, None, options.clone()))
    };
    let one = passage == query;
    let mut sides = Vec::new();
    for (label, url) in [("[passage] ", passage), ("[query] ", query)] {
        if let Some(url) = url.filter(|_| sides.is_empty() || !one) {
            sides.push((if one || passage.is_none() || query.is_none() { "" } else { label }, pool(url)?));
        }
    }
    futures_util::future::try_join_all(sides.iter().map(|(_, pool)| refuse_itself(pool))).await?;
    if wait {
        let waits = sides.iter().map(|(label, pool)| async move {
            wait_until_ready(pool, options.startup_limit).await.map_err(|error| error.labelled(label))
        });
        let mut failed: Vec<String> = Vec::new();
        for outcome in futures_util::future::join_all(waits).await {
            match outcome {
                Ok(()) => {}
                Err(NotReady::InTime(text)) => failed.push(text),
                Err(NotReady::Itself(error)) => return Err(error),
            }
        }
        if !failed.is_empty() {
            let text = format!(
                "init remote vectorizer: {} (T2V_SELF_URLS names the URLs that mean this sidecar; \
                 TRANSFORMERS_WAIT_FOR_STARTUP=false does not wait)",
                failed.join(", ")
            );
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
    }
    let remotes = sides.into_iter().map(|(_, pool)| open(pool, options));
    let mut remotes = futures_util::future::join_all(remotes).await.into_iter();
    let first = remotes.next();
    Ok(match (passage, query) {
        (Some(_), Some(_)) if one => Services { passage: first.clone(), query: first },
        (Some(_), Some(_)) => Services { passage: first, query: remotes.next() },
        (Some(_), None) => Services { passage: first, query: None },
        (None, _) => Services { passage: None, query: first },
    })
}

/// `Err`: what the last probe met.
async fn wait_until_ready(pool: &Arc<Pool>, limit: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + limit;
    let mut told = false;
    loop {
        let begun = Instant::now();
        let Err(error) = probe_ready(pool).await else { return Ok(()) };
        // Names may be there only now.
        if told {
            refuse_itself(pool).await.map_err(NotReady::Itself)?;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(upstream = pool.shown(), "waiting until the upstream is ready: {error}");
        }
        let next = begun + INTERVAL;
        if next >= deadline {
            tokio::time::sleep_until(deadline.into()).await;
            return Err(NotReady::InTime(error));
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

/// Refuses an upstream that is this sidecar. What cannot be found out is none.
async fn refuse_itself(pool: &Arc<Pool>) -> Result<()> {
    let Some(itself) = &pool.options().itself else { return Ok(()) };
    for address in pool.addresses() {
        let found = async {
            match address.literal() {
                Some(ip) => vec![ip],
                None => pool.options().resolver.resolve(address.host()).await.unwrap_or_default(),
            }
        };
        let ips = tokio::time::timeout(PROBE, found).await.unwrap_or_default();
        if ips.into_iter().any(|ip| itself.is_at(address, ip)) {
            return Err(itself::refused(address.shown()));
        }
    }
    match get_below(pool, "/.well-known/live", PROBE).await {
        Ok(answer) if itself.gave(&answer) => Err(itself::refused(&pool.shown())),
        _ => Ok(()),
    }
}

/// Why an upstream is not ready.
enum NotReady {
    /// What the last probe met.
    InTime(String),
    /// It is this sidecar, which is never ready before its upstream is.
    Itself(Error),
}

impl NotReady {
    fn labelled(self, label: &str) -> NotReady {
        match self {
            NotReady::InTime(text) => {
                NotReady::InTime(format!("{label}init context expired before remote was ready: {text}"))
            }
            own => own,
        }
    }
}

async fn probe_ready(pool: &Arc<Pool>) -> Result<(), String> {
    let kind = pool.address().kind;
    let path = match kind {
        None | Some(Kind::T2v | Kind::Sidecar) => READY.to_owned(),
        Some(Kind::Tei) => "/health".to_owned(),
        Some(Kind::OpenAi) => below_v1(pool.address(), "/models"),
    };
    let what = "send check ready request: Get";
    let not_ready = |status: u16| Err(format!("not ready: status {status}"));
    match get(pool, &path, what, PROBE).await {
        Ok(answer) if answer.status <= 299 => Ok(()),
        // A server of another kind has no such path.
        Ok(answer) if kind.is_none() && answer.status == 404 => match detect(pool).await {
            Ok(Speaks::Tei { .. } | Speaks::OpenAi(_)) => Ok(()),
            _ => not_ready(answer.status),
        },
        Ok(answer) => not_ready(answer.status),
        Err(failure) => Err(failure.error().message().to_owned()),
    }
}

/// One GET of a path below the base URL, at the first replica that can be reached.
async fn get(pool: &Arc<Pool>, path: &str, what: &str, limit: Duration) -> Result<Answer, Failure> {
    ask(pool, path, what, limit, |replica| match replica.address.kind {
        // The reference's paths are put behind the base as text, as Weaviate does it.
        None | Some(Kind::T2v) => replica.address.joined(path),
        Some(_) => Ok(replica.address.below(path)),
    })
    .await
}

/// A GET at one replica after the other until one can be reached; its answer, whatever that is.
async fn ask(
    pool: &Arc<Pool>,
    path: &str,
    what: &str,
    limit: Duration,
    url: impl Fn(&Replica) -> Result<reqwest::Url>,
) -> Result<Answer, Failure> {
    let deadline = Instant::now() + limit;
    let mut replicas = pool.in_turn(deadline).await.map_err(Failure::Refused)?.into_iter();
    loop {
        let none =
            || Failure::Refused(Error::new(ErrorKind::Upstream, format!("upstream {}: no replica", pool.shown())));
        let replica = replicas.next().ok_or_else(none)?;
        let url = url(&replica).map_err(Failure::Refused)?;
        let what = format!("{what} \"{}{path}\"", replica.address.shown());
        let left = deadline.saturating_duration_since(Instant::now());
        let mut send = replica.client.get(url).headers(replica.headers());
        if let Some(itself) = &pool.options().itself {
            send = send.header(itself::HEADER, itself.mark());
        }
        match exchange(send, &what, left).await {
            Err(Failure::Unsent(_)) if replicas.len() > 0 && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

/// What speaks there: by the URL's scheme, else by which paths answer. A server that answers none is taken for the
/// reference container, as Weaviate would.
///
/// # Errors
/// If it cannot be reached.
pub async fn detect(pool: &Arc<Pool>) -> Result<Speaks> {
    let object = |path: &'static str| async move {
        let answer = get(pool, path, "send probe: Get", META).await.map_err(|failure| failure.error().clone())?;
        let body = (answer.status == 200).then(|| serde_json::from_slice::<Value>(&answer.body).ok()).flatten();
        Ok::<_, Error>(body)
    };
    let tei = |info: Option<Value>| Speaks::Tei {
        batch: info.and_then(|info| Some(tei::batch_size(info.as_object()?))).unwrap_or(tei::BATCH),
    };
    match pool.address().kind {
        Some(Kind::T2v) => return Ok(t2v(object("/meta").await?)),
        Some(Kind::Sidecar) => return Ok(Speaks::Sidecar { model: String::new() }),
        Some(Kind::Tei) => return Ok(tei(object("/info").await?)),
        Some(Kind::OpenAi) => return openai(pool).await,
        None => {}
    }
    let meta = object("/meta").await?;
    if meta.is_some() {
        return Ok(t2v(meta));
    }
    let info = object("/info").await?;
    if info.as_ref().is_some_and(|info| info.get("model_id").is_some()) {
        return Ok(tei(info));
    }
    let models = object("/v1/models").await?;
    if models.is_some_and(|models| models.get("data").is_some()) {
        return openai(pool).await;
    }
    Ok(Speaks::T2v { texts: false })
}

fn t2v(meta: Option<Value>) -> Speaks {
    Speaks::T2v { texts: meta.is_some_and(|meta| meta.get("sidecar").is_some_and(Value::is_object)) }
}

/// The model is named in the URL, or is the first one the server lists.
async fn openai(pool: &Arc<Pool>) -> Result<Speaks> {
    if let Some(model) = pool.address().parameter("model") {
        return Ok(Speaks::OpenAi(OpenAi::new(model)));
    }
    let path = below_v1(pool.address(), "/models");
    let answer = get_below(pool, &path, META).await.map_err(|failure| failure.error().clone())?;
    let listed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let listed = listed.get("data").and_then(Value::as_array).into_iter().flatten();
    let mut ids = listed.filter_map(|model| model.get("id")?.as_str().map(str::to_owned));
    let unnamed = || {
        let text =
            format!("{} lists no model (status {}): name one as ?model=… in its URL", pool.shown(), answer.status);
        Error::new(ErrorKind::Upstream, text)
    };
    let mut openai = OpenAi::new(ids.next().ok_or_else(unnamed)?);
    openai.others = ids.collect();
    Ok(Speaks::OpenAi(openai))
}

async fn get_below(pool: &Arc<Pool>, path: &str, limit: Duration) -> Result<Answer, Failure> {
    ask(pool, path, "send probe: Get", limit, |replica| Ok(replica.address.below(path))).await
}

/// The upstream's meta, now; `None` for JSON `null`. Source: `clients/meta.go`.
///
/// # Errors
/// In Weaviate's words.
pub async fn meta(pool: &Arc<Pool>, speaks: &Speaks) -> Result<Option<Map<String, Value>>> {
    let path = match speaks {
        Speaks::Sidecar { model } if !model.is_empty() => format!("/models/{model}/meta"),
        Speaks::T2v { .. } | Speaks::Sidecar { .. } => "/meta".to_owned(),
        Speaks::Tei { .. } => "/info".to_owned(),
        // There is no such thing.
        Speaks::OpenAi(openai) => return Ok(Some(Map::from_iter([("model".into(), openai.model.clone().into())]))),
    };
    let answer =
        get(pool, &path, "send GET meta request: Get", META).await.map_err(|failure| failure.error().clone())?;
    let upstream = |text: String| Error::new(ErrorKind::Upstream, text);
    if !(200..=299).contains(&answer.status) {
        return Err(upstream(format!("unexpected status code '{}' of meta request", answer.status)));
    }
    serde_json::from_slice(&answer.body).map_err(|error| upstream(format!("unmarshal meta response body: {error}")))
}

/// A backend for what the operator named. Whatever cannot be found out now is found out when it is needed.
async fn open(pool: Arc<Pool>, options: &RemoteOptions) -> Arc<Remote> {
    let speaks = detect(&pool).await;
    let meta = match &speaks {
        Ok(speaks) => meta(&pool, speaks).await,
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &meta {
        tracing::warn!(upstream = pool.shown(), "the upstream's meta cannot be read: {error}");
    }
    let meta = meta.ok().flatten().unwrap_or_default();
    let fingerprint = fingerprint(&pool.shown(), &meta);
    let mut remote = Remote::new(pool, speaks.ok(), options, fingerprint);
    if let Some(name) = name(&meta) {
        remote.info.name = name;
    }
    remote.meta = meta;
    let first =
        EmbedRequest { deadline: Some(Instant::now() + options.attempt_timeout), ..EmbedRequest::passage("warm up") };
    match remote.embed(vec![first]).await.map(|mut results| results.pop()) {
        Ok(Some(Ok(embedding))) => remote.info.dimensions = Some(embedding.vector.len()),
        Ok(Some(Err(error))) | Err(error) => tracing::warn!("the upstream does not embed a first text: {error}"),
        Ok(None) => {}
    }
    tracing::info!(
        upstream = remote.pool.shown(),
        kind = remote.speaks.get().map(|speaks| speaks.kind().as_str()),
        dimensions = remote.info.dimensions.unwrap_or(0),
        "forwarding"
    );
    let remote = Arc::new(remote);
    let source: Arc<dyn Source> = remote.clone();
    metrics().ask(Arc::downgrade(&source));
    remote
}

/// What the upstream calls its model: a sidecar says it of itself, or of the first that it serves; the others have it in their
/// own place, or we have it from their list.
fn name(meta: &Map<String, Value>) -> Option<String> {
    let sidecar = |side: Option<&Value>| {
        let block = side?.get("sidecar")?;
        block.get("model").or_else(|| block.pointer("/models/0"))?.as_str().map(str::to_owned)
    };
    let whole = Value::Object(meta.clone());
    let pair = || Some(format!("{} + {}", sidecar(meta.get("passage"))?, sidecar(meta.get("query"))?));
    let named = |key: &str| meta.get(key).and_then(Value::as_str).map(str::to_owned);
    let found = sidecar(Some(&whole)).or_else(pair).or_else(|| named("model_id")).or_else(|| named("model"));
    found.filter(|name| !name.is_empty() && name.len() <= 256 && !name.contains(char::is_control))
}

/// Changes with the URL and with what the upstream says of its model, as far as it does.
pub(super) fn fingerprint(place: &str, meta: &Map<String, Value>) -> String {
    let mut hash = Sha256::new();
    hash.update(place);
    hash.update([0]);
    match meta.get("sidecar").and_then(|sidecar| sidecar.get("fingerprint")?.as_str()) {
        Some(theirs) => hash.update(theirs),
        None => hash.update(Value::Object(meta.clone()).to_string()),
    }
    hex(&hash.finalize()[..16])
}

/// A backend for a URL of a class. Never probed: a scheme that does not say what it is means the reference container.
pub(super) fn of_class(url: &str, allowed: &Arc<Allowed>, options: &RemoteOptions) -> Result<Arc<Remote>> {
    let addresses = address::parse_list(url)?;
    for address in &addresses {
        allowed.may_resolve(address)?;
    }
    let kind = addresses.first().and_then(|address| address.kind);
    let speaks = match kind {
        None | Some(Kind::T2v) => Some(Speaks::T2v { texts: false }),
        Some(Kind::Sidecar) => Some(Speaks::Sidecar { model: String::new() }),
        Some(Kind::Tei) => Some(Speaks::Tei { batch: tei::BATCH }),
        // The model's name may have to be asked for.
        Some(Kind::OpenAi) => None,
    };
    let pool = Pool::new(addresses, Some(allowed.clone()), options.clone());
    // With user-info and query: another password is another upstream.
    let fingerprint = hex(&Sha256::digest(url)[..16]);
    Ok(Arc::new(Remote::new(pool, speaks, options, fingerprint)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
