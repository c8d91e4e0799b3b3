//! Pairs of texts, as cross-encoders take them: a query, tokenized once, and a document behind it. What is too long is cut as
//! transformers does it with `truncation=True`: the longer of the two first.

use std::path::Path;

use serde_json::{Map, Value};
use text2vec_engine::files::read_json;
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor};

use super::prefix;
use super::text::{TextTokenizer, Tokens, untokenizable};
use crate::error::Result;

/// A query that documents can be put behind.
#[derive(Debug, Clone)]
pub struct Query {
    encoding: Encoding,
}

/// Whether the model of a directory is told which of a pair's texts a token is of.
///
/// # Errors
/// `Config` for a file that is damaged.
pub fn uses_token_types(dir: &Path, config: &Map<String, Value>) -> Result<bool> {
    let tokenizer = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let named = tokenizer.get("model_input_names").and_then(Value::as_array);
    let is_input = named.is_none_or(|names| names.iter().any(|name| name == "token_type_ids"));
    let types = config.get("type_vocab_size").and_then(Value::as_u64);
    Ok(is_input && types.is_none_or(|types| types > 1))
}

impl TextTokenizer {
    /// Tokens of a query, for [`TextTokenizer::pair`].
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn query(&self, text: &str) -> Result<Query> {
        Ok(Query { encoding: self.tokenizer.encode_fast(text, false).map_err(untokenizable)? })
    }

    /// Tokens of a query and a document, special ones included.
    ///
    /// # Errors
    /// `InvalidArgument` for a text that cannot be tokenized.
    pub fn pair(&self, query: &Query, document: &str) -> Result<Tokens> {
        let added = self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let params =
            TruncationParams { max_length: self.max_tokens().saturating_sub(added), ..TruncationParams::default() };
        let mut document = self.document(document, query.encoding.len() <= params.max_length)?;
        document.set_type_ids(vec![1; document.len()]);
        let truncated = query.encoding.len() + document.len() > params.max_length;
        let (query, document) =
            truncate_encodings(query.encoding.clone(), Some(document), &params).map_err(untokenizable)?;
        let encoding = self.tokenizer.post_process(query, document, true).map_err(untokenizable)?;
        let types = if self.token_types { encoding.get_type_ids().to_vec() } else { vec![0; encoding.len()] };
        Ok(Tokens { ids: encoding.get_ids().to_vec(), type_ids: types, truncated })
    }

    /// Tokens of a document; where the query is the shorter of the two, no more of them than count.
    fn document(&self, text: &str, may_be_shortened: bool) -> Result<Encoding> {
        if let Some(places) = self.places.as_ref().filter(|_| may_be_shortened) {
            let mut length = self.max_tokens().saturating_mul(prefix::BYTES_PER_TOKEN);
            while let Some(end) = places.find(text, length) {
                let head = self.tokenizer.encode_fast(&text[..end], false).map_err(untokenizable)?;
                if head.len() > self.max_tokens() {
                    return Ok(head);
                }
                length = end.saturating_mul(4);
            }
        }
        self.tokenizer.encode_fast(text, false).map_err(untokenizable)
    }
}
