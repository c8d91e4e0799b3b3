//! What waits of one class: calls that take turns.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::batch::{Batch, Piece};
use super::room::Room;
use super::sync::oneshot;

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

/// The waiting calls of a class. Nothing here looks at more calls than it serves.
pub(super) struct Lane<P> {
    /// By number, which is by age. A call without pieces is here only while it may bring more.
    calls: BTreeMap<u64, Call<P>>,
    /// Which call has which turn: lowest first. A call without pieces has none.
    turns: BTreeMap<u64, u64>,
    /// The next number, of a call or of a turn.
    next: u64,
    /// A turn is one piece, and more up to this weight.
    turn_tokens: usize,
    pieces: usize,
    tokens: usize,
    dropped: u64,
    /// Calls that may bring more.
    open: usize,
    /// Who is to be told so now.
    hungry: Vec<oneshot::Sender<()>>,
}

struct Call<P> {
    pieces: VecDeque<(usize, P)>,
    /// Weight of the pieces.
    tokens: usize,
    since: Instant,
    /// Its key in `turns`, while it has pieces.
    turn: Option<u64>,
    /// A piece of it was dispatched.
    begun: bool,
    /// It may bring more.
    open: bool,
    /// To be told when no more than so many of its tokens are left.
    waiter: Option<(usize, oneshot::Sender<()>)>,
    /// What this turn gave so far. A turn that a batch's end cuts short goes on in the next batch.
    taken: Taken,
}

#[derive(Default)]
struct Taken {
    pieces: usize,
    tokens: usize,
}

impl<P> Lane<P> {
    pub(super) fn new(turn_tokens: usize) -> Self {
        let (calls, turns) = (BTreeMap::new(), BTreeMap::new());
        Lane { calls, turns, next: 0, turn_tokens, pieces: 0, tokens: 0, dropped: 0, open: 0, hungry: Vec::new() }
    }

    /// A turn's weight.
    pub(super) fn turn(&self) -> usize {
        self.turn_tokens
    }

    /// Tokens that wait.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn set_turn(&mut self, tokens: usize) {
        self.turn_tokens = tokens;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// Whether some call may bring more.
    pub(super) fn awaits_more(&self) -> bool {
        self.open > 0
    }

    /// Begins a call that is to bring pieces. Returns its number.
    pub(super) fn open(&mut self, since: Instant) -> u64 {
        let number = self.draw();
        let call = Call {
            pieces: VecDeque::new(),
            tokens: 0,
            since,
            turn: None,
            begun: false,
            open: true,
            waiter: None,
            taken: Taken::default(),
        };
        self.calls.insert(number, call);
        self.open += 1;
        number
    }

    /// Queues more pieces of a call: behind its others, or, if it has none, with a turn behind those of the others.
    /// Gives the pieces back if the call is not here any more.
    pub(super) fn push(&mut self, number: u64, pieces: Vec<(usize, P)>) -> Result<(), Vec<(usize, P)>> {
        let turn = self.draw();
        let Some(call) = self.calls.get_mut(&number) else {
            return Err(pieces);
        };
        if call.pieces.is_empty() && !pieces.is_empty() {
            call.turn = Some(turn);
            call.taken = Taken::default();
            self.turns.insert(turn, number);
        }
        let tokens: usize = pieces.iter().map(|(tokens, _)| tokens).sum();
        self.pieces += pieces.len();
        self.tokens += tokens;
        call.tokens += tokens;
        call.pieces.extend(pieces);
        Ok(())
    }

    /// A call has brought all its pieces.
    pub(super) fn close(&mut self, number: u64) {
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        if std::mem::take(&mut call.open) {
            self.open -= 1;
        }
        if call.pieces.is_empty() {
            self.calls.remove(&number);
        }
    }

    /// Word that comes when no more than so many tokens of a call are left here, or when the call is not.
    pub(super) fn when_left(&mut self, number: u64, tokens: usize) -> oneshot::Receiver<()> {
        let (waiter, word) = oneshot::channel();
        if let Some(call) = self.calls.get_mut(&number) {
            if call.tokens <= tokens {
                // Its receiver is at hand.
                let _ = waiter.send(());
            } else {
                call.waiter = Some((tokens, waiter));
            }
        }
        word
    }

