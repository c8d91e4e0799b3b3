//! Bodies that are not accepted, as FastAPI and Pydantic say it in the reference container.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::errors::{error_response_with, json_response};
use crate::error::Error;

/// Why a body is not accepted.
pub(super) enum Refusal {
    /// 422 with FastAPI's list of details.
    Details(Vec<Detail>),
    /// 400, with what FastAPI says in its `detail`.
    Bad(Error, Option<&'static str>),
}

/// A body that is not as it must be, as FastAPI says it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ValidationError {
    /// What is wrong, for people.
    error: String,
    detail: Vec<ValidationDetail>,
}

/// One thing that is wrong with a body, as FastAPI says it.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ValidationDetail {
    /// Pydantic's name of what is wrong, such as `missing` or `string_type`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Where: `body`, then names of fields and places in lists.
    #[schema(value_type = Vec<Value>)]
    loc: Vec<Value>,
    /// What is wrong, in Pydantic's words.
    msg: &'static str,
    /// What was given, where it is short.
    input: Value,
    /// What the parser said of JSON that is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    ctx: Option<ValidationContext>,
}

/// What the parser said.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ValidationContext {
    error: String,
}

/// One entry of FastAPI's `detail`.
pub(super) struct Detail {
    kind: &'static str,
    pub(super) location: Vec<Value>,
    message: &'static str,
    input: Value,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Bad(error, detail) => error_response_with(&error, detail),
            Refusal::Details(details) => {
                let words: Vec<String> = details.iter().map(Detail::words).collect();
                let detail = details.into_iter().map(Detail::into_body).collect();
                let body = ValidationError { error: words.join("; "), detail };
                json_response(StatusCode::UNPROCESSABLE_ENTITY, &body)
            }
        }
    }
}

impl Detail {
    /// For the person who reads Weaviate's message.
    fn words(&self) -> String {
        let path: Vec<_> = self.location.iter().skip(1).filter_map(Value::as_str).collect();
        let place = if path.is_empty() { "the body".to_owned() } else { format!("'{}'", path.join(".")) };
        match self.kind {
            "json_invalid" => format!("{place} is not valid JSON: {}", self.input.as_str().unwrap_or_default()),
            "model_attributes_type" if path.is_empty() => {
                format!("{place} is not a JSON object: send {{\"text\": …}} with Content-Type: application/json")
            }
            _ => format!("{place}: {}", self.message),
        }
    }

    fn into_body(self) -> ValidationDetail {
        let Detail { kind, location: loc, message: msg, input } = self;
        // An echo helps while it is short; json_invalid has none in the reference either.
        let (input, ctx) = match input {
            Value::String(error) if kind == "json_invalid" => (json!({}), Some(ValidationContext { error })),
            Value::String(text) if text.len() > MAX_ECHO => (json!("…"), None),
            input => (input, None),
        };
        ValidationDetail { kind, loc, msg, input, ctx }
    }
}

pub(super) fn refuse(kind: &'static str, location: &[&str], message: &'static str, input: Value) -> Refusal {
    Refusal::Details(vec![detail(kind, location, message, input)])
}

pub(super) fn detail(kind: &'static str, location: &[&str], message: &'static str, input: Value) -> Detail {
    Detail { kind, location: location.iter().map(|&part| part.into()).collect(), message, input }
}

pub(super) const NOT_AN_OBJECT: (&str, &str) =
    ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from");
pub(super) const NOT_A_STRING: (&str, &str) = ("string_type", "Input should be a valid string");

/// The longest JSON that is shown to who sent it.
const MAX_ECHO: usize = 500;

/// What was given in place of what should have been, while it is short.
pub(super) fn echo(json: &str) -> Value {
    let short = (json.len() <= MAX_ECHO).then(|| serde_json::from_str(json).ok()).flatten();
    short.unwrap_or_else(|| json!("…"))
}

/// Python's decoder accepts `NaN`, infinities and lone surrogates, and its server then fails on them. They cannot be
/// embedded: 400. Everything else is FastAPI's `json_invalid`. Which it is, serde_json tells in words alone.
pub(super) fn invalid_json(text: &str, error: &serde_json::Error) -> Refusal {
    let words = error.to_string();
    if words.contains("surrogate") || words.contains("hex escape") {
        return Refusal::Bad(
            Error::invalid(format!("the body has a lone surrogate, which is not text: {words}")),
            None,
        );
    }
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(text.len());
    let around = &text.as_bytes()[offset.saturating_sub(1)..];
    if [&b"NaN"[..], b"Infinity", b"-Infinity"]
        .iter()
        .any(|word| around.starts_with(word) || around[around.len().min(1)..].starts_with(word))
    {
        return Refusal::Bad(Error::invalid("the body has a NaN or Infinity, which JSON does not know"), None);
    }
    let mut entry = detail("json_invalid", &["body"], "JSON decode error", json!(words));
    entry.location.push(offset.into());
    Refusal::Details(vec![entry])
}
