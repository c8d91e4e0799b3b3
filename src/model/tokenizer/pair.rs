//! Pairs of texts, as cross-encoders take them: a query, tokenized once, and a document behind it. What is too long is cut as
//! transformers does it with `truncation=True`: the longer of the two first.

use std::sync::OnceLock;

use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use super::prefix;
use super::text::{TextTokenizer, Tokens, untokenizable};
use crate::error::Result;

/// Of texts whose tokens are only counted, so many bytes are tokenized at a time.
const PIECE: usize = 16 << 10;

/// A query that documents can be put behind: of its tokens those that a pair can have.
#[derive(Debug)]
pub struct Query {
    text: String,
    kept: Encoding,
    /// How many there are; of a long one only counted where it matters.
    length: OnceLock<usize>,
}

impl TextTokenizer {
    /// Tokens of a query, for [`TextTokenizer::pair`].
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn query(&self, text: &str) -> Result<Query> {
        let most = self.room();
        let (head, is_all) = self.head(text, most)?;
        let length = OnceLock::new();
        if is_all {
            let _ = length.set(head.len());
        }
        Ok(Query { text: text.to_owned(), kept: cut(head, most), length })
    }

    /// Tokens of a query and a document, special ones included.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn pair(&self, query: &Query, document: &str) -> Result<Tokens> {
        let most = self.room();
        let (head, is_all) = self.head(document, most)?;
        let mut lengths = [query.length.get().copied().unwrap_or(most + 1), head.len()];
        // Of an odd number the longer of two long texts has one more.
        if lengths.iter().all(|&length| length > most) && !most.is_multiple_of(2) {
            lengths[0] = self.length_of(query)?;
            if !is_all {
                lengths[1] = self.count(document, lengths[0], PIECE)?;
            }
        }
        let [of_query, of_document] = longest_first(lengths, most);
        let (query, mut document) = (cut(query.kept.clone(), of_query), cut(head, of_document));
        document.set_type_ids(vec![1; document.len()]);
        let encoding = self.tokenizer.post_process(query, Some(document), true).map_err(untokenizable)?;
        let mut ids = encoding.get_ids().to_vec();
        while ids.len() > 1 && ids.last().copied() == self.pairs.trailing {
            ids.pop();
        }
        let mut type_ids = if self.pairs.token_types { encoding.get_type_ids().to_vec() } else { vec![0; ids.len()] };
        type_ids.truncate(ids.len());
        Ok(Tokens { ids, type_ids, truncated: lengths.iter().sum::<usize>() > most })
    }

    /// Tokens of both texts together, special ones left aside.
    fn room(&self) -> usize {
        let added = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        self.max_tokens().saturating_sub(added)
    }

    /// The first tokens of a text: all, or of a long one more than `most`. And whether they are all.
    fn head(&self, text: &str, most: usize) -> Result<(Encoding, bool)> {
        if let Some(places) = &self.places {
            let mut length = most.max(1).saturating_mul(prefix::BYTES_PER_TOKEN);
            while let Some(end) = places.find(text, length) {
                let head = self.tokenizer.encode_fast(&text[..end], false).map_err(untokenizable)?;
                if head.len() > most {
                    return Ok((head, false));
                }
                length = end.saturating_mul(4);
            }
        }
        Ok((self.tokenizer.encode_fast(text, false).map_err(untokenizable)?, true))
    }

    /// How many tokens a text has, or more than `most`: of so many bytes at a time, where that gives the same.
    fn count(&self, text: &str, most: usize, piece: usize) -> Result<usize> {
        let (mut count, mut left) = (0, text);
        loop {
            let end = self.places.as_ref().and_then(|places| places.piece(left, piece));
            let (first, rest) = left.split_at(end.unwrap_or(left.len()));
            count += self.tokenizer.encode_fast(first, false).map_err(untokenizable)?.len();
            if count > most || rest.is_empty() {
                return Ok(count);
            }
            left = rest;
        }
    }

    fn length_of(&self, query: &Query) -> Result<usize> {
        if let Some(&length) = query.length.get() {
            return Ok(length);
        }
        let length = self.count(&query.text, usize::MAX, PIECE)?;
        Ok(*query.length.get_or_init(|| length))
    }
}

/// The first tokens, without a memory of the others: put together, those of a pair would be many.
fn cut(mut encoding: Encoding, length: usize) -> Encoding {
    if encoding.len() > length {
        encoding.truncate(length, 0, TruncationDirection::Right);
        encoding.take_overflowing();
    }
    encoding
}

/// How many tokens are left of two texts: what is too much is taken from the longer one, and from both once they are equal.
fn longest_first([one, other]: [usize; 2], most: usize) -> [usize; 2] {
    if one + other <= most {
        return [one, other];
    }
    let shorter = one.min(other);
    let (shorter, longer) = match shorter + shorter.max(most.saturating_sub(shorter)) <= most {
        true => (shorter, most - shorter),
        false => (most / 2, most / 2 + most % 2),
    };
    debug_assert!(longer >= shorter);
    if one > other { [longer, shorter] } else { [shorter, longer] }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use text2vec_engine::files::read_json;
    use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};

    use super::*;

    /// In pieces there are as many tokens as in one.
    #[test]
    fn tokens_are_counted_in_pieces() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let golden = read_json(&fixtures.join("tokenizers/ids.json")).expect("JSON").expect("a file");
        let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).expect("texts");
        let names =
            golden["ids"].as_object().expect("ids by tokenizer").keys().map(|name| format!("tokenizers/{name}"));
        let mut in_pieces = 0;
        for name in names.chain(["rerankers/bert-1".to_owned()]) {
            let tokenizer = TextTokenizer::load(&fixtures.join(&name), 1_000_000).expect(&name);
            for number in (0..texts.len()).step_by(5) {
                for between in [" ", "  ", "\u{301} ", "\n", "", ", ", ". a. ", "! ) ", " \u{301}", "[SEP]", "</s> "] {
                    let some: Vec<&str> = texts[number..].iter().take(20).map(String::as_str).collect();
                    let text = some.join(between);
                    let all = tokenizer.tokenizer.encode_fast(text.as_str(), false).expect("tokens").len();
                    for piece in [1, 7, 100] {
                        let counted = tokenizer.count(&text, usize::MAX, piece).expect("tokens");
                        assert_eq!(counted, all, "{name}, {piece}: {text:?}");
                        in_pieces +=
                            usize::from(tokenizer.places.as_ref().is_some_and(|it| it.piece(&text, piece).is_some()));
                    }
                    let many = tokenizer.count(&text, all / 2, 7).expect("tokens");
                    assert!(many > all / 2 && many <= all, "{name}: {many} of {all}");
                }
            }
        }
        assert!(in_pieces > 5000, "{in_pieces}");
    }

    /// The library's own, on all small lengths.
    #[test]
    fn what_is_too_much_is_taken_from_the_longer_one() {
        let of = |length: usize| {
            let tokens = vec![tokenizers::Token::new(0, String::new(), (0, 0)); length];
            Encoding::from_tokens(tokens, 0)
        };
        for most in 1..8 {
            for one in 0..20 {
                for other in 0..20 {
                    let params = TruncationParams { max_length: most, ..TruncationParams::default() };
                    let (first, second) = truncate_encodings(of(one), Some(of(other)), &params).expect("cut");
                    let expected = [first.len(), second.expect("a pair").len()];
                    assert_eq!(longest_first([one, other], most), expected, "{one} and {other} of {most}");
                }
            }
        }
    }
}
