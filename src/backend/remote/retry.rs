//! What came of an attempt, and how many more there may be.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::telemetry::metrics::labels::UpstreamError;

/// Attempts of one request at most, connections that could not be made at all aside.
pub const ATTEMPTS: u32 = 3;

/// What came of an attempt that brought no vectors. Each kind says what may be done next.
#[derive(Debug, Clone)]
pub enum Failure {
    /// No connection: nothing was sent. Another replica may be asked at no cost.
    Unsent(Error),
    /// The connection broke before an answer began. Once more, elsewhere: a text that breaks servers must not go round.
    Broken(Error),
    /// 502, 503, or 429 with `Retry-After`: the upstream asks for patience.
    Busy(Error, Option<Duration>),
    /// No answer in time. Not again: the work may still be going on there.
    Late(Error),
    /// The upstream is at fault in a way that says something about its health: garbage, half an answer. Not again.
    Fault(Error),
    /// An answer that stands: the text, its settings, or a rule. Says nothing about the upstream's health.
    Refused(Error),
}

impl Failure {
    /// The error for the caller.
    pub fn error(&self) -> &Error {
        match self {
            Failure::Unsent(error) | Failure::Broken(error) | Failure::Busy(error, _) => error,
            Failure::Late(error) | Failure::Fault(error) | Failure::Refused(error) => error,
        }
    }

    /// Its name in metrics and spans.
    pub fn label(&self) -> UpstreamError {
        match self {
            Failure::Unsent(_) => UpstreamError::Unsent,
            Failure::Broken(_) => UpstreamError::Broken,
            Failure::Busy(..) => UpstreamError::Busy,
            Failure::Late(_) => UpstreamError::Late,
            Failure::Fault(_) => UpstreamError::Fault,
            Failure::Refused(_) => UpstreamError::Refused,
        }
    }

    /// The same failure with another error.
    pub fn map(self, f: impl FnOnce(Error) -> Error) -> Failure {
        match self {
            Failure::Unsent(error) => Failure::Unsent(f(error)),
            Failure::Broken(error) => Failure::Broken(f(error)),
            Failure::Busy(error, wait) => Failure::Busy(f(error), wait),
            Failure::Late(error) => Failure::Late(f(error)),
            Failure::Fault(error) => Failure::Fault(f(error)),
            Failure::Refused(error) => Failure::Refused(f(error)),
        }
    }

    /// What an HTTP status that is not success means, for an error text made from the body.
    pub fn from_status(status: u16, retry_after: Option<Duration>, text: String) -> Failure {
        let error = |kind| Error::new(kind, text.clone());
        match status {
            400 | 422 => Failure::Refused(error(ErrorKind::InvalidArgument)),
            413 => Failure::Refused(error(ErrorKind::TooLarge)),
            429 if retry_after.is_some() => Failure::Busy(error(ErrorKind::Overloaded), retry_after),
            429 => Failure::Refused(error(ErrorKind::Overloaded)),
            502 => Failure::Busy(error(ErrorKind::Upstream), retry_after),
            503 => Failure::Busy(error(ErrorKind::Unavailable), retry_after),
            504 => Failure::Fault(error(ErrorKind::Upstream)),
            // The reference container answers a text it cannot embed with 500. Credentials are the operator's matter, so
            // 401 and 403 are no verdict on the caller.
            _ => Failure::Refused(error(ErrorKind::Upstream)),
        }
    }
}

/// Retries that may still be made: a few in reserve, and one for every so many requests. However things go wrong, retries
/// add at most a fifth to the load, beside the reserve.
#[derive(Debug)]
pub struct Budget {
    tokens: Mutex<f64>,
    reserve: f64,
}

/// Part of a retry that each request earns.
const EARNED: f64 = 0.2;

impl Budget {
    /// A budget with this many retries in reserve: as many as can be in flight, so that a replica may die under full load.
    pub fn new(reserve: usize) -> Budget {
        let reserve = reserve as f64;
        Budget { tokens: Mutex::new(reserve), reserve }
    }

    /// A request was made.
    pub fn earn(&self) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens = (*tokens + EARNED).min(self.reserve);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&self) -> bool {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *tokens >= 1.0;
        *tokens -= f64::from(u8::from(enough));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_beside_the_reserve() {
        let budget = Budget::new(10);
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            // Everything fails, and every request wants two more attempts.
            retries += usize::from(budget.spend()) + usize::from(budget.spend());
        }
        assert!((200..=211).contains(&retries), "{retries}");
    }

    #[test]
    fn statuses_say_who_is_to_blame() {
        let kind = |status, wait| Failure::from_status(status, wait, String::new()).error().kind();
        let second = Some(Duration::from_secs(1));
        for (status, wait, expected) in [
            (400, None, ErrorKind::InvalidArgument),
            (422, None, ErrorKind::InvalidArgument),
            (413, None, ErrorKind::TooLarge),
            (401, None, ErrorKind::Upstream),
            (403, None, ErrorKind::Upstream),
            (404, None, ErrorKind::Upstream),
            (429, None, ErrorKind::Overloaded),
            (500, None, ErrorKind::Upstream),
            (502, None, ErrorKind::Upstream),
            (503, second, ErrorKind::Unavailable),
            (307, None, ErrorKind::Upstream),
        ] {
            assert_eq!(kind(status, wait), expected, "{status}");
        }
        let again = |status, wait| matches!(Failure::from_status(status, wait, String::new()), Failure::Busy(..));
        assert!(again(502, None) && again(503, None) && again(429, second));
        assert!(!again(429, None) && !again(500, None) && !again(422, second));
    }
}
