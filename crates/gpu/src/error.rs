//! What keeps a model from running on a card.

use std::fmt;

use crate::card::CardError;

/// The card's fault, or the model's.
#[derive(Debug, Clone)]
pub enum Error {
    /// What the card says.
    Card(CardError),
    /// What is wrong with weights or sizes.
    Model(text2vec_kernel::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Card(error) => error.fmt(f),
            Error::Model(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<CardError> for Error {
    fn from(error: CardError) -> Self {
        Error::Card(error)
    }
}

impl From<text2vec_kernel::Error> for Error {
    fn from(error: text2vec_kernel::Error) -> Self {
        Error::Model(error)
    }
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
