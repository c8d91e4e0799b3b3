//! How a tensor becomes codes: its range, the scale and zero point that follow from it, and quotients rounded as the
//! runtime rounds them.

use super::super::isa::Simd;
use super::exact::{fused, larger, smaller};

/// Room for codes comes in whole numbers of it: four of the longest vectors are stored at a time.
pub(super) const CODES: usize = 64;

/// Smallest and largest of some values and 0, found for several at a time. NaN is passed over.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Spread {
    low: [f32; Spread::LANES],
    high: [f32; Spread::LANES],
}

impl Spread {
    /// Values that are compared at a time.
    pub(super) const LANES: usize = 32;

    /// Of nothing: 0 alone.
    pub(super) fn new() -> Spread {
        Spread { low: [0.0; Spread::LANES], high: [0.0; Spread::LANES] }
    }

    /// Smallest and largest of the lanes from `at` on, to be kept in registers.
    #[inline(always)]
    pub(super) fn load<S: Simd>(&self, s: S, at: usize) -> [S::Vector; 2] {
        assert!(at + S::LANES <= Spread::LANES);
        // SAFETY: just checked.
        unsafe { [s.load(self.low.as_ptr().add(at)), s.load(self.high.as_ptr().add(at))] }
    }

    /// Puts back what [`Spread::load`] gave.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&mut self, s: S, at: usize, [low, high]: [S::Vector; 2]) {
        assert!(at + S::LANES <= Spread::LANES);
        // SAFETY: just checked.
        unsafe {
            s.store(self.low.as_mut_ptr().add(at), low);
            s.store(self.high.as_mut_ptr().add(at), high);
        }
    }

    /// Some rows.
    #[inline(always)]
    pub(super) fn include<S: Simd>(&mut self, s: S, rows: &[[f32; Spread::LANES]]) {
        for at in (0..Spread::LANES).step_by(S::LANES) {
            let [mut least, mut most] = self.load(s, at);
            for row in rows {
                // SAFETY: a row is whole vectors.
                let value = unsafe { s.load(row.as_ptr().add(at)) };
                least = s.min(value, least);
                most = s.max(value, most);
            }
            self.store(s, at, [least, most]);
        }
    }

    /// [`Spread::include`] for any number of values.
    #[inline(always)]
    pub(super) fn include_all<S: Simd>(&mut self, s: S, values: &[f32]) {
        let (whole, rest) = values.as_chunks::<{ Spread::LANES }>();
        self.include(s, whole);
        for (i, &value) in rest.iter().enumerate() {
            self.low[i] = smaller(value, self.low[i]);
            self.high[i] = larger(value, self.high[i]);
        }
    }

    /// The smallest and the largest.
    #[inline(always)]
    pub(super) fn ends(&self) -> (f32, f32) {
        let (mut least, mut most) = (0.0, 0.0);
        for i in 0..Spread::LANES {
            least = smaller(self.low[i], least);
            most = larger(self.high[i], most);
        }
        (least, most)
    }
}

/// How a tensor is quantised: `value = (code - zero_point) × scale`, codes 0..=255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantization {
    pub(super) scale: f32,
    pub(super) zero_point: i32,
}

impl Quantization {
    /// For a tensor whose smallest and largest values are given, as `DynamicQuantizeLinear` has it: the range always
    /// holds 0. `None` if it is not finite.
    pub(super) fn of(least: f32, most: f32) -> Option<Quantization> {
        let (least, most) = (smaller(least, 0.0), larger(most, 0.0));
        let scale = if least == most { 1.0 } else { (most - least) / 255.0 };
        let zero_point = larger(0.0, smaller(255.0, 0.0 - least / scale)).round_ties_even() as i32;
        (scale.is_finite() && scale > 0.0).then_some(Quantization { scale, zero_point })
    }

    /// Codes of some values, each multiplied by `factor` first if there is one, and their sum. `codes` is a whole number
    /// of [`CODES`]; those beyond the values are anything. Of each value, the one that lies `ahead` is asked for.
    #[inline(always)]
    pub(super) fn codes<S: Simd>(
        self,
        s: S,
        (values, ahead): (&[f32], usize),
        factor: Option<f32>,
        codes: &mut [u8],
    ) -> i32 {
        // Chosen here, not for each value.
        match has_inverse(self.scale) {
            true => self.codes_by::<S, true>(s, (values, ahead), factor, codes),
            false => self.codes_by::<S, false>(s, (values, ahead), factor, codes),
        }
    }

