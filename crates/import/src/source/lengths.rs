//! How many values a row of a Parquet file has, before it is put together: runs of equal values take no room in a file, so
//! few bytes of it may be a row that no memory holds.

use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader};
use parquet::file::serialized_reader::SerializedFileReader;

/// Rows that are decoded at once, at most.
const MOST_ROWS: usize = 1024;

/// The most values that a list of one row has where that counts, or the row that has more than `limit` of them.
#[derive(Debug, PartialEq)]
pub(super) enum Longest {
    Fits(usize),
    TooLong { row: u64, column: String },
}

impl Longest {
    /// So many rows may be decoded at once that they have no more than about `limit` values.
    pub(super) fn rows_at_once(longest: usize, limit: usize) -> usize {
        (limit / longest.max(1)).clamp(1, MOST_ROWS)
    }
}

/// Looks at the lists of a file. Those of row groups that have no more than `limit` values are not read.
pub(super) fn longest<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    limit: usize,
) -> Result<Longest, ParquetError> {
    let (mut longest, mut rows_before) = (1, 0);
    for (index, group) in reader.metadata().row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).unwrap_or_default();
        for (place, column) in group.columns().iter().enumerate() {
            let descriptor = column.column_descr();
            let values = u64::try_from(column.num_values()).unwrap_or_default();
            // Each row has one at least, be it null.
            let is_small = values.saturating_sub(rows) < limit as u64;
            if descriptor.max_rep_level() == 0 || is_small {
                continue;
            }
            let width = u16::BITS - descriptor.max_rep_level().unsigned_abs().leading_zeros();
            let mut pages = reader.get_row_group(index)?.get_column_page_reader(place)?;
            let mut counted = Counted { limit, rows: 0, values: 0, longest: 0 };
            while let Some(page) = pages.get_next_page()? {
                let levels = levels(&page)?;
                if !counted.page(levels, width as usize, page.num_values() as usize)? {
                    let column = descriptor.path().string();
                    return Ok(Longest::TooLong { row: rows_before + counted.rows, column });
                }
            }
            longest = longest.max(counted.longest);
        }
        rows_before += rows;
    }
    Ok(Longest::Fits(longest))
}

/// The repetition levels of a page, which say where rows begin; none of a dictionary.
fn levels(page: &Page) -> Result<&[u8], ParquetError> {
    let levels = match page {
        Page::DictionaryPage { .. } => return Ok(&[]),
        Page::DataPage { buf, rep_level_encoding: Encoding::RLE, .. } => {
            let length = buf.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
            length.and_then(|length| buf.get(4..)?.get(..length))
        }
        Page::DataPageV2 { buf, rep_levels_byte_len, .. } => buf.get(..*rep_levels_byte_len as usize),
        Page::DataPage { rep_level_encoding, .. } => {
            return Err(ParquetError::NYI(format!("levels of lists written as {rep_level_encoding}")));
        }
    };
    levels.ok_or_else(broken)
}

fn broken() -> ParquetError {
    ParquetError::General("levels of lists end too early".to_owned())
}

struct Counted {
    limit: usize,
    rows: u64,
    /// Of the row so far.
    values: usize,
    longest: usize,
}

impl Counted {
    /// Counts a page of runs: of one level, or of eight at a time in bits. False: a row has too many.
    fn page(&mut self, mut bytes: &[u8], width: usize, values: usize) -> Result<bool, ParquetError> {
        let mut left = if bytes.is_empty() { 0 } else { values };
        while left > 0 {
            let header = varint(&mut bytes).ok_or_else(broken)?;
            let many = usize::try_from(header >> 1).map_err(|_| broken())?;
            if header & 1 == 0 {
                let (level, rest) = bytes.split_at_checked(width.div_ceil(8)).ok_or_else(broken)?;
                bytes = rest;
                let run = many.min(left);
                if run == 0 {
                    return Err(broken());
                }
                left -= run;
                if !self.run(level.iter().all(|&byte| byte == 0), run) {
                    return Ok(false);
                }
                continue;
            }
            let length = many.checked_mul(width).ok_or_else(broken)?.min(bytes.len());
            let (packed, rest) = bytes.split_at(length);
            bytes = rest;
            let run = (packed.len() * 8 / width).min(left);
            if run == 0 {
                return Err(broken());
            }
            left -= run;
            for index in 0..run {
                let is_zero = (index * width..(index + 1) * width).all(|bit| packed[bit / 8] >> (bit % 8) & 1 == 0);
                if !self.run(is_zero, 1) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Values that begin a row each, or that go on in the one before.
    fn run(&mut self, begins: bool, many: usize) -> bool {
        if begins {
            self.rows += many as u64;
            self.values = 1;
        } else {
            self.values = self.values.saturating_add(many);
        }
        self.longest = self.longest.max(self.values);
        self.longest <= self.limit
    }
}

/// A number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use parquet::data_type::Int32Type;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A file of one column of lists, of these lengths.
    fn file(lengths: &[usize], version: WriterVersion) -> SerializedFileReader<File> {
        let schema = "message rows { OPTIONAL group tags (LIST) { REPEATED group list { OPTIONAL INT32 element; } } }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let properties = WriterProperties::builder().set_writer_version(version).set_data_page_size_limit(4096);
        let mut file = tempfile::tempfile().expect("a file");
        let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties.build())).expect("a writer");
        for lengths in lengths.chunks(100) {
            let repetitions = lengths.iter().flat_map(|&length| (0..length.max(1)).map(|at| i16::from(at > 0)));
            let repetitions: Vec<i16> = repetitions.collect();
            let definitions: Vec<i16> =
                lengths.iter().flat_map(|&length| vec![if length == 0 { 0 } else { 3 }; length.max(1)]).collect();
            let values: Vec<i32> = (0..lengths.iter().sum::<usize>() as i32).collect();
            let mut group = writer.next_row_group().expect("a group");
            let mut column = group.next_column().expect("a column").expect("one");
            let typed = column.typed::<Int32Type>();
            typed.write_batch(&values, Some(&definitions), Some(&repetitions)).expect("written");
            column.close().expect("closed");
            group.close().expect("closed");
        }
        writer.close().expect("closed");
        SerializedFileReader::new(file).expect("a reader")
    }

    #[test]
    fn the_longest_row_is_found_before_it_is_read() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let mut lengths: Vec<usize> = (0..250).map(|row| row % 7).collect();
            let fits = |lengths: &[usize], limit| longest(&file(lengths, version), limit).expect("readable");
            assert_eq!(fits(&lengths, 6), Longest::Fits(6));
            lengths[130] = 20_000;
            assert_eq!(fits(&lengths, 20_000), Longest::Fits(20_000));
            let too_long = Longest::TooLong { row: 131, column: "tags.list.element".into() };
            assert_eq!(fits(&lengths, 19_999), too_long);
            assert_eq!(fits(&lengths, 7), too_long);
            assert_eq!(fits(&[0, 9], 8), Longest::TooLong { row: 2, column: "tags.list.element".into() });
        }
        assert_eq!(Longest::rows_at_once(6, 5), 1);
        assert_eq!(Longest::rows_at_once(1, 1 << 20), MOST_ROWS);
    }
}
