//! What `GET /meta` answers, as types: serde makes its JSON of them, under the fields' names. Each layer adds its part: the
//! backend what is embedded with, the cache its counts, the server its limits.

pub mod theirs;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use self::theirs::Theirs;
use crate::telemetry::metrics::CacheStats;

/// What `GET /meta` answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Meta {
    /// What is embedded with.
    #[serde(flatten)]
    pub subject: Subject,
    /// What this sidecar says of itself. The sides of a pair have one each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarBlock>,
}

/// What is embedded with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Subject {
    /// A model that is computed here.
    Model {
        /// Its `config.json`.
        model: Map<String, Value>,
        /// Its directory.
        model_path: String,
    },
    /// Another server, in its own words but for `sidecar`, which goes into [`UpstreamReport::sidecar`].
    Upstream(Theirs),
    /// Two backends, like the meta of two containers as Weaviate's module merges it.
    Pair {
        /// The one for passages.
        passage: Box<Meta>,
        /// The one for queries.
        query: Box<Meta>,
    },
}

impl Default for Subject {
    fn default() -> Self {
        Subject::Upstream(Theirs::default())
    }
}

/// What a sidecar says of itself, under `sidecar`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SidecarBlock {
    /// What the backend says; `None` where the sides of a pair say it.
    #[serde(flatten)]
    pub served: Option<Served>,
    /// What the cache says, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheReport>,
    /// What the server says.
    #[serde(flatten)]
    pub server: Option<ServerReport>,
}

/// What a backend says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Served {
    /// A model is computed here.
    Model(Box<ModelReport>),
    /// Texts are forwarded.
    Upstream {
        /// To whom.
        upstream: UpstreamReport,
        /// See [`ModelInfo::fingerprint`](crate::backend::ModelInfo::fingerprint).
        fingerprint: String,
    },
}

/// A model that is computed here, how it treats texts, and what happened to them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelReport {
    /// Of this program.
    pub version: &'static str,
    /// The model's name.
    pub model: String,
    /// Changes whenever vectors may change: weights, tokenizer, profile and its switches.
    pub fingerprint: String,
    /// By its short name, if it is known.
    #[schema(required)]
    pub license: Option<String>,
    /// The profile's name.
    pub profile: &'static str,
    /// What chose the profile.
    pub profile_chosen_by: &'static str,
    /// Length of a full vector.
    #[schema(required)]
    pub dimensions: Option<usize>,
    /// Tokens per sequence, special ones included.
    pub max_tokens: usize,
    /// What a pair's numbers stand for, of a reranker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What a reranker does to its logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub activation: Option<&'static str>,
    /// Modes of the pooling where the request names none, joined by `+`.
    pub pooling: String,
    /// What goes before a query, if anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub query_prompt: Option<String>,
    /// What goes before a passage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub passage_prompt: Option<String>,
    /// Which tokens attend to which; of a table of embeddings nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attention: Option<&'static str>,
    /// Whole texts are tokenized, not sentences.
    pub direct_tokenize: bool,
    /// The task goes in front of every text whose caller named one.
    pub task_prefixes: bool,
    /// Odd habits of the reference container that are kept.
    pub reference_quirks: Vec<&'static str>,
    /// `dimensions` has its effect under every profile.
    pub apply_dimensions: bool,
    /// Numbers of the weights.
    pub precision: &'static str,
    /// `cpu`, or the GPUs' numbers.
    pub device: String,
    /// What runs the encoder.
    pub engine: &'static str,
    /// Of a forward pass.
    pub threads: usize,
    /// Texts, or sentences of texts, beyond the token limit.
    pub truncated_texts: u64,
    /// Requests whose `dimensions` had no effect.
    pub ignored_dimensions: u64,
    /// Requests whose pooling strategy had no effect.
    pub ignored_pooling: u64,
    /// Texts that could not be computed.
    pub failed_texts: u64,
    /// Queries are served before passages that came earlier.
    pub queries_first: bool,
    /// Tokens of a batch.
    pub batch_tokens: usize,
    /// Tokens that may wait.
    pub max_waiting_tokens: usize,
    /// Tokens that wait.
    pub waiting_tokens: WaitingTokens,
}

