//! How many bytes of request bodies are in memory at once: what the queue's budget is for tokens, this is for everything
//! before the queue. One rule for every method, path and protocol.
//!
//! What counts is what has arrived, as it arrives, not what a header says may come: whoever sends nothing holds nothing. The
//! first [`SMALL`] bytes of every body have a room of their own, a quarter of the whole, so that queries and other small
//! bodies never wait behind large ones. A body for whose next bytes there is no room is not read on, and TCP's and HTTP/2's
//! flow control make its sender wait; it is refused when there was none for [`Limits::max_wait`].
//!
//! Bodies that have arrived in part, each waiting for the others' room, would wait for ever. They do not: of those still being
//! read the eldest, by when it became a large one, has room for one body of the largest size kept free for it. Let that be M,
//! and R the room. A younger one grows only while all bodies together stay below R - M, so whatever the younger ones have, the
//! eldest can take M; those that were the eldest before it have arrived whole, are being answered, and so give their room
//! back. It can then be read to its end, or its sender stops and it is given up, and the next is the eldest. Among the others,
//! who came first goes first. What is larger than R has R alone. The small room is kept by the same rule, M being [`SMALL`];
//! who waits there holds no large room, so that neither room waits for the other.
//!
//! Room that is held by a sender who is slow is not kept from others: while a body waits for room, the one that has kept us
//! waiting longest is given up, if it has stopped or sends less than [`SLOWEST`]. Without others waiting a body has
//! [`Limits::max_body_wait`].

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream};
use hyper::body::Body as _;
use tokio::sync::Notify;
use tonic::Status;

use super::answers::{Keepsake, keep};
use super::grpc::call::is_stream;
use super::limits::Limits;
use super::observe::is_grpc;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// So much of every body counts against the room for small ones.
const SMALL: usize = 64 * 1024;

/// The small bodies' share of the room: one byte in so many.
const SMALL_SHARE: usize = 4;

/// A sender of fewer bytes per second makes way for others.
const SLOWEST: f64 = 64.0 * 1024.0;

/// How long a sender may keep us waiting even while others want its room: small bodies are to come at once.
const PATIENCE: Duration = Duration::from_secs(2);
const SMALL_PATIENCE: Duration = Duration::from_millis(100);

/// How often a body that waits for room looks for one that is too slow.
const INTERVAL: Duration = Duration::from_millis(50);

/// A text of a stream that is no longer than this is not counted: a stream has few under way.
const FREE: usize = 1024;

/// A gRPC message begins with a flag and its length, big-endian.
const GRPC_PREFIX: usize = 5;

/// Room for the bodies of requests under way.
#[derive(Clone)]
pub(super) struct BodyRoom {
    shared: Arc<Shared>,
    limits: Limits,
}

struct Shared {
    bodies: Mutex<Bodies>,
    /// A body grew no longer, or is gone.
    changed: Notify,
    small: usize,
    large: usize,
    /// Kept free for the eldest.
    small_reserve: usize,
    large_reserve: usize,
}

/// The bodies that hold room, by age.
#[derive(Default)]
struct Bodies {
    by_age: BTreeMap<u64, Entry>,
    next: u64,
    /// Bytes held by all.
    small: usize,
    large: usize,
    next_turn: u64,
}

struct Entry {
    small: usize,
    large: usize,
    /// Its place among the large ones, from when it became one.
    turn: Option<u64>,
    /// Not arrived whole.
    reading: bool,
    /// Waits for room.
    wants: bool,
    /// How long its sender kept us waiting, but for the wait under way.
    kept_waiting: Duration,
    /// Since when we wait for its sender.
    waiting: Option<Instant>,
    /// Told when it is to make way.
    make_way: Arc<Notify>,
    makes_way: bool,
}

impl Entry {
    /// How long its sender has kept us waiting, if it is slower than it may be while others want its room.
    fn slow(&self, patience: Duration) -> Option<Duration> {
        let waiting = self.waiting.filter(|_| self.reading && !self.makes_way)?;
        let kept_waiting = self.kept_waiting + waiting.elapsed();
        let is_slow = ((self.small + self.large) as f64) < kept_waiting.as_secs_f64() * SLOWEST;
        (waiting.elapsed() > patience || (kept_waiting > patience && is_slow)).then_some(kept_waiting)
    }
}

impl Bodies {
    /// Whether a body waits for room; answers whether that is room for large ones.
    fn wants(&mut self, age: u64, wants: bool) -> bool {
        self.by_age.get_mut(&age).is_some_and(|entry| {
            entry.wants = wants;
            entry.turn.is_some()
        })
    }

