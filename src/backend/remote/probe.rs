//! Questions to an upstream that are no texts: whether it is ready, what it is, what it says of itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::client::{Answer, Asked, exchange};
use super::itself;
use super::pool::Pool;
use super::replica::Replica;
use super::retry::Failure;
use crate::backend::meta::theirs::Theirs;
use crate::error::{Error, ErrorKind, Result};

/// How long `/meta` and what it is made of may take to be answered.
pub const META: Duration = Duration::from_secs(5);

/// One GET of a path below the base URL, put behind it as the URL's kind has it, at the first replica that can be
/// reached. `what` begins the errors' texts.
///
/// # Errors
/// What kept the last replica from answering; any status is an answer.
pub async fn get(pool: &Arc<Pool>, path: &str, what: &str, limit: Duration) -> Result<Answer, Failure> {
    ask(pool, path, what, limit, |replica| replica.address.asked_for(path)).await
}

/// The same with base and path put together by their meaning, whatever the URL's kind.
///
/// # Errors
/// As [`get`].
pub async fn get_below(pool: &Arc<Pool>, path: &str, limit: Duration) -> Result<Answer, Failure> {
    ask(pool, path, "send probe: Get", limit, |replica| Ok(replica.address.below(path))).await
}

/// The JSON that a path answers with status 200; `None` for any other answer.
///
/// # Errors
/// As [`get`].
pub async fn json(pool: &Arc<Pool>, path: &str) -> Result<Option<Value>> {
    let answer = get(pool, path, "send probe: Get", META).await.map_err(|failure| failure.error().clone())?;
    Ok((answer.status == 200).then(|| serde_json::from_slice::<Value>(&answer.body).ok()).flatten())
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
        let replica = replicas.next().ok_or_else(|| Failure::Refused(pool.no_replica()))?;
        let url = url(&replica).map_err(Failure::Refused)?;
        let asked = Asked::of(what, &replica.address, path);
        let left = deadline.saturating_duration_since(Instant::now());
        let mut send = replica.client.get(url).headers(replica.headers());
        if let Some(itself) = &pool.options().itself {
            send = send.header(itself::HEADER, itself.mark());
        }
        match exchange(send, &asked, left).await {
            Err(Failure::Unsent(_)) if replicas.len() > 0 && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

/// The upstream's meta at a path, now; `None` for JSON `null`. Source: `clients/meta.go`.
///
/// # Errors
/// In Weaviate's words: as [`get`], and `Upstream` for another status than success and for what is no object.
pub async fn meta(pool: &Arc<Pool>, path: &str) -> Result<Option<Theirs>> {
    let answer =
        get(pool, path, "send GET meta request: Get", META).await.map_err(|failure| failure.error().clone())?;
    let upstream = |text: String| Error::new(ErrorKind::Upstream, text);
    if !(200..=299).contains(&answer.status) {
        return Err(upstream(format!("unexpected status code '{}' of meta request", answer.status)));
    }
    let meta: Option<Map<String, Value>> = serde_json::from_slice(&answer.body)
        .map_err(|error| upstream(format!("unmarshal meta response body: {error}")))?;
    Ok(meta.map(Theirs::from))
}
