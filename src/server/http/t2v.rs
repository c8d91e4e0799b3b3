//! The reference container's API (`t2v-transformers-models`): `POST /vectors` and `GET /meta`, as Weaviate speaks it.
//!
//! Request: `{"text", "config": {"pooling_strategy", "task_type", "dimensions"}}`; other fields are ignored. Answer:
//! `{"text", "vector", "dim", "dims"}`, float32 in the fewest digits that read back to the same float32. Beyond the
//! reference: `{"texts": […]}` answers `{"texts", "vectors", "dim", "dims"}`, with `null` and an entry in `errors` for
//! each text that failed. Bodies are checked as FastAPI does it, with the same 422 details, and `error` beside them.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::asked::{read_body, within_deadline};
use super::errors::{error_response, json_response};
use super::fastapi::{Detail, NOT_A_STRING, NOT_AN_OBJECT, Refusal, detail, echo, invalid_json, refuse};
use super::json::{self, Object};
use super::path::Scoped;
use super::written::{Part, fixed, list, value, written};
use crate::backend::Embedding;
use crate::contract::call::{EmbedSettings, Text};
use crate::error::Error;
use crate::server::service::Service;

/// `GET /meta`: the model's `config.json`, its path, and what this sidecar does with it.
pub(super) async fn meta(Scoped(service): Scoped) -> Response {
    match service.meta().await {
        Ok(meta) => json_response(StatusCode::OK, &meta.to_json()),
        Err(error) => error_response(&error),
    }
}

/// `POST /vectors`.
pub(super) async fn vectors(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match read_body(&service, body) {
        Ok(body) => body,
        Err(error) => return error_response(&error),
    };
    match parse(&headers, &body, service.limits.max_texts) {
        Ok(Body::One(text, settings)) => one(&service, &headers, text, settings).await,
        Ok(Body::Many(texts, settings)) => many(&service, &headers, texts, settings).await,
        Ok(Body::TooMany(texts)) => match service.check_texts(texts) {
            Ok(()) => error_response(&Error::internal("too many texts that are not too many")),
            Err(error) => error_response(&error),
        },
        Err(refusal) => refusal.into_response(),
    }
}

