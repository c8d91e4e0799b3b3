//! The reference container's `POST /vectors`, as Weaviate's `text2vec-transformers` client speaks it.
//!
//! Source: `usecases/modulecomponents/clients/transformers/transformers.go`. Same body bytes, same reading of the answer
//! (the body before the status, names in any letter case, the last duplicate, numbers rounded once to float32), same
//! error texts up to the decoder's own words. Stricter in one thing: an answer that is no usable vector is an error.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::format::{Batch, Format, Models};
use super::said::said;
use super::sidecar;
use super::traced::traced;
use super::vector::{embedding, floats};
use crate::backend::Embedding;
use crate::backend::meta::theirs::Theirs;
use crate::backend::remote::client::{Answer, Asked, exchange};
use crate::backend::remote::kind::{Joining, Kind, READY, Scheme};
use crate::backend::remote::pool::Pool;
use crate::backend::remote::probe;
use crate::backend::remote::retry::Failure;
use crate::contract::call::EmbedSettings;
use crate::contract::go_format;
use crate::contract::value::Value;
use crate::error::{Error, ErrorKind, Result};

const PATH: &str = "/vectors";
const META: &str = "/meta";

/// What a URL of the web's own schemes is taken for, too, as Weaviate would.
pub static KIND: Kind = Kind {
    name: "t2v",
    schemes: &[
        Scheme::bare("http"),
        Scheme::bare("https"),
        Scheme::naming("t2v+http", "http"),
        Scheme::naming("t2v+https", "https"),
    ],
    joining: Joining::Text,
    api_root: "",
    ready: READY,
    health: READY,
    request_paths: &[READY, PATH, META],
    http2: false,
};

/// One text per request, unless it is another sidecar.
#[derive(Debug, Default)]
pub struct T2v {
    /// Whether it is known to answer `texts`: another sidecar, over HTTP.
    texts: bool,
}

impl T2v {
    /// Known by its meta: a sidecar says that it is one.
    fn of_meta(meta: &serde_json::Value) -> T2v {
        let meta = Theirs::from(meta.as_object().cloned().unwrap_or_default());
        T2v { texts: meta.said.sidecar.is_some() }
    }
}

impl Format for T2v {
    fn unasked() -> Option<T2v> {
        Some(T2v::default())
    }

    fn open(pool: &Arc<Pool>) -> BoxFuture<'_, Result<T2v>> {
        Box::pin(async move { Ok(T2v::recognise(pool).await?.unwrap_or_default()) })
    }

    fn recognise(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Option<T2v>>> {
        Box::pin(async move { Ok(probe::json(pool, META).await?.as_ref().map(T2v::of_meta)) })
    }

    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn at_once(&self) -> usize {
        if self.texts { sidecar::BATCH } else { 1 }
    }

    fn embed<'a>(&'a self, pool: &'a Arc<Pool>, batch: Batch<'a>) -> BoxFuture<'a, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            match batch.texts {
                [] => Ok(Vec::new()),
                [text] => one(pool, batch, text).await.map(|embedding| vec![Ok(embedding)]),
                _ => many(pool, batch).await,
            }
        })
    }

    fn tells_kinds_of_errors(&self) -> bool {
        false
    }

    fn meta<'a>(&'a self, pool: &'a Arc<Pool>) -> BoxFuture<'a, Result<Option<Theirs>>> {
        Box::pin(probe::meta(pool, META))
    }

    fn models(&self, meta: &Theirs) -> Models {
        if self.texts { Models::of_sidecar(meta) } else { Models::default() }
    }

    fn of_model(&self, pool: &Arc<Pool>, name: &str) -> Option<(Arc<Pool>, Box<dyn Format>)> {
        let addresses = pool.addresses().iter().map(|address| address.of_model(name)).collect::<Option<Vec<_>>>()?;
        Some((Pool::new(addresses, None, pool.options().clone()), Box::new(T2v { texts: self.texts })))
    }
}

/// The vector of a batch's only text.
async fn one(pool: &Arc<Pool>, batch: Batch<'_>, text: &str) -> Result<Embedding> {
    let config = config(batch.settings);
    let json = format!("{{\"text\":{},\"dims\":0,\"vector\":null,\"error\":\"\",{config}}}", quoted(text));
    let vector = post(pool, batch, json, |answer| read_one(&answer)).await?;
    Ok(embedding(vector, batch.settings))
}

/// Several texts' vectors in one request, from servers known to answer `texts`: other sidecars.
async fn many(pool: &Arc<Pool>, batch: Batch<'_>) -> Result<Vec<Result<Embedding>>> {
    let texts: Vec<String> = batch.texts.iter().map(|text| quoted(text)).collect();
    let json = format!("{{\"texts\":[{}],{}}}", texts.join(","), config(batch.settings));
    let count = texts.len();
    let vectors = post(pool, batch, json, move |answer| read_many(&answer, count)).await?;
    Ok(vectors.into_iter().map(|vector| Ok(embedding(vector?, batch.settings))).collect())
}

async fn post<T>(
    pool: &Arc<Pool>,
    batch: Batch<'_>,
    json: String,
    read: impl Fn(Answer) -> Result<T, Failure> + Sync,
) -> Result<T>
where
    T: Send,
{
    let Batch { texts, settings, trace, deadline, .. } = batch;
    let (json, read) = (&json, &read);
    pool.call(settings.task(), texts.len(), deadline, |replica, limit| {
        Box::pin(async move {
            let url = replica.address.joined(PATH).map_err(Failure::Refused)?;
            let asked = Asked::of("send POST request: Post", &replica.address, PATH);
            // No Content-Type: Weaviate sends none, so every container takes it so.
            let send = replica.client.post(url).headers(replica.headers()).body(json.clone());
            read(exchange(traced(send, trace), &asked, limit).await?)
        })
    })
    .await
}

