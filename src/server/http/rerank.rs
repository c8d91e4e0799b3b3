//! Reranking: `POST /rerank` as Weaviate's `reranker-transformers` speaks it (`{"query", "documents"}`), as
//! text-embeddings-inference does (`{"query", "texts"}`), and as Cohere and Jina do, whose clients of vLLM, llama.cpp and LiteLLM
//! ask there (`{"model", "query", "documents", "top_n", "return_documents"}`), told apart by those fields; `POST /v1/rerank`,
//! which `/v2/rerank` is too, as Cohere and Jina have it. Each also below `/models/<name>`. Without a name the first reranker is
//! asked.
//!
//! | API | order of the answer | number |
//! |---|---|---|
//! | Weaviate | the documents', by which it reads them | the model's own activation, as sentence-transformers' CrossEncoder |
//! | TEI | best first | the sigmoid of the logit; with `raw_scores` the logit |
//! | Cohere, Jina | best first | the model's own activation |
//!
//! All documents are scored or none: an error says which one it is about. Errors are each API's.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::asked::within_deadline;
use super::errors::{error_response, rerank_error, tei_error};
use super::path::Scoped;
use super::plain::{Fields, refused};
use super::written::{Part, fixed, list, value, written};
use crate::backend::scoring::Activation;
use crate::contract::call::Text;
use crate::error::{Error, ErrorKind, Result};
use crate::server::service::{Scores, Service};

/// A document and what became of it.
struct Scored {
    /// Its place in the request.
    index: usize,
    document: Text,
    score: f32,
}

/// What a request's documents came to.
struct Ranking {
    model: String,
    /// In the order of the request.
    scored: Vec<Scored>,
    tokens: u64,
    /// The first document that was cut, with its query.
    cut: Option<usize>,
}

/// `POST /rerank`.
pub(super) async fn rerank(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut fields = match Fields::read(&service, body) {
        Ok(fields) => fields,
        Err(error) => return error_response(&error),
    };
    let api = Api::of(&fields);
    if api == Api::Cohere {
        return of_cohere(&service, &headers, fields).await.unwrap_or_else(|error| rerank_error(&error));
    }
    // Neither API has it; who sends it means it.
    let of_model = fields.string("model").and_then(|model| service.of_model(&model.unwrap_or_default()));
    let answer = match of_model {
        Ok(service) if api == Api::Tei => of_tei(&service, &headers, fields).await,
        Ok(service) => of_weaviate(&service, &headers, fields).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| if api == Api::Tei { tei_error(&error) } else { error_response(&error) })
}

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Weaviate,
    Tei,
    Cohere,
}

impl Api {
    /// Weaviate sends a query and documents, or, to its container, a property; nothing else has `texts`.
    fn of(fields: &Fields<'_>) -> Api {
        let is_of_cohere = || ["model", "top_n", "return_documents"].iter().any(|field| fields.says(field));
        match (fields.has("documents"), fields.has("texts"), fields.has("property")) {
            (false, true, _) => Api::Tei,
            (false, false, true) => Api::Weaviate,
            _ if is_of_cohere() => Api::Cohere,
            _ => Api::Weaviate,
        }
    }
}

/// `POST /v1/rerank`.
pub(super) async fn rerank_v1(
    Scoped(service): Scoped,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async { of_cohere(&service, &headers, Fields::read(&service, body)?).await };
    answer.await.unwrap_or_else(|error| rerank_error(&error))
}

