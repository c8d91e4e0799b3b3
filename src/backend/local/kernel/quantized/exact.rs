//! f32 operations with the very bits of ONNX Runtime 1.22 on x86-64: one bit more or less before a quantisation makes
//! another code, and codes make vectors.
//!
//! What each function has to keep is said beside it; sums run in the runtime's order.

use super::super::simd::Simd;

/// `a × b + c`, rounded once.
#[inline(always)]
fn fused<S: Simd>(s: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
    if S::LANES > 4 || cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return s.mul_add(a, b, c);
    }
    // Without the instruction `f32::mul_add` is a slow library call. The product is exact in f64; only where the sum in
    // f64 falls on a tie of f32 is the result one bit off.
    let mut lanes = [[0f32; MOST_LANES]; 3];
    for (lanes, vector) in lanes.iter_mut().zip([a, b, c]) {
        // SAFETY: no vector is longer.
        unsafe { s.store(lanes.as_mut_ptr(), vector) };
    }
    let [a, b, c] = lanes;
    let sums: [f32; MOST_LANES] = std::array::from_fn(|i| (f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i])) as f32);
    // SAFETY: as above.
    unsafe { s.load(sums.as_ptr()) }
}

/// How many values ahead codes are made from memory is asked for: rows follow each other closely.
const AHEAD: usize = 512;
/// Lanes of the longest vectors.
const MOST_LANES: usize = 16;

/// The polynomial with the given coefficients, the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::Vector, coefficients: [f32; N]) -> S::Vector {
    let mut value = s.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        value = fused(s, value, x, s.splat(coefficient));
    }
    value
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Added and taken off again, 1.5 × 2²³ leaves the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// -ln 2 in two parts.
const MINUS_LN2_HIGH: f32 = -6.931_457_5e-1;
const MINUS_LN2_LOW: f32 = -1.428_606_8e-6;

/// `e^x` for x of -87 to 0, by a polynomial.
#[inline(always)]
fn power<S: Simd>(s: S, x: S::Vector, coefficients: [f32; 7]) -> S::Vector {
    let n = s.sub(fused(s, x, s.splat(LOG2_E), s.splat(ROUNDER)), s.splat(ROUNDER));
    let r = fused(s, n, s.splat(MINUS_LN2_HIGH), x);
    let r = fused(s, n, s.splat(MINUS_LN2_LOW), r);
    s.scale_by_power(polynomial(s, r, coefficients), n)
}

/// The error function: two polynomials that meet at 0.921875.
#[inline(always)]
fn erf<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let zero = s.splat(0.0);
    let a = s.min(s.max(x, s.sub(zero, x)), s.splat(3.925));
    let square = s.mul(a, a);
    let small = polynomial(
        s,
        square,
        [-5.991_049_7e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_25e-1, -3.761_248_6e-1, 1.283_791_5e-1],
    );
    let small = fused(s, small, a, a);
    let large = polynomial(
        s,
        a,
        [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1],
    );
    // 1 - e^-t
    let t = s.sub(zero, fused(s, large, a, a));
    let power = power(s, t, [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1, 1.0, 1.0]);
    let large = s.sub(s.splat(1.0), power);
    let magnitude = s.where_less(a, s.splat(0.921875), small, large);
    s.where_less(x, zero, s.sub(zero, magnitude), magnitude)
}

/// GELU of each value, with the error function.
#[inline(always)]
pub(super) fn gelu<S: Simd>(s: S, values: &mut [[f32; Spread::LANES]]) {
    for value in values.as_flattened_mut().chunks_exact_mut(S::LANES) {
        // SAFETY: the chunk is a vector long.
        unsafe {
            let x = s.load(value.as_ptr());
            let phi = s.add(erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), s.splat(1.0));
            s.store(value.as_mut_ptr(), s.mul(s.mul(x, s.splat(0.5)), phi));
        }
    }
}

/// `e^x` for x of 0 and less.
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    // The runtime goes on to -103.97; what lies below 2^-126 neither moves a sum of at least 1 nor makes a code.
    let x = s.max(x, s.splat(-87.0));
    power(s, x, [1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1, 1.0, 1.0])
}

/// Lanes of the runtime's softmax, of which each sums its own values.
const SUMS: usize = 16;

/// Softmax in place. Returns the largest value.
#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, row: &mut [f32]) -> f32 {
    let mut most = f32::MIN;
    let whole = row.len() / S::LANES * S::LANES;
    let tail = row.len() - whole;
    let start = row.as_mut_ptr();
    // SAFETY: whole vectors up to `whole`, `tail` values after it.
    unsafe {
        let mut largest = s.splat(most);
        for at in (0..whole).step_by(S::LANES) {
            largest = s.max(largest, s.load(start.add(at)));
        }
        most = larger(most, s.largest(largest));
        for &value in &row[whole..] {
            most = larger(most, value);
        }
        let offset = s.splat(most);
        for at in (0..whole).step_by(S::LANES) {
            s.store(start.add(at), exp(s, s.sub(s.load(start.add(at)), offset)));
        }
        if tail > 0 {
            let power = exp(s, s.sub(s.load_first(start.add(whole), tail), offset));
            s.store_first(start.add(whole), power, tail);
        }
    }
    let mut sums = [0f32; SUMS];
    let (whole, rest) = row.as_chunks::<SUMS>();
    for chunk in whole {
        for i in 0..SUMS {
            sums[i] += chunk[i];
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value;
    }
    let mut half = [0f32; 8];
    for i in 0..8 {
        half[i] = sums[i] + sums[i + 8];
    }
    let sum = ((half[0] + half[1]) + (half[2] + half[3])) + ((half[4] + half[5]) + (half[6] + half[7]));
    let factor = 1.0 / sum;
    for value in row {
        *value *= factor;
    }
    // e^0 is exactly 1: the largest of all is the factor itself.
    factor
}