fn quoted(text: &str) -> String {
    go_format::json(&Value::String(text.to_owned()))
}

/// The `config` member, in Go's order of fields.
fn config(settings: &EmbedSettings) -> String {
    let mut fields = Vec::new();
    if let Some(pooling) = settings.pooling.as_deref().filter(|pooling| !pooling.is_empty()) {
        fields.push(format!("\"pooling_strategy\":{}", quoted(pooling)));
    }
    if let Some(task) = settings.task_name.as_deref().filter(|task| !task.is_empty()) {
        fields.push(format!("\"task_type\":{}", quoted(task)));
    }
    if let Some(dimensions) = settings.dimensions {
        fields.push(format!("\"dimensions\":{dimensions}"));
    }
    format!("\"config\":{{{}}}", fields.join(","))
}

fn read_one(answer: &Answer) -> Result<Vec<f32>, Failure> {
    let parsed = parse(&answer.body).map_err(|cause| unparsable(answer, &cause))?;
    if answer.status != 200 {
        return Err(failed(answer, parsed.error.as_deref()));
    }
    let missing = || Failure::Fault(Error::new(ErrorKind::Upstream, "status 200 without a vector"));
    parsed.vector.ok_or_else(missing)
}

type Each = Vec<Result<Vec<f32>>>;

fn read_many(answer: &Answer, count: usize) -> Result<Each, Failure> {
    let parsed = parse(&answer.body).map_err(|cause| unparsable(answer, &cause))?;
    if answer.status != 200 {
        return Err(failed(answer, parsed.error.as_deref()));
    }
    let vectors = parsed.vectors.unwrap_or_default();
    if vectors.len() != count {
        let message = format!("{} vectors for {count} texts", vectors.len());
        return Err(Failure::Fault(Error::new(ErrorKind::Upstream, message)));
    }
    let mut errors = parsed.errors.into_iter();
    let each = |vector: Option<Vec<f32>>| {
        let error = errors.next().flatten();
        // The kind of a text's error is not on this wire; a text that failed beside others that did not is to blame.
        vector.ok_or_else(|| Error::invalid(error.unwrap_or_else(|| "no vector and no error for this text".to_owned())))
    };
    Ok(vectors.into_iter().map(each).collect())
}

fn unparsable(answer: &Answer, cause: &dyn fmt::Display) -> Failure {
    let text = format!("failed to parse vectorization response (status {}): {cause}", answer.status);
    match answer.status {
        200..=299 => Failure::Fault(Error::new(ErrorKind::Upstream, text)),
        status => Failure::from_status(status, answer.retry_after, text),
    }
}

fn failed(answer: &Answer, error: Option<&str>) -> Failure {
    let error = error.unwrap_or_default();
    // Weaviate loses what FastAPI says under `detail`; said behind its own words.
    let detail = if error.is_empty() { said(&answer.body) } else { String::new() };
    let text = format!("fail with status {}: {}{detail}", answer.status, shortened(error));
    Failure::from_status(answer.status, answer.retry_after, text)
}

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(1000) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// The members of an answer that count.
#[derive(Default)]
struct Parsed {
    vector: Option<Vec<f32>>,
    error: Option<String>,
    vectors: Option<Vec<Option<Vec<f32>>>>,
    errors: Vec<Option<String>>,
}

fn parse(body: &[u8]) -> Result<Parsed, Box<dyn std::error::Error>> {
    let mut text = serde_json::Deserializer::from_slice(body);
    let parsed = text.deserialize_any(Reader)?;
    text.end()?;
    Ok(parsed)
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::default())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Parsed, M::Error> {
        use serde::de::Error as _;
        let mut parsed = Parsed::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let value: &RawValue = map.next_value()?;
            let value = value.get();
            let wrong = |expected| M::Error::custom(format!("{name} is not {expected}"));
            match name.to_ascii_lowercase().as_str() {
                "vector" => parsed.vector = floats(value).map_err(M::Error::custom)?,
                "error" => parsed.error = serde_json::from_str(value).map_err(|_| wrong("a string"))?,
                "text" => {
                    let _: Option<Cow<'_, str>> = serde_json::from_str(value).map_err(|_| wrong("a string"))?;
                }
                "dims" => {
                    let _: Option<i64> = serde_json::from_str(value).map_err(|_| wrong("an integer"))?;
                }
                "config" if !value.starts_with(['{', 'n']) => return Err(wrong("an object")),
                "vectors" => {
                    let each: Vec<&RawValue> = serde_json::from_str(value).map_err(|_| wrong("a list"))?;
                    let each = each.into_iter().map(|vector| floats(vector.get())).collect::<Result<_, _>>();
                    parsed.vectors = Some(each.map_err(M::Error::custom)?);
                }
                "errors" => parsed.errors = serde_json::from_str(value).map_err(|_| wrong("a list of strings"))?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_a_vector_or_an_error_for_each_text() {
        let answer = |body: &str| Answer { status: 200, retry_after: None, body: body.into() };
        let each = read_many(&answer(r#"{"vectors":[[1],null],"errors":[null,"bad"]}"#), 2).expect("an answer");
        assert_eq!(each, [Ok(vec![1.0]), Err(Error::invalid("bad"))]);
        for body in [r#"{"vectors":[[1]]}"#, "{}", r#"{"vectors":[[1],[NaN]]}"#, r#"{"vectors":3}"#] {
            assert!(matches!(read_many(&answer(body), 2), Err(Failure::Fault(_))), "{body}");
        }
    }
}
