//! Weight files to named tensors in f32.
//!
//! A tensor is read when it is asked for, straight from its place in the file: nothing is held twice, and what the
//! encoder has packed is given back.

pub mod pickle;
pub mod safetensors;
pub mod stored;
pub mod torch;
pub mod zip;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::stored::{NumberType, Stored};
use self::zip::Source;
use crate::error::{Error, Result};
use crate::files::{read_text, unreadable};

/// The tensors of a model by name, without the prefix under which some checkpoints keep the encoder.
pub struct Weights {
    tensors: HashMap<String, Place>,
    files: Vec<WeightFile>,
}

/// Bytes read at once, a multiple of every number's size: no tensor lies in memory both as bytes and as values.
const READ_BYTES: u64 = 1 << 20;

/// Where a tensor is.
struct Place {
    file: usize,
    stored: Stored,
}

struct WeightFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Source for WeightFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        read_exact_at(&self.file, buffer, offset)
    }
}

/// Fills a buffer from that place of a file.
#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Names of weights: of one file, or of the index that names the shards; in the order of choice.
pub const WEIGHT_FILES: [(&str, &str); 2] =
    [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

/// The weight files of a directory: one file, or the shards its index names; safetensors before torch's own format, as
/// transformers chooses.
///
/// # Errors
/// `Unusable` if there are none, or an index cannot be used.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    for (single, index) in WEIGHT_FILES {
        let single = dir.join(single);
        if single.is_file() {
            return Ok(vec![single]);
        }
        if let Some(shards) = shards(dir, &dir.join(index))? {
            return Ok(shards);
        }
    }
    Err(Error::unusable(format!(
        "{} has neither model.safetensors nor pytorch_model.bin: download the model again or point --model elsewhere",
        dir.display()
    ))
    .naming(dir))
}

