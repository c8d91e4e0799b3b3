//! The bodies that hold room, and which of them may grow: the rules of the module, without a wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// So much of every body counts against the room for small ones.
pub(super) const SMALL: usize = 64 * 1024;

/// The small bodies' share of the room: one byte in so many.
const SMALL_SHARE: usize = 4;

/// A sender of fewer bytes per second makes way for others.
const SLOWEST: f64 = 64.0 * 1024.0;

/// The room, and who has what of it.
pub(super) struct Shared {
    bodies: Mutex<Bodies>,
    /// A body grew no longer, or is gone.
    pub(super) changed: Notify,
    small: usize,
    large: usize,
    /// Kept free for the eldest.
    small_reserve: usize,
    large_reserve: usize,
}

/// The bodies that hold room, by age.
#[derive(Default)]
pub(super) struct Bodies {
    by_age: BTreeMap<u64, Entry>,
    next: u64,
    /// Bytes held by all.
    small: usize,
    large: usize,
    next_turn: u64,
}

/// What a body holds, and how it comes.
pub(super) struct Entry {
    small: usize,
    pub(super) large: usize,
    /// Its place among the large ones, from when it became one.
    turn: Option<u64>,
    /// Not arrived whole.
    pub(super) reading: bool,
    /// Waits for room.
    wants: bool,
    /// How long its sender kept us waiting, but for the wait under way.
    pub(super) kept_waiting: Duration,
    /// Since when we wait for its sender.
    pub(super) waiting: Option<Instant>,
    /// Told when it is to make way.
    make_way: Arc<Notify>,
    makes_way: bool,
}

impl Entry {
    /// How long its sender has kept us waiting, if it is slower than it may be while others want its room.
    fn slow(&self, patience: Duration) -> Option<Duration> {
        let waiting = self.waiting.filter(|_| self.reading && !self.makes_way)?;
        let kept_waiting = self.kept_waiting + waiting.elapsed();
        let is_slow = ((self.small + self.large) as f64) < kept_waiting.as_secs_f64() * SLOWEST;
        (waiting.elapsed() > patience || (kept_waiting > patience && is_slow)).then_some(kept_waiting)
    }
}

impl Bodies {
    /// Takes in a body of which nothing has room yet. Answers its place by age.
    pub(super) fn enter(&mut self, make_way: Arc<Notify>) -> u64 {
        let age = self.next;
        self.next += 1;
        let entry = Entry {
            small: 0,
            large: 0,
            turn: None,
            reading: true,
            wants: false,
            kept_waiting: Duration::ZERO,
            waiting: None,
            make_way,
            makes_way: false,
        };
        self.by_age.insert(age, entry);
        age
    }

    /// A body that is here.
    pub(super) fn entry(&mut self, age: u64) -> Option<&mut Entry> {
        self.by_age.get_mut(&age)
    }

    /// Of a body no more than this is here any more. Answers whether that gave room back.
    pub(super) fn shrink(&mut self, age: u64, arrived: usize) -> bool {
        let (small, large) = (arrived.min(SMALL), arrived.saturating_sub(SMALL));
        let Some(entry) = self.by_age.get_mut(&age) else { return false };
        let (less_small, less_large) = (entry.small.saturating_sub(small), entry.large.saturating_sub(large));
        entry.small -= less_small;
        entry.large -= less_large;
        if large == 0 {
            entry.turn = None;
        }
        self.small -= less_small;
        self.large -= less_large;
        less_small + less_large > 0
    }

    /// A body is gone.
    pub(super) fn leave(&mut self, age: u64) {
        if let Some(entry) = self.by_age.remove(&age) {
            self.small -= entry.small;
            self.large -= entry.large;
        }
    }

    /// Whether a body waits for room; answers whether that is room for large ones.
    pub(super) fn wants(&mut self, age: u64, wants: bool) -> bool {
        self.by_age.get_mut(&age).is_some_and(|entry| {
            entry.wants = wants;
            entry.turn.is_some()
        })
    }

    /// Asks the slowest sender among those that hold some of what is wanted to make way.
    pub(super) fn slowest_makes_way(&mut self, patience: Duration, holds: impl Fn(&Entry) -> bool) {
        let slow = self.by_age.values_mut().filter(|entry| holds(entry));
        let slow = slow.filter_map(|entry| entry.slow(patience).map(|waited| (waited, entry)));
        if let Some((_, entry)) = slow.max_by_key(|(waited, _)| *waited) {
            entry.makes_way = true;
            entry.make_way.notify_one();
        }
    }
}

impl Shared {
    /// Room for so many bytes, of bodies of at most so many.
    pub(super) fn new(inflight: usize, largest: usize) -> Shared {
        let small = (inflight / SMALL_SHARE).max(1);
        let large = inflight.saturating_sub(small).max(1);
        let (small_reserve, large_reserve) = (SMALL.min(small), largest.min(large));
        let (bodies, changed) = (Mutex::default(), Notify::new());
        Shared { bodies, changed, small, large, small_reserve, large_reserve }
    }

    pub(super) fn bodies(&self) -> MutexGuard<'_, Bodies> {
        // Nothing panics while it is held.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a body room for what has arrived of it, if there is: first among the small ones, then, when it has all that a
    /// small one may have, among the large ones. So whoever waits for small room holds no large room.
    pub(super) fn grow(&self, bodies: &mut Bodies, age: u64, arrived: usize) -> bool {
        let (small, large) = (arrived.min(SMALL).min(self.small), arrived.saturating_sub(SMALL).min(self.large));
        let Some(entry) = bodies.by_age.get(&age) else { return false };
        let (more_small, more_large) = (small.saturating_sub(entry.small), large.saturating_sub(entry.large));
        if more_small > 0 {
            let is_eldest = || {
                let mut elders = bodies.by_age.range(..age).map(|(_, elder)| elder).filter(|elder| elder.reading);
                elders.all(|elder| elder.small >= SMALL.min(self.small))
            };
            let after = bodies.small + more_small;
            if after > self.small || (after > self.small - self.small_reserve && !is_eldest()) {
                return false;
            }
            bodies.small = after;
        }
        let mut turn = None;
        if let Some(entry) = bodies.by_age.get_mut(&age) {
            entry.small += more_small;
            if large > 0 && entry.turn.is_none() {
                entry.turn = Some(bodies.next_turn);
                bodies.next_turn += 1;
            }
            turn = entry.turn;
        }
        if more_large > 0 {
            let mut is_eldest = true;
            for elder in bodies.by_age.values() {
                if elder.reading && elder.turn.is_some() && elder.turn < turn {
                    is_eldest = false;
                    if elder.wants {
                        return false;
                    }
                }
            }
            let limit = if is_eldest { self.large } else { self.large - self.large_reserve };
            if bodies.large + more_large > limit {
                return false;
            }
            bodies.large += more_large;
        }
        if let Some(entry) = bodies.by_age.get_mut(&age) {
            entry.large += more_large;
        }
        bodies.wants(age, false);
        true
    }
}

#[cfg(test)]
impl Bodies {
    /// Bytes of small ones, of large ones, and how many bodies there are.
    pub(super) fn held(&self) -> (usize, usize, usize) {
        (self.small, self.large, self.by_age.len())
    }
}
