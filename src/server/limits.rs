//! Limits on requests and connections, each with the name of its flag.

use std::time::Duration;

use crate::backend::meta::ServerReport;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Limits on what one request may carry. An answer that refuses names the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an HTTP body or of a gRPC message we accept.
    pub max_body_bytes: usize,
    /// Texts, or objects, of one request.
    pub max_texts: usize,
    /// Bytes of one text.
    pub max_text_bytes: usize,
    /// How long a request may wait for its turn. Weaviate gives a request up after 50 s.
    pub max_wait: Duration,
    /// How long a body, or a gRPC message, may take to arrive, once there is room for it.
    pub max_body_wait: Duration,
    /// How long a connection may take for its TLS handshake, for its first byte, and for a head that has begun.
    pub max_head_wait: Duration,
    /// Bytes of a request's head: its target and its headers, 32 more for each of these.
    pub max_head_bytes: usize,
    /// Connections served at once.
    pub max_connections: usize,
    /// Bytes of a class: of its JSON, and of what is kept of it.
    pub max_class_bytes: usize,
    /// Bytes of request bodies in memory at once, of all requests that are being read or answered.
    pub max_inflight_bytes: usize,
    /// Bytes of text whose tokens one request may ask for; of token ids in a request, each counts as four.
    pub max_tokenize_bytes: usize,
    /// Bytes of vectors in memory at once, of all answers that are being made or sent.
    pub max_answer_bytes: usize,
    /// How long we wait for whoever is to read an answer.
    pub max_write_wait: Duration,
}

impl Limits {
    /// Bytes of one text, unless told otherwise.
    pub const DEFAULT_TEXT_BYTES: usize = 4 * 1024 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body_bytes: 64 * 1024 * 1024,
            max_texts: 10_000,
            max_text_bytes: Limits::DEFAULT_TEXT_BYTES,
            max_wait: Duration::from_secs(45),
            max_body_wait: Duration::from_secs(60),
            max_head_wait: Duration::from_secs(10),
            max_head_bytes: 32 * 1024,
            max_connections: 8192,
            max_class_bytes: 1024 * 1024,
            max_inflight_bytes: 256 * 1024 * 1024,
            max_tokenize_bytes: 256 * 1024,
            max_answer_bytes: 128 * 1024 * 1024,
            max_write_wait: Duration::from_secs(60),
        }
    }
}

/// For `/meta`; what is no limit is left out.
impl From<&Limits> for ServerReport {
    fn from(limits: &Limits) -> Self {
        ServerReport {
            max_body_bytes: limits.max_body_bytes,
            max_texts: limits.max_texts,
            max_text_bytes: limits.max_text_bytes,
            max_class_bytes: limits.max_class_bytes,
            max_wait_seconds: limits.max_wait.as_secs_f64(),
            max_body_wait_seconds: limits.max_body_wait.as_secs_f64(),
            max_head_wait_seconds: limits.max_head_wait.as_secs_f64(),
            max_head_bytes: limits.max_head_bytes,
            max_connections: limits.max_connections,
            max_inflight_bytes: limits.max_inflight_bytes,
            max_tokenize_bytes: limits.max_tokenize_bytes,
            max_answer_bytes: limits.max_answer_bytes,
            max_write_wait_seconds: limits.max_write_wait.as_secs_f64(),
            ..ServerReport::default()
        }
    }
}

impl Limits {
    /// The refusal of a body that is too large.
    pub(super) fn body_too_large(&self) -> Error {
        metrics().refused(Refusal::MaxBodyBytes);
        let limit = self.max_body_bytes;
        let message = format!("the body is larger than {limit} bytes: send less at once or raise --max-body-bytes");
        Error::new(ErrorKind::TooLarge, message)
    }

    /// Token ids in one request.
    pub(super) fn most_token_ids(&self) -> usize {
        self.max_tokenize_bytes / size_of::<u32>()
    }

    /// Refuses a request with too many token ids.
    pub(super) fn check_token_ids(&self, ids: usize) -> Result<()> {
        let most = self.most_token_ids();
        if ids > most {
            metrics().refused(Refusal::MaxTokenizeBytes);
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{ids} token ids in one request, {most} are allowed: send less at once or raise --max-tokenize-bytes, \
                     which is four times that"
                ),
            ));
        }
        Ok(())
    }
}
