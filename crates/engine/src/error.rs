//! What the engine refuses: in the kernels' words, as what it does is mostly theirs.

pub use text2vec_kernel::{Error, ErrorKind, Result};
