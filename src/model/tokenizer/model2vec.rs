//! What model2vec does to a text beside its tokenizer: it is cut by characters first, unknown tokens are left out, and then it
//! is cut by tokens (model2vec 0.6 to 0.8, `StaticModel.tokenize`).

use tokenizers::{ModelWrapper, Tokenizer};

/// Tokens that count of a text.
pub const MODEL2VEC_MAX_TOKENS: usize = 512;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model2vec {
    /// Characters that are looked at: what [`MODEL2VEC_MAX_TOKENS`] of median length have.
    characters: usize,
    /// The token that does not count; Unigram vocabularies have none that model2vec knows.
    unknown: Option<u32>,
}

impl Model2vec {
    /// The rules that follow from a tokenizer's vocabulary.
    pub(super) fn of(tokenizer: &Tokenizer) -> Model2vec {
        let vocabulary = tokenizer.get_vocab(true);
        let mut lengths: Vec<usize> = vocabulary.keys().map(|token| token.chars().count()).collect();
        lengths.sort_unstable();
        let middle = lengths.len() / 2;
        let median = match lengths.len() {
            0 => 0,
            odd if odd % 2 == 1 => lengths[middle],
            _ => (lengths[middle - 1] + lengths[middle]) / 2,
        };
        let unknown = match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(&model.unk_token),
            ModelWrapper::WordLevel(model) => Some(&model.unk_token),
            ModelWrapper::BPE(model) => model.unk_token.as_ref(),
            ModelWrapper::Unigram(_) => None,
        };
        let unknown = unknown.and_then(|token| vocabulary.get(token)).copied();
        Model2vec { characters: MODEL2VEC_MAX_TOKENS * median, unknown }
    }

    /// The part of a text that is looked at.
    pub(super) fn head(self, text: &str) -> &str {
        text.char_indices().nth(self.characters).map_or(text, |(end, _)| &text[..end])
    }

    /// The ids that count, and whether there were too many of them.
    pub(super) fn counted(self, ids: &[u32]) -> (Vec<u32>, bool) {
        let mut known = ids.iter().copied().filter(|&id| Some(id) != self.unknown);
        let ids: Vec<u32> = known.by_ref().take(MODEL2VEC_MAX_TOKENS).collect();
        (ids, known.next().is_some())
    }
}
