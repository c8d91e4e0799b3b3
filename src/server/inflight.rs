//! How many bytes of request bodies are in memory at once: what the queue's budget is for tokens, this is for everything
//! before the queue. A body waits for room before it is read; TCP's and HTTP/2's flow control make its sender wait. Who has
//! room must use it: a body that does not arrive in time is given up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::Limits;
use super::http::error_response_at;
use super::observe::is_grpc;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Room is counted in pieces of this many bytes; small bodies need no counting finer than this.
const PIECE: usize = 1024;
/// A gRPC message begins with a flag and its length, big-endian.
const GRPC_PREFIX: usize = 5;

/// Room for the bodies of requests under way.
#[derive(Clone)]
pub struct BodyRoom {
    room: Arc<Semaphore>,
    pieces: u32,
    limits: Limits,
}

impl BodyRoom {
    /// Room for [`Limits::max_inflight_bytes`].
    pub fn new(limits: Limits) -> BodyRoom {
        let pieces = limits.max_inflight_bytes.div_ceil(PIECE).clamp(1, u32::MAX as usize >> 4) as u32;
        BodyRoom { room: Arc::new(Semaphore::new(pieces as usize)), pieces, limits }
    }

    /// Waits for room for so many bytes. What is larger than the whole room has it alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is no room within [`Limits::max_wait`].
    async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX).min(self.pieces);
        let admission = self.room.clone().acquire_many_owned(pieces);
        match tokio::time::timeout(self.limits.max_wait, admission).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::internal("the room for bodies is closed")),
            Err(_) => {
                metrics().refused(Refusal::MaxInflightBytes);
                Err(self.no_room(bytes, self.limits.max_wait))
            }
        }
    }

    fn no_room(&self, bytes: usize, waited: Duration) -> Error {
        let message = format!(
            "too much work is waiting: the {bytes} bytes of this request found no room within {waited:?}; try again later \
             (limit: --max-inflight-bytes, now {})",
            self.limits.max_inflight_bytes
        );
        Error::new(ErrorKind::Overloaded, message)
    }
}

