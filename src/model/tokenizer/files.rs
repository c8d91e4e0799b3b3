//! The files that make a tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;
use text2vec_engine::files::read_json;

use super::unusable::unusable;
use crate::error::{Error, Result};

/// The files that make a directory's tokenizer, the main one first: `tokenizer.json`, else a vocabulary (`vocab.txt`,
/// `vocab.json` with `merges.txt`, `sentencepiece.bpe.model`, `spiece.model`) and the settings beside it.
///
/// # Errors
/// `Config` for a directory with none of them.
pub fn tokenizer_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let there = |names: &[&str]| -> Vec<PathBuf> {
        names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect()
    };
    let main = [
        &["tokenizer.json"][..],
        &["sentencepiece.bpe.model"],
        &["spiece.model"],
        &["vocab.json", "merges.txt"],
        &["vocab.txt"],
    ];
    let Some(names) = main.into_iter().find(|names| there(names).len() == names.len()) else {
        return Err(Error::config(format!(
            "{} has no tokenizer: it needs tokenizer.json, or vocab.txt, vocab.json with merges.txt, \
             sentencepiece.bpe.model or spiece.model",
            dir.display()
        )));
    };
    let mut files = there(names);
    if names[0] == "tokenizer.json" {
        if has_llama_switches(dir)? {
            files.push(dir.join("tokenizer_config.json"));
        }
    } else {
        files.extend(there(&["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]));
    }
    Ok(files)
}

/// Whether `tokenizer_config.json` says what Llama's tokenizer puts before and after texts: its class in transformers goes by that,
/// whatever `tokenizer.json` has.
fn has_llama_switches(dir: &Path) -> Result<bool> {
    let settings = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let class = settings.get("tokenizer_class").and_then(Value::as_str);
    let switches = ["add_bos_token", "add_eos_token"];
    Ok(matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast"))
        && switches.iter().any(|name| settings.get(*name).is_some_and(Value::is_boolean)))
}

/// A file's bytes.
///
/// # Errors
/// `Config` if it cannot be read.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::config(format!("{} cannot be read: {error}", path.display())))
}

/// A file's text.
///
/// # Errors
/// `Config` if it cannot be read or is not UTF-8.
pub(super) fn text_of(path: &Path) -> Result<String> {
    String::from_utf8(bytes_of(path)?).map_err(|error| unusable(path.display(), error.into()))
}
