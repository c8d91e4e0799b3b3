//! The queue in front of the encoder: bounded, two classes, continuous batches.
//!
//! A call asks for room ([`Batcher::admit`]), puts pieces in ([`Admission::submit`]) and holds the [`Submission`] while it
//! awaits its answers; the inference thread takes a [`Batch`] whenever it is free ([`Batcher::next_batch`]). A *piece* is
//! one token sequence; a *call* is all the pieces that one request brings, of one text or of many. A call that has more
//! than its share of the room brings them portion by portion, as they are dispatched ([`Submission::wants_more`],
//! [`Submission::admit`]). Nothing here knows tensors or tokenizers.
//!
//! The rules, each one tested:
//!
//! - **No timer.** A waiting consumer gets a piece the moment it comes; while it computes, what comes is gathered.
//! - **Budget.** A batch never weighs more than its class's budget, except one piece that alone weighs more.
//! - **Sharing.** Calls of a class take turns, first come first; a turn is one piece, and more while the turn stays
//!   within a quarter of the budget. So a call waits for one turn of each call that was there before it, however much
//!   these bring. Pieces of a call keep their order.
//! - **Queries first.** While queries wait, batches are for them, but at most [`Options::queries_in_a_row`] while a
//!   passage waits; then the passages have one batch.
//! - **Bounded room, waiting at the door.** What waits never weighs more than [`Options::waiting_tokens`], except one piece
//!   that alone weighs more. Whoever finds no room waits, first come first, until what it asks for fits or its deadline
//!   passes. One eighth of the room is the queries', the rest the passages': an import that fills its part makes no query
//!   wait, and queries without end take no room from passages.
//! - **A share of the room.** A call holds at most its [`Options::share`] of its class's part, however much it brings. Nobody
//!   at the door asks for more than a turn, and a call is there once: so whoever comes to a room that large calls have
//!   filled waits for a turn of each of them, not for their end.
//! - **A deadline is for the beginning.** A call of which nothing was dispatched by its deadline can be withdrawn whole
//!   ([`Submission::withdraw_untouched`]); one that has begun is finished.
//! - **Who leaves costs nothing.** Dropping the future, the [`Admission`] or the [`Submission`] gives its room back at
//!   once; a piece that says [`Piece::is_cancelled`] is dropped instead of dispatched.
//! - **Drain.** After [`Batcher::close`] no call is admitted; one that was admitted before is served, all its portions,
//!   then the consumers end.

mod lane;
mod room;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::lane::Lane;
use self::room::Room;
use crate::error::{Error, ErrorKind, Result};

/// The queries' part of [`Options::waiting_tokens`] is one in so many. Queries are short, and their part is worth
/// hundreds of them even in a small room.
const QUERY_PART: usize = 8;

/// A call may have one in so many of its class's part.
const SHARES: usize = 8;

/// Who is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits in front of a screen.
    Query,
    /// Import and everything else.
    Passage,
}

impl Class {
    /// Both, in the order they are served.
    pub const ALL: [Class; 2] = [Class::Query, Class::Passage];

    /// Label for metrics, `/meta` and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Query => "query",
            Class::Passage => "passage",
        }
    }
}

/// One token sequence on its way to the encoder. Both methods are called with the queue locked: they must be quick and
/// must not call the batcher.
pub trait Piece: Send {
    /// Its weight, special tokens included. Asked once.
    fn tokens(&self) -> usize;

    /// Whether nobody wants the answer any more.
    fn is_cancelled(&self) -> bool;
}

/// Sizes, all in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Budget of a batch of passages. A query that comes while one is computed waits for at most this much.
    pub batch_tokens: usize,
    /// Budget of a batch of queries.
    pub query_batch_tokens: usize,
    /// A batch of queries that weighs less is filled with passages up to this weight (and no further than
    /// `query_batch_tokens`). 0 = never. Worth while where a small batch takes as long as a slightly larger one.
    pub query_fill_tokens: usize,
    /// Batches of queries that may follow each other while a passage waits.
    pub queries_in_a_row: usize,
    /// What may wait, of both classes together, before callers wait for room.
    pub waiting_tokens: usize,
}

impl Options {
    /// The part of [`Options::waiting_tokens`] that a class has.
    pub const fn room(&self, class: Class) -> usize {
        let queries = self.waiting_tokens / QUERY_PART;
        match class {
            Class::Query => queries,
            Class::Passage => self.waiting_tokens - queries,
        }
    }

