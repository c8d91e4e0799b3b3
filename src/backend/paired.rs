//! Two backends as one: passages go to the first, queries to the second. One sidecar then replaces the two containers of
//! a model pair such as DPR's.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join};

use super::meta::Meta;
use super::{Backend, Embedding, ModelInfo, Tell};
use crate::contract::call::Call;
use crate::contract::request::Task;
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
    /// `Config` for encoders whose vectors have different lengths, and for a reranker.
    pub fn new(passage: Arc<dyn Backend>, query: Arc<dyn Backend>) -> Result<Paired> {
        let (passages, queries) = (passage.info(), query.info());
        if let Some(reranker) = [passages, queries].into_iter().find(|info| info.scoring.is_some()) {
            return Err(Error::config(format!(
                "{} reranks and makes no vectors: it cannot be one of a pair; serve it by itself, --model <name>=<directory>",
                reranker.name
            )));
        }
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
            ..ModelInfo::default()
        };
        Ok(Paired { passage, query, info })
    }

    /// The encoder for texts of this task.
    fn side(&self, task: Task) -> &dyn Backend {
        match task {
            Task::Passage => &*self.passage,
            Task::Query => &*self.query,
        }
    }
}

impl Backend for Paired {
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
        self.side(call.task()).embed(call)
    }

    fn embed_each<'a>(&'a self, call: Call, tell: Tell<'a>) -> BoxFuture<'a, Result<()>> {
        self.side(call.task()).embed_each(call, tell)
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn trouble(&self) -> Option<&'static str> {
        self.passage.trouble().or_else(|| self.query.trouble())
    }

    /// Like the meta of two containers as Weaviate's module merges it.
    fn meta(&self) -> Meta {
        Meta::pair(self.passage.meta(), self.query.meta())
    }

    /// The two asked at once. One that answers `null` leaves the other's bare; errors are labelled and joined. Source:
    /// `modules/text2vec-transformers/clients/meta.go`.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Meta>>> {
        Box::pin(async move {
            let sides = join(self.passage.live_meta(), self.query.live_meta()).await;
            let labelled = |label: &str, error: Error| {
                let message = format!("[{label}] {error}");
                error.with_message(message)
            };
            match sides {
                (Ok(Some(passage)), Ok(Some(query))) => Ok(Some(Meta::pair(passage, query))),
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
    use serde_json::Map;

    use super::*;
    use crate::backend::meta::Subject;
    use crate::contract::call::Text;

    /// Answers each text with its length and a mark of its own.
    struct Marked(f32, ModelInfo);

    impl Backend for Marked {
        fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>> {
            let embed = |text: &Text| match &**text {
                "bad" => Err(Error::invalid("bad")),
                text => Ok(Embedding {
                    vector: [self.0, text.len() as f32].into(),
                    tokens: 1,
                    truncated: false,
                    ignored: Vec::new(),
                }),
            };
            let results = call.texts.iter().map(embed).collect();
            Box::pin(async move { Ok(results) })
        }

        fn info(&self) -> &ModelInfo {
            &self.1
        }

        fn meta(&self) -> Meta {
            let fields = Map::from_iter([("mark".to_owned(), self.0.into())]);
            Meta { subject: Subject::Upstream(fields.into()), sidecar: None }
        }
    }

    fn marked(mark: f32, dimensions: usize) -> Arc<dyn Backend> {
        Arc::new(Marked(
            mark,
            ModelInfo {
                name: mark.to_string(),
                fingerprint: mark.to_string(),
                dimensions: Some(dimensions),
                ..ModelInfo::default()
            },
        ))
    }

    #[tokio::test]
    async fn the_task_picks_the_encoder_and_order_is_kept() {
        let pair = Paired::new(marked(1.0, 2), marked(2.0, 2)).expect("a pair");
        let vectors = async |call| -> Vec<_> {
            let results = pair.embed(call).await.expect("the call");
            results.iter().map(|result| result.as_ref().ok().map(|e| e.vector.to_vec())).collect()
        };
        assert_eq!(vectors(Call::queries(["a", "ccc"])).await, [Some(vec![2.0, 1.0]), Some(vec![2.0, 3.0])]);
        assert_eq!(vectors(Call::passages(["bb", "bad"])).await, [Some(vec![1.0, 2.0]), None]);
        let mut told = Vec::new();
        let each =
            pair.embed_each(Call::queries(["a", "bad"]), Box::new(|index, result| told.push((index, result.ok()))));
        each.await.expect("the call");
        let told: Vec<_> = told.into_iter().map(|(index, told)| (index, told.map(|e| e.vector.to_vec()))).collect();
        assert_eq!(told, [(0, Some(vec![2.0, 1.0])), (1, None)]);
        assert_eq!(pair.info().name, "1 + 2");
        let meta = serde_json::Value::Object(pair.meta().to_json());
        assert_eq!(meta, serde_json::json!({"passage": {"mark": 1.0}, "query": {"mark": 2.0}}));
    }

    #[test]
    fn encoders_of_different_widths_are_refused() {
        assert!(Paired::new(marked(1.0, 2), marked(2.0, 3)).is_err());
    }
}