    /// Asks the slowest sender among those that hold some of what is wanted to make way.
    fn slowest_makes_way(&mut self, patience: Duration, holds: impl Fn(&Entry) -> bool) {
        let slow = self.by_age.values_mut().filter(|entry| holds(entry));
        let slow = slow.filter_map(|entry| entry.slow(patience).map(|waited| (waited, entry)));
        if let Some((_, entry)) = slow.max_by_key(|(waited, _)| *waited) {
            entry.makes_way = true;
            entry.make_way.notify_one();
        }
    }
}

impl Shared {
    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        // Nothing panics while it is held.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a body room for what has arrived of it, if there is: first among the small ones, then, when it has all that a
    /// small one may have, among the large ones. So whoever waits for small room holds no large room.
    fn grow(&self, bodies: &mut Bodies, age: u64, arrived: usize) -> bool {
        let (small, large) = (arrived.min(SMALL).min(self.small), arrived.saturating_sub(SMALL).min(self.large));
        let Some(entry) = bodies.by_age.get(&age) else { return false };
        let (more_small, more_large) = (small.saturating_sub(entry.small), large.saturating_sub(entry.large));
        if more_small > 0 {
            let is_eldest = || {
                let mut elders = bodies.by_age.range(..age).map(|(_, elder)| elder).filter(|elder| elder.reading);
                elders.all(|elder| elder.small >= SMALL.min(self.small))
            };
            let after = bodies.small + more_small;
            if after > self.small || (after > self.small - self.small_reserve && !is_eldest()) {
                return false;
            }
            bodies.small = after;
        }
        let mut turn = None;
        if let Some(entry) = bodies.by_age.get_mut(&age) {
            entry.small += more_small;
            if large > 0 && entry.turn.is_none() {
                entry.turn = Some(bodies.next_turn);
                bodies.next_turn += 1;
            }
            turn = entry.turn;
        }
        if more_large > 0 {
            let mut is_eldest = true;
            for elder in bodies.by_age.values() {
                if elder.reading && elder.turn.is_some() && elder.turn < turn {
                    is_eldest = false;
                    if elder.wants {
                        return false;
                    }
                }
            }
            let limit = if is_eldest { self.large } else { self.large - self.large_reserve };
            if bodies.large + more_large > limit {
                return false;
            }
            bodies.large += more_large;
        }
        if let Some(entry) = bodies.by_age.get_mut(&age) {
            entry.large += more_large;
        }
        bodies.wants(age, false);
        true
    }
}

impl BodyRoom {
    /// Room for [`Limits::max_inflight_bytes`].
    pub(super) fn new(limits: Limits) -> BodyRoom {
        let small = (limits.max_inflight_bytes / SMALL_SHARE).max(1);
        let large = limits.max_inflight_bytes.saturating_sub(small).max(1);
        let (small_reserve, large_reserve) = (SMALL.min(small), limits.max_body_bytes.min(large));
        let (bodies, changed) = (Mutex::default(), Notify::new());
        let shared = Shared { bodies, changed, small, large, small_reserve, large_reserve };
        BodyRoom { shared: Arc::new(shared), limits }
    }

    /// A body of which nothing has arrived.
    fn begin(&self) -> Share {
        Share { room: self.clone(), age: None, make_way: Arc::default() }
    }
}

/// What a body holds of the room, until it is dropped.
struct Share {
    room: BodyRoom,
    /// Its place among the bodies; `None` before anything has arrived.
    age: Option<u64>,
    make_way: Arc<Notify>,
}

