//! One error type, and ONE table that says what each kind of error means on every wire.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What went wrong, from the caller's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request cannot be served as it is; sending it again will not help.
    InvalidArgument,
    /// No or a wrong token.
    Unauthenticated,
    /// The operator's rules forbid it.
    PermissionDenied,
    /// No such model, method or path.
    NotFound,
    /// One of the documented size limits is exceeded; the error names it.
    TooLarge,
    /// The request did not arrive in time.
    SlowRequest,
    /// The body is coded in a way that is not undone here.
    UnsupportedCoding,
    /// Too much work is waiting; try again later.
    Overloaded,
    /// Not loaded yet, or shutting down.
    Unavailable,
    /// The caller's deadline passed before an answer was there.
    DeadlineExceeded,
    /// A remote inference container failed.
    Upstream,
    /// Known to the interface, not offered by this server.
    Unimplemented,
    /// The start-up configuration or a file it names cannot be used.
    Config,
    /// A bug, or a machine that failed us.
    Internal,
}

/// What a kind of error means on the wires: HTTP status, `google.rpc.Code`, metric label, worth a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// HTTP status code.
    pub http_status: u16,
    /// `google.rpc.Code` number.
    pub grpc_code: i32,
    /// Label for logs, and the `reason` of gRPC errors, where two kinds may share a code.
    pub label: &'static str,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl ErrorKind {
    /// Every kind, for tests and for documentation.
    pub const ALL: [ErrorKind; 14] = [
        ErrorKind::InvalidArgument,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::NotFound,
        ErrorKind::TooLarge,
        ErrorKind::SlowRequest,
        ErrorKind::UnsupportedCoding,
        ErrorKind::Overloaded,
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Upstream,
        ErrorKind::Unimplemented,
        ErrorKind::Config,
        ErrorKind::Internal,
    ];

    /// The kind with this label, as another sidecar names it.
    pub fn labelled(label: &str) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.meaning().label == label)
    }

    /// The table.
    pub const fn meaning(self) -> Meaning {
        const fn row(http_status: u16, grpc_code: i32, label: &'static str, retryable: bool) -> Meaning {
            Meaning { http_status, grpc_code, label, retryable }
        }
        match self {
            ErrorKind::InvalidArgument => row(400, 3, "invalid_argument", false),
            ErrorKind::Unauthenticated => row(401, 16, "unauthenticated", false),
            ErrorKind::PermissionDenied => row(403, 7, "permission_denied", false),
            ErrorKind::NotFound => row(404, 5, "not_found", false),
            ErrorKind::TooLarge => row(413, 8, "too_large", false),
            ErrorKind::SlowRequest => row(408, 4, "slow_request", true),
            ErrorKind::UnsupportedCoding => row(415, 3, "unsupported_coding", false),
            ErrorKind::Overloaded => row(429, 8, "overloaded", true),
            ErrorKind::Unavailable => row(503, 14, "unavailable", true),
            ErrorKind::DeadlineExceeded => row(504, 4, "deadline_exceeded", false),
            ErrorKind::Upstream => row(502, 14, "upstream", true),
            ErrorKind::Unimplemented => row(501, 12, "unimplemented", false),
            ErrorKind::Config => row(500, 9, "config", false),
            ErrorKind::Internal => row(500, 13, "internal", false),
        }
    }
}

/// Where an error happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An upstream or one of its replicas, by its URLs as people may see them: no user-info, no query.
    Upstream(String),
    /// The file or directory at fault.
    File(PathBuf),
}

/// The error underneath.
type Source = Arc<dyn std::error::Error + Send + Sync>;

/// An error with a text made for the person who reads it: what is wrong, then what to do. What a program decides by has
/// a field of its own; nothing is read out of the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Arc<Content>);

#[derive(Clone)]
struct Content {
    kind: ErrorKind,
    message: String,
    place: Option<Place>,
    parameter: Option<Cow<'static, str>>,
    source: Option<Source>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Content { kind, message: message.into(), place: None, parameter: None, source: None }))
    }

    /// [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// [`ErrorKind::Config`]: something the operator can mend.
    pub fn config(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text for people, which is all of [`Display`](fmt::Display).
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where it happened, as far as it is known.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// What [`Error::parameter`] named.
    pub fn parameter_name(&self) -> Option<&str> {
        self.0.parameter.as_deref()
    }

    /// The same error of another kind.
    pub fn with_kind(self, kind: ErrorKind) -> Self {
        self.with(|content| content.kind = kind)
    }

    /// The same error in other words.
    pub fn with_message(self, message: impl Into<String>) -> Self {
        let message = message.into();
        self.with(|content| content.message = message)
    }

    /// The same error with more words in front of its text.
    pub fn context(self, prefix: impl fmt::Display) -> Self {
        let message = format!("{prefix}: {}", self.message());
        self.with_message(message)
    }

    /// Notes the place where it happened and tells it, unless one is known: the innermost counts.
    pub fn at(self, place: Place) -> Self {
        if self.place().is_some() { self } else { self.telling(&place).naming(place) }
    }

    /// Notes the place where it happened, which the text names already, unless one is known: the innermost counts.
    pub fn naming(self, place: Place) -> Self {
        self.with(|content| content.place = content.place.take().or(Some(place)))
    }

    /// Tells a place in the text, whatever is noted: a file in front (`/models/bge: …`), an upstream behind
    /// (`… (upstream http://t2v:8080)`).
    pub fn telling(self, place: &Place) -> Self {
        let message = match place {
            Place::Upstream(url) => format!("{} (upstream {url})", self.message()),
            Place::File(path) => format!("{}: {}", path.display(), self.message()),
        };
        self.with_message(message)
    }

    /// Notes what is at fault, unless that is known: the request's field by its name on the wire or, in an error of the kind
    /// `Config`, the flag. What is `TooLarge` for a limit names the limit's flag in its text alone.
    pub fn parameter(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.with(|content| content.parameter = content.parameter.take().or_else(|| Some(name.into())))
    }

    /// Notes the error underneath.
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.with(|content| content.source = Some(Arc::new(source)))
    }

    /// Changes one part and keeps the rest.
    fn with(mut self, change: impl FnOnce(&mut Content)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

/// Without the source, which says nothing that is not in the text and may show what people should not see.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { kind, message, place, parameter, source: _ } = &*self.0;
        let mut shown = f.debug_struct("Error");
        shown.field("kind", kind).field("message", message).field("place", place).field("parameter", parameter);
        shown.finish_non_exhaustive()
    }
}

