//! The queue's state, and what each step makes of it.

use super::batch::{Batch, Piece};
use super::lane::Lane;
use super::options::{Class, Options};
use super::room::Room;
use super::sync::oneshot;
use crate::error::{Error, ErrorKind};

/// What is said where there is nobody to compute any more.
pub const FAILED: &str = "nothing is computed any more, as an inference thread has ended on a bug or its GPU has failed: see \
                          the log, and restart the server";

/// How far the queue is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    Open,
    /// Closed to new calls; those inside are served.
    Draining,
    /// Nothing more is served.
    Stopped,
    /// Nothing more is served, as a consumer has ended before its time.
    Failed,
}

impl Phase {
    /// What is said to a call that is not served.
    pub(super) fn refusal(self) -> Error {
        let text = if self == Phase::Failed { FAILED } else { "the server is shutting down" };
        Error::new(ErrorKind::Unavailable, text)
    }
}

/// See the module.
pub(super) struct State<P> {
    pub(super) options: Options,
    pub(super) phase: Phase,
    /// Indexed by class.
    pub(super) lanes: [Lane<P>; 2],
    /// Indexed by class.
    pub(super) rooms: [Room; 2],
    /// Admissions with which nothing was submitted yet.
    pub(super) unsubmitted: usize,
    /// Batches of queries in a row that a waiting passage has seen.
    overtaken: usize,
    /// Consumers that wait for news: waking nobody costs a system call.
    pub(super) parked: usize,
}

/// What a call should bring next, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// This much, or one piece.
    pub tokens: usize,
    /// It should not wait for room for more than this, or one piece.
    pub turn: usize,
}

impl<P> State<P> {
    /// An empty queue.
    pub(super) fn new(options: Options) -> State<P> {
        State {
            options,
            phase: Phase::Open,
            lanes: Class::ALL.map(|class| Lane::new(options.budget(class) / 4)),
            rooms: Class::ALL.map(|class| Room::new(options.room(class))),
            unsubmitted: 0,
            overtaken: 0,
            parked: 0,
        }
    }

    /// Other sizes from now on.
    pub(super) fn resize(&mut self, options: Options) {
        self.options = options;
        for class in Class::ALL {
            self.lanes[class as usize].set_turn(options.budget(class) / 4);
            self.rooms[class as usize].set_bound(options.room(class));
        }
    }

    pub(super) fn has_pieces(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.is_empty())
    }

    /// Whether as much waits as a batch takes.
    pub(super) fn has_a_batch(&self) -> bool {
        let waiting: usize = self.lanes.iter().map(Lane::tokens).sum();
        waiting >= self.options.batch_tokens
    }

    /// Whether nothing will come any more.
    pub(super) fn has_ended(&self) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Draining => {
                self.unsubmitted == 0 && !self.lanes.iter().any(|lane| lane.awaits_more() || !lane.is_empty())
            }
            Phase::Stopped | Phase::Failed => true,
        }
    }

    /// Closes the doors, up to a phase.
    pub(super) fn close(&mut self, phase: Phase) {
        if self.phase < phase {
            self.phase = phase;
        }
        let all = self.phase >= Phase::Stopped;
        self.rooms.iter_mut().for_each(|room| room.turn_away(all));
    }

    /// Closes, and takes out what waits.
    pub(super) fn end(&mut self, phase: Phase, dropped: &mut Vec<P>) {
        self.close(phase);
        for class in Class::ALL {
            let tokens = self.lanes[class as usize].clear(dropped);
            self.rooms[class as usize].leave(tokens);
        }
    }

    /// What a call that has `waiting` tokens here should bring next: at least a turn, as there may be room for it by then.
    pub(super) fn wanted(&self, class: Class, waiting: usize) -> Wanted {
        let (share, turn) = (self.options.share(class), self.lanes[class as usize].turn().max(1));
        let tokens = share.saturating_sub(waiting).min(self.rooms[class as usize].free()).max(turn);
        Wanted { tokens, turn }
    }

    /// Lets in who fits now. They are to be told.
    pub(super) fn admit_waiting(&mut self) -> Vec<oneshot::Sender<()>> {
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
    /// The next batch, if there is a piece. Those that nobody wants go to `dropped`.
    pub(super) fn take(&mut self, dropped: &mut Vec<P>) -> Option<Batch<P>> {
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
