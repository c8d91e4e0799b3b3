//! `POST /rerank`, `POST /v1/rerank`.

#![expect(
    dead_code,
    reason = "bodies are read field by field, and answers written piece by piece: these types describe them"
)]

use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::super::errors::{PlainError, RerankError, TeiError};
use super::operation::{Described, Tag};
use super::refusals::{OF_A_BODY, OF_A_MODEL, OF_A_NAME};
use super::shapes::{any_of, named, of};

/// Of the examples.
const QUERY: &str = "When does the ship sail?";
const DOCUMENT: &str = "The ship sails at dawn.";

/// A document: a text, or an object with it.
#[derive(ToSchema)]
#[serde(untagged)]
enum RerankDocument {
    Text(String),
    Object { text: String },
}

/// As Weaviate's `reranker-transformers` asks.
#[derive(ToSchema)]
struct WeaviateDocuments {
    query: String,
    documents: Vec<RerankDocument>,
    /// Scored by itself where there are no documents.
    property: Option<String>,
}

/// One text, as the container of Weaviate's module has it.
#[derive(ToSchema)]
struct WeaviateProperty {
    query: String,
    property: String,
    /// A reranker's name; without one the first reranker.
    model: Option<String>,
}

/// As the clients of text-embeddings-inference ask: `texts` in place of `documents`.
#[derive(ToSchema)]
struct TeiRerankRequest {
    query: String,
    /// One text, or a list.
    texts: super::plain::Texts,
    /// The model's logits, not their sigmoids.
    raw_scores: Option<bool>,
    /// The answer has the texts.
    return_text: Option<bool>,
    /// False: a pair that is longer than the model's token limit is refused.
    truncate: Option<bool>,
    /// `right` alone: a long text loses its end.
    truncation_direction: Option<String>,
    /// A reranker's name; without one the first reranker.
    model: Option<String>,
}

/// What is to be reranked.
struct RerankRequest;

impl PartialSchema for RerankRequest {
    fn schema() -> RefOr<Schema> {
        let about = "With `texts` and no `documents` as text-embeddings-inference has it; with `model`, `top_n` or \
                     `return_documents` beside documents as Cohere and Jina do; else as Weaviate does.";
        let apis =
            [of::<WeaviateDocuments>(), of::<WeaviateProperty>(), of::<TeiRerankRequest>(), of::<CohereRequest>()];
        any_of(about, apis)
    }
}

impl ToSchema for RerankRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<WeaviateDocuments>(schemas);
        named::<WeaviateProperty>(schemas);
        named::<TeiRerankRequest>(schemas);
        named::<CohereRequest>(schemas);
    }
}

/// A document and its score.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct DocumentScore {
    document: String,
    /// The model's own activation; null where it is no number.
    #[schema(required)]
    score: Option<f32>,
}

/// For Weaviate: in the order of the request.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct WeaviateScores {
    query: String,
    /// Null where only a property was scored.
    #[schema(required)]
    scores: Option<Vec<DocumentScore>>,
    #[schema(required)]
    property: Option<String>,
    /// Of the property.
    #[schema(required)]
    score: Option<f32>,
}

/// A text's place in the request and its score.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct TeiRank {
    /// Its place in the request.
    index: usize,
    /// The sigmoid of the logit, or the logit; null where it is no number.
    #[schema(required)]
    score: Option<f32>,
    /// With `return_text`.
    #[schema(nullable = false)]
    text: Option<String>,
}

/// In the words of who asked.
#[derive(ToSchema)]
#[serde(untagged)]
enum RerankAnswer {
    Weaviate(WeaviateScores),
    /// Best first.
    Tei(Vec<TeiRank>),
    Cohere(CohereAnswer),
}

