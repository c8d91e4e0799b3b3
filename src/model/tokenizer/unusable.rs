//! What is said of files that make no tokenizer.

use std::fmt::Display;
use std::path::Path;

use crate::error::Error;

/// How to get a tokenizer this program can read.
pub(super) const REMEDY: &str =
    "write a tokenizer.json beside it (transformers: AutoTokenizer.from_pretrained(dir).save_pretrained(dir))";

/// Files of which the tokenizers crate makes nothing.
pub(super) fn unusable(what: impl Display, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::config(format!("{what} is not a usable tokenizer: {error}"))
}

/// A vocabulary of a tokenizer class that is not converted here.
pub(super) fn refused(path: &Path, class: &str) -> Error {
    Error::config(format!("{} belongs to a tokenizer of class '{class}', which is not known: {REMEDY}", path.display()))
}
