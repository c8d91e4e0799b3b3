//! What the HTTP surfaces take and answer, as OpenAPI 3.1 (`GET /openapi.json`) and as a page (`GET /docs`). A file
//! for each surface describes its operations, with the types that its answers are made of where they are made of
//! types, and with types of the same shape where they are written piece by piece. `tests/server/openapi.rs` holds
//! answers against it.

pub(super) mod about;
mod document;
pub(super) mod ollama;
pub(super) mod openai;
pub(super) mod operation;
mod page;
mod plain;
mod refusals;
pub(super) mod rerank;
mod shapes;
pub(super) mod t2v;
pub(super) mod tei;

pub(super) use document::{Entry, document};
pub(super) use page::{docs, json, script, style};

/// Whether a path belongs to the description, which is open to all: it holds nothing that the source does not.
pub(in crate::server) fn is_open(path: &str) -> bool {
    matches!(path, "/openapi.json" | "/docs") || path.starts_with("/docs/")
}