impl Share {
    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.room.shared.bodies().by_age.get_mut(&self.age?).map(act)
    }

    /// Waits until there is room for what has arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is none within [`Limits::max_wait`], [`ErrorKind::SlowRequest`] if this one has
    /// to make way.
    async fn hold(&mut self, arrived: usize) -> Result<()> {
        let shared = self.room.shared.clone();
        let age = {
            let mut bodies = shared.bodies();
            let age = *self.age.get_or_insert_with(|| {
                let age = bodies.next;
                bodies.next += 1;
                let make_way = self.make_way.clone();
                let (kept_waiting, waiting) = (Duration::ZERO, None);
                let entry = Entry {
                    small: 0,
                    large: 0,
                    turn: None,
                    reading: true,
                    wants: false,
                    kept_waiting,
                    waiting,
                    make_way,
                    makes_way: false,
                };
                bodies.by_age.insert(age, entry);
                age
            });
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
    fn shrink(&self, arrived: usize) {
        let Some(age) = self.age else { return };
        let mut bodies = self.room.shared.bodies();
        let (small, large) = (arrived.min(SMALL), arrived.saturating_sub(SMALL));
        let Some(entry) = bodies.by_age.get_mut(&age) else { return };
        let (less_small, less_large) = (entry.small.saturating_sub(small), entry.large.saturating_sub(large));
        entry.small -= less_small;
        entry.large -= less_large;
        if large == 0 {
            entry.turn = None;
        }
        bodies.small -= less_small;
        bodies.large -= less_large;
        drop(bodies);
        if less_small + less_large > 0 {
            self.room.shared.changed.notify_waiters();
        }
    }

    /// Whether more of it is to come.
    fn set_reading(&self, reading: bool) {
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
    async fn next(&mut self, chunks: &mut BodyDataStream, left: &mut Duration) -> Option<Result<Bytes, BoxError>> {
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

    fn is_large(&self) -> bool {
        self.with(|entry| entry.large > 0) == Some(true)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(age) = self.age else { return };
        let mut bodies = self.room.shared.bodies();
        if let Some(entry) = bodies.by_age.remove(&age) {
            bodies.small -= entry.small;
            bodies.large -= entry.large;
        }
        drop(bodies);
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
    pub(super) async fn hold_text(&self, bytes: usize) -> Result<Option<Keepsake>> {
        if bytes <= FREE {
            return Ok(None);
        }
        let mut share = self.begin();
        share.hold(bytes).await?;
        share.set_reading(false);
        Ok(Some(Box::new(share)))
    }
}

/// Where a body's share is once it has been read, until the layer decides.
type Slot = Arc<Mutex<Option<Share>>>;

fn put(slot: &Slot, share: Option<Share>) -> Option<Share> {
    std::mem::replace(&mut *slot.lock().unwrap_or_else(PoisonError::into_inner), share)
}

/// Holds room for a request's body until the request is answered; a large one's until its answer is sent, which may say
/// its texts again.
pub(super) async fn hold_room(State(room): State<BodyRoom>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let share = room.begin();
    let slot = Slot::default();
    let read = slot.clone();
    let request = match (is_grpc(request.headers()), is_stream(request.uri().path())) {
        (false, _) => request.map(|body| {
            let whole = async move { whole(body, share, &read).await };
            Body::from_stream(stream::once(whole).filter(|chunk| {
                // Nothing is not a piece.
                std::future::ready(!chunk.as_ref().is_ok_and(Bytes::is_empty))
            }))
        }),
        (true, false) => request.map(|body| unary(body, share, read)),
        (true, true) => request.map(|body| streamed(body, share)),
    };
    let response = next.run(request).await;
    if let Some(share) = put(&slot, None).filter(Share::is_large) {
        keep(Box::new(share));
    }
    response
}

/// A body in one piece, as its readers want it. One that is larger than allowed ends early, and its reader refuses it.
async fn whole(body: Body, mut share: Share, read: &Slot) -> Result<Bytes, BoxError> {
    let limits = share.room.limits;
    let (mut chunks, mut left) = (body.into_data_stream(), limits.max_body_wait);
    let mut first = Bytes::new();
    let mut buffer = Vec::new();
    while let Some(chunk) = share.next(&mut chunks, &mut left).await {
        let chunk = chunk?;
        let arrived = first.len() + buffer.len() + chunk.len();
        share.hold(arrived).await?;
        if first.is_empty() && buffer.is_empty() {
            first = chunk;
        } else {
            buffer.extend_from_slice(&std::mem::take(&mut first));
            buffer.extend_from_slice(&chunk);
        }
        if arrived > limits.max_body_bytes {
            break;
        }
    }
    share.set_reading(false);
    put(read, Some(share));
    Ok(if buffer.is_empty() { first } else { buffer.into() })
}

/// The body of a unary call.
fn unary(body: Body, share: Share, read: Slot) -> Body {
    let limits = share.room.limits;
    let source = (body.into_data_stream(), share, limits.max_body_wait, 0);
    Body::from_stream(stream::unfold(Some((source, read)), move |source| async move {
        let ((mut chunks, mut share, mut left, arrived), read) = source?;
        let Some(chunk) = share.next(&mut chunks, &mut left).await else {
            share.set_reading(false);
            put(&read, Some(share));
            return None;
        };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(status(error)), None)),
        };
        // What is beyond is not kept: the message is as long as it said, and it is refused when that is too long.
        let arrived = (arrived + chunk.len()).min(limits.max_body_bytes + GRPC_PREFIX);
        if let Err(error) = share.hold(arrived).await {
            return Some((Err(Status::from(error)), None));
        }
        Some((Ok(chunk), Some(((chunks, share, left, arrived), read))))
    }))
}

/// The body of a call with a stream of messages: between them there is no hurry, and what was read is its reader's.
fn streamed(body: Body, share: Share) -> Body {
    let limits = share.room.limits;
    let source = (body.into_data_stream(), share, Duration::MAX, Message::default());
    Body::from_stream(stream::unfold(Some(source), move |source| async move {
        let (mut chunks, mut share, mut left, mut message) = source?;
        share.shrink(message.arrived());
        let chunk = match share.next(&mut chunks, &mut left).await? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(status(error)), None)),
        };
        let (began, largest) = message.read(&chunk);
        if largest.is_some_and(|length| length > limits.max_body_bytes) {
            // Its decoder refuses it.
            metrics().refused(Refusal::MaxBodyBytes);
        }
        let is_whole = message.is_whole();
        if is_whole {
            left = Duration::MAX;
        } else if began || left > limits.max_body_wait {
            left = limits.max_body_wait;
        }
        if let Err(error) = share.hold(message.arrived().max(chunk.len()).min(limits.max_body_bytes)).await {
            return Some((Err(Status::from(error)), None));
        }
        share.set_reading(!is_whole);
        Some((Ok(chunk), Some((chunks, share, left, message))))
    }))
}

