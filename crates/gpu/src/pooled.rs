//! What becomes of a pass' states: a vector for each sequence.

use crate::card::{Number, values_of};

/// What a sequence's states become one vector by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

impl Pooling {
    /// All of them, in the order in which [`Transformer::pooled`](crate::Transformer::pooled) has them.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::First, Pooling::Last];
}

/// Vectors of a pass' sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// For each kind of [`Pooling::ALL`] that was wanted, one vector for each sequence.
    values: Vec<f32>,
    wanted: [bool; 3],
    sequences: usize,
    width: usize,
}

/// The vectors that a pass makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors {
    /// By [`Pooling::ALL`].
    pub(crate) wanted: [bool; 3],
    pub(crate) sequences: usize,
    /// Sequences that there is room for.
    pub(crate) room: usize,
    pub(crate) width: usize,
}

impl Vectors {
    /// How many values come back.
    pub(crate) fn values(self) -> usize {
        self.wanted.iter().filter(|&&wanted| wanted).count() * self.room * self.width
    }

    /// Without the room that no sequence has.
    pub(crate) fn read(self, bytes: &[u8]) -> Pooled {
        let Vectors { wanted, sequences, room, width } = self;
        let all = values_of(Number::F32, &bytes[..4 * self.values()]);
        let of_kind = |values: &[f32]| values[..sequences * width].to_vec();
        Pooled { values: all.chunks_exact(room * width).flat_map(of_kind).collect(), wanted, sequences, width }
    }
}

impl Pooled {
    /// The vector of a sequence, if this kind was wanted.
    pub fn vector(&self, pooling: Pooling, sequence: usize) -> Option<&[f32]> {
        let place = self.wanted[..pooling as usize].iter().filter(|&&wanted| wanted).count();
        let at = (place * self.sequences + sequence) * self.width;
        self.wanted[pooling as usize].then(|| &self.values[at..at + self.width])
    }
}
