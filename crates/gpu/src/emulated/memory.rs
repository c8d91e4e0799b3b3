//! Memory of the emulated card and its host.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range as Indices;
use std::sync::{Arc, Mutex};

use super::{Range, State, lock};
use crate::card::{CardError, CardResult};

/// What every piece of memory is aligned to, and the bytes before and after it that nobody may write to.
const ZONE: usize = 256;
const UNTOUCHED: u8 = 0xa5;

/// Memory of an [`EmulatedCard`](super::EmulatedCard), or of the host for it.
pub struct EmulatedMemory {
    /// Where the first zone lies.
    outer: *mut u8,
    layout: Layout,
    bytes: usize,
    on_card: bool,
    state: Arc<Mutex<State>>,
}

// SAFETY: it is the only one that has this memory, apart from the card, which is used by one thread at a time.
unsafe impl Send for EmulatedMemory {}

impl std::fmt::Debug for EmulatedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatedMemory").field("bytes", &self.bytes).field("on_card", &self.on_card).finish()
    }
}

impl EmulatedMemory {
    pub(super) fn take(shared: &Arc<Mutex<State>>, bytes: usize, on_card: bool) -> CardResult<Self> {
        let mut state = lock(shared);
        if on_card && bytes > state.limit - state.taken {
            return Err(CardError::OutOfMemory);
        }
        let outer_bytes = bytes.checked_add(2 * ZONE).ok_or(CardError::OutOfMemory)?;
        let layout = Layout::from_size_align(outer_bytes, ZONE).map_err(|_| CardError::OutOfMemory)?;
        // SAFETY: it is not empty.
        let outer = unsafe { alloc_zeroed(layout) };
        if outer.is_null() {
            return Err(CardError::OutOfMemory);
        }
        for zone in zones(bytes) {
            // SAFETY: zones are within.
            unsafe { outer.add(zone.start).write_bytes(UNTOUCHED, zone.len()) };
        }
        if on_card {
            state.taken += bytes;
        }
        let memory = EmulatedMemory { outer, layout, bytes, on_card, state: shared.clone() };
        state.ranges.insert(memory.start(), Range { bytes, on_card });
        Ok(memory)
    }

    pub(super) fn start(&self) -> u64 {
        self.outer as u64 + ZONE as u64
    }
}

impl AsMut<[u8]> for EmulatedMemory {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised, and this one's; the card does nothing with it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.outer.add(ZONE), self.bytes) }
    }
}

fn zones(bytes: usize) -> [Indices<usize>; 2] {
    [0..ZONE, ZONE + bytes..ZONE + bytes + ZONE]
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        let start = self.start();
        let mut state = lock(&self.state);
        // SAFETY: what was asked for was vouched for, and this memory is still there.
        let finished = unsafe { state.finish() };
        state.ranges.remove(&start);
        if self.on_card {
            state.taken -= self.bytes;
        }
        drop(state);
        let touched = zones(self.bytes).into_iter().any(|zone| {
            // SAFETY: zones are within, and initialised.
            let zone = unsafe { std::slice::from_raw_parts(self.outer.add(zone.start), zone.len()) };
            zone.iter().any(|byte| *byte != UNTOUCHED)
        });
        // SAFETY: allocated with this layout, and nothing points there any more.
        unsafe { dealloc(self.outer, self.layout) };
        if !std::thread::panicking() {
            assert!(!touched, "something was written beside {} bytes of memory at {start:#x}", self.bytes);
            assert_eq!(finished, Ok(()), "what was asked for before memory was dropped");
        }
    }
}
