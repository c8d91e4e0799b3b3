//! text-embeddings-inference: `POST /embed` with a list of texts.
//!
//! `truncate` is on, as every other upstream cuts long texts too; whether vectors have length 1 is left to the server's
//! default (they do), and so are its prompts.

use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::client::{Answer, exchange};
use super::pool::Pool;
use super::retry::Failure;
use super::t2v::floats;
use super::{embedding, said, traced};
use crate::backend::Embedding;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};

/// Texts in one request, where the server does not say (its `max_client_batch_size`).
pub const BATCH: usize = 32;

/// The vectors of texts of one setting.
pub async fn many(pool: &Arc<Pool>, requests: &[&EmbedRequest], deadline: Instant) -> Result<Vec<Result<Embedding>>> {
    let Some(&first) = requests.first() else { return Ok(Vec::new()) };
    let texts: Vec<&str> = requests.iter().map(|request| request.text.as_str()).collect();
    let mut body = json!({"inputs": texts, "truncate": true});
    if let (Some(dimensions), Some(object)) = (first.dimensions, body.as_object_mut()) {
        object.insert("dimensions".into(), json!(dimensions));
    }
    let body = &body.to_string();
    let vectors = pool
        .call(first.task(), requests.len(), deadline, |replica, limit| {
            Box::pin(async move {
                let what = format!("send POST request: Post \"{}/embed\"", replica.address.shown());
                let send = replica.client.post(replica.address.below("/embed")).headers(replica.headers());
                let send = send.header("content-type", "application/json").body(body.clone());
                read(&exchange(traced(send, first), &what, limit).await?, requests.len())
            })
        })
        .await?;
    Ok(requests.iter().zip(vectors).map(|(request, vector)| Ok(embedding(vector, request))).collect())
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
pub fn batch_size(info: &Map<String, Value>) -> usize {
    let told = info.get("max_client_batch_size").and_then(Value::as_u64);
    told.map_or(BATCH, |size| usize::try_from(size).unwrap_or(BATCH).clamp(1, 1024))
}
