//! The file of rows that could not go in: JSON lines, which another import takes.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::chunk::Failed;
use crate::error::{Error, Result};

/// Rows that failed, if anybody wants them.
#[derive(Debug)]
pub(crate) struct FailedRows {
    file: Option<(PathBuf, File)>,
    bytes: u64,
}

impl FailedRows {
    /// Goes on behind the first `keep` bytes, which an import that was broken off has written; `None`: behind all that is there.
    pub(crate) fn open(path: Option<&Path>, keep: Option<u64>) -> Result<FailedRows> {
        let Some(path) = path else { return Ok(FailedRows { file: None, bytes: keep.unwrap_or_default() }) };
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let length = file.metadata()?.len();
            let keep = keep.map_or(length, |keep| keep.min(length));
            file.set_len(keep)?;
            file.seek(SeekFrom::Start(keep))?;
            Ok((file, keep))
        };
        let (file, bytes) = open().map_err(|error| unwritable(path, &error))?;
        Ok(FailedRows { file: Some((path.to_owned(), file)), bytes })
    }

    /// Adds rows; they are on disk when this returns.
    pub(crate) fn add(&mut self, rows: &[Failed]) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let lines: String = rows.iter().filter_map(|row| row.line.as_deref()).flat_map(|line| [line, "\n"]).collect();
        if lines.is_empty() {
            return Ok(());
        }
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(|error| unwritable(path, &error))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("--failed {} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_broken_import_are_not_there_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("failed.jsonl");
        let row = |line: &str| Failed { number: 1, reason: "x".into(), line: Some(line.into()) };
        let mut failed = FailedRows::open(Some(&path), None).expect("opened");
        failed.add(&[row("{\"a\":1}")]).expect("written");
        let done = failed.bytes();
        failed.add(&[row("{\"a\":2}"), Failed { line: None, ..row("") }]).expect("written");
        let mut failed = FailedRows::open(Some(&path), Some(done)).expect("opened");
        failed.add(&[row("{\"a\":2}")]).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "{\"a\":1}\n{\"a\":2}\n");
    }
}
