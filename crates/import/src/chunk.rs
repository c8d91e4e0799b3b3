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
}

/// A row that cannot go in, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failed {
    pub(crate) number: u64,
    pub(crate) reason: String,
    /// What it would have been, if it could be read: one line of JSON that an import takes again.
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
}

impl Object {
    /// As a row of JSONL that an import takes.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::json!({"id": self.id, "properties": self.properties});
        if let (false, Some(object)) = (self.tenant.is_empty(), line.as_object_mut()) {
            object.insert("tenant".into(), self.tenant.clone().into());
        }
        line.to_string()
    }

    /// Why it cannot go in.
    pub(crate) fn failed(&self, reason: impl Into<String>) -> Failed {
        Failed { number: self.number, reason: reason.into(), line: Some(self.line()) }
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
