//! Parquet: columns, of which one row after the other is put together.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::lengths::{Longest, longest};
use super::{Next, Rows};
use crate::chunk::{Failed, Kept, Row};
use crate::collection::{Collection, DataType};
use crate::error::{Error, Result};
use crate::options::SourceOptions;

/// What each value of a row counts beside its text.
const VALUE_BYTES: usize = size_of::<u64>();

pub(super) struct Parquet {
    path: PathBuf,
    columns: Columns,
    records: RowIter<'static>,
    total: u64,
    number: u64,
    max_bytes: usize,
}

/// What a row does not say of its columns.
struct Columns {
    /// Those of nanoseconds since 1970, which rows have as numbers.
    nanos: HashSet<String>,
    /// Properties that are texts in the class.
    texts: HashSet<String>,
}

impl Parquet {
    pub(super) fn new(file: File, options: &SourceOptions, collection: &Collection) -> Result<Parquet> {
        let path = options.path.clone();
        let reader = SerializedFileReader::new(file).map_err(|error| unreadable(&path, &error))?;
        let total = reader.metadata().file_metadata().num_rows().try_into().unwrap_or(0);
        let fields = reader.metadata().file_metadata().schema().get_fields();
        if let Some(name) = twice(fields) {
            return Err(Error::new(format!("{}: two columns are named '{name}'", path.display())));
        }
        let is_nanos = |field: &&Arc<Type>| {
            let unit = field.get_basic_info().logical_type_ref();
            matches!(unit, Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS)
        };
        let nanos = fields.iter().filter(is_nanos).map(|field| field.name().to_owned()).collect();
        let texts = collection.properties.iter().filter(|(_, holds)| **holds == DataType::Text);
        let texts = texts.map(|(name, _)| name.clone()).collect();
        let columns = Columns { nanos, texts };
        let limit = (options.max_row_bytes / VALUE_BYTES).max(1);
        let longest = match longest(&reader, limit).map_err(|error| unreadable(&path, &error))? {
            Longest::Fits(longest) => longest,
            Longest::TooLong { row, column } => {
                return Err(Error::new(format!(
                    "{}: row {row} has more than {limit} values in '{column}', and is longer than {} bytes: take it out of \
                     the file, or raise --max-row-bytes",
                    path.display(),
                    options.max_row_bytes
                )));
            }
        };
        let at_once = Longest::rows_at_once(longest, limit);
        let records = RowIter::from_file_into(Box::new(reader)).with_batch_size(at_once);
        Ok(Parquet { path, columns, records, total, number: 0, max_bytes: options.max_row_bytes })
    }

    /// How many rows there are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

impl Rows for Parquet {
    fn next(&mut self) -> Result<Option<Next>> {
        let Some(record) = self.records.next() else { return Ok(None) };
        let record = record.map_err(|error| unreadable(&self.path, &error))?;
        self.number += 1;
        let number = self.number;
        let mut read = Read { bytes: 0, is_exact: true };
        let row = object(&record, &self.columns, &mut read).and_then(|properties| match read.bytes > self.max_bytes {
            true => Err(format!("the row is longer than {} bytes: raise --max-row-bytes", self.max_bytes)),
            false => {
                let kept = if read.is_exact { Kept::Properties } else { Kept::Nothing };
                Ok(Row { number, id: None, tenant: None, properties, bytes: read.bytes, kept })
            }
        });
        Ok(Some(match row {
            Ok(row) => Next::Row(row),
            Err(reason) => Next::Failed(Failed { number, reason, line: None }),
        }))
    }

    fn position(&self) -> u64 {
        self.number
    }
}

/// The name that two of these columns have, or two within one of them.
fn twice(fields: &[Arc<Type>]) -> Option<&str> {
    let mut seen = HashSet::new();
    fields.iter().find_map(|field| match seen.insert(field.name()) {
        false => Some(field.name()),
        true if field.is_group() => twice(field.get_fields()),
        true => None,
    })
}

/// What was read of a row.
struct Read {
    bytes: usize,
    /// Its values say all that the file does: a decimal may have more digits than an f64.
    is_exact: bool,
}

/// Whether two decimals are one: `1.50` and `1.5`.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    plain(one) == plain(other)
}

/// Properties of a row; what is null is left out.
fn object(record: &Record, columns: &Columns, read: &mut Read) -> Result<Map<String, Value>, String> {
    let mut properties = Map::new();
    for (name, field) in record.get_column_iter() {
        read.bytes += name.len();
        if let Some(value) = value(field, name, columns, read)? {
            properties.insert(name.clone(), value);
        }
    }
    Ok(properties)
}

