//! `POST /vectors`, `GET /meta`.

#![expect(
    dead_code,
    reason = "bodies are read field by field, and answers written piece by piece: these types describe them"
)]

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::super::errors::PlainError;
use super::super::fastapi::ValidationError;
use super::operation::{Described, Tag};
use super::refusals::{OF_A_BODY, OF_A_MODEL};
use super::shapes::{any_of, merged, named, object, of};
use crate::backend::meta::{ModelReport, ServerReport, UpstreamReport, WaitingTokens};
use crate::error::ErrorKind;
use crate::telemetry::metrics::CacheStats;

/// How a text is to be embedded. What is unknown here is ignored.
#[derive(ToSchema)]
struct VectorsConfig {
    /// `masked_mean` or `cls`; without it the model's own. It has its effect under the profile `transformers`.
    pooling_strategy: Option<String>,
    /// `query` or `passage`, or a name of the model's own; without it a passage.
    task_type: Option<String>,
    /// So many numbers, from the first; without it all. A number in a text is read as well.
    dimensions: Option<i64>,
}

/// One text, as Weaviate sends it.
#[derive(ToSchema)]
struct OneText {
    text: String,
    config: Option<VectorsConfig>,
}

/// Several texts, each treated as if it came alone. Where there is also a `text`, that counts.
#[derive(ToSchema)]
struct ManyTexts {
    texts: Vec<String>,
    config: Option<VectorsConfig>,
}

/// One text or several.
struct VectorsRequest;

impl PartialSchema for VectorsRequest {
    fn schema() -> RefOr<Schema> {
        any_of("One text or several. Other fields are ignored.", [of::<OneText>(), of::<ManyTexts>()])
    }
}

impl ToSchema for VectorsRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<OneText>(schemas);
        named::<ManyTexts>(schemas);
    }
}

/// Of one text.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct TextVector {
    /// As it was sent.
    text: String,
    /// As the profile makes it: float32 in the fewest digits that read back to the same float32.
    vector: Vec<f32>,
    /// Numbers of the vector.
    dim: usize,
    /// The same.
    dims: usize,
}

/// Of several texts.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct TextsVectors {
    /// As they were sent.
    texts: Vec<String>,
    /// In their order; null for a text that failed.
    vectors: Vec<Option<Vec<f32>>>,
    /// Numbers of a vector; 0 where there is none.
    dim: usize,
    /// The same.
    dims: usize,
    /// Where a text failed: for each text why, or null.
    #[schema(nullable = false)]
    errors: Option<Vec<Option<String>>>,
}

/// The vector of `text`, or those of `texts`.
#[derive(ToSchema)]
#[serde(untagged)]
enum VectorsAnswer {
    One(TextVector),
    Many(TextsVectors),
}

/// `POST /vectors`.
pub(in crate::server::http) fn vectors() -> Described {
    let config = json!({"pooling_strategy": "masked_mean", "task_type": "passage"});
    let request = json!({"text": "The ship sails at dawn.", "config": config});
    Described::new::<PlainError>(Tag::Weaviate, "vectors", "The vector of a text, or those of several")
        .about(
            "As the reference container answers it. `task_type` `query` goes before passages that wait. With \
             `texts` each text succeeds or fails by itself: a failed one has `null` in `vectors` and its reason in \
             `errors`; where all of them fail, the first one's error is answered.",
        )
        .takes::<VectorsRequest>(&[
            ("text", request),
            ("query", json!({"text": "When does the ship sail?", "config": {"task_type": "query"}})),
            ("texts", json!({"texts": ["The ship sails at dawn.", "Rain fell all night."]})),
        ])
        .waits()
        .answers::<VectorsAnswer>("The vector, or the vectors.", &[
            ("text", json!({"text": "The ship sails at dawn.", "vector": [0.25, -0.5, 0.125], "dim": 3, "dims": 3})),
            ("texts", json!({
                "texts": ["one", "two"],
                "vectors": [[0.25, -0.5, 0.125], null],
                "dim": 3,
                "dims": 3,
                "errors": [null, "a text of 5000000 bytes, 4194304 are allowed: split it or raise --max-text-bytes"],
            })),
        ])
        .with_body::<ValidationError>(422, "The body is not as it must be: FastAPI's `detail`, and `error`.", &[(
            "missing",
            json!({
                "error": "'text': Field required",
                "detail": [{"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {}}],
            }),
        )])
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_MODEL)
}

/// What a cache says of itself.
struct CacheBlock;

/// What a sidecar says of itself that computes a model.
struct ModelSidecar;

/// What a sidecar says of itself that forwards.
struct UpstreamSidecar;

/// What a sidecar says of itself beside what the sides of a pair say.
struct ServerSidecar;

/// How long a cache keeps a vector.
#[derive(ToSchema)]
struct Kept {
    /// Seconds; null: until room is needed.
    #[schema(required)]
    ttl_seconds: Option<f64>,
}

/// What stands beside a backend's own words.
#[derive(ToSchema)]
struct Cached {
    /// The cache, if there is one.
    #[schema(value_type = CacheBlock, required = false)]
    cache: (),
}

/// To whom texts are forwarded.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Forwarded {
    upstream: UpstreamReport,
    /// Changes whenever vectors may change, as far as it is known.
    fingerprint: String,
}

