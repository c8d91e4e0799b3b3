//! Standard output.

use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Prints all of it. Whoever stops reading before its end, as `head` does, has seen enough.
///
/// # Errors
/// `Internal` if it cannot be written.
pub(super) fn print_whole(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::internal(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
