//! Which tokens of a sequence attend to which.

use std::ops::Range;

/// How far a token sees, itself always included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// Tokens before it; `usize::MAX` for all.
    pub before: usize,
    /// Tokens after it; `usize::MAX` for all.
    pub after: usize,
}

impl Mask {
    /// Every token sees the whole sequence.
    pub const FULL: Mask = Mask { before: usize::MAX, after: usize::MAX };

    /// A token sees those before it only, as in a language model.
    pub const CAUSAL: Mask = Mask { before: usize::MAX, after: 0 };

    /// A token sees those at most so far away, on both sides.
    pub fn around(distance: usize) -> Mask {
        Mask { before: distance, after: distance }
    }

    /// The tokens that a query of a sequence sees.
    pub fn keys(self, query: usize, tokens: usize) -> Range<usize> {
        query.saturating_sub(self.before)..tokens.min(query.saturating_add(self.after).saturating_add(1))
    }

    /// The tokens that at least one of some neighbouring queries sees.
    pub(super) fn keys_of(self, queries: Range<usize>, tokens: usize) -> Range<usize> {
        self.keys(queries.start, tokens).start..self.keys(queries.end.saturating_sub(1), tokens).end
    }
}

impl Default for Mask {
    fn default() -> Self {
        Mask::FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_itself_and_what_is_near() {
        assert_eq!([0, 3, 6].map(|query| Mask::FULL.keys(query, 7)), [0..7, 0..7, 0..7]);
        assert_eq!([0, 3, 6].map(|query| Mask::CAUSAL.keys(query, 7)), [0..1, 0..4, 0..7]);
        assert_eq!([0, 3, 6].map(|query| Mask::around(2).keys(query, 7)), [0..3, 1..6, 4..7]);
        assert_eq!(Mask { before: 2, after: 0 }.keys(5, 7), 3..6);
        assert_eq!(Mask::around(1).keys_of(2..5, 7), 1..6);
        assert_eq!(Mask::around(0).keys(4, 7), 4..5);
    }
}
