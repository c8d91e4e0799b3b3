//! What a model's files say of the tokens of pairs.

use std::path::Path;

use serde_json::{Map, Value};
use text2vec_engine::files::read_json;

use crate::error::Result;

/// What a model wants to know of a pair's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRules {
    /// Which of the two texts a token is of.
    pub(super) token_types: bool,
    /// The token that does not count at the end: a language model's score is that of the last other one.
    pub(super) trailing: Option<u32>,
}

impl Default for PairRules {
    fn default() -> PairRules {
        PairRules { token_types: true, trailing: None }
    }
}

impl PairRules {
    /// The rules of a model directory; `is_decoder`: the model's score is that of the last token.
    ///
    /// # Errors
    /// `Config` for a file that is damaged.
    pub fn read(dir: &Path, config: &Map<String, Value>, is_decoder: bool) -> Result<PairRules> {
        let tokenizer = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let named = tokenizer.get("model_input_names").and_then(Value::as_array);
        let is_input = named.is_none_or(|names| names.iter().any(|name| name == "token_type_ids"));
        let types = config.get("type_vocab_size").and_then(Value::as_u64);
        let padding = config.get("pad_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        Ok(PairRules {
            token_types: is_input && types.is_none_or(|types| types > 1),
            trailing: padding.filter(|_| is_decoder),
        })
    }
}