    /// The part of its class's room that one call may have: enough for the batch that is gathered and the one after it.
    pub const fn share(&self, class: Class) -> usize {
        let (part, two_batches) = (self.room(class) / SHARES, self.budget(class).saturating_mul(2));
        if part > two_batches { part } else { two_batches }
    }

    /// The budget of a class's batch.
    const fn budget(&self, class: Class) -> usize {
        match class {
            Class::Query => self.query_batch_tokens,
            Class::Passage => self.batch_tokens,
        }
    }
}

/// What the consumer computes in one go.
#[derive(Debug)]
pub struct Batch<P> {
    /// Whose turn it was. Passages may be in a batch of queries, after them ([`Options::query_fill_tokens`]).
    pub class: Class,
    /// Weight of all pieces.
    pub tokens: usize,
    /// Never empty.
    pub pieces: Vec<P>,
}

/// How much of a class waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Calls with pieces in the queue.
    pub calls: usize,
    /// Pieces in the queue.
    pub pieces: usize,
    /// Tokens in the queue.
    pub tokens: usize,
    /// For how long the oldest call in the queue has been there.
    pub oldest: Option<Duration>,
    /// Calls that wait for room, outside the queue.
    pub at_the_door: usize,
    /// Pieces dropped since the start because their caller had left.
    pub dropped: u64,
}

/// What a call should bring next, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// This much, or one piece.
    pub tokens: usize,
    /// It should not wait for room for more than this, or one piece.
    pub turn: usize,
}

/// How much room is wanted, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// What is waited for.
    pub least: usize,
    /// What is taken where nobody has to wait for it.
    pub most: usize,
}

/// Handle to the queue; clones share it.
pub struct Batcher<P> {
    shared: Arc<Shared<P>>,
}

impl<P> std::fmt::Debug for Batcher<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl<P> Clone for Batcher<P> {
    fn clone(&self) -> Self {
        Batcher { shared: self.shared.clone() }
    }
}

struct Shared<P> {
    state: Mutex<State<P>>,
    news: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Open,
    /// Closed to new calls; those inside are served.
    Draining,
    /// Nothing more is served.
    Stopped,
    /// Nothing more is served, as a consumer has ended before its time.
    Failed,
}

struct State<P> {
    options: Options,
    phase: Phase,
    /// Indexed by class.
    lanes: [Lane<P>; 2],
    /// Indexed by class.
    rooms: [Room; 2],
    /// Admissions with which nothing was submitted yet.
    unsubmitted: usize,
    /// Batches of queries in a row that a waiting passage has seen.
    overtaken: usize,
    /// Consumers that wait for news: waking nobody costs a system call.
    parked: usize,
}

