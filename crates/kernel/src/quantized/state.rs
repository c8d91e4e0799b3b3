//! What the members of a pass share, and what each has of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::epilogue::Then;
use super::matrix::Matrix;
use super::model::{Linear, QuantizedTransformer};
use super::panels::Panels;
use super::quantization::Quantization;
use super::shares::Shares;
use crate::memory::AlignedBuffer;
use crate::transformer::Norm;

/// Memory of a pass, kept for the next one.
pub(super) struct Scratch {
    pub(super) states: AlignedBuffer,
    pub(super) attended: AlignedBuffer,
    pub(super) query: AlignedBuffer,
    pub(super) key: AlignedBuffer,
    pub(super) value: AlignedBuffer,
    pub(super) powers: AlignedBuffer,
    pub(super) factors: AlignedBuffer,
    pub(super) context: AlignedBuffer,
    pub(super) between: AlignedBuffer,
    pub(super) ranges: Vec<Extent>,
    pub(super) members: Vec<Mutex<MemberScratch>>,
    pub(super) shares: Shares,
}

/// Memory of one member.
#[derive(Default)]
pub(super) struct MemberScratch {
    /// Codes of a product's left side, and the sum of each row.
    pub(super) codes: Vec<u8>,
    pub(super) sums: Vec<i32>,
    /// Keys or values of one head.
    pub(super) head: Panels,
    pub(super) signed: Vec<i8>,
    /// Scores of a tile of rows.
    pub(super) scores: AlignedBuffer,
}

impl Scratch {
    pub(super) fn new(members: usize) -> Scratch {
        let buffer = AlignedBuffer::default;
        Scratch {
            states: buffer(),
            attended: buffer(),
            query: buffer(),
            key: buffer(),
            value: buffer(),
            powers: buffer(),
            factors: buffer(),
            context: buffer(),
            between: buffer(),
            ranges: Vec::new(),
            members: (0..members).map(|_| Mutex::default()).collect(),
            shares: Shares::new(members),
        }
    }
}

/// A tensor's range while several members find it.
pub(super) struct Extent {
    least: AtomicI32,
    most: AtomicI32,
}

/// f32 bits in an order that integers have too, and back.
fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

impl Extent {
    pub(super) fn new() -> Extent {
        Extent { least: AtomicI32::new(0), most: AtomicI32::new(0) }
    }

    /// Back to the range of nothing, which is 0 alone.
    pub(super) fn reset(&mut self) {
        *self.least.get_mut() = 0;
        *self.most.get_mut() = 0;
    }

    pub(super) fn include(&self, (least, most): (f32, f32)) {
        self.least.fetch_min(ordered(least.to_bits() as i32), Ordering::Relaxed);
        self.most.fetch_max(ordered(most.to_bits() as i32), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> (f32, f32) {
        let value = |key: &AtomicI32| f32::from_bits(ordered(key.load(Ordering::Relaxed)) as u32);
        (value(&self.least), value(&self.most))
    }
}

/// Tensors of a block that are quantised, and the states that enter it.
#[derive(Clone, Copy)]
pub(super) enum Tensor {
    States,
    Query,
    Key,
    Value,
    Probabilities,
    Context,
    Attended,
    Between,
}

pub(super) const TENSORS: usize = 8;

/// One of the products of a phase, all with the same left side.
pub(super) struct Output<'a> {
    pub(super) linear: &'a Linear,
    pub(super) to: Matrix,
    pub(super) then: Then,
    /// Where its range goes; `None` if the result is not quantised as it is.
    pub(super) range: Option<&'a Extent>,
}

/// A norm behind a product, in place.
pub(super) struct NormStep<'a> {
    pub(super) norm: &'a Norm,
    pub(super) at: Matrix,
    pub(super) range: &'a Extent,
}

/// A pass under way.
pub(super) struct Pass<'a> {
    pub(super) model: &'a QuantizedTransformer,
    pub(super) rows: &'a [&'a [u32]],
    pub(super) tokens: usize,
    pub(super) threads: usize,
    pub(super) states: Matrix,
    pub(super) attended: Matrix,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    /// Exponentials of the scores, of one head below those of the other: probabilities once they are multiplied by their
    /// row's factor.
    pub(super) powers: Matrix,
    /// `[heads, tokens]`
    pub(super) factors: Matrix,
    pub(super) context: Matrix,
    pub(super) between: Matrix,
    pub(super) ranges: &'a [Extent],
    pub(super) members: &'a [Mutex<MemberScratch>],
    pub(super) shares: &'a Shares,
    /// A range or a variance was not finite: the result means nothing.
    pub(super) lost: AtomicBool,
}

impl Pass<'_> {
    pub(super) fn range(&self, layer: usize, tensor: Tensor) -> &Extent {
        &self.ranges[layer * TENSORS + tensor as usize]
    }

    /// How a tensor is quantised, now that its range is known.
    pub(super) fn quantization(&self, layer: usize, tensor: Tensor) -> Quantization {
        let (least, most) = self.range(layer, tensor).get();
        Quantization::of(least, most).unwrap_or_else(|| {
            self.lost.store(true, Ordering::Relaxed);
            Quantization { scale: 1.0, zero_point: 0 }
        })
    }
}
