//! The header of a safetensors file.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::stored::{NumberType, Stored, elements};
use super::zip::{Source, read};

/// The format's own bound on a header.
const LONGEST_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The tensors of a file, checked against its length: they fill it without gaps and without overlapping.
///
/// # Errors
/// What is wrong, to stand behind the file's name.
pub fn tensors(source: &impl Source) -> Result<HashMap<String, Stored>, String> {
    let size = read(source, 0, 8, "the length of its header")?;
    let size = size.try_into().map(u64::from_le_bytes).map_err(|_| "the length of its header is missing")?;
    if size > LONGEST_HEADER {
        return Err(format!("its header claims {size} bytes"));
    }
    let header = read(source, 8, size, "its header")?;
    let header: HashMap<String, Value> =
        serde_json::from_slice(&header).map_err(|error| format!("its header is not JSON: {error}"))?;
    let start = 8 + size;
    let mut tensors = HashMap::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry = serde_json::from_value(entry).map_err(|error| format!("the tensor '{name}': {error}"))?;
        let (from, to) = entry.data_offsets;
        let place = start.checked_add(from).zip(start.checked_add(to)).filter(|(from, to)| from <= to);
        let Some((from, to)) = place.filter(|&(_, to)| to <= source.length()) else {
            return Err(format!("the tensor '{name}' reaches beyond the end of the file: it is cut off or damaged"));
        };
        let numbers = number_type(&entry.dtype);
        if let Some(size) = numbers.size()
            && elements(&entry.shape).and_then(|count| count.checked_mul(size)) != Some(to - from)
        {
            return Err(format!(
                "the tensor '{name}' has {} bytes, which is not {:?} of {}",
                to - from,
                entry.shape,
                entry.dtype
            ));
        }
        tensors.insert(name, Stored { place: from..to, numbers, shape: entry.shape, strides: None });
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_unstable_by_key(|(_, tensor)| (tensor.place.start, tensor.place.end));
    let mut end = start;
    for (name, tensor) in order {
        if tensor.place.start != end {
            let why = if tensor.place.start < end { "overlaps its neighbour" } else { "leaves a gap before it" };
            return Err(format!("the tensor '{name}' {why}"));
        }
        end = tensor.place.end;
    }
    if end != source.length() {
        return Err(format!("it is {} bytes long, its header speaks of {end}", source.length()));
    }
    Ok(tensors)
}

fn number_type(name: &str) -> NumberType {
    let other = |size| NumberType::Other(name.to_owned(), size);
    match name {
        "F64" => NumberType::F64,
        "F32" => NumberType::F32,
        "F16" => NumberType::F16,
        "BF16" => NumberType::BF16,
        "I64" | "U64" => other(Some(8)),
        "I32" | "U32" => other(Some(4)),
        "I16" | "U16" => other(Some(2)),
        "I8" | "U8" | "BOOL" => other(Some(1)),
        _ => other(None),
    }
}
