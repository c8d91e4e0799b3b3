//! A team of threads that runs one function at a time, all of them in step.
//!
//! A forward pass is one function; within it the members share out the items of a phase and wait for each other at its
//! end ([`Member::phase`]). Waiting is bounded spinning, then yielding, and between functions parking: phases are
//! microseconds long, but a neighbour may hold the core the others wait for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// Rounds of spinning before a thread gives its core away: some 20 to 50 µs.
const SPINS: u32 = 1000;
/// Yields of a member without work before it parks.
const YIELDS: u32 = 20;

/// Threads that wait for functions to run. Dropping the team ends and joins them.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One member's view of the team within a function.
pub struct Member<'a> {
    index: usize,
    shared: &'a Shared,
}

type Function<'a> = dyn Fn(&Member<'_>) + Sync + 'a;

/// A value on cache lines of its own (two: CPUs fetch them in pairs).
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    size: usize,
    /// Goes up by one with every function; the members' signal to start.
    round: Apart<AtomicUsize>,
    /// Threads still within the function, the caller's not counted.
    running: Apart<AtomicUsize>,
    /// The next item of the phase to be claimed.
    next_item: Apart<AtomicUsize>,
    /// Members that reached the end of the phase.
    arrived: Apart<AtomicUsize>,
    /// Goes up by one with every phase.
    phase: Apart<AtomicUsize>,
    /// A member panicked: nobody waits for it any more.
    broken: AtomicBool,
    quit: AtomicBool,
    parked: Vec<AtomicBool>,
    /// The function of the round. Written by `run` before `round` goes up, while no thread runs one.
    function: UnsafeCell<Option<*const Function<'static>>>,
    /// The first panic's text.
    panic: std::sync::Mutex<Option<String>>,
}

// SAFETY: all fields but `function` are Sync by themselves. `function` is written only while no thread is within a
// round, and the release of `round` (acquired by the threads) orders the write before their reads. What it points to is
// Sync, and alive until `run` has seen all threads leave it.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not tied to a thread.
unsafe impl Send for Shared {}

/// Unwinds a member that would wait for one that panicked.
struct Abandoned;