fn value(field: &Field, name: &str, columns: &Columns, read: &mut Read) -> Result<Option<Value>, String> {
    read.bytes += VALUE_BYTES;
    let float = |number: f64| match Number::from_f64(number) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(format!("'{name}' is {number}, which Weaviate has not: leave it empty")),
    };
    let value = match field {
        Field::Null => return Ok(None),
        Field::Bool(yes) => Value::Bool(*yes),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(nanos) if columns.nanos.contains(name) => date(Some(DateTime::from_timestamp_nanos(*nanos)), name)?,
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(f64::from(f32::from(*number)))?,
        Field::Float(number) => float(f64::from(*number))?,
        Field::Double(number) => float(*number)?,
        Field::Str(text) => {
            read.bytes += text.len();
            Value::String(text.clone())
        }
        Field::Bytes(data) => {
            read.bytes += data.len();
            // A column of texts may be written without saying so.
            match std::str::from_utf8(data.data()) {
                Ok(text) => Value::String(text.to_owned()),
                Err(_) => Value::String(STANDARD.encode(data.data())),
            }
        }
        Field::Date(days) => date(DateTime::from_timestamp(i64::from(*days) * 86_400, 0), name)?,
        Field::TimestampMillis(millis) => date(DateTime::from_timestamp_millis(*millis), name)?,
        Field::TimestampMicros(micros) => date(DateTime::from_timestamp_micros(*micros), name)?,
        Field::Group(record) => Value::Object(object(record, columns, read)?),
        Field::ListInternal(list) => {
            let mut elements = Vec::with_capacity(list.len());
            for element in list.elements() {
                elements.extend(self::value(element, name, columns, read)?);
            }
            Value::Array(elements)
        }
        Field::MapInternal(map) => {
            let mut fields = Map::new();
            for (key, field) in map.entries() {
                let Field::Str(key) = key else { return Err(format!("'{name}' is a map whose keys are no texts")) };
                if let Some(value) = self::value(field, name, columns, read)? {
                    fields.insert(key.clone(), value);
                }
            }
            Value::Object(fields)
        }
        other => {
            // Decimals and times of the day, as they are written.
            let text = other.to_string();
            read.bytes += text.len();
            let number = text.parse().ok().and_then(Number::from_f64).filter(|_| !columns.texts.contains(name));
            read.is_exact &= number.as_ref().is_none_or(|number| is_same(&number.to_string(), &text));
            number.map_or(Value::String(text), Value::Number)
        }
    };
    Ok(Some(value))
}

/// A moment in UTC as Weaviate reads dates (RFC 3339).
fn date(moment: Option<DateTime<Utc>>, name: &str) -> Result<Value, String> {
    let moment = moment.ok_or_else(|| format!("'{name}' is a date beyond all calendars"))?;
    Ok(Value::String(moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
}

fn unreadable(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::new(format!("{} cannot be read as Parquet: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;

    use super::*;

    /// A file of no rows with these columns.
    fn opened(columns: &str) -> Result<Parquet> {
        let mut file = tempfile::tempfile().expect("a file");
        let schema = parse_message_type(&format!("message rows {{ {columns} }}")).expect("a schema");
        let writer = SerializedFileWriter::new(&mut file, Arc::new(schema), Arc::default()).expect("a writer");
        writer.close().expect("written");
        let class = json!({"class": "A", "vectorizer": "text2vec-transformers"});
        let collection = Collection::of_json(class, "a test").expect("a class");
        Parquet::new(file, &crate::options::tests::options().source, &collection)
    }

    #[test]
    fn columns_have_names_of_their_own() {
        let text = |name: &str| format!("OPTIONAL BYTE_ARRAY {name} (UTF8);");
        assert!(opened(&format!("{}{}", text("a"), text("b"))).is_ok());
        assert!(opened(&format!("{} OPTIONAL group b {{ {} }}", text("a"), text("a"))).is_ok());
        for columns in
            [format!("{}{}", text("a"), text("a")), format!("OPTIONAL group b {{ {}{} }}", text("a"), text("a"))]
        {
            let error = opened(&columns).err().expect("refused");
            assert!(error.message().contains("two columns are named 'a'"), "{error}");
        }
    }

    #[test]
    fn a_decimal_of_many_digits_is_not_kept() {
        let columns = Columns { nanos: HashSet::new(), texts: HashSet::from(["text".to_owned()]) };
        let decimal = |unscaled: i64, name: &str| {
            let mut read = Read { bytes: 0, is_exact: true };
            let field = Field::Decimal(parquet::data_type::Decimal::from_i64(unscaled, 18, 2));
            value(&field, name, &columns, &mut read).expect("a value");
            read.is_exact
        };
        assert!(decimal(150, "share") && decimal(-1, "share") && decimal(100, "share"));
        assert!(!decimal(123_456_789_012_345_678, "share"));
        assert!(decimal(123_456_789_012_345_678, "text"), "a text has them all");
    }

    #[test]
    fn dates_are_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(date(DateTime::from_timestamp_millis(millis), "seen"), Ok(text.into()));
        }
        let error = date(DateTime::from_timestamp_millis(i64::MAX), "seen").expect_err("refused");
        assert!(error.contains("'seen'"), "{error}");
    }
}
