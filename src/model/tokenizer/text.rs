//! A text and its tokens.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use tokenizers::{PaddingParams, PostProcessor, Tokenizer, TruncationParams};
use utoipa::ToSchema;

use super::files::tokenizer_files;
use super::model2vec::Model2vec;
use super::open::open;
use super::pair_rules::PairRules;
use super::prefix::{self, Places};
use super::unusable::unusable;
use crate::error::{Error, Result};

/// A model's tokenizer with *our* truncation and no padding: what `tokenizer.json` says about both is ignored, since
/// well-known models ship files with limits of 128 that nobody means.
pub struct TextTokenizer {
    pub(super) tokenizer: Tokenizer,
    max_tokens: usize,
    special_tokens: bool,
    /// What the model wants to know of pairs.
    pub(super) pairs: PairRules,
    /// What the files say of the length of texts, which counts for model2vec alone.
    of_files: (Option<TruncationParams>, Option<PaddingParams>),
    /// Texts are cut as model2vec does it.
    model2vec: Option<Model2vec>,
    /// Where a long text may be cut, if anywhere.
    pub(super) places: Option<Places>,
}

/// Token ids of one text, or of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, as many as ids.
    pub type_ids: Vec<u32>,
    /// Whether the text was longer than the limit.
    pub truncated: bool,
}

