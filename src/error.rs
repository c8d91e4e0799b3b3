//! One error type, and ONE table that says what each kind of error means on every wire.

use std::fmt;

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

/// An error with a text made for the person who reads it: what is wrong, then what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
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
        self.kind
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error with more words in front of its text.
    pub fn context(self, prefix: impl fmt::Display) -> Self {
        Error { kind: self.kind, message: format!("{prefix}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<text2vec_kernel::Error> for Error {
    fn from(error: text2vec_kernel::Error) -> Self {
        let kind = match error.kind() {
            text2vec_kernel::ErrorKind::Unusable => ErrorKind::Config,
            text2vec_kernel::ErrorKind::Invalid => ErrorKind::InvalidArgument,
            text2vec_kernel::ErrorKind::Internal => ErrorKind::Internal,
        };
        Error::new(kind, error.message())
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