/// `POST /rerank`.
pub(in crate::server::http) fn rerank() -> Described {
    Described::new::<PlainError>(Tag::Reranking, "rerank", "Scores of documents for a query")
        .about(
            "Three APIs on one path. Weaviate's (`documents`): the model's own activation, in the order of the \
             request. text-embeddings-inference's (`texts`, and no `documents`): the sigmoid of the logit, best \
             first, and errors in its shape. Cohere's and Jina's (`documents`, and `model`, `top_n` or \
             `return_documents`): as `/v1/rerank` answers.",
        )
        .takes::<RerankRequest>(&[
            ("documents", json!({"query": QUERY, "documents": [DOCUMENT, "Rain fell."]})),
            ("texts", json!({"query": QUERY, "texts": [DOCUMENT, "Rain fell."]})),
            ("top_n", best_of_documents()),
        ])
        .waits()
        .answers::<RerankAnswer>(
            "The scores.",
            &[
                (
                    "documents",
                    json!({
                        "query": QUERY,
                        "scores": [{"document": DOCUMENT, "score": 0.875}, {"document": "Rain fell.", "score": 0.0625}],
                        "property": null,
                        "score": null,
                    }),
                ),
                ("texts", json!([{"index": 0, "score": 0.875}, {"index": 1, "score": 0.0625}])),
                ("top_n", the_best()),
            ],
        )
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&OF_A_MODEL)
        .refuses_as::<TeiError>(&READ)
        .refuses_as::<RerankError>(&READ)
}

/// What a request is refused for whose fields have been read.
const READ: [crate::error::ErrorKind; 8] = {
    use crate::error::ErrorKind::{InvalidArgument, NotFound, TooLarge};
    let [overloaded, internal, upstream, unavailable, deadline] = OF_A_MODEL;
    [InvalidArgument, NotFound, TooLarge, overloaded, internal, upstream, unavailable, deadline]
};

/// As the clients of Cohere and Jina ask.
#[derive(ToSchema)]
struct CohereRequest {
    /// A reranker's name; without one the first reranker.
    model: Option<String>,
    query: String,
    /// At least one.
    documents: Vec<RerankDocument>,
    /// So many of the best.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// The answer has the documents.
    return_documents: Option<bool>,
}

/// A document's text.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereDocument {
    text: String,
}

/// A document's place in the request and its score.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereResult {
    /// Its place in the request.
    index: usize,
    /// The model's own activation; null where it is no number.
    #[schema(required)]
    relevance_score: Option<f32>,
    /// With `return_documents`.
    #[schema(nullable = false)]
    document: Option<CohereDocument>,
}

/// What was read.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereUsage {
    total_tokens: u64,
    prompt_tokens: u64,
}

/// The version of Cohere's API.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereVersion {
    version: String,
}

/// What is billed: nothing.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereUnits {
    search_units: u64,
}

/// What Cohere's clients read beside the results.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereMeta {
    api_version: CohereVersion,
    billed_units: CohereUnits,
}

/// Best first.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct CohereAnswer {
    results: Vec<CohereResult>,
    /// As the request named it, else the model's own name.
    model: String,
    usage: CohereUsage,
    meta: CohereMeta,
}

/// The example of Cohere's API, and what it is answered.
fn best_of_documents() -> Value {
    json!({"query": QUERY, "documents": [DOCUMENT, "Rain fell."], "top_n": 1, "return_documents": true})
}

fn the_best() -> Value {
    json!({
        "results": [{"index": 0, "relevance_score": 0.875, "document": {"text": DOCUMENT}}],
        "model": "bge-reranker-base",
        "usage": {"total_tokens": 27, "prompt_tokens": 27},
        "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 0}},
    })
}

/// `POST /v1/rerank`, `POST /v2/rerank`.
pub(in crate::server::http) fn rerank_as_cohere(id: &'static str) -> Described {
    Described::new::<RerankError>(Tag::Reranking, id, "The best documents for a query, as Cohere and Jina answer it")
        .takes::<CohereRequest>(&[("documents", best_of_documents())])
        .waits()
        .answers::<CohereAnswer>("The results, best first.", &[("documents", the_best())])
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_NAME)
        .refuses(&OF_A_MODEL)
}
