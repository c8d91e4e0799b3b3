//! f32 operations with the very bits of ONNX Runtime 1.22 on x86-64: one bit more or less before a quantisation makes
//! another code, and codes make vectors.
//!
//! Plain loops over slices, for the compiler to vectorise within a kernel's task. What each has to keep is said beside
//! it; sums run in the runtime's order.

use super::super::simd::Simd;

/// `a × b + c`, rounded once.
#[inline(always)]
fn fused<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::LANES > 4 || cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        // Without the instruction `mul_add` is a slow library call. The product is exact in f64; only where the sum in
        // f64 falls on a tie of f32 is the result one bit off.
        (f64::from(a) * f64::from(b) + f64::from(c)) as f32
    }
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

/// `value × 2^power` for integral powers of -126 and more whose result is a normal number.
#[inline(always)]
fn times_power_of_two(value: f32, power: f32) -> f32 {
    // The float's low bits hold the integer once the rounder is added.
    let exponent = (power + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    value * f32::from_bits(exponent)
}

/// The error function: two polynomials that meet at 0.921875.
#[inline(always)]
fn erf<S: Simd>(x: f32) -> f32 {
    let a = smaller(x.abs(), 3.925);
    let square = a * a;
    let mut small = fused::<S>(-5.991_049_7e-4, square, 4.993_396e-3);
    small = fused::<S>(small, square, -2.676_673_4e-2);
    small = fused::<S>(small, square, 1.128_180_25e-1);
    small = fused::<S>(small, square, -3.761_248_6e-1);
    small = fused::<S>(small, square, 1.283_791_5e-1);
    small = fused::<S>(small, a, a);
    let mut large = fused::<S>(1.729_489_3e-5, a, -3.832_086_8e-4);
    large = fused::<S>(large, a, 3.883_934_4e-3);
    large = fused::<S>(large, a, -2.425_456e-2);
    large = fused::<S>(large, a, 1.067_778_5e-1);
    large = fused::<S>(large, a, 6.348_467e-1);
    large = fused::<S>(large, a, 1.287_175_1e-1);
    // 1 - e^-t
    let t = -fused::<S>(large, a, a);
    let n = fused::<S>(LOG2_E, t, ROUNDER) - ROUNDER;
    let mut r = fused::<S>(n, MINUS_LN2_HIGH, t);
    r = fused::<S>(n, MINUS_LN2_LOW, r);
    let mut p = fused::<S>(1.383_198_1e-3, r, 8.375_5e-3);
    p = fused::<S>(p, r, 4.166_895e-2);
    p = fused::<S>(p, r, 1.666_644_7e-1);
    p = fused::<S>(p, r, 4.999_998_5e-1);
    p = fused::<S>(p, r, 1.0);
    p = fused::<S>(p, r, 1.0);
    let large = 1.0 - times_power_of_two(p, n);
    let magnitude = if a >= 0.921875 { large } else { small };
    magnitude.copysign(x)
}

/// GELU with the error function.
#[inline(always)]
pub(super) fn gelu<S: Simd>(x: f32) -> f32 {
    x * 0.5 * (erf::<S>(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0)
}

/// `e^x` for x of 0 and less.
#[inline(always)]
fn exp<S: Simd>(x: f32) -> f32 {
    // The runtime goes on to -103.97; what lies below 2^-126 neither moves a sum of at least 1 nor makes a code.
    let x = larger(x, -87.0);
    let n = fused::<S>(x, LOG2_E, ROUNDER) - ROUNDER;
    let mut r = fused::<S>(n, MINUS_LN2_HIGH, x);
    r = fused::<S>(n, MINUS_LN2_LOW, r);
    let mut p = fused::<S>(1.378_059_4e-3, r, 8.373_124_5e-3);
    p = fused::<S>(p, r, 4.166_953_6e-2);
    p = fused::<S>(p, r, 1.666_647_2e-1);
    p = fused::<S>(p, r, 4.999_998_5e-1);
    p = fused::<S>(p, r, 1.0);
    p = fused::<S>(p, r, 1.0);
    times_power_of_two(p, n)
}

/// Lanes of the runtime's softmax, of which each sums its own values.
const SUMS: usize = 16;

/// Softmax in place. Returns the largest value.
#[inline(always)]
pub(super) fn softmax<S: Simd>(row: &mut [f32]) -> f32 {
    let mut largest = [f32::MIN; SUMS];
    let (whole, rest) = row.as_chunks::<SUMS>();
    for chunk in whole {
        for i in 0..SUMS {
            largest[i] = larger(largest[i], chunk[i]);
        }
    }
    for &value in rest {
        largest[0] = larger(largest[0], value);
    }
    let mut most = largest[0];
    for value in largest {
        most = larger(most, value);
    }
    let mut sums = [0f32; SUMS];
    let (whole, rest) = row.as_chunks_mut::<SUMS>();
    for chunk in whole {
        for i in 0..SUMS {
            chunk[i] = exp::<S>(chunk[i] - most);
            sums[i] += chunk[i];
        }
    }
    let mut last = [f32::MIN; SUMS];
    last[..rest.len()].copy_from_slice(rest);
    for value in &mut last {
        *value = exp::<S>(*value - most);
    }
    for i in 0..rest.len() {
        sums[i] += last[i];
    }
    rest.copy_from_slice(&last[..rest.len()]);
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

/// Smallest and largest of some values. NaN is passed over.
#[inline(always)]
pub(super) fn extent(values: &[f32], mut least: f32, mut most: f32) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut low, mut high) = ([least; LANES], [most; LANES]);
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            low[i] = smaller(chunk[i], low[i]);
            high[i] = larger(chunk[i], high[i]);
        }
    }
    for (i, &value) in rest.iter().enumerate() {
        low[i] = smaller(value, low[i]);
        high[i] = larger(value, high[i]);
    }
    for i in 0..LANES {
        least = smaller(low[i], least);
        most = larger(high[i], most);
    }
    (least, most)
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

    /// Codes of some values, and their sum.
    #[inline(always)]
    pub(super) fn codes(self, values: &[f32], codes: &mut [u8]) -> i32 {
        let (least, most) = (-self.zero_point as f32, (255 - self.zero_point) as f32);
        let offset = self.zero_point.wrapping_sub(ROUNDER.to_bits() as i32);
        let mut sum = 0i32;
        let count = values.len().min(codes.len());
        let (values, codes) = (&values[..count], &mut codes[..count]);
        for i in 0..count {
            let value = smaller(larger(values[i] / self.scale, least), most);
            let code = ((value + ROUNDER).to_bits() as i32).wrapping_add(offset);
            codes[i] = code as u8;
            sum = sum.wrapping_add(code);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::portable::Portable;
    use super::*;

    #[test]
    fn functions_are_close_to_the_exact_ones_and_fixed_at_their_edges() {
        for i in -4000..=4000 {
            let x = i as f32 / 500.0;
            let exact = crate::backend::local::kernel::testing::exact_gelu(f64::from(x));
            assert!((f64::from(gelu::<Portable>(x)) - exact).abs() < 1e-6, "gelu({x})");
            let below = -x.abs() * 10.0;
            let exact = f64::from(below).exp();
            assert!((f64::from(exp::<Portable>(below)) - exact).abs() <= 3e-7 * exact, "exp({below})");
        }
        assert_eq!((exp::<Portable>(0.0), exp::<Portable>(-1e30) < 1e-37), (1.0, true));
        assert_eq!((gelu::<Portable>(0.0), gelu::<Portable>(1e4), gelu::<Portable>(-1e4)), (0.0, 1e4, 0.0));
    }

    #[test]
    fn softmax_sums_to_one_whatever_the_length() {
        for count in [1, 2, 15, 16, 17, 47, 48, 100] {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 11) as f32 - 5.0) * 1.5).collect();
            let most = values.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = values.iter().map(|&x| f64::from(x - most).exp()).sum();
            let mut row = values.clone();
            let largest = softmax::<Portable>(&mut row);
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
            let (least, most) = extent(values, f32::INFINITY, f32::NEG_INFINITY);
            let quantization = Quantization::of(least, most).unwrap();
            let mut codes = vec![0; values.len()];
            let sum = quantization.codes(values, &mut codes);
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
