//! Whether a directory has everything that a model is made of, as far as file names tell.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use text2vec_engine::onnx::is_only_weights;
use text2vec_engine::weights::WEIGHT_FILES;

use crate::error::{Error, ErrorKind, Result};

/// Refuses a directory in which something is missing.
pub(super) fn check_complete(dir: &Path) -> Result<()> {
    let missing = lacks(dir)?;
    if missing.is_empty() {
        return Ok(());
    }
    let has_onnx = dir.join("onnx").is_dir() || dir.join("model.onnx").exists();
    let hint = if has_onnx { " (of ONNX files only model_quantized.onnx is read)" } else { "" };
    Err(Error::config(format!(
        "the model in {} lacks {}{hint}: copy or download it again",
        dir.display(),
        missing.join(", ")
    )))
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type", default)]
    class: String,
}

/// What is missing for `dir` to be a model, by names of files. Follows `modules.json`, where there is one, and the lists
/// of sharded weights.
pub(super) fn lacks(dir: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut body = String::new();
    let mut has_config = true;
    let modules = dir.join("modules.json");
    if modules.exists() {
        let modules: Vec<Module> = serde_json::from_str(&read(&modules)?)
            .map_err(|error| Error::config(format!("{} is damaged: {error}", modules.display())))?;
        for module in &modules {
            let class = module.class.rsplit('.').next().unwrap_or_default();
            match class {
                "Transformer" => body = module.path.clone(),
                "StaticEmbedding" => {
                    body = module.path.clone();
                    has_config = false;
                }
                "Pooling" | "Dense" => {
                    let name = format!("{}/config.json", module.path);
                    if !dir.join(&name).is_file() {
                        missing.push(name);
                    }
                }
                _ => {}
            }
            if class == "Dense" {
                missing.extend(lacks_weights(dir, &module.path)?);
            }
        }
    }
    let at = dir.join(&body);
    if has_config && !at.join("config.json").is_file() {
        missing.push(named(&body, "config.json"));
    }
    let has_sentencepiece = || {
        fs::read_dir(&at)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|e| e == "model"))
    };
    if !["tokenizer.json", "vocab.txt", "vocab.json"].iter().any(|name| at.join(name).is_file()) && !has_sentencepiece()
    {
        missing.push(named(&body, "tokenizer.json"));
    }
    if !is_only_weights(dir) {
        missing.extend(lacks_weights(dir, &body)?);
    }
    Ok(missing)
}

fn named(folder: &str, file: &str) -> String {
    if folder.is_empty() || folder == "." { file.to_owned() } else { format!("{folder}/{file}") }
}

fn lacks_weights(dir: &Path, folder: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let at = dir.join(folder);
    for (single, index) in WEIGHT_FILES {
        if at.join(single).is_file() {
            refuse_pointer(&at.join(single))?;
            return Ok(Vec::new());
        }
        if at.join(index).is_file() {
            let path = at.join(index);
            let index: Index = serde_json::from_str(&read(&path)?)
                .map_err(|error| Error::config(format!("{} is damaged: {error}", path.display())))?;
            let mut shards: Vec<&String> = index.weight_map.values().collect();
            shards.sort();
            shards.dedup();
            let missing = shards.into_iter().filter(|shard| !at.join(shard).is_file());
            return Ok(missing.map(|shard| named(folder, shard)).collect());
        }
    }
    Ok(vec![named(folder, "model.safetensors")])
}

/// A clone without git-lfs leaves small text files where the weights should be.
fn refuse_pointer(path: &Path) -> Result<()> {
    let small = fs::metadata(path).is_ok_and(|meta| meta.len() < 1024);
    if small && fs::read(path).is_ok_and(|content| content.starts_with(b"version https://git-lfs")) {
        return Err(Error::config(format!(
            "{} is a git-lfs pointer, not the weights: run `git lfs pull` there, or download the model",
            path.display()
        )));
    }
    Ok(())
}

/// A text file of a model.
pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path)
        .map_err(|error| Error::new(ErrorKind::Config, format!("cannot read {}: {error}", path.display())))
}
