//! Linear layers: weights packed once into column panels, products with what follows them.

mod by_vectors;
mod column;
mod layer;
mod on_unit;
mod packing;
mod task;

pub(crate) use column::f16_word;
pub use layer::{PackedLinear, Rounded};
pub(crate) use on_unit::SCRATCH as UNIT_SCRATCH;
pub use packing::Dense;
pub(crate) use packing::{Arena, Linear, Packing, Panels};
pub(crate) use task::{Epilogue, LinearTask};

#[cfg(test)]
mod tests;
