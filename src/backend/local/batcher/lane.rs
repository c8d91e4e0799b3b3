//! What waits of one class: calls that take turns.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::room::Room;
use super::{Batch, Depth, Piece};

/// The waiting calls of a class. Nothing here looks at more calls than it serves.
pub(super) struct Lane<P> {
    /// By number, which is by age. A call without pieces is not here.
    calls: BTreeMap<u64, Call<P>>,
    /// Which call has which turn: lowest first.
    turns: BTreeMap<u64, u64>,
    /// The next number, of a call or of a turn.
    next: u64,
    /// A turn is one piece, and more up to this weight.
    turn_tokens: usize,
    pieces: usize,
    tokens: usize,
    dropped: u64,
}

struct Call<P> {
    pieces: VecDeque<(usize, P)>,
    since: Instant,
    /// Its key in `turns`.
    turn: u64,
    /// A piece of it was dispatched.
    begun: bool,
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
        Lane { calls, turns, next: 0, turn_tokens, pieces: 0, tokens: 0, dropped: 0 }
    }

    pub(super) fn set_turn(&mut self, tokens: usize) {
        self.turn_tokens = tokens;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// Queues a call behind the others. Returns its number.
    pub(super) fn push(&mut self, pieces: Vec<(usize, P)>, since: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        if !pieces.is_empty() {
            self.pieces += pieces.len();
            self.tokens += pieces.iter().map(|(tokens, _)| tokens).sum::<usize>();
            self.turns.insert(number, number);
            let call = Call { pieces: pieces.into(), since, turn: number, begun: false, taken: Taken::default() };
            self.calls.insert(number, call);
        }
        number
    }

    /// Takes a call's pieces out, if it is still here. Returns their weight.
    pub(super) fn withdraw(&mut self, number: u64, dropped: &mut Vec<P>) -> usize {
        let Some(call) = self.calls.remove(&number) else {
            return 0;
        };
        self.turns.remove(&call.turn);
        let tokens = call.pieces.iter().map(|(tokens, _)| tokens).sum();
        self.pieces -= call.pieces.len();
        self.tokens -= tokens;
        self.dropped += call.pieces.len() as u64;
        dropped.extend(call.pieces.into_iter().map(|(_, piece)| piece));
        tokens
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
        std::mem::take(&mut self.tokens)
    }

    pub(super) fn depth(&self, now: Instant) -> Depth {
        Depth {
            calls: self.calls.len(),
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
                room.leave(tokens);
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
            if call.pieces.is_empty() {
                self.calls.remove(&number);
            } else {
                call.turn = self.next;
                call.taken = Taken::default();
                self.turns.insert(self.next, number);
                self.next += 1;
            }
        }
    }
}
