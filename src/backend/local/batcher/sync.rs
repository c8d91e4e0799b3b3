//! What callers and consumers meet by. The models in `tests/models` put loom's in its place.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

pub(super) use tokio::sync::oneshot;
