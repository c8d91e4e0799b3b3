//! A tokenizer from `vocab.json` and `merges.txt`: RoBERTa.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::files::text_of;
use super::special::{Between, Settings, enclose};
use super::unusable::{refused, unusable};
use crate::error::{Error, Result};

/// Builds the tokenizer as transformers' `RobertaConverter` does.
///
/// # Errors
/// `Config` for files that cannot be read or do not fit this class of tokenizer.
pub(super) fn build(path: &Path, merges_path: &Path, settings: &Settings) -> Result<Tokenizer> {
    let class = settings.class();
    if !["Roberta", ""].contains(&class.as_str()) {
        return Err(refused(path, &class));
    }
    let vocabulary: HashMap<String, u32> =
        serde_json::from_str(&text_of(path)?).map_err(|error| unusable(path.display(), error.into()))?;
    let mut merges = Vec::new();
    // The first line is a version.
    for (number, line) in text_of(merges_path)?.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty())
    {
        let mut parts = line.split_whitespace().map(str::to_owned);
        let (Some(left), Some(right), None) = (parts.next(), parts.next(), parts.next()) else {
            let message = format!("{} line {} is not a pair: copy it again", merges_path.display(), number + 1);
            return Err(Error::config(message));
        };
        merges.push((left, right));
    }
    let model = BPE::builder().vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| unusable(merges_path.display(), error))?);
    let prefix_space = settings.flag("add_prefix_space").unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = |text: &str| AddedToken::from(text, true);
    let defaults = [
        ("bos_token", special("<s>")),
        ("eos_token", special("</s>")),
        ("unk_token", special("<unk>")),
        ("sep_token", special("</s>")),
        ("pad_token", special("<pad>")),
        ("cls_token", special("<s>")),
        ("mask_token", special("<mask>").lstrip(true)),
    ];
    settings.add_to(&mut tokenizer, &defaults)?;
    let (first, last) = (settings.token("cls_token", special("<s>")), settings.token("sep_token", special("</s>")));
    enclose(&mut tokenizer, (Some(&first.content), &last.content), Between::Two, path)?;
    Ok(tokenizer)
}
