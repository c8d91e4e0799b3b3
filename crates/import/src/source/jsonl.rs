//! JSON, an object a line: properties, or `{"id": …, "tenant": …, "properties": {…}}`.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::lines::{Line, Lines};
use super::{Next, Rows, unreadable};
use crate::chunk::{Failed, Kept, Row};
use crate::error::{Error, Result};
use crate::options::SourceOptions;

pub(super) struct Jsonl {
    path: PathBuf,
    lines: Lines,
    max_bytes: usize,
    number: u64,
    bytes: Arc<AtomicU64>,
}

impl Jsonl {
    pub(super) fn new(read: Box<dyn Read + Send>, bytes: Arc<AtomicU64>, options: &SourceOptions) -> Jsonl {
        let max_bytes = options.max_row_bytes;
        Jsonl { path: options.path.clone(), lines: Lines::new(read, max_bytes), max_bytes, number: 0, bytes }
    }
}

impl Rows for Jsonl {
    /// A number is a line's, whether it is blank or not.
    fn next(&mut self) -> Result<Option<Next>> {
        loop {
            let number = self.number + 1;
            let Some(line) = self.lines.next().map_err(|error| unreadable(&self.path, &error))? else {
                return Ok(None);
            };
            self.number = number;
            let failed = |reason, line| Ok(Some(Next::Failed(Failed { number, reason, line })));
            let line = match line {
                Line::TooLong => {
                    let reason = format!("the row is longer than {} bytes: raise --max-row-bytes", self.max_bytes);
                    return failed(reason, None);
                }
                Line::Whole(line) => line,
            };
            // A file of an editor for Windows may begin with a mark.
            let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
            if line.trim_ascii().is_empty() {
                continue;
            }
            if number == 1 && line.trim_ascii_start().starts_with(b"[") {
                return Err(Error::new(format!(
                    "{} is one JSON list, and an object a line is wanted: jq -c '.[]' makes them of it",
                    self.path.display()
                )));
            }
            return match row(line, number) {
                Ok(row) => Ok(Some(Next::Row(row))),
                Err(reason) => failed(reason, std::str::from_utf8(line).ok().map(|line| line.trim().to_owned())),
            };
        }
    }

    /// So many lines: blank ones count, as they do in their numbers.
    fn skip(&mut self, rows: u64) -> Result<()> {
        while self.number < rows {
            if self.lines.next().map_err(|error| unreadable(&self.path, &error))?.is_none() {
                break;
            }
            self.number += 1;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Memory of a value beside its text.
const VALUE_BYTES: usize = 32;

fn row(line: &[u8], number: u64) -> Result<Row, String> {
    let text =
        std::str::from_utf8(line).map_err(|error| format!("it is not JSON: it is no UTF-8 text: {error}"))?.trim();
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Object(mut fields) = value else {
        return Err("a row is a JSON object, {\"title\": \"…\"}, and this is none".to_owned());
    };
    // A value takes more room than its text, if that is short.
    let bytes = line.len() + VALUE_BYTES * line.iter().filter(|&&byte| byte == b',').count();
    let is_wrapped = matches!(fields.get("properties"), Some(Value::Object(_)))
        && fields.keys().all(|key| ["id", "tenant", "properties"].contains(&key.as_str()));
    if !is_wrapped {
        let kept = Kept::Line(format!("{{\"properties\":{text}}}"));
        return Ok(Row { number, id: None, tenant: None, properties: fields, bytes, kept });
    }
    let id = text_of(&mut fields, "id")?;
    let tenant = text_of(&mut fields, "tenant")?;
    let properties = match fields.remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    Ok(Row { number, id, tenant, properties, bytes, kept: Kept::Line(text.to_owned()) })
}

fn text_of(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("'{name}' beside 'properties' is to be a text")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use serde_json::json;

    use super::*;

    fn all(text: &str, skipped: u64) -> Vec<Result<Row, String>> {
        let options = SourceOptions {
            path: "objects.jsonl".into(),
            format: None,
            delimiter: b',',
            list_delimiter: None,
            max_row_bytes: 100,
        };
        let mut rows = Jsonl::new(Box::new(Cursor::new(text.to_owned().into_bytes())), Arc::default(), &options);
        rows.skip(skipped).expect("readable");
        let next = std::iter::from_fn(|| rows.next().expect("readable"));
        next.map(|next| match next {
            Next::Row(row) => Ok(row),
            Next::Failed(failed) => Err(format!("{}: {}", failed.number, failed.reason)),
        })
        .collect()
    }

    #[test]
    fn rows_are_properties_or_wrapped() {
        let text = "\u{feff}{\"a\": 1}\n\n{\"id\": \"x\", \"properties\": {\"a\": 2}}\r\n\
                    {\"properties\": \"a text\"}\n{\"properties\": {\"a\": 1}, \"more\": 2}\n\
                    {\"tenant\": \"t\", \"properties\": {}}\n";
        let rows: Vec<_> = all(text, 0).into_iter().map(|row| row.expect("a row")).collect();
        let shown: Vec<_> = rows.iter().map(|row| (row.number, row.id.as_deref(), row.tenant.as_deref())).collect();
        let expected = [(1, None, None), (3, Some("x"), None), (4, None, None), (5, None, None), (6, None, Some("t"))];
        assert_eq!(shown, expected);
        let properties: Vec<_> = rows.into_iter().map(|row| Value::Object(row.properties)).collect();
        let expected = [
            json!({"a": 1}),
            json!({"a": 2}),
            json!({"properties": "a text"}),
            json!({"properties": {"a": 1}, "more": 2}),
            json!({}),
        ];
        assert_eq!(properties, expected);
        assert_eq!(all(text, 3).len(), 3, "the first three lines are left out, a blank one among them");
        assert_eq!(all(text, 99).len(), 0);
    }

    #[test]
    fn rows_are_kept_as_they_were() {
        let text =
            "\u{feff}{\"n\": 99999999999999999999999999, \"n\": 1.0}\r\n {\"tenant\": \"t\", \"properties\": {}} \n";
        let kept: Vec<_> = all(text, 0).into_iter().map(|row| row.expect("a row").kept).collect();
        let lines = [
            "{\"properties\":{\"n\": 99999999999999999999999999, \"n\": 1.0}}",
            "{\"tenant\": \"t\", \"properties\": {}}",
        ];
        assert_eq!(kept, lines.map(|line| Kept::Line(line.into())));
        // What is kept is the same row again.
        let again: Vec<_> = all(&lines.join("\n"), 0).into_iter().map(|row| row.expect("a row").properties).collect();
        let first: Vec<_> = all(text, 0).into_iter().map(|row| row.expect("a row").properties).collect();
        assert_eq!(again, first);
    }

    #[test]
    fn what_is_no_row_is_told_with_its_number_and_the_next_one_is_read() {
        let text =
            format!("1\n{{\"a\"\n\"{}\"\n{{\"id\": 7, \"properties\": {{}}}}\n\u{0}\n{{\"a\": 1}}", "x".repeat(200));
        let read = all(&text, 0);
        for (row, said) in
            read.iter().zip(["1: a row is", "2: it is not JSON", "3: the row is longer", "4: 'id'", "5: "])
        {
            let error = row.as_ref().expect_err("refused");
            assert!(error.starts_with(said), "{error}");
        }
        assert!(read.len() == 6 && read[5].is_ok());
    }
}
