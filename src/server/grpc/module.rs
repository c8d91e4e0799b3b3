//! Service `Module`: Weaviate's `text2vec-transformers` and `text2vec-model2vec`, capability by capability.
//!
//! What a class, an object or a query means is said by [`contract`](crate::contract); here it is carried over the wire
//! and put together with the backend. In a batch an error belongs to its object.

use std::sync::Arc;

use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::call::{AnswerStream, STREAM_IN_FLIGHT, within_deadline};
use super::value::{from_struct, json_to_struct, to_struct};
use crate::backend::Embedding;
use crate::contract::call::{EmbedSettings, Text};
use crate::contract::class::{self, Class, Settings};
use crate::contract::endpoint::Endpoint;
use crate::contract::module::Module as WeaviateModule;
use crate::contract::near_text::{self, Move, MoveObject, NearText};
use crate::contract::object_text::{Object, object_text};
use crate::contract::request::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::proto;
use crate::proto::module_server::Module;
use crate::proto::object_result::Result as Outcome;
use crate::server::service::Service;

/// Objects of a batch that are turned into text where the call runs; more go to a thread for blocking work.
const INLINE_OBJECTS: usize = 8;

/// A class and the settings of the vector that is meant.
#[derive(Clone)]
struct Target {
    class: Arc<Class>,
    settings: Arc<Settings>,
    /// The model, where the request names one.
    model: String,
}

/// What becomes of an object before anything is embedded.
enum Assembled {
    /// To be embedded.
    Text(Text),
    /// Empty text, or asked to skip.
    Skipped,
    /// Not an object of the class.
    Refused(Error),
}

impl Service {
    /// The class and settings a request names. No class at all stands for every default.
    fn target(&self, config: Option<proto::ClassConfig>) -> Result<Target> {
        let config = config.unwrap_or_default();
        let module = WeaviateModule::named(&config.module_name)?;
        let class = match config.class_json.as_str() {
            "" => Arc::new(Class::of_defaults(module)),
            text => self.module.classes.get(text, module)?,
        };
        let settings = Arc::new(class.settings(&config.target_vector));
        Ok(Target { class, settings, model: config.model })
    }

    /// The service by the model that texts of this task are for, here or behind the class's URL. The server's own backend
    /// stands for what the environment names.
    fn serving(&self, target: &Target, task: Task) -> Result<Service> {
        if !target.model.is_empty() {
            return self.of_model(&target.model);
        }
        match self.module.endpoints.resolve(&target.settings, task) {
            // What the URL of this server is by itself: the model that its paths without a name are of.
            Endpoint::Local if target.settings.names_a_url(task) => Ok(self.clone()),
            Endpoint::Local => Ok(Service { default: target.class.module.into(), ..self.clone() }),
            Endpoint::Model(name) => self.of_model(&percent_decode_str(name).decode_utf8_lossy()),
            Endpoint::Remote(url) if self.module.endpoints.is_environment(url, task) => Ok(self.clone()),
            Endpoint::Remote(url) => match &self.module.upstreams {
                Some(upstreams) => Ok(Service { upstream: Some(upstreams.backend(url)?), ..self.clone() }),
                None => Err(Error::new(
                    ErrorKind::PermissionDenied,
                    "the class names an inference URL, and --allow-upstream (T2V_ALLOW_UPSTREAM) allows none; T2V_SELF_URLS \
                     names those that are this sidecar",
                )),
            },
        }
    }

    /// Objects to results, in order. `skip` may be shorter than the objects.
    async fn vectorize_objects(
        &self,
        target: Target,
        objects: Vec<proto::Object>,
        skip: Vec<bool>,
        return_text: bool,
    ) -> Result<Vec<proto::ObjectResult>> {
        self.check_texts(objects.len())?;
        // Whether this can be served at all does not depend on the objects.
        let service = self.serving(&target, Task::Passage)?;
        let settings = embed_settings(&target.settings, Task::Passage);
        let lowercase = self.module.lowercase_input && target.class.module.may_lowercase();
        let inline = objects.len() <= INLINE_OBJECTS;
        let assemble = move || -> Vec<Assembled> {
            let skips = skip.into_iter().chain(std::iter::repeat(false));
            objects.into_iter().zip(skips).map(|(object, skip)| target.assemble(object, skip, lowercase)).collect()
        };
        let assembled = if inline {
            assemble()
        } else {
            let failed = |error| Error::internal(format!("putting the objects' texts together failed: {error}"));
            tokio::task::spawn_blocking(assemble).await.map_err(failed)?
        };
        let texts: Vec<Text> = assembled
            .iter()
            .filter_map(|assembled| match assembled {
                Assembled::Text(text) => Some(text.clone()),
                Assembled::Skipped | Assembled::Refused(_) => None,
            })
            .collect();
        let mut embedded = Vec::new().into_iter();
        if !texts.is_empty() {
            embedded = service.embed(texts, settings).await?.into_iter();
        }
        let result = |assembled| {
            let (outcome, text) = match assembled {
                Assembled::Skipped => (Outcome::Skipped(true), Text::default()),
                Assembled::Refused(error) => (Outcome::Error(error.into()), Text::default()),
                Assembled::Text(text) => {
                    let missing = || Err(Error::internal("the backend gave no answer for the text"));
                    (vector_or_error(embedded.next().unwrap_or_else(missing)), text)
                }
            };
            proto::ObjectResult { result: Some(outcome), text: if return_text { text.into() } else { String::new() } }
        };
        Ok(assembled.into_iter().map(result).collect())
    }