/// The shards that an index names, `None` when there is no index.
fn shards(dir: &Path, index: &Path) -> Result<Option<Vec<PathBuf>>> {
    let Some(text) = read_text(index)? else { return Ok(None) };
    let unusable =
        |why: &str| Error::unusable(format!("{} is not a usable weight index: {why}", index.display())).naming(index);
    let parsed: Value = serde_json::from_str(&text).map_err(|error| unusable(&error.to_string()))?;
    let map = parsed.get("weight_map").and_then(Value::as_object).ok_or_else(|| unusable("no weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // A shard is a plain file name: an index must not reach outside its directory.
    let is_plain = |name: &&str| Path::new(name).file_name().is_some_and(|plain| plain == *name);
    if names.is_empty() {
        return Err(unusable("it names no shard"));
    }
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(unusable(&format!("the shard '{name}' is not the name of a file beside it")));
    }
    if let Some(name) = names.iter().find(|name| !dir.join(name).is_file()) {
        return Err(unusable(&format!("the shard {name} is missing: download the model again")));
    }
    Ok(Some(names.into_iter().map(|name| dir.join(name)).collect()))
}

impl Weights {
    /// Opens weight files and checks what they say of their tensors. `anchor` is a tensor every model of the family has;
    /// whatever stands before it in its name is taken off all names.
    ///
    /// # Errors
    /// `Unusable` for a file that cannot be read or is damaged, and if none has the anchor.
    pub fn open(paths: &[PathBuf], anchor: &str) -> Result<Weights> {
        let mut tensors = HashMap::new();
        let mut files = Vec::new();
        for path in paths {
            let file = WeightFile::open(path)?;
            for (name, stored) in file.tensors()? {
                tensors.insert(name, Place { file: files.len(), stored });
            }
            files.push(file);
        }
        let prefix = tensors
            .keys()
            .filter_map(|name| name.strip_suffix(anchor))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .min_by_key(|prefix| prefix.len())
            .map(str::to_owned)
            .ok_or_else(|| {
                let first = paths.first().cloned().unwrap_or_default();
                let shown = first.display();
                let message = format!("{shown} has no tensor '{anchor}': the weights are of another architecture");
                Error::unusable(message).naming(first)
            })?;
        let tensors = tensors
            .into_iter()
            .filter_map(|(name, place)| Some((name.strip_prefix(&prefix)?.to_owned(), place)))
            .collect();
        Ok(Weights { tensors, files })
    }

    /// A tensor's shape and its values in f32, row-major. LayerNorm's parameters are found under their old names
    /// (`gamma`, `beta`) too.
    ///
    /// # Errors
    /// `Unusable` for one that is missing, cannot be read, is of a type that is not supported, or holds a number that is not
    /// finite.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (stored, values) = self.read(name, |stored, bytes, values| stored.numbers.append(bytes, values))?;
        let values = stored.finish(values).map_err(|why| self.failed(name, &why))?;
        Ok((stored.shape.clone(), values))
    }

    /// A tensor's numbers as they lie in its file, a piece at a time.
    fn read<T>(
        &self,
        name: &str,
        append: impl Fn(&Stored, &[u8], &mut Vec<T>) -> std::result::Result<(), String>,
    ) -> Result<(&Stored, Vec<T>)> {
        let place = self.named(name)?;
        let (file, stored) = (&self.files[place.file], &place.stored);
        let length = stored.place.end - stored.place.start;
        let size = stored.numbers.size().unwrap_or(1);
        let mut values = Vec::with_capacity((length / size) as usize);
        let mut buffer = vec![0u8; length.min(READ_BYTES) as usize];
        for start in (0..length).step_by(READ_BYTES as usize) {
            let bytes = &mut buffer[..(length - start).min(READ_BYTES) as usize];
            let read = file.read(bytes, stored.place.start + start);
            read.map_err(|error| self.failed(name, &format!("cannot be read: {error}")).caused_by(error))?;
            append(stored, bytes, &mut values).map_err(|why| self.failed(name, &why))?;
        }
        Ok((stored, values))
    }

    /// What is wrong with a tensor that is there.
    fn failed(&self, name: &str, why: &str) -> Error {
        let path = self.place(name).map(|place| self.files[place.file].path.clone()).unwrap_or_default();
        let shown = path.display();
        Error::unusable(format!("{shown}: the tensor '{name}' {why}")).naming(path)
    }

    /// A tensor of whole numbers: its shape and its values, row-major.
    ///
    /// # Errors
    /// `Unusable` for one that is missing, cannot be read, or is of another type.
    pub fn whole_numbers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let (stored, values) = self.read(name, |stored, bytes, values| {
            values.extend(stored.numbers.whole(bytes)?);
            Ok(())
        })?;
        match &stored.strides {
            None => Ok((stored.shape.clone(), values)),
            Some(_) => {
                Err(Error::unusable(format!("the tensor '{name}' is not stored row by row: download the model again")))
            }
        }
    }

    /// What a tensor's numbers are; `None`: there is no such tensor.
    pub fn number_type(&self, name: &str) -> Option<&NumberType> {
        self.place(name).map(|place| &place.stored.numbers)
    }

    fn named(&self, name: &str) -> Result<&Place> {
        self.place(name).ok_or_else(|| {
            let file = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            let shown = file.display();
            Error::unusable(format!("the weights do not fit config.json: {shown} has no tensor '{name}'")).naming(file)
        })
    }

    /// Numbers in all tensors.
    pub fn elements(&self) -> u64 {
        let of = |place: &Place| stored::elements(&place.stored.shape).unwrap_or(0);
        self.tensors.values().map(of).fold(0, u64::saturating_add)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    fn place(&self, name: &str) -> Option<&Place> {
        self.tensors.get(name).or_else(|| match name.rsplit_once('.')? {
            (stem, "weight") => self.tensors.get(&format!("{stem}.gamma")),
            (stem, "bias") => self.tensors.get(&format!("{stem}.beta")),
            _ => None,
        })
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<_> = self.files.iter().map(|file| &file.path).collect();
        let mut shown = f.debug_struct("Weights");
        shown.field("files", &files).field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

impl WeightFile {
    fn open(path: &Path) -> Result<WeightFile> {
        let unreadable = |error| unreadable(path, error);
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        Ok(WeightFile { path: path.to_owned(), file, length })
    }

    fn tensors(&self) -> Result<HashMap<String, Stored>> {
        let path = self.path.display();
        let unusable = |message: String| Error::unusable(message).naming(&self.path);
        if self.path.extension().is_some_and(|extension| extension == "bin") {
            let remedy = "download it again, or use a model with safetensors";
            return torch::tensors(self)
                .map_err(|why| unusable(format!("{path} is not a usable torch file ({why}): {remedy}")));
        }
        safetensors::tensors(self)
            .map_err(|why| unusable(format!("{path} is not a usable safetensors file ({why}): download it again")))
    }
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
        assert!(weights.has("norm.gamma") && weights.has("norm.weight") && !weights.has("norm.scale"));
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
        assert!(weight_files(dir.path()).expect_err("no shard").message().contains("1.safetensors is missing"));
        for name in ["1.safetensors", "2.safetensors"] {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        let names =
            |paths: Vec<PathBuf>| paths.iter().map(|path| path.file_name().expect("a name").to_owned()).collect();
        let files: Vec<_> = names(weight_files(dir.path()).expect("shards"));
        assert_eq!(files, ["1.safetensors", "2.safetensors"]);
        std::fs::write(&index, r#"{"weight_map":{"a":"../secret"}}"#).expect("write");
        assert!(weight_files(dir.path()).is_err());
    }
}
