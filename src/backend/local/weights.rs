//! Weight files to named tensors in f32.
//!
//! A tensor is read when it is asked for, straight from its place in the file: nothing is held twice, and what the
//! encoder has packed is given back.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::modules::read_text;

/// The tensors of a model by name, without the prefix under which some checkpoints keep the encoder.
pub struct Weights {
    tensors: HashMap<String, Place>,
    files: Vec<(PathBuf, File)>,
}

/// Where a tensor is.
struct Place {
    file: usize,
    offset: u64,
    bytes: usize,
    dtype: Dtype,
    shape: Vec<usize>,
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
    /// Opens weight files and checks their headers. `anchor` is a tensor every model of the family has; whatever stands
    /// before it in its name is taken off all names.
    pub fn open(paths: &[PathBuf], anchor: &str) -> Result<Weights> {
        let mut tensors = HashMap::new();
        let mut files = Vec::new();
        for path in paths {
            let (file, start, metadata) = read_header(path)?;
            for (name, info) in metadata.tensors() {
                let (from, to) = info.data_offsets;
                let offset = start + from as u64;
                let place =
                    Place { file: files.len(), offset, bytes: to - from, dtype: info.dtype, shape: info.shape.clone() };
                tensors.insert(name, place);
            }
            files.push((path.clone(), file));
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
            .filter_map(|(name, place)| Some((name.strip_prefix(&prefix)?.to_owned(), place)))
            .collect();
        Ok(Weights { tensors, files })
    }

    /// A tensor's shape and its values in f32, row-major. LayerNorm's parameters are found under their old names
    /// (`gamma`, `beta`) too.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let old_name = || match name.rsplit_once('.') {
            Some((stem, "weight")) => self.tensors.get(&format!("{stem}.gamma")),
            Some((stem, "bias")) => self.tensors.get(&format!("{stem}.beta")),
            _ => None,
        };
        let place =
            self.tensors.get(name).or_else(old_name).ok_or_else(|| {
                Error::config(format!("the weights do not fit config.json: there is no tensor '{name}'"))
            })?;
        let (path, file) = &self.files[place.file];
        let mut bytes = vec![0u8; place.bytes];
        file.read_exact_at(&mut bytes, place.offset)
            .map_err(|error| Error::config(format!("{} cannot be read: {error}", path.display())))?;
        let halves = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let values = match place.dtype {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
            }
            Dtype::F16 => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
            other => {
                return Err(Error::config(format!(
                    "the tensor '{name}' has the type {other:?}, which is not supported"
                )));
            }
        };
        Ok((place.shape.clone(), values))
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// A safetensors file, where its data begin, and what it says of its tensors, checked against its length.
fn read_header(path: &Path) -> Result<(File, u64, Metadata)> {
    let unreadable = |error| Error::config(format!("{} cannot be read: {error}", path.display()));
    let unusable = |why: &str| {
        Error::config(format!("{} is not a usable safetensors file ({why}): download it again", path.display()))
    };
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut size = [0u8; 8];
    file.read_exact_at(&mut size, 0).map_err(|_| unusable("it is too short"))?;
    let size = u64::from_le_bytes(size);
    // The format's own bound on a header is 100 MB.
    if size > 100_000_000 || size.saturating_add(8) > length {
        return Err(unusable("its header is longer than the file"));
    }
    let mut header = vec![0u8; size as usize];
    file.read_exact_at(&mut header, 8).map_err(unreadable)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| unusable(&error.to_string()))?;
    let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0) as u64;
    if size + 8 + end != length {
        return Err(unusable(&format!("{length} bytes long, {} expected", size + 8 + end)));
    }
    Ok((file, size + 8, metadata))
}

/// Candle appends a backtrace to its messages when one is captured; people get the first line.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file of tensors given by name, type, shape and bytes.
    fn write(path: &Path, tensors: &[(&str, &str, &[usize], Vec<u8>)]) {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in tensors {
            let start = data.len();
            data.extend_from_slice(bytes);
            let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert((*name).to_owned(), entry);
        }
        let header = Value::Object(header).to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        std::fs::write(path, file).expect("write");
    }

    #[test]
    fn prefixes_old_names_and_half_precision_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("model.safetensors");
        let halves = |values: [u16; 2]| values.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<u8>>();
        write(
            &path,
            &[
                ("bert.word.weight", "F32", &[1, 2], [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
                ("bert.norm.gamma", "F16", &[2], halves([0x3C00, 0xC000])),
                ("bert.norm.beta", "BF16", &[2], halves([0x3F80, 0xC000])),
                ("bert.positions", "I64", &[1], vec![0; 8]),
                ("classifier.weight", "F32", &[1], vec![0; 4]),
            ],
        );
        let weights = Weights::open(&[path], "word.weight").expect("weights");
        assert_eq!(weights.tensor("word.weight").expect("a tensor"), (vec![1, 2], vec![1.5, -2.0]));
        assert_eq!(weights.tensor("norm.weight").expect("a tensor").1, [1.0, -2.0]);
        assert_eq!(weights.tensor("norm.bias").expect("a tensor").1, [1.0, -2.0]);
        assert!(weights.tensor("positions").is_err() && weights.tensor("classifier.weight").is_err());
        assert!(weights.has("norm.gamma") && !weights.has("norm.weight"));
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("model.safetensors");
        write(&path, &[("word", "F32", &[2], vec![0; 8])]);
        let whole = std::fs::read(&path).expect("read");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("write");
            Weights::open(std::slice::from_ref(&path), "word").map(|_| ())
        };
        assert_eq!(open(&whole), Ok(()));
        for length in 0..whole.len() {
            assert!(open(&whole[..length]).is_err(), "cut to {length} bytes");
        }
        assert!(open(&[&whole[..], b"x"].concat()).is_err(), "a byte too many");
        let mut huge = whole.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(open(&huge).is_err(), "an absurd header length");
        write(&path, &[("word", "F32", &[3], vec![0; 8])]);
        assert!(Weights::open(&[path], "word").is_err(), "a shape that does not fit its bytes");
    }

    #[test]
    fn shards_are_files_beside_their_index() {
        let dir = tempfile::tempdir().expect("a directory");
        let index = dir.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"1.safetensors"}}"#)
            .expect("write");
        let names =
            |paths: Vec<PathBuf>| paths.iter().map(|path| path.file_name().expect("a name").to_owned()).collect();
        let files: Vec<_> = names(weight_files(dir.path()).expect("shards"));
        assert_eq!(files, ["1.safetensors", "2.safetensors"]);
        std::fs::write(&index, r#"{"weight_map":{"a":"../secret"}}"#).expect("write");
        assert!(weight_files(dir.path()).is_err());
    }
}
