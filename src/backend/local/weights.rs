//! Weight files to named tensors in f32.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::modules::read_text;

/// Tensors by name, in f32, without the prefix under which some checkpoints keep the encoder.
pub struct Weights {
    tensors: HashMap<String, Tensor>,
}

/// The weight files of a model directory: one file, or the shards its index names.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    if let Some(text) = read_text(&index)? {
        let unusable = |why: &str| Error::config(format!("{} is not a usable weight index: {why}", index.display()));
        let parsed: Value = serde_json::from_str(&text).map_err(|error| unusable(&error.to_string()))?;
        let map = parsed.get("weight_map").and_then(Value::as_object).ok_or_else(|| unusable("no weight_map"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        // A shard is a plain file name: an index must not reach outside its directory.
        if names.is_empty() || names.iter().any(|name| Path::new(name).components().count() != 1 || *name == "..") {
            return Err(unusable("a shard must be a file name"));
        }
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    let hint = if dir.join("pytorch_model.bin").is_file() {
        ": pytorch_model.bin is not read yet, convert it to safetensors"
    } else {
        ": download the model again or point --model elsewhere"
    };
    Err(Error::config(format!("{} has no model.safetensors{hint}", dir.display())))
}

impl Weights {
    /// Loads weight files onto a device. `anchor` is a tensor every model of the family has; whatever stands before it
    /// in its name is taken off all names.
    pub fn load(files: &[PathBuf], anchor: &str, device: &Device) -> Result<Weights> {
        let mut tensors = HashMap::new();
        for file in files {
            let unreadable =
                |error: &dyn std::fmt::Display| Error::config(format!("{} cannot be read: {error}", file.display()));
            let bytes = std::fs::read(file).map_err(|error| unreadable(&error))?;
            let loaded = candle_core::safetensors::load_buffer(&bytes, device).map_err(|error| {
                Error::config(format!(
                    "{} is not a usable safetensors file ({}): download it again",
                    file.display(),
                    first_line(&error.to_string())
                ))
            })?;
            for (name, tensor) in loaded {
                let tensor = match tensor.dtype() {
                    DType::F16 | DType::BF16 | DType::F64 => {
                        tensor.to_dtype(DType::F32).map_err(|error| unreadable(&error))?
                    }
                    _ => tensor,
                };
                tensors.insert(name, tensor);
            }
        }
        let prefix = tensors
            .keys()
            .filter_map(|name| name.strip_suffix(anchor))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .min_by_key(|prefix| prefix.len())
            .map(str::to_owned)
            .ok_or_else(|| {
                Error::config(format!("the weights have no tensor '{anchor}': they are of another architecture"))
            })?;
        let tensors = tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor)))
            .collect();
        Ok(Weights { tensors })
    }

    /// The tensors, for candle's builders.
    pub fn into_tensors(self) -> HashMap<String, Tensor> {
        self.tensors
    }
}

/// Candle appends a backtrace to its messages when one is captured; people get the first line.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