impl<P: Piece> Batcher<P> {
    /// An empty queue.
    pub fn new(options: Options) -> Self {
        let state = State {
            options,
            phase: Phase::Open,
            lanes: Class::ALL.map(|class| Lane::new(options.budget(class) / 4)),
            rooms: Class::ALL.map(|class| Room::new(options.room(class))),
            unsubmitted: 0,
            overtaken: 0,
            parked: 0,
        };
        Batcher { shared: Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() }) }
    }

    /// The sizes in force.
    pub fn options(&self) -> Options {
        self.shared.lock().options
    }

    /// Other sizes from the next batch on. Room that becomes less is not taken from those who have it.
    pub fn resize(&self, options: Options) {
        self.shared.change(|state, _| {
            state.options = options;
            for class in Class::ALL {
                state.lanes[class as usize].set_turn(options.budget(class) / 4);
                state.rooms[class as usize].set_bound(options.room(class));
            }
        });
    }

    /// What a new call of a class should bring first.
    pub fn wanted(&self, class: Class) -> Wanted {
        self.shared.lock().wanted(class, 0)
    }

    /// Waits for room for a new call: for what there is at once up to `ask.most` tokens, else
    /// for `ask.least`. Both may be upper bounds. A call that finds room is
    /// admitted even if its deadline has passed. Must run where tokio's timer runs if there is a deadline.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when the deadline passes first, [`Batcher::refusal`] after [`Batcher::close`].
    pub async fn admit(&self, class: Class, ask: Ask, deadline: Option<Instant>) -> Result<Admission<P>> {
        let admitted = self.shared.admit(class, ask, None);
        let Some(deadline) = deadline else { return admitted.await };
        let admitted = tokio::time::timeout_at(deadline.into(), admitted).await;
        admitted.unwrap_or_else(|_| Err(self.no_room(class, ask.most)))
    }

    fn no_room(&self, class: Class, tokens: usize) -> Error {
        let options = self.options();
        let (room, label, waiting_tokens) = (options.room(class), class.as_str(), options.waiting_tokens);
        Error::new(
            ErrorKind::Overloaded,
            format!(
                "too much work is waiting: the {tokens} tokens of this request found no room in time among the {room} \
                 that may wait for the class '{label}'; try again later (limit: --max-waiting-tokens, now \
                 {waiting_tokens} for all classes)"
            ),
        )
    }

    /// The next batch, as soon as there is a piece; `None` when the queue is closed and empty. Blocks its thread. Any
    /// number of threads may call it.
    pub fn next_batch(&self) -> Option<Batch<P>> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        loop {
            let mut dropped = Vec::new();
            let batch = state.take(&mut dropped);
            let ended = state.has_ended();
            if batch.is_some() || ended {
                shared.settle(state, dropped);
                return batch;
            }
            if !dropped.is_empty() {
                shared.settle(state, dropped);
                state = shared.lock();
                continue;
            }
            state.parked += 1;
            state = shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
    }

    /// Admits nobody from now on. Who waits for room is refused; who has room is served; then consumers get `None`.
    pub fn close(&self) {
        self.shared.change(|state, _| state.close(Phase::Draining));
    }

    /// Closes, and drops what waits: for when no consumer is left, or no time.
    pub fn stop(&self) {
        self.end(Phase::Stopped);
    }

    /// Stops, for a consumer that has ended although it is needed. Answers whether it was: a closed queue needs none.
    pub fn fail(&self) -> bool {
        let needed = self.shared.lock().phase == Phase::Open;
        self.end(if needed { Phase::Failed } else { Phase::Stopped });
        needed
    }

    /// Whether it has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().phase == Phase::Failed
    }

    /// What is said to a call that is not served any more.
    pub fn refusal(&self) -> Error {
        self.shared.refusal()
    }

    fn end(&self, phase: Phase) {
        self.shared.change(|state, dropped| {
            state.close(phase);
            for class in Class::ALL {
                let tokens = state.lanes[class as usize].clear(dropped);
                state.rooms[class as usize].leave(tokens);
            }
        });
    }

    /// What waits of a class now. Costs one lock and no scan.
    pub fn depth(&self, class: Class) -> Depth {
        let state = self.shared.lock();
        let at_the_door = state.rooms[class as usize].at_the_door();
        Depth { at_the_door, ..state.lanes[class as usize].depth(Instant::now()) }
    }
}

impl<P> Shared<P> {
    /// Waits for room, for a new call or for more of one.
    async fn admit(self: &Arc<Self>, class: Class, ask: Ask, call: Option<u64>) -> Result<Admission<P>> {
        let last = if call.is_some() { Phase::Draining } else { Phase::Open };
        let entry = self.change(|state, _| {
            if state.phase > last {
                return Err(state.phase.refusal());
            }
            let room = &mut state.rooms[class as usize];
            match room.enter(ask.least, ask.most) {
                Some(tokens) => {
                    state.unsubmitted += 1;
                    Ok(Ok(tokens))
                }
                None => Ok(Err(room.wait(ask.least, call.is_some()))),
            }
        })?;
        let admission = |tokens| Admission { shared: self.clone(), class, call, tokens: Some(tokens) };
        let (number, admitted) = match entry {
            Ok(tokens) => return Ok(admission(tokens)),
            Err(waiting) => waiting,
        };
        let mut at_the_door = AtTheDoor { shared: self, class, number, tokens: ask.least, inside: false };
        admitted.await.map_err(|_| self.refusal())?;
        at_the_door.inside = true;
        Ok(admission(ask.least))
    }

    fn refusal(&self) -> Error {
        self.lock().phase.refusal()
    }

    /// No code of ours panics with the lock held; a [`Piece`]'s may, and each step before it left the state whole.
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every change goes through here or through [`Shared::settle`]: whoever can go on afterwards is told.
    fn change<R>(&self, change: impl FnOnce(&mut State<P>, &mut Vec<P>) -> R) -> R {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state, &mut dropped);
        self.settle(state, dropped);
        result
    }

    /// Ends a change: admits who fits now, wakes consumers, and drops pieces outside the lock, as their drop may run
    /// anybody's code.
    fn settle(&self, mut state: MutexGuard<'_, State<P>>, dropped: Vec<P>) {
        let mut told = state.admit_waiting();
        state.lanes.iter_mut().for_each(|lane| told.append(&mut lane.hungry()));
        let (parked, pieces, ended) = (state.parked > 0, state.has_pieces(), state.has_ended());
        drop(state);
        if parked && ended {
            self.news.notify_all();
        } else if parked && pieces {
            // One is enough: if it leaves something, it wakes the next.
            self.news.notify_one();
        }
        for caller in told {
            // A caller who left meanwhile gives the room back itself.
            let _ = caller.send(());
        }
        drop(dropped);
    }
}

