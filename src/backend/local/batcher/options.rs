//! Who is served first, and how much of what.

/// The queries' part of [`Options::waiting_tokens`] is one in so many. Queries are short, and their part is worth
/// hundreds of them even in a small room.
const QUERY_PART: usize = 8;

/// A call may have one in so many of its class's part.
const SHARES: usize = 8;

/// Who is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits in front of a screen.
    Query,
    /// Import and everything else.
    Passage,
}

impl Class {
    /// Both, in the order they are served.
    pub const ALL: [Class; 2] = [Class::Query, Class::Passage];

    /// Label for metrics, `/meta` and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Query => "query",
            Class::Passage => "passage",
        }
    }
}

/// Sizes, all in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Budget of a batch of passages. A query that comes while one is computed waits for at most this much.
    pub batch_tokens: usize,
    /// Budget of a batch of queries.
    pub query_batch_tokens: usize,
    /// A batch of queries that weighs less is filled with passages up to this weight (and no further than
    /// `query_batch_tokens`). 0 = never. Worth while where a small batch takes as long as a slightly larger one.
    pub query_fill_tokens: usize,
    /// Batches of queries that may follow each other while a passage waits.
    pub queries_in_a_row: usize,
    /// What may wait, of both classes together, before callers wait for room.
    pub waiting_tokens: usize,
}

impl Options {
    /// The part of [`Options::waiting_tokens`] that a class has.
    pub const fn room(&self, class: Class) -> usize {
        let queries = self.waiting_tokens / QUERY_PART;
        match class {
            Class::Query => queries,
            Class::Passage => self.waiting_tokens - queries,
        }
    }

    /// The part of its class's room that one call may have: enough for the batch that is gathered and the one after it.
    pub const fn share(&self, class: Class) -> usize {
        let (part, two_batches) = (self.room(class) / SHARES, self.budget(class).saturating_mul(2));
        if part > two_batches { part } else { two_batches }
    }

    /// The budget of a class's batch.
    pub(super) const fn budget(&self, class: Class) -> usize {
        match class {
            Class::Query => self.query_batch_tokens,
            Class::Passage => self.batch_tokens,
        }
    }
}
