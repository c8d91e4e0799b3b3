//! What is queued, and what is computed in one go.

use super::options::Class;

/// One token sequence on its way to the encoder. Both methods are called with the queue locked: they must be quick and
/// must not call the batcher.
pub trait Piece: Send {
    /// Its weight, special tokens included. Asked once.
    fn tokens(&self) -> usize;

    /// Whether nobody wants the answer any more.
    fn is_cancelled(&self) -> bool;
}

/// What the consumer computes in one go.
#[derive(Debug)]
pub struct Batch<P> {
    /// Whose turn it was. Passages may be in a batch of queries, after them
    /// ([`Options::query_fill_tokens`](super::Options::query_fill_tokens)).
    pub class: Class,
    /// Weight of all pieces.
    pub tokens: usize,
    /// Never empty.
    pub pieces: Vec<P>,
}
