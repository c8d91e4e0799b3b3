//! The kinds of errors, as the description tells of them.

use crate::error::{Error, ErrorKind};

use ErrorKind::{
    DeadlineExceeded, Internal, InvalidArgument, NotFound, Overloaded, SlowRequest, TooLarge, Unavailable,
    UnsupportedCoding, Upstream,
};

/// Of every body that is read.
pub(super) const OF_A_BODY: [ErrorKind; 4] = [InvalidArgument, SlowRequest, TooLarge, UnsupportedCoding];

/// Of what is computed, or asked of another server.
pub(super) const OF_A_MODEL: [ErrorKind; 5] = [Overloaded, Internal, Upstream, Unavailable, DeadlineExceeded];

/// Of what the tokenizer is asked.
pub(super) const OF_A_TOKENIZER: [ErrorKind; 4] = [Overloaded, Internal, Unavailable, DeadlineExceeded];

/// Where the request names a model.
pub(super) const OF_A_NAME: [ErrorKind; 1] = [NotFound];

/// What a kind means to whoever calls.
pub(super) fn about(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "The request cannot be served as it is.",
        ErrorKind::Unauthenticated => {
            "Tokens or client certificates are set, and the request shows none that is right."
        }
        ErrorKind::PermissionDenied => "The operator's rules forbid it.",
        ErrorKind::NotFound => "No such model: the message names those there are.",
        ErrorKind::TooLarge => "A limit is exceeded: the message names its flag.",
        ErrorKind::SlowRequest => "The body did not arrive in time (`--max-body-wait`).",
        ErrorKind::UnsupportedCoding => "The body's `Content-Encoding` is another than gzip.",
        ErrorKind::Overloaded => "Too much work is waiting: its turn did not come within `--max-wait`.",
        ErrorKind::Unavailable => {
            "The model is not loaded yet, or the server cannot serve any more: the message says why."
        }
        ErrorKind::DeadlineExceeded => "Not done within the caller's `X-Request-Timeout`.",
        ErrorKind::Upstream => "The server that texts are forwarded to failed.",
        ErrorKind::Unimplemented => "Not offered by this server.",
        ErrorKind::Config | ErrorKind::Internal => "A bug, or a machine that failed.",
    }
}

/// An error of a kind, as it is said.
pub(super) fn example(kind: ErrorKind) -> Error {
    let error = |words: &str| Error::new(kind, words);
    match kind {
        ErrorKind::InvalidArgument => {
            error("'dimensions' is 0: use 1 or more, or leave it out").parameter("dimensions")
        }
        ErrorKind::Unauthenticated => error(
            "Unauthorized: no token came with the request: send 'Authorization: Bearer <token>', or the token as \
             password of Basic, in a URL http://any:<token>@host:port",
        ),
        ErrorKind::PermissionDenied => error("forbidden"),
        ErrorKind::NotFound => error("no model 'gpt' is served here: there is 'all-MiniLM-L6-v2'"),
        ErrorKind::TooLarge => {
            error("the body is larger than 67108864 bytes: send less at once or raise --max-body-bytes")
        }
        ErrorKind::SlowRequest => error(
            "the request did not arrive within 60s: send less at once, over a faster connection, or raise \
             --max-body-wait",
        ),
        ErrorKind::UnsupportedCoding => {
            error("the body's Content-Encoding is 'br', which is not undone here: send it plain or as gzip")
        }
        ErrorKind::Overloaded => error("too many ask for tokens: try again later"),
        ErrorKind::Unavailable => error("not ready: the model is being loaded"),
        ErrorKind::DeadlineExceeded => error("not done within the caller's deadline of 2.5s"),
        ErrorKind::Upstream => error("the answer is not JSON (upstream http://t2v:8080)"),
        ErrorKind::Unimplemented => error("not offered here"),
        ErrorKind::Config | ErrorKind::Internal => error("the inference thread has ended"),
    }
}
