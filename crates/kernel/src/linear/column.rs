//! One output's weights, written into its column of a panel in the numbers of a precision.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::operand::{Form, group_inputs, low_of_pair};

/// An output's weights, and what each is multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) weights: &'a [f32],
    pub(super) factor: f32,
}

impl Row<'_> {
    fn values(&self) -> impl Iterator<Item = f32> {
        self.weights.iter().map(|weight| weight * self.factor)
    }
}

/// An output's place in its panel, of columns beside each other.
pub(super) struct Column<'a> {
    pub(super) panel: &'a mut [f32],
    pub(super) index: usize,
    /// Columns of the panel.
    pub(super) width: usize,
    /// Words of a column that lie together, of bf16 and bytes.
    pub(super) together: usize,
}

impl<'a> Column<'a> {
    /// Its words, where each column has its own.
    fn words(self) -> impl Iterator<Item = &'a mut f32> {
        self.panel[self.index..].iter_mut().step_by(self.width)
    }

    /// The same where words of each column may lie together.
    fn words_together(self) -> impl Iterator<Item = &'a mut f32> {
        let Column { panel, index, width, together } = self;
        panel.chunks_exact_mut(width * together).flat_map(move |words| &mut words[index * together..][..together])
    }

    /// One weight to a word.
    pub(super) fn put_f32(self, row: Row<'_>) {
        for (word, value) in self.words().zip(row.values()) {
            *word = value;
        }
    }

    /// Half a word for each weight: two columns share one.
    pub(super) fn put_halves(self, row: Row<'_>, bits: impl Fn(f32) -> Result<u16>) -> Result<()> {
        let is_first = self.index.is_multiple_of(2);
        let words = self.panel[self.index / 2..].iter_mut().step_by(self.width / 2);
        for (word, value) in words.zip(row.values()) {
            // The second finds the first one's bits.
            let [a, b, ..] = word.to_bits().to_ne_bytes();
            let [c, d] = bits(value)?.to_ne_bytes();
            let bytes = if is_first { [c, d, 0, 0] } else { [a, b, c, d] };
            *word = f32::from_bits(u32::from_ne_bytes(bytes));
        }
        Ok(())
    }

    /// Two weights to a word.
    pub(super) fn put_bf16(self, row: Row<'_>) -> Result<()> {
        let Row { weights, factor } = row;
        for (word, pair) in self.words_together().zip(weights.chunks(2)) {
            let second = pair.get(1).map_or(0.0, |weight| weight * factor);
            *word = self::word(bf16_bits(pair[0] * factor)?, bf16_bits(second)?);
        }
        Ok(())
    }

    /// For a unit of so many lanes: one or two parts of bf16.
    pub(super) fn put_parts(self, row: Row<'_>, lanes: usize, form: Form) -> Result<()> {
        let part_words = form.part_words(row.weights.len());
        let mut words = self.words();
        let mut rest: Vec<f32> = row.values().collect();
        rest.resize(2 * part_words, 0.0);
        let Form::Parts(parts) = form else { return Err(Error::internal("only a unit takes parts")) };
        // The bits of the nearest bf16, ties to even, in the upper half; what is below it has no meaning.
        let nearest = |x: f32| x.to_bits().wrapping_add(0x7FFF + (x.to_bits() >> 16 & 1));
        let upper = |bits: u32| f32::from_bits(bits & 0xFFFF_0000);
        if !rest.iter().all(|&weight| weight.is_finite() && upper(nearest(weight)).is_finite()) {
            return Err(Error::unusable("a weight is too large for bf16, or not a number"));
        }
        for _ in 0..parts {
            for (pair, word) in (0..part_words).zip(&mut words) {
                let low = low_of_pair(pair, lanes);
                let (first, second) = (nearest(rest[low]), nearest(rest[low + lanes]));
                *word = f32::from_bits(first >> 16 | second & 0xFFFF_0000);
            }
            rest.iter_mut().for_each(|weight| *weight -= upper(nearest(*weight)));
        }
        Ok(())
    }

    /// Signed bytes, four to a word. Puts down the sum of each group of them and returns their factor.
    pub(super) fn put_bytes<'s>(self, row: Row<'_>, sums: impl Iterator<Item = &'s mut f32>) -> Result<f32> {
        let Row { weights, factor } = row;
        let largest = row.values().fold(0f32, |largest, value| largest.max(value.abs()));
        if !row.values().all(f32::is_finite) {
            return Err(Error::unusable("a weight is not a finite number"));
        }
        let scale = largest / 127.0;
        let steps = if scale > 0.0 { factor / scale } else { 0.0 };
        let mut words = self.words_together();
        for (group, group_sum) in weights.chunks(group_inputs(weights.len())).zip(sums) {
            let mut sum = 0;
            for (weights, word) in group.chunks(4).zip(&mut words) {
                let mut bytes = [0u8; 4];
                for (byte, weight) in bytes.iter_mut().zip(weights) {
                    let rounded = (weight * steps).round_ties_even() as i8;
                    sum += i32::from(rounded);
                    *byte = rounded.to_ne_bytes()[0];
                }
                *word = f32::from_bits(u32::from_ne_bytes(bytes));
            }
            *group_sum = sum as f32;
        }
        Ok(scale)
    }
}

/// A value as f16; an error if it is too large for that.
pub(super) fn f16_bits(value: f32) -> Result<u16> {
    let half = f16::from_f32(value);
    let finite = half.is_finite().then(|| half.to_bits());
    finite.ok_or_else(|| Error::unusable("a weight is too large for f16, or not a number: use --precision f32"))
}

/// A value as bf16; an error if it is too large for that.
pub(super) fn bf16_bits(value: f32) -> Result<u16> {
    let half = bf16::from_f32(value);
    let finite = half.is_finite().then(|| half.to_bits());
    finite.ok_or_else(|| Error::unusable("a weight is too large for bf16, or not a number"))
}

/// Two values as f16 in a word; an error if they are too large for that.
pub(crate) fn f16_word(first: f32, second: f32) -> Result<f32> {
    Ok(word(f16_bits(first)?, f16_bits(second)?))
}

/// Two values of 16 bits as they lie in memory.
fn word(first: u16, second: u16) -> f32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    f32::from_bits(u32::from_ne_bytes([a, b, c, d]))
}
