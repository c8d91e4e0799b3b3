//! Ollama's API for embeddings: `POST /api/embed`, the older `POST /api/embeddings`, and what its clients ask about models:
//! `GET /api/tags`, `GET /api/ps`, `POST /api/show`, `GET /api/version`.
//!
//! Errors have Ollama's shape, `{"error": "…"}`. A model without a tag has the tag `latest`; models are neither pulled nor
//! unloaded here, so `keep_alive` and `options` have no effect.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::errors::{error_response, json_response};
use super::plain::{Fields, embed, refused, tokens, without_task};
use super::written::{Part, fixed, list, written};
use crate::backend::Backend;
use crate::backend::meta::Meta;
use crate::error::{Error, ErrorKind, Result};
use crate::server::service::Service;

/// The tag of a name without one.
const LATEST: &str = ":latest";

/// A time that is not known here.
const NOT_KNOWN: &str = "1970-01-01T00:00:00Z";

/// A time that is never reached, and that every client's kind of time holds.
const NEVER: &str = "2200-01-01T00:00:00Z";

/// `POST /api/embed`.
pub(super) async fn embed_many(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let started = Instant::now();
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let (model, service) = model(&mut fields, &service)?;
        let texts = fields.texts("input")?;
        let may_cut = fields.boolean("truncate")?.unwrap_or(true);
        let normalize = service.surfaces.normalize;
        let embeddings = embed(&service, &headers, texts, without_task(), fields.dimensions()?, normalize).await?;
        if let (false, Some(index)) = (may_cut, embeddings.iter().position(|embedding| embedding.truncated)) {
            let message =
                "is longer than the model's token limit, and 'truncate' is false: shorten it or let it be cut";
            return Err(refused("input", format_args!("text {index} {message}")));
        }
        let prompt_eval_count = tokens(&embeddings);
        // Nanoseconds, as all durations here.
        let total_duration = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let end = format!(
            r#","total_duration":{total_duration},"load_duration":0,"prompt_eval_count":{prompt_eval_count}}}"#
        );
        let parts = [fixed(r#"{"model":"#), Part::Text(model.into()), fixed(r#","embeddings":"#)]
            .into_iter()
            .chain(list(embeddings.into_iter().map(|embedding| [Part::Vector(embedding.vector)])))
            .chain([Part::Json(end.into())]);
        Ok(written(parts))
    };
    answer.await.unwrap_or_else(|error| error_response(&error))
}

/// `POST /api/embeddings`: one text in `prompt`.
pub(super) async fn embed_one(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let (_, service) = model(&mut fields, &service)?;
        let text = fields.string("prompt")?.ok_or_else(|| refused("prompt", "'prompt' is missing: a text"))?;
        let normalize = service.surfaces.normalize;
        let embeddings = embed(&service, &headers, vec![text], without_task(), None, normalize).await?;
        let vector = embeddings.into_iter().next().map(|embedding| embedding.vector).unwrap_or_default();
        Ok(written([fixed(r#"{"embedding":"#), Part::Vector(vector), fixed("}")]))
    };
    answer.await.unwrap_or_else(|error| error_response(&error))
}

/// The model as the caller named it, and the service by it.
fn model(fields: &mut Fields<'_>, service: &Service) -> Result<(String, Service)> {
    let name = fields.string("model")?.unwrap_or_default();
    let found = service.of_model(&name);
    let service = match name.strip_suffix(LATEST) {
        Some(untagged) if is_unknown(&found) => service.of_model(untagged),
        None if is_unknown(&found) => service.of_model(&format!("{name}{LATEST}")).or(found),
        _ => found,
    };
    Ok((name, service?))
}

fn is_unknown(found: &Result<Service>) -> bool {
    found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// A name as Ollama lists it: with a tag.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") }
}

/// What is known of a model; what is not, as of one that texts are forwarded to, is an empty text, which clients read.
fn details(meta: &Meta) -> Value {
    let family = meta.model_type().unwrap_or_default();
    let precision = meta.model().map_or("", |model| model.precision);
    let families = if family.is_empty() { vec![] } else { vec![family] };
    let format = match precision {
        "" => "",
        int8 if int8.contains("onnx") => "onnx",
        _ => "safetensors",
    };
    json!({
        "parent_model": "",
        "format": format,
        "family": family,
        "families": families,
        "parameter_size": "",
        "quantization_level": precision.to_uppercase(),
    })
}

/// Whether it is one for clients of Ollama, which does not rerank.
fn embeds((_, backend): &(String, Arc<dyn Backend>)) -> bool {
    backend.info().scoring.is_none()
}

/// `GET /api/tags`: every name of the models that are ready.
pub(super) async fn tags(State(service): State<Service>) -> Response {
    let entry = |(name, backend): (String, Arc<dyn Backend>)| {
        json!({
            "name": tagged(&name),
            "model": tagged(&name),
            "modified_at": NOT_KNOWN,
            "size": 0,
            "digest": backend.info().fingerprint,
            "details": details(&backend.meta()),
        })
    };
    let models: Vec<_> = service.readiness.names().into_iter().filter(embeds).map(entry).collect();
    json_response(StatusCode::OK, &json!({"models": models}))
}

/// `GET /api/ps`: the models that are loaded, which are those that are ready, each once.
pub(super) async fn running(State(service): State<Service>) -> Response {
    let entry = |(name, backend): (String, Arc<dyn Backend>)| {
        let meta = backend.meta();
        json!({
            "name": tagged(&name),
            "model": tagged(&name),
            "size": 0,
            "digest": backend.info().fingerprint,
            "details": details(&meta),
            "expires_at": NEVER,
            "size_vram": 0,
            "context_length": meta.model().map_or(0, |model| model.max_tokens),
        })
    };
    let models: Vec<_> = service.readiness.listed().into_iter().filter(embeds).map(entry).collect();
    json_response(StatusCode::OK, &json!({"models": models}))
}

/// `POST /api/show`: what is known of a model, named in `model` or, as it was, in `name`.
pub(super) async fn show(State(service): State<Service>, body: Result<Bytes, BytesRejection>) -> Response {
    let answer = || {
        let mut fields = Fields::read(&service, body)?;
        fields.rename("name", "model");
        let (_, service) = model(&mut fields, &service)?;
        let backend = service.backend()?;
        let meta = backend.meta();
        let details = details(&meta);
        let family = details["family"].as_str().unwrap_or_default().to_owned();
        let mut about = Map::new();
        about.insert("general.architecture".into(), family.clone().into());
        about.insert("general.basename".into(), backend.info().name.clone().into());
        for (key, number) in [
            ("embedding_length", backend.info().dimensions),
            ("context_length", meta.model().map(|model| model.max_tokens)),
        ] {
            if let Some(number) = number {
                about.insert(format!("{family}.{key}"), number.into());
            }
        }
        let license = meta.model().and_then(|model| model.license.as_deref()).unwrap_or_default();
        let answer = json!({
            "license": license,
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": details,
            "model_info": about,
            // Ollama has no word for reranking.
            "capabilities": if backend.info().scoring.is_none() { json!(["embedding"]) } else { json!([]) },
            "modified_at": NOT_KNOWN,
        });
        Ok(json_response(StatusCode::OK, &answer))
    };
    answer().unwrap_or_else(|error: Error| error_response(&error))
}

/// `GET /api/version`: ours, which some clients ask for before anything else.
pub(super) async fn version() -> Response {
    json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}
