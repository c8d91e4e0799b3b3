//! Model families: for each, which tensors there are and what they are for.

pub mod architecture;
mod bert;
pub mod config;
mod decoders;
mod encoders;
mod known;
pub mod parameters;

pub use architecture::Masks;
pub use known::architecture;
