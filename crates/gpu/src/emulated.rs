//! A card that is the CPU: memory of the process, and the kernels compiled for it (`kernels/emulated.cpp`). It is slow, and
//! stricter than a GPU: what is asked for is done as late as it may be, and what touches memory that is not there is an error.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::card::{Address, Card, CardError, CardResult, Launch, Mark, Product};

mod memory;
mod product;
#[cfg(test)]
mod tests;

pub use memory::EmulatedMemory;

unsafe extern "C" {
    fn t2v_emulated_arguments(kernel: *const c_char) -> usize;
    fn t2v_emulated_launch(
        kernel: *const c_char,
        blocks_x: u32,
        blocks_y: u32,
        threads: u32,
        shared_bytes: u32,
        arguments: *const c_void,
    ) -> c_int;
}

/// See the module. A clone is the same card.
#[derive(Clone)]
pub struct EmulatedCard {
    state: Arc<Mutex<State>>,
}

/// What was recorded.
#[derive(Debug)]
pub struct EmulatedRecording(Vec<Operation>);

/// What a card and its memory share.
struct State {
    /// Bytes that may be taken, and those that are.
    limit: usize,
    taken: usize,
    /// All memory there is, by its address.
    ranges: BTreeMap<u64, Range>,
    /// Asked for, and not yet done.
    queue: Vec<Operation>,
    recording: Option<Vec<Operation>>,
    /// Launches until one fails, that one included.
    fails_in: Option<usize>,
    /// Rows of the products that were done.
    product_rows: usize,
}

#[derive(Clone, Copy)]
struct Range {
    bytes: usize,
    /// Else the host's.
    on_card: bool,
}

#[derive(Debug, Clone)]
enum Operation {
    CopyIn { from: u64, bytes: usize, to: Address },
    CopyOut { from: Address, bytes: usize, to: u64 },
    Launch { kernel: CString, launch: Launch, arguments: Box<[MaybeUninit<u8>]> },
    Multiply(Product),
}

impl std::fmt::Debug for EmulatedCard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("EmulatedCard").field("limit", &state.limit).field("taken", &state.taken).finish_non_exhaustive()
    }
}

impl Default for EmulatedCard {
    fn default() -> Self {
        Self::new()
    }
}

impl EmulatedCard {
    /// One with as much memory as the host gives.
    pub fn new() -> Self {
        Self::with_memory(usize::MAX)
    }

    /// One with so many bytes of memory.
    pub fn with_memory(bytes: usize) -> Self {
        let state = State {
            limit: bytes,
            taken: 0,
            ranges: BTreeMap::new(),
            queue: Vec::new(),
            recording: None,
            fails_in: None,
            product_rows: 0,
        };
        EmulatedCard { state: Arc::new(Mutex::new(state)) }
    }

    /// The n-th launch from now, 1 being the next one, answers `OutOfMemory`, and those after it work again. A replay counts as
    /// one launch.
    pub fn fail_after(&self, launches: usize) {
        self.state().fails_in = Some(launches);
    }

