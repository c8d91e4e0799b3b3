//! Before an upstream is used: waiting until it is ready, finding out what it is, reading its meta.
//!
//! Waiting is the module's (`modules/text2vec-transformers/clients/startup.go`): a ready probe each second, half a second
//! each, two minutes in all, the passage and query services in parallel and labelled when they differ. One thing is
//! quicker: the first probe goes out at once, not after a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address;
use super::formats;
use super::identity;
use super::itself;
use super::options::RemoteOptions;
use super::pool::Pool;
use super::probe;
use super::upstream::Remote;
use crate::backend::Backend;
use crate::contract::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::{Source, metrics};

/// Between probes, and for one of them.
const INTERVAL: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_millis(500);

/// The services that the operator names, by task. Equal texts are one service.
#[derive(Debug, Default)]
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
    let pool = |url: &str| -> Result<Arc<Pool>> { Ok(Pool::new(address::of_operator(url)?, None, options.clone())) };
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
    match probe::get_below(pool, "/.well-known/live", PROBE).await {
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
    let address = pool.address();
    let kind = address.kind;
    let path = address.in_api(kind.api_root, kind.ready);
    let what = "send check ready request: Get";
    let not_ready = |status: u16| Err(format!("not ready: status {status}"));
    match probe::get(pool, &path, what, PROBE).await {
        Ok(answer) if answer.status <= 299 => Ok(()),
        // A server of another kind has no such path.
        Ok(answer) if !address.is_named && answer.status == 404 => match formats::detect(pool).await {
            Ok(found) if found.kind() != kind => Ok(()),
            _ => not_ready(answer.status),
        },
        Ok(answer) => not_ready(answer.status),
        Err(failure) => Err(failure.error().message().to_owned()),
    }
}

/// A backend for what the operator named. Whatever cannot be found out now is found out when it is needed.
async fn open(pool: Arc<Pool>, options: &RemoteOptions) -> Arc<Remote> {
    let format = formats::detect(&pool).await;
    let meta = match &format {
        Ok(format) => format.meta(&pool).await,
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &meta {
        tracing::warn!(upstream = pool.shown(), "the upstream's meta cannot be read: {error}");
    }
    let meta = meta.ok().flatten().unwrap_or_default();
    let shown = pool.shown();
    let mut remote = Remote::new(pool, format.ok(), identity::fingerprint(&shown, &meta));
    if let Some(name) = identity::name(&meta) {
        remote = remote.named_as(name);
    }
    remote = remote.with_meta(meta);
    let first = Call { deadline: Some(Instant::now() + options.attempt_timeout), ..Call::passage("warm up") };
    match remote.embed(first).await.map(|mut results| results.pop()) {
        Ok(Some(Ok(embedding))) => remote = remote.with_dimensions(embedding.vector.len()),
        Ok(Some(Err(error))) | Err(error) => tracing::warn!("the upstream does not embed a first text: {error}"),
        Ok(None) => {}
    }
    tracing::info!(
        upstream = shown,
        kind = remote.found().map(|format| format.kind().name),
        dimensions = remote.info().dimensions.unwrap_or(0),
        "forwarding"
    );
    let remote = Arc::new(remote);
    let source: Arc<dyn Source> = remote.clone();
    metrics().ask(Arc::downgrade(&source));
    remote
}
