//! The CPU executor: a stack of transformer blocks on packed rows, run by a thread team.
//!
//! Sequences lie one after the other in `[tokens, hidden]`, without padding. A linear layer or a norm does not care where
//! a sequence ends; attention runs per sequence and head. Two schedules:
//!
//! - *Columns*, for few rows: every product is shared out by columns, so that each core reads its part of the weights
//!   only. Short text is bound by reading weights.
//! - *Rows*, for many: a block of rows goes from the attention's output through to the next layer's projection on one
//!   core, its intermediate values in that core's cache, with two meetings per layer.
//!
//! Both compute every value by the same operations in the same order, see [`Product`](crate::tile::Product).

mod attend;
mod executor;
mod memory;
mod mixture;
mod model;
mod pass;
mod shape;
mod steps;
#[cfg(test)]
mod tests;
mod way;

pub use executor::{Executor, Pick};
pub use model::{MOST_EXPERTS, Transformer};
pub use shape::{Block, ExpertShape, Experts, HeadNorms, Norm, NormPlacement, Outer, Shape, Style};
