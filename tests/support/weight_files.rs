//! Weight files made in tests: safetensors and what torch.save writes.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

/// A tensor of a file: its bytes are little-endian numbers of the type.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Tensor { name: name.to_owned(), dtype: "F32", shape: shape.to_vec(), bytes }
    }

    /// The same tensor, of F32, with numbers of another type.
    pub(crate) fn with_type(&self, dtype: &'static str) -> Tensor {
        assert_eq!(self.dtype, "F32");
        if dtype == "F32" {
            return self.clone();
        }
        let mut bytes = Vec::with_capacity(2 * self.bytes.len());
        // Slices, which are quick in builds for tests too.
        for &word in self.bytes.as_chunks::<4>().0 {
            let value = f32::from_le_bytes(word);
            match dtype {
                "F64" => bytes.extend_from_slice(&f64::from(value).to_le_bytes()),
                "F16" => bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
                "BF16" => bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
                other => panic!("{other} is not written here"),
            }
        }
        Tensor { name: self.name.clone(), dtype, shape: self.shape.clone(), bytes }
    }
}

/// The F32 tensors of a safetensors file.
pub(crate) fn read_safetensors(path: &Path) -> Vec<Tensor> {
    let file = fs::read(path).expect("a safetensors file");
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let numbers = |value: &Value| -> Vec<usize> { serde_json::from_value(value.clone()).expect("numbers") };
    let tensor = |(name, entry): (&String, &Value)| {
        let (shape, offsets) = (numbers(&entry["shape"]), numbers(&entry["data_offsets"]));
        let bytes = file[8 + length + offsets[0]..8 + length + offsets[1]].to_vec();
        Tensor { name: name.clone(), dtype: "F32", shape, bytes }
    };
    header.iter().filter(|(_, entry)| entry["dtype"] == "F32").map(tensor).collect()
}

/// A safetensors file.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for Tensor { name, dtype, shape, bytes } in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file of any header.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file as torch.save writes it: a state dict.
pub(crate) fn torch_file(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries =
        vec![("model/data.pkl".to_owned(), state_dict(tensors)), ("model/byteorder".into(), b"little".to_vec())];
    entries.extend(tensors.iter().enumerate().map(|(key, tensor)| (format!("model/data/{key}"), tensor.bytes.clone())));
    zip(&entries)
}

/// The pickle of a state dict, protocol 2. The storages are called 0, 1, ….
pub(crate) fn state_dict(tensors: &[Tensor]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let text = |pickle: &mut Vec<u8>, text: &str| {
        pickle.push(b'X');
        pickle.extend((text.len() as u32).to_le_bytes());
        pickle.extend(text.as_bytes());
    };
    let integer = |pickle: &mut Vec<u8>, value: usize| {
        pickle.push(b'J');
        pickle.extend((value as u32).to_le_bytes());
    };
    for (key, Tensor { name, dtype, shape, bytes }) in tensors.iter().enumerate() {
        let (class, size) = match *dtype {
            "F64" => ("Double", 8),
            "F16" => ("Half", 2),
            "BF16" => ("BFloat16", 2),
            "I64" => ("Long", 8),
            _ => ("Float", 4),
        };
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{class}Storage\n").as_bytes());
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        integer(&mut pickle, bytes.len() / size);
        pickle.extend(b"tQ");
        integer(&mut pickle, 0);
        pickle.push(b'(');
        shape.iter().for_each(|&size| integer(&mut pickle, size));
        pickle.extend(b"t(");
        (0..shape.len()).for_each(|axis| integer(&mut pickle, shape[axis + 1..].iter().product()));
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    pickle
}

/// A zip file of stored entries, without checksums.
pub(crate) fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let length = (bytes.len() as u32).to_le_bytes();
        // Version, flags, method, time, date, checksum.
        let common = [&[20, 0][..], &[0; 12], &length, &length, &(name.len() as u16).to_le_bytes(), &[0; 2]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        let rest = [&[0; 10][..], &offset.to_le_bytes()].concat();
        list.extend([b"PK\x01\x02\x14\x00", &common[..], &rest, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (length, offset) = ((list.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    file.extend([&list[..], b"PK\x05\x06\0\0\0\0", &count, &count, &length, &offset, &[0; 2]].concat());
    file
}

/// Links or writes everything of a model directory except its weights.
pub(crate) fn copy_without_weights(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a model") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_owned();
        let is_weights = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "bin");
        if !is_weights {
            std::os::unix::fs::symlink(fs::canonicalize(&path).expect("a path"), to.join(name)).expect("a link");
        }
    }
}
