//! Service `Vectorizer`: texts in, vectors out.

use futures_util::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::call::{AnswerStream, STREAM_IN_FLIGHT, within_deadline};
use crate::backend::Embedding;
use crate::contract::call::{EmbedSettings, Text};
use crate::contract::request::Task;
use crate::error::{Error, Result};
use crate::proto;
use crate::proto::vectorizer_server::Vectorizer;
use crate::server::service::Service;

impl From<Result<Embedding>> for proto::VectorizeResult {
    fn from(result: Result<Embedding>) -> proto::VectorizeResult {
        use proto::vectorize_result::Result as Outcome;
        match result {
            Ok(embedding) => proto::VectorizeResult {
                tokens: embedding.tokens,
                truncated: embedding.truncated,
                ignored_settings: embedding.ignored.iter().map(|&name| name.to_owned()).collect(),
                result: Some(Outcome::Vector(proto::Vector { values: embedding.vector.to_vec() })),
            },
            Err(error) => proto::VectorizeResult { result: Some(Outcome::Error(error.into())), ..Default::default() },
        }
    }
}

/// The settings of a request, and the service by the model they name.
fn settings(service: &Service, options: Option<proto::VectorizeOptions>) -> Result<(Service, EmbedSettings)> {
    let options = options.unwrap_or_default();
    let service = service.of_model(&options.model)?;
    let task = match proto::Task::try_from(options.task) {
        Ok(proto::Task::Query) => Task::Query,
        Ok(proto::Task::Passage | proto::Task::Unspecified) => Task::Passage,
        Err(_) => {
            let message = format!("unknown task {}: use TASK_PASSAGE or TASK_QUERY", options.task);
            return Err(Error::invalid(message).parameter("task"));
        }
    };
    if let Some(wanted) = options.dimensions {
        service.check_dimensions(wanted)?;
    }
    let settings = EmbedSettings {
        task_name: Some(task.as_str().into()),
        pooling: Some(options.pooling_strategy),
        dimensions: options.dimensions,
        prompt: options.prompt,
    };
    Ok((service, settings))
}

#[tonic::async_trait]
impl Vectorizer for Service {
    async fn vectorize(
        &self,
        request: Request<proto::VectorizeRequest>,
    ) -> Result<Response<proto::VectorizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let response = within_deadline(&metadata, async {
            let (service, settings) = settings(self, request.options)?;
            let texts = request.texts.into_iter().map(Text::from).collect();
            let results = service.embed(texts, settings).await?.into_iter().map(Into::into).collect();
            let backend = service.backend()?;
            let info = backend.info();
            Ok(proto::VectorizeResponse { results, model: info.name.clone(), fingerprint: info.fingerprint.clone() })
        });
        Ok(Response::new(response.await?))
    }

    type VectorizeStreamStream = AnswerStream<proto::VectorizeStreamResponse>;

    async fn vectorize_stream(
        &self,
        request: Request<Streaming<proto::VectorizeStreamRequest>>,
    ) -> Result<Response<Self::VectorizeStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |item| {
            let service = service.clone();
            async move {
                let proto::VectorizeStreamRequest { id, text, options } = item?;
                let result = async {
                    let _room = service.bodies.hold_text(text.len()).await?;
                    let (service, settings) = settings(&service, options)?;
                    service.embed_one(text.into(), settings).await
                };
                let result = result.await;
                Ok(proto::VectorizeStreamResponse { id, result: Some(result.into()) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(STREAM_IN_FLIGHT))))
    }
}