    /// Bytes that are taken and not given back.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    /// Rows of all products that were done so far: what these take grows with them.
    pub fn product_rows(&self) -> usize {
        self.state().product_rows
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed<T>(reason: String) -> CardResult<T> {
    Err(CardError::Failed(reason))
}

impl State {
    /// Counts a launch; the one that is to fail does.
    fn count_launch(&mut self) -> CardResult<()> {
        match self.fails_in {
            Some(1) => {
                self.fails_in = None;
                Err(CardError::OutOfMemory)
            }
            Some(left) => {
                self.fails_in = Some(left.saturating_sub(1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn not_while_recording(&self, what: &str) -> CardResult<()> {
        if self.recording.is_some() { failed(format!("{what}: not while recording")) } else { Ok(()) }
    }

    /// Whether all of these bytes are within one piece of memory.
    fn check_range(&self, what: &str, from: u64, bytes: usize, on_card: bool) -> CardResult<()> {
        if let Some((start, range)) = self.ranges.range(..=from).next_back()
            && range.on_card == on_card
            && (from - start) as usize <= range.bytes
            && bytes <= range.bytes - (from - start) as usize
        {
            return Ok(());
        }
        failed(format!("{what}: {bytes} bytes at {from:#x} are not all within one piece of memory"))
    }

    fn check(&self, operation: &Operation) -> CardResult<()> {
        match operation {
            Operation::CopyIn { from, bytes, to } => {
                self.check_range("copy_in, from", *from, *bytes, false)?;
                self.check_range("copy_in, to", to.0, *bytes, true)
            }
            Operation::CopyOut { from, bytes, to } => {
                self.check_range("copy_out, from", from.0, *bytes, true)?;
                self.check_range("copy_out, to", *to, *bytes, false)
            }
            Operation::Launch { .. } => Ok(()),
            Operation::Multiply(product) => {
                product::check(product, |what, at, bytes| self.check_range(what, at.0, bytes, true))
            }
        }
    }

    fn ask(&mut self, operation: Operation) -> CardResult<()> {
        self.check(&operation)?;
        self.recording.as_mut().unwrap_or(&mut self.queue).push(operation);
        Ok(())
    }

    /// Does what was asked for.
    ///
    /// # Safety
    /// As for all of it: whoever asked for it vouches for it until it is done, and memory is not given back before.
    unsafe fn finish(&mut self) -> CardResult<()> {
        let mut result = Ok(());
        for operation in std::mem::take(&mut self.queue) {
            if let Operation::Multiply(product) = &operation {
                self.product_rows += product.rows;
            }
            // SAFETY: the caller's; ranges were checked.
            result = result.and(unsafe { perform(&operation) });
        }
        result
    }
}

/// # Safety
/// The memory it touches is there, and nobody else's.
unsafe fn perform(operation: &Operation) -> CardResult<()> {
    match operation {
        Operation::CopyIn { from, bytes, to } => {
            // SAFETY: the caller's. The host's memory is none of the card's.
            unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, to.0 as *mut u8, *bytes) };
        }
        Operation::CopyOut { from, bytes, to } => {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, *to as *mut u8, *bytes) };
        }
        Operation::Launch { kernel, launch, arguments } => {
            let [x, y] = launch.blocks;
            // SAFETY: the caller's; the kernel gets as many bytes as its argument has.
            let answer = unsafe {
                t2v_emulated_launch(
                    kernel.as_ptr(),
                    x,
                    y,
                    launch.threads,
                    launch.shared_bytes,
                    arguments.as_ptr().cast(),
                )
            };
            if answer != 0 {
                return failed(format!("{kernel:?}: no card takes {launch:?}"));
            }
        }
        // SAFETY: the caller's.
        Operation::Multiply(product) => unsafe { product::perform(product) },
    }
    Ok(())
}

impl Card for EmulatedCard {
    type Memory = EmulatedMemory;
    type Staging = EmulatedMemory;
    type Recording = EmulatedRecording;
    type Mark = EmulatedMark;

    fn is_parallel(&self) -> bool {
        false
    }

    fn memory(&self) -> CardResult<(usize, usize)> {
        let state = self.state();
        Ok((state.limit - state.taken, state.limit))
    }

    fn take(&self, bytes: usize) -> CardResult<EmulatedMemory> {
        self.state().not_while_recording("take")?;
        EmulatedMemory::take(&self.state, bytes, true)
    }

    fn address(&self, memory: &EmulatedMemory) -> Address {
        Address(memory.start())
    }

    fn staging(&self, bytes: usize) -> CardResult<EmulatedMemory> {
        self.state().not_while_recording("staging")?;
        EmulatedMemory::take(&self.state, bytes, false)
    }

    unsafe fn write(&self, to: Address, bytes: &[u8]) -> CardResult<()> {
        let mut state = self.state();
        state.not_while_recording("write")?;
        state.check_range("write", to.0, bytes.len(), true)?;
        // SAFETY: what was asked for was vouched for.
        unsafe { state.finish()? };
        // SAFETY: the range was checked, and is the caller's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn copy_in(&self, from: &EmulatedMemory, bytes: usize, to: Address) -> CardResult<()> {
        self.state().ask(Operation::CopyIn { from: from.start(), bytes, to })
    }

    unsafe fn copy_out(&self, from: Address, bytes: usize, to: &EmulatedMemory) -> CardResult<()> {
        self.state().ask(Operation::CopyOut { from, bytes, to: to.start() })
    }

    unsafe fn launch(&self, kernel: &CStr, launch: Launch, arguments: *const c_void) -> CardResult<()> {
        // SAFETY: it reads a name.
        let length = unsafe { t2v_emulated_arguments(kernel.as_ptr()) };
        if length == 0 {
            return failed(format!("there is no kernel {kernel:?}"));
        }
        if length != launch.arguments_bytes {
            let given = launch.arguments_bytes;
            return failed(format!("{kernel:?} takes a structure of {length} bytes, and is given one of {given}"));
        }
        if launch.blocks.contains(&0) {
            return Ok(());
        }
        let mut copy = vec![MaybeUninit::uninit(); length].into_boxed_slice();
        // SAFETY: the caller points to what the kernel takes.
        unsafe { std::ptr::copy_nonoverlapping(arguments.cast(), copy.as_mut_ptr(), length) };
        let mut state = self.state();
        state.count_launch()?;
        state.ask(Operation::Launch { kernel: kernel.to_owned(), launch, arguments: copy })
    }

    unsafe fn multiply(&self, product: &Product) -> CardResult<()> {
        self.state().ask(Operation::Multiply(*product))
    }

    unsafe fn record(&self, work: &mut dyn FnMut() -> CardResult<()>) -> CardResult<EmulatedRecording> {
        let mut state = self.state();
        state.not_while_recording("record")?;
        state.recording = Some(Vec::new());
        drop(state);
        let result = work();
        let recorded = self.state().recording.take().unwrap_or_default();
        result.map(|()| EmulatedRecording(recorded))
    }

    unsafe fn replay(&self, recording: &EmulatedRecording) -> CardResult<()> {
        let mut state = self.state();
        state.not_while_recording("replay")?;
        state.count_launch()?;
        recording.0.iter().try_for_each(|operation| state.check(operation))?;
        state.queue.extend(recording.0.iter().cloned());
        Ok(())
    }

    fn wait(&self) -> CardResult<()> {
        let mut state = self.state();
        state.not_while_recording("wait")?;
        // SAFETY: what was asked for was vouched for.
        unsafe { state.finish() }
    }

    fn mark(&self) -> CardResult<EmulatedMark> {
        self.state().not_while_recording("mark")?;
        Ok(EmulatedMark(self.state.clone()))
    }
}

/// A point in what an [`EmulatedCard`] was asked for; what comes behind it is done with it.
pub struct EmulatedMark(Arc<Mutex<State>>);

impl std::fmt::Debug for EmulatedMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatedMark").finish_non_exhaustive()
    }
}

impl Mark for EmulatedMark {
    fn wait(&self) -> CardResult<()> {
        // SAFETY: what was asked for was vouched for.
        unsafe { lock(&self.0).finish() }
    }
}
