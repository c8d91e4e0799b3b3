//! The CPU engine: transformers on packed rows, in f32 or with narrower weights. The only `unsafe` code is in here,
//! beside what asks an NVIDIA driver.
//!
//! # Map
//!
//! ```text
//! transformer  a stack of blocks: weights packed once, forward passes shared out over a team     ── the way in
//! team         threads that share out a phase's items; a phase ends when all items are done
//! sync         what its threads meet by
//! cores        how many cores this process may use
//! linear       weights in column panels, products with bias, activation or residual
//! attention    one head of one sequence: scores, softmax, context
//! attention_bf16   the same with products of bf16
//! attention_on_unit    the same on a matrix unit, in one to three parts of bf16
//! norm         LayerNorm and RMS norm
//! experts      which feed-forwards a row takes, where there are several
//! mask         which tokens attend to which
//! position_bias    relative positions, added to scores
//! rotary       relative positions, by turning queries and keys
//! operand      rows rounded for products of bf16 and of bytes
//! table        embedding tables and their sums
//! tile         rows × one panel in registers; every product is made of tiles
//! dot          how a tile multiplies, by precision
//! matrix_unit  what may be asked of a unit that multiplies tiles in place of vectors
//! unit         the one there is, if there is one
//! amx          Intel's; in tests there is one in plain Rust (emulated_unit)
//! unit_product products of blocks on a unit: bf16, bytes, and f32 in parts
//! choice       which way of multiplying is the faster one here
//! caches       how large they are
//! math         exp, GELU, …, of a vector
//! isa          what a kernel may ask of an instruction set
//! dispatch     which ones there are, and which this CPU has
//! avx512 avx2 neon portable    the four of them
//! memory       aligned, zeroed, on huge pages; freed, back to the system
//! peak         the multiply-add rate to measure products against
//! ```
//!
//! # Invariants
//!
//! - *Every kernel is written once*, generic over `isa::Simd`, and compiled per instruction set by `isa::Task`.
//!   An instruction set is a value that exists only where the CPU has it, so choosing one cannot go wrong.
//! - *A row's bits depend on the row alone*, or for attention on its sequence alone: each sum runs in one fixed order,
//!   whatever the number of rows, the split into tiles, the schedule and the number of threads. So a text's vector does
//!   not depend on the texts it is packed with. Across instruction sets bits may differ.
//! - *Any size works*: tails of rows, columns, heads and sequences are part of every kernel.
//! - *NaN is not hidden*: it comes out where it went in, for the caller to find.
//! - Bad sizes and indices are errors before a pass starts; a panic in a thread is an error after it.

// Elsewhere there is no matrix unit, and what is written for one has no user but tests.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod attention;
mod attention_bf16;
mod attention_on_unit;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod caches;
mod choice;
mod cores;
mod dispatch;
mod dot;
#[cfg(test)]
mod emulated_unit;
mod error;
mod experts;
mod isa;
mod linear;
mod mask;
mod math;
mod matrix_unit;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod operand;
pub mod peak;
mod portable;
mod position_bias;
mod precision;
pub mod quantized;
mod rotary;
mod single_query;
mod sync;
mod table;
mod team;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
mod tile;
mod transformer;
mod unit;
mod unit_product;

pub use cores::cores;
pub use dispatch::{InstructionSet, Kernels};
pub use error::{Error, ErrorKind, Result};
pub use linear::{Dense, PackedLinear, Rounded};
pub use mask::Mask;
pub use math::Activation;
pub use memory::{give_back_freed, keep_little_freed};
pub use position_bias::PositionBias;
pub use precision::Precision;
pub use rotary::Rotary;
pub use team::{Function, Member, Team};
pub use transformer::{
    Block, Executor, ExpertShape, Experts, HeadNorms, MOST_EXPERTS, Norm, NormPlacement, Outer, Pick, Shape, Style,
    Transformer,
};
