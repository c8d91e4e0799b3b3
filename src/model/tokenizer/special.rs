//! Special tokens of a model directory without `tokenizer.json`, as transformers 4.56 finds them when it converts a
//! vocabulary: the tokenizer's own names, what `special_tokens_map.json` and `tokenizer_config.json` say instead, and how
//! each takes the white space beside it along.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model, Tokenizer};

use super::unusable::unusable;
use crate::error::{Error, Result};
use text2vec_engine::files::read_json;

/// The names under which tokenizers know their special tokens, in the order in which transformers adds them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a model directory says about its tokenizer beside the vocabulary.
#[derive(Debug)]
pub(super) struct Settings {
    config: Map<String, Value>,
    map: Map<String, Value>,
    added: Map<String, Value>,
    /// `tokenizer_class` and `model_type` of `config.json`.
    model: Map<String, Value>,
}

impl Settings {
    /// Reads the JSON files of a directory; none of them has to be there.
    ///
    /// # Errors
    /// `Config` for one that is damaged or cannot be read.
    pub(super) fn read(dir: &Path) -> Result<Settings> {
        let read = |name: &str| Ok::<_, Error>(read_json(&dir.join(name))?.unwrap_or_default());
        Ok(Settings {
            config: read("tokenizer_config.json")?,
            map: read("special_tokens_map.json")?,
            added: read("added_tokens.json")?,
            model: read("config.json")?,
        })
    }

    /// The tokenizer's class without `Tokenizer` and `Fast`, such as `Bert`; by the model's type where none is named.
    pub(super) fn class(&self) -> String {
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
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name).and_then(Value::as_bool)
    }

    /// A count of `tokenizer_config.json`.
    pub(super) fn count(&self, name: &str) -> Option<usize> {
        self.config.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    /// Puts around every text what the switches of Llama's tokenizer say: by default `<s>` before it and nothing after it.
    ///
    /// # Errors
    /// `Config` for a token that the vocabulary lacks.
    pub(super) fn enclose_as_llama(&self, tokenizer: &mut Tokenizer, path: &Path) -> Result<()> {
        let token = |switch: &str, is_there: bool, role: &str, default: &str| {
            let is_there = self.flag(switch).unwrap_or(is_there);
            is_there.then(|| self.token(role, AddedToken::from(default, true)).content)
        };
        let first = token("add_bos_token", true, "bos_token", "<s>");
        let last = token("add_eos_token", false, "eos_token", "</s>");
        // They may have been added to the vocabulary.
        let tokens = [&first, &last].map(|token| token.as_deref().map(|token| (token, tokenizer.token_to_id(token))));
        put_around(tokenizer, tokens, Between::Both, path)
    }

    /// Files written since transformers 4.34 list all added tokens; then `special_tokens_map.json` is not read.
    fn listed(&self) -> Option<&Map<String, Value>> {
        self.config.get("added_tokens_decoder").and_then(Value::as_object)
    }

    /// The token of a role such as `cls_token`, `default` where the files name none.
    pub(super) fn token(&self, role: &str, default: AddedToken) -> AddedToken {
        let mapped = self.map.get(role).filter(|_| self.listed().is_none());
        let value = mapped.or_else(|| self.config.get(role));
        let token = value.and_then(|value| parsed(value, true)).unwrap_or(default);
        let listed = self.listed().into_iter().flatten().filter_map(|(_, value)| parsed(value, true));
        listed.into_iter().find(|listed| listed.content == token.content).unwrap_or(token).special(true)
    }

    /// Adds all special and added tokens. `defaults` are the tokenizer's own, by role.
    ///
    /// # Errors
    /// `Config` for tokens that the tokenizer does not take.
    pub(super) fn add_to(&self, tokenizer: &mut Tokenizer, defaults: &[(&str, AddedToken)]) -> Result<()> {
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

/// What stands between the two texts of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// The last token, once.
    One,
    /// The last token, twice.
    Two,
    /// The end of the one and the beginning of the other, each as if alone.
    Both,
}

/// Puts special tokens, which the vocabulary itself must have, around every text and every pair.
///
/// # Errors
/// `Config` for a token that the vocabulary lacks.
pub(super) fn enclose(
    tokenizer: &mut Tokenizer,
    (first, last): (Option<&str>, &str),
    between: Between,
    path: &Path,
) -> Result<()> {
    let model = tokenizer.get_model();
    let ids = [first, Some(last)].map(|token| token.map(|token| (token, model.token_to_id(token))));
    put_around(tokenizer, ids, between, path)
}

/// Puts tokens with these ids before and after every text.
fn put_around(
    tokenizer: &mut Tokenizer,
    tokens: [Option<(&str, Option<u32>)>; 2],
    between: Between,
    path: &Path,
) -> Result<()> {
    let with_id = |(token, id): (&str, Option<u32>)| {
        let lacks = || Error::config(format!("{} lacks the token '{token}': copy it again", path.display()));
        Ok((token.to_owned(), id.ok_or_else(lacks)?))
    };
    let special = tokens.into_iter().flatten().map(with_id).collect::<Result<Vec<_>>>()?;
    let [first, last] = tokens.map(|token| token.map(|(token, _)| token));
    let one: Vec<String> = first.into_iter().chain(["$A"]).chain(last).map(str::to_owned).collect();
    let of = |token: Option<&str>, kind: u8| token.map(|token| format!("{token}:{kind}"));
    let beginning = [of(first, 0), Some("$A:0".into()), of(last, 0)];
    let middle = match between {
        Between::One => None,
        Between::Two => of(last, 0),
        Between::Both => of(first, 1),
    };
    let pair = beginning.into_iter().chain([middle, Some("$B:1".into()), of(last, 1)]).flatten();
    let failed = |error: String| unusable(path.display(), error.into());
    let mut template = TemplateProcessing::builder();
    template.try_single(one).map_err(failed)?.try_pair(pair.collect::<Vec<String>>()).map_err(failed)?;
    template.special_tokens(special);
    tokenizer.with_post_processor(Some(template.build().map_err(|error| unusable(path.display(), error.into()))?));
    Ok(())
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
