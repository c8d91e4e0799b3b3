//! Transformers on packed rows, on GPUs: kernels, and what runs them.
//!
//! # Map
//!
//! ```text
//! transformer  a model on a card, and passes over texts       ── the way in
//! weights      matrices of a model on the card
//! layout       what a pass tells the card of its texts
//! places       the card's memory for a pass
//! pass         what the card is asked for, layer by layer
//! queue        kernels by their names, and how many threads run them
//! arguments    what kernels take
//! card         what is asked of a card: memory, copies, kernels, products
//! cuda         NVIDIA's (feature `cuda`)
//! emulated     the CPU as a card, for tests (feature `emulated`)
//! kernels/     the kernels, in CUDA C++; device.cuh says in which words
//! ```
//!
//! # Invariants
//!
//! - Matrices are packed: rows of texts one after the other, without padding between them. Each begins on 16 bytes, and columns
//!   beyond its width are zero.
//! - Sums are in f32, whatever numbers they are of. f32 is never rounded to fewer bits.
//! - A text's vector depends on its neighbours by rounding only: which product sums in which order is up to cuBLASLt.
//! - The driver is asked in `cuda` alone; everything else runs on any machine, with the same kernels.

pub mod card;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "emulated")]
pub mod emulated;

mod arguments;
mod error;
mod exchange;
mod layout;
mod pass;
mod places;
mod pooled;
mod queue;
mod transformer;
mod weights;

pub use error::{Error, Result};
pub use exchange::Pending;
pub use layout::{RECORDED_ROWS, rounded_rows};
pub use pooled::{Pooled, Pooling};
pub use transformer::Transformer;
