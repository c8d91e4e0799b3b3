//! CSV: a header with the names of properties, then a row each. What a cell means is said by the class.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{Reader, ReaderBuilder, StringRecord};
use serde_json::{Map, Number, Value, json};

use super::{Next, Rows};
use crate::chunk::{Failed, Kept, Row};
use crate::collection::{Collection, DataType, Properties};
use crate::error::{Error, Result};
use crate::options::SourceOptions;
use crate::properties::{EXACT, name_in};

pub(super) struct Csv {
    path: PathBuf,
    reader: Reader<Bounded<Box<dyn Read + Send>>>,
    columns: Vec<String>,
    class: Properties,
    list_delimiter: Option<char>,
    max_bytes: usize,
    record: StringRecord,
    number: u64,
    bytes: Arc<AtomicU64>,
}

/// Ends the file where a row goes on for ever, for a quotation mark that is never closed: a reader would take all of it.
struct Bounded<R> {
    inner: R,
    left: Arc<AtomicU64>,
    quotes: Quotes,
    /// All is read.
    has_ended: bool,
}

/// Where the bytes read so far end, as far as quotation marks are concerned.
struct Quotes {
    place: Place,
    delimiter: u8,
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Before a cell's first byte: a quotation mark opens here and nowhere else.
    Start,
    Plain,
    Quoted,
    /// Behind a quotation mark within a quoted cell, which ends it or is one of two that stand for one.
    Mark,
}

/// A file of an editor for Windows may begin with it.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Quotes {
    fn follow(&mut self, read: &[u8]) {
        for &byte in read {
            if BYTE_ORDER_MARK.get(self.bytes) == Some(&byte) {
                self.bytes += 1;
                continue;
            }
            self.bytes = BYTE_ORDER_MARK.len();
            self.place = match (self.place, byte) {
                (Place::Quoted, b'"') => Place::Mark,
                (Place::Quoted, _) | (Place::Start | Place::Mark, b'"') => Place::Quoted,
                (_, b'\r' | b'\n') => Place::Start,
                (_, byte) if byte == self.delimiter => Place::Start,
                _ => Place::Plain,
            };
        }
    }
}

impl<R> Bounded<R> {
    /// Whether the file is at its end, and a quotation mark is open there: it has taken all rows behind it.
    fn ends_in_quotes(&self) -> bool {
        self.has_ended && self.quotes.place == Place::Quoted
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(std::io::Error::other(
                "a row is longer than --max-row-bytes allows: is a quotation mark open?",
            ));
        }
        let read = self.inner.read(buffer)?;
        self.left.store(left.saturating_sub(read as u64), Ordering::Relaxed);
        self.has_ended = read == 0 && !buffer.is_empty();
        self.quotes.follow(&buffer[..read]);
        Ok(read)
    }
}

/// What the reader may have taken beyond the row: its buffer.
const READ_AHEAD: u64 = 1 << 17;

impl Csv {
    pub(super) fn new(
        read: Box<dyn Read + Send>,
        bytes: Arc<AtomicU64>,
        options: &SourceOptions,
        collection: &Collection,
    ) -> Result<Csv> {
        let is_tsv = options.path.to_string_lossy().to_lowercase().trim_end_matches(".gz").ends_with(".tsv");
        let delimiter = if is_tsv && options.delimiter == b',' { b'\t' } else { options.delimiter };
        let left = Arc::new(AtomicU64::new(options.max_row_bytes as u64 + READ_AHEAD));
        let quotes = Quotes { place: Place::Start, delimiter, bytes: 0 };
        let bounded = Bounded { inner: read, left, quotes, has_ended: false };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bounded);
        let header = reader.headers().map_err(|error| unreadable(&options.path, &error))?.clone();
        if reader.get_ref().ends_in_quotes() {
            return Err(open_quotation(&options.path, "the header"));
        }
        let columns: Vec<String> = header
            .iter()
            .map(|name| name_in(&collection.properties, name.trim_start_matches('\u{feff}').trim()))
            .collect();
        if columns.iter().any(String::is_empty) {
            let message = format!("{}: a column has no name in the first line", options.path.display());
            return Err(Error::new(message));
        }
        let mut seen = HashSet::new();
        if let Some(name) = columns.iter().find(|name| !seen.insert(*name)) {
            return Err(Error::new(format!("{}: two columns are named '{name}'", options.path.display())));
        }
        Ok(Csv {
            path: options.path.clone(),
            reader,
            columns,
            class: collection.properties.clone(),
            list_delimiter: options.list_delimiter,
            max_bytes: options.max_row_bytes,
            record: StringRecord::new(),
            number: 0,
            bytes,
        })
    }

    /// The next record is in `self.record`; `None`: there is none. An error within a row is the row's own.
    fn read(&mut self) -> Result<Option<Result<(), String>>> {
        let allowed = self.max_bytes as u64 + READ_AHEAD;
        self.reader.get_ref().left.store(allowed, Ordering::Relaxed);
        let read = self.reader.read_record(&mut self.record);
        match read {
            Ok(false) => Ok(None),
            _ if self.reader.get_ref().ends_in_quotes() => {
                Err(open_quotation(&self.path, &format!("row {}", self.number + 1)))
            }
            Ok(true) => {
                self.number += 1;
                Ok(Some(Ok(())))
            }
            Err(error) if matches!(error.kind(), csv::ErrorKind::Io(_)) => Err(unreadable(&self.path, &error)),
            Err(error) => {
                self.number += 1;
                Ok(Some(Err(format!("it cannot be read: {error}"))))
            }
        }
    }
}

