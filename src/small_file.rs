//! Files that are read whole and hold little: tokens, certificates, keys, settings.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest such file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A file's bytes.
///
/// # Errors
/// What the system says, and one for a file that is larger than [`MAX_BYTES`], or a device without an end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::other(format!("it has more than {MAX_BYTES} bytes: is it the right file?"));
    read_up_to(path, MAX_BYTES)?.ok_or_else(too_large)
}

/// A file's bytes; `None` if it has more than `most`, or no end.
///
/// # Errors
/// What the system says.
pub(crate) fn read_up_to(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// A file's text.
///
/// # Errors
/// As [`read`], and one for what is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_refused_and_small_ones_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; MAX_BYTES as usize]).expect("write");
        assert_eq!(read_text(&path).expect("a text").len() as u64, MAX_BYTES);
        std::fs::write(&path, vec![0xff; MAX_BYTES as usize + 1]).expect("write");
        assert!(read(&path).expect_err("too large").to_string().contains("more than 1048576 bytes"));
        std::fs::write(&path, [0xff]).expect("write");
        assert!(read_text(&path).expect_err("no text").to_string().contains("not UTF-8"));
        #[cfg(unix)]
        assert!(read(Path::new("/dev/zero")).is_err(), "without an end");
    }
}