impl Team {
    /// A team of `size` members: the caller of [`Team::run`] and `size - 1` threads.
    pub fn new(size: usize) -> Result<Team> {
        let size = size.max(1);
        let shared = Arc::new(Shared {
            size,
            round: Apart(AtomicUsize::new(0)),
            running: Apart(AtomicUsize::new(0)),
            next_item: Apart(AtomicUsize::new(0)),
            arrived: Apart(AtomicUsize::new(0)),
            phase: Apart(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            parked: (0..size).map(|_| AtomicBool::new(false)).collect(),
            function: UnsafeCell::new(None),
            panic: std::sync::Mutex::new(None),
        });
        let mut team = Team { shared, threads: Vec::new() };
        for index in 1..size {
            let shared = Arc::clone(&team.shared);
            let thread =
                std::thread::Builder::new().name(format!("encoder-{index}")).spawn(move || shared.serve(index));
            team.threads.push(thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?);
        }
        Ok(team)
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Runs a function once on every member and returns when all have left it. A panic in any of them is an error with
    /// its text; the team can be used again.
    pub fn run(&mut self, function: &(dyn Fn(&Member<'_>) + Sync)) -> Result<()> {
        let shared = &*self.shared;
        for counter in [&shared.next_item.0, &shared.arrived.0] {
            counter.store(0, Ordering::Relaxed);
        }
        shared.broken.store(false, Ordering::Relaxed);
        shared.running.0.store(shared.size - 1, Ordering::Relaxed);
        let function = std::ptr::from_ref::<Function<'_>>(function);
        // SAFETY: only the lifetime changes; no thread uses it after `run` returns, which waits for all of them.
        let function = unsafe { std::mem::transmute::<*const Function<'_>, *const Function<'static>>(function) };
        // SAFETY: `&mut self` and the wait below: no round is under way, so nobody reads it.
        unsafe { *shared.function.get() = Some(function) };
        // Sequentially consistent, as is the load of `parked`: either we see a thread park or it sees the new round.
        shared.round.0.fetch_add(1, Ordering::SeqCst);
        for (parked, thread) in shared.parked[1..].iter().zip(&self.threads) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        shared.take_part(0);
        let mut patience = Patience::default();
        while shared.running.0.load(Ordering::Acquire) > 0 {
            patience.wait();
        }
        // SAFETY: all threads have left the round.
        unsafe { *shared.function.get() = None };
        let panic = shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        panic.map_or(Ok(()), |text| Err(Error::internal(format!("the encoder panicked: {text}"))))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.round.0.fetch_add(1, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // `serve` catches panics, so there is none to hand on.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A thread's life: wait for a round, take part, until the team is dropped.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            let mut patience = Patience::default();
            while self.round.0.load(Ordering::Acquire) == seen {
                if patience.wait() > YIELDS {
                    self.parked[index].store(true, Ordering::SeqCst);
                    if self.round.0.load(Ordering::SeqCst) == seen {
                        std::thread::park();
                    }
                    self.parked[index].store(false, Ordering::Relaxed);
                }
            }
            seen = seen.wrapping_add(1);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            self.take_part(index);
            self.running.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Runs the round's function, keeping a panic to itself.
    fn take_part(&self, index: usize) {
        // SAFETY: written before this round began, and alive until `run` has seen all members leave.
        let function = unsafe { (*self.function.get()).map(|function| &*function) };
        let Some(function) = function else { return };
        let member = Member { index, shared: self };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| function(&member))) {
            self.broken.store(true, Ordering::Release);
            if !payload.is::<Abandoned>() {
                let mut panic = self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                panic.get_or_insert_with(|| text_of(&*payload));
            }
        }
    }
}

impl Member<'_> {
    /// Which member this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Does `0..items` together with the others, each item once by whoever is free, and returns when all are done.
    /// What was written in a phase can be read by every member in the next. All members must go through the same
    /// phases.
    pub fn phase(&self, items: usize, mut work: impl FnMut(usize)) {
        let shared = self.shared;
        if shared.size == 1 {
            return (0..items).for_each(work);
        }
        loop {
            let item = shared.next_item.0.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            work(item);
        }
        let phase = shared.phase.0.load(Ordering::Relaxed);
        if shared.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == shared.size {
            shared.arrived.0.store(0, Ordering::Relaxed);
            shared.next_item.0.store(0, Ordering::Relaxed);
            shared.phase.0.store(phase.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut patience = Patience::default();
        while shared.phase.0.load(Ordering::Acquire) == phase {
            if shared.broken.load(Ordering::Relaxed) {
                resume_unwind(Box::new(Abandoned));
            }
            patience.wait();
        }
    }
}

/// Spins for a while, then yields.
#[derive(Default)]
struct Patience {
    spins: u32,
    yields: u32,
}

impl Patience {
    /// Waits a moment and returns the number of yields so far.
    fn wait(&mut self) -> u32 {
        if self.spins < SPINS {
            self.spins += 1;
            std::hint::spin_loop();
        } else {
            self.yields = self.yields.saturating_add(1);
            std::thread::yield_now();
        }
        self.yields
    }
}

/// A panic's message.
fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_item_of_every_phase_is_done_once_before_the_next_phase() {
        for size in [1, 2, 3, 5] {
            let mut team = Team::new(size).unwrap();
            for round in 0..50 {
                let phases = 20;
                let done: Vec<AtomicUsize> = (0..phases).map(|_| AtomicUsize::new(0)).collect();
                let items = |phase: usize| (phase * 7 + round) % 13;
                team.run(&|member| {
                    for phase in 0..phases {
                        if phase > 0 {
                            assert_eq!(done[phase - 1].load(Ordering::Relaxed), items(phase - 1));
                        }
                        member.phase(items(phase), |_| {
                            done[phase].fetch_add(1, Ordering::Relaxed);
                        });
                    }
                })
                .unwrap();
                assert!((0..phases).all(|phase| done[phase].load(Ordering::Relaxed) == items(phase)));
            }
        }
    }

    #[test]
    fn members_have_different_indices_and_wake_from_parking() {
        let mut team = Team::new(3).unwrap();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(20));
            let seen = AtomicUsize::new(0);
            team.run(&|member| {
                seen.fetch_add(1 << (8 * member.index()), Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(seen.into_inner(), 0x01_01_01);
        }
    }

    #[test]
    fn a_panic_of_any_member_is_an_error_and_the_team_goes_on() {
        for size in [1, 2, 3] {
            let mut team = Team::new(size).unwrap();
            for guilty in 0..size {
                let error = team
                    .run(&|member| {
                        member.phase(4, |_| ());
                        // Quietly: the panic hook need not print.
                        if member.index() == guilty {
                            resume_unwind(Box::new(format!("member {guilty}")));
                        }
                        member.phase(4, |_| ());
                        member.phase(0, |_| ());
                    })
                    .unwrap_err();
                assert!(error.message().ends_with(&format!("member {guilty}")), "{error}");
                let sum = AtomicUsize::new(0);
                team.run(&|member| {
                    member.phase(10, |item| {
                        sum.fetch_add(item, Ordering::Relaxed);
                    });
                })
                .unwrap();
                assert_eq!(sum.into_inner(), 45);
            }
        }
    }

    #[test]
    fn dropping_a_team_joins_its_threads() {
        let team = Team::new(4).unwrap();
        let shared = Arc::downgrade(&team.shared);
        drop(team);
        assert_eq!(shared.strong_count(), 0, "a thread still holds the team's state");
    }
}
