//! The words every surface, cache and backend share: what a text is, how it is pooled, by which rules it is embedded.

use std::fmt;
use std::str::FromStr;

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

/// By which container's rules texts become vectors, or pairs of them scores: one of the reference container's three ways, the
/// model2vec container's, or the reranker's.
///
/// A property of the model as it is served, never of the surface: else one sidecar would give two vectors for one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Sentences, 500 tokens each, pooling by request, mean of the sentence vectors, not normalised.
    Transformers,
    /// The model's own `modules.json`: limit, pooling, dense layers, prompts; always normalised.
    SentenceTransformers,
    /// Whole text, masked mean, always normalised.
    Onnx,
    /// What the model2vec container does: model2vec's `StaticModel.encode`. For tables of token vectors alone.
    Model2vec,
    /// What the reranker's container does: sentence-transformers' `CrossEncoder`. Pairs become scores, texts no vectors.
    CrossEncoder,
}

impl Profile {
    /// The name used by `--profile`, `/meta` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Transformers => "transformers",
            Profile::SentenceTransformers => "sentence-transformers",
            Profile::Onnx => "onnx",
            Profile::Model2vec => "model2vec",
            Profile::CrossEncoder => "cross-encoder",
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
            "model2vec" => Ok(Profile::Model2vec),
            "cross-encoder" => Ok(Profile::CrossEncoder),
            other => Err(format!(
                "unknown profile '{other}': use auto, transformers, sentence-transformers, onnx, model2vec or cross-encoder"
            )),
        }
    }
}
