//! The team of threads: no work is lost or done twice, what a phase wrote is there in the next, nobody sleeps for ever,
//! and nobody touches a pass's memory after its end.

#[path = "../../../crates/kernel/src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../model.rs"]
mod model;
mod sync;
#[path = "../../../crates/kernel/src/team.rs"]
#[allow(dead_code)]
mod team;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};

use model::model;
use team::{Member, Team};

/// Memory of a pass that one item at a time may use: loom finds two accesses without an order between them.
struct Place(UnsafeCell<usize>);

// SAFETY: loom watches over the accesses.
unsafe impl Sync for Place {}
// SAFETY: as above.
unsafe impl Send for Place {}

impl Place {
    fn new() -> Place {
        Place(UnsafeCell::new(0))
    }

    fn add(&self, value: usize) {
        // SAFETY: loom fails first.
        self.0.with_mut(|place| unsafe { *place += value });
    }

    fn read(&self) -> usize {
        // SAFETY: loom fails first.
        self.0.with(|place| unsafe { *place })
    }
}

fn places(count: usize) -> Arc<Vec<Place>> {
    Arc::new((0..count).map(|_| Place::new()).collect())
}

fn sum(places: &[Place]) -> usize {
    places.iter().map(Place::read).sum()
}

/// Runs a pass in which each item of a phase adds 1 to its place, and finds there what all items of the phase before have
/// added to theirs. After the pass all of it is the caller's alone.
fn pass(team: &mut Team, items: usize, phases: usize) {
    let memory: Vec<_> = (0..phases).map(|_| places(items)).collect();
    let shared = memory.clone();
    let pass = move |member: &Member<'_>| {
        for phase in 0..phases {
            member.phase(items, |item| {
                if phase > 0 {
                    assert_eq!(sum(&shared[phase - 1]), items, "before phase {phase}");
                }
                shared[phase][item].add(1);
            });
        }
    };
    team.run(Arc::new(pass)).expect("nobody panics");
    for places in memory {
        assert_eq!(sum(&places), items);
        // Whoever is late finds nothing to do here.
        places.iter().for_each(|place| place.add(1));
    }
}

/// Passes one after the other: the next begins while members may not have left the last.
fn passes(size: usize, items: usize, phases: usize, passes: usize) {
    let mut team = Team::new(size).expect("threads");
    for _ in 0..passes {
        pass(&mut team, items, phases);
    }
}

/// A team that nothing was asked of ends.
fn idle(size: usize) {
    drop(Team::new(size).expect("threads"));
}

/// Items that wait for each other: a member that sleeps is woken for a pass, and for each of its phases.
fn meetings(size: usize, phases: usize) {
    let mut team = Team::new(size).expect("threads");
    let there = Arc::new((Mutex::new(0), Condvar::new()));
    let pass = move |member: &Member<'_>| {
        for phase in 1..=phases {
            member.phase(size, |_| {
                let (count, more) = &*there;
                let mut count = count.lock().expect("nobody panics");
                *count += 1;
                more.notify_all();
                while *count < phase * size {
                    count = more.wait(count).expect("nobody panics");
                }
            });
        }
    };
    team.run(Arc::new(pass)).expect("nobody panics");
}

/// A pass in which whoever gets a certain item panics is an error for its caller, whoever that was, and the next one is
/// none. Nobody is left within an item.
fn panic_in(size: usize, items: usize) {
    let mut team = Team::new(size).expect("threads");
    let memory = places(items);
    let touched = Arc::clone(&memory);
    let result = team.run(Arc::new(move |member: &Member<'_>| {
        member.phase(items, |item| {
            touched[item].add(1);
            if item == 0 {
                // Without a message on standard error.
                resume_unwind(Box::new("on purpose"));
            }
        });
        member.phase(1, |_| {});
    }));
    assert!(result.expect_err("a panic").message().contains("on purpose"));
    memory.iter().for_each(|place| place.add(1));
    pass(&mut team, 1, 1);
}

/// What is borrowed is free again when the pass has returned, the function included.
fn borrowed(size: usize) {
    let mut team = Team::new(size).expect("threads");
    let done = AtomicUsize::new(0);
    let inside = AtomicUsize::new(0);
    team.run_borrowed(&|member| {
        inside.fetch_add(1, Ordering::SeqCst);
        member.phase(1, |_| {
            done.fetch_add(1, Ordering::SeqCst);
        });
        inside.fetch_sub(1, Ordering::SeqCst);
    })
    .expect("nobody panics");
    assert_eq!((done.load(Ordering::SeqCst), inside.load(Ordering::SeqCst)), (1, 0));
}

fn main() {
    model("an idle team ends", 3, || idle(3));
    model("two members, a pass of two phases", 2, || passes(2, 2, 2, 1));
    model("two members, two passes", 2, || passes(2, 1, 1, 2));
    model("three members, a pass of two phases", 1, || passes(3, 1, 2, 1));
    model("items that wait for each other", 1, || meetings(2, 2));
    model("a panic", 2, || panic_in(2, 2));
    model("a borrowed function", 3, || borrowed(2));
}
