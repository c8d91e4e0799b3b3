//! Service `Reranker`: pairs of a query and documents in, scores out.

use tonic::{Request, Response, Status};

use super::call::within_deadline;
use crate::backend::Embedding;
use crate::contract::call::Text;
use crate::error::Result;
use crate::proto;
use crate::proto::reranker_server::Reranker;
use crate::server::service::{Scores, Service};

#[tonic::async_trait]
impl Reranker for Service {
    async fn rerank(&self, request: Request<proto::RerankRequest>) -> Result<Response<proto::RerankResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let response = within_deadline(&metadata, async {
            let proto::RerankRequest { query, documents, model, raw_scores } = request;
            let documents = documents.into_iter().map(Text::from).collect();
            let Scores { model, fingerprint, scoring, pairs } =
                self.of_model(&model)?.score(query.into(), documents, false).await?;
            let score = |logit: f32| if raw_scores { logit } else { scoring.activation.apply(logit) };
            let results = pairs.into_iter().map(|pair| result(pair, score)).collect();
            Ok(proto::RerankResponse { results, labels: scoring.labels.clone(), model, fingerprint })
        });
        Ok(Response::new(response.await?))
    }
}

fn result(pair: Result<Embedding>, score: impl Fn(f32) -> f32) -> proto::RerankResult {
    use proto::rerank_result::Result as Outcome;
    match pair {
        Ok(pair) => {
            let values = pair.vector.iter().map(|&logit| score(logit)).collect();
            let result = Some(Outcome::Scores(proto::Scores { values }));
            proto::RerankResult { tokens: pair.tokens, truncated: pair.truncated, result }
        }
        Err(error) => proto::RerankResult { result: Some(Outcome::Error(error.into())), ..Default::default() },
    }
}
