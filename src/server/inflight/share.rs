//! What a body holds of the room, and its waits: for room, and for its sender.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{BodyDataStream, Bytes};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;

use super::bodies::{Entry, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::server::answers::Keepsake;
use crate::server::limits::Limits;
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// How long a sender may keep us waiting even while others want its room: small bodies are to come at once.
const PATIENCE: Duration = Duration::from_secs(2);
const SMALL_PATIENCE: Duration = Duration::from_millis(100);

/// How often a body that waits for room looks for one that is too slow.
const INTERVAL: Duration = Duration::from_millis(50);

/// A text of a stream that is no longer than this is not counted: a stream has few under way.
const FREE: usize = 1024;

/// Room for the bodies of requests under way.
#[derive(Clone)]
pub(in crate::server) struct BodyRoom {
    shared: Arc<Shared>,
    limits: Limits,
}

impl BodyRoom {
    /// Room for [`Limits::max_inflight_bytes`].
    pub(in crate::server) fn new(limits: Limits) -> BodyRoom {
        let shared = Shared::new(limits.max_inflight_bytes, limits.max_body_bytes);
        BodyRoom { shared: Arc::new(shared), limits }
    }

    /// A body of which nothing has arrived.
    pub(super) fn begin(&self) -> Share {
        Share { room: self.clone(), age: None, make_way: Arc::default() }
    }
}

/// What a body holds of the room, until it is dropped.
pub(super) struct Share {
    room: BodyRoom,
    /// Its place among the bodies; `None` before anything has arrived.
    age: Option<u64>,
    make_way: Arc<Notify>,
}

impl Share {
    /// The limits of its room.
    pub(super) fn limits(&self) -> Limits {
        self.room.limits
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.room.shared.bodies().entry(self.age?).map(act)
    }

    /// Waits until there is room for what has arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is none within [`Limits::max_wait`], [`ErrorKind::SlowRequest`] if this one has
    /// to make way.
    pub(super) async fn hold(&mut self, arrived: usize) -> Result<()> {
        let shared = self.room.shared.clone();
        let age = {
            let mut bodies = shared.bodies();
            let age = *self.age.get_or_insert_with(|| bodies.enter(self.make_way.clone()));
            if shared.grow(&mut bodies, age, arrived) {
                return Ok(());
            }
            age
        };
        let begun = Instant::now();
        while begun.elapsed() < self.room.limits.max_wait {
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            {
                let mut bodies = shared.bodies();
                if shared.grow(&mut bodies, age, arrived) {
                    return Ok(());
                }
                if bodies.wants(age, true) {
                    bodies.slowest_makes_way(PATIENCE, |entry| entry.large > 0);
                } else {
                    bodies.slowest_makes_way(SMALL_PATIENCE, |_| true);
                }
            }
            let _ = tokio::time::timeout(INTERVAL, changed).await;
        }
        metrics().refused(Refusal::MaxInflightBytes);
        let (waited, limit) = (self.room.limits.max_wait, self.room.limits.max_inflight_bytes);
        let message = format!(
            "too much work is waiting: the {arrived} bytes of this request that have come found no room within {waited:?}; try \
             again later, or send less at once (limit: --max-inflight-bytes, now {limit})"
        );
        Err(Error::new(ErrorKind::Overloaded, message))
    }

    /// What has arrived is all that there is for now: the message before is no longer counted.
    pub(super) fn shrink(&self, arrived: usize) {
        let Some(age) = self.age else { return };
        let gave_back = self.room.shared.bodies().shrink(age, arrived);
        if gave_back {
            self.room.shared.changed.notify_waiters();
        }
    }

    /// Whether more of it is to come.
    pub(super) fn set_reading(&self, reading: bool) {
        let was_reading = self.with(|entry| std::mem::replace(&mut entry.reading, reading));
        if was_reading == Some(true) && !reading {
            self.room.shared.changed.notify_waiters();
        }
    }

    /// The next piece of the body, of which nobody may wait longer than `left`, which runs while we wait for the sender.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SlowRequest`] when it does not come in time, or others need the room and it comes too slowly.
    pub(super) async fn next(
        &mut self,
        chunks: &mut BodyDataStream,
        left: &mut Duration,
    ) -> Option<Result<Bytes, BoxError>> {
        let there = chunks.next().now_or_never();
        let chunk = match there {
            Some(chunk) => chunk,
            None => {
                let begun = Instant::now();
                self.with(|entry| entry.waiting = Some(begun));
                let outcome = tokio::select! {
                    chunk = tokio::time::timeout(*left, chunks.next()) => {
                        chunk.map_err(|_| self.too_slow())
                    }
                    () = self.make_way.notified() => Err(self.makes_way()),
                };
                *left = left.saturating_sub(begun.elapsed());
                self.with(|entry| {
                    entry.waiting = None;
                    entry.kept_waiting += begun.elapsed();
                });
                match outcome {
                    Ok(chunk) => chunk,
                    Err(error) => return Some(Err(error.into())),
                }
            }
        };
        chunk.map(|chunk| chunk.map_err(BoxError::from))
    }

    fn too_slow(&self) -> Error {
        metrics().refused(Refusal::MaxBodyWait);
        let message = format!(
            "the request did not arrive within {:?}: send less at once, over a faster connection, or raise --max-body-wait",
            self.room.limits.max_body_wait
        );
        Error::new(ErrorKind::SlowRequest, message)
    }

    fn makes_way(&self) -> Error {
        metrics().refused(Refusal::MaxInflightBytes);
        let message = format!(
            "the request came too slowly while others waited for the room it held: send less at once, over a faster \
             connection, or raise --max-inflight-bytes (now {})",
            self.room.limits.max_inflight_bytes
        );
        Error::new(ErrorKind::SlowRequest, message)
    }

    pub(super) fn is_large(&self) -> bool {
        self.with(|entry| entry.large > 0) == Some(true)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(age) = self.age else { return };
        self.room.shared.bodies().leave(age);
        self.room.shared.changed.notify_waiters();
    }
}

impl BodyRoom {
    /// Room for a text that came in a stream, until it is dropped: of a stream only the message being read is counted as a
    /// body.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is none within [`Limits::max_wait`].
    pub(in crate::server) async fn hold_text(&self, bytes: usize) -> Result<Option<Keepsake>> {
        if bytes <= FREE {
            return Ok(None);
        }
        let mut share = self.begin();
        share.hold(bytes).await?;
        share.set_reading(false);
        Ok(Some(Box::new(share)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::server::inflight::bodies::SMALL;

    fn room(max_inflight_bytes: usize, max_body_bytes: usize) -> BodyRoom {
        let max_wait = Duration::from_millis(400);
        BodyRoom::new(Limits { max_inflight_bytes, max_body_bytes, max_wait, ..Limits::default() })
    }

    #[tokio::test]
    async fn what_has_arrived_whole_keeps_others_waiting_and_small_ones_not() {
        let room = room(1_000_000, 700_000);
        let mut held = room.begin();
        held.hold(700_000).await.expect("room");
        held.set_reading(false);
        let mut large = room.begin();
        let error = large.hold(300_000).await.expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.message().contains("--max-inflight-bytes"), "{error}");
        drop(large);
        for _ in 0..100 {
            room.begin().hold(SMALL).await.expect("room for a small one");
        }
        drop(held);
        let patient = BodyRoom::new(Limits { max_wait: Duration::from_secs(20), ..room.limits });
        let mut held = patient.begin();
        held.hold(700_000).await.expect("room");
        held.set_reading(false);
        let waiting = tokio::spawn({
            let mut larger = patient.begin();
            async move { larger.hold(usize::MAX).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(held);
        waiting.await.expect("a task").expect("what is larger than the room has it alone");
    }

    /// However they grow beside each other, with ten times as much to come as there is room: none waits for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bodies_that_grow_together_do_not_wait_for_each_other_for_ever() {
        for (inflight, largest) in [(600_000, 300_000), (400_000, 300_000), (2_000_000, 300_000), (100_000, 90_000)] {
            let limits = Limits { max_inflight_bytes: inflight, max_body_bytes: largest, ..Limits::default() };
            let room = BodyRoom::new(Limits { max_wait: Duration::from_secs(20), ..limits });
            let mut bodies = JoinSet::new();
            for body in 0..40 {
                let mut share = room.begin();
                bodies.spawn(async move {
                    let length = largest - body * 1_000;
                    for arrived in (0..length).step_by(7_000 + body * 100).chain([length]) {
                        share.hold(arrived).await?;
                        tokio::task::yield_now().await;
                    }
                    share.set_reading(false);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok::<_, Error>(())
                });
            }
            while let Some(body) = bodies.join_next().await {
                body.expect("a task").expect("room");
            }
            let bodies = room.shared.bodies();
            assert_eq!(bodies.held(), (0, 0, 0));
        }
    }
}
