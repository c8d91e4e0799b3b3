//! Where the entries of a zip file lie, for entries that are stored without compression: what `torch.save` writes.
//!
//! Nothing is unpacked and nothing is trusted: every offset is checked against the file's length. Checksums are not
//! compared, because torch can be told not to write them (`set_crc32_options`) and does not compare them either.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes by position: a file, or memory in tests.
pub trait Source {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// Fills `buffer` with what begins at `offset`.
    ///
    /// # Errors
    /// What reading fails with, or that there are not so many bytes.
    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

/// The list of a zip file's entries.
#[derive(Debug)]
pub struct Directory {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Of the local header.
    offset: u64,
    length: u64,
    stored: bool,
}

/// Lists of more bytes than this are no state dict's: 100 bytes or so for each tensor.
const LONGEST_LIST: u64 = 64 << 20;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

impl Directory {
    /// Reads the list at the end of the file.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the file's name.
    pub fn read(source: &impl Source) -> Result<Directory, String> {
        let (count, length, offset) = find_list(source)?;
        if length > LONGEST_LIST {
            return Err(format!("its list of entries has {length} bytes, more than any model needs"));
        }
        let list = read(source, offset, length, "its list of entries")?;
        let mut entries = HashMap::new();
        let mut rest = Fields(&list);
        for _ in 0..count {
            let (name, entry) = rest.entry().ok_or("its list of entries is damaged")?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(format!("it has two entries called '{name}'"));
            }
        }
        Ok(Directory { entries })
    }

    /// Names of all entries, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where an entry's bytes are in the file.
    ///
    /// # Errors
    /// In words, if there is no such entry, it is compressed, or it reaches beyond the file.
    pub fn place(&self, source: &impl Source, name: &str) -> Result<Range<u64>, String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("it has no entry '{name}'"))?;
        if !entry.stored {
            return Err(format!("its entry '{name}' is compressed or encrypted: write it again with torch.save"));
        }
        let header = read(source, entry.offset, 30, "an entry's header")?;
        let mut fields = Fields(&header);
        let signature = fields.u32();
        fields.skip(22);
        let lengths = (fields.u16(), fields.u16());
        match (signature, lengths) {
            (Some(LOCAL), (Some(name_length), Some(extra_length))) => {
                let start = entry.offset + 30 + u64::from(name_length) + u64::from(extra_length);
                let end = start.checked_add(entry.length).filter(|&end| end <= source.length());
                end.map(|end| start..end)
                    .ok_or_else(|| format!("its entry '{name}' reaches beyond the end of the file"))
            }
            _ => Err(format!("there is no entry where '{name}' should be")),
        }
    }
}

/// Number of entries, length and offset of their list.
fn find_list(source: &impl Source) -> Result<(u64, u64, u64), String> {
    // The end record has 22 bytes and a comment of up to 65,535.
    let tail_length = source.length().min(22 + 65_535);
    let tail_start = source.length() - tail_length;
    let tail = read(source, tail_start, tail_length, "its end")?;
    let at = (0..(tail.len() + 1).saturating_sub(22)).rev().find(|&at| Fields(&tail[at..]).u32() == Some(END));
    let at = at.ok_or("it has no end record: it is cut off, or no zip file")?;
    let mut fields = Fields(&tail[at..]);
    fields.skip(10);
    let damaged = "its end record is damaged";
    let count = u64::from(fields.u16().ok_or(damaged)?);
    let length = u64::from(fields.u32().ok_or(damaged)?);
    let offset = u64::from(fields.u32().ok_or(damaged)?);
    if count != 0xFFFF && length != 0xFFFF_FFFF && offset != 0xFFFF_FFFF {
        return Ok((count, length, offset));
    }
    let locator_at = (tail_start + at as u64).checked_sub(20).ok_or(damaged)?;
    let locator = read(source, locator_at, 20, "its zip64 locator")?;
    let mut fields = Fields(&locator);
    if fields.u32() != Some(LOCATOR_64) {
        // 65,535 entries without zip64 are legal.
        return Ok((count, length, offset));
    }
    fields.skip(4);
    let record = read(source, fields.u64().ok_or(damaged)?, 56, "its zip64 end record")?;
    let mut fields = Fields(&record);
    if fields.u32() != Some(END_64) {
        return Err(damaged.into());
    }
    fields.skip(28);
    match (fields.u64(), fields.u64(), fields.u64()) {
        (Some(count), Some(length), Some(offset)) => Ok((count, length, offset)),
        _ => Err(damaged.into()),
    }
}

/// Bytes at a place that the file must have.
pub(super) fn read(source: &impl Source, offset: u64, length: u64, what: &str) -> Result<Vec<u8>, String> {
    if offset.checked_add(length).is_none_or(|end| end > source.length()) {
        return Err(format!("{what} reaches beyond the end of the file"));
    }
    let mut bytes = vec![0; length as usize];
    source.read(&mut bytes, offset).map_err(|error| format!("{what} cannot be read: {error}"))?;
    Ok(bytes)
}

/// Little-endian fields, one after the other; `None` when the bytes have ended.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn skip(&mut self, length: usize) {
        self.0 = self.0.get(length..).unwrap_or_default();
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.number().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.number().map(u64::from_le_bytes)
    }

    /// One entry of the central list.
    fn entry(&mut self) -> Option<(String, Entry)> {
        if self.u32()? != CENTRAL {
            return None;
        }
        self.skip(4);
        let (flags, method) = (self.u16()?, self.u16()?);
        self.skip(8);
        let (packed, length) = (self.u32()?, self.u32()?);
        let (name_length, extra_length, comment_length) = (self.u16()?, self.u16()?, self.u16()?);
        self.skip(8);
        let offset = self.u32()?;
        let name = String::from_utf8(self.take(name_length.into())?.to_vec()).ok()?;
        let mut extra = Fields(self.take(extra_length.into())?);
        self.take(comment_length.into())?;
        let (mut packed, mut length, mut offset) = (u64::from(packed), u64::from(length), u64::from(offset));
        const BEYOND: u64 = 0xFFFF_FFFF;
        while let (Some(kind), Some(size)) = (extra.u16(), extra.u16()) {
            let mut field = Fields(extra.take(size.into())?);
            if kind == 1 {
                // Only what did not fit its 32 bits is here, in this order.
                for value in [&mut length, &mut packed, &mut offset] {
                    if *value == BEYOND {
                        *value = field.u64()?;
                    }
                }
            }
        }
        let stored = method == 0 && flags & 1 == 0 && packed == length;
        Some((name, Entry { offset, length, stored }))
    }
}
