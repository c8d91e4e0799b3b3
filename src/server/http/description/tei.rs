//! `POST /embed` and the other paths of text-embeddings-inference.

#![expect(
    dead_code,
    reason = "bodies are read field by field, and answers written piece by piece: these types describe them"
)]

use serde_json::json;
use utoipa::ToSchema;

use super::super::errors::TeiError;
use super::super::tei::Info;
use super::operation::{Described, Tag};
use super::plain::{Inputs, Texts, TokenIds};
use super::refusals::{OF_A_BODY, OF_A_MODEL, OF_A_TOKENIZER};
use crate::backend::Token;
use crate::error::ErrorKind;

/// The prompt that goes in front of every text.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum TeiPrompt {
    Query,
    Passage,
    Document,
}

/// Texts to be embedded.
#[derive(ToSchema)]
struct TeiRequest {
    /// At least one.
    inputs: Inputs,
    /// The model's own prompt for a task; without it none.
    prompt_name: Option<TeiPrompt>,
    /// False: vectors are as the profile makes them, not of length 1.
    normalize: Option<bool>,
    /// False: a text that is longer than the model's token limit is refused.
    truncate: Option<bool>,
    /// `right` alone: a long text loses its end.
    truncation_direction: Option<String>,
    /// So many numbers, from the first, scaled to length 1; without it all.
    #[schema(minimum = 1)]
    dimensions: Option<u64>,
}

/// The vectors, in the order of the texts.
#[derive(ToSchema)]
struct TeiVectors(Vec<Vec<f32>>);

/// The tokens of each text.
#[derive(ToSchema)]
struct TokensOfTexts(Vec<Vec<Token>>);

/// A text for each list of ids.
#[derive(ToSchema)]
struct DecodedTexts(Vec<String>);

fn described(id: &'static str, summary: &'static str) -> Described {
    Described::new::<TeiError>(Tag::Tei, id, summary)
}

/// `POST /embed`, `POST /`.
pub(in crate::server::http) fn embeddings(id: &'static str) -> Described {
    described(id, "Vectors of texts, as text-embeddings-inference answers it")
        .about(
            "All texts are embedded or none. Without `prompt_name` a text is embedded as it is. Token ids are \
             embedded as the text that they are decoded to; ids that the model's tokenizer would not make of that \
             text are refused.",
        )
        .takes::<TeiRequest>(&[
            ("texts", json!({"inputs": ["The ship sails at dawn.", "Rain fell all night."]})),
            ("query", json!({"inputs": "When does the ship sail?", "prompt_name": "query"})),
        ])
        .waits()
        .answers::<TeiVectors>(
            "The vectors, in the order of the texts.",
            &[("texts", json!([[0.6, -0.8, 0.0], [0.0, 0.6, 0.8]]))],
        )
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_MODEL)
}

/// Texts whose tokens are asked for.
#[derive(ToSchema)]
struct TokenizeRequest {
    inputs: Texts,
    /// False: without special tokens.
    add_special_tokens: Option<bool>,
}

/// `POST /tokenize`.
pub(in crate::server::http) fn tokenize() -> Described {
    described("tokenize", "The tokens of texts")
        .takes::<TokenizeRequest>(&[("text", json!({"inputs": "ships"}))])
        .waits()
        .answers::<TokensOfTexts>(
            "The tokens of each text.",
            &[(
                "text",
                json!([[
                    {"id": 101, "text": "[CLS]", "special": true, "start": null, "stop": null},
                    {"id": 3719, "text": "ships", "special": false, "start": 0, "stop": 5},
                    {"id": 102, "text": "[SEP]", "special": true, "start": null, "stop": null},
                ]]),
            )],
        )
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_TOKENIZER)
}

/// Token ids whose text is asked for.
#[derive(ToSchema)]
struct DecodeRequest {
    ids: TokenIds,
    /// False: with special tokens.
    skip_special_tokens: Option<bool>,
}

/// `POST /decode`.
pub(in crate::server::http) fn decode() -> Described {
    described("decode", "The texts of token ids")
        .takes::<DecodeRequest>(&[("ids", json!({"ids": [101, 3719, 102]}))])
        .waits()
        .answers::<DecodedTexts>("A text for each list of ids.", &[("ids", json!(["ships"]))])
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_TOKENIZER)
}

/// `GET /info`.
pub(in crate::server::http) fn info() -> Described {
    described("info", "The model and the limits")
        .answers::<Info<'static>>("What TEI has and this server does not is null.", &[])
        .refuses(&[ErrorKind::Unavailable, ErrorKind::Upstream])
}

/// `GET /health`.
pub(in crate::server::http) fn health() -> Described {
    described("health", "Whether the model is ready, as text-embeddings-inference answers it")
        .open()
        .without_body(200, "Ready.")
        .refuses(&[ErrorKind::Unavailable])
}
