//! What of a request's body is left when its answer has been sent. A connection that is closed with something unread in it
//! loses the answer: the system then tells the client that it was reset, and throws away what the client has not read. So what
//! still comes is read and dropped for a while.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Who sends nothing for so long has seen the answer, or does not want it.
const SILENCE: Duration = Duration::from_secs(2);

/// How long it may go on in all.
const WHOLE: Duration = Duration::from_secs(30);

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// Whether the body of the request that came last was not read to its end.
#[derive(Clone, Default)]
pub(super) struct Remainder(Arc<AtomicBool>);

impl Remainder {
    /// A body that is followed from now on.
    pub(super) fn of<B: Body>(&self, body: B) -> Followed<B> {
        self.set(!body.is_end_stream());
        Followed { body, remainder: self.clone() }
    }

    pub(super) fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, left: bool) {
        self.0.store(left, Ordering::Relaxed);
    }
}

/// A body that says when it has been read.
pub(super) struct Followed<B> {
    body: B,
    remainder: Remainder,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Followed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.remainder.set(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads what still comes over a connection whose answer is sent, until its client is done, or `until` is.
pub(super) async fn drop_rest(mut stream: impl AsyncRead + Unpin, until: impl Future<Output = ()>) {
    let mut piece = vec![0; PIECE];
    let read = async {
        while tokio::time::timeout(SILENCE, stream.read(&mut piece)).await.is_ok_and(|read| read.is_ok_and(|n| n > 0)) {
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(WHOLE, read) => {}
        () = until => {}
    }
}
