//! What of a request's body is left when it is answered. A connection that is closed with something unread in it loses the
//! answer: the system then tells the client that it was reset, and throws away what the client has not read. So a small rest
//! is read and the connection goes on; before a larger one the answer says that the connection ends, and what still comes is
//! read and dropped for a while, in the lobby.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Who sends nothing for so long has seen the answer, or does not want it. A small rest has come by then.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// Rests of at most so many bytes are read.
const SMALL: u64 = 16 * 1024;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// What is left of a body that is followed, once its reader has dropped it.
pub(super) struct Rest<B>(Arc<Mutex<Slot<B>>>);

struct Slot<B> {
    body: Option<B>,
    /// Somebody will still look.
    is_open: bool,
}

impl<B: Body + Unpin> Rest<B> {
    /// A body, and what will be left of it, where that `matters`.
    pub(super) fn follow(body: B, matters: bool) -> (FollowedBody<B>, Option<Rest<B>>) {
        let matters = matters && !body.is_end_stream();
        let rest = matters.then(|| Arc::new(Mutex::new(Slot { body: None, is_open: true })));
        (FollowedBody { body: Some(body), rest: rest.clone() }, rest.map(Rest))
    }

    /// The body, if it was dropped before its end.
    pub(super) fn left(self) -> Option<B> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_open = false;
        slot.body.take()
    }
}

/// A body that is kept where its reader drops it before its end.
pub(super) struct FollowedBody<B: Body + Unpin> {
    /// `None`: at its end.
    body: Option<B>,
    rest: Option<Arc<Mutex<Slot<B>>>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for FollowedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for FollowedBody<B> {
    fn drop(&mut self) {
        let (Some(rest), Some(body)) = (&self.rest, self.body.take().filter(|body| !body.is_end_stream())) else {
            return;
        };
        let mut slot = rest.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_open {
            slot.body = Some(body);
        }
    }
}

/// Whether what is left of a body is little, and known to be.
pub(super) fn is_small(rest: &impl Body) -> bool {
    rest.size_hint().upper().is_some_and(|bytes| bytes <= SMALL)
}

/// Reads a small rest aside, if it comes soon. `reading` is dropped with it.
pub(super) fn read(mut rest: impl Body + Unpin + Send + 'static, reading: impl Send + 'static) {
    tokio::spawn(async move {
        let mut comes = |context: &mut Context<'_>| {
            let frame = Pin::new(&mut rest).poll_frame(context);
            frame.map(|frame| frame.is_some_and(|frame| frame.is_ok()))
        };
        let all = async { while poll_fn(&mut comes).await {} };
        let _ = tokio::time::timeout(SILENCE, all).await;
        drop(reading);
    });
}

/// Reads what still comes over a connection whose answer is sent, until its client is done, says nothing for `silence`, has
/// gone on for `whole`, or `until` is over.
pub(super) async fn drop_rest(
    mut stream: impl AsyncRead + Unpin,
    silence: Duration,
    whole: Duration,
    until: impl Future<Output = ()>,
) {
    let mut piece = vec![0; PIECE];
    let read = async {
        while tokio::time::timeout(silence, stream.read(&mut piece)).await.is_ok_and(|read| read.is_ok_and(|n| n > 0)) {
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(whole, read) => {}
        () = until => {}
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(300);

    /// How long a client is listened to that sends a byte every few milliseconds, and how long one that sends nothing.
    async fn listened(silence: Duration, whole: Duration, sends: bool) -> Duration {
        let (mut client, server) = tokio::io::duplex(64);
        let sending = tokio::spawn(async move {
            while sends && client.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            pending::<()>().await;
        });
        let begun = Instant::now();
        let listening = drop_rest(server, silence, whole, pending());
        tokio::time::timeout(Duration::from_secs(20), listening).await.expect("an end");
        sending.abort();
        begun.elapsed()
    }

    #[tokio::test]
    async fn who_says_nothing_is_left_and_who_goes_on_at_the_end() {
        let silent = listened(SHORT, LONG, false).await;
        assert!(silent >= SHORT, "{silent:?}");
        let endless = listened(SHORT, 3 * SHORT, true).await;
        assert!(endless >= 3 * SHORT, "{endless:?}");
    }

    #[tokio::test]
    async fn who_is_done_is_not_waited_for() {
        let (client, server) = tokio::io::duplex(64);
        drop(client);
        drop_rest(server, LONG, LONG, pending()).await;
        let (_client, server) = tokio::io::duplex(64);
        drop_rest(server, LONG, LONG, std::future::ready(())).await;
    }

    #[test]
    fn what_is_left_is_known_once_it_is_dropped() {
        let whole = || http_body_util::Full::new(Bytes::from_static(b"texts"));
        let follow = || {
            let (body, rest) = Rest::follow(whole(), true);
            (body, rest.expect("it matters"))
        };
        let (body, rest) = follow();
        drop(body);
        assert!(rest.left().is_some_and(|left| is_small(&left)));
        let (body, rest) = follow();
        assert!(rest.left().is_none(), "somebody still reads it");
        drop(body);
        let (mut body, rest) = follow();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(_)) = Pin::new(&mut body).poll_frame(&mut context) {}
        drop(body);
        assert!(rest.left().is_none(), "it was read");
    }
}