impl<P> State<P> {
    fn has_pieces(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.is_empty())
    }

    fn has_ended(&self) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Draining => {
                self.unsubmitted == 0 && !self.lanes.iter().any(|lane| lane.awaits_more() || !lane.is_empty())
            }
            Phase::Stopped | Phase::Failed => true,
        }
    }

    fn close(&mut self, phase: Phase) {
        if self.phase < phase {
            self.phase = phase;
        }
        let all = self.phase >= Phase::Stopped;
        self.rooms.iter_mut().for_each(|room| room.turn_away(all));
    }

    /// What a call that has `waiting` tokens here should bring next: at least a turn, as there may be room for it by then.
    fn wanted(&self, class: Class, waiting: usize) -> Wanted {
        let (share, turn) = (self.options.share(class), self.lanes[class as usize].turn().max(1));
        let tokens = share.saturating_sub(waiting).min(self.rooms[class as usize].free()).max(turn);
        Wanted { tokens, turn }
    }

    fn admit_waiting(&mut self) -> Vec<oneshot::Sender<()>> {
        let mut admitted = Vec::new();
        for room in &mut self.rooms {
            while let Some(caller) = room.admit_next() {
                self.unsubmitted += 1;
                admitted.push(caller);
            }
        }
        admitted
    }
}

impl<P: Piece> State<P> {
    fn take(&mut self, dropped: &mut Vec<P>) -> Option<Batch<P>> {
        let options = self.options;
        loop {
            let [queries, passages] = &mut self.lanes;
            let passages_wait = !passages.is_empty();
            let class = match (queries.is_empty(), passages_wait) {
                (true, false) => return None,
                (false, false) => Class::Query,
                (true, true) => Class::Passage,
                (false, true) if self.overtaken < options.queries_in_a_row => Class::Query,
                (false, true) => Class::Passage,
            };
            let mut batch = Batch { class, tokens: 0, pieces: Vec::new() };
            let [query_room, passage_room] = &mut self.rooms;
            match class {
                Class::Query => {
                    queries.take(options.query_batch_tokens, &mut batch, query_room, dropped);
                    let fill = options.query_fill_tokens.min(options.query_batch_tokens);
                    if !batch.pieces.is_empty() && batch.tokens < fill {
                        passages.take(fill, &mut batch, passage_room, dropped);
                    }
                }
                Class::Passage => passages.take(options.batch_tokens, &mut batch, passage_room, dropped),
            }
            // Else all that the class had was dropped.
            if !batch.pieces.is_empty() {
                let overtaking = class == Class::Query && passages_wait;
                self.overtaken = if overtaking { self.overtaken + 1 } else { 0 };
                return Some(batch);
            }
        }
    }
}

/// A caller who waits for room, until it is admitted or leaves.
struct AtTheDoor<'a, P> {
    shared: &'a Shared<P>,
    class: Class,
    number: u64,
    tokens: usize,
    /// Admitted, and aware of it.
    inside: bool,
}

impl<P> Drop for AtTheDoor<'_, P> {
    fn drop(&mut self) {
        if !self.inside {
            self.shared.change(|state, _| {
                let room = &mut state.rooms[self.class as usize];
                if !room.give_up(self.number) {
                    // Admitted in the moment of leaving.
                    room.leave(self.tokens);
                    state.unsubmitted -= 1;
                }
            });
        }
    }
}

/// Room for pieces of one call. Dropping it gives the room back.
#[must_use = "dropping it gives the room back"]
pub struct Admission<P> {
    shared: Arc<Shared<P>>,
    class: Class,
    /// The call that is here before; `None`: a new one.
    call: Option<u64>,
    /// `None` once submitted.
    tokens: Option<usize>,
}

impl<P> std::fmt::Debug for Admission<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<P: Piece> Admission<P> {
    /// How much room there is.
    pub fn tokens(&self) -> usize {
        self.tokens.unwrap_or(0)
    }

