//! Text to token ids. The only file that knows the tokenizers crate.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// A model's tokenizer with *our* truncation and no padding: what `tokenizer.json` says about both is ignored, since
/// well-known models ship files with limits of 128 that nobody means.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    max_tokens: usize,
    special_tokens: bool,
}

/// Token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, as many as ids.
    pub type_ids: Vec<u32>,
    /// Whether the text was longer than the limit.
    pub truncated: bool,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` of a model directory. `max_tokens` counts special tokens.
    pub fn load(dir: &Path, max_tokens: usize) -> Result<TextTokenizer> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|error| {
            Error::config(format!("{} cannot be read: {error}. The model needs a tokenizer.json", path.display()))
        })?;
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| Error::config(format!("{} is not a usable tokenizer: {error}", path.display())))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::config(format!("{} is not a usable tokenizer: {error}", path.display())))?;
        let special = tokenizer
            .encode_fast("", true)
            .map_err(|error| Error::config(format!("{} cannot encode a text: {error}", path.display())))?
            .len();
        if max_tokens <= special {
            return Err(Error::config(format!(
                "a limit of {max_tokens} tokens leaves no room for text beside {special} special tokens"
            )));
        }
        Ok(TextTokenizer { tokenizer, max_tokens, special_tokens: true })
    }

    /// The same tokenizer without special tokens around a text, as static embeddings have it.
    pub fn without_special_tokens(self) -> TextTokenizer {
        TextTokenizer { special_tokens: false, ..self }
    }

    /// The limit, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Encodes a text, special tokens included where the model has them, cut at the end to the limit.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self
            .tokenizer
            .encode_fast(text, self.special_tokens)
            .map_err(|error| Error::invalid(format!("the text cannot be tokenized: {error}")))?;
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
}
