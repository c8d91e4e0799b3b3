//! text-embeddings-inference: `POST /embed` with a list of texts.
//!
//! `truncate` is on, as every other upstream cuts long texts too; whether vectors have length 1 is left to the server's
//! default (they do), and so are its prompts.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::format::{Batch, Format};
use super::said::said;
use super::traced::traced;
use super::vector::{embedding, floats};
use crate::backend::Embedding;
use crate::backend::meta::theirs::Theirs;
use crate::backend::remote::client::{Answer, Asked, exchange};
use crate::backend::remote::kind::{Joining, Kind, Scheme};
use crate::backend::remote::pool::Pool;
use crate::backend::remote::probe;
use crate::backend::remote::retry::Failure;
use crate::error::{Error, ErrorKind, Result};

const PATH: &str = "/embed";
const INFO: &str = "/info";

/// Texts in one request, where the server does not say (its `max_client_batch_size`).
const BATCH: usize = 32;

/// text-embeddings-inference.
pub static KIND: Kind = Kind {
    name: "tei",
    schemes: &[Scheme::naming("tei+http", "http"), Scheme::naming("tei+https", "https")],
    joining: Joining::Meaning,
    api_root: "",
    ready: "/health",
    health: "/health",
    request_paths: &[PATH],
    http2: false,
};

/// Batches of as many texts as the server says.
#[derive(Debug)]
pub struct Tei {
    batch: usize,
}

impl Format for Tei {
    fn unasked() -> Option<Tei> {
        Some(Tei { batch: BATCH })
    }

    fn open(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Tei>> {
        Box::pin(async move { Ok(Tei { batch: probe::json(pool, INFO).await?.as_ref().map_or(BATCH, batch_size) }) })
    }

    fn recognise(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Option<Tei>>> {
        Box::pin(async move {
            let info = probe::json(pool, INFO).await?.filter(|info| info.get("model_id").is_some());
            Ok(info.map(|info| Tei { batch: batch_size(&info) }))
        })
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn at_once(&self) -> usize {
        self.batch
    }

    fn embed<'a>(&'a self, pool: &'a Arc<Pool>, batch: Batch<'a>) -> BoxFuture<'a, Result<Vec<Result<Embedding>>>> {
        Box::pin(many(pool, batch))
    }

    fn meta<'a>(&'a self, pool: &'a Arc<Pool>) -> BoxFuture<'a, Result<Option<Theirs>>> {
        Box::pin(probe::meta(pool, INFO))
    }
}

/// The vectors of a batch.
async fn many(pool: &Arc<Pool>, batch: Batch<'_>) -> Result<Vec<Result<Embedding>>> {
    let Batch { texts, settings, trace, deadline, .. } = batch;
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let mut body = json!({"inputs": texts, "truncate": true});
    if let (Some(dimensions), Some(object)) = (settings.dimensions, body.as_object_mut()) {
        object.insert("dimensions".into(), json!(dimensions));
    }
    let body = &body.to_string();
    let vectors = pool
        .call(settings.task(), texts.len(), deadline, |replica, limit| {
            Box::pin(async move {
                let asked = Asked::of("send POST request: Post", &replica.address, PATH);
                let send = replica.client.post(replica.address.below(PATH)).headers(replica.headers());
                let send = send.header("content-type", "application/json").body(body.clone());
                read(&exchange(traced(send, trace), &asked, limit).await?, texts.len())
            })
        })
        .await?;
    Ok(vectors.into_iter().map(|vector| Ok(embedding(vector, settings))).collect())
}

fn read(answer: &Answer, count: usize) -> Result<Vec<Vec<f32>>, Failure> {
    if answer.status != 200 {
        let text = format!("fail with status {}: {}", answer.status, said(&answer.body));
        return Err(Failure::from_status(answer.status, answer.retry_after, text));
    }
    let fault = |text: String| Failure::Fault(Error::new(ErrorKind::Upstream, text));
    let unparsable = |error: &dyn std::fmt::Display| fault(format!("failed to parse the answer: {error}"));
    let vectors: Vec<&RawValue> = serde_json::from_slice(&answer.body).map_err(|error| unparsable(&error))?;
    if vectors.len() != count {
        return Err(fault(format!("{} vectors for {count} texts", vectors.len())));
    }
    let vectors = vectors.iter().map(|vector| {
        let vector = floats(vector.get()).map_err(|error| unparsable(&error))?;
        vector.ok_or_else(|| fault("a vector is null".to_owned()))
    });
    vectors.collect()
}

/// The batch size that `GET /info` tells.
fn batch_size(info: &Value) -> usize {
    let told = info.get("max_client_batch_size").and_then(Value::as_u64);
    told.map_or(BATCH, |size| usize::try_from(size).unwrap_or(BATCH).clamp(1, 1024))
}