impl PartialSchema for CacheBlock {
    fn schema() -> RefOr<Schema> {
        let about = "What the cache has done and holds. Counts are of texts since the start.";
        RefOr::T(Schema::Object(merged(about, [object::<CacheStats>(), object::<Kept>()])))
    }
}

impl ToSchema for CacheBlock {}

impl PartialSchema for ModelSidecar {
    fn schema() -> RefOr<Schema> {
        let about = "A model that is computed here, its cache, and the server's limits under the names of their flags.";
        let parts = [object::<ModelReport>(), object::<Cached>(), object::<ServerReport>()];
        RefOr::T(Schema::Object(merged(about, parts)))
    }
}

impl ToSchema for ModelSidecar {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<WaitingTokens>(schemas);
        named::<CacheBlock>(schemas);
    }
}

impl PartialSchema for UpstreamSidecar {
    fn schema() -> RefOr<Schema> {
        let about = "Another server that texts are forwarded to, the cache before it, and this server's limits.";
        let parts = [object::<Forwarded>(), object::<Cached>(), object::<ServerReport>()];
        RefOr::T(Schema::Object(merged(about, parts)))
    }
}

impl ToSchema for UpstreamSidecar {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<UpstreamReport>(schemas);
        named::<CacheBlock>(schemas);
    }
}

impl PartialSchema for ServerSidecar {
    fn schema() -> RefOr<Schema> {
        let about = "The cache before both sides, and this server's limits.";
        RefOr::T(Schema::Object(merged(about, [object::<Cached>(), object::<ServerReport>()])))
    }
}

impl ToSchema for ServerSidecar {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<CacheBlock>(schemas);
    }
}

/// A model that is computed here.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ModelMeta {
    /// The model's `config.json`.
    #[schema(value_type = Object)]
    model: (),
    /// Its directory.
    model_path: String,
    #[schema(value_type = ModelSidecar)]
    sidecar: (),
}

/// A model that is one side of a pair, where the limits stand beside the pair.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ModelSide {
    /// The model's `config.json`.
    #[schema(value_type = Object)]
    model: (),
    /// Its directory.
    model_path: String,
    sidecar: ModelReport,
}

/// Two backends, one for passages and one for queries.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct PairMeta {
    /// Of the one for passages.
    #[schema(value_type = Side)]
    passage: (),
    /// Of the one for queries.
    #[schema(value_type = Side)]
    query: (),
    /// Where there is a cache, which is one for both.
    #[schema(value_type = ServerSidecar, required = false)]
    sidecar: (),
}

/// One of two backends.
struct Side;

impl PartialSchema for Side {
    fn schema() -> RefOr<Schema> {
        let members = [of::<ModelMeta>(), of::<ModelSide>(), of::<UpstreamMeta>()];
        any_of("A model that is computed here, or another server.", members)
    }
}

impl ToSchema for Side {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<ModelMeta>(schemas);
        named::<ModelSide>(schemas);
        named::<UpstreamMeta>(schemas);
    }
}

/// Another server, in its own words, and what this sidecar says of itself.
#[derive(ToSchema)]
struct UpstreamMeta {
    #[schema(value_type = ForwarderSidecar)]
    sidecar: (),
}

/// Another server that answers `null`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct NothingSaid {}

/// What a sidecar says of itself that forwards, alone or as one side of a pair.
struct ForwarderSidecar;

impl PartialSchema for ForwarderSidecar {
    fn schema() -> RefOr<Schema> {
        let members = [of::<UpstreamSidecar>(), of::<Forwarded>()];
        any_of("To whom it forwards; where it is no side of a pair, also its limits.", members)
    }
}

impl ToSchema for ForwarderSidecar {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<UpstreamSidecar>(schemas);
        named::<Forwarded>(schemas);
    }
}

/// What is embedded with.
struct Meta;

impl PartialSchema for Meta {
    fn schema() -> RefOr<Schema> {
        let members = [of::<ModelMeta>(), of::<PairMeta>(), of::<UpstreamMeta>(), of::<NothingSaid>()];
        any_of("A model that is computed here, two of which one is for queries, or another server.", members)
    }
}

impl ToSchema for Meta {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        named::<ModelMeta>(schemas);
        named::<PairMeta>(schemas);
        named::<UpstreamMeta>(schemas);
        named::<NothingSaid>(schemas);
    }
}

/// `GET /meta`.
pub(in crate::server::http) fn meta() -> Described {
    Described::new::<PlainError>(Tag::Weaviate, "meta", "The model, its path, and what this sidecar says of itself")
        .about(
            "The reference container's `model` (the model's `config.json`) and `model_path`; under `sidecar` the \
             profile, the limits, the fingerprint of the vectors and counters.",
        )
        .answers::<Meta>("What is embedded with.", &[])
        .refuses(&[ErrorKind::Unavailable, ErrorKind::Upstream])
}
