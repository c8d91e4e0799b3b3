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
//! waiting longest is given up, if it has stopped or sends less than `SLOWEST`. Without others waiting a body has
//! [`Limits::max_body_wait`].
//!
//! [`SMALL`]: bodies::SMALL
//! [`Limits::max_wait`]: super::limits::Limits::max_wait
//! [`Limits::max_body_wait`]: super::limits::Limits::max_body_wait

mod bodies;
mod message;
mod share;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use hyper::body::Body as _;
use tonic::Status;

use self::message::{GRPC_PREFIX, Message};
pub(super) use self::share::BodyRoom;
use self::share::Share;
use super::answers::keep;
use super::grpc::call::is_stream;
use super::limits::Limits;
use super::observe::is_grpc;
use crate::error::{Error, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

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
    let limits = share.limits();
    // What its head says, where that says how long it is, and gzip is not to be undone.
    let is_too_large = request.body().size_hint().lower() > limits.max_body_bytes as u64;
    if is_too_large && !is_grpc(request.headers()) {
        return refuse_by_head(limits, request, next).await;
    }
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

/// Has a request whose head says that its body is too large answered in its reader's words, before any of the body has come.
async fn refuse_by_head(limits: Limits, request: Request, next: Next) -> Response {
    let refusal = async move { Err::<Bytes, _>(BoxError::from(limits.body_too_large())) };
    next.run(request.map(|_| Body::from_stream(stream::once(refusal)))).await
}

/// A body in one piece, as its readers want it. One that is larger than allowed ends early, and its reader refuses it.
async fn whole(body: Body, mut share: Share, read: &Slot) -> Result<Bytes, BoxError> {
    let limits = share.limits();
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
    let limits = share.limits();
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
    let limits = share.limits();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_time_spent_waiting_for_the_sender_counts() {
        let room = BodyRoom::new(Limits { max_body_wait: Duration::from_millis(200), ..Limits::default() });
        let pieces = stream::iter(0..4).then(async |_| {
            tokio::task::yield_now().await;
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
