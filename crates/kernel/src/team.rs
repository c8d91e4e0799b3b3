//! A team of threads that work on one function at a time.
//!
//! A forward pass is one function; within it the members share out the items of a phase ([`Member::phase`]). A phase ends
//! when its *items* are done, not when its members are there: a thread that the kernel has put aside for a busy neighbour
//! holds up the others only if it was put aside within an item, and what is left of the pass goes on without it. When it
//! is back it takes part where the others are, or finds the pass over.
//!
//! Waiting is bounded spinning, then parking: phases are microseconds long, but a neighbour may hold the core that the
//! others wait for.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::thread::{self, JoinHandle, Thread};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Instant, Mutex, MutexGuard, fence};

// Measured with all-MiniLM-L6-v2 in f32 on two cores of an AMD EPYC (Zen 4), two threads, 32 tokens, milliseconds at the
// median and at the 99th percentile (medians of 4 rounds), beside ONNX Runtime 1.32 with its defaults:
//
//                                                alone        beside two busy   within a quota
//                                                             processes         of 1.5 cores
// phases end when all members are there, yield   3.8 / 8.2    40.0 / 68.4       4.1 / 27.3
// phases end when items are done, spin 25 µs     4.0 / 7.0    10.7 / 15.0       4.1 / 26.7
// … 50 µs                                        3.9 / 6.7     7.5 / 14.8       4.0 / 28.2
// … 100 µs                                       3.8 / 6.0     9.3 / 17.9       3.8 / 29.5
// … 300 µs                                       3.9 / 7.2     8.5 / 16.9       3.8 / 29.7
// ONNX Runtime                                   5.0 / 8.7    19.3 / 27.2       5.3 / 33.2
//
// The first line is of another run, in which ONNX Runtime took 21.9 / 34.9 beside the busy processes. In that run, 20 yields
// before sleeping made 12.0 / 19.9 of 10.4 / 15.6 there. How long a thread waits for the next function makes no difference
// (5, 25, 100 µs). With one thread the quota is never used up: 6.9 / 8.0.

/// How long a member spins for the others' last items: longer than an item takes, else it sleeps and wakes in every phase.
const PHASE_PATIENCE: Duration = Duration::from_micros(100);
/// How long a thread spins for the next function. While it wakes the caller is at work alone.
const IDLE_PATIENCE: Duration = Duration::from_micros(25);
/// Spins between two looks at the clock.
const SPINS_PER_LOOK: usize = 50;

/// What a team runs. It owns all it needs: a member that comes late may look at it after the run is over, and finds no
/// item left.
pub type Function = dyn Fn(&Member<'_>) + Send + Sync;

/// Threads that wait for functions to run. Dropping the team ends and joins them.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One member's view of the team within a function.
pub struct Member<'a> {
    index: usize,
    round: u64,
    /// Number of the next phase.
    phase: Cell<u64>,
    caller: &'a Thread,
    shared: &'a Shared,
}

/// A value on cache lines of its own (two: CPUs fetch them in pairs).
#[repr(align(128))]
struct Apart<T>(T);

/// Which item of which phase of which round is claimed next: the state of the team in one word, so that whoever is late
/// cannot claim anything of what came after.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim(u64);

impl Claim {
    const ITEM_BITS: u32 = 18;
    const PHASE_BITS: u32 = 18;
    const ITEMS: u64 = 1 << Claim::ITEM_BITS;
    const PHASES: u64 = 1 << Claim::PHASE_BITS;

    /// The first item of a phase. Rounds are counted modulo 2^28: no thread is put aside for so many.
    fn first(round: u64, phase: u64) -> Claim {
        assert!(phase < Claim::PHASES, "a function of too many phases");
        Claim(((round << Claim::PHASE_BITS) | phase) << Claim::ITEM_BITS)
    }

    fn item(self) -> u64 {
        self.0 % Claim::ITEMS
    }

    fn is_in_phase_of(self, first: Claim) -> bool {
        self.0 >> Claim::ITEM_BITS == first.0 >> Claim::ITEM_BITS
    }

    fn round(self) -> u64 {
        self.0 >> (Claim::ITEM_BITS + Claim::PHASE_BITS)
    }
}

