//! What a wire format has to be able to do. A format is one file beside this one that implements [`Format`], and one
//! line in the list of [`formats`](super).

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::backend::Embedding;
use crate::backend::meta::theirs::Theirs;
use crate::backend::remote::kind::Kind;
use crate::backend::remote::pool::Pool;
use crate::contract::call::{EmbedSettings, TraceContext};
use crate::error::Result;

/// Texts of a call that go into one request.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// As many as [`Format::at_once`] says, at most.
    pub texts: &'a [&'a str],
    /// How they are embedded.
    pub settings: &'a EmbedSettings,
    /// The trace they are part of.
    pub trace: Option<&'a TraceContext>,
    /// Length of the upstream's full vectors, if it is known.
    pub dimensions: Option<usize>,
    /// For all attempts.
    pub deadline: Instant,
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the texts.
        f.debug_struct("Batch")
            .field("texts", &self.texts.len())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// An upstream's models by their names there.
#[derive(Debug, Default)]
pub struct Models {
    /// The one that is asked for, where it has another name than its meta tells.
    pub own: Option<String>,
    /// Those that can be asked for beside it.
    pub others: Vec<String>,
}

impl Models {
    /// As a sidecar lists them in its meta: the one that it serves by default first.
    pub fn of_sidecar(meta: &Theirs) -> Models {
        let mut told = meta.said.sidecar.iter().flat_map(|sidecar| sidecar.models.iter().cloned());
        Models { own: told.next(), others: told.collect() }
    }
}

/// What speaks at the other end, and what it can do.
pub trait Format: fmt::Debug + Send + Sync + 'static {
    /// What is known of it before anything is asked; `None` if something has to be.
    fn unasked() -> Option<Self>
    where
        Self: Sized;

    /// What is known of an upstream of this format once it was asked.
    ///
    /// # Errors
    /// If it cannot be reached, or does not say what has to be known.
    fn open(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Self>>
    where
        Self: Sized;

    /// The same of an upstream whose URL does not say what speaks there; `None` if it is not this format.
    ///
    /// # Errors
    /// As [`Format::open`].
    fn recognise(pool: &Arc<Pool>) -> BoxFuture<'_, Result<Option<Self>>>
    where
        Self: Sized;

    /// Its name and its rules for URLs.
    fn kind(&self) -> &'static Kind;

    /// Texts in one request.
    fn at_once(&self) -> usize;

    /// The vectors of a batch, a result for each of its texts, in order.
    ///
    /// # Errors
    /// As [`Pool::call`]: what kept the whole batch from being answered.
    fn embed<'a>(&'a self, pool: &'a Arc<Pool>, batch: Batch<'a>) -> BoxFuture<'a, Result<Vec<Result<Embedding>>>>;

    /// Whether a text's error within an answer says of what kind it is. Where it does not, the text is asked for alone.
    fn tells_kinds_of_errors(&self) -> bool {
        true
    }

    /// The upstream's meta, now; `None` for JSON `null`.
    ///
    /// # Errors
    /// As [`probe::meta`](crate::backend::remote::probe::meta).
    fn meta<'a>(&'a self, pool: &'a Arc<Pool>) -> BoxFuture<'a, Result<Option<Theirs>>>;

    /// The models there, by what was asked at start; `meta` is the upstream's.
    fn models(&self, _meta: &Theirs) -> Models {
        Models::default()
    }

    /// The same upstream, asked for another of its models; `None` where a model cannot be named.
    fn of_model(&self, _pool: &Arc<Pool>, _name: &str) -> Option<(Arc<Pool>, Box<dyn Format>)> {
        None
    }
}