/// Tokens that wait to be computed, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitingTokens {
    /// Of queries.
    pub query: usize,
    /// Of passages.
    pub passage: usize,
}

/// Another server that texts are forwarded to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamReport {
    /// Its base URLs, without secrets.
    pub url: String,
    /// What speaks there, once it is known.
    #[schema(required)]
    pub kind: Option<&'static str>,
    /// Where it is.
    pub replicas: Vec<ReplicaReport>,
    /// What a sidecar at the other end says of itself, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Value>,
}

/// A replica of an upstream, and how it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaReport {
    /// Its base URL, without secrets.
    pub url: String,
    /// IP address and port.
    pub address: String,
    /// Requests under way there.
    pub in_flight: usize,
    /// It is sent requests.
    pub in_service: bool,
}

/// A cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CacheReport {
    /// What it has done and holds.
    #[serde(flatten)]
    pub stats: CacheStats,
    /// How long it keeps a vector; `None`: until room is needed.
    pub ttl_seconds: Option<f64>,
}

/// A server: its limits, under the names of their flags, and whom it serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerReport {
    /// `--max-body-bytes`.
    pub max_body_bytes: usize,
    /// `--max-texts`.
    pub max_texts: usize,
    /// `--max-text-bytes`.
    pub max_text_bytes: usize,
    /// `--max-class-bytes`.
    pub max_class_bytes: usize,
    /// `--max-wait`.
    pub max_wait_seconds: f64,
    /// `--max-body-wait`.
    pub max_body_wait_seconds: f64,
    /// `--max-head-wait`.
    pub max_head_wait_seconds: f64,
    /// `--max-head-bytes`.
    pub max_head_bytes: usize,
    /// `--max-connections`.
    pub max_connections: usize,
    /// `--max-inflight-bytes`.
    pub max_inflight_bytes: usize,
    /// `--max-tokenize-bytes`.
    pub max_tokenize_bytes: usize,
    /// `--max-answer-bytes`.
    pub max_answer_bytes: usize,
    /// `--max-write-wait`.
    pub max_write_wait_seconds: f64,
    /// Surfaces that come from elsewhere scale vectors to length 1.
    pub surface_normalize: bool,
    /// Every model by its name, the default one first.
    pub models: Vec<String>,
    /// A GPU is asked for in vain.
    pub cuda_ignored: bool,
}

impl Meta {
    /// The meta of two backends as one.
    pub fn pair(passage: Meta, query: Meta) -> Meta {
        Meta { subject: Subject::Pair { passage: Box::new(passage), query: Box::new(query) }, sidecar: None }
    }

    /// The meta of a backend that says this of itself.
    pub fn of(subject: Subject, served: Served) -> Meta {
        Meta { subject, sidecar: Some(SidecarBlock { served: Some(served), ..SidecarBlock::default() }) }
    }

    /// What is said of the model, if it is one that is computed here.
    pub fn model(&self) -> Option<&ModelReport> {
        match self.sidecar.as_ref()?.served.as_ref()? {
            Served::Model(model) => Some(model),
            Served::Upstream { .. } => None,
        }
    }

    /// `model_type` of the model's `config.json`, here or at an upstream that shows it.
    pub fn model_type(&self) -> Option<&str> {
        match &self.subject {
            Subject::Model { model, .. } => model.get("model_type")?.as_str(),
            Subject::Upstream(theirs) => theirs.said.model_type(),
            Subject::Pair { .. } => None,
        }
    }

    /// The blocks of this sidecar: one, or one on each side of a pair.
    pub fn sidecar_blocks(&mut self) -> impl Iterator<Item = &mut SidecarBlock> {
        let (whole, sides) = match (&mut self.sidecar, &mut self.subject) {
            (None, Subject::Pair { passage, query }) => (None, [passage.sidecar.as_mut(), query.sidecar.as_mut()]),
            (whole, _) => (whole.as_mut(), [None, None]),
        };
        whole.into_iter().chain(sides.into_iter().flatten())
    }

    /// As it is sent. Names are in alphabetical order, whoever said them.
    pub fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(meta)) => meta,
            // Names are texts and a struct is an object: there is nothing else.
            _ => Map::new(),
        }
    }
}
