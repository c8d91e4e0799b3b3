//! Model families: for each, which tensors there are and what they are for.

pub mod architecture;
mod known;

pub use known::architecture;
