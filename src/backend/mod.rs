//! Backends: texts in, vectors out.

pub mod local;
pub mod paired;
pub mod remote;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use crate::contract::request::EmbedRequest;
use crate::error::Result;
pub use crate::model::tokenizer::TextTokenizer;

/// A text's vector and what was done to get it.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The vector, float32. Shared, never copied, between caller and cache.
    pub vector: Arc<[f32]>,
    /// Tokens fed to the model, special ones included.
    pub tokens: u32,
    /// Whether the text, or one of its sentences, was longer than the token limit.
    pub truncated: bool,
    /// Settings of the request that had no effect under the server's profile, by their wire names.
    pub ignored: Vec<&'static str>,
}

impl Embedding {
    /// The first `dimensions` numbers, scaled to length 1 (L2); zeros stay zeros.
    pub fn shortened(&self, dimensions: usize) -> Embedding {
        let kept = &self.vector[..dimensions.min(self.vector.len())];
        let norm = kept.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt().max(1e-12);
        let vector = kept.iter().map(|&value| (f64::from(value) / norm) as f32).collect();
        Embedding { vector, ..self.clone() }
    }
}

/// What a backend serves, as `/meta` and the answers tell it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The model's name: its Hub id when known, else its directory's name.
    pub name: String,
    /// Changes whenever vectors may change: weights, tokenizer, profile and its switches.
    pub fingerprint: String,
    /// Length of a full vector; `None`: not known, of an upstream that did not answer yet.
    pub dimensions: Option<usize>,
}

/// Takes the result of a text, by its index.
pub type Tell<'a> = Box<dyn FnMut(usize, Result<Embedding>) + Send + 'a>;

/// After so many results told at once, other tasks get a turn.
const RESULTS_PER_TURN: usize = 64;

/// Texts in, vectors out.
///
/// The outer error is the call's (overload, not ready); the inner one is a text's (bad pooling, empty text), so that a
/// bulk caller keeps what succeeded. One result per request, in order.
pub trait Backend: Send + Sync {
    /// Embeds the texts. Dropping the future abandons the work that has not begun.
    fn embed(&self, requests: Vec<EmbedRequest>) -> BoxFuture<'_, Result<Vec<Result<Embedding>>>>;

    /// As [`Backend::embed`], telling each text's result, by its index, as soon as it is known. Texts may be told in any
    /// order; one that is never told has no result.
    fn embed_each<'a>(&'a self, requests: Vec<EmbedRequest>, mut tell: Tell<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for (index, result) in self.embed(requests).await?.into_iter().enumerate() {
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

    /// What `GET /meta` answers, as far as it is known here.
    fn meta(&self) -> Map<String, Value>;

    /// What `GET /meta` answers, asked for where it is not known here; `None` is JSON's `null`, which an upstream may say.
    fn live_meta(&self) -> BoxFuture<'_, Result<Option<Map<String, Value>>>> {
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
