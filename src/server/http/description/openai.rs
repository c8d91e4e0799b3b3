//! `POST /v1/embeddings`, `GET /v1/models`.

#![expect(
    dead_code,
    reason = "bodies are read field by field, and answers written piece by piece: these types describe them"
)]

use serde_json::json;
use utoipa::ToSchema;

use super::super::errors::OpenAiError;
use super::super::openai::{Model, Models, NO_RATE_LIMIT};
use super::operation::{Described, Tag};
use super::plain::Texts;
use super::refusals::{OF_A_BODY, OF_A_MODEL, OF_A_NAME};
use crate::error::ErrorKind;

/// How vectors are written.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Float,
    Base64,
}

/// Texts to be embedded.
#[derive(ToSchema)]
struct OpenAiRequest {
    /// At least one. Token ids are refused.
    input: Texts,
    /// A name that is served here; without one the default model.
    model: Option<String>,
    /// `float` (so it is without it): numbers; `base64`: float32, little-endian, in base64.
    encoding_format: Option<EncodingFormat>,
    /// So many numbers, from the first, scaled to length 1; without it all.
    #[schema(minimum = 1)]
    dimensions: Option<u64>,
}

/// A vector, as numbers or in base64.
#[derive(ToSchema)]
#[serde(untagged)]
enum OpenAiVector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// The vector of a text.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OpenAiEmbedding {
    /// `embedding`.
    object: String,
    /// The text's place in the request.
    index: usize,
    embedding: OpenAiVector,
}

/// What was read.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OpenAiUsage {
    /// Tokens, special ones included.
    prompt_tokens: u64,
    /// The same.
    total_tokens: u64,
}

/// The vectors, in the order of the texts.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OpenAiAnswer {
    /// `list`.
    object: String,
    data: Vec<OpenAiEmbedding>,
    /// As the request named it, else the default model's name.
    model: String,
    usage: OpenAiUsage,
}

/// `POST /v1/embeddings`, also without `/v1`.
pub(in crate::server::http) fn embeddings(id: &'static str) -> Described {
    let request = json!({"model": "all-MiniLM-L6-v2", "input": ["The ship sails at dawn.", "Rain fell all night."]});
    let described = Described::new::<OpenAiError>(Tag::OpenAi, id, "Vectors of texts, as OpenAI answers it")
        .about(
            "Of length 1 unless `--surface-normalize false` is given. All texts are embedded or none: an error says \
             which text it is about. A text that is too long is cut, where OpenAI refuses it.",
        )
        .takes::<OpenAiRequest>(&[
            ("texts", request),
            ("base64", json!({"input": "The ship sails at dawn.", "encoding_format": "base64"})),
        ])
        .waits()
        .answers::<OpenAiAnswer>(
            "The vectors.",
            &[(
                "texts",
                json!({
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8, 0.0]}],
                    "model": "all-MiniLM-L6-v2",
                    "usage": {"prompt_tokens": 8, "total_tokens": 8},
                }),
            )],
        )
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&OF_A_MODEL);
    NO_RATE_LIMIT.into_iter().fold(described, |described, (name, value)| {
        described.header(
            name,
            "There is no such limit: Weaviate's `text2vec-openai` paces its batches by these.",
            value,
        )
    })
}

/// `GET /v1/models`.
pub(in crate::server::http) fn models() -> Described {
    let entry = json!({"id": "all-MiniLM-L6-v2", "object": "model", "created": 0, "owned_by": "text2vec-sidecar"});
    Described::new::<OpenAiError>(Tag::OpenAi, "models", "Every name of the models that are ready")
        .answers::<Models>("The names.", &[("one", json!({"object": "list", "data": [entry]}))])
}

/// `GET /v1/models/{model}`.
pub(in crate::server::http) fn model() -> Described {
    let entry = json!({"id": "all-MiniLM-L6-v2", "object": "model", "created": 0, "owned_by": "text2vec-sidecar"});
    Described::new::<OpenAiError>(Tag::OpenAi, "model", "Whether a model is served by a name")
        .parameter("model", "The name. It may have slashes, as they are or as `%2F`.", "all-MiniLM-L6-v2")
        .answers::<Model>("It is, and is ready.", &[("one", entry)])
        .refuses(&OF_A_NAME)
        .refuses(&[ErrorKind::Unavailable])
}
