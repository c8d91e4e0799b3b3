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