    /// Weight of what a call has here.
    pub(super) fn tokens_of(&self, number: u64) -> usize {
        self.calls.get(&number).map_or(0, |call| call.tokens)
    }

    /// Whom to tell that they may bring more.
    pub(super) fn hungry(&mut self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.hungry)
    }

    /// Takes a call out, if it is still here. Returns the weight of its pieces.
    pub(super) fn withdraw(&mut self, number: u64, dropped: &mut Vec<P>) -> usize {
        let Some(call) = self.calls.remove(&number) else {
            return 0;
        };
        if let Some(turn) = call.turn {
            self.turns.remove(&turn);
        }
        self.open -= usize::from(call.open);
        self.pieces -= call.pieces.len();
        self.tokens -= call.tokens;
        self.dropped += call.pieces.len() as u64;
        dropped.extend(call.pieces.into_iter().map(|(_, piece)| piece));
        call.tokens
    }

    /// The next number, of a call or of a turn.
    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Whether a call is here and nothing of it was dispatched yet.
    pub(super) fn is_untouched(&self, number: u64) -> bool {
        self.calls.get(&number).is_some_and(|call| !call.begun)
    }

    /// Takes everything out. Returns its weight.
    pub(super) fn clear(&mut self, dropped: &mut Vec<P>) -> usize {
        self.turns.clear();
        let calls = std::mem::take(&mut self.calls);
        dropped.extend(calls.into_values().flat_map(|call| call.pieces).map(|(_, piece)| piece));
        self.pieces = 0;
        self.open = 0;
        std::mem::take(&mut self.tokens)
    }

    pub(super) fn depth(&self, now: Instant) -> Depth {
        Depth {
            calls: self.turns.len(),
            pieces: self.pieces,
            tokens: self.tokens,
            oldest: self.calls.first_key_value().map(|(_, call)| now.saturating_duration_since(call.since)),
            at_the_door: 0,
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
impl<P> Lane<P> {
    pub(super) fn turns(&self) -> usize {
        self.turns.len()
    }
}

impl<P: Piece> Lane<P> {
    /// Adds pieces to the batch, turn by turn, until the next one would lift it over the budget. Pieces nobody wants
    /// go to `dropped`. Whatever leaves the lane gives its room back.
    pub(super) fn take(&mut self, budget: usize, batch: &mut Batch<P>, room: &mut Room, dropped: &mut Vec<P>) {
        while let Some(turn) = self.turns.first_entry() {
            let number = *turn.get();
            let Some(call) = self.calls.get_mut(&number) else {
                // Both maps change together; a turn without a call would be a turn of nothing.
                turn.remove();
                continue;
            };
            while let Some((tokens, piece)) = call.pieces.front() {
                let tokens = *tokens;
                let cancelled = piece.is_cancelled();
                if !cancelled {
                    if !batch.pieces.is_empty() && batch.tokens.saturating_add(tokens) > budget {
                        return;
                    }
                    if call.taken.pieces > 0 && call.taken.tokens.saturating_add(tokens) > self.turn_tokens {
                        break;
                    }
                }
                let Some((_, piece)) = call.pieces.pop_front() else { break };
                self.pieces -= 1;
                self.tokens -= tokens;
                call.tokens -= tokens;
                room.leave(tokens);
                if let Some((_, waiter)) = call.waiter.take_if(|(left, _)| call.tokens <= *left) {
                    self.hungry.push(waiter);
                }
                if cancelled {
                    self.dropped += 1;
                    dropped.push(piece);
                } else {
                    call.begun = true;
                    call.taken.pieces += 1;
                    call.taken.tokens += tokens;
                    batch.tokens += tokens;
                    batch.pieces.push(piece);
                }
            }
            turn.remove();
            call.turn = None;
            if !call.pieces.is_empty() {
                call.turn = Some(self.next);
                call.taken = Taken::default();
                self.turns.insert(self.next, number);
                self.next += 1;
            } else if !call.open {
                self.calls.remove(&number);
            }
        }
    }
}
