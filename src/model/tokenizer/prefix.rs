//! Tokenizing the beginning of a text only. A tokenizer takes some hundred bytes of memory for each byte of text, and a model
//! reads a few hundred tokens: of a text of megabytes nearly all of that is for nothing.
//!
//! The tokens must be those of the whole text. So it is done only where every step is known to treat what stands before a
//! blank without regard to what follows it, and the text is cut only where no letter is taken from its accents, no blank from
//! its run and no added token is halved: before a blank that follows a visible ASCII character or a letter. BERT makes a word
//! of each punctuation character and of each Chinese one: there it may be cut beside those, too.

use std::collections::HashSet;

use tokenizers::normalizers::NormalizerWrapper as Normalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper as PreTokenizer;
use tokenizers::{NormalizerWrapper, Tokenizer};
use unicode_general_category::{GeneralCategory as Category, get_general_category as category};

/// So many bytes are looked at first for each token of the limit. Words of real texts take about five.
pub(super) const BYTES_PER_TOKEN: usize = 16;

/// Where a tokenizer's texts may be cut.
#[derive(Debug)]
pub(super) struct Places {
    /// Of BERT: the pairs of characters that stand side by side in an added token.
    within_added: Option<HashSet<(char, char)>>,
    /// Whether what follows such a place has the tokens by itself that it has in the whole text.
    cuts_both_ways: bool,
}

impl Places {
    /// `None`: the tokens of a beginning may not be those of the whole.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Places> {
        let added = tokenizer.get_added_tokens_decoder();
        let is_word_by_word = tokenizer.get_normalizer().is_none_or(is_local)
            && tokenizer.get_pre_tokenizer().is_some_and(splits_at_blanks)
            && added.values().all(|token| !token.content.contains(char::is_whitespace));
        let is_bert = matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizer::BertPreTokenizer(_)))
            && matches!(tokenizer.get_normalizer(), Some(Normalizer::BertNormalizer(bert)) if bert.handle_chinese_chars)
            // Those are found in the text as it is, whatever stands around them.
            && added.values().all(|token| !token.normalized && !token.single_word);
        let pairs = |text: &str| text.chars().zip(text.chars().skip(1)).collect::<Vec<_>>();
        is_word_by_word.then(|| Places {
            within_added: is_bert.then(|| added.values().flat_map(|token| pairs(&token.content)).collect()),
            cuts_both_ways: !tokenizer.get_normalizer().is_some_and(changes_the_start),
        })
    }

    /// Where the first piece of a text ends, `length` bytes from the start or later, if its pieces have together the tokens of
    /// the whole.
    pub(super) fn piece(&self, text: &str, length: usize) -> Option<usize> {
        if self.cuts_both_ways { self.find(text, length) } else { None }
    }

    /// The first place that is `length` bytes from the start or later; `None` if there is none before the end.
    pub(super) fn find(&self, text: &str, length: usize) -> Option<usize> {
        let start = (length..text.len()).find(|&at| text.is_char_boundary(at))?;
        let mut last = text[..start].chars().next_back()?;
        for (offset, next) in text[start..].char_indices() {
            if self.is_between(last, next) {
                return Some(start + offset);
            }
            last = next;
        }
        None
    }

    fn is_between(&self, last: char, next: char) -> bool {
        if next == ' ' && (last.is_ascii_graphic() || is_letter(last)) {
            return true;
        }
        let stands_alone = |letter| is_chinese(letter) || is_punctuation(letter);
        self.within_added.as_ref().is_some_and(|within| {
            next == ' ' || ((stands_alone(last) || stands_alone(next)) && !within.contains(&(last, next)))
        })
    }
}

/// Whether a blank after it is a character of its own. Some letters are put before others without space: one of them is in
/// the basic plane.
fn is_letter(letter: char) -> bool {
    use Category::{LowercaseLetter, OtherLetter, UppercaseLetter};
    letter <= '\u{ffff}'
        && letter != '\u{d4e}'
        && matches!(category(letter), LowercaseLetter | UppercaseLetter | OtherLetter)
}

/// Whether BERT puts blanks around it. There are more, which are rare.
fn is_chinese(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}')
}

/// Whether it is punctuation to BERT: of the blocks that have had theirs for long.
fn is_punctuation(letter: char) -> bool {
    use Category::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation, OpenPunctuation,
        OtherPunctuation,
    };
    letter.is_ascii_punctuation()
        || matches!(letter, '\u{2010}'..='\u{205e}' | '\u{3001}'..='\u{303d}' | '\u{ff01}'..='\u{ff65}')
            && matches!(
                category(letter),
                ClosePunctuation
                    | ConnectorPunctuation
                    | DashPunctuation
                    | FinalPunctuation
                    | InitialPunctuation
                    | OpenPunctuation
                    | OtherPunctuation
            )
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

/// Treats the start of a text otherwise than what follows.
fn changes_the_start(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        Normalizer::Prepend(_) | Normalizer::StripNormalizer(_) => true,
        Normalizer::Sequence(steps) => steps.as_ref().iter().any(changes_the_start),
        _ => false,
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

    fn find(text: &str, length: usize) -> Option<usize> {
        Places { within_added: None, cuts_both_ways: true }.find(text, length)
    }

    #[test]
    fn texts_are_cut_before_a_blank_that_follows_a_letter() {
        assert_eq!(find("one two three", 1), Some(3));
        assert_eq!(find("one two three", 3), Some(3));
        assert_eq!(find("one two three", 4), Some(7));
        assert_eq!(find("one two three", 8), None);
        assert_eq!(find("one. two, 3 x", 1), Some(4));
        assert_eq!(find("é ü ", 1), Some(2));
        assert_eq!(find("e\u{301} u\u{308} ", 1), None);
        assert_eq!(find("\u{d4e} \u{d4e} ", 1), None);
        assert_eq!(find("слово слово", 3), Some(10));
        assert_eq!(find("", 1), None);
        assert_eq!(find("a b", 100), None);
        assert_eq!(find("a b", 0), None);
        assert_eq!(find("a...b", 1), None);
        assert_eq!(find("中文中文", 1), None);
    }

    #[test]
    fn where_some_characters_stand_alone_texts_are_cut_beside_them() {
        let within_added = Some([('[', 'S'), ('S', 'E'), ('E', 'P'), ('P', ']')].into());
        let places = Places { within_added, cuts_both_ways: true };
        let find = |text, length| places.find(text, length);
        assert_eq!(
            (find("a...b", 1), find("a...b", 3), find("a...b", 4), find("a...b", 5)),
            (Some(1), Some(3), Some(4), None)
        );
        assert_eq!(
            (find("中文中文", 1), find("中文中文", 4), find("a中b", 1), find("a中b", 2)),
            (Some(3), Some(6), Some(1), Some(4))
        );
        assert_eq!((find("か。か", 1), find("か。か", 4)), (Some(3), Some(6)));
        assert_eq!((find("a[SEP]b", 2), find("a[SEP]b", 6), find("[SEX]", 4)), (Some(6), Some(6), Some(4)));
        assert_eq!(find("e\u{301} u", 1), Some(3));
        assert_eq!(find("かきくけ", 1), None);
    }
}
