//! How many bytes of answers are in memory at once, and how long we wait for those who are to read them.
//!
//! What an answer costs is its vectors: over HTTP they are written as text piece by piece as they are sent
//! ([`http`](super::http)), over gRPC a whole message is made of them. A call waits for room for the vectors it asks for
//! before anything is computed, and keeps it until its answer is sent or given up. Whoever needs more than there is has the
//! room alone. Calls get room in the order they came, so a large one is not overtaken for ever; answers small enough to be
//! handed whole to the connection need none and wait for nobody. Who would have to wait behind too much is refused at once.
//!
//! A body that is not asked for its next piece is not woken either. So one task looks at all answers again and again, and
//! drops the vectors of those whose readers have stopped. That the connection itself takes nothing more is seen by
//! [`Patient`], whoever's bytes they are.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Version;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, Sleep};

use super::limits::Limits;
use super::observe::is_grpc;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::metrics::labels::Refusal;
use crate::telemetry::metrics::metrics;

/// Room is counted in pieces of this many bytes.
const PIECE: usize = 1024;

/// Answers with so many bytes of vectors, ten of 384 numbers, are handed to the connection whole: its buffers hold them.
const SMALL: usize = 16 * 1024;

/// Numbers of a vector whose length is not known before it is there, of an upstream that did not answer at start.
const DIMENSIONS: usize = 4096;

/// Over gRPC a vector is in memory three times: as it was made, in the message, and in the bytes that the message becomes.
const GRPC_COPIES: usize = 3;

/// Bytes handed to a connection at once. What it has of an answer that is given up stays there until it ends.
const HANDED: usize = 32 * 1024;

/// How slowly an answer that holds room may be read, in bytes per second, beside the time that every reader has.
const SLOWEST: u64 = 64 * 1024;

/// How long readers are waited for, at most, while others wait for the room that their answers hold.
const CROWDED_WAIT: Duration = Duration::from_secs(5);

/// Calls may wait for so many times the room; one more is refused at once. A call that waits costs memory too, for its texts
/// and what is made of them: a seventh of its vectors, where they have 384 numbers.
const QUEUE: usize = 8;

/// How often answers are looked at.
const INTERVAL: Duration = Duration::from_millis(250);

tokio::task_local! {
    static KEPT: Arc<Kept>;
}

/// What the answer being made is to keep until it is sent.
struct Kept {
    copies: usize,
    things: Mutex<Vec<Keepsake>>,
}

/// Something to be kept, and dropped with the answer.
pub(super) type Keepsake = Box<dyn Send>;

/// Keeps something until the answer being made is sent. Where none is being made, as in a stream of answers, it is given
/// back.
pub(super) fn keep(thing: Keepsake) {
    // A thread that panicked here left a list that is still whole.
    let _ = KEPT.try_with(|kept| kept.things.lock().unwrap_or_else(PoisonError::into_inner).push(thing));
}

/// Room for the answers under way.
#[derive(Clone)]
pub(super) struct AnswerRoom {
    room: Arc<Semaphore>,
    pieces: u32,
    /// What is waited for, in pieces.
    waiting: Arc<AtomicUsize>,
    watched: Arc<Mutex<Vec<Weak<Watched>>>>,
    limits: Limits,
}

impl AnswerRoom {
    /// Room for [`Limits::max_answer_bytes`].
    pub(super) fn new(limits: Limits) -> AnswerRoom {
        let pieces = limits.max_answer_bytes.div_ceil(PIECE).clamp(1, u32::MAX as usize >> 4) as u32;
        let room = Arc::new(Semaphore::new(pieces as usize));
        AnswerRoom { room, pieces, waiting: Arc::default(), watched: Arc::default(), limits }
    }