/// `{"query", "documents", "property"}` to `{"query", "scores": [{"document", "score"}], "property", "score"}`. Without documents
/// the property is what is scored, as the reranker's container has it.
async fn of_weaviate(service: &Service, headers: &HeaderMap, mut fields: Fields<'_>) -> Result<Response> {
    let query = query(&mut fields)?;
    let Some(documents) = fields.documents("documents")? else {
        let Some(property) = fields.string("property")? else {
            return Err(refused("documents", "'documents' is missing: a list of texts"));
        };
        let ranking = ranked(service, headers, query.clone(), vec![property.clone()], None).await?;
        let score = ranking.scored.first().map(|scored| scored.score);
        let (property, score) = (Part::Text(property.into()), value(&score));
        let (scores, end) = (fixed(r#","scores":null,"property":"#), fixed("}"));
        return Ok(written([
            fixed(r#"{"query":"#),
            Part::Text(query),
            scores,
            property,
            fixed(r#","score":"#),
            score,
            end,
        ]));
    };
    let ranking = ranked(service, headers, query.clone(), documents, None).await?;
    let entry = |scored: Scored| {
        let score = Part::Json(format!(r#","score":{}}}"#, number(scored.score)).into());
        [fixed(r#"{"document":"#), Part::Text(scored.document), score]
    };
    let parts = [fixed(r#"{"query":"#), Part::Text(query), fixed(r#","scores":"#)]
        .into_iter()
        .chain(list(ranking.scored.into_iter().map(entry)))
        .chain([fixed(r#","property":null,"score":null}"#)]);
    Ok(written(parts))
}

/// `{"query", "texts", "raw_scores", "return_text", "truncate"}` to `[{"index", "score", "text"}]`.
async fn of_tei(service: &Service, headers: &HeaderMap, mut fields: Fields<'_>) -> Result<Response> {
    let query = query(&mut fields)?;
    let texts = fields.texts("texts")?;
    if texts.is_empty() {
        return Err(refused("texts", "'texts' is an empty list: send a text"));
    }
    let raw = fields.boolean("raw_scores")?.unwrap_or(false);
    let with_text = fields.boolean("return_text")?.unwrap_or(false);
    let may_cut = fields.boolean("truncate")?.unwrap_or(true);
    fields.only_from_the_right()?;
    let activation = if raw { Activation::Identity } else { Activation::Sigmoid };
    let ranking = ranked(service, headers, query, texts, Some(activation)).await?;
    if let (false, Some(index)) = (may_cut, ranking.cut) {
        let message = format!(
            "'texts[{index}]' and the query are longer than the model's token limit, and 'truncate' is false: shorten them or \
             let them be cut"
        );
        return Err(Error::new(ErrorKind::TooLarge, message).parameter(format!("texts[{index}]")));
    }
    let entry = move |scored: Scored| {
        let begin = Part::Json(format!(r#"{{"index":{},"score":{}"#, scored.index, number(scored.score)).into());
        let text = with_text.then(|| [fixed(r#","text":"#), Part::Text(scored.document)]);
        [begin].into_iter().chain(text.into_iter().flatten()).chain([fixed("}")])
    };
    Ok(written(list(best_first(ranking.scored).into_iter().map(entry))))
}

/// `{"model", "query", "documents", "top_n", "return_documents"}` to `{"results": [{"index", "relevance_score", "document"}],
/// "model", "usage", …}`.
async fn of_cohere(service: &Service, headers: &HeaderMap, mut fields: Fields<'_>) -> Result<Response> {
    let model = fields.string("model")?.unwrap_or_default();
    let service = service.of_model(&model)?;
    let query = query(&mut fields)?;
    let documents = fields.documents("documents")?;
    let documents = documents.ok_or_else(|| refused("documents", "'documents' is missing: a list of texts"))?;
    if documents.is_empty() {
        return Err(refused("documents", "'documents' is an empty list: send a text"));
    }
    let most = fields.count("top_n")?.map_or(usize::MAX, NonZeroUsize::get);
    let with_document = fields.boolean("return_documents")?.unwrap_or(false);
    let ranking = ranked(&service, headers, query, documents, None).await?;
    let name = if model.is_empty() { ranking.model } else { model };
    let entry = move |scored: Scored| {
        let begin = format!(r#"{{"index":{},"relevance_score":{}"#, scored.index, number(scored.score));
        let document =
            with_document.then(|| [fixed(r#","document":{"text":"#), Part::Text(scored.document), fixed("}")]);
        [Part::Json(begin.into())].into_iter().chain(document.into_iter().flatten()).chain([fixed("}")])
    };
    let usage = json!({"total_tokens": ranking.tokens, "prompt_tokens": ranking.tokens});
    let meta = json!({"api_version": {"version": "1"}, "billed_units": {"search_units": 0}});
    let parts = [fixed(r#"{"results":"#)]
        .into_iter()
        .chain(list(best_first(ranking.scored).into_iter().take(most).map(entry)))
        .chain([fixed(r#","model":"#), Part::Text(name.into()), fixed(r#","usage":"#), value(&usage)])
        .chain([fixed(r#","meta":"#), value(&meta), fixed("}")]);
    Ok(written(parts))
}

fn query(fields: &mut Fields<'_>) -> Result<Text> {
    let query = fields.string("query")?;
    query.map(Text::from).ok_or_else(|| refused("query", "'query' is missing: a text to rank the others by"))
}

/// Scores documents by a model with one label, after its own activation unless another one is given.
async fn ranked(
    service: &Service,
    headers: &HeaderMap,
    query: Text,
    documents: Vec<String>,
    activation: Option<Activation>,
) -> Result<Ranking> {
    let documents: Vec<Text> = documents.into_iter().map(Text::from).collect();
    let scores = within_deadline(headers, service.score(query, documents.clone(), true)).await?;
    let Scores { model, scoring, pairs, .. } = scores;
    let activation = activation.unwrap_or(scoring.activation);
    let only_one = documents.len() == 1;
    let mut ranking = Ranking { model, scored: Vec::with_capacity(documents.len()), tokens: 0, cut: None };
    for (index, (document, pair)) in documents.into_iter().zip(pairs).enumerate() {
        let pair =
            pair.map_err(|error| if only_one { error } else { error.context(format_args!("document {index}")) })?;
        let logit = pair.vector.first().copied();
        let logit = logit.ok_or_else(|| Error::internal("a pair without a logit"))?;
        ranking.scored.push(Scored { index, document, score: activation.apply(logit) });
        ranking.tokens += u64::from(pair.tokens);
        ranking.cut = ranking.cut.or(pair.truncated.then_some(index));
    }
    Ok(ranking)
}

/// Largest numbers first, equal ones in the order of the request.
fn best_first(mut scored: Vec<Scored>) -> Vec<Scored> {
    let order = |one: &Scored, other: &Scored| -> Ordering { other.score.total_cmp(&one.score) };
    scored.sort_by(order);
    scored
}

/// In the fewest digits that read back to the same float32.
fn number(score: f32) -> String {
    // JSON has no other numbers.
    if score.is_finite() { serde_json::to_string(&score).unwrap_or_default() } else { "null".to_owned() }
}

/// A model that reranks, in `GET /info`: what its numbers stand for.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TeiRerankerType)]
pub(super) struct RerankerType {
    /// Labels by their number.
    id2label: BTreeMap<String, String>,
    /// Numbers by their label.
    label2id: BTreeMap<String, usize>,
}

/// What `GET /info` has for a reranker's `model_type`, as text-embeddings-inference writes it.
pub(super) fn reranker_type(labels: &[String]) -> RerankerType {
    let labels = || labels.iter().cloned().enumerate();
    RerankerType {
        id2label: labels().map(|(id, label)| (id.to_string(), label)).collect(),
        label2id: labels().map(|(id, label)| (label, id)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_equals_keep_their_order() {
        let scored = |scores: &[f32]| {
            let scored = scores.iter().enumerate();
            scored.map(|(index, &score)| Scored { index, document: "".into(), score }).collect::<Vec<_>>()
        };
        let order = |scores: &[f32]| best_first(scored(scores)).iter().map(|it| it.index).collect::<Vec<_>>();
        assert_eq!(order(&[0.1, 0.9, 0.1, -3.0, 0.9]), [1, 4, 0, 2, 3]);
        assert_eq!(order(&[]), [0usize; 0]);
    }
}
