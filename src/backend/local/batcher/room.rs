//! How much of one class may wait, and who waits to come in.

use std::collections::BTreeMap;

use super::sync::oneshot;

/// Room for so many tokens, with a line at its door.
pub(super) struct Room {
    bound: usize,
    /// Tokens of those inside: admitted, and not dispatched or dropped yet.
    held: usize,
    /// Who waits, by the number drawn: lowest first. Whoever is not here any more was admitted.
    line: BTreeMap<u64, Waiting>,
    next_number: u64,
}

struct Waiting {
    tokens: usize,
    /// Its call has been inside before.
    returns: bool,
    /// Dropped, with nothing said, once the door is closed for good.
    caller: Option<oneshot::Sender<()>>,
}

impl Room {
    pub(super) fn new(bound: usize) -> Self {
        Room { bound, held: 0, line: BTreeMap::new(), next_number: 0 }
    }

    pub(super) fn set_bound(&mut self, tokens: usize) {
        self.bound = tokens;
    }

    /// What is larger than the whole room has it alone, rather than never.
    fn fits(&self, tokens: usize) -> bool {
        self.held == 0 || self.held.checked_add(tokens).is_some_and(|held| held <= self.bound)
    }

    /// What of the room nobody has, or waits for.
    pub(super) fn free(&self) -> usize {
        if self.line.is_empty() { self.bound.saturating_sub(self.held) } else { 0 }
    }

    /// In at once with at least `least` and at most `most`, if there is room and nobody waits. Returns with how much.
    pub(super) fn enter(&mut self, least: usize, most: usize) -> Option<usize> {
        let enters = self.line.is_empty() && self.fits(least);
        enters.then(|| {
            let tokens = most.min(self.free()).max(least);
            self.held += tokens;
            tokens
        })
    }

    /// Joins the line: a number, and the word that comes on admission.
    pub(super) fn wait(&mut self, tokens: usize, returns: bool) -> (u64, oneshot::Receiver<()>) {
        let (caller, admitted) = oneshot::channel();
        let number = self.next_number;
        self.next_number += 1;
        self.line.insert(number, Waiting { tokens, returns, caller: Some(caller) });
        (number, admitted)
    }

    /// Leaves the line; `false` if admitted before.
    pub(super) fn give_up(&mut self, number: u64) -> bool {
        self.line.remove(&number).is_some()
    }

    /// Gives back what was held inside.
    pub(super) fn leave(&mut self, tokens: usize) {
        self.held -= tokens;
    }

    /// Admits the first of the line if it fits. The caller is to be told.
    pub(super) fn admit_next(&mut self) -> Option<oneshot::Sender<()>> {
        // Those turned away are still in the line until they leave; that is when the queue ends.
        let (&number, first) = self.line.iter().find(|(_, waiting)| waiting.caller.is_some())?;
        let tokens = first.tokens;
        if !self.fits(tokens) {
            return None;
        }
        self.held += tokens;
        self.line.remove(&number).and_then(|waiting| waiting.caller)
    }

    /// Turns the line away: newcomers only, or all. They hear so.
    pub(super) fn turn_away(&mut self, all: bool) {
        let away = |waiting: &&mut Waiting| all || !waiting.returns;
        self.line.values_mut().filter(away).for_each(|waiting| waiting.caller = None);
    }

    pub(super) fn at_the_door(&self) -> usize {
        self.line.len()
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held
    }
}