    /// Waits for room for so many vectors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is none within [`Limits::max_wait`].
    pub(super) async fn admit(&self, vectors: usize, dimensions: Option<usize>) -> Result<Option<Keepsake>> {
        let vector = dimensions.unwrap_or(DIMENSIONS).saturating_mul(size_of::<f32>());
        let bytes = vectors.saturating_mul(vector);
        if bytes <= SMALL || vectors == 1 {
            return Ok(None);
        }
        let copies = KEPT.try_with(|kept| kept.copies).unwrap_or(1);
        let pieces = u32::try_from(bytes.saturating_mul(copies).div_ceil(PIECE)).unwrap_or(u32::MAX).min(self.pieces);
        if let Ok(permit) = self.room.clone().try_acquire_many_owned(pieces) {
            return Ok(Some(Box::new(permit)));
        }
        let waiting = Waiting::begin(&self.waiting, pieces as usize);
        if waiting.all > (self.pieces as usize).saturating_mul(QUEUE) {
            return Err(self.no_room(bytes, Duration::ZERO));
        }
        let admission = self.room.clone().acquire_many_owned(pieces);
        let permit: OwnedSemaphorePermit = match tokio::time::timeout(self.limits.max_wait, admission).await {
            Ok(permit) => permit.map_err(|_| Error::internal("the room for answers is closed"))?,
            Err(_) => return Err(self.no_room(bytes, self.limits.max_wait)),
        };
        Ok(Some(Box::new(permit)))
    }

    fn no_room(&self, bytes: usize, waited: Duration) -> Error {
        metrics().refused(Refusal::MaxAnswerBytes);
        let message = format!(
            "too much work is waiting: the {bytes} bytes of vectors that this request asks for found no room within \
             {waited:?}; try again later, or with fewer texts at once (limit: --max-answer-bytes, now {})",
            self.limits.max_answer_bytes
        );
        Error::new(ErrorKind::Overloaded, message)
    }

    /// Gives up answers that are not read, for ever.
    pub(super) async fn give_up_unread(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let wait = match self.waiting.load(Ordering::Relaxed) {
                0 => self.limits.max_write_wait,
                _ => self.limits.max_write_wait.min(CROWDED_WAIT),
            };
            let unread: Vec<_> = {
                let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                watched.retain(|watched| watched.strong_count() > 0);
                watched.iter().filter_map(Weak::upgrade).filter(|watched| watched.is_unread(wait)).collect()
            };
            for watched in unread {
                watched.give_up();
            }
        }
    }

    fn watch(&self, body: Body, kept: Vec<Keepsake>, unread: Option<Unread>) -> Body {
        let under_way = UnderWay {
            body,
            rest: Bytes::new(),
            kept,
            taken: 0,
            waited: Duration::ZERO,
            waiting: Some(Instant::now()),
        };
        let watched = Arc::new(Watched { under_way: Mutex::new(Some(under_way)), unread });
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&watched));
        Body::new(Answer(watched))
    }
}

/// A call that waits for room.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    pieces: usize,
    /// What all waited for when it began to.
    all: usize,
}

impl Waiting<'_> {
    fn begin(count: &AtomicUsize, pieces: usize) -> Waiting<'_> {
        let all = count.fetch_add(pieces, Ordering::Relaxed) + pieces;
        Waiting { count, pieces, all }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.pieces, Ordering::Relaxed);
    }
}

/// The layer: what an answer keeps is kept until it is sent, and whoever does not read it is given up.
pub(super) async fn hold_answer(State(room): State<AnswerRoom>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let http2 = request.version() == Version::HTTP_2;
    let unread = request.extensions().get::<Unread>().cloned();
    let kept = Arc::new(Kept { copies: if grpc { GRPC_COPIES } else { 1 }, things: Mutex::default() });
    let response = KEPT.scope(kept.clone(), next.run(request)).await;
    let things = std::mem::take(&mut *kept.things.lock().unwrap_or_else(PoisonError::into_inner));
    // A body that keeps nothing and that the connection takes whole needs no watching, and over HTTP/1.1 none that keeps
    // nothing: there the connection is the answer's alone.
    let is_taken_whole = response.body().size_hint().upper().is_some_and(|size| size <= HANDED as u64);
    if things.is_empty() && (!http2 || is_taken_whole) {
        return response;
    }
    response.map(|body| room.watch(body, things, unread))
}

