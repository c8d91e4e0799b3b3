//! Ollama's API for embeddings: `POST /api/embed`, the older `POST /api/embeddings`, `GET /api/tags` and
//! `GET /api/version`.
//!
//! Errors have Ollama's shape, `{"error": "…"}`. A model's tag `:latest` is left out; models are neither pulled nor
//! unloaded here, so `keep_alive` and `options` have no effect.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::plain::{Fields, embed, tokens, without_task};
use super::written::{Part, fixed, list, written};
use super::{error_response, json_response};
use crate::error::{Error, Result};
use crate::server::Service;

/// `POST /api/embed`.
pub async fn embed_many(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let started = Instant::now();
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let (model, service) = model(&mut fields, &service)?;
        let requests = fields.texts("input")?.into_iter().map(without_task).collect();
        let may_cut = fields.boolean("truncate")?.unwrap_or(true);
        let embeddings = embed(&service, &headers, requests, fields.dimensions()?).await?;
        if let (false, Some(index)) = (may_cut, embeddings.iter().position(|embedding| embedding.truncated)) {
            let message =
                "is longer than the model's token limit, and 'truncate' is false: shorten it or let it be cut";
            return Err(Error::invalid(format!("text {index} {message}")));
        }
        let prompt_eval_count = tokens(&embeddings);
        // Nanoseconds, as all durations here.
        let total_duration = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let end = format!(
            r#","total_duration":{total_duration},"load_duration":0,"prompt_eval_count":{prompt_eval_count}}}"#
        );
        let parts = [fixed(r#"{"model":"#), Part::Text(model), fixed(r#","embeddings":"#)]
            .into_iter()
            .chain(list(embeddings.into_iter().map(|embedding| [Part::Vector(embedding.vector)])))
            .chain([Part::Json(end.into())]);
        Ok(written(parts))
    };
    answer.await.unwrap_or_else(|error| error_response(&error))
}

/// `POST /api/embeddings`: one text in `prompt`.
pub async fn embed_one(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let (_, service) = model(&mut fields, &service)?;
        let text = fields.string("prompt")?.ok_or_else(|| Error::invalid("'prompt' is missing: a text"))?;
        let embeddings = embed(&service, &headers, vec![without_task(text)], None).await?;
        let vector = embeddings.into_iter().next().map(|embedding| embedding.vector).unwrap_or_default();
        Ok(written([fixed(r#"{"embedding":"#), Part::Vector(vector), fixed("}")]))
    };
    answer.await.unwrap_or_else(|error| error_response(&error))
}

/// The model as the caller named it, and the service by it.
fn model(fields: &mut Fields, service: &Service) -> Result<(String, Service)> {
    let name = fields.string("model")?.unwrap_or_default();
    let service = service.of_model(name.strip_suffix(":latest").unwrap_or(&name))?;
    Ok((name, service))
}

/// `GET /api/tags`: the models that are ready.
pub async fn tags(State(service): State<Service>) -> Response {
    let models: Vec<_> = service
        .readiness
        .listed()
        .into_iter()
        .map(|(name, backend)| {
            let (info, meta) = (backend.info(), backend.meta());
            // What is not known here, as of a model that texts are forwarded to, is an empty text, which clients read.
            let text = |part: &str, key: &str| meta.get(part).and_then(|part| part.get(key)?.as_str()).unwrap_or("");
            let (family, precision) = (text("model", "model_type"), text("sidecar", "precision"));
            let families = if family.is_empty() { vec![] } else { vec![family] };
            let format = match precision {
                "" => "",
                int8 if int8.contains("onnx") => "onnx",
                _ => "safetensors",
            };
            let details = json!({
                "parent_model": "",
                "format": format,
                "family": family,
                "families": families,
                "parameter_size": "",
                "quantization_level": precision.to_uppercase(),
            });
            json!({
                "name": name,
                "model": name,
                "modified_at": "1970-01-01T00:00:00Z",
                "size": 0,
                "digest": info.fingerprint,
                "details": details,
            })
        })
        .collect();
    json_response(StatusCode::OK, &json!({"models": models}))
}

/// `GET /api/version`: ours, which some clients ask for before anything else.
pub async fn version() -> Response {
    json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}
