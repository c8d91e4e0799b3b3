//! A card that was opened.

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
        if self.device.is_cuda() { cfg!(feature = "cuda") } else { cfg!(feature = "emulated") }
    }
}
