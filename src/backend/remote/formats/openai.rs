//! OpenAI's `POST /v1/embeddings`, as many servers offer it.
//!
//! Vectors are asked for as base64 (float32, little endian: exact and a third of the size) and taken in either form. A
//! server that refuses the wish is asked for numbers from then on. There is neither task nor pooling on this wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::format::{Batch, Format, Models};
use super::said::said;
use super::traced::traced;
use super::vector::{embedding, floats};
use crate::backend::Embedding;
use crate::backend::meta::theirs::Theirs;
use crate::backend::remote::client::{Answer, Asked, exchange};
use crate::backend::remote::kind::{Joining, Kind, Scheme};
use crate::backend::remote::pool::Pool;
use crate::backend::remote::probe::{self, META};
use crate::backend::remote::retry::Failure;
use crate::error::{Error, ErrorKind, Result};

/// Texts in one request.
const BATCH: usize = 128;

const ROOT: &str = "/v1";
const PATH: &str = "/embeddings";
const MODELS: &str = "/models";

/// Anything with OpenAI's API.
pub static KIND: Kind = Kind {
    name: "openai",
    schemes: &[Scheme::naming("openai+http", "http"), Scheme::naming("openai+https", "https")],
    joining: Joining::Meaning,
    api_root: ROOT,
    ready: MODELS,
    health: MODELS,
    request_paths: &["/v1/embeddings", PATH],
    http2: false,
};

/// What is known of one server.
#[derive(Debug)]
pub struct OpenAi {
    /// Sent as `model`.
    model: String,
    /// What else the server lists, where the URL does not say which model is meant.
    others: Vec<String>,
    refuses_base64: AtomicBool,
}

impl Format for OpenAi {
    /// The model's name may have to be asked for.
    fn unasked() -> Option<OpenAi> {
        None
    }

    /// The model is named in the URL, or is the first one the server lists.
    fn open(pool: &Arc<Pool>) -> BoxFuture<'_, Result<OpenAi>> {
        Box::pin(async move {
            if let Some(model) = pool.address().parameter("model") {
                return Ok(OpenAi::new(model));
            }
            let path = pool.address().in_api(ROOT, MODELS);
            let answer = probe::get_below(pool, &path, META).await.map_err(|failure| failure.error().clone())?;
            let listed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let listed = listed.get("data").and_then(Value::as_array).into_iter().flatten();
            let mut ids = listed.filter_map(|model| model.get("id")?.as_str().map(str::to_owned));
            let unnamed = || {
                let (shown, status) = (pool.shown(), answer.status);
                let text = format!("{shown} lists no model (status {status}): name one as ?model=… in its URL");
                Error::new(ErrorKind::Upstream, text).naming(pool.place())
            };
            let mut openai = OpenAi::new(ids.next().ok_or_else(unnamed)?);
            openai.others = ids.collect();
            Ok(openai)
        })
    }

    fn recognise(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Option<OpenAi>>> {
        Box::pin(async move {
            match probe::json(pool, "/v1/models").await? {
                Some(models) if models.get("data").is_some() => OpenAi::open(pool).await.map(Some),
                _ => Ok(None),
            }
        })
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn at_once(&self) -> usize {
        BATCH
    }

    fn embed<'a>(&'a self, pool: &'a Arc<Pool>, batch: Batch<'a>) -> BoxFuture<'a, Result<Vec<Result<Embedding>>>> {
        Box::pin(self.many(pool, batch))
    }

    /// There is no such thing.
    fn meta<'a>(&'a self, _pool: &'a Arc<Pool>) -> BoxFuture<'a, Result<Option<Theirs>>> {
        Box::pin(async move { Ok(Some(Map::from_iter([("model".into(), self.model.clone().into())]).into())) })
    }

    fn models(&self, _meta: &Theirs) -> Models {
        Models { own: None, others: self.others.clone() }
    }

    fn of_model(&self, pool: &Arc<Pool>, name: &str) -> Option<(Arc<Pool>, Box<dyn Format>)> {
        Some((pool.clone(), Box::new(OpenAi::new(name.to_owned()))))
    }
}

impl OpenAi {
    /// A server that is asked for this model.
    fn new(model: String) -> OpenAi {
        OpenAi { model, others: Vec::new(), refuses_base64: AtomicBool::new(false) }
    }

    /// The vectors of a batch.
    async fn many(&self, pool: &Arc<Pool>, batch: Batch<'_>) -> Result<Vec<Result<Embedding>>> {
        if batch.texts.is_empty() {
            return Ok(Vec::new());
        }
        let base64 = !self.refuses_base64.load(Ordering::Relaxed);
        let refused = AtomicBool::new(false);
        let answer = self.ask(pool, batch, base64.then_some(&refused)).await;
        let answer = match answer {
            Err(_) if refused.load(Ordering::Relaxed) => {
                self.refuses_base64.store(true, Ordering::Relaxed);
                self.ask(pool, batch, None).await?
            }
            answer => answer?,
        };
        let Answers { vectors, tokens } = answer;
        let mut embeddings: Vec<_> = vectors.into_iter().map(|vector| Ok(embedding(vector, batch.settings))).collect();
        // The count is of the whole request.
        if let [Ok(embedding)] = embeddings.as_mut_slice() {
            embedding.tokens = tokens;
        }
        Ok(embeddings)
    }

    /// `base64`: vectors are asked for so, and here is noted that the server does not know this.
    async fn ask(&self, pool: &Arc<Pool>, batch: Batch<'_>, base64: Option<&AtomicBool>) -> Result<Answers> {
        let Batch { texts, settings, trace, deadline, .. } = batch;
        let mut body = json!({
            "model": self.model,
            "input": texts,
            "encoding_format": if base64.is_some() { "base64" } else { "float" },
        });
        if let (Some(dimensions), Some(object)) = (settings.dimensions, body.as_object_mut()) {
            object.insert("dimensions".into(), json!(dimensions));
        }
        let body = &body.to_string();
        pool.call(settings.task(), texts.len(), deadline, |replica, limit| {
            Box::pin(async move {
                let path = replica.address.in_api(ROOT, PATH);
                let asked = Asked::of("send POST request: Post", &replica.address, &path);
                let send = replica.client.post(replica.address.below(&path)).headers(replica.headers());
                let send = send.header("content-type", "application/json").body(body.clone());
                let answer = exchange(traced(send, trace), &asked, limit).await?;
                if let Some(refused) = base64 {
                    refused.store(refuses_encoding(&answer), Ordering::Relaxed);
                }
                read(&answer, texts.len())
            })
        })
        .await
    }
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

/// Whether the server refused the request over the encoding of the vectors. Every server says so in its own way: words are
/// all that they have in common.
fn refuses_encoding(answer: &Answer) -> bool {
    matches!(answer.status, 400 | 422) && said(&answer.body).contains("encoding")
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
}
