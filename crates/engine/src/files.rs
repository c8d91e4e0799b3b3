//! Files of a model directory that may be missing.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A file's text, `None` when there is no such file.
///
/// # Errors
/// One that is there and cannot be read.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// A file's JSON object, `None` when there is no such file.
///
/// # Errors
/// One that is there and cannot be read, or is no JSON object.
pub fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Error::unusable(format!("{} is not a JSON object: {error}", path.display())).naming(path))
}

/// What is said of a file that cannot be read.
pub(crate) fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::unusable(format!("{} cannot be read: {error}", path.display())).naming(path).caused_by(error)
}
