//! OpenAI's `POST /v1/embeddings`, as many servers offer it.
//!
//! Vectors are asked for as base64 (float32, little endian: exact and a third of the size) and taken in either form. A
//! server that refuses the wish is asked for numbers from then on. There is neither task nor pooling on this wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::address::Address;
use super::client::{Answer, exchange};
use super::pool::Pool;
use super::retry::Failure;
use super::t2v::floats;
use super::{embedding, said, traced};
use crate::backend::Embedding;
use crate::contract::request::EmbedRequest;
use crate::error::{Error, ErrorKind, Result};

/// Texts in one request.
pub const BATCH: usize = 128;

/// What is known of one server.
#[derive(Debug)]
pub struct OpenAi {
    /// Sent as `model`.
    pub model: String,
    /// What else the server lists, where the URL does not say which model is meant.
    pub others: Vec<String>,
    refuses_base64: AtomicBool,
}

impl OpenAi {
    /// A server that is asked for this model.
    pub fn new(model: String) -> OpenAi {
        OpenAi { model, others: Vec::new(), refuses_base64: AtomicBool::new(false) }
    }

    /// The vectors of texts of one setting.
    pub async fn many(
        &self,
        pool: &Arc<Pool>,
        requests: &[&EmbedRequest],
        deadline: Instant,
    ) -> Result<Vec<Result<Embedding>>> {
        let Some(&first) = requests.first() else { return Ok(Vec::new()) };
        let base64 = !self.refuses_base64.load(Ordering::Relaxed);
        let answer = self.ask(pool, requests, first, deadline, base64).await;
        let answer = match answer {
            Err(error)
                if base64 && error.kind() == ErrorKind::InvalidArgument && error.message().contains("encoding") =>
            {
                self.refuses_base64.store(true, Ordering::Relaxed);
                self.ask(pool, requests, first, deadline, false).await?
            }
            answer => answer?,
        };
        let Answers { vectors, tokens } = answer;
        let mut embeddings: Vec<_> =
            requests.iter().zip(vectors).map(|(request, vector)| Ok(embedding(vector, request))).collect();
        // The count is of the whole request.
        if let [Ok(embedding)] = embeddings.as_mut_slice() {
            embedding.tokens = tokens;
        }
        Ok(embeddings)
    }

    async fn ask(
        &self,
        pool: &Arc<Pool>,
        requests: &[&EmbedRequest],
        first: &EmbedRequest,
        deadline: Instant,
        base64: bool,
    ) -> Result<Answers> {
        let texts: Vec<&str> = requests.iter().map(|request| request.text.as_str()).collect();
        let mut body = json!({
            "model": self.model,
            "input": texts,
            "encoding_format": if base64 { "base64" } else { "float" },
        });
        if let (Some(dimensions), Some(object)) = (first.dimensions, body.as_object_mut()) {
            object.insert("dimensions".into(), json!(dimensions));
        }
        let body = &body.to_string();
        pool.call(first.task(), requests.len(), deadline, |replica, limit| {
            Box::pin(async move {
                let path = below_v1(&replica.address, "/embeddings");
                let what = format!("send POST request: Post \"{}{path}\"", replica.address.shown());
                let send = replica.client.post(replica.address.below(&path)).headers(replica.headers());
                let send = send.header("content-type", "application/json").body(body.clone());
                read(&exchange(traced(send, first), &what, limit).await?, requests.len())
            })
        })
        .await
    }
}

/// A path below `/v1`, which the base URL may have already.
pub fn below_v1(address: &Address, path: &str) -> String {
    if address.path().trim_end_matches('/').ends_with("/v1") { path.to_owned() } else { format!("/v1{path}") }
}

struct Answers {
    vectors: Vec<Vec<f32>>,
    tokens: u32,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Item<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    embedding: &'a RawValue,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
}

fn read(answer: &Answer, count: usize) -> Result<Answers, Failure> {
    if answer.status != 200 {
        let text = format!("fail with status {}: {}", answer.status, said(&answer.body));
        return Err(Failure::from_status(answer.status, answer.retry_after, text));
    }
    let fault = |text: String| Failure::Fault(Error::new(ErrorKind::Upstream, text));
    let body: Body =
        serde_json::from_slice(&answer.body).map_err(|error| fault(format!("failed to parse the answer: {error}")))?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; count];
    for (position, item) in body.data.iter().enumerate() {
        let index = item.index.unwrap_or(position);
        let seat = vectors.get_mut(index).filter(|seat| seat.is_none());
        let seat = seat.ok_or_else(|| fault(format!("vector {index} is twice in the answer or was not asked for")))?;
        *seat = decode(item.embedding).map_err(|error| fault(format!("failed to parse the answer: {error}")))?;
    }
    let got = vectors.iter().flatten().count();
    let missing = || fault(format!("{got} vectors for {count} texts"));
    let vectors = vectors.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)?;
    Ok(Answers { vectors, tokens: body.usage.and_then(|usage| usage.prompt_tokens).unwrap_or(0) })
}

fn decode(raw: &RawValue) -> Result<Option<Vec<f32>>, String> {
    if !raw.get().starts_with('"') {
        return floats(raw.get());
    }
    let text: String = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    let bytes = STANDARD.decode(text).map_err(|_| "a vector is not base64")?;
    let (numbers, []) = bytes.as_chunks::<4>() else { return Err("a vector's bytes are not float32".to_owned()) };
    Ok(Some(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(body: &str, count: usize) -> Result<Vec<Vec<f32>>, String> {
        let answer = Answer { status: 200, retry_after: None, body: body.into() };
        read(&answer, count).map(|answers| answers.vectors).map_err(|failure| failure.error().message().to_owned())
    }

    #[test]
    fn both_forms_and_any_order() {
        let base64 = STANDARD.encode([1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat());
        let body = format!(r#"{{"data":[{{"index":1,"embedding":[3,4]}},{{"index":0,"embedding":"{base64}"}}]}}"#);
        assert_eq!(vectors(&body, 2), Ok(vec![vec![1.5, -2.0], vec![3.0, 4.0]]));
        for body in [
            r#"{"data":[{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":7,"embedding":[1]},{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":"AAA"},{"index":1,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":"AAAA"},{"index":1,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":null},{"index":1,"embedding":[1]}]}"#,
            "{}",
        ] {
            assert!(vectors(body, 2).is_err(), "{body}");
        }
    }

    #[test]
    fn the_base_url_may_have_v1_already() {
        let path = |url| below_v1(&Address::parse(url).expect("a URL"), "/embeddings");
        assert_eq!(path("openai+http://h"), "/v1/embeddings");
        assert_eq!(path("openai+http://h/api/v1/"), "/embeddings");
    }
}