    /// Queues pieces of a new call, in this order, and gives room that they do not need back. Does not wait. `more`: the
    /// call has not brought everything with this.
    ///
    /// # Errors
    ///
    /// Nothing is queued, and the pieces are dropped: [`ErrorKind::Internal`] if they weigh more than was admitted,
    /// [`ErrorKind::Unavailable`] after [`Batcher::stop`].
    pub fn submit(mut self, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<Submission<P>> {
        let call = self.put(pieces, more)?;
        Ok(Submission { shared: self.shared.clone(), class: self.class, call })
    }

    fn put(&mut self, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<u64> {
        let pieces: Vec<(usize, P)> = pieces.into_iter().map(|piece| (piece.tokens(), piece)).collect();
        let needed: usize = pieces.iter().map(|(tokens, _)| tokens).sum();
        let admitted = self.tokens();
        if needed > admitted {
            return Err(Error::internal(format!("a call admitted for {admitted} tokens brought {needed}")));
        }
        let since = Instant::now();
        let mut refused = Vec::new();
        let outcome = self.shared.change(|state, _| {
            if state.phase >= Phase::Stopped {
                refused = pieces;
                return Err(state.phase.refusal());
            }
            let lane = &mut state.lanes[self.class as usize];
            let number = self.call.unwrap_or_else(|| lane.open(since));
            if let Err(pieces) = lane.push(number, pieces) {
                refused = pieces;
                return Err(Error::internal("a call that was withdrawn brought more"));
            }
            if !more {
                lane.close(number);
            }
            self.tokens = None;
            state.unsubmitted -= 1;
            state.rooms[self.class as usize].leave(admitted - needed);
            Ok(number)
        });
        // Not under the lock: their drop may run anybody's code.
        drop(refused);
        outcome
    }
}

impl<P> Drop for Admission<P> {
    fn drop(&mut self) {
        if let Some(tokens) = self.tokens {
            self.shared.change(|state, _| {
                state.unsubmitted -= 1;
                state.rooms[self.class as usize].leave(tokens);
            });
        }
    }
}

/// A call in the queue: to be held while its answers are awaited. Dropping it withdraws what was not dispatched yet.
#[must_use = "dropping it withdraws the call's pieces"]
pub struct Submission<P> {
    shared: Arc<Shared<P>>,
    class: Class,
    call: u64,
}

impl<P> std::fmt::Debug for Submission<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<P: Piece> Submission<P> {
    /// Waits until no more than half of the call's share is left in the queue. Returns what it should bring next.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if the call is not in the queue any more.
    pub async fn wants_more(&self) -> Result<Wanted> {
        let word = self.shared.change(|state, _| {
            let half = state.options.share(self.class) / 2;
            state.lanes[self.class as usize].when_left(self.call, half)
        });
        word.await.map_err(|_| self.shared.refusal())?;
        let state = self.shared.lock();
        Ok(state.wanted(self.class, state.lanes[self.class as usize].tokens_of(self.call)))
    }

    /// Waits for room for more of the call, as [`Batcher::admit`] does for its beginning. Its deadline is the whole call's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] after [`Batcher::stop`].
    pub async fn admit(&self, ask: Ask) -> Result<Admission<P>> {
        self.shared.admit(self.class, ask, Some(self.call)).await
    }

    /// Queues more pieces of the call, with room that [`Submission::admit`] found. `more`: this is still not everything.
    ///
    /// # Errors
    ///
    /// As [`Admission::submit`].
    pub fn add(&self, mut room: Admission<P>, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<()> {
        room.put(pieces, more).map(|_| ())
    }

    /// The call has brought everything.
    pub fn complete(&self) {
        self.shared.change(|state, _| state.lanes[self.class as usize].close(self.call));
    }
}

impl<P> Submission<P> {
    /// Withdraws the whole call if nothing of it was dispatched yet: for when its deadline has passed. Answers whether it
    /// did; where it did not, the call is being served.
    pub fn withdraw_untouched(&self) -> bool {
        self.shared.change(|state, dropped| {
            let lane = &mut state.lanes[self.class as usize];
            let untouched = lane.is_untouched(self.call);
            if untouched {
                let tokens = lane.withdraw(self.call, dropped);
                state.rooms[self.class as usize].leave(tokens);
            }
            untouched
        })
    }
}

impl<P> Drop for Submission<P> {
    fn drop(&mut self) {
        self.shared.change(|state, dropped| {
            let tokens = state.lanes[self.class as usize].withdraw(self.call, dropped);
            state.rooms[self.class as usize].leave(tokens);
        });
    }
}

/// What is said where there is nobody to compute any more.
pub const FAILED: &str = "nothing is computed any more, as an inference thread has ended on a bug: see the log, and restart \
                          the server";

impl Phase {
    fn refusal(self) -> Error {
        let text = if self == Phase::Failed { FAILED } else { "the server is shutting down" };
        Error::new(ErrorKind::Unavailable, text)
    }
}
