//! Many callers, large ones and hostile ones, against the program: its memory, and how long anybody waits.

mod answers;
mod connections;
mod hostile_calls;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod under_load;

/// Each test wants the machine for itself.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