    async fn vectorize_one(
        &self,
        target: Target,
        object: proto::Object,
        return_text: bool,
    ) -> Result<proto::ObjectResult> {
        let mut results = self.vectorize_objects(target, vec![object], Vec::new(), return_text).await?;
        results.pop().ok_or_else(|| Error::internal("the object got no answer"))
    }
}

/// How the module would have texts of this task embedded.
fn embed_settings(settings: &Settings, task: Task) -> EmbedSettings {
    EmbedSettings {
        task_name: Some(task.as_str().into()),
        pooling: Some(settings.pooling_strategy.clone()),
        dimensions: settings.dimensions,
        prompt: None,
    }
}

fn vector_or_error(result: Result<Embedding>) -> Outcome {
    match result {
        Ok(embedding) => Outcome::Vector(proto::Vector { values: embedding.vector.to_vec() }),
        Err(error) => Outcome::Error(error.into()),
    }
}

impl Target {
    fn assemble(&self, object: proto::Object, skip: bool, lowercase: bool) -> Assembled {
        if skip {
            return Assembled::Skipped;
        }
        let id = object.id.clone();
        let text = read_object(object).and_then(|object| object_text(&object, &self.class, &self.settings, lowercase));
        match text {
            Ok(Some(text)) => Assembled::Text(text.into()),
            Ok(None) => Assembled::Skipped,
            Err(error) if id.is_empty() => Assembled::Refused(error.parameter("properties")),
            Err(error) => Assembled::Refused(error.context(format_args!("object {id}")).parameter("properties")),
        }
    }
}

fn read_object(object: proto::Object) -> Result<Object> {
    use proto::object::Properties;
    match object.properties {
        None => Ok(Object { class: object.class, properties: Default::default() }),
        Some(Properties::Json(json)) => Object::from_json(object.class, &json),
        Some(Properties::Struct(fields)) => Ok(Object { class: object.class, properties: from_struct(fields) }),
    }
}

impl From<proto::Move> for Move {
    fn from(movement: proto::Move) -> Move {
        let object = |object: proto::MoveObject| MoveObject {
            id: object.id,
            beacon: object.beacon,
            vector: object.vector.map(|vector| vector.values),
        };
        Move {
            concepts: movement.concepts.map(|list| list.values.into_iter().map(Text::from).collect()),
            // An empty list cannot be told from none on this wire.
            objects: (!movement.objects.is_empty()).then(|| movement.objects.into_iter().map(object).collect()),
            force: movement.force,
        }
    }
}

impl From<proto::NearText> for NearText {
    fn from(near_text: proto::NearText) -> NearText {
        NearText {
            concepts: near_text.concepts.into_iter().map(Text::from).collect(),
            move_to: near_text.move_to.map(Into::into).unwrap_or_default(),
            move_away_from: near_text.move_away_from.map(Into::into).unwrap_or_default(),
            certainty: near_text.certainty,
            distance: near_text.distance,
        }
    }
}

#[tonic::async_trait]
impl Module for Service {
    async fn meta_info(
        &self,
        request: Request<proto::MetaInfoRequest>,
    ) -> Result<Response<proto::MetaInfoResponse>, Status> {
        let meta = self.of_model(&request.into_inner().model)?.meta().await?;
        Ok(Response::new(proto::MetaInfoResponse { meta: Some(json_to_struct(meta.to_json())) }))
    }

    async fn class_config_defaults(
        &self,
        request: Request<proto::ClassConfigDefaultsRequest>,
    ) -> Result<Response<proto::ClassConfigDefaultsResponse>, Status> {
        let module = WeaviateModule::named(&request.into_inner().module_name)?;
        let defaults = Some(to_struct(class::class_config_defaults(module)));
        Ok(Response::new(proto::ClassConfigDefaultsResponse { defaults }))
    }

    async fn property_config_defaults(
        &self,
        request: Request<proto::PropertyConfigDefaultsRequest>,
    ) -> Result<Response<proto::PropertyConfigDefaultsResponse>, Status> {
        // The same for every module.
        WeaviateModule::named(&request.into_inner().module_name)?;
        let defaults = Some(to_struct(class::property_config_defaults()));
        Ok(Response::new(proto::PropertyConfigDefaultsResponse { defaults }))
    }

