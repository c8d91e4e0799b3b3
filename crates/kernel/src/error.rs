//! What the kernels refuse.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Weights or settings that nothing can be computed with.
    Unusable,
    /// Rows that these weights cannot take.
    Invalid,
    /// A bug, or a machine that failed us.
    Internal,
}

/// The error underneath.
type Source = Arc<dyn std::error::Error + Send + Sync>;

/// An error with a text made for the person who reads it. What a program decides by has a field of its own; nothing is read
/// out of the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Arc<Content>);

#[derive(Clone)]
struct Content {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    source: Option<Source>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: ErrorKind, message: String) -> Self {
        Error(Arc::new(Content { kind, message, path: None, source: None }))
    }

    /// [`ErrorKind::Unusable`].
    pub fn unusable(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unusable, message.into())
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message.into())
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message.into())
    }

    /// Notes the file or directory at fault, which the text names, unless one is known: the innermost counts.
    pub fn naming(mut self, path: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.0).path.get_or_insert_with(|| path.into());
        self
    }

    /// Notes the error underneath.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file or directory at fault, if the text names one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The error underneath, for an error that takes this one's place.
    pub fn cause(&self) -> Option<Source> {
        self.0.source.clone()
    }
}

/// Without the source, which says nothing that is not in the text.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { kind, message, path, source: _ } = &*self.0;
        let mut shown = f.debug_struct("Error");
        shown.field("kind", kind).field("message", message).field("path", path).finish_non_exhaustive()
    }
}

/// Sources cannot be compared.
impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        let Content { kind, message, path, source: _ } = self;
        (kind, message, path) == (&other.kind, &other.message, &other.path)
    }
}

impl Eq for Content {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_knows_its_file_and_what_is_underneath() {
        let plain = Error::unusable("/a is damaged");
        let error = plain.clone().naming("/a").naming("/").caused_by(fmt::Error);
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unusable, "/a is damaged"));
        assert_eq!((error.path(), plain.path()), (Some(Path::new("/a")), None));
        assert!(std::error::Error::source(&error).is_some_and(|source| source.is::<fmt::Error>()));
        assert_eq!(error, plain.clone().naming("/a"), "sources are not compared");
        assert_ne!(error, plain);
    }
}