impl Csv {
    /// The cells of the row; an empty one says nothing.
    fn cells(&self) -> impl Iterator<Item = (&String, &str)> {
        self.columns.iter().zip(&self.record).filter(|(_, cell)| !cell.is_empty())
    }

    /// The row for who mends it: what fits as what it is, all else as text.
    fn line(&self) -> Option<String> {
        if self.record.as_slice().len() > self.max_bytes {
            return None;
        }
        let kept = |(name, cell): (&String, &str)| {
            let value = value(cell, self.class.get(name), self.list_delimiter, name).ok();
            (name.clone(), value.filter(|value| says_all(value, cell)).unwrap_or_else(|| cell.into()))
        };
        let properties: Map<_, _> = self.cells().map(kept).collect();
        Some(json!({"properties": properties}).to_string())
    }
}

/// Whether a value has all that its cell says; a number may have more digits than an f64.
fn says_all(value: &Value, cell: &str) -> bool {
    fn has_floats(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(elements) => elements.iter().any(has_floats),
            Value::Object(fields) => fields.values().any(has_floats),
            _ => false,
        }
    }
    let spaceless = |text: &str| text.split_whitespace().collect::<String>();
    !has_floats(value) || same_number(value, cell) || spaceless(&value.to_string()) == spaceless(cell)
}

/// Whether a cell is this number, however it is written: `1` and `1.0`, `0.50` and `0.5`.
fn same_number(value: &Value, cell: &str) -> bool {
    let plain = |text: &str| {
        let text = text.trim();
        match text.contains('.') && !text.contains(['e', 'E']) {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        }
    };
    value.is_number() && plain(&value.to_string()) == plain(cell)
}

impl Rows for Csv {
    fn next(&mut self) -> Result<Option<Next>> {
        let Some(read) = self.read()? else { return Ok(None) };
        let number = self.number;
        // A row with too many cells, or with one that is no text, is not there as it is in the file.
        let is_whole = read.is_ok();
        let row = read.and_then(|()| {
            let bytes = self.record.as_slice().len();
            if bytes > self.max_bytes {
                return Err(format!("the row is longer than {} bytes: raise --max-row-bytes", self.max_bytes));
            }
            let mut properties = Map::new();
            for (name, cell) in self.cells() {
                properties.insert(name.clone(), value(cell, self.class.get(name), self.list_delimiter, name)?);
            }
            let is_exact =
                self.cells().all(|(name, cell)| properties.get(name).is_none_or(|value| says_all(value, cell)));
            let kept = if is_exact { Kept::Properties } else { Kept::Nothing };
            Ok(Row { number, id: None, tenant: None, properties, bytes, kept })
        });
        Ok(Some(match row {
            Ok(row) => Next::Row(row),
            Err(reason) => Next::Failed(Failed { number, reason, line: is_whole.then(|| self.line()).flatten() }),
        }))
    }

    fn skip(&mut self, rows: u64) -> Result<()> {
        while self.number < rows && self.read()?.is_some() {}
        Ok(())
    }