struct Shared {
    size: usize,
    /// A [`Claim`]. Sequentially consistent together with `parked`: either a waiter sees that it need not park, or
    /// whoever it waits for sees it parked.
    claim: Apart<AtomicU64>,
    /// Items of the phase that are done.
    done: Apart<AtomicUsize>,
    /// Threads within a function, the caller's not counted.
    inside: Apart<AtomicUsize>,
    /// A member panicked: nobody waits for it any more.
    broken: AtomicBool,
    quit: AtomicBool,
    /// Members that sleep, or are about to.
    parked: Vec<AtomicBool>,
    /// The threads, to be woken; the first is the caller's and in `job`.
    handles: Vec<OnceLock<Thread>>,
    job: Mutex<Option<Job>>,
    /// The first panic's text.
    panic: Mutex<Option<String>>,
}

/// What a round runs.
#[derive(Clone)]
struct Job {
    round: u64,
    function: Arc<Function>,
    caller: Thread,
}

/// Unwinds a member that would wait for one that panicked.
struct Abandoned;

impl Team {
    /// A team of `size` members: the caller of [`Team::run`] and `size - 1` threads.
    ///
    /// # Errors
    /// `Internal` if a thread cannot be started.
    pub fn new(size: usize) -> Result<Team> {
        let size = size.max(1);
        let shared = Arc::new(Shared {
            size,
            claim: Apart(AtomicU64::new(0)),
            done: Apart(AtomicUsize::new(0)),
            inside: Apart(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            parked: (0..size).map(|_| AtomicBool::new(false)).collect(),
            handles: (0..size).map(|_| OnceLock::new()).collect(),
            job: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let mut team = Team { shared, threads: Vec::new() };
        for index in 1..size {
            let shared = Arc::clone(&team.shared);
            let thread = thread::Builder::new().name(format!("encoder-{index}")).spawn(move || shared.serve(index));
            let thread = thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
            // Set once, here.
            let _ = team.shared.handles[index].set(thread.thread().clone());
            team.threads.push(thread);
        }
        Ok(team)
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Runs a function on the caller and on all threads that come in time, and returns when the caller has left it: then
    /// all items of all its phases are done.
    ///
    /// # Errors
    /// `Internal`, with the panic's text, if a member panics. The team can be used again.
    pub fn run(&mut self, function: Arc<Function>) -> Result<()> {
        let shared = &*self.shared;
        // Rounds wrap where the claim does.
        let round = Claim::first(shared.claim().round() + 1, 0).round();
        shared.done.0.store(0, Ordering::Relaxed);
        shared.broken.store(false, Ordering::Relaxed);
        let job = Job { round, function, caller: thread::current() };
        *lock(&shared.job) = Some(job.clone());
        shared.claim.0.store(Claim::first(round, 0).0, Ordering::SeqCst);
        shared.wake(0, &job.caller);
        shared.take_part(0, &job);
        lock(&shared.job).take();
        if shared.broken.load(Ordering::Acquire) {
            // Some may be within items. No more are claimed from here on.
            shared.claim.0.store(Claim::first(round, Claim::PHASES - 1).0, Ordering::SeqCst);
            shared.wait_until_all_have_left();
        }
        let panic = lock(&shared.panic).take();
        panic.map_or(Ok(()), |text| Err(Error::internal(format!("the encoder panicked: {text}"))))
    }

    /// As [`Team::run`] for a function that borrows, and returns when all have left it: a thread that was put aside within
    /// it holds up the end.
    ///
    /// # Errors
    /// As [`Team::run`].
    pub fn run_borrowed(&mut self, function: &(dyn Fn(&Member<'_>) + Sync)) -> Result<()> {
        // SAFETY: only the lifetime changes. `run` does not unwind, and has taken the job back when it returns: whoever
        // found it before that is waited for here, and calls it no more.
        let function = unsafe {
            std::mem::transmute::<&(dyn Fn(&Member<'_>) + Sync), &'static (dyn Fn(&Member<'_>) + Sync)>(function)
        };
        let result = self.run(Arc::new(move |member: &Member<'_>| function(member)));
        self.shared.wait_until_all_have_left();
        result
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        let round = self.shared.claim().round() + 1;
        self.shared.claim.0.store(Claim::first(round, 0).0, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // `serve` catches panics, so there is none to hand on.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn claim(&self) -> Claim {
        Claim(self.claim.0.load(Ordering::Acquire))
    }

    /// A thread's life: wait for a round, take part, until the team is dropped.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            self.wait(index, IDLE_PATIENCE, || self.claim().round() != seen);
            seen = self.claim().round();
            if self.quit.load(Ordering::SeqCst) {
                return;
            }
            self.inside.0.fetch_add(1, Ordering::SeqCst);
            // Gone if the others were faster, another if they were much faster.
            let job = lock(&self.job).clone().filter(|job| job.round == seen);
            if let Some(job) = job {
                self.take_part(index, &job);
            }
            self.inside.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Runs the round's function, keeping a panic to itself.
    fn take_part(&self, index: usize, job: &Job) {
        let member = Member { index, round: job.round, phase: Cell::new(0), caller: &job.caller, shared: self };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.function)(&member))) {
            if !payload.is::<Abandoned>() {
                lock(&self.panic).get_or_insert_with(|| text_of(&*payload));
            }
            self.broken.store(true, Ordering::SeqCst);
            self.wake(index, &job.caller);
        }
    }

    /// Waits for the threads that found the job before it was taken back: they have been counted before.
    fn wait_until_all_have_left(&self) {
        while self.inside.0.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }

    /// Wakes all members that sleep but this one.
    fn wake(&self, index: usize, caller: &Thread) {
        for (other, parked) in self.parked.iter().enumerate() {
            if other != index && parked.load(Ordering::SeqCst) {
                self.handles[other].get().unwrap_or(caller).unpark();
            }
        }
    }

    /// Waits until something holds that a change of the claim or of `broken` brings about: spins as long as its patience
    /// lasts, then sleeps.
    fn wait(&self, index: usize, patience: Duration, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < patience {
            for _ in 0..SPINS_PER_LOOK {
                if holds() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        while !holds() {
            self.parked[index].store(true, Ordering::SeqCst);
            // Looks again, now that it will be woken.
            fence(Ordering::SeqCst);
            if !holds() {
                thread::park();
            }
            self.parked[index].store(false, Ordering::Relaxed);
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
    /// phases, and do outside of them only what they may still do when the run is over.
    pub fn phase(&self, items: usize, mut work: impl FnMut(usize)) {
        let shared = self.shared;
        if shared.size == 1 {
            return (0..items).for_each(work);
        }
        // Items beyond what a claim can count are done several at a time.
        let at_once = items.div_ceil(Claim::ITEMS as usize - 1).max(1);
        let claims = items.div_ceil(at_once);
        let first = Claim::first(self.round, self.phase.get());
        let next = Claim::first(self.round, self.phase.get() + 1);
        self.phase.set(self.phase.get() + 1);
        let mut claim = shared.claim();
        while claim.is_in_phase_of(first) {
            let item = claim.item() as usize;
            if item >= claims {
                if claims == 0 {
                    self.go_on(first, next);
                    return;
                }
                // The rest is in work.
                shared.wait(self.index, PHASE_PATIENCE, || {
                    !shared.claim().is_in_phase_of(first) || shared.broken.load(Ordering::Acquire)
                });
                if shared.broken.load(Ordering::Acquire) {
                    resume_unwind(Box::new(Abandoned));
                }
                claim = shared.claim();
                continue;
            }
            let (taken, order) = (claim.0 + 1, Ordering::AcqRel);
            if let Err(found) = shared.claim.0.compare_exchange_weak(claim.0, taken, order, Ordering::Acquire) {
                claim = Claim(found);
                continue;
            }
            (item * at_once..((item + 1) * at_once).min(items)).for_each(&mut work);
            if shared.done.0.fetch_add(1, Ordering::AcqRel) + 1 == claims {
                // Nobody counts before the next phase is open.
                shared.done.0.store(0, Ordering::Relaxed);
                self.go_on(Claim(first.0 + claims as u64), next);
                return;
            }
            claim = shared.claim();
        }
    }

    /// Opens the next phase, unless somebody has, or has closed the round.
    fn go_on(&self, last: Claim, next: Claim) {
        let shared = self.shared;
        if shared.claim.0.compare_exchange(last.0, next.0, Ordering::SeqCst, Ordering::Acquire).is_ok() {
            shared.wake(self.index, self.caller);
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("index", &self.index).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes guard is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic's message.
fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
