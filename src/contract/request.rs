//! The words every surface, cache and backend share: what may be asked of an embedding, and by which rules it is made.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// What the text is: something to be found, or something searched with.
///
/// Asymmetric models embed the two differently (prompts, prefixes, a second encoder). The module sends `passage` for
/// objects and `query` for everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Task {
    /// A text to be stored. Also what callers mean who do not say.
    #[default]
    Passage,
    /// A text to search with.
    Query,
}

impl Task {
    /// The word used on the wire: `passage` or `query`.
    pub fn as_str(self) -> &'static str {
        match self {
            Task::Passage => "passage",
            Task::Query => "query",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How token states become one vector, as the module's `poolingStrategy` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolingStrategy {
    /// Mean over all tokens, special ones included.
    #[default]
    MaskedMean,
    /// The first token's state.
    Cls,
}

impl PoolingStrategy {
    /// The word used on the wire: `masked_mean` or `cls`.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolingStrategy::MaskedMean => "masked_mean",
            PoolingStrategy::Cls => "cls",
        }
    }

    /// Reads the word used on the wire. An empty text is the default; letter case counts.
    pub fn from_wire(text: &str) -> Option<Self> {
        match text {
            "" | "masked_mean" => Some(PoolingStrategy::MaskedMean),
            "cls" => Some(PoolingStrategy::Cls),
            _ => None,
        }
    }
}

/// One text and how it is to be embedded. Settings are kept as the caller wrote them; the backend's profile decides
/// which of them count (the reference container ignores `pooling` in one mode and `dimensions` in another).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmbedRequest {
    /// The text, exactly as received.
    pub text: String,
    /// The task as the caller wrote it (`passage`, `query`, or any other word: the reference container takes all of them
    /// and, with prefixes on, puts the word in front of the text). `None` when nothing was said.
    pub task_name: Option<Cow<'static, str>>,
    /// `poolingStrategy` as the caller wrote it; empty or `None` means [`PoolingStrategy::MaskedMean`].
    pub pooling: Option<String>,
    /// Wanted number of dimensions, unchecked: profiles cut, ignore or slice from the end (negative), and refuse
    /// what would leave nothing.
    pub dimensions: Option<i64>,
    /// Replaces the model's own prompt for the task.
    pub prompt: Option<String>,
    /// Until when the request may wait for its turn where much is waiting. Says nothing about the vector.
    pub deadline: Option<Instant>,
    /// The trace the request is part of, to be passed on with it. Says nothing about the vector.
    pub trace: Option<Arc<TraceContext>>,
}

/// W3C Trace Context and Baggage as the caller sent them, to be passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The header `traceparent`.
    pub traceparent: Option<String>,
    /// The header `tracestate`.
    pub tracestate: Option<String>,
    /// The header `baggage`.
    pub baggage: Option<String>,
}

impl EmbedRequest {
    /// A passage with every setting left to its default.
    pub fn passage(text: impl Into<String>) -> Self {
        EmbedRequest { text: text.into(), ..EmbedRequest::default() }
    }

    /// A query with every setting left to its default.
    pub fn query(text: impl Into<String>) -> Self {
        EmbedRequest { text: text.into(), task_name: Some(Task::Query.as_str().into()), ..EmbedRequest::default() }
    }

    /// Only the exact word `query` makes a query; everything else, nothing at all included, is a passage.
    pub fn task(&self) -> Task {
        match self.task_name.as_deref() {
            Some("query") => Task::Query,
            _ => Task::Passage,
        }
    }
}

/// By which of the reference container's rules texts become vectors.
///
/// A property of the server, never of the surface: else one sidecar would give two vectors for one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Sentences, 500 tokens each, pooling by request, mean of the sentence vectors, not normalised.
    Transformers,
    /// The model's own `modules.json`: limit, pooling, dense layers, prompts; always normalised.
    SentenceTransformers,
    /// Whole text, masked mean, always normalised.
    Onnx,
}

impl Profile {
    /// The name used by `--profile`, `/meta` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Transformers => "transformers",
            Profile::SentenceTransformers => "sentence-transformers",
            Profile::Onnx => "onnx",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "transformers" => Ok(Profile::Transformers),
            "sentence-transformers" => Ok(Profile::SentenceTransformers),
            "onnx" => Ok(Profile::Onnx),
            other => Err(format!("unknown profile '{other}': use auto, transformers, sentence-transformers or onnx")),
        }
    }
}