    async fn validate_class(
        &self,
        request: Request<proto::ValidateClassRequest>,
    ) -> Result<Response<proto::ValidateClassResponse>, Status> {
        let proto::ValidateClassRequest { config, auto_schema } = request.into_inner();
        let config = config.unwrap_or_default();
        let module = WeaviateModule::named(&config.module_name)?;
        if config.class_json.is_empty() {
            let error = class::EMPTY_CONFIG.to_owned();
            return Ok(Response::new(proto::ValidateClassResponse { error, warnings: Vec::new() }));
        }
        let class = self.module.classes.get(&config.class_json, module)?;
        let validation = class.validate(&config.target_vector, auto_schema.unwrap_or(true));
        let error = validation.error.unwrap_or_default();
        Ok(Response::new(proto::ValidateClassResponse { error, warnings: validation.warnings }))
    }

    async fn vectorizable_properties(
        &self,
        request: Request<proto::VectorizablePropertiesRequest>,
    ) -> Result<Response<proto::VectorizablePropertiesResponse>, Status> {
        self.target(request.into_inner().config)?;
        let (text, media) = class::vectorizable_properties();
        let media = media.iter().map(|&name| name.to_owned()).collect();
        Ok(Response::new(proto::VectorizablePropertiesResponse { text, media }))
    }

    async fn vectorize_object(
        &self,
        request: Request<proto::VectorizeObjectRequest>,
    ) -> Result<Response<proto::VectorizeObjectResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let result = within_deadline(&metadata, async {
            let object =
                request.object.ok_or_else(|| Error::invalid("the request has no object").parameter("object"))?;
            self.vectorize_one(self.target(request.config)?, object, request.return_text).await
        });
        Ok(Response::new(proto::VectorizeObjectResponse { result: Some(result.await?) }))
    }

    async fn vectorize_batch(
        &self,
        request: Request<proto::VectorizeBatchRequest>,
    ) -> Result<Response<proto::VectorizeBatchResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let results = within_deadline(&metadata, async {
            let target = self.target(request.config)?;
            self.vectorize_objects(target, request.objects, request.skip, request.return_text).await
        });
        Ok(Response::new(proto::VectorizeBatchResponse { results: results.await? }))
    }

    type VectorizeBatchStreamStream = AnswerStream<proto::VectorizeBatchStreamResponse>;

    async fn vectorize_batch_stream(
        &self,
        request: Request<Streaming<proto::VectorizeBatchStreamRequest>>,
    ) -> Result<Response<Self::VectorizeBatchStreamStream>, Status> {
        use proto::vectorize_batch_stream_request::Message;
        let mut messages = request.into_inner();
        let header = match messages.message().await?.and_then(|first| first.message) {
            Some(Message::Header(header)) => header,
            _ => return Err(Status::invalid_argument("the first message must be the header, which carries the class")),
        };
        let (service, target) = (self.clone(), self.target(header.config)?);
        let answers = messages.enumerate().map(move |(index, message)| {
            let (service, target) = (service.clone(), target.clone());
            async move {
                let object = match message?.message {
                    Some(Message::Object(object)) => object,
                    _ => return Err(Status::invalid_argument("after the header, each message must be an object")),
                };
                let result = async {
                    let _room = service.bodies.hold_text(object.encoded_len()).await?;
                    service.vectorize_one(target, object, header.return_text).await
                };
                let result = result.await.unwrap_or_else(|error| proto::ObjectResult {
                    result: Some(Outcome::Error(error.into())),
                    text: String::new(),
                });
                Ok(proto::VectorizeBatchStreamResponse { index: index as u64, result: Some(result) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(STREAM_IN_FLIGHT))))
    }

    async fn vectorize_input(
        &self,
        request: Request<proto::VectorizeInputRequest>,
    ) -> Result<Response<proto::VectorizeInputResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let values = within_deadline(&metadata, async {
            let target = self.target(request.config)?;
            let service = self.serving(&target, Task::Query)?;
            let settings = embed_settings(&target.settings, Task::Query);
            let embedded = service.embed_one(request.input.into(), settings).await;
            near_text::input_vector(embedded.map(|embedding| embedding.vector))
        });
        Ok(Response::new(proto::VectorizeInputResponse { vector: Some(proto::Vector { values: values.await? }) }))
    }

    async fn vector_for_params(
        &self,
        request: Request<proto::VectorForParamsRequest>,
    ) -> Result<Response<proto::VectorForParamsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let values = within_deadline(&metadata, async {
            let target = self.target(request.config)?;
            let near_text: NearText = request.near_text.unwrap_or_default().into();
            near_text.validate().map_err(|error| error.parameter("near_text"))?;
            let texts: Vec<Text> = near_text.texts().into_iter().cloned().collect();
            let embedded = match texts.is_empty() {
                true => Vec::new(),
                // An error of the whole call is the first text's: it gets Weaviate's words as one.
                false => {
                    let settings = embed_settings(&target.settings, Task::Query);
                    let embedded = self.serving(&target, Task::Query)?.embed(texts, settings).await;
                    embedded.unwrap_or_else(|error| vec![Err(error)])
                }
            };
            near_text.combine(embedded.into_iter().map(|result| result.map(|embedding| embedding.vector)))
        });
        Ok(Response::new(proto::VectorForParamsResponse { vector: Some(proto::Vector { values: values.await? }) }))
    }
}