/// Tells a connection that an answer of its was not read. It may not live on as it is: HTTP/2 keeps what it was handed.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(Arc<Notify>);

impl Unread {
    /// Until it is so.
    pub(super) async fn told(&self) {
        self.0.notified().await;
    }
}

/// An answer that is looked at.
struct Watched {
    /// `None`: given up.
    under_way: Mutex<Option<UnderWay>>,
    unread: Option<Unread>,
}

struct UnderWay {
    body: Body,
    /// What is left of the piece that the body gave last.
    rest: Bytes,
    /// Dropped with the body, after it.
    kept: Vec<Keepsake>,
    /// Bytes handed over.
    taken: u64,
    /// How long the reader was waited for, pieces before this one.
    waited: Duration,
    /// Since when we wait for the reader to ask for more; `None` while it waits for us.
    waiting: Option<Instant>,
}

impl Watched {
    fn is_unread(&self, wait: Duration) -> bool {
        // Who has the lock is being read.
        let Ok(under_way) = self.under_way.try_lock() else { return false };
        let Some(under_way) = &*under_way else { return false };
        let Some(waiting) = under_way.waiting else { return false };
        match under_way.kept.is_empty() {
            // A stream may be read as slowly as its reader likes, if only it is read.
            true => waiting.elapsed() > wait,
            false => {
                let earned = Duration::from_secs(under_way.taken / SLOWEST);
                under_way.waited.saturating_add(waiting.elapsed()) > wait.saturating_add(earned)
            }
        }
    }

    fn give_up(&self) {
        let dropped = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).take();
        if dropped.is_some() {
            metrics().refused(Refusal::MaxWriteWait);
            tracing::debug!("an answer was given up: nobody read on");
            if let Some(unread) = &self.unread {
                unread.0.notify_one();
            }
        }
    }
}

/// The body of an answer that is looked at.
struct Answer(Arc<Watched>);

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut slot = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(under_way) = &mut *slot else {
            let message = "the answer was given up: it was not read within --max-write-wait";
            return Poll::Ready(Some(Err(Error::new(ErrorKind::DeadlineExceeded, message).into())));
        };
        if let Some(waiting) = under_way.waiting.take() {
            under_way.waited += waiting.elapsed();
        }
        let frame = match under_way.rest.is_empty() {
            true => std::task::ready!(Pin::new(&mut under_way.body).poll_frame(context)),
            false => Some(Ok(Frame::data(std::mem::take(&mut under_way.rest)))),
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                // A slice would keep the whole alive where it ends up.
                if data.len() > 2 * HANDED {
                    under_way.rest = data.split_off(HANDED);
                    data = Bytes::copy_from_slice(&data);
                }
                under_way.taken += data.len() as u64;
                Frame::data(data)
            }
            Err(other) => other,
        };
        under_way.waiting = Some(Instant::now());
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().is_some_and(|under_way| under_way.rest.is_empty() && under_way.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let slot = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(under_way) if under_way.rest.is_empty() => under_way.body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// A connection that is given up when it has taken nothing for so long, whatever is to be written.
pub(super) struct Patient<S> {
    stream: S,
    wait: Duration,
    /// Runs while the stream takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, wait: Duration) -> Patient<S> {
        Patient { stream, wait, patience: None }
    }

    /// What became of an attempt to write, unless it has been waiting for too long.
    fn judge<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.patience = None;
            return outcome;
        }
        let wait = self.wait;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        std::task::ready!(patience.as_mut().poll(context));
        metrics().refused(Refusal::MaxWriteWait);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was read within --max-write-wait")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(outcome, context)
    }
}
