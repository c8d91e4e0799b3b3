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
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

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

/// What is known of a model. What is not is an empty text.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaDetails)]
struct Details {
    parent_model: &'static str,
    /// `safetensors` or `onnx`.
    format: &'static str,
    /// The model's `model_type`, such as `bert`.
    family: String,
    families: Vec<String>,
    parameter_size: &'static str,
    /// Numbers of the weights, such as `F32` or `INT8`.
    quantization_level: String,
}

/// Every name of the models that are ready and make vectors.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaTags)]
pub(super) struct Tags {
    models: Vec<Listed>,
}

/// A name that a model is found by.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaTag)]
struct Listed {
    /// The name, with a tag.
    name: String,
    /// The same.
    model: String,
    /// Not known here: the beginning of 1970.
    modified_at: &'static str,
    /// Not known here: 0.
    size: u64,
    /// The fingerprint of the model's vectors.
    digest: String,
    details: Details,
}

/// The models that are loaded.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaLoaded)]
pub(super) struct Loaded {
    models: Vec<Running>,
}

/// A model that is loaded.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaRunning)]
struct Running {
    /// The name, with a tag.
    name: String,
    /// The same.
    model: String,
    /// Not known here: 0.
    size: u64,
    /// The fingerprint of the model's vectors.
    digest: String,
    details: Details,
    /// Never: the beginning of 2200.
    expires_at: &'static str,
    /// Not known here: 0.
    size_vram: u64,
    /// Tokens of a text, special ones included; 0: not known here.
    context_length: usize,
}

/// What is known of a model, for `POST /api/show`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaShown)]
pub(super) struct Shown {
    /// By its short name, if it is known.
    license: String,
    modelfile: &'static str,
    parameters: &'static str,
    template: &'static str,
    details: Details,
    /// `general.architecture`, `general.basename` and, below the family's name, `embedding_length` and `context_length`.
    model_info: Map<String, Value>,
    /// `embedding`, but for a reranker.
    capabilities: Vec<&'static str>,
    /// Not known here: the beginning of 1970.
    modified_at: &'static str,
}

/// Of this program.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OllamaVersion)]
pub(super) struct Version {
    version: &'static str,
}

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
fn details(meta: &Meta) -> Details {
    let family = meta.model_type().unwrap_or_default();
    let precision = meta.model().map_or("", |model| model.precision);
    let families = if family.is_empty() { vec![] } else { vec![family] };
    let format = match precision {
        "" => "",
        int8 if int8.contains("onnx") => "onnx",
        _ => "safetensors",
    };
    Details {
        parent_model: "",
        format,
        family: family.to_owned(),
        families: families.into_iter().map(str::to_owned).collect(),
        parameter_size: "",
        quantization_level: precision.to_uppercase(),
    }
}

/// Whether it is one for clients of Ollama, which does not rerank.
fn embeds((_, backend): &(String, Arc<dyn Backend>)) -> bool {
    backend.info().scoring.is_none()
}

/// `GET /api/tags`: every name of the models that are ready.
pub(super) async fn tags(State(service): State<Service>) -> Response {
    let entry = |(name, backend): (String, Arc<dyn Backend>)| Listed {
        name: tagged(&name),
        model: tagged(&name),
        modified_at: NOT_KNOWN,
        size: 0,
        digest: backend.info().fingerprint.clone(),
        details: details(&backend.meta()),
    };
    let models = service.readiness.names().into_iter().filter(embeds).map(entry).collect();
    json_response(StatusCode::OK, &Tags { models })
}

/// `GET /api/ps`: the models that are loaded, which are those that are ready, each once.
pub(super) async fn running(State(service): State<Service>) -> Response {
    let entry = |(name, backend): (String, Arc<dyn Backend>)| {
        let meta = backend.meta();
        Running {
            name: tagged(&name),
            model: tagged(&name),
            size: 0,
            digest: backend.info().fingerprint.clone(),
            details: details(&meta),
            expires_at: NEVER,
            size_vram: 0,
            context_length: meta.model().map_or(0, |model| model.max_tokens),
        }
    };
    let models = service.readiness.listed().into_iter().filter(embeds).map(entry).collect();
    json_response(StatusCode::OK, &Loaded { models })
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
        let family = details.family.clone();
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
        let license = meta.model().and_then(|model| model.license.clone()).unwrap_or_default();
        // Ollama has no word for reranking.
        let capabilities = if backend.info().scoring.is_none() { vec!["embedding"] } else { vec![] };
        let answer = Shown {
            license,
            modelfile: "",
            parameters: "",
            template: "",
            details,
            model_info: about,
            capabilities,
            modified_at: NOT_KNOWN,
        };
        Ok(json_response(StatusCode::OK, &answer))
    };
    answer().unwrap_or_else(|error: Error| error_response(&error))
}

/// `GET /api/version`: ours, which some clients ask for before anything else.
pub(super) async fn version() -> Response {
    json_response(StatusCode::OK, &Version { version: env!("CARGO_PKG_VERSION") })
}
