//! Trying again: how long, and how often.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// The wait before the second attempt; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Who watches is told of an outage that has lasted so long.
const TOLD_AFTER: Duration = Duration::from_secs(2);

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
    /// Since when nothing has succeeded, if something has failed; and whether that was told.
    failing: Mutex<Option<(Instant, bool)>>,
    /// What is to stay below the lines that are told.
    bar: OnceLock<ProgressBar>,
}

impl Outage {
    pub(crate) fn new(whose: &'static str, longest: Duration) -> Outage {
        Outage { whose, longest, failing: Mutex::default(), bar: OnceLock::new() }
    }

    /// How long one answer is waited for, at most: no longer than the outage that is allowed, within reason.
    pub(crate) fn patience(&self) -> Duration {
        self.longest.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }

    /// Lines are told above this bar from now on.
    pub(crate) fn tell_above(&self, bar: ProgressBar) {
        let _ = self.bar.set(bar);
    }

    /// Something succeeded.
    pub(crate) fn succeeded(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits before another attempt, the `attempt`th from 1; `Err` if there is to be none.
    pub(crate) async fn wait(&self, attempt: u32, reason: &str) -> Result<(), String> {
        let (since, is_new) = self.lasting();
        if is_new {
            let line = format!("waiting for {}: {reason}; --max-outage says how long", self.whose);
            match self.bar.get() {
                Some(bar) => bar.suspend(|| eprintln!("{line}")),
                None => eprintln!("{line}"),
            }
        }
        let wait = LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)));
        if since + wait > self.longest {
            return Err(format!("{} has not answered well for {} seconds: {reason}", self.whose, since.as_secs()));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// For how long nothing has succeeded, and whether that is to be told now.
    fn lasting(&self) -> (Duration, bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, told) = failing.get_or_insert_with(|| (Instant::now(), false));
        let is_new = !*told && since.elapsed() >= TOLD_AFTER;
        *told |= is_new;
        (since.elapsed(), is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once() {
        let outage = Outage::new("Weaviate", Duration::from_secs(9));
        assert!(!outage.lasting().1, "too soon");
        for _ in 0..2 {
            let begun = Instant::now().checked_sub(TOLD_AFTER).expect("some time ago");
            *outage.failing.lock().expect("a lock") = Some((begun, false));
            assert!(outage.lasting().1);
            assert!(!outage.lasting().1, "once");
            outage.succeeded();
        }
    }

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
