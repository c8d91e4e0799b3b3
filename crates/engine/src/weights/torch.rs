//! Files of `torch.save`: `pytorch_model.bin` and its shards.
//!
//! Since torch 1.6 such a file is a zip file with a pickle, `data.pkl`, that describes the tensors, and one stored entry
//! per run of numbers. Before, it was five pickles in a row (magic number, version, byte order, the tensors, the names of
//! the runs of numbers) and then the numbers; models of 2020 still come that way.

use std::collections::HashMap;
use std::ops::Range;

use super::pickle::{Pickle, PickledTensor, Storage};
use super::stored::{NumberType, Stored, elements};
use super::zip::{Directory, Source, read};

/// No dictionary of tensors needs a longer pickle: it takes about 150 bytes for each.
const LONGEST_PICKLE: u64 = 8 << 20;

/// How a file from before torch 1.6 begins: the pickle of its magic number.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// The tensors of a file.
///
/// # Errors
/// What is wrong, to stand behind the file's name.
pub fn tensors(source: &impl Source) -> Result<HashMap<String, Stored>, String> {
    let head = read(source, 0, source.length().min(OLD_MAGIC.len() as u64), "its beginning")?;
    if head == OLD_MAGIC { old_tensors(source) } else { zip_tensors(source) }
}

fn zip_tensors(source: &impl Source) -> Result<HashMap<String, Stored>, String> {
    let directory = Directory::read(source)?;
    let mut pickles = directory.names().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (Some(pickle), None) = (pickles.next(), pickles.next()) else {
        return Err("it is a zip file, but not one of torch.save: there is no data.pkl".into());
    };
    let folder = pickle.trim_end_matches("data.pkl");
    let entry = |name: &str| directory.place(source, &format!("{folder}{name}"));
    if let Ok(place) = entry("byteorder")
        && read(source, place.start, (place.end - place.start).min(16), "its byte order")? != b"little"
    {
        return Err(big_endian());
    }
    let place = entry("data.pkl")?;
    if place.end - place.start > LONGEST_PICKLE {
        return Err(format!("its data.pkl has {} bytes, more than any model needs", place.end - place.start));
    }
    let bytes = read(source, place.start, place.end - place.start, "its data.pkl")?;
    let (pickle, _) = Pickle::read(&bytes)?;
    stored(&pickle, |storage| entry(&format!("data/{}", storage.key)))
}

fn old_tensors(source: &impl Source) -> Result<HashMap<String, Stored>, String> {
    let bytes = read(source, 0, source.length().min(LONGEST_PICKLE), "its beginning")?;
    let mut at = 0;
    let mut next = || {
        let (pickle, length) = Pickle::read(&bytes[at..])?;
        at += length;
        Ok::<_, String>(pickle)
    };
    let (_magic, _version, system) = (next()?, next()?, next()?);
    if system.flag("little_endian")? == Some(false) {
        return Err(big_endian());
    }
    let (pickle, keys) = (next()?, next()?.strings()?);
    // The numbers follow in the order of their names, each run with its count in front.
    let classes: HashMap<&str, Storage> =
        pickle.tensors()?.values().map(|tensor| (tensor.storage.key, tensor.storage)).collect();
    let mut places = HashMap::new();
    let mut start = at as u64;
    for key in keys {
        let count = read(source, start, 8, "a run of numbers")?;
        let count = count.try_into().map(u64::from_le_bytes).map_err(|_| "it is cut off")?;
        let Some(storage) = classes.get(key) else {
            return Err(format!("its numbers '{key}' belong to no tensor, so that their length is not known"));
        };
        let size = number_type(storage.class).size();
        let end = size.and_then(|size| count.checked_mul(size)?.checked_add(start + 8));
        let end = end.filter(|&end| end <= source.length()).ok_or("it is cut off")?;
        places.insert(key, start + 8..end);
        start = end;
    }
    stored(&pickle, |storage| {
        places.get(storage.key).cloned().ok_or_else(|| format!("it lacks the numbers '{}'", storage.key))
    })
}

fn big_endian() -> String {
    "its numbers are big-endian: save the model again on a common machine".into()
}

/// The tensors of a pickle, with the bytes of each in the run of numbers that `place` finds.
fn stored(
    pickle: &Pickle<'_>,
    place: impl Fn(&Storage<'_>) -> Result<Range<u64>, String>,
) -> Result<HashMap<String, Stored>, String> {
    let find = |(name, tensor): (&str, &PickledTensor<'_>)| {
        let found = place(&tensor.storage).and_then(|place| within(tensor, place));
        found.map(|stored| (name.to_owned(), stored)).map_err(|why| format!("the tensor '{name}': {why}"))
    };
    pickle.tensors()?.into_iter().map(find).collect()
}

fn within(tensor: &PickledTensor<'_>, storage: Range<u64>) -> Result<Stored, String> {
    let beyond = || format!("its shape {:?} reaches beyond its {} bytes", tensor.shape, storage.end - storage.start);
    let numbers = number_type(tensor.storage.class);
    let size = numbers.size().ok_or_else(beyond)?;
    let count = elements(&tensor.shape).ok_or_else(beyond)?;
    // The last number's distance from the first, if there are any.
    let last = tensor.shape.iter().zip(&tensor.strides).try_fold(0u64, |sum, (&size, &stride)| {
        sum.checked_add((size as u64).saturating_sub(1).checked_mul(stride as u64)?)
    });
    let span = if count == 0 { 0 } else { last.and_then(|last| last.checked_add(1)).ok_or_else(beyond)? };
    let start = (tensor.offset as u64).checked_mul(size).and_then(|skip| storage.start.checked_add(skip));
    let end = start.zip(span.checked_mul(size)).and_then(|(start, length)| start.checked_add(length));
    let (Some(start), Some(end)) = (start, end.filter(|&end| end <= storage.end)) else { return Err(beyond()) };
    let mut expected = 1usize;
    let in_order = tensor.shape.iter().zip(&tensor.strides).rev().all(|(&size, &stride)| {
        // Along a dimension of one there are no neighbours.
        let fits = size == 1 || stride == expected;
        expected = usize::wrapping_mul(expected, size);
        fits
    });
    let strides = (count > 0 && !in_order).then(|| tensor.strides.clone());
    Ok(Stored { place: start..end, numbers, shape: tensor.shape.clone(), strides })
}

fn number_type(class: &str) -> NumberType {
    let other = |size| NumberType::Other(class.trim_end_matches("Storage").to_owned(), Some(size));
    match class {
        "DoubleStorage" => NumberType::F64,
        "FloatStorage" => NumberType::F32,
        "HalfStorage" => NumberType::F16,
        "BFloat16Storage" => NumberType::BF16,
        "LongStorage" => other(8),
        "IntStorage" => other(4),
        "ShortStorage" => other(2),
        _ => other(1),
    }
}