    fn position(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a cell says. A property that the class does not know is a text.
fn value(cell: &str, data_type: Option<&DataType>, list_delimiter: Option<char>, name: &str) -> Result<Value, String> {
    let wrong =
        |wanted: &str| format!("'{name}' is to be {wanted}, and is '{}'", cell.chars().take(40).collect::<String>());
    let trimmed = cell.trim();
    match data_type {
        Some(DataType::Int) => match (trimmed.parse::<i64>(), trimmed.parse::<f64>()) {
            (Ok(number), _) => Ok(number.into()),
            // As it is written where whole numbers and gaps were in one column.
            (_, Ok(number)) if number.fract() == 0.0 && number.abs() <= EXACT as f64 => Ok((number as i64).into()),
            _ => Err(wrong("a whole number")),
        },
        Some(DataType::Number) => {
            let number = trimmed.parse().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| wrong("a number"))
        }
        Some(DataType::Boolean) => match trimmed.to_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(true.into()),
            "false" | "0" | "no" => Ok(false.into()),
            _ => Err(wrong("true or false")),
        },
        Some(DataType::List(element)) => match list_delimiter {
            Some(delimiter) => {
                let elements = cell.split(delimiter).map(|part| value(part, Some(element), None, name));
                Ok(Value::Array(elements.collect::<Result<_, _>>()?))
            }
            None => match serde_json::from_str(cell) {
                Ok(Value::Array(elements)) => Ok(Value::Array(elements)),
                _ => Err(wrong("a list in JSON ([\"a\", \"b\"]; or give --list-delimiter)")),
            },
        },
        Some(DataType::Object(_) | DataType::Geo | DataType::Phone) => match serde_json::from_str(cell) {
            Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
            _ => Err(wrong("an object in JSON")),
        },
        _ => Ok(cell.into()),
    }
}

fn open_quotation(path: &Path, place: &str) -> Error {
    Error::new(format!(
        "{}: {place} opens a quotation mark that is not closed, so all that follows is one cell: close it",
        path.display()
    ))
}

