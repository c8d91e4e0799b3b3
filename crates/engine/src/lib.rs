//! The engine: token ids of packed sequences in, vectors out. It knows no request, no tokenizer, no server and no metric.
//!
//! # Map
//!
//! - [`open`]: from a model directory to its encoders. The way in.
//! - [`encoder`]: what an encoder is: hidden states of a batch of sequences.
//! - [`family`]: a description for each family of models: which tensors there are, and what they are for. A new family goes
//!   here.
//! - Executors of these descriptions: [`cpu`] on the kernels (`crates/kernel`), [`gpu`] on those for GPUs (`crates/gpu`),
//!   [`candle`] as an oracle of both, and on GPUs where it is asked for. `passes` cuts batches for them.
//! - [`static_embedding`]: a table without a transformer. [`onnx`]: quantised graphs, to the bits of ONNX Runtime.
//! - [`weights`]: safetensors and pickles. [`files`]: what may be missing of a directory.
//! - [`pooling`] and [`dense`]: from hidden states to one vector.
//! - [`device`]: the CPU or GPUs.
//!
//! # Invariants
//!
//! - A text's vector has the same bits whatever else is in its batch, and on any number of threads.
//! - A model file is data: nothing in it is run. What cannot be used is an error that says why and what to do.

#![deny(unsafe_code)]

pub mod candle;
pub mod classification;
pub mod cpu;
pub mod dense;
pub mod device;
pub mod encoder;
pub mod error;
pub mod family;
pub mod files;
pub mod gpu;
pub mod onnx;
pub mod open;
mod passes;
pub mod pooling;
pub mod static_embedding;
#[cfg(test)]
mod testing;
pub mod weights;
