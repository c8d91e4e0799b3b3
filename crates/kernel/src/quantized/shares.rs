//! Which items of a phase a member does: those of its own part first, the same part in every phase, so that what it wrote
//! in one phase is still in its core's cache in the next. Whoever has done its part takes from the others'.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::team::Member;

/// How far each member's part of the current phase is done.
pub(super) struct Shares(Vec<Taken>);

/// The number of a phase and of the items that were taken in it, in one word; on cache lines of its own (two: CPUs fetch
/// them in pairs).
#[repr(align(128))]
struct Taken(AtomicU64);

/// Items of a part, at most: a head's rows, of all heads, are far fewer.
const ITEM_BITS: u32 = 32;

impl Shares {
    pub(super) fn new(members: usize) -> Shares {
        Shares((0..members).map(|_| Taken(AtomicU64::new(0))).collect())
    }

    /// Before a pass: its phases are counted from 1.
    pub(super) fn reset(&mut self) {
        self.0.iter_mut().for_each(|taken| *taken.0.get_mut() = 0);
    }

    /// An item that nobody has taken, of a phase of so many items; `None` if there is none.
    fn take(&self, phase: u64, member: usize, items: usize) -> Option<usize> {
        let members = self.0.len();
        (0..members).find_map(|further| {
            let owner = (member + further) % members;
            let part = items * owner / members..items * (owner + 1) / members;
            self.0[owner].next(phase, part.len()).map(|item| part.start + item)
        })
    }
}

impl Taken {
    /// The next item of a part, if there is one.
    fn next(&self, phase: u64, items: usize) -> Option<usize> {
        // Whoever takes an item is in the phase, and holds it open: the word is never ahead. What is done in one phase is
        // seen in the next by way of the team, not of this word.
        let take = |word: u64| {
            let taken = if word >> ITEM_BITS == phase { word % (1 << ITEM_BITS) } else { 0 };
            (taken < items as u64).then_some(phase << ITEM_BITS | (taken + 1))
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(if before >> ITEM_BITS == phase { (before % (1 << ITEM_BITS)) as usize } else { 0 })
    }
}

/// A member in a pass.
pub(super) struct Sharer<'a> {
    member: &'a Member<'a>,
    shares: &'a Shares,
    phases: Cell<u64>,
}

impl<'a> Sharer<'a> {
    pub(super) fn new(member: &'a Member<'a>, shares: &'a Shares) -> Sharer<'a> {
        Sharer { member, shares, phases: Cell::new(0) }
    }

    /// As [`Member::phase`], the member's own part first.
    pub(super) fn phase(&self, items: usize, mut work: impl FnMut(usize)) {
        self.phases.set(self.phases.get() + 1);
        self.member.phase(items, |_| {
            let item = self.shares.take(self.phases.get(), self.member.index(), items);
            work(item.expect("as many items as the team has claimed"));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::team::Team;
    use super::*;

    #[test]
    fn a_member_takes_its_own_part_first_and_every_item_is_taken_once() {
        let mut shares = Shares::new(3);
        for _ in 0..2 {
            for (phase, items) in [(1, 7), (2, 7), (3, 0), (4, 1), (5, 2), (6, 30)] {
                let mut taken: Vec<usize> = (0..items).filter_map(|i| shares.take(phase, i % 2, items)).collect();
                assert_eq!(shares.take(phase, 2, items), None);
                if items == 7 {
                    assert_eq!(taken, [0, 2, 1, 3, 4, 5, 6]);
                }
                taken.sort_unstable();
                assert_eq!(taken, (0..items).collect::<Vec<_>>());
            }
            shares.reset();
        }
    }

    #[test]
    fn a_team_does_every_item_of_every_phase() {
        let mut team = Team::new(3).unwrap();
        let mut shares = Shares::new(team.size());
        for _ in 0..20 {
            let done: Vec<Vec<AtomicU64>> =
                (0..40).map(|items| (0..items).map(|_| AtomicU64::new(0)).collect()).collect();
            let function = |member: &Member<'_>| {
                let sharer = Sharer::new(member, &shares);
                for items in &done {
                    sharer.phase(items.len(), |item| {
                        items[item].fetch_add(1, Ordering::Relaxed);
                    });
                }
            };
            team.run_borrowed(&function).unwrap();
            assert!(done.iter().flatten().all(|count| count.load(Ordering::Relaxed) == 1));
            shares.reset();
        }
    }
}
