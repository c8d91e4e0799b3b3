//! Tokenizing the beginning of a text only. A tokenizer takes some hundred bytes of memory for each byte of text, and a model
//! reads a few hundred tokens: of a text of megabytes nearly all of that is for nothing.
//!
//! The tokens must be those of the whole text. So it is done only where every step is known to treat what stands before a
//! blank without regard to what follows it, and the text is cut only before a blank that follows a visible ASCII character:
//! no letter is taken from its accents there, no blank from its run, and no added token is halved. Where each punctuation
//! character is a word of its own, as BERT has it, it may be cut between two of them, too.

use tokenizers::normalizers::NormalizerWrapper as Normalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper as PreTokenizer;
use tokenizers::{NormalizerWrapper, Tokenizer};

/// So many bytes are looked at first for each token of the limit. Words of real texts take about five.
pub const BYTES_PER_TOKEN: usize = 16;

/// Where a text may be cut, `length` bytes from its start or later; `None` if nowhere before its end.
pub fn end(text: &str, length: usize, between_punctuation: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let places = bytes.get(length.checked_sub(1)?..)?.windows(2);
    let may_end = |pair: &[u8]| {
        let is_punctuation = |byte: u8| between_punctuation && byte.is_ascii_punctuation();
        (pair[0].is_ascii_graphic() && pair[1] == b' ') || (is_punctuation(pair[0]) && is_punctuation(pair[1]))
    };
    let place = places.enumerate().find(|(_, pair)| may_end(pair));
    place.map(|(at, _)| length + at)
}

/// Whether the tokens of what stands before such a place are the same whatever follows.
pub fn is_word_by_word(tokenizer: &Tokenizer) -> bool {
    let added = tokenizer.get_added_tokens_decoder();
    tokenizer.get_normalizer().is_none_or(is_local)
        && tokenizer.get_pre_tokenizer().is_some_and(splits_at_blanks)
        && added.values().all(|token| !token.content.contains(char::is_whitespace))
}

/// Whether each ASCII punctuation character is a word of its own, wherever it stands.
pub fn isolates_punctuation(tokenizer: &Tokenizer) -> bool {
    let has_pair = |content: &str| content.as_bytes().windows(2).any(|pair| pair.iter().all(u8::is_ascii_punctuation));
    matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizer::BertPreTokenizer(_)))
        && tokenizer.get_added_tokens_decoder().values().all(|token| !has_pair(&token.content))
}

/// Changes characters where they stand, with regard to their neighbours in a word at most.
fn is_local(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        Normalizer::BertNormalizer(_)
        | Normalizer::StripNormalizer(_)
        | Normalizer::StripAccents(_)
        | Normalizer::NFC(_)
        | Normalizer::NFD(_)
        | Normalizer::NFKC(_)
        | Normalizer::NFKD(_)
        | Normalizer::Lowercase(_)
        | Normalizer::Nmt(_)
        | Normalizer::Precompiled(_)
        | Normalizer::Prepend(_) => true,
        Normalizer::Sequence(steps) => steps.as_ref().iter().all(is_local),
        // Runs of blanks, as SentencePiece has it. What other patterns may match is not looked into.
        replace @ Normalizer::Replace(_) => {
            serde_json::to_value(replace).is_ok_and(|replace| replace["pattern"]["Regex"] == " {2,}")
        }
        Normalizer::ByteLevel(_) => false,
    }
}

/// Makes words that end at blanks.
fn splits_at_blanks(pre_tokenizer: &PreTokenizer) -> bool {
    match pre_tokenizer {
        PreTokenizer::BertPreTokenizer(_) | PreTokenizer::WhitespaceSplit(_) => true,
        PreTokenizer::Metaspace(metaspace) => metaspace.split,
        PreTokenizer::ByteLevel(bytes) => bytes.use_regex,
        PreTokenizer::Sequence(steps) => {
            let steps = steps.as_ref();
            let blanks = |step: &PreTokenizer| !matches!(step, PreTokenizer::ByteLevel(_)) && splits_at_blanks(step);
            let within_words =
                |step: &PreTokenizer| matches!(step, PreTokenizer::Digits(_) | PreTokenizer::Punctuation(_));
            steps.iter().any(blanks) && steps.iter().all(|step| blanks(step) || within_words(step))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_before_a_blank_that_follows_a_visible_ascii_character() {
        assert_eq!(end("one two three", 1, false), Some(3));
        assert_eq!(end("one two three", 3, false), Some(3));
        assert_eq!(end("one two three", 4, false), Some(7));
        assert_eq!(end("one two three", 8, false), None);
        assert_eq!(end("one. two, 3 x", 1, false), Some(4));
        assert_eq!(end("é ü ", 1, false), None);
        assert_eq!(end("", 1, false), None);
        assert_eq!(end("a b", 100, false), None);
        assert_eq!(end("a b", 0, false), None);
        assert_eq!(end("a...b", 1, false), None);
        assert_eq!((end("a...b", 1, true), end("a...b", 3, true), end("a...b", 4, true)), (Some(2), Some(3), None));
    }
}
