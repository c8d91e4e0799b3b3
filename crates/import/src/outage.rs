//! Trying again: how long, and how often.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The wait before the second attempt; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Bounds of how long one answer is waited for. A sidecar refuses what it cannot begin within its --max-wait, a minute or so.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may succeed later.
    Later(String),
    /// It will not.
    Never(String),
}

/// Ends an import whose servers do not come back: one of these for all that is under way with one of them.
#[derive(Debug)]
pub(crate) struct Outage {
    whose: &'static str,
    longest: Duration,
    /// Since when nothing has succeeded, if something has failed.
    failing: Mutex<Option<Instant>>,
}

impl Outage {
    pub(crate) fn new(whose: &'static str, longest: Duration) -> Outage {
        Outage { whose, longest, failing: Mutex::default() }
    }

    /// How long one answer is waited for, at most: no longer than the outage that is allowed, within reason.
    pub(crate) fn patience(&self) -> Duration {
        self.longest.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }

    /// Something succeeded.
    pub(crate) fn succeeded(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits before another attempt, the `attempt`th from 1; `Err` if there is to be none.
    pub(crate) async fn wait(&self, attempt: u32, reason: &str) -> Result<(), String> {
        let since =
            self.failing.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now).elapsed();
        let wait = LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)));
        if since + wait > self.longest {
            return Err(format!("{} has not answered well for {} seconds: {reason}", self.whose, since.as_secs()));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempts_end_with_the_outage() {
        let outage = Outage::new("Weaviate", Duration::from_secs(1));
        assert_eq!(outage.wait(1, "refused").await, Ok(()));
        let error = outage.wait(30, "connection refused").await.expect_err("too long");
        assert!(error.contains("Weaviate") && error.contains("connection refused"), "{error}");
        outage.succeeded();
        assert_eq!(outage.wait(2, "refused").await, Ok(()));
    }
}