fn unreadable(path: &Path, error: &csv::Error) -> Error {
    Error::new(format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn opened(text: &str, list_delimiter: Option<char>) -> Result<Csv> {
        let class = json!({
            "class": "A", "vectorizer": "text2vec-transformers",
            "properties": [
                {"name": "title", "dataType": ["text"]}, {"name": "year", "dataType": ["int"]},
                {"name": "share", "dataType": ["number"]}, {"name": "open", "dataType": ["boolean"]},
                {"name": "tags", "dataType": ["text[]"]}, {"name": "years", "dataType": ["int[]"]},
                {"name": "place", "dataType": ["geoCoordinates"]},
            ],
        });
        let options = SourceOptions {
            path: "objects.csv".into(),
            format: None,
            delimiter: b',',
            list_delimiter,
            max_row_bytes: 200,
        };
        let collection = Collection::of_json(class, "a test").expect("a class");
        Csv::new(Box::new(Cursor::new(text.to_owned().into_bytes())), Arc::default(), &options, &collection)
    }

    fn all(mut rows: Csv) -> Vec<Result<Value, String>> {
        let next = std::iter::from_fn(|| rows.next().expect("readable"));
        next.map(|next| match next {
            Next::Row(row) => Ok(Value::Object(row.properties)),
            Next::Failed(failed) => Err(format!("{}: {}", failed.number, failed.reason)),
        })
        .collect()
    }

    #[test]
    fn cells_are_what_the_class_says() {
        let text = "\u{feff}title,year,share,open,tags,place\n\
                    \"a, \"\"b\"\"\nc\",2024,0.5,Yes,\"[\"\"x\"\"]\",\"{\"\"latitude\"\":1}\"\n007,,,,,\n";
        let expected = [
            json!({"title": "a, \"b\"\nc", "year": 2024, "share": 0.5, "open": true, "tags": ["x"], "place": {"latitude": 1}}),
            json!({"title": "007"}),
        ];
        let rows = all(opened(text, None).expect("a header"));
        assert_eq!(rows, expected.map(Ok));
        let rows = all(opened("tags,years\nx|y,1|2\n", Some('|')).expect("a header"));
        assert_eq!(rows, [Ok(json!({"tags": ["x", "y"], "years": [1, 2]}))]);
    }

    #[test]
    fn what_does_not_fit_is_told_and_the_next_row_is_read() {
        let long = "x".repeat(300);
        let text =
            format!("title,year,share,open,tags\na,x,,,\na,,inf,,\na,,,perhaps,\na,,,,b\na\n{long},,,,\nlast,,,,\n");
        let rows = all(opened(&text, None).expect("a header"));
        let said = [
            "'year' is to be a whole",
            "'share' is to be a number",
            "'open' is to be true",
            "'tags' is to be a list",
            "cannot be read",
            "--max-row-bytes",
        ];
        for (index, said) in said.iter().enumerate() {
            let error = rows[index].as_ref().expect_err("refused");
            assert!(error.contains(said) && error.starts_with(&format!("{}: ", index + 1)), "{error}");
        }
        assert_eq!(rows.last(), Some(&Ok(json!({"title": "last"}))));
    }

    #[test]
    fn an_open_quotation_ends_the_file_and_not_the_memory() {
        let text = format!("title\n\"{}", "x".repeat(1_000_000));
        let error = opened(&text, None).expect("a header").next().expect_err("refused");
        assert!(error.message().contains("--max-row-bytes"), "{error}");
    }

    #[test]
    fn a_row_is_kept_whole_or_not_at_all() {
        let line = |text: &str| match opened(text, None).expect("a header").next() {
            Ok(Some(Next::Failed(failed))) => failed.line,
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(line("title\na,b\n"), None, "a cell too many has no name");
        assert_eq!(line("title,year\na\n"), None);
        let mixed = line("title,year,share,open,tags\n007,2024,0.5,perhaps,\n").expect("a line");
        let expected = json!({"properties": {"title": "007", "year": 2024, "share": 0.5, "open": "perhaps"}});
        assert_eq!(serde_json::from_str::<Value>(&mixed).expect("JSON"), expected);
        let long = line("title,share,open\na,0.12345678901234567890123,perhaps\n").expect("a line");
        assert!(long.contains("\"0.12345678901234567890123\""), "{long}");
        let class = opened("title\n", None).expect("a header").class;
        let bytes = b"title\n\xff\n".to_vec();
        let options = SourceOptions { max_row_bytes: 200, ..crate::options::tests::options().source };
        let json = json!({"class": "A", "vectorizer": "text2vec-transformers"});
        let collection = Collection { properties: class, ..Collection::of_json(json, "a test").expect("a class") };
        let mut rows = Csv::new(Box::new(Cursor::new(bytes)), Arc::default(), &options, &collection).expect("a header");
        let Ok(Some(Next::Failed(failed))) = rows.next() else { panic!("no row that failed") };
        assert_eq!((failed.number, failed.line), (1, None));
        let kept = |cell: &str| match opened(&format!("years,share\n{cell}\n"), None).expect("a header").next() {
            Ok(Some(Next::Row(row))) => row.kept,
            other => panic!("{cell}: {other:?}"),
        };
        assert_eq!(kept("\"[1, 2]\",1.50"), Kept::Properties);
        assert_eq!(kept("[99999999999999999999999999],1"), Kept::Nothing);
    }

    #[test]
    fn a_quotation_that_is_open_at_the_end_is_told_by_its_row() {
        for (text, place) in [
            ("title\n\"a\nb\nc\nd\n", "row 1 opens"),
            ("title\nx\n\"y\"\n\"a \"\"b", "row 3 opens"),
            ("title,year\nx,\"1", "row 1 opens"),
            ("title,year\nx\n\"a\nb", "row 2 opens"),
            ("\u{feff}\"title\nx\n", "the header opens"),
        ] {
            let error = match opened(text, None) {
                Err(error) => error,
                Ok(mut rows) => (0..9).find_map(|_| rows.next().err()).expect("refused"),
            };
            assert!(error.message().contains(place), "{text:?}: {error}");
        }
        for text in [
            "title\n\"a\nb\"",
            "title\na\"b\n",
            "title\n\"a\"b\"\n",
            "title\r\n\"\"\"\"\r\n",
            "title\n\"\"",
            "title\n\"",
        ] {
            let rows = opened(text, None).and_then(|mut rows| rows.next());
            assert_eq!(rows.is_err(), text.ends_with("\n\""), "{text:?}: {rows:?}");
        }
        let error = opened("title\n\"a\nb", None).and_then(|mut rows| rows.skip(1)).expect_err("refused");
        assert!(error.message().contains("row 1"), "{error}");
    }

    #[test]
    fn headers_have_names() {
        for (text, said) in [("a,,b\n1,2,3\n", "has no name"), ("a,a\n1,2\n", "two columns are named 'a'")] {
            assert!(opened(text, None).err().expect("refused").message().contains(said));
        }
    }
}
