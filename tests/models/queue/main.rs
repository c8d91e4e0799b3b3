//! The queue's wake-ups: every piece is dispatched once or dropped, callers at the door come in as soon as there is room,
//! nobody sleeps for ever, and when all have left no room is missing.

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../model.rs"]
mod model;
mod oneshot;

/// The real files, but for what threads meet by. `mod.rs` lists them too.
#[path = "../../../src/backend/local/batcher"]
#[allow(dead_code, unreachable_pub)]
mod batcher {
    pub mod admission;
    pub mod batch;
    pub mod handle;
    pub mod lane;
    pub mod options;
    mod room;
    mod shared;
    pub mod state;
    pub mod submission;
    mod sync {
        pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};

        pub(super) use crate::oneshot;
    }

    pub use self::admission::Admission;
    pub use self::handle::Batcher;
    pub use self::options::Options;
    pub use self::submission::Submission;
}

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::thread::{self, JoinHandle};

use batcher::admission::Ask;
use batcher::batch::Piece;
use batcher::options::Class;
use batcher::{Admission, Batcher, Options, Submission};
use error::{ErrorKind, Result};
use model::model;

/// A piece has 10 tokens: a batch is one of them, and so is what may wait of passages. A call is to bring more when nothing
/// of it is left.
const TIGHT: Options =
    Options { batch_tokens: 4, query_batch_tokens: 4, query_fill_tokens: 0, queries_in_a_row: 1, waiting_tokens: 11 };

/// The same with room for many.
const WIDE: Options = Options { waiting_tokens: 1000, ..TIGHT };

/// Counts what became of the pieces: those that were dispatched, and all that are gone.
#[derive(Clone, Default)]
struct Tally(Arc<[AtomicUsize; 2]>);

impl Tally {
    fn piece(&self) -> Counted {
        Counted(self.clone())
    }

    fn dispatched(&self) -> usize {
        self.0[0].load(Ordering::Relaxed)
    }

    fn gone(&self) -> usize {
        self.0[1].load(Ordering::Relaxed)
    }
}

struct Counted(Tally);

impl Piece for Counted {
    fn tokens(&self) -> usize {
        10
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0[1].fetch_add(1, Ordering::Relaxed);
    }
}

type Queue = Batcher<Counted>;

/// A consumer's thread, to its end.
fn consumer(queue: &Queue, tally: &Tally) -> JoinHandle<()> {
    let (queue, tally) = (queue.clone(), tally.clone());
    thread::spawn(move || {
        while let Some(batch) = queue.next_batch() {
            tally.0[0].fetch_add(batch.pieces.len(), Ordering::Relaxed);
        }
    })
}

async fn admitted(queue: &Queue) -> Result<Admission<Counted>> {
    queue.admit(Class::Passage, Ask { least: 10, most: 10 }, None).await
}

/// A call of one piece, as soon as there is room.
fn call(queue: &Queue, tally: &Tally) -> Result<Submission<Counted>> {
    block_on(admitted(queue))?.submit([tally.piece()], false)
}

/// What a future has come to without waiting.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Nobody waits, nobody has any room, and nobody is awaited: so it ends when it is closed.
fn all_is_free(queue: &Queue) {
    for class in Class::ALL {
        let (depth, wanted) = (queue.depth(class), queue.wanted(class));
        assert_eq!((depth.calls, depth.pieces, depth.tokens, depth.at_the_door), (0, 0, 0, 0));
        let free = queue.options().room(class).min(queue.options().share(class)).max(wanted.turn);
        assert_eq!(wanted.tokens, free, "room is missing");
    }
    queue.close();
    assert!(queue.next_batch().is_none());
}

/// Consumers that wait hear of every piece, whoever takes it, and of the end.
fn pieces_for_waiting_consumers(consumers: usize, calls: usize) {
    let (queue, tally) = (Queue::new(WIDE), Tally::default());
    let consumers: Vec<_> = (0..consumers).map(|_| consumer(&queue, &tally)).collect();
    let held: Vec<_> = (0..calls).map(|_| call(&queue, &tally).expect("room")).collect();
    queue.close();
    consumers.into_iter().for_each(|consumer| consumer.join().expect("a consumer"));
    assert_eq!((tally.dispatched(), tally.gone()), (calls, calls));
    drop(held);
    all_is_free(&queue);
}

/// One call of two pieces: who takes the first wakes the other consumer for the second.
fn one_piece_each() {
    let (queue, tally) = (Queue::new(WIDE), Tally::default());
    let taken: Vec<_> = (0..2)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || queue.next_batch().map(|batch| batch.pieces.len()))
        })
        .collect();
    let room = block_on(queue.admit(Class::Passage, Ask { least: 20, most: 20 }, None)).expect("room");
    let held = room.submit([tally.piece(), tally.piece()], false).expect("open");
    for consumer in taken {
        assert_eq!(consumer.join().expect("a consumer"), Some(1));
    }
    drop(held);
    all_is_free(&queue);
}

