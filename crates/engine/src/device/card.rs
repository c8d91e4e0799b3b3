//! A card that was opened.

/// Whether the kernels for GPUs are compiled for them.
const CUDA: bool = cfg!(feature = "cuda");
/// Whether they are compiled for the CPU.
const EMULATED: bool = cfg!(feature = "emulated");

/// A card, ready for use.
#[derive(Debug, Clone)]
pub struct Card {
    /// Its number.
    pub number: usize,
    /// As the driver calls it.
    pub name: String,
    /// As Candle knows it.
    pub device: candle_core::Device,
}

impl Card {
    /// Whether this build has kernels of our own for it.
    pub fn has_kernels(&self) -> bool {
        // What is no GPU is the CPU in its place, in tests.
        (self.device.is_cuda() && CUDA) || (!self.device.is_cuda() && EMULATED)
    }
}