    #[inline(always)]
    fn codes_by<S: Simd, const INVERSE: bool>(
        self,
        s: S,
        (values, ahead): (&[f32], usize),
        factor: Option<f32>,
        codes: &mut [u8],
    ) -> i32 {
        assert!(codes.len().is_multiple_of(CODES) && values.len() <= codes.len());
        let divisor = Divisor::<S, INVERSE>::new(s, self.scale);
        let factor = s.splat(factor.unwrap_or(1.0));
        let whole = values.len() / (4 * S::LANES) * (4 * S::LANES);
        let (from, to) = (values.as_ptr(), codes.as_mut_ptr());
        let mut sums = s.splat_word(0);
        // SAFETY: four vectors at a time up to `whole`, and so many values after it; four vectors are at most `CODES`.
        unsafe {
            for at in (0..whole).step_by(4 * S::LANES) {
                let mut vectors = [factor; 4];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    let from = from.add(at + i * S::LANES);
                    s.prefetch(from.wrapping_add(ahead));
                    *vector = divisor.quotient(s, s.mul(s.load(from), factor));
                }
                sums = s.add_words(sums, s.store_held_bytes(to.add(at), vectors, self.zero_point));
            }
            if whole < values.len() {
                let mut vectors = [s.splat(0.0); 4];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    let at = whole + i * S::LANES;
                    let count = values.len().saturating_sub(at);
                    if count == 0 {
                        break;
                    }
                    let from = from.add(at);
                    s.prefetch(from.wrapping_add(ahead));
                    let value = if count < S::LANES { s.load_first(from, count) } else { s.load(from) };
                    *vector = divisor.quotient(s, s.mul(value, factor));
                }
                sums = s.add_words(sums, s.store_held_bytes(to.add(whole), vectors, self.zero_point));
            }
        }
        let padded = values.len().next_multiple_of(4 * S::LANES);
        // Below 2²⁴ for as many codes as there are: exact. Beyond the values there are zeros.
        s.sum(s.integers_to_f32(sums)) as i32 - (padded - values.len()) as i32 * self.zero_point
    }
}

/// Whether quotients by a number may be taken by its inverse: no step of [`Divisor::quotient`] leaves the normal
/// numbers, but for quotients that are as good as 0.
#[inline(always)]
fn has_inverse(divisor: f32) -> bool {
    (1e-30..1e30).contains(&divisor)
}

/// What values are divided by.
#[derive(Clone, Copy)]
struct Divisor<S: Simd, const INVERSE: bool> {
    value: S::Vector,
    inverse: S::Vector,
}

impl<S: Simd, const INVERSE: bool> Divisor<S, INVERSE> {
    #[inline(always)]
    fn new(s: S, value: f32) -> Divisor<S, INVERSE> {
        Divisor { value: s.splat(value), inverse: s.splat(1.0 / value) }
    }

    /// `a ÷ b`, rounded once; by its inverse in a third of a division's time. By Markstein's theorem the second correction
    /// is exact, the first having brought the quotient next to the true one.
    #[inline(always)]
    fn quotient(self, s: S, a: S::Vector) -> S::Vector {
        if !INVERSE {
            return s.div(a, self.value);
        }
        let minus = s.sub(s.splat(0.0), self.value);
        let rough = s.mul(a, self.inverse);
        let near = fused(s, fused(s, rough, minus, a), self.inverse, rough);
        fused(s, fused(s, near, minus, a), self.inverse, near)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dispatch::Kernels;
    use super::super::super::isa::Task;
    use super::super::super::portable::Portable;
    use super::*;

    /// Quotients by the inverse, and as divided.
    struct Quotients<'a>(&'a [f32], f32);

