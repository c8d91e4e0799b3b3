//! Two backends as one: passages go to the first, queries to the second. One sidecar then replaces the two containers of
//! a model pair such as DPR's.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join, try_join};
use serde_json::{Map, Value};

use super::{Backend, Embedding, ModelInfo};
use crate::contract::request::{EmbedRequest, Task};
use crate::error::{Error, Result};

/// See the module.
pub struct Paired {
    passage: Arc<dyn Backend>,
    query: Arc<dyn Backend>,
    info: ModelInfo,
}

impl std::fmt::Debug for Paired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paired").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Paired {
    /// Puts an encoder for passages and one for queries together. Their vectors must be comparable.
    ///
    /// # Errors
    /// `Config` for encoders whose vectors have different lengths.
    pub fn new(passage: Arc<dyn Backend>, query: Arc<dyn Backend>) -> Result<Paired> {
        let (passages, queries) = (passage.info(), query.info());
        if let (Some(ours), Some(theirs)) = (passages.dimensions, queries.dimensions)
            && ours != theirs
        {
            return Err(Error::config(format!(
                "{} makes {} dimensions and {} makes {}: passages and queries need encoders of one family",
                passages.name, ours, queries.name, theirs
            )));
        }
        let info = ModelInfo {
            name: format!("{} + {}", passages.name, queries.name),
            fingerprint: format!("{}+{}", passages.fingerprint, queries.fingerprint),
            dimensions: passages.dimensions.or(queries.dimensions),
        };
        Ok(Paired { passage, query, info })
    }
}

impl Backend for Paired {
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        Box::pin(async move {
            let is_query: Vec<bool> = requests.iter().map(|request| request.task() == Task::Query).collect();
            let (queries, passages): (Vec<_>, Vec<_>) =
                requests.into_iter().partition(|request| request.task() == Task::Query);
            let embed = |backend: &Arc<dyn Backend>, requests: Vec<EmbedRequest>| {
                let backend = backend.clone();
                async move { if requests.is_empty() { Ok(Vec::new()) } else { backend.embed(requests).await } }
            };
            let (passages, queries) = try_join(embed(&self.passage, passages), embed(&self.query, queries)).await?;
            let (mut passages, mut queries) = (passages.into_iter(), queries.into_iter());
            let missing = || Err(Error::internal("the backend gave no answer for the text"));
            let next = |query| if query { queries.next() } else { passages.next() };
            Ok(is_query.into_iter().map(next).map(|result| result.unwrap_or_else(missing)).collect())
        })
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn trouble(&self) -> Option<&'static str> {
        self.passage.trouble().or_else(|| self.query.trouble())
    }

    /// Like the meta of two containers as Weaviate's module merges it.
    fn meta(&self) -> Map<String, Value> {
        let side = |backend: &Arc<dyn Backend>| Value::Object(backend.meta());
        Map::from_iter([("passage".to_owned(), side(&self.passage)), ("query".to_owned(), side(&self.query))])
    }

    /// The two asked at once. One that answers `null` leaves the other's bare; errors are labelled and joined. Source:
    /// `modules/text2vec-transformers/clients/meta.go`.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Map<String, Value>>>> {
        Box::pin(async move {
            let sides = join(self.passage.live_meta(), self.query.live_meta()).await;
            let labelled = |label: &str, error: Error| {
                let message = format!("[{label}] {error}");
                error.with_message(message)
            };
            match sides {
                (Ok(Some(passage)), Ok(Some(query))) => Ok(Some(Map::from_iter([
                    ("passage".to_owned(), passage.into()),
                    ("query".to_owned(), query.into()),
                ]))),
                (Ok(one), Ok(other)) => Ok(one.or(other)),
                (Err(one), Err(other)) => {
                    let (one, other) = (labelled("passage", one), labelled("query", other));
                    let message = format!("{one}, {other}");
                    Err(one.with_message(message))
                }
                (Err(error), Ok(_)) => Err(labelled("passage", error)),
                (Ok(_), Err(error)) => Err(labelled("query", error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each text with its length and a mark of its own.
    struct Marked(f32, ModelInfo);

    impl Backend for Marked {
        fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
            let embed = |request: EmbedRequest| match request.text.as_str() {
                "bad" => Err(Error::invalid("bad")),
                text => Ok(Embedding {
                    vector: [self.0, text.len() as f32].into(),
                    tokens: 1,
                    truncated: false,
                    ignored: Vec::new(),
                }),
            };
            let results = requests.into_iter().map(embed).collect();
            Box::pin(async move { Ok(results) })
        }

        fn info(&self) -> &ModelInfo {
            &self.1
        }

        fn meta(&self) -> Map<String, Value> {
            Map::from_iter([("mark".to_owned(), self.0.into())])
        }
    }

    fn marked(mark: f32, dimensions: usize) -> Arc<dyn Backend> {
        Arc::new(Marked(
            mark,
            ModelInfo { name: mark.to_string(), fingerprint: mark.to_string(), dimensions: Some(dimensions) },
        ))
    }

    #[tokio::test]
    async fn the_task_picks_the_encoder_and_order_is_kept() {
        let pair = Paired::new(marked(1.0, 2), marked(2.0, 2)).expect("a pair");
        let requests = vec![
            EmbedRequest::query("a"),
            EmbedRequest::passage("bb"),
            EmbedRequest::passage("bad"),
            EmbedRequest::query("ccc"),
        ];
        let results = pair.embed(requests).await.expect("the call");
        let vectors: Vec<_> = results.iter().map(|result| result.as_ref().ok().map(|e| e.vector.to_vec())).collect();
        assert_eq!(vectors, [Some(vec![2.0, 1.0]), Some(vec![1.0, 2.0]), None, Some(vec![2.0, 3.0])]);
        assert_eq!(pair.info().name, "1 + 2");
        assert_eq!(Value::Object(pair.meta()), serde_json::json!({"passage": {"mark": 1.0}, "query": {"mark": 2.0}}));
    }

    #[test]
    fn encoders_of_different_widths_are_refused() {
        assert!(Paired::new(marked(1.0, 2), marked(2.0, 3)).is_err());
    }
}
