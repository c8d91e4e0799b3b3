//! Backends: texts in, vectors out; or pairs of texts in, scores out.

pub mod local;
pub mod meta;
pub mod paired;
pub mod remote;
pub mod scoring;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::meta::Meta;
use self::scoring::Scoring;
use crate::contract::call::Call;
use crate::contract::request::Profile;
use crate::error::{Error, Result};
pub use crate::model::tokenizer::{TextTokenizer, Token};

/// A text's vector and what was done to get it; of a pair, its logits in the place of the vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The vector, or the logits, one for each label: float32. Shared, never copied, between caller and cache.
    pub vector: Arc<[f32]>,
    /// Tokens fed to the model, special ones included.
    pub tokens: u32,
    /// Whether the text, or one of its sentences, was longer than the token limit.
    pub truncated: bool,
    /// Settings of the request that had no effect under the server's profile, by their wire names.
    pub ignored: Vec<&'static str>,
}

/// How far from 1 the length of a vector may be that was scaled to length 1 in float32: the rounding of its numbers, and of
/// the sum they were divided by.
const ROUNDING: f64 = 1e-6;

impl Embedding {
    /// Scaled to length 1 (L2); zeros stay zeros. One that has this length already, but for [`ROUNDING`], keeps its bits.
    pub fn normalized(self) -> Embedding {
        let dimensions = self.vector.len();
        self.shortened(dimensions)
    }

    /// The first `dimensions` numbers, scaled as [`Embedding::normalized`] does.
    pub fn shortened(self, dimensions: usize) -> Embedding {
        let kept = &self.vector[..dimensions.min(self.vector.len())];
        let norm = kept.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if (norm - 1.0).abs() <= ROUNDING {
            return if kept.len() == self.vector.len() { self } else { Embedding { vector: kept.into(), ..self } };
        }
        let vector = kept.iter().map(|&value| (f64::from(value) / norm.max(1e-12)) as f32).collect();
        Embedding { vector, ..self }
    }
}

/// What a backend serves, as `/meta` and the answers tell it.
#[derive(Debug, Clone, Default)]
pub struct ModelInfo {
    /// The model's name: its Hub id when known, else its directory's name.
    pub name: String,
    /// Changes whenever vectors may change: weights, tokenizer, profile and its switches.
    pub fingerprint: String,
    /// Length of a full vector; `None`: not known, of an upstream that did not answer yet, or of a model that makes none.
    pub dimensions: Option<usize>,
    /// By whose rules, where the model is here.
    pub profile: Option<Profile>,
    /// What its numbers mean, if it reranks. One that does not makes vectors.
    pub scoring: Option<Arc<Scoring>>,
}

impl ModelInfo {
    /// How many numbers it answers a text with, as far as that is known: those of a vector, or a logit for each label.
    pub fn numbers(&self) -> Option<usize> {
        self.dimensions.or_else(|| Some(self.scoring.as_ref()?.labels.len()))
    }

    /// Refuses a model that makes no vectors.
    ///
    /// # Errors
    /// `InvalidArgument`, with what to do.
    pub fn makes_vectors(&self) -> Result<()> {
        match self.scoring {
            None => Ok(()),
            Some(_) => Err(not_both(&self.name, "reranks and makes no vectors", "one that makes them")),
        }
    }

    /// What the numbers of a model that reranks mean.
    ///
    /// # Errors
    /// `InvalidArgument` for one that does not, with what to do.
    pub fn reranks(&self) -> Result<&Arc<Scoring>> {
        self.scoring.as_ref().ok_or_else(|| not_both(&self.name, "makes vectors and does not rerank", "a reranker"))
    }
}

fn not_both(model: &str, does: &str, other: &str) -> Error {
    Error::invalid(format!("{model} {does}: name {other} among the models that are served here")).parameter("model")
}

/// Takes the result of a text, by its index.
pub type Tell<'a> = Box<dyn FnMut(usize, Result<Embedding>) + Send + 'a>;

/// After so many results told at once, other tasks get a turn.
const RESULTS_PER_TURN: usize = 64;

/// Texts in, vectors or logits out: a model makes the one or the other ([`ModelInfo::scoring`]), and refuses the other call.
///
/// The outer error is the call's (overload, not ready); the inner one is a text's (bad pooling, empty text), so that a
/// bulk caller keeps what succeeded. One result per text, in order.
pub trait Backend: Send + Sync {
    /// Embeds the texts. Dropping the future abandons the work that has not begun.
    fn embed(&self, call: Call) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>>;

    /// As [`Backend::embed`], telling each text's result, by its index, as soon as it is known. Texts may be told in any
    /// order; one that is never told has no result.
    fn embed_each<'a>(&'a self, call: Call, mut tell: Tell<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for (index, result) in self.embed(call).await?.into_iter().enumerate() {
                tell(index, result);
                if (index + 1).is_multiple_of(RESULTS_PER_TURN) {
                    tokio::task::yield_now().await;
                }
            }
            Ok(())
        })
    }

    /// What is served.
    fn info(&self) -> &ModelInfo;

    /// Why it will not embed anything any more, until the process is started again.
    fn trouble(&self) -> Option<&'static str> {
        None
    }

    /// The tokenizer of the model; `None`: it is not here, or there are two.
    fn tokenizer(&self) -> Option<&TextTokenizer> {
        None
    }

    /// What `GET /meta` answers, as far as it is known here: nothing, beside what cache and server say.
    fn meta(&self) -> Meta {
        Meta::default()
    }

    /// What `GET /meta` answers, asked for where it is not known here; `None` is JSON's `null`, which an upstream may say.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Meta>>> {
        std::future::ready(Ok(Some(self.meta()))).boxed()
    }
}

/// Backends by base URL, for classes that name one.
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// The backend behind a URL as a class has it.
    ///
    /// # Errors
    /// `PermissionDenied` if classes may not name it.
    fn backend(&self, url: &str) -> Result<Arc<dyn Backend>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(vector: &[f32]) -> Embedding {
        Embedding { vector: vector.into(), tokens: 1, truncated: false, ignored: Vec::new() }
    }

    #[test]
    fn a_vector_of_length_1_keeps_its_bits() {
        for dimensions in [2, 384, 1024, 4096] {
            let raw: Vec<f32> = (0..dimensions).map(|place| (place as f32 * 0.7).sin() * 6.4 + 0.01).collect();
            let once = embedding(&raw).normalized();
            let again = once.clone().normalized();
            assert!(Arc::ptr_eq(&once.vector, &again.vector), "{dimensions}: not even copied");
            // As a library has it that sums in float32.
            let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
            let rough: Vec<f32> = raw.iter().map(|value| value / norm).collect();
            assert_eq!(&*embedding(&rough).normalized().vector, &rough[..], "{dimensions}");
        }
    }

    #[test]
    fn lengths_become_1_and_zeros_stay() {
        assert_eq!(&*embedding(&[3.0, 4.0]).normalized().vector, [0.6, 0.8]);
        assert_eq!(&*embedding(&[0.0, 0.0]).normalized().vector, [0.0, 0.0]);
        assert_eq!(&*embedding(&[3.0, 4.0, 12.0]).shortened(2).vector, [0.6, 0.8]);
        assert_eq!(&*embedding(&[1.0, 0.0]).shortened(1).vector, [1.0]);
    }
}
