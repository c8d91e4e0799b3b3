//! Texts from files and pipes: a line each, no more of them in memory than a limit says.

use std::io::{BufRead, Read};
use std::path::Path;

use crate::contract::call::Text;
use crate::error::{Error, Result};
use crate::server::Limits;
use crate::small_file;

/// The longest line of a text, in bytes: what a server takes by default.
const MAX_LINE_BYTES: usize = Limits::DEFAULT_TEXT_BYTES;

/// The largest file of `compare --texts`, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Lines of an input, a few at a time.
pub(super) struct Lines<R> {
    input: R,
    name: String,
    /// Of the last line that was read, from 1 on.
    number: usize,
}

impl<R: BufRead> Lines<R> {
    /// `name` is how errors call it.
    pub(super) fn of(input: R, name: impl Into<String>) -> Lines<R> {
        Lines { input, name: name.into(), number: 0 }
    }

    /// The next lines: so many at most, and none more once they have [`MAX_LINE_BYTES`] together. None at the end.
    ///
    /// # Errors
    /// `InvalidArgument` for a line that is too long or not UTF-8, and for an input that cannot be read.
    pub(super) fn some(&mut self, most: usize) -> Result<Vec<Text>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < most && bytes < MAX_LINE_BYTES {
            let Some(line) = self.next()? else { break };
            bytes += line.len();
            lines.push(Text::from(line));
        }
        Ok(lines)
    }

    fn next(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        // One for the end of the line, one that is too many.
        let read = self.input.by_ref().take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', &mut line);
        read.map_err(|error| Error::invalid(format!("{} cannot be read: {error}", self.name)))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        }
        let place = || format!("line {} of {}", self.number, self.name);
        if line.len() > MAX_LINE_BYTES {
            return Err(Error::invalid(format!(
                "{} has more than {MAX_LINE_BYTES} bytes, the most of a text: give a text on each line",
                place()
            )));
        }
        let text = String::from_utf8(line);
        text.map(Some).map_err(|_| Error::invalid(format!("{} is not UTF-8: save it as that", place())))
    }
}

/// The lines of a file that is not too large.
///
/// # Errors
/// `Config` for a file that cannot be read, is too large or holds no text.
pub(super) fn texts_of(path: &Path) -> Result<Vec<Text>> {
    let shown = path.display();
    let unreadable = |error| Error::config(format!("{shown} cannot be read: {error}"));
    let too_large = || Error::config(format!("{shown} has more than {MAX_FILE_BYTES} bytes: compare by fewer texts"));
    let bytes = small_file::read_up_to(path, MAX_FILE_BYTES).map_err(unreadable)?.ok_or_else(too_large)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::config(format!("{shown} is not UTF-8: save it as that")))?;
    let texts: Vec<Text> = text.lines().map(Text::from).collect();
    if texts.iter().all(|text| text.trim().is_empty()) {
        return Err(Error::config(format!("{shown} holds no text: write one per line")));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn lines_come_a_few_at_a_time() {
        let mut lines = Lines::of(Cursor::new("one\r\ntwo\n\nfour"), "a file");
        let texts = |texts: Vec<Text>| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        assert_eq!(texts(lines.some(2).expect("lines")), ["one", "two"]);
        assert_eq!(texts(lines.some(9).expect("lines")), ["", "four"]);
        assert!(lines.some(9).expect("lines").is_empty());
    }

    #[test]
    fn long_lines_are_not_taken_together() {
        let line = "x".repeat(MAX_LINE_BYTES / 2);
        let mut lines = Lines::of(Cursor::new(format!("{line}\n{line}\n{line}\n")), "a file");
        assert_eq!(lines.some(9).expect("lines").len(), 2);
        assert_eq!(lines.some(9).expect("lines").len(), 1);
        let longest = Lines::of(Cursor::new(format!("{}\r\nx", "x".repeat(MAX_LINE_BYTES - 1))), "a file").some(1);
        assert_eq!(longest.expect("a line")[0].len(), MAX_LINE_BYTES - 1);
    }

    #[test]
    fn a_line_that_is_no_text_is_named() {
        let read = |bytes: Vec<u8>| Lines::of(Cursor::new(bytes), "standard input").some(9).expect_err("refused");
        let endless = [b"one\n".to_vec(), vec![b'x'; 3 * MAX_LINE_BYTES]].concat();
        assert!(read(endless).message().starts_with("line 2 of standard input has more than 4194304 bytes"));
        let error = read(b"one\n\xff\n".to_vec());
        assert_eq!(error.message(), "line 2 of standard input is not UTF-8: save it as that");
    }
}
