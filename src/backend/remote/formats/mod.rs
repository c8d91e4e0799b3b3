//! The wire formats. Each is one file that implements [`Format`] and states its [`Kind`]; the one list of them is here.
//!
//! | to find | look in |
//! |---|---|
//! | what a format has to be able to do | [`format`](mod@format) |
//! | the formats | [`t2v`], [`tei`], [`openai`], [`sidecar`] |
//! | numbers, error bodies and trace headers, for all of them | [`vector`], [`said`], [`traced`] |

pub mod format;
pub mod openai;
pub mod said;
pub mod sidecar;
pub mod t2v;
pub mod tei;
pub mod traced;
pub mod vector;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use self::format::{Batch, Format, Models};
use super::kind::{Kind, Scheme};
use super::pool::Pool;
use crate::error::Result;

/// The formats, in the order in which they are looked for where a URL does not say what speaks there.
static FORMATS: [Listed; 4] = [
    Listed::new::<t2v::T2v>(&t2v::KIND),
    Listed::new::<tei::Tei>(&tei::KIND),
    Listed::new::<openai::OpenAi>(&openai::KIND),
    Listed::new::<sidecar::Sidecar>(&sidecar::KIND),
];

/// Finds something out from an upstream.
type Asks<T> = fn(&Arc<Pool>) -> BoxFuture<'_, Result<T>>;

/// A format with its type forgotten.
struct Listed {
    kind: &'static Kind,
    unasked: fn() -> Option<Box<dyn Format>>,
    open: Asks<Box<dyn Format>>,
    recognise: Asks<Option<Box<dyn Format>>>,
}

impl Listed {
    const fn new<F: Format>(kind: &'static Kind) -> Listed {
        Listed {
            kind,
            unasked: || F::unasked().map(boxed),
            open: |pool| F::open(pool).map(|found| found.map(boxed)).boxed(),
            recognise: |pool| F::recognise(pool).map(|found| found.map(|found| found.map(boxed))).boxed(),
        }
    }
}

fn boxed<F: Format>(format: F) -> Box<dyn Format> {
    Box::new(format)
}

/// Every URL scheme, with the kind of upstream that it leads to.
pub fn schemes() -> impl Iterator<Item = (&'static Kind, &'static Scheme)> {
    FORMATS.iter().flat_map(|format| format.kind.schemes.iter().map(|scheme| (format.kind, scheme)))
}

/// Paths that upstreams of any kind are asked for.
pub fn request_paths() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().flat_map(|format| format.kind.request_paths.iter().copied())
}

/// What is known of a kind of upstream before anything is asked; `None` if something has to be.
pub fn unasked(kind: &Kind) -> Option<Box<dyn Format>> {
    let format = FORMATS.iter().find(|format| format.kind == kind)?;
    (format.unasked)()
}

/// What speaks there: by the URL's scheme, else by which paths answer. A server that answers none is taken for the
/// reference container, as Weaviate would.
///
/// # Errors
/// If it cannot be reached, or does not say what has to be known of it.
pub async fn detect(pool: &Arc<Pool>) -> Result<Box<dyn Format>> {
    let named = pool.address().named_kind();
    if let Some(format) = FORMATS.iter().find(|format| Some(format.kind) == named) {
        return (format.open)(pool).await;
    }
    for format in &FORMATS {
        if let Some(found) = (format.recognise)(pool).await? {
            return Ok(found);
        }
    }
    Ok(boxed(t2v::T2v::default()))
}
