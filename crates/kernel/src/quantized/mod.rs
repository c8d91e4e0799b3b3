//! Dynamically quantised encoders: 8-bit weights with one scale per matrix, activations quantised by the range that each
//! tensor has in each text, integer products, everything else in f32.
//!
//! It computes what ONNX Runtime 1.22 computes on x86-64 or on arm64 from a graph that its own quantiser made, to the bit: the
//! vectors of a collection were made so, and they are far from those of the f32 model.
//!
//! ```text
//! executor      passes of one encoder                                             ── the way in
//! model         its weights: as a graph has them, and packed
//! pass          a forward pass: phases of a team, one sequence at a time
//! state         what the members of a pass share
//! linear        steps over rows: embedding, norms, products with weights
//! attention     steps over heads: scores and softmax, contexts
//! shares        which member does which items
//! matrix        what the members share
//! arithmetic    on which architecture the runtime computes them so
//! exact         f32 operations in the runtime's order
//! quantization  ranges, and codes of values
//! product       integer products of codes and packed weights
//! by_dots       the same by the multiply-adds of a set that has no form of its own
//! by_squares    the same, two rows by two columns at once
//! on_unit       the same on a matrix unit
//! panels        how weights lie
//! tile          results of some rows times a panel
//! epilogue      from integer sums back to values
//! ```

mod arithmetic;
mod attention;
#[cfg(target_arch = "aarch64")]
mod by_dots;
#[cfg(target_arch = "aarch64")]
mod by_squares;
mod epilogue;
mod exact;
mod executor;
mod linear;
mod matrix;
mod model;
mod on_unit;
mod panels;
mod pass;
mod product;
mod quantization;
mod shares;
mod state;
mod tile;

#[cfg(test)]
mod tests;

pub use arithmetic::Arithmetic;
pub use executor::QuantizedExecutor;
pub use model::{QuantizedBlock, QuantizedDense, QuantizedShape, QuantizedTable, QuantizedTransformer, ScoreScale};
pub use product::MOST_INPUTS;