fn status(error: BoxError) -> Status {
    match error.downcast::<Error>() {
        Ok(ours) => Status::from(*ours),
        Err(error) => Status::unknown(error.to_string()),
    }
}

/// The message of a stream that is being read.
#[derive(Default)]
struct Message {
    /// What has come of its prefix.
    prefix: Vec<u8>,
    /// Bytes that have come after the prefix, and are still to come.
    body: usize,
    missing: usize,
}

impl Message {
    /// Bytes that have come of a message that is not whole.
    fn arrived(&self) -> usize {
        self.prefix.len() + self.body
    }

    fn is_whole(&self) -> bool {
        self.missing == 0 && self.prefix.is_empty()
    }

    /// Reads on: whether a message began, and the length of the largest that did.
    fn read(&mut self, mut chunk: &[u8]) -> (bool, Option<usize>) {
        let (mut began, mut largest) = (false, None);
        while !chunk.is_empty() {
            let body = self.missing.min(chunk.len());
            self.missing -= body;
            self.body += body;
            chunk = &chunk[body..];
            if self.missing == 0 {
                self.body = 0;
            }
            let prefix = (GRPC_PREFIX - self.prefix.len()).min(chunk.len());
            began |= prefix > 0;
            self.prefix.extend_from_slice(&chunk[..prefix]);
            chunk = &chunk[prefix..];
            if let [_, length @ ..] = &self.prefix[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.missing = u32::from_be_bytes(length) as usize;
                self.prefix.clear();
                largest = largest.max(Some(self.missing));
            }
        }
        (began, largest)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn room(max_inflight_bytes: usize, max_body_bytes: usize) -> BodyRoom {
        let max_wait = Duration::from_millis(400);
        BodyRoom::new(Limits { max_inflight_bytes, max_body_bytes, max_wait, ..Limits::default() })
    }

    #[test]
    fn messages_are_found_however_their_bytes_are_cut() {
        let mut bytes = Vec::new();
        for length in [3, 0, 300, 1] {
            bytes.push(0);
            bytes.extend(u32::to_be_bytes(length));
            bytes.extend(vec![7; length as usize]);
        }
        for size in 1..bytes.len() {
            let mut message = Message::default();
            let mut found = Vec::new();
            for chunk in bytes.chunks(size) {
                found.extend(message.read(chunk).1);
                assert!(message.arrived() <= 300 + GRPC_PREFIX);
            }
            assert_eq!(found.iter().max(), Some(&300), "{size}");
            assert!(message.is_whole() && message.arrived() == 0, "{size}");
            if size <= 5 {
                assert_eq!(found, [3, 0, 300, 1], "{size}");
            }
        }
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
        let waiting = tokio::spawn({
            let mut larger = room.begin();
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
            assert_eq!((bodies.small, bodies.large, bodies.by_age.len()), (0, 0, 0));
        }
    }

    #[tokio::test]
    async fn only_time_spent_waiting_for_the_sender_counts() {
        let room = BodyRoom::new(Limits { max_body_wait: Duration::from_millis(200), ..Limits::default() });
        let pieces = stream::iter(0..4).then(async |_| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, BoxError>(Bytes::from_static(b"piece"))
        });
        let body = Body::from_stream(pieces.chain(stream::pending()));
        let mut body = unary(body, room.begin(), Slot::default()).into_data_stream();
        for piece in 0..4 {
            body.next().await.expect("a piece").unwrap_or_else(|error| panic!("piece {piece}: {error}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let error = body.next().await.expect("an error").expect_err("the sender has stopped");
        assert!(error.to_string().contains("--max-body-wait"), "{error}");
        assert!(body.next().await.is_none());
    }
}
