//! OpenAI's embeddings API: `POST /v1/embeddings`, also without `/v1`, as text-embeddings-inference has it, and below
//! `/models/<name>`; `GET /v1/models`, `GET /v1/models/<id>`.
//!
//! Errors have OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`. A text that is too long is cut, as on
//! every surface, where OpenAI refuses it.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::errors::{json_response, openai_error};
use super::path::Scoped;
use super::plain::{Fields, embed, refused, tokens, without_task};
use super::written::{Part, fixed, list, value, written};
use crate::backend::Embedding;
use crate::error::Result;
use crate::server::service::Service;

/// There are no such limits here, and this is how to say so: Weaviate's `text2vec-openai` paces its batches by these
/// headers, and without them sends an object at a time, with pauses.
pub(super) const NO_RATE_LIMIT: [(&str, &str); 6] = [
    ("x-ratelimit-limit-requests", "1000000000"),
    ("x-ratelimit-remaining-requests", "1000000000"),
    ("x-ratelimit-reset-requests", "0s"),
    ("x-ratelimit-limit-tokens", "1000000000"),
    ("x-ratelimit-remaining-tokens", "1000000000"),
    ("x-ratelimit-reset-tokens", "0s"),
];

/// A name that a model is found by.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OpenAiModel)]
pub(super) struct Model {
    /// The name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When it was made, which is not known here: 0.
    created: u64,
    /// `text2vec-sidecar`.
    owned_by: &'static str,
}

/// Every name of the models that are ready.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OpenAiModels)]
pub(super) struct Models {
    /// `list`.
    object: &'static str,
    data: Vec<Model>,
}

impl Model {
    fn named(name: &str) -> Model {
        Model { id: name.to_owned(), object: "model", created: 0, owned_by: "text2vec-sidecar" }
    }
}

/// `POST /v1/embeddings`.
pub(super) async fn embeddings(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(&service, &headers, body).await {
        Ok(response) => response,
        Err(error) => openai_error(&error),
    }
}

async fn answer(service: &Service, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response> {
    let mut fields = Fields::read(service, body)?;
    let model = fields.string("model")?.unwrap_or_default();
    let service = service.of_model(&model)?;
    let texts = fields.texts("input")?;
    if texts.is_empty() {
        return Err(refused("input", "'input' is an empty list: send a text"));
    }
    let as_base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(refused(
                "encoding_format",
                format_args!("'encoding_format' is '{other}': use float or base64"),
            ));
        }
    };
    let dimensions = fields.dimensions()?;
    let normalize = service.surfaces.normalize;
    let embeddings = embed(&service, headers, texts, without_task(), dimensions, normalize).await?;
    let prompt_tokens = tokens(&embeddings);
    let model = if model.is_empty() { service.backend()?.info().name.clone() } else { model };
    let entry = move |(index, embedding): (usize, Embedding)| {
        let vector = match as_base64 {
            true => Part::Base64(embedding.vector),
            false => Part::Vector(embedding.vector),
        };
        let begin = format!(r#"{{"object":"embedding","index":{index},"embedding":"#);
        [Part::Json(begin.into()), vector, fixed("}")]
    };
    let usage = json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens});
    let parts = std::iter::once(fixed(r#"{"object":"list","data":"#))
        .chain(list(embeddings.into_iter().enumerate().map(entry)))
        .chain([fixed(r#","model":"#), Part::Text(model.into()), fixed(r#","usage":"#), value(&usage), fixed("}")]);
    let mut response = written(parts);
    for (name, value) in NO_RATE_LIMIT {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// `GET /v1/models`: every name of those that are ready.
pub(super) async fn models(State(service): State<Service>) -> Response {
    let data = service.readiness.names().iter().map(|(name, _)| Model::named(name)).collect();
    json_response(StatusCode::OK, &Models { object: "list", data })
}

/// `GET /v1/models/<id>`. A Hub id may have its slash.
pub(super) async fn model(State(service): State<Service>, Path(name): Path<String>) -> Response {
    match service.readiness.backend(Some(&name), service.default) {
        Ok(_) => json_response(StatusCode::OK, &Model::named(&name)),
        Err(error) => openai_error(&error),
    }
}
