//! The API of text-embeddings-inference: `POST /embed`, which `POST /` is too, `POST /tokenize`, `POST /decode`, `GET /info`,
//! `GET /health`, also below `/models/<name>`. Its `POST /embeddings` is OpenAI's.
//!
//! Errors have TEI's shape, `{"error": "…", "error_type": "Validation"}`, and its statuses. Without `prompt_name` a text
//! is embedded as it is; `query`, and `passage` or `document`, are the model's own prompts for a task. With `normalize:
//! false` a vector is as the profile makes it, and without `truncate: false` a text that is too long is cut.
//!
//! In place of a text may stand the ids of its tokens, as `POST /tokenize` gives them: they are embedded as the text that
//! they are decoded to. Ids that the model's tokenizer would not make of that text, special ones included, are refused.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::asked::within_deadline;
use super::errors::{json_response, tei_error};
use super::path::Scoped;
use super::plain::{Fields, Input, embed, refused, without_task};
use super::rerank::{RerankerType, reranker_type};
use super::written::{Part, list, written};
use crate::contract::call::EmbedSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::server::service::Service;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// What TEI says of its model. What it has and we do not is null.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiInfo)]
pub(super) struct Info<'a> {
    /// The model's name.
    model_id: String,
    #[schema(required)]
    model_sha: Option<String>,
    /// Numbers of the weights: `float32`, `float16`, `bfloat16` or `int8`; null where texts are forwarded.
    #[schema(required)]
    model_dtype: Option<&'a str>,
    model_type: ModelType,
    /// Connections at once.
    max_concurrent_requests: usize,
    /// Tokens of a text, special ones included; null where texts are forwarded.
    #[schema(required)]
    max_input_length: Option<usize>,
    /// Tokens that may wait; null where texts are forwarded.
    #[schema(required)]
    max_batch_tokens: Option<usize>,
    #[schema(required)]
    max_batch_requests: Option<usize>,
    /// Texts in one request.
    max_client_batch_size: usize,
    /// A text that is too long is cut, unless the request says otherwise.
    auto_truncate: bool,
    #[schema(required)]
    tokenization_workers: Option<usize>,
    /// Of this program.
    version: &'a str,
    #[schema(required)]
    sha: Option<String>,
    #[schema(required)]
    docker_label: Option<String>,
}

/// What a model is for: it has one of the two.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiModelType)]
struct ModelType {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    embedding: Option<EmbeddingType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reranker: Option<RerankerType>,
}

/// A model that makes vectors.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiEmbeddingType)]
struct EmbeddingType {
    /// How tokens become a vector; null where texts are forwarded.
    #[schema(required)]
    pooling: Option<String>,
}

/// `POST /embed`.
pub(super) async fn embeddings(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(&service, &headers, body).await {
        Ok(response) => response,
        Err(error) => tei_error(&error),
    }
}

