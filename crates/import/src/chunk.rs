//! Rows on their way, in chunks of bounded size.

use serde_json::{Map, Value};

/// A row as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its number in the file, from 1. In files of lines this is the line.
    pub(crate) number: u64,
    /// The id that it brings.
    pub(crate) id: Option<String>,
    /// The tenant that it brings.
    pub(crate) tenant: Option<String>,
    /// Its properties.
    pub(crate) properties: Map<String, Value>,
    /// Bytes of its text.
    pub(crate) bytes: usize,
    /// What is kept of it if it fails.
    pub(crate) kept: Kept,
}

/// What the file of failed rows gets of a row: all that it says, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept {
    /// The line that it was, with its properties in `properties`.
    Line(String),
    /// Its properties, which have all that was read.
    Properties,
    /// Nothing, for its properties do not have exactly what was read: a number with more digits than an f64, say.
    Nothing,
}

/// A row that cannot go in, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failed {
    pub(crate) number: u64,
    pub(crate) reason: String,
    /// One line of JSON that an import takes again, if the row can be kept exactly.
    pub(crate) line: Option<String>,
}

/// An object of the collection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) number: u64,
    pub(crate) id: String,
    pub(crate) tenant: String,
    /// Its properties as JSON, which is what the sidecar takes.
    pub(crate) json: String,
    pub(crate) properties: Map<String, Value>,
    /// What is kept of it if it fails; a line has the id already.
    pub(crate) kept: Kept,
}

impl Object {
    /// As a row of JSONL that an import takes.
    fn line(&self) -> Option<String> {
        let mut line = match &self.kept {
            Kept::Line(line) => return Some(line.clone()),
            Kept::Properties => serde_json::json!({"id": self.id, "properties": self.properties}),
            Kept::Nothing => return None,
        };
        if let (false, Some(object)) = (self.tenant.is_empty(), line.as_object_mut()) {
            object.insert("tenant".into(), self.tenant.clone().into());
        }
        Some(line.to_string())
    }

    /// Why it cannot go in.
    pub(crate) fn failed(&self, reason: impl Into<String>) -> Failed {
        Failed { number: self.number, reason: reason.into(), line: self.line() }
    }
}

/// Rows that are embedded and inserted together.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Rows read with this chunk and those before it, from the file's beginning.
    pub(crate) rows_to_here: u64,
    /// Where the file is, in [`Total`](crate::source::Total)'s unit.
    pub(crate) position: u64,
    pub(crate) objects: Vec<Object>,
    pub(crate) failed: Vec<Failed>,
}
