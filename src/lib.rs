//! text2vec-sidecar stands beside Weaviate and turns text into vectors.
//!
//! # Layout
//!
//! The way of a text, from the wire to the vector:
//!
//! - [`server`]: one port for HTTP/1.1, h2c and gRPC; each surface only translates its wire format.
//! - [`contract`]: what a request means, as Weaviate's `text2vec-transformers` module defines it. No I/O.
//! - [`cache`]: vectors made before, in front of any backend; equal texts share one computation.
//! - [`backend`]: texts in, vectors out. [`backend::local`] computes in-process, [`backend::remote`] forwards.
//!   The numbers are the work of two crates below: [`text2vec_engine`] makes vectors of token ids (`crates/engine`), on the
//!   CPU with [`text2vec_kernel`], transformers on packed rows (`crates/kernel`).
//! - `import`, the subcommand, is a crate that knows only the wire: [`text2vec_import`] (`crates/import`).
//! - [`model`]: what a model is on disk. No tensors.
//! - [`error`]: one error type and one table of what each kind means on every wire.
//! - [`config`]: flags and environment variables. [`app`]: the subcommands. [`compare`]: two backends on the same texts.
//!   [`telemetry`]: logs, traces and metrics. `hex`: digits of fingerprints and checksums. `small_file`:
//!   files that may not be large.
//!
//! `main` only puts these together.

// Unsafe code is the kernels' (`crates/kernel`), and what asks an NVIDIA driver (`crates/engine/src/device`).
#![forbid(unsafe_code)]

pub mod app;
pub mod backend;
pub mod cache;
pub mod compare;
pub mod config;
pub mod contract;
pub mod error;
mod hex;
pub mod model;
pub mod server;
mod small_file;
pub mod telemetry;

/// The gRPC interface `text2vec.v1`, generated from `proto/text2vec/v1/text2vec.proto`.
pub mod proto {
    #![allow(missing_docs, clippy::all, clippy::missing_errors_doc)]
    tonic::include_proto!("text2vec.v1");

    /// Descriptors of the interface, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/text2vec_descriptor.bin"));
}
