//! `POST /api/embed` and the other paths of Ollama's.

#![expect(
    dead_code,
    reason = "bodies are read field by field, and answers written piece by piece: these types describe them"
)]

use serde_json::json;
use utoipa::ToSchema;

use super::super::errors::PlainError;
use super::super::ollama::{Loaded, Shown, Tags, Version};
use super::operation::{Described, Tag};
use super::plain::Texts;
use super::refusals::{OF_A_BODY, OF_A_MODEL, OF_A_NAME};
use crate::error::ErrorKind;

/// Texts to be embedded. `keep_alive` and `options` have no effect.
#[derive(ToSchema)]
struct OllamaEmbedRequest {
    /// A name that is served here, `:latest` or not; without one the default model.
    model: Option<String>,
    input: Texts,
    /// False: a text that is longer than the model's token limit is refused.
    truncate: Option<bool>,
    /// So many numbers, from the first, scaled to length 1; without it all.
    #[schema(minimum = 1)]
    dimensions: Option<u64>,
}

/// The vectors, in the order of the texts.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OllamaEmbedAnswer {
    /// As the request named it; empty where it named none.
    model: String,
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    total_duration: u64,
    /// Nanoseconds: 0, as models are loaded at start.
    load_duration: u64,
    /// Tokens of all texts, special ones included.
    prompt_eval_count: u64,
}

/// A text to be embedded, in the older way.
#[derive(ToSchema)]
struct OllamaPromptRequest {
    /// A name that is served here, `:latest` or not; without one the default model.
    model: Option<String>,
    prompt: String,
}

/// Its vector.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OllamaPromptAnswer {
    embedding: Vec<f32>,
}

/// Which model is asked about.
#[derive(ToSchema)]
struct OllamaShowRequest {
    /// A name that is served here, `:latest` or not; without one the default model.
    model: Option<String>,
    /// As `model` was called before.
    name: Option<String>,
}

fn described(id: &'static str, summary: &'static str) -> Described {
    Described::new::<PlainError>(Tag::Ollama, id, summary)
}

/// `POST /api/embed`.
pub(in crate::server::http) fn embed_many() -> Described {
    described("ollama_embed", "Vectors of texts, as Ollama answers it")
        .about("Of length 1 unless `--surface-normalize false` is given. All texts are embedded or none.")
        .takes::<OllamaEmbedRequest>(&[("texts", json!({"model": "all-MiniLM-L6-v2", "input": ["one", "two"]}))])
        .waits()
        .answers::<OllamaEmbedAnswer>(
            "The vectors.",
            &[(
                "texts",
                json!({
                    "model": "all-MiniLM-L6-v2",
                    "embeddings": [[0.6, -0.8, 0.0], [0.0, 0.6, 0.8]],
                    "total_duration": 5_300_000,
                    "load_duration": 0,
                    "prompt_eval_count": 6,
                }),
            )],
        )
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&OF_A_MODEL)
}

/// `POST /api/embeddings`.
pub(in crate::server::http) fn embed_one() -> Described {
    described("ollama_embeddings", "The vector of a text, in Ollama's older way")
        .takes::<OllamaPromptRequest>(&[("text", json!({"model": "all-MiniLM-L6-v2", "prompt": "one"}))])
        .waits()
        .answers::<OllamaPromptAnswer>("The vector.", &[("text", json!({"embedding": [0.6, -0.8, 0.0]}))])
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&OF_A_MODEL)
}

/// `POST /api/show`.
pub(in crate::server::http) fn show() -> Described {
    described("ollama_show", "What is known of a model")
        .takes::<OllamaShowRequest>(&[("model", json!({"model": "all-MiniLM-L6-v2"}))])
        .answers::<Shown>("What is known; what is not is an empty text.", &[])
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&[ErrorKind::Unavailable])
}

/// `GET /api/tags`.
pub(in crate::server::http) fn tags() -> Described {
    described("ollama_tags", "Every name of the models that are ready and make vectors")
        .answers::<Tags>("The names, each with a tag.", &[])
}

/// `GET /api/ps`.
pub(in crate::server::http) fn running() -> Described {
    described("ollama_ps", "The models that are loaded").answers::<Loaded>("Each once.", &[])
}

/// `GET /api/version`.
pub(in crate::server::http) fn version() -> Described {
    described("ollama_version", "The version of this program")
        .answers::<Version>("The version.", &[("version", json!({"version": env!("CARGO_PKG_VERSION")}))])
}