async fn one(service: &Service, headers: &HeaderMap, text: Text, settings: EmbedSettings) -> Response {
    match within_deadline(headers, service.embed_one(text.clone(), settings)).await {
        Ok(embedding) => {
            let dim = dimensions(embedding.vector.len());
            let (text, vector) = (Part::Text(text), Part::Vector(embedding.vector));
            written([fixed(r#"{"text":"#), text, fixed(r#","vector":"#), vector, dim, fixed("}")])
        }
        Err(error) => error_response(&error),
    }
}

async fn many(service: &Service, headers: &HeaderMap, texts: Vec<Text>, settings: EmbedSettings) -> Response {
    let results = match within_deadline(headers, service.embed(texts.clone(), settings)).await {
        Ok(results) => results,
        Err(error) => return error_response(&error),
    };
    let dim = results.iter().flatten().map(|embedding| embedding.vector.len()).next();
    if let (None, Some(Err(error))) = (dim, results.first()) {
        return error_response(error);
    }
    let errors = results.iter().any(Result::is_err).then(|| {
        let errors = results.iter().map(|result| result.as_ref().err().map(Error::message));
        [fixed(r#","errors":"#), value(&errors.collect::<Vec<_>>())]
    });
    let vector = |result: crate::error::Result<Embedding>| match result {
        Ok(embedding) => [Part::Vector(embedding.vector)],
        Err(_) => [fixed("null")],
    };
    let parts = std::iter::once(fixed(r#"{"texts":"#))
        .chain(list(texts.into_iter().map(|text| [Part::Text(text)])))
        .chain([fixed(r#","vectors":"#)])
        .chain(list(results.into_iter().map(vector)))
        .chain([dimensions(dim.unwrap_or(0))])
        .chain(errors.into_iter().flatten())
        .chain([fixed("}")]);
    written(parts)
}

/// The length of the vectors, under both of its names.
fn dimensions(dim: usize) -> Part {
    Part::Json(format!(r#","dim":{dim},"dims":{dim}"#).into())
}

enum Body {
    One(Text, EmbedSettings),
    Many(Vec<Text>, EmbedSettings),
    /// More texts than one request may have: so many.
    TooMany(usize),
}

/// FastAPI's validation of the body, plus `texts`.
fn parse(headers: &HeaderMap, body: &[u8], max_texts: usize) -> Result<Body, Refusal> {
    if body.is_empty() {
        return Err(refuse("missing", &["body"], "Field required", Value::Null));
    }
    let text = decode_utf(body).ok_or_else(|| {
        let detail = "There was an error parsing the body";
        Refusal::Bad(Error::invalid("the body is not valid UTF-8"), Some(detail))
    })?;
    if !is_json(headers) {
        return Err(refuse(NOT_AN_OBJECT.0, &["body"], NOT_AN_OBJECT.1, json!(text)));
    }
    let whole: &RawValue = serde_json::from_str(&text).map_err(|error| invalid_json(&text, &error))?;
    match whole.get().as_bytes().first() {
        Some(b'{') => read_object(whole.get(), max_texts),
        Some(b'n') => Err(refuse("missing", &["body"], "Field required", Value::Null)),
        _ => Err(refuse(NOT_AN_OBJECT.0, &["body"], NOT_AN_OBJECT.1, echo(whole.get()))),
    }
}

/// So many of the texts that are none are named.
const MAX_DETAILS: usize = 10;

fn read_object(whole: &str, max_texts: usize) -> Result<Body, Refusal> {
    let mut object = object_of(whole)?;
    let mut details = Vec::new();
    let mut text = None;
    let mut texts = Vec::new();
    let mut count = 0;
    match (object.take("text"), object.take("texts")) {
        (Some(raw), _) if is_text(raw.get()) => text = Some(text_of(raw.get())?),
        (Some(raw), _) => details.push(detail(NOT_A_STRING.0, &["body", "text"], NOT_A_STRING.1, echo(raw.get()))),
        (None, Some(raw)) if raw.get().starts_with('[') => {
            let read = json::each(raw.get(), |index, raw| {
                count += 1;
                if !is_text(raw) && details.len() < MAX_DETAILS {
                    let mut entry = detail(NOT_A_STRING.0, &["body", "texts"], NOT_A_STRING.1, echo(raw));
                    entry.location.push(index.into());
                    details.push(entry);
                } else if is_text(raw) && count <= max_texts {
                    texts.push(Text::from(serde_json::from_str::<String>(raw)?));
                }
                Ok(())
            });
            read.map_err(|error| invalid_json(raw.get(), &error))?;
        }
        (None, Some(raw)) => {
            let message = "Input should be a valid list";
            details.push(detail("list_type", &["body", "texts"], message, echo(raw.get())));
        }
        (None, None) => details.push(detail("missing", &["body", "text"], "Field required", echo(whole))),
    }
    let settings = match object.take("config") {
        None => EmbedSettings::default(),
        Some(config) => read_config(config.get(), &mut details)?,
    };
    match text {
        _ if !details.is_empty() => Err(Refusal::Details(details)),
        Some(text) => Ok(Body::One(text.into(), settings)),
        None if count > max_texts => Ok(Body::TooMany(count)),
        None => Ok(Body::Many(texts, settings)),
    }
}

fn object_of(json: &str) -> Result<Object, Refusal> {
    Object::read(json).map_err(|error| Refusal::Bad(Error::invalid(format!("the body cannot be read: {error}")), None))
}

fn is_text(json: &str) -> bool {
    json.starts_with('"')
}

fn text_of(json: &str) -> Result<String, Refusal> {
    serde_json::from_str(json).map_err(|error| invalid_json(json, &error))
}

/// `config` as [`EmbedSettings`].
fn read_config(config: &str, details: &mut Vec<Detail>) -> Result<EmbedSettings, Refusal> {
    let mut settings = EmbedSettings::default();
    let mut config = match config.as_bytes().first() {
        Some(b'n') => return Ok(settings),
        Some(b'{') => object_of(config)?,
        _ => {
            details.push(detail(NOT_AN_OBJECT.0, &["body", "config"], NOT_AN_OBJECT.1, echo(config)));
            return Ok(settings);
        }
    };
    let mut string = |key: &str| match config.take(key).filter(|raw| raw.get() != "null") {
        None => Ok(None),
        Some(raw) if is_text(raw.get()) => text_of(raw.get()).map(Some),
        Some(raw) => {
            details.push(detail(NOT_A_STRING.0, &["body", "config", key], NOT_A_STRING.1, echo(raw.get())));
            Ok(None)
        }
    };
    settings.pooling = string("pooling_strategy")?;
    settings.task_name = string("task_type")?.map(Into::into);
    if let Some(raw) = config.take("dimensions").filter(|raw| raw.get() != "null") {
        let value = echo(raw.get());
        match lenient_integer(&value) {
            Ok(dimensions) => settings.dimensions = Some(dimensions),
            Err((kind, message)) => details.push(detail(kind, &["body", "config", "dimensions"], message, value)),
        }
    }
    Ok(settings)
}

/// Pydantic's lenient integers: `256`, `256.0`, `"256"`, `true`. Numbers beyond 64 bits stay as large as they can be.
fn lenient_integer(value: &Value) -> Result<i64, (&'static str, &'static str)> {
    const PARSING: (&str, &str) =
        ("int_parsing", "Input should be a valid integer, unable to parse string as an integer");
    const FRACTION: (&str, &str) =
        ("int_from_float", "Input should be a valid integer, got a number with a fractional part");
    match value {
        Value::Bool(on) => Ok(i64::from(*on)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(integer),
            // The cast saturates, which is what is wanted here.
            (None, Some(float)) if float.fract() == 0.0 => Ok(float as i64),
            _ => Err(FRACTION),
        },
        Value::String(text) => {
            let digits = text.trim();
            let digits = digits.split_once('.').map_or(digits, |(whole, rest)| match rest.trim_matches('0') {
                "" => whole,
                _ => digits,
            });
            digits.replace('_', "").parse().map_err(|_| PARSING)
        }
        _ => Err(("int_type", "Input should be a valid integer")),
    }
}

/// FastAPI takes a missing Content-Type for JSON, and any `application/json` or `application/*+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.strip_prefix("application/").is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Text from UTF-8 or UTF-16 with or without byte order mark, told apart as Python's `json.loads` does.
fn decode_utf(body: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        if !bytes.len().is_multiple_of(2) {
            return None;
        }
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok()
    };
    match body {
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(body, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => utf16(body, u16::from_be_bytes),
        _ => String::from_utf8(body.to_vec()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_leniently_as_pydantic_does() {
        for (value, expected) in [
            (json!(256), Some(256)),
            (json!(-3), Some(-3)),
            (json!(64.0), Some(64)),
            (json!("64"), Some(64)),
            (json!(" 64 "), Some(64)),
            (json!("64.0"), Some(64)),
            (json!("1_000"), Some(1000)),
            (json!(true), Some(1)),
            (json!(1e300), Some(i64::MAX)),
            (json!(64.5), None),
            (json!("x"), None),
            (json!(""), None),
            (json!("6.5"), None),
            (json!([]), None),
        ] {
            assert_eq!(lenient_integer(&value).ok(), expected, "{value}");
        }
    }

    #[test]
    fn bodies_in_utf16_are_read() {
        let bytes: Vec<u8> = "{}é".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode_utf(&bytes).as_deref(), Some("{}é"));
        assert_eq!(decode_utf(b"\xEF\xBB\xBF{}").as_deref(), Some("{}"));
        assert_eq!(decode_utf(b"{\"a\":\"\xFF\"}"), None);
    }
}
