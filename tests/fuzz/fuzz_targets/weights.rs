//! Arbitrary weight files: torch's container, the pickle in it, safetensors. Nothing may panic, run long or take much
//! memory, and a tensor that is found must lie within its file. The readers are included by path, so that the target
//! builds without the rest of the sidecar.
#![no_main]
#![allow(dead_code)]

#[path = "../../../crates/engine/src/weights/pickle/mod.rs"]
mod pickle;
#[path = "../../../crates/engine/src/weights/safetensors.rs"]
mod safetensors;
#[path = "../../../crates/engine/src/weights/stored.rs"]
mod stored;
#[path = "../../../crates/engine/src/weights/torch.rs"]
mod torch;
#[path = "../../../crates/engine/src/weights/zip.rs"]
mod zip;

use libfuzzer_sys::fuzz_target;

struct Memory<'a>(&'a [u8]);

impl zip::Source for Memory<'_> {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = usize::try_from(offset).map_err(std::io::Error::other)?;
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

// The first byte chooses the reader. A pickle alone is put into a container, with one run of numbers called "0".
fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    let wrapped;
    let (bytes, found) = match kind % 3 {
        0 => (data, torch::tensors(&Memory(data))),
        1 => (data, safetensors::tensors(&Memory(data))),
        _ => {
            wrapped = container(&[("a/data.pkl", data), ("a/data/0", &[0x3C; 64])]);
            (&wrapped[..], torch::tensors(&Memory(&wrapped)))
        }
    };
    for (_, tensor) in found.into_iter().flatten() {
        let place = tensor.place.start as usize..tensor.place.end as usize;
        let mut values = Vec::new();
        let Ok(()) = tensor.numbers.append(&bytes[place], &mut values) else { continue };
        if let Ok(values) = tensor.finish(values) {
            assert_eq!(Some(values.len() as u64), stored::elements(&tensor.shape));
        }
    }
});

fn container(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let length = (bytes.len() as u32).to_le_bytes();
        let common = [&[20, 0][..], &[0; 12], &length, &length, &(name.len() as u16).to_le_bytes(), &[0; 2]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        list.extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (length, offset) = ((list.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    file.extend([&list[..], b"PK\x05\x06\0\0\0\0", &count, &count, &length, &offset, &[0; 2]].concat());
    file
}
