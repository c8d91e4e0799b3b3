//! Lines of bounded length.

use std::io::{BufRead, BufReader, Read};

/// Reads lines, and no more of one than is allowed.
pub(super) struct Lines {
    read: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    max_bytes: usize,
}

/// What a line turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// Its bytes, without its end.
    Whole(&'a [u8]),
    /// Longer than is allowed; it was read over.
    TooLong,
}

impl Lines {
    pub(super) fn new(read: Box<dyn Read + Send>, max_bytes: usize) -> Lines {
        Lines { read: BufReader::with_capacity(1 << 16, read), line: Vec::new(), max_bytes }
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Line<'_>>> {
        self.line.clear();
        let limit = self.max_bytes as u64 + 2;
        if (&mut self.read).take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        let is_whole = self.line.last() == Some(&b'\n');
        let mut line = self.line.as_slice();
        line = line.strip_suffix(b"\n").unwrap_or(line);
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        if length <= self.max_bytes {
            return Ok(Some(Line::Whole(&self.line[..length])));
        }
        if !is_whole {
            self.pass_over()?;
        }
        // The room it took is not kept.
        self.line = Vec::new();
        Ok(Some(Line::TooLong))
    }

    /// Reads to the line's end and keeps nothing.
    fn pass_over(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.read.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            match buffer.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.read.consume(end + 1);
                    return Ok(());
                }
                None => {
                    let length = buffer.len();
                    self.read.consume(length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn long_lines_are_passed_over() {
        let long = "x".repeat(300_000);
        let text = format!("one\r\n\n{long}\n12345\n123456\nlast");
        let mut lines = Lines::new(Box::new(Cursor::new(text.into_bytes())), 5);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().expect("readable") {
            seen.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong => "too long".to_owned(),
            });
        }
        assert_eq!(seen, ["one", "", "too long", "12345", "too long", "last"]);
        assert!(lines.line.capacity() < 1000);
    }
}