/// Rows normed at a time: their sums run one after the other, so several rows are needed to keep the CPU busy.
pub(super) const NORM_ROWS: usize = 8;

/// LayerNorm of `NORM_ROWS` rows in place, by the mean of squares. False if a variance came out negative or not finite.
#[inline(always)]
pub(super) fn layer_norm(rows: &mut [&mut [f32]; NORM_ROWS], gamma: &[f32], beta: &[f32], epsilon: f32) -> bool {
    let width = gamma.len();
    let (mut sums, mut squares) = ([0f32; NORM_ROWS], [0f32; NORM_ROWS]);
    let mut column = [0f32; NORM_ROWS];
    // Columns go over all rows at once.
    #[allow(clippy::needless_range_loop)]
    for h in 0..width {
        for r in 0..NORM_ROWS {
            column[r] = rows[r][h];
        }
        for r in 0..NORM_ROWS {
            sums[r] += column[r];
            squares[r] += column[r] * column[r];
        }
    }
    let mut sound = true;
    for r in 0..NORM_ROWS {
        let mean = sums[r] / width as f32;
        let deviation = (squares[r] / width as f32 - mean * mean + epsilon).sqrt();
        sound &= deviation > 0.0 && deviation < f32::INFINITY;
        let row = &mut rows[r][..width];
        for h in 0..width {
            row[h] = (row[h] - mean) / deviation * gamma[h] + beta[h];
        }
    }
    sound
}

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

    /// Some rows.
    #[inline(always)]
    pub(super) fn include<S: Simd>(&mut self, s: S, rows: &[[f32; Spread::LANES]]) {
        for at in (0..Spread::LANES).step_by(S::LANES) {
            // SAFETY: a row is whole vectors.
            unsafe {
                let (low, high) = (self.low.as_mut_ptr().add(at), self.high.as_mut_ptr().add(at));
                let (mut least, mut most) = (s.load(low), s.load(high));
                for row in rows {
                    let value = s.load(row.as_ptr().add(at));
                    least = s.min(value, least);
                    most = s.max(value, most);
                }
                s.store(low, least);
                s.store(high, most);
            }
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

    /// Codes of some values, no more than 16,384, and their sum.
    #[inline(always)]
    pub(super) fn codes<S: Simd>(self, s: S, values: &[f32], codes: &mut [u8]) -> i32 {
        let codes = &mut codes[..values.len()];
        let divisor = Divisor::new(s, self.scale);
        let whole = values.len() / S::LANES * S::LANES;
        let tail = values.len() - whole;
        // Whole numbers below 2²⁴: exact in f32, in any order.
        let mut sum = s.splat(0.0);
        // SAFETY: whole vectors up to `whole`, `tail` values after it, and as many codes.
        unsafe {
            for at in (0..whole).step_by(S::LANES) {
                s.prefetch(values.as_ptr().wrapping_add(at + AHEAD));
                let code = self.code(s, divisor, s.load(values.as_ptr().add(at)));
                s.store_bytes(codes.as_mut_ptr().add(at), code);
                sum = s.add(sum, code);
            }
            if tail > 0 {
                let code = self.code(s, divisor, s.load_first(values.as_ptr().add(whole), tail));
                let mut last = [0u8; MOST_LANES];
                s.store_bytes(last.as_mut_ptr(), code);
                codes[whole..].copy_from_slice(&last[..tail]);
                sum = s.add(sum, s.keep_first(code, tail));
            }
        }
        s.sum(sum) as i32
    }

    #[inline(always)]
    fn code<S: Simd>(self, s: S, divisor: Divisor<S>, value: S::Vector) -> S::Vector {
        let zero_point = s.splat(self.zero_point as f32);
        let quotient = s.max(divisor.quotient(s, value), s.splat(-self.zero_point as f32));
        let quotient = s.min(quotient, s.splat((255 - self.zero_point) as f32));
        s.add(s.round(quotient), zero_point)
    }
}

/// What a tensor's values are divided by.
#[derive(Clone, Copy)]
struct Divisor<S: Simd> {
    value: S::Vector,
    /// 1 ÷ it, if no quotient near it is lost by taking it.
    inverse: Option<S::Vector>,
}

impl<S: Simd> Divisor<S> {
    #[inline(always)]
    fn new(s: S, value: f32) -> Divisor<S> {
        // Within these limits no step of `quotient` leaves the normal numbers, but for quotients that are as good as 0.
        let is_normal = (1e-30..1e30).contains(&value);
        Divisor { value: s.splat(value), inverse: is_normal.then(|| s.splat(1.0 / value)) }
    }

    /// `a ÷ b`, rounded once; by its inverse in a third of a division's time. By Markstein's theorem the second correction
    /// is exact, the first having brought the quotient next to the true one.
    #[inline(always)]
    fn quotient(self, s: S, a: S::Vector) -> S::Vector {
        let Some(inverse) = self.inverse else { return s.div(a, self.value) };
        let minus = s.sub(s.splat(0.0), self.value);
        let rough = s.mul(a, inverse);
        let near = fused(s, fused(s, rough, minus, a), inverse, rough);
        fused(s, fused(s, near, minus, a), inverse, near)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::portable::Portable;
    use super::super::super::simd::{Kernels, Task};
    use super::*;

    /// GELU or exp of one value.
    struct Value(f32, bool);

    impl Task for Value {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            let mut lanes = [[self.0; Spread::LANES]];
            if self.1 {
                gelu(s, &mut lanes);
            } else {
                // SAFETY: the lanes are a vector and more.
                unsafe { s.store(lanes[0].as_mut_ptr(), exp(s, s.splat(self.0))) };
            }
            lanes[0][0]
        }
    }

    /// Quotients by the inverse, and as divided.
    struct Quotients<'a>(&'a [f32], f32);

    impl Task for Quotients<'_> {
        type Output = Vec<[u32; 2]>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<[u32; 2]> {
            let value = s.splat(self.1);
            let mut quotients = Vec::new();
            for &a in self.0 {
                let mut both = [[0f32; MOST_LANES]; 2];
                for (out, inverse) in both.iter_mut().zip([Some(s.splat(1.0 / self.1)), None]) {
                    // SAFETY: no vector is longer.
                    unsafe { s.store(out.as_mut_ptr(), Divisor { value, inverse }.quotient(s, s.splat(a))) };
                }
                quotients.push(both.map(|lanes| lanes[0].to_bits()));
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

    #[test]
    fn functions_are_close_to_the_exact_ones_and_fixed_at_their_edges() {
        let mut bits = Vec::new();
        for kernels in Kernels::available() {
            let (gelu, exp) = (|x| kernels.run(Value(x, true)), |x| kernels.run(Value(x, false)));
            let mut own = Vec::new();
            for i in -4000..=4000 {
                let x = i as f32 / 500.0;
                let exact = crate::backend::local::kernel::testing::exact_gelu(f64::from(x));
                assert!((f64::from(gelu(x)) - exact).abs() < 1e-6, "gelu({x})");
                let below = -x.abs() * 10.0;
                let exact = f64::from(below).exp();
                assert!((f64::from(exp(below)) - exact).abs() <= 3e-7 * exact, "exp({below})");
                own.extend([gelu(x).to_bits(), exp(below).to_bits()]);
            }
            assert_eq!((exp(0.0), exp(-1e30) < 1e-37), (1.0, true));
            assert_eq!((gelu(0.0), gelu(1e4), gelu(-1e4)), (0.0, 1e4, 0.0));
            assert!(gelu(f32::NAN).is_nan());
            bits.push(own);
        }
        assert!(bits.iter().all(|own| *own == bits[0]), "the same bits by every instruction set");
    }

    #[test]
    fn softmax_sums_to_one_whatever_the_length() {
        for count in [1, 2, 15, 16, 17, 47, 48, 100] {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 11) as f32 - 5.0) * 1.5).collect();
            let most = values.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = values.iter().map(|&x| f64::from(x - most).exp()).sum();
            let mut row = values.clone();
            let largest = softmax(Portable, &mut row);
            assert_eq!(largest, row.iter().copied().fold(f32::MIN, f32::max));
            for (got, x) in row.iter().zip(values) {
                assert!((f64::from(*got) - f64::from(x - most).exp() / total).abs() < 1e-6);
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
            let mut codes = vec![0; values.len()];
            let sum = quantization.codes(Portable, values, &mut codes);
            assert_eq!((codes.as_slice(), quantization.zero_point), (want, zero_point));
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

    #[test]
    fn a_row_without_variance_is_reported() {
        let (gamma, beta) = ([1f32; 24], [0f32; 24]);
        let mut memory: Vec<Vec<f32>> =
            (0..NORM_ROWS).map(|r| (0..24).map(|h| ((h * h + r) % 5) as f32).collect()).collect();
        let norm = |memory: &mut Vec<Vec<f32>>| {
            let mut rows = memory.iter_mut().map(Vec::as_mut_slice);
            layer_norm(&mut std::array::from_fn(|_| rows.next().unwrap()), &gamma, &beta, 1e-12)
        };
        assert!(norm(&mut memory));
        for row in &memory {
            assert!((row.iter().sum::<f32>()).abs() < 1e-4);
            assert!((row.iter().map(|x| x * x).sum::<f32>() - 24.0).abs() < 1e-2);
        }
        memory[3].fill(f32::MAX);
        assert!(!norm(&mut memory));
    }
}
