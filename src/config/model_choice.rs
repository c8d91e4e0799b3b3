//! Which model is served, and under which name.

use std::path::Path;

use crate::error::{Error, Result};

/// The model served when nothing else is said.
pub const DEFAULT_MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// A model to serve, and the name it is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChoice {
    /// As the operator named it; `None`: as it calls itself.
    pub name: Option<String>,
    /// Directory or Hub id.
    pub source: String,
}

impl ModelChoice {
    /// A model under its own name.
    pub fn unnamed(source: impl Into<String>) -> ModelChoice {
        ModelChoice { name: None, source: source.into() }
    }

    /// Reads `<name>=<source>` or `<source>`. What begins as a path does (`/`, `.`, `~`) is a source, whatever it holds: so a
    /// directory with a `=` in its path is given from `/` or `./` on.
    ///
    /// # Errors
    /// `Config` for a name that callers could not use, and for what may be meant either way.
    pub(super) fn read(text: &str) -> Result<ModelChoice> {
        let (name, source) = match text.split_once('=') {
            Some(parts) if !text.starts_with(['/', '.', '~']) => parts,
            _ => return Ok(ModelChoice::unnamed(text)),
        };
        let refused = |why: &str| Err(Error::config(format!("'{text}': {why}")).parameter("--model"));
        if Path::new(text).exists() {
            return refused(&format!(
                "there is such a directory, yet this is the name '{name}' for '{source}': for the \
                                     directory write ./{text}"
            ));
        }
        if source.is_empty() {
            return refused("nothing is behind '=': give a directory or a Hub id, as <name>=<directory or Hub id>");
        }
        if let Some(why) = no_name(name) {
            return refused(&format!("{why}; a directory with '=' in its path begins with / or ./"));
        }
        Ok(ModelChoice { name: Some(name.into()), source: source.into() })
    }
}

/// The longest name of a model, in bytes.
pub(super) const MAX_NAME: usize = 200;

/// Why callers could not ask for a model by this name.
pub(super) fn no_name(name: &str) -> Option<String> {
    (!is_name(name)).then(|| {
        format!(
            "'{name}' cannot be a name: names have letters, digits, '.', '_' and '-', in parts with '/' between them, each \
             beginning with a letter or digit, perhaps a tag behind ':' (BAAI/bge-small-en-v1.5, nomic-embed-text:v1.5), \
             {MAX_NAME} bytes at most"
        )
    })
}

/// Whether a model may be named so: what Hub ids and Ollama's names are made of, and paths of URLs hold as it is.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let (parts, tag) = match name.rsplit_once(':') {
        Some((parts, tag)) => (parts, Some(tag)),
        None => (name, None),
    };
    name.len() <= MAX_NAME && parts.split('/').all(is_part) && tag.is_none_or(is_part)
}
