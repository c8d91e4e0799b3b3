//! Rows of a file, one by one: no more than one of them is in memory here.

mod csv;
mod jsonl;
mod lengths;
mod lines;
mod parquet;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::chunk::{Failed, Row};
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::options::{Format, SourceOptions};

/// What comes next in a file.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// A row.
    Row(Row),
    /// A row that cannot be read. Others follow.
    Failed(Failed),
}

/// Rows in their order.
pub(crate) trait Rows: Send {
    /// The next row; `None`: there is none.
    fn next(&mut self) -> Result<Option<Next>>;

    /// Leaves out so many rows, which were imported before.
    fn skip(&mut self, rows: u64) -> Result<()> {
        for _ in 0..rows {
            if self.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// How far this is, in the unit of the file's [`Total`].
    fn position(&self) -> u64;
}

/// How much there is, as far as a file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Total {
    /// Bytes of the file, compressed as they are.
    Bytes(u64),
    /// Rows.
    Rows(u64),
    /// It comes from standard input.
    Unknown,
}

/// Opens a file: its rows, and how much there is.
pub(crate) fn open(options: &SourceOptions, collection: &Collection) -> Result<(Box<dyn Rows>, Total)> {
    let path = &options.path;
    let format = options.format.or_else(|| by_name(path)).ok_or_else(|| {
        Error::new(format!(
            "{} does not say by its name what it is: add --format jsonl, csv or parquet",
            path.display()
        ))
    })?;
    if is_standard_input(path) {
        let read = Counted { inner: std::io::stdin(), bytes: Arc::default() };
        let bytes = read.bytes.clone();
        return match format {
            Format::Jsonl => Ok((Box::new(jsonl::Jsonl::new(Box::new(read), bytes, options)), Total::Unknown)),
            Format::Csv => Ok((Box::new(csv::Csv::new(Box::new(read), bytes, options, collection)?), Total::Unknown)),
            Format::Parquet => Err(Error::new("a Parquet file cannot be read from standard input: name the file")),
        };
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        return Err(Error::new(format!("{} is a folder: name a file", path.display())));
    }
    if format == Format::Parquet {
        let rows = parquet::Parquet::new(file, options, collection)?;
        let total = Total::Rows(rows.total());
        return Ok((Box::new(rows), total));
    }
    let counted = Counted { inner: file, bytes: Arc::default() };
    let bytes = counted.bytes.clone();
    let read: Box<dyn Read + Send> =
        match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz")) {
            true => Box::new(flate2::read::MultiGzDecoder::new(std::io::BufReader::new(counted))),
            false => Box::new(counted),
        };
    let rows: Box<dyn Rows> = match format {
        Format::Jsonl => Box::new(jsonl::Jsonl::new(read, bytes, options)),
        _ => Box::new(csv::Csv::new(read, bytes, options, collection)?),
    };
    Ok((rows, Total::Bytes(metadata.len())))
}

/// Whether the rows come from standard input.
pub(crate) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "csv" | "tsv" => Some(Format::Csv),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("{} cannot be read: {error}", path.display()))
}

/// Counts what is read of a file, for the progress.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.jsonl", Some(Format::Jsonl)),
            ("a.b.NDJSON", Some(Format::Jsonl)),
            ("a.jsonl.gz", Some(Format::Jsonl)),
            ("a.csv", Some(Format::Csv)),
            ("a.tsv.gz", Some(Format::Csv)),
            ("x/a.parquet", Some(Format::Parquet)),
            ("a.txt", None),
            ("jsonl", None),
            ("-", None),
        ] {
            assert_eq!(by_name(Path::new(name)), format, "{name}");
        }
    }
}
