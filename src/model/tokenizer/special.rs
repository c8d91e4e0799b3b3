//! Special tokens of a model directory without `tokenizer.json`, as transformers 4.56 finds them when it converts a
//! vocabulary: the tokenizer's own names, what `special_tokens_map.json` and `tokenizer_config.json` say instead, and how
//! each takes the white space beside it along.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::unusable;
use crate::error::{Error, Result};
use text2vec_engine::files::read_json;

/// The names under which tokenizers know their special tokens, in the order in which transformers adds them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a model directory says about its tokenizer beside the vocabulary.
pub struct Settings {
    config: Map<String, Value>,
    map: Map<String, Value>,
    added: Map<String, Value>,
    /// `tokenizer_class` and `model_type` of `config.json`.
    model: Map<String, Value>,
}

impl Settings {
    /// Reads the JSON files of a directory; none of them has to be there.
    pub fn read(dir: &Path) -> Result<Settings> {
        let read = |name: &str| Ok::<_, Error>(read_json(&dir.join(name))?.unwrap_or_default());
        Ok(Settings {
            config: read("tokenizer_config.json")?,
            map: read("special_tokens_map.json")?,
            added: read("added_tokens.json")?,
            model: read("config.json")?,
        })
    }

    /// The tokenizer's class without `Tokenizer` and `Fast`, such as `Bert`; by the model's type where none is named.
    pub fn class(&self) -> String {
        let named = self.config.get("tokenizer_class").or_else(|| self.model.get("tokenizer_class"));
        if let Some(class) = named.and_then(Value::as_str) {
            return class.trim_end_matches("Fast").trim_end_matches("Tokenizer").to_owned();
        }
        match self.model.get("model_type").and_then(Value::as_str).unwrap_or_default() {
            "mpnet" => "MPNet",
            "t5" | "mt5" | "umt5" => "T5",
            "xlm-roberta" => "XLMRoberta",
            "roberta" => "Roberta",
            "bert" => "Bert",
            "distilbert" => "DistilBert",
            "dpr" => "DPR",
            other => other,
        }
        .to_owned()
    }

    /// A switch of `tokenizer_config.json`; `None` where it is absent or null.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name).and_then(Value::as_bool)
    }

    /// A count of `tokenizer_config.json`.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.config.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    /// Files written since transformers 4.34 list all added tokens; then `special_tokens_map.json` is not read.
    fn listed(&self) -> Option<&Map<String, Value>> {
        self.config.get("added_tokens_decoder").and_then(Value::as_object)
    }

    /// The token of a role such as `cls_token`, `default` where the files name none.
    pub fn token(&self, role: &str, default: AddedToken) -> AddedToken {
        let mapped = self.map.get(role).filter(|_| self.listed().is_none());
        let value = mapped.or_else(|| self.config.get(role));
        let token = value.and_then(|value| parsed(value, true)).unwrap_or(default);
        let listed = self.listed().into_iter().flatten().filter_map(|(_, value)| parsed(value, true));
        listed.into_iter().find(|listed| listed.content == token.content).unwrap_or(token).special(true)
    }

    /// Adds all special and added tokens. `defaults` are the tokenizer's own, by role.
    pub fn add_to(&self, tokenizer: &mut Tokenizer, defaults: &[(&str, AddedToken)]) -> Result<()> {
        let mut tokens: Vec<AddedToken> = Vec::new();
        let mut add = |token: AddedToken| {
            if !token.content.is_empty() && tokens.iter().all(|known| known.content != token.content) {
                tokens.push(token);
            }
        };
        if let Some(listed) = self.listed() {
            let mut listed: Vec<_> =
                listed.iter().filter_map(|(id, value)| Some((id.parse::<u32>().ok()?, value))).collect();
            listed.sort_by_key(|(id, _)| *id);
            listed.into_iter().filter_map(|(_, value)| parsed(value, false)).for_each(&mut add);
        }
        for role in ROLES {
            if let Some((_, default)) = defaults.iter().find(|(name, _)| *name == role) {
                add(self.token(role, default.clone()));
            }
        }
        let mapped = self.map.get("additional_special_tokens").filter(|_| self.listed().is_none());
        let further = mapped.or_else(|| self.config.get("additional_special_tokens")).and_then(Value::as_array);
        further.into_iter().flatten().filter_map(|value| parsed(value, true)).for_each(&mut add);
        if self.listed().is_none() {
            let mut added: Vec<_> = self.added.iter().filter_map(|(text, id)| Some((id.as_u64()?, text))).collect();
            added.sort_unstable();
            added.into_iter().for_each(|(_, text)| add(AddedToken::from(text.as_str(), false)));
        }
        tokenizer.add_tokens(tokens).map_err(|error| unusable("the added tokens", error))?;
        Ok(())
    }
}

/// A token that is written as its text or as an object of its properties.
fn parsed(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    let token = AddedToken::from(value.get("content")?.as_str()?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(match flag("normalized") {
        Some(normalized) => token.normalized(normalized),
        None => token,
    })
}
