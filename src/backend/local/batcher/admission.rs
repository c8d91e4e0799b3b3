//! A call's way in: at the door until there is room, then with room for its pieces.

use std::sync::Arc;
use std::time::Instant;

use super::batch::Piece;
use super::options::Class;
use super::shared::Shared;
use super::state::Phase;
use crate::error::{Error, Result};

/// How much room is wanted, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// What is waited for.
    pub least: usize,
    /// What is taken where nobody has to wait for it.
    pub most: usize,
}

impl<P> Shared<P> {
    /// Waits for room, for a new call or for more of one.
    pub(super) async fn admit(self: &Arc<Self>, class: Class, ask: Ask, call: Option<u64>) -> Result<Admission<P>> {
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
    pub(super) shared: Arc<Shared<P>>,
    pub(super) class: Class,
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

    /// Queues the pieces, of a new call or of more of one. Returns the call's number.
    pub(super) fn put(&mut self, pieces: impl IntoIterator<Item = P>, more: bool) -> Result<u64> {
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
