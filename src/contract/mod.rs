//! Weaviate's `text2vec-transformers` module as plain Rust: no I/O, no async, no wire format.
//!
//! Given a Weaviate class, an object or a query, this module says what Weaviate's own module would have done: which
//! settings hold, which text is embedded, where it is embedded, how query vectors are combined. It never embeds
//! anything itself. "Weaviate" below means its Go source, main of 2026-08 (v1.39 line); file names cite it.
//!
//! | to find | look in |
//! |---|---|
//! | class JSON → [`class::Settings`], class validation, stored defaults | [`class`] |
//! | object → text | [`object_text`] |
//! | nearText → texts to embed → one query vector | [`near_text`] |
//! | local model or URL | [`endpoint`] |
//! | what a backend is asked in one call | [`call`], [`request`] |
//! | the pieces these are made of | [`value`], [`property_value`], [`camel_case`], [`go_format`], [`date`], [`uuid`] |

pub mod call;
pub mod camel_case;
pub mod class;
pub mod date;
pub mod endpoint;
pub mod go_format;
pub mod module;
pub mod near_text;
pub mod object_text;
pub mod property_value;
pub mod request;
pub mod uuid;
pub mod value;
