//! What a connection is at, and how long it may stay so: nothing came yet, a head is arriving, requests are under way,
//! nothing is.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// What an HTTP/2 client sends before its first request at the least: the preface and the head of a SETTINGS frame.
const HTTP2_OPENING: u64 = 24 + 9;

/// A guest leaves after so long, answered or not.
const GUEST: Duration = Duration::from_secs(5);

/// No moment.
const NEVER: u64 = u64::MAX;

/// How long a connection may take, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For its first byte, and from the first byte of a head to its last.
    pub head: Duration,
    /// For nothing at all, with no request under way.
    pub idle: Duration,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It did not send anything in time, or not all of a head: it is dropped.
    Late,
    /// Nobody asks anything over it any more, or nobody is to: it is told to end.
    WindUp,
    /// It was told to end and does not: it is dropped.
    GiveUp,
}

/// Follows one connection. Times are milliseconds since it was opened.
pub(super) struct Watch {
    opened: Instant,
    patience: Patience,
    http2: AtomicBool,
    bytes_read: AtomicU64,
    /// The first byte of the head that is arriving, which over HTTP/2 is the opening alone.
    head_begun: AtomicU64,
    /// Whether a request has come.
    asked: AtomicBool,
    /// Requests whose answers are not over.
    under_way: AtomicUsize,
    /// The end of the last one.
    quiet_since: AtomicU64,
    last_written: AtomicU64,
    /// It has no place.
    guest_since: AtomicU64,
}

impl Watch {
    /// Of a connection that is opened now.
    pub(super) fn new(patience: Patience) -> Watch {
        Watch {
            opened: Instant::now(),
            patience,
            http2: AtomicBool::new(false),
            bytes_read: AtomicU64::new(0),
            head_begun: AtomicU64::new(NEVER),
            asked: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            last_written: AtomicU64::new(0),
            guest_since: AtomicU64::new(NEVER),
        }
    }

