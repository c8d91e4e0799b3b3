//! Many callers, large ones and hostile ones, against the program: its memory, and how long anybody waits.

mod answers;
mod connections;
mod hostile_calls;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod under_load;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::const_new(());

/// The machine for a test that measures how long anybody waits, or how much is done in a time.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// The machine for a test that mostly waits, looks at nothing but the memory of a server of its own, or has bounds so wide
/// that one other test does not matter.
async fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}