async fn answer(service: &Service, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response> {
    let mut fields = Fields::read(service, body)?;
    let inputs = fields.inputs("inputs")?;
    if inputs.is_empty() {
        return Err(refused("inputs", "'inputs' is an empty list: send a text"));
    }
    let texts = within_deadline(headers, texts_of(service, inputs)).await?;
    let settings = match fields.string("prompt_name")?.as_deref() {
        None => without_task(),
        Some("query") => EmbedSettings::query(),
        Some("passage" | "document") => EmbedSettings::default(),
        Some(other) => {
            let message = format!("no prompt is named '{other}': use query, passage or document");
            return Err(refused("prompt_name", message));
        }
    };
    fields.only_from_the_right()?;
    let normalize = fields.boolean("normalize")?.unwrap_or(true);
    let may_cut = fields.boolean("truncate")?.unwrap_or(true);
    let dimensions = fields.dimensions()?;
    let embeddings = embed(service, headers, texts, settings, dimensions, normalize).await?;
    if let (false, Some(index)) = (may_cut, embeddings.iter().position(|embedding| embedding.truncated)) {
        let message = "is longer than the model's token limit, and 'truncate' is false: shorten it or let it be cut";
        let message = format!("'inputs[{index}]' {message}");
        return Err(Error::new(ErrorKind::TooLarge, message).parameter(format!("inputs[{index}]")));
    }
    Ok(written(list(embeddings.into_iter().map(|embedding| [Part::Vector(embedding.vector)]))))
}

/// The error of one of the inputs.
fn of_input(index: usize, error: Error) -> Error {
    let place = format!("inputs[{index}]");
    error.context(format_args!("'{place}'")).parameter(place)
}

/// Texts as they are, and those that token ids stand for.
async fn texts_of(service: &Service, inputs: Vec<Input>) -> Result<Vec<String>> {
    if inputs.iter().all(|input| matches!(input, Input::Text(_))) {
        let text = |input| match input {
            Input::Text(text) => text,
            Input::Ids(_) => String::new(),
        };
        return Ok(inputs.into_iter().map(text).collect());
    }
    service
        .with_tokenizer(move |tokenizer| {
            let text = |(index, input)| match input {
                Input::Text(text) => Ok(text),
                Input::Ids(ids) => tokenizer.text_of(&ids).map_err(|error| of_input(index, error)),
            };
            inputs.into_iter().enumerate().map(text).collect()
        })
        .await
}

/// `POST /tokenize`: the tokens of each text, as lists of `{id, text, special, start, stop}`.
pub(super) async fn tokenize(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let texts = fields.texts("inputs")?;
        let special_tokens = fields.boolean("add_special_tokens")?.unwrap_or(true);
        if fields.string("prompt_name")?.is_some() {
            let message = "'prompt_name' is not known here: put the prompt in front of the text";
            return Err(refused("prompt_name", message));
        }
        let (bytes, most) = (texts.iter().map(String::len).sum::<usize>(), service.limits.max_tokenize_bytes);
        if bytes > most {
            metrics().refused(Refusal::MaxTokenizeBytes);
            let message =
                format!("{bytes} bytes of text, {most} are allowed: send less at once or raise --max-tokenize-bytes");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        // Written as they are made: a token takes twenty times its text as JSON.
        let tokens = service.with_tokenizer(move |tokenizer| {
            let mut json = vec![b'['];
            for (index, text) in texts.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                let tokens = tokenizer.tokens(text, special_tokens);
                let tokens = tokens.map_err(|error| of_input(index, error))?;
                serde_json::to_writer(&mut json, &tokens)
                    .map_err(|error| Error::internal(format!("tokens could not be written: {error}")))?;
            }
            json.push(b']');
            Ok(json)
        });
        let json = within_deadline(&headers, tokens).await?;
        Ok((StatusCode::OK, [(CONTENT_TYPE, "application/json")], json).into_response())
    };
    answer.await.unwrap_or_else(|error| tei_error(&error))
}

/// `POST /decode`: `{"ids": …}`, of one text or of several, to a list of texts.
pub(super) async fn decode(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let mut fields = Fields::read(&service, body)?;
        let ids = |input| match input {
            Input::Ids(ids) => Ok(ids),
            Input::Text(_) => Err(refused("ids", "'ids' must be token ids, or lists of them")),
        };
        let lists = fields.inputs("ids")?.into_iter().map(ids).collect::<Result<Vec<_>>>()?;
        let skip_special_tokens = fields.boolean("skip_special_tokens")?.unwrap_or(true);
        let texts = service.with_tokenizer(move |tokenizer| {
            let decoded = lists.iter().map(|ids| tokenizer.decode(ids, skip_special_tokens));
            decoded.collect::<Result<Vec<_>>>().map_err(|error| error.parameter("ids"))
        });
        Ok(json_response(StatusCode::OK, &within_deadline(&headers, texts).await?))
    };
    answer.await.unwrap_or_else(|error| tei_error(&error))
}

/// `GET /info`. What TEI has and we do not is null.
pub(super) async fn info(Scoped(service): Scoped) -> Response {
    let (backend, meta) = match (service.backend(), service.meta().await) {
        (Ok(backend), Ok(meta)) => (backend, meta),
        (Err(error), _) | (_, Err(error)) => return tei_error(&error),
    };
    let model = meta.model();
    let dtype = model.map(|model| match model.precision {
        "f32" => "float32",
        "f16" => "float16",
        "bf16" => "bfloat16",
        other => other,
    });
    let model_type = match &backend.info().scoring {
        None => ModelType {
            embedding: Some(EmbeddingType { pooling: model.map(|model| model.pooling.clone()) }),
            reranker: None,
        },
        Some(scoring) => ModelType { embedding: None, reranker: Some(reranker_type(&scoring.labels)) },
    };
    let info = Info {
        model_id: backend.info().name.clone(),
        model_sha: None,
        model_dtype: dtype,
        model_type,
        max_concurrent_requests: service.limits.max_connections,
        max_input_length: model.map(|model| model.max_tokens),
        max_batch_tokens: model.map(|model| model.max_waiting_tokens),
        max_batch_requests: None,
        max_client_batch_size: service.limits.max_texts,
        auto_truncate: true,
        tokenization_workers: model.map(|model| model.threads),
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
    };
    json_response(StatusCode::OK, &info)
}

/// `GET /health`: 200 when ready.
pub(super) async fn health(Scoped(service): Scoped) -> Response {
    match service.readiness.reason_for(service.model.as_deref()) {
        None => StatusCode::OK.into_response(),
        Some(reason) => tei_error(&Error::new(ErrorKind::Unavailable, format!("not ready: {reason}"))),
    }
}