    impl Task for Quotients<'_> {
        type Output = Vec<[u32; 2]>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<[u32; 2]> {
            let (inverse, division) = (Divisor::<S, true>::new(s, self.1), Divisor::<S, false>::new(s, self.1));
            let mut quotients = Vec::new();
            for &a in self.0 {
                let both = [inverse.quotient(s, s.splat(a)), division.quotient(s, s.splat(a))];
                quotients.push(both.map(|lanes| s.largest(lanes).to_bits()));
            }
            quotients
        }
    }

    #[test]
    fn a_quotient_by_the_inverse_has_the_bits_of_a_division() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut fraction = || 1.0 + next() as f32 / (1 << 24) as f32;
        for kernels in Kernels::available() {
            for power in [-90, -20, -7, 0, 30] {
                for _ in 0..200 {
                    let scale = fraction() * 2f32.powi(power);
                    // Of all sizes, and half way between two codes, where one bit makes another code.
                    let mut values: Vec<f32> = (-4..8).map(|size| fraction() * 2f32.powi(power + size)).collect();
                    values.extend((0..32).map(|code| (code as f32 * 8.0 + 0.5) * scale));
                    for [got, want] in kernels.run(Quotients(&values, scale)) {
                        assert_eq!(got, want, "{kernels:?} scale {scale}");
                    }
                }
            }
        }
    }

    /// Codes of some values times a factor, and their sum.
    struct Codes<'a>(Quantization, &'a [f32], Option<f32>);

    impl Task for Codes<'_> {
        type Output = (Vec<u8>, i32);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (Vec<u8>, i32) {
            let mut codes = vec![0; self.1.len().next_multiple_of(CODES)];
            let sum = self.0.codes(s, (self.1, 0), self.2, &mut codes);
            codes.truncate(self.1.len());
            (codes, sum)
        }
    }

    #[test]
    fn codes_are_those_of_a_division_whatever_the_length() {
        for (count, scale, factor) in
            [(1, 0.03, None), (15, 0.02, Some(0.3)), (32, 1e-31, None), (61, 0.011, Some(0.7))]
        {
            for count in [count, count + 16, count + 64, count + 320] {
                let quantization = Quantization { scale, zero_point: 77 };
                // Some of them beyond the ends of the codes.
                let values: Vec<f32> = (0..count)
                    .map(|i| ((i * 37 % 290) as f32 - 100.0) * 0.97 * scale / factor.unwrap_or(1.0))
                    .collect();
                let code =
                    |x: &f32| ((x * factor.unwrap_or(1.0) / scale).round_ties_even() + 77.0).clamp(0.0, 255.0) as u8;
                let want: Vec<u8> = values.iter().map(code).collect();
                let sum = want.iter().map(|&code| i32::from(code)).sum();
                for kernels in Kernels::available() {
                    let got = kernels.run(Codes(quantization, &values, factor));
                    assert_eq!(got, (want.clone(), sum), "{kernels:?} {count} values, scale {scale}");
                }
            }
        }
    }

    #[test]
    fn codes_round_ties_to_even_and_hold_zero() {
        // The standard's own examples for DynamicQuantizeLinear.
        let check = |values: &[f32], want: &[u8], zero_point: i32| {
            let mut spread = Spread::new();
            spread.include_all(Portable, values);
            let (least, most) = spread.ends();
            let quantization = Quantization::of(least, most).unwrap();
            let mut codes = vec![0; CODES];
            let sum = quantization.codes(Portable, (values, 0), None, &mut codes);
            assert_eq!((&codes[..values.len()], quantization.zero_point), (want, zero_point));
            assert_eq!(sum, want.iter().map(|&code| i32::from(code)).sum::<i32>());
        };
        check(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5], &[153, 255, 0, 26, 221, 179], 153);
        check(&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], &[191, 121, 172, 96, 42, 0], 255);
        check(
            &[1.0, 2.1, 1.3, 2.5, 3.34, 4.0, 1.5, 2.6, 3.9, 4.0, 3.0, 2.345],
            &[64, 134, 83, 159, 213, 255, 96, 166, 249, 255, 191, 149],
            0,
        );
        check(&[0.5, 1.5, 2.5, 255.0], &[0, 2, 2, 255], 0);
        assert_eq!(Quantization::of(0.0, 0.0), Some(Quantization { scale: 1.0, zero_point: 0 }));
        assert_eq!(Quantization::of(0.0, f32::INFINITY), None);
        assert_eq!(Quantization::of(f32::NEG_INFINITY, f32::INFINITY), None);
    }
}
