//! How much of one class may wait, and who waits to come in.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

/// Room for so many tokens, with a line at its door.
pub(super) struct Room {
    bound: usize,
    /// Tokens of those inside: admitted, and not dispatched or dropped yet.
    held: usize,
    /// Who waits, by the number drawn: lowest first. Whoever is not here any more was admitted.
    line: BTreeMap<u64, Waiting>,
    next_number: u64,
    closed: bool,
}

struct Waiting {
    tokens: usize,
    /// Dropped, with nothing said, once the door is closed for good.
    caller: Option<oneshot::Sender<()>>,
}

impl Room {
    pub(super) fn new(bound: usize) -> Self {
        Room { bound, held: 0, line: BTreeMap::new(), next_number: 0, closed: false }
    }

    pub(super) fn set_bound(&mut self, tokens: usize) {
        self.bound = tokens;
    }

    /// What is larger than the whole room has it alone, rather than never.
    fn fits(&self, tokens: usize) -> bool {
        self.held == 0 || self.held.checked_add(tokens).is_some_and(|held| held <= self.bound)
    }

    /// In at once, if there is room and nobody waits.
    pub(super) fn enter(&mut self, tokens: usize) -> bool {
        let enters = self.line.is_empty() && self.fits(tokens);
        if enters {
            self.held += tokens;
        }
        enters
    }

    /// Joins the line: a number, and the word that comes on admission.
    pub(super) fn wait(&mut self, tokens: usize) -> (u64, oneshot::Receiver<()>) {
        let (caller, admitted) = oneshot::channel();
        let number = self.next_number;
        self.next_number += 1;
        self.line.insert(number, Waiting { tokens, caller: Some(caller) });
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
        let first = self.line.first_entry().filter(|_| !self.closed)?;
        let tokens = first.get().tokens;
        if !self.fits(tokens) {
            return None;
        }
        self.held += tokens;
        self.line.pop_first().and_then(|(_, waiting)| waiting.caller)
    }

    /// Closes the door: the line hears so, and nobody else comes in.
    pub(super) fn turn_away(&mut self) {
        self.closed = true;
        self.line.values_mut().for_each(|waiting| waiting.caller = None);
    }

    pub(super) fn at_the_door(&self) -> usize {
        self.line.len()
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held
    }
}
