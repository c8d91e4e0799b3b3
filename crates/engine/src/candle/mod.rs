//! Encoders on Candle's operations: [`packed`] runs on GPUs, [`plain`] says what is right.

mod buckets;
pub(crate) mod failure;
pub mod packed;
mod parts;
pub mod plain;