/// A token of a text, for people and programs who ask which there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The part of the text that it stands for; a special token's own name.
    pub text: String,
    /// Whether it stands for no part of the text.
    pub special: bool,
    /// Where that part begins, in bytes; null for a special token.
    #[schema(required)]
    pub start: Option<usize>,
    /// Where it ends, in bytes; null for a special token.
    #[schema(required)]
    pub stop: Option<usize>,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the vocabulary.
        f.debug_struct("TextTokenizer")
            .field("max_tokens", &self.max_tokens)
            .field("special_tokens", &self.special_tokens)
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// Reads a model directory's tokenizer: `tokenizer.json` or, without one, the vocabulary that [`tokenizer_files`]
    /// names. `max_tokens` counts special tokens.
    ///
    /// # Errors
    /// `Config` for files that are missing or make no tokenizer this program can use, and for a limit that leaves no
    /// room for text.
    pub fn load(dir: &Path, max_tokens: usize) -> Result<TextTokenizer> {
        let files = tokenizer_files(dir)?;
        let path = &files[0];
        let mut tokenizer = open(dir, &files)?;
        let of_files = (tokenizer.get_truncation().cloned(), tokenizer.get_padding().cloned());
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(path.display(), error))?;
        let special = tokenizer
            .encode_fast("", true)
            .map_err(|error| Error::config(format!("{} cannot encode a text: {error}", path.display())))?
            .len();
        if max_tokens <= special {
            return Err(no_room(max_tokens, special));
        }
        let places = Places::of(&tokenizer);
        Ok(TextTokenizer {
            tokenizer,
            max_tokens,
            special_tokens: true,
            pairs: PairRules::default(),
            of_files,
            model2vec: None,
            places,
        })
    }

    /// Ids that the vocabulary can make: one more than the largest, tokens added to it left aside.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab(false).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The same tokenizer without special tokens around a text, as static embeddings have it.
    pub fn without_special_tokens(self) -> TextTokenizer {
        TextTokenizer { special_tokens: false, ..self }
    }

    /// The same tokenizer for model2vec's own vectors: no special tokens, and its way of cutting a text.
    /// `tokenizer.json` counts as it is: texts are cut and padded where it says so.
    ///
    /// # Errors
    /// `Config` for a file that cuts texts as no tokenizer can.
    pub fn as_model2vec(mut self) -> Result<TextTokenizer> {
        let model2vec = Some(Model2vec::of(&self.tokenizer));
        let (truncation, padding) = std::mem::take(&mut self.of_files);
        let cut = self.tokenizer.with_truncation(truncation).map(|_| ());
        cut.map_err(|error| unusable("the truncation of tokenizer.json", error))?;
        self.tokenizer.with_padding(padding);
        Ok(TextTokenizer { special_tokens: false, model2vec, ..self })
    }

    /// The same tokenizer for pairs, by these rules.
    ///
    /// # Errors
    /// `Config` for a limit that leaves no room for text.
    pub fn for_pairs(self, pairs: PairRules) -> Result<TextTokenizer> {
        let special = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if self.max_tokens <= special {
            return Err(no_room(self.max_tokens, special));
        }
        Ok(TextTokenizer { pairs, ..self })
    }

    /// The limit, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Encodes a text, special tokens included where the model has them, cut at the end to the limit. Of a text far longer
    /// than the limit no more is looked at than it takes, where the tokenizer allows that.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        if let Some(rules) = self.model2vec {
            let head = rules.head(text);
            let encoding = self.tokenizer.encode_fast(head, false).map_err(untokenizable)?;
            let (ids, too_many) = rules.counted(encoding.get_ids());
            return Ok(Tokens { type_ids: vec![0; ids.len()], ids, truncated: too_many || head.len() < text.len() });
        }
        if let Some(places) = &self.places {
            let mut length = self.max_tokens.saturating_mul(prefix::BYTES_PER_TOKEN);
            while let Some(end) = places.find(text, length) {
                let tokens = self.encode_all(&text[..end])?;
                if tokens.truncated {
                    return Ok(tokens);
                }
                length = end.saturating_mul(4);
            }
        }
        self.encode_all(text)
    }

    fn encode_all(&self, text: &str) -> Result<Tokens> {
        let encoding = self.tokenizer.encode_fast(text, self.special_tokens).map_err(untokenizable)?;
        let mut ids = encoding.get_ids().to_vec();
        let mut type_ids = encoding.get_type_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated {
            // The special tokens at the end stay at the end of what is kept.
            let special = encoding.get_special_tokens_mask();
            let closing = special.iter().rev().take_while(|&&flag| flag == 1).count();
            let keep = self.max_tokens - closing;
            for values in [&mut ids, &mut type_ids] {
                values.drain(keep..values.len() - closing);
            }
        }
        Ok(Tokens { ids, type_ids, truncated })
    }

    /// The tokens of a text, uncut, with the special ones where the model has them and they are wanted.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<Token>> {
        let encoding = self.tokenizer.encode(text, special_tokens && self.special_tokens).map_err(untokenizable)?;
        let (ids, names) = (encoding.get_ids(), encoding.get_tokens());
        let (offsets, special) = (encoding.get_offsets(), encoding.get_special_tokens_mask());
        let mut tokens = Vec::with_capacity(ids.len());
        for (((&id, name), &(start, stop)), &special) in ids.iter().zip(names).zip(offsets).zip(special) {
            tokens.push(match (special, text.get(start..stop)) {
                (1, _) => Token { id, text: name.clone(), special: true, start: None, stop: None },
                // Part of a letter has no text of its own.
                (_, part) => {
                    let text = part.unwrap_or(name).to_owned();
                    Token { id, text, special: false, start: Some(start), stop: Some(stop) }
                }
            });
        }
        Ok(tokens)
    }

    /// The text that token ids stand for.
    ///
    /// # Errors
    /// `InvalidArgument` for ids that the vocabulary does not have.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.tokenizer.id_to_token(id).is_none()) {
            return Err(Error::invalid(format!("no token of this model has the id {id}")));
        }
        let undecodable = |error| Error::invalid(format!("the token ids cannot be decoded: {error}"));
        self.tokenizer.decode(ids, skip_special_tokens).map_err(undecodable)
    }

    /// The text whose token ids these are: all of them, special ones included.
    ///
    /// # Errors
    /// `InvalidArgument` for ids that this tokenizer would not have made of that text, such as another tokenizer's. A list
    /// of those may well be one of this vocabulary's too, which is why nothing less is asked for.
    pub fn text_of(&self, ids: &[u32]) -> Result<String> {
        let text = self.decode(ids, true)?;
        let again = self.tokenizer.encode_fast(&*text, self.special_tokens);
        if again.is_ok_and(|again| again.get_ids() == ids) {
            return Ok(text);
        }
        Err(Error::invalid(
            "these token ids are not what this model's tokenizer makes of a text, special tokens included: send those that \
             POST /tokenize gives, or the text",
        ))
    }
}

fn no_room(max_tokens: usize, special: usize) -> Error {
    Error::config(format!("a limit of {max_tokens} tokens leaves no room for text beside {special} special tokens"))
}

pub(super) fn untokenizable(error: tokenizers::Error) -> Error {
    Error::invalid(format!("the text cannot be tokenized: {error}"))
}