/// There is room for one: who waits at the door comes in when a piece is taken.
fn door(callers: usize) {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let consumer = consumer(&queue, &tally);
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (queue, tally) = (queue.clone(), tally.clone());
            thread::spawn(move || call(&queue, &tally).expect("room"))
        })
        .collect();
    let expected = callers.len();
    let held: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("a caller")).collect();
    queue.close();
    consumer.join().expect("the consumer");
    assert_eq!((tally.dispatched(), tally.gone()), (expected, expected));
    drop(held);
    all_is_free(&queue);
}

/// A call is withdrawn, or given up with its room, while another waits at the door: that one comes in.
fn withdrawal(how: fn(Submission<Counted>)) {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let first = call(&queue, &tally).expect("room");
    let second = {
        let (queue, tally) = (queue.clone(), tally.clone());
        thread::spawn(move || drop(call(&queue, &tally).expect("room")))
    };
    how(first);
    second.join().expect("a caller");
    assert_eq!((tally.dispatched(), tally.gone()), (0, 2));
    all_is_free(&queue);
}

/// Whoever leaves the door in the moment of admission takes no room with them, and holds up nobody behind them.
fn leaving_the_door() {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let first = call(&queue, &tally).expect("room");
    let second = {
        let queue = queue.clone();
        thread::spawn(move || drop(now(admitted(&queue))))
    };
    let third = {
        let (queue, tally) = (queue.clone(), tally.clone());
        thread::spawn(move || drop(call(&queue, &tally).expect("room")))
    };
    drop(first);
    second.join().expect("a caller");
    third.join().expect("a caller");
    all_is_free(&queue);
}

/// However the queue ends: a consumer that waits hears of it, whoever is at the door is refused, and no piece is left.
fn end(how: fn(&Queue)) {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let consumer = consumer(&queue, &tally);
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (queue, tally) = (queue.clone(), tally.clone());
            thread::spawn(move || match call(&queue, &tally) {
                Ok(submission) => (1, Some(submission)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    (0, None)
                }
            })
        })
        .collect();
    how(&queue);
    consumer.join().expect("the consumer");
    let callers: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("a caller")).collect();
    let served: usize = callers.iter().map(|(served, _)| served).sum();
    drop(callers);
    assert!(tally.dispatched() <= served && tally.gone() >= served, "a piece is left");
    all_is_free(&queue);
}

/// Whoever is at the door hears of the end although the room stays taken.
fn refused_at_the_door(how: fn(&Queue)) {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let room = block_on(admitted(&queue)).expect("room");
    let caller = {
        let (queue, tally) = (queue.clone(), tally.clone());
        thread::spawn(move || call(&queue, &tally).map(drop).map_err(|error| error.kind()))
    };
    how(&queue);
    assert_eq!(caller.join().expect("a caller"), Err(ErrorKind::Unavailable));
    drop(room);
    all_is_free(&queue);
}

/// After `close` who has room is served, portion by portion: the consumer ends after the last.
fn portions_after_the_close() {
    let (queue, tally) = (Queue::new(TIGHT), Tally::default());
    let consumer = consumer(&queue, &tally);
    let room = block_on(admitted(&queue)).expect("room");
    let caller = {
        let tally = tally.clone();
        thread::spawn(move || {
            let submission = room.submit([tally.piece()], true).expect("open");
            block_on(submission.wants_more()).expect("it is here");
            let room = block_on(submission.admit(Ask { least: 10, most: 10 })).expect("it is inside");
            submission.add(room, [tally.piece()], true).expect("it is inside");
            submission.complete();
            submission
        })
    };
    queue.close();
    let held = caller.join().expect("a caller");
    consumer.join().expect("the consumer");
    assert_eq!((tally.dispatched(), tally.gone()), (2, 2));
    drop(held);
    all_is_free(&queue);
}

fn main() {
    let withdrawn = |call: Submission<Counted>| assert!(call.withdraw_untouched());
    let failed = |queue: &Queue| assert!(queue.fail());
    model("two calls for two consumers", 3, || pieces_for_waiting_consumers(2, 2));
    model("a piece for each of two consumers", 3, one_piece_each);
    model("two callers at the door", 3, || door(2));
    model("a call is dropped", 3, || withdrawal(drop));
    model("a call is withdrawn", 3, move || withdrawal(withdrawn));
    model("leaving the door", 3, leaving_the_door);
    model("closed", 3, || end(Queue::close));
    model("stopped", 3, || end(Queue::stop));
    model("failed", 3, move || end(failed));
    model("closed before the door", 3, || refused_at_the_door(Queue::close));
    model("stopped before the door", 3, || refused_at_the_door(Queue::stop));
    model("portions after the close", 3, portions_after_the_close);
}