    /// The connection may ask once.
    pub(super) fn set_guest(&self) {
        let _ = self.guest_since.compare_exchange(NEVER, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Until a guest has to leave; for ever for others.
    pub(super) async fn is_out_of_a_guests_time(&self) {
        match self.guest_since.load(Ordering::Relaxed) {
            NEVER => std::future::pending().await,
            since => sleep_until(self.opened + Duration::from_millis(since) + GUEST).await,
        }
    }

    /// The client speaks HTTP/2.
    pub(super) fn set_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
        self.opening_read_at(self.now());
    }

    /// Whether it does.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Whether a part of a head has come, and not all of it.
    pub(super) fn has_part_of_a_head(&self) -> bool {
        self.head_begun.load(Ordering::Relaxed) != NEVER
    }

    /// Whether a request has come.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// A whole head has come; the request is under way until what this returns is dropped.
    pub(super) fn request(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.head_begun.store(NEVER, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// What is due now, else when to look again. `wound_up` is when the connection was told to end.
    pub(super) fn due(&self, now: Instant, wound_up: Option<Instant>) -> Result<Instant, Due> {
        let at = |moment: &AtomicU64| self.opened + Duration::from_millis(moment.load(Ordering::Relaxed));
        let (http2, written) = (self.is_http2(), at(&self.last_written));
        if self.guest_since.load(Ordering::Relaxed) != NEVER {
            // Over HTTP/1.1 its answer has said so.
            if http2 && wound_up.is_none() {
                return Err(Due::WindUp);
            }
            let until = at(&self.guest_since) + GUEST;
            return if now < until { Ok(until) } else { Err(Due::GiveUp) };
        }
        if self.under_way.load(Ordering::Relaxed) > 0 {
            // The end of an answer need not wake whoever waits here.
            return Ok(later(now, self.patience.head.max(Duration::from_secs(1))));
        }
        // Over HTTP/2 there are always PINGs. Over HTTP/1.1 an answer may still be on its way out.
        let after_answers = |moment: Instant| if http2 { moment } else { moment.max(written) };
        let (until, due) = if let Some(wound_up) = wound_up {
            (later(wound_up.max(written), self.patience.head), Due::GiveUp)
        } else if self.has_part_of_a_head() {
            (later(after_answers(at(&self.head_begun)), self.patience.head), Due::Late)
        } else if self.has_asked() || http2 {
            (later(after_answers(at(&self.quiet_since)), self.patience.idle), Due::WindUp)
        } else {
            (later(self.opened, self.patience.head), Due::Late)
        };
        if now < until { Ok(until) } else { Err(due) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NEVER)
    }

    fn read_at(&self, bytes: usize, now: u64) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.is_http2() {
            self.opening_read_at(now);
        } else if self.under_way.load(Ordering::Relaxed) == 0 && !self.has_part_of_a_head() {
            self.head_begun.store(now, Ordering::Relaxed);
        }
    }

    fn answered_at(&self, now: u64) {
        self.quiet_since.store(now, Ordering::Relaxed);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Looks whether the opening of HTTP/2 has come. What follows is not looked into: a head that is not sent to its end
    /// stops its own connection alone, and counts as nothing.
    fn opening_read_at(&self, now: u64) {
        if self.has_part_of_a_head() && self.bytes_read.load(Ordering::Relaxed) >= HTTP2_OPENING {
            self.quiet_since.store(now, Ordering::Relaxed);
            self.head_begun.store(NEVER, Ordering::Relaxed);
        }
    }
}

/// Waits until something is due.
pub(super) async fn due(watch: &Watch, wound_up: Option<Instant>) -> Due {
    let mut timer = pin!(sleep_until(Instant::now()));
    poll_fn(|context| {
        loop {
            let until = match watch.due(Instant::now(), wound_up) {
                Ok(until) => until,
                Err(due) => return Poll::Ready(due),
            };
            // Later is early enough: then it is looked again.
            if timer.is_elapsed() || until < timer.deadline() {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// So much later, or in thirty years.
pub(crate) fn later(moment: Instant, by: Duration) -> Instant {
    moment.checked_add(by).unwrap_or_else(|| moment + Duration::from_secs(30 * 365 * 86_400))
}

/// A request, until its answer is over or given up.
pub(super) struct UnderWay(Arc<Watch>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered_at(self.0.now());
    }
}

/// The body of an answer, under way until it is dropped.
pub(super) struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl Answer {
    /// A body, and what ends with it.
    pub(super) fn new(body: Body, under_way: UnderWay) -> Answer {
        Answer { body, _under_way: under_way }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a connection, followed. What was read to find out the protocol can be put back.
pub(super) struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
    put_back: Bytes,
}

impl<S> Watched<S> {
    /// A stream and who follows it.
    pub(super) fn new(stream: S, watch: Arc<Watch>) -> Watched<S> {
        Watched { stream, watch, put_back: Bytes::new() }
    }

    /// These bytes are read again first.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.put_back = bytes;
    }

    /// The bytes, no longer followed.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn wrote(&self, polled: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if matches!(polled, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.watch.last_written.store(self.watch.now(), Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.put_back.is_empty() {
            let size = self.put_back.len().min(buffer.remaining());
            buffer.put_slice(&self.put_back.split_to(size));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.watch.read_at(bytes, self.watch.now());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), idle: Duration::from_secs(100) };

    /// The second at which something is due, and what.
    fn next(watch: &Watch) -> (u64, Due) {
        for second in 0.. {
            if let Err(due) = watch.due(watch.opened + Duration::from_secs(second), None) {
                return (second, due);
            }
        }
        unreachable!("an end of numbers")
    }

    #[test]
    fn each_state_has_its_time() {
        let watch = Arc::new(Watch::new(PATIENCE));
        assert_eq!(next(&watch), (10, Due::Late), "nothing came");
        watch.read_at(1, 5_000);
        watch.read_at(1, 14_000);
        assert_eq!(next(&watch), (15, Due::Late), "a part of a head");
        let request = watch.request();
        watch.read_at(1, 20_000);
        assert!(watch.due(watch.opened + Duration::from_secs(1000), None).is_ok(), "it is being answered");
        std::mem::forget(request);
        watch.answered_at(1_000_000);
        assert_eq!(next(&watch), (1100, Due::WindUp), "the byte was its body's");
        watch.last_written.store(1_010_000, Ordering::Relaxed);
        assert_eq!(next(&watch), (1110, Due::WindUp), "its answer was on its way");
        watch.read_at(1, 1_015_000);
        assert_eq!(next(&watch), (1025, Due::Late), "the next head");
        watch.last_written.store(1_020_000, Ordering::Relaxed);
        assert_eq!(next(&watch), (1030, Due::Late), "the answer before it is still on its way");
    }

    #[test]
    fn http2_is_late_until_its_opening_and_idle_from_then_on() {
        let watch = Arc::new(Watch::new(PATIENCE));
        watch.read_at(24, 1_000);
        watch.set_http2();
        assert_eq!(next(&watch), (11, Due::Late));
        watch.read_at(9, 5_000);
        assert_eq!(next(&watch), (105, Due::WindUp));
        let request = watch.request();
        watch.read_at(100, 6_000);
        std::mem::forget(request);
        watch.answered_at(7_000);
        // PINGs.
        watch.last_written.store(50_000, Ordering::Relaxed);
        watch.read_at(17, 50_000);
        assert_eq!(next(&watch), (107, Due::WindUp));
        // A client that does not answer to GOAWAY.
        let wound_up = watch.opened + Duration::from_secs(200);
        assert!(watch.due(wound_up + Duration::from_secs(9), Some(wound_up)).is_ok());
        assert_eq!(watch.due(wound_up + Duration::from_secs(10), Some(wound_up)), Err(Due::GiveUp));
    }

    #[test]
    fn a_time_beyond_all_clocks_is_far_away() {
        let now = Instant::now();
        assert!(later(now, Duration::MAX) > now + Duration::from_secs(86_400 * 365));
        let watch = Watch::new(Patience { head: Duration::MAX, idle: Duration::MAX });
        assert!(watch.due(now, None).is_ok());
    }
}
