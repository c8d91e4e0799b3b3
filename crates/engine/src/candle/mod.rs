//! Encoders on Candle's operations: [`packed`] runs on GPUs, [`plain`] says what is right, [`library`] has families of which we
//! have no description.

mod blocks;
mod buckets;
pub(crate) mod failure;
pub mod library;
#[cfg(test)]
mod oracle;
pub mod packed;
mod parts;
pub mod plain;