/// Holds room for a request's body until the request is answered.
pub async fn hold_room(State(room): State<BodyRoom>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    if is_grpc(request.headers()) {
        // Each message says its length; the answer of a unary method is the end of its only one.
        let meter = Arc::new(Meter { room, message: Mutex::default() });
        let held = meter.clone();
        let request = request.map(|body| metered(body, meter));
        let response = next.run(request).await;
        drop(held);
        return response;
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    // Too large a body is refused without being read; one of unknown length may be as large as allowed.
    let path = request.uri().path().to_owned();
    match room.admit(length.unwrap_or(usize::MAX).min(room.limits.max_body_bytes)).await {
        Ok(_held) => next.run(request.map(|body| in_time(body, room.limits.max_body_wait))).await,
        Err(error) => error_response_at(&path, &error),
    }
}

/// A body that is given up if we wait for it longer than that, all its pieces together. Time in which nobody reads does
/// not count.
fn in_time(body: Body, wait: Duration) -> Body {
    let source = (body.into_data_stream(), Patience { wait, left: wait });
    Body::from_stream(stream::unfold(Some(source), async |source| {
        let (mut chunks, mut patience) = source?;
        match patience.next(&mut chunks).await? {
            Ok(chunk) => Some((Ok(chunk), Some((chunks, patience)))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// A gRPC body whose messages wait for room as they begin, and are given up as in [`in_time`].
fn metered(body: Body, meter: Arc<Meter>) -> Body {
    let wait = meter.room.limits.max_body_wait;
    let source = (body.into_data_stream(), Patience { wait, left: Duration::MAX }, meter);
    Body::from_stream(stream::unfold(Some(source), async |source| {
        let (mut chunks, mut patience, meter) = source?;
        let chunk = match patience.next(&mut chunks).await? {
            Ok(chunk) => meter.read(&chunk, &mut patience).await.map(|()| chunk).map_err(Status::from),
            Err(error) => Err(match error.downcast::<Error>() {
                Ok(slow) => Status::from(*slow),
                Err(error) => Status::unknown(error.to_string()),
            }),
        };
        let rest = chunk.is_ok().then_some((chunks, patience, meter));
        Some((chunk, rest))
    }))
}

/// How long we still wait for the sender of a body or message.
struct Patience {
    wait: Duration,
    left: Duration,
}

impl Patience {
    /// The next piece; [`ErrorKind::SlowRequest`] when it does not come in time.
    async fn next(&mut self, chunks: &mut BodyDataStream) -> Option<Result<Bytes, BoxError>> {
        let begun = Instant::now();
        match tokio::time::timeout(self.left, chunks.next()).await {
            Ok(chunk) => {
                self.left = self.left.saturating_sub(begun.elapsed());
                chunk.map(|chunk| chunk.map_err(BoxError::from))
            }
            Err(_) => {
                metrics().refused(Refusal::MaxBodyWait);
                let message = format!(
                    "the request did not arrive within {:?}: send less at once, over a faster connection, or raise \
                     --max-body-wait",
                    self.wait
                );
                Some(Err(Error::new(ErrorKind::SlowRequest, message).into()))
            }
        }
    }
}

/// The room that the message being read has.
struct Meter {
    room: BodyRoom,
    message: Mutex<Message>,
}

#[derive(Default)]
struct Message {
    /// What has come of its prefix.
    prefix: Vec<u8>,
    /// Bytes still to come after the prefix.
    missing: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Message {
    /// Reads on; the length of the largest message that began, if one did.
    fn read(&mut self, mut chunk: &[u8]) -> Option<usize> {
        let mut largest = None;
        while !chunk.is_empty() {
            let body = self.missing.min(chunk.len());
            self.missing -= body;
            chunk = &chunk[body..];
            let prefix = (GRPC_PREFIX - self.prefix.len()).min(chunk.len());
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
        largest
    }
}

impl Meter {
    /// Waits for room for a message that begins in this piece. Between messages there is no hurry.
    async fn read(&self, chunk: &[u8], patience: &mut Patience) -> Result<()> {
        let (begun, whole) = {
            let mut message = self.message.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = message.read(chunk);
            if begun.is_some() {
                // The one before was read whole: what a stream has under way is bounded elsewhere.
                message.held = None;
            }
            (begun, message.missing == 0 && message.prefix.is_empty())
        };
        if whole {
            patience.left = Duration::MAX;
        } else if begun.is_some() || patience.left > patience.wait {
            patience.left = patience.wait;
        }
        if let Some(length) = begun {
            let limit = self.room.limits.max_body_bytes;
            if length > limit {
                // Its decoder refuses it.
                metrics().refused(Refusal::MaxBodyBytes);
            }
            let held = self.room.admit(length.min(limit)).await?;
            self.message.lock().unwrap_or_else(PoisonError::into_inner).held = Some(held);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let begun: Vec<_> = bytes.chunks(size).filter_map(|chunk| message.read(chunk)).collect();
            assert_eq!(begun.iter().max(), Some(&300), "{size}");
            assert_eq!((message.missing, message.prefix.len()), (0, 0), "{size}");
            if size <= 5 {
                assert_eq!(begun, [3, 0, 300, 1], "{size}");
            }
        }
    }

    #[tokio::test]
    async fn only_time_spent_waiting_for_the_sender_counts() {
        let wait = Duration::from_millis(200);
        let pieces = stream::iter(0..4).then(async |_| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, BoxError>(Bytes::from_static(b"piece"))
        });
        let mut body = in_time(Body::from_stream(pieces.chain(stream::pending())), wait).into_data_stream();
        for piece in 0..4 {
            body.next().await.expect("a piece").unwrap_or_else(|error| panic!("piece {piece}: {error}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let error = body.next().await.expect("an error").expect_err("the sender has stopped");
        assert!(error.to_string().contains("--max-body-wait"), "{error}");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_body_waits_for_room_and_is_refused_when_none_comes() {
        let limits = Limits { max_inflight_bytes: 10_000, max_wait: Duration::from_millis(300), ..Limits::default() };
        let room = BodyRoom::new(limits);
        let held = room.admit(8_000).await.expect("room");
        let error = room.admit(3_000).await.expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.message().contains("--max-inflight-bytes"), "{error}");
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.admit(usize::MAX).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(held);
        waiting.await.expect("a task").expect("what is larger than the room has it alone");
    }
}