/// Sources cannot be compared.
impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        let Content { kind, message, place, parameter, source: _ } = self;
        (kind, message, place, parameter) == (&other.kind, &other.message, &other.place, &other.parameter)
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

impl From<text2vec_kernel::Error> for Error {
    fn from(error: text2vec_kernel::Error) -> Self {
        let kind = match error.kind() {
            text2vec_kernel::ErrorKind::Unusable => ErrorKind::Config,
            text2vec_kernel::ErrorKind::Invalid => ErrorKind::InvalidArgument,
            text2vec_kernel::ErrorKind::Internal => ErrorKind::Internal,
        };
        let place = error.path().map(|path| Place::File(path.to_owned()));
        let made = Error::new(kind, error.message());
        made.with(|content| (content.place, content.source) = (place, error.cause()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_error_status_and_its_own_label() {
        let mut labels: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.meaning().label).collect();
        for kind in ErrorKind::ALL {
            let meaning = kind.meaning();
            assert!((400..600).contains(&meaning.http_status), "{kind:?}");
            assert!((1..=16).contains(&meaning.grpc_code), "{kind:?}");
            assert_eq!(ErrorKind::labelled(meaning.label), Some(kind));
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), ErrorKind::ALL.len());
        assert_eq!(ErrorKind::labelled(""), None);
    }

    #[test]
    fn an_error_keeps_what_is_known_of_it() {
        let upstream = || Place::Upstream("http://t2v:8080".to_owned());
        let error = Error::invalid("no such length").parameter("dimensions").caused_by(fmt::Error);
        let told = error.clone().context("text 1").at(upstream());
        assert_eq!(told.message(), "text 1: no such length (upstream http://t2v:8080)");
        assert_eq!(told.to_string(), told.message());
        assert_eq!((told.place(), told.parameter_name()), (Some(&upstream()), Some("dimensions")));
        assert!(std::error::Error::source(&told).is_some_and(|source| source.is::<fmt::Error>()));
        let other = told.clone().with_kind(ErrorKind::PermissionDenied).with_message("no");
        assert_eq!((other.kind(), other.message(), other.place()), (ErrorKind::PermissionDenied, "no", told.place()));
        // The innermost counts, and is told once.
        let file = Place::File("/models/bge".into());
        assert_eq!(told.clone().at(file.clone()).at(upstream()).parameter("texts"), told);
        assert_eq!(error.clone().at(file.clone()).message(), "/models/bge: no such length");
        assert_eq!(error.clone().naming(file.clone()).at(upstream()).message(), "no such length");
        // What it was made from is as it was.
        assert_eq!((error.message(), error.place()), ("no such length", None));
    }

    #[test]
    fn errors_are_equal_whatever_their_sources_are() {
        let error = || Error::config("a").parameter("--threads");
        assert_eq!(error().caused_by(fmt::Error), error());
        assert_ne!(error().naming(Place::File("/a".into())), error());
        assert_ne!(error(), Error::config("a"));
        assert_ne!(error().with_kind(ErrorKind::Internal), error());
    }

    #[test]
    fn errors_are_small_and_show_no_source() {
        assert!(size_of::<Error>() <= 64);
        let secret = std::io::Error::other("a secret");
        assert!(!format!("{:?}", Error::config("a").caused_by(secret)).contains("secret"));
    }

    #[test]
    fn the_engine_s_errors_keep_their_file_and_source() {
        let error = text2vec_kernel::Error::unusable("/a/b is damaged").naming("/a/b").caused_by(fmt::Error);
        let error = Error::from(error).at(Place::File("/a".into()));
        assert_eq!((error.kind(), error.message()), (ErrorKind::Config, "/a/b is damaged"));
        assert_eq!(error.place(), Some(&Place::File("/a/b".into())));
        assert!(std::error::Error::source(&error).is_some());
        let nameless = Error::from(text2vec_kernel::Error::unusable("damaged")).at(Place::File("/a".into()));
        assert_eq!(nameless.message(), "/a: damaged");
    }

    /// Callers over gRPC learn from the proto file which reasons are worth another try.
    #[test]
    fn the_proto_file_names_the_kinds_that_may_succeed_later() {
        let retryable: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.meaning()).filter(|row| row.retryable).collect();
        let names: Vec<_> = retryable.iter().map(|row| format!("\"{}\"", row.label)).collect();
        let (last, others) = names.split_last().expect("some");
        let sentence = format!("{} and {last} may succeed later", others.join(", "));
        let proto = include_str!("../proto/text2vec/v1/text2vec.proto");
        assert!(proto.contains(&sentence), "not in the proto file: {sentence}");
    }
}
