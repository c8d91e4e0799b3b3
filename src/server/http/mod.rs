//! The HTTP surfaces, one file each, and what they share: error answers and the paths around them; and their description.

pub(super) mod asked;
pub(super) mod description;
pub(super) mod errors;
mod fastapi;
mod json;
mod metrics;
mod ollama;
mod openai;
pub(super) mod page;
pub(super) mod path;
mod plain;
mod rerank;
mod router;
mod t2v;
mod tei;
mod written;

pub(super) use router::router;
