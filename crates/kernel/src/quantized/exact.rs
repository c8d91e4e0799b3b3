//! f32 operations with the very bits of ONNX Runtime 1.22 on x86-64 or arm64, as [`Arithmetic`] says: one bit more or less before
//! a quantisation makes another code, and codes make vectors.
//!
//! What each function has to keep is said beside it; sums run in the runtime's order.

use super::super::isa::Simd;
use super::arithmetic::Arithmetic;

/// `a × b + c`, rounded once.
#[inline(always)]
pub(super) fn fused<S: Simd>(s: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
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

/// Lanes of the longest vectors.
pub(super) const MOST_LANES: usize = 16;

/// `a × b + c`, rounded once, on arm64 twice: within exp and erf.
#[inline(always)]
fn step<S: Simd, const ARM64: bool>(s: S, a: S::Vector, b: S::Vector, c: S::Vector) -> S::Vector {
    if ARM64 { s.add(s.mul(a, b), c) } else { fused(s, a, b, c) }
}

/// `a × b + c`, rounded twice, on arm64 once: in norms.
#[inline(always)]
fn contracted<S: Simd>(s: S, arithmetic: Arithmetic, [a, b, c]: [S::Vector; 3]) -> S::Vector {
    match arithmetic {
        Arithmetic::X86_64 => s.add(s.mul(a, b), c),
        Arithmetic::Arm64 => fused(s, a, b, c),
    }
}

/// The polynomial with the given coefficients, the highest power first. Of several vectors step by step, here and in all
/// that follows: each step waits for the one before, and the CPU sees the other vectors' steps only if they are near.
#[inline(always)]
fn polynomial<S: Simd, const ARM64: bool, const N: usize, const K: usize>(
    s: S,
    x: [S::Vector; K],
    coefficients: [f32; N],
) -> [S::Vector; K] {
    let mut values = [s.splat(coefficients[0]); K];
    for &coefficient in &coefficients[1..] {
        let coefficient = s.splat(coefficient);
        for k in 0..K {
            values[k] = step::<S, ARM64>(s, values[k], x[k], coefficient);
        }
    }
    values
}

#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
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
fn power<S: Simd, const ARM64: bool, const K: usize>(
    s: S,
    x: [S::Vector; K],
    coefficients: [f32; 7],
) -> [S::Vector; K] {
    let (mut n, mut r) = (x, x);
    for k in 0..K {
        n[k] = s.sub(step::<S, ARM64>(s, x[k], s.splat(LOG2_E), s.splat(ROUNDER)), s.splat(ROUNDER));
    }
    for k in 0..K {
        r[k] = step::<S, ARM64>(s, n[k], s.splat(MINUS_LN2_HIGH), x[k]);
    }
    for k in 0..K {
        r[k] = step::<S, ARM64>(s, n[k], s.splat(MINUS_LN2_LOW), r[k]);
    }
    let mut values = polynomial::<S, ARM64, 7, K>(s, r, coefficients);
    for k in 0..K {
        values[k] = s.scale_by_power(values[k], n[k]);
    }
    values
}

/// The error function: two polynomials that meet at 0.921875.
#[inline(always)]
fn erf<S: Simd, const ARM64: bool, const K: usize>(s: S, x: [S::Vector; K]) -> [S::Vector; K] {
    let zero = s.splat(0.0);
    let (mut a, mut square) = (x, x);
    for k in 0..K {
        a[k] = s.min(s.magnitude(x[k]), s.splat(3.925));
        square[k] = s.mul(a[k], a[k]);
    }
    let mut small = polynomial::<S, ARM64, 6, K>(
        s,
        square,
        [-5.991_049_7e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_25e-1, -3.761_248_6e-1, 1.283_791_5e-1],
    );
    let mut large = polynomial::<S, ARM64, 7, K>(
        s,
        a,
        [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1],
    );
    // 1 - e^-t
    let mut minus_t = a;
    for k in 0..K {
        small[k] = step::<S, ARM64>(s, small[k], a[k], a[k]);
        minus_t[k] = s.sub(zero, step::<S, ARM64>(s, large[k], a[k], a[k]));
    }
    let power = power::<S, ARM64, K>(
        s,
        minus_t,
        [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1, 1.0, 1.0],
    );
    for k in 0..K {
        large[k] = s.sub(s.splat(1.0), power[k]);
        let magnitude = s.where_less(a[k], s.splat(0.921875), small[k], large[k]);
        a[k] = s.with_sign_of(magnitude, x[k]);
    }
    a
}

/// GELU of each value, with the error function.
#[inline(always)]
pub(super) fn gelu<S: Simd, const K: usize>(s: S, arithmetic: Arithmetic, x: [S::Vector; K]) -> [S::Vector; K] {
    match arithmetic {
        Arithmetic::X86_64 => gelu_as::<S, false, K>(s, x),
        Arithmetic::Arm64 => gelu_as::<S, true, K>(s, x),
    }
}

#[inline(always)]
fn gelu_as<S: Simd, const ARM64: bool, const K: usize>(s: S, x: [S::Vector; K]) -> [S::Vector; K] {
    let mut scaled = x;
    for value in &mut scaled {
        *value = s.mul(*value, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    }
    let mut values = erf::<S, ARM64, K>(s, scaled);
    for k in 0..K {
        let phi = s.add(values[k], s.splat(1.0));
        values[k] = s.mul(s.mul(x[k], s.splat(0.5)), phi);
    }
    values
}

/// `e^x` for x of 0 and less.
#[inline(always)]
fn exp<S: Simd, const ARM64: bool, const K: usize>(s: S, mut x: [S::Vector; K]) -> [S::Vector; K] {
    // The runtime goes on to -103.97; what lies below 2^-126 neither moves a sum of at least 1 nor makes a code.
    for x in &mut x {
        *x = s.max(*x, s.splat(-87.0));
    }
    power::<S, ARM64, K>(
        s,
        x,
        [1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1, 1.0, 1.0],
    )
}

/// Lanes of the runtime's softmax, of which each sums its own values.
const SUMS: usize = 16;
/// Exponentials of a row that are computed at a time.
const POWERS: usize = 32;

/// Softmax of some scores but for its last step: writes the exponentials of what each score is less than the largest,
/// and returns 1 ÷ their sum, by which they are still to be multiplied. e^0 is exactly 1, so it is the largest
/// probability too.
#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, arithmetic: Arithmetic, scores: &[f32], powers: &mut [f32]) -> f32 {
    match arithmetic {
        Arithmetic::X86_64 => softmax_as::<S, false>(s, scores, powers),
        Arithmetic::Arm64 => {
            softmax_as::<S, true>(s, scores, powers);
            1.0 / sum_of_four(powers)
        }
    }
}

/// The sum in four lanes, and what is left one by one.
fn sum_of_four(values: &[f32]) -> f32 {
    let (whole, rest) = values.as_chunks::<4>();
    let mut sums = [0f32; 4];
    for four in whole {
        for (sum, value) in sums.iter_mut().zip(four) {
            *sum += value;
        }
    }
    rest.iter().fold((sums[0] + sums[1]) + (sums[2] + sums[3]), |sum, value| sum + value)
}

/// The sum that it returns is that of x86-64.
#[inline(always)]
fn softmax_as<S: Simd, const ARM64: bool>(s: S, scores: &[f32], powers: &mut [f32]) -> f32 {
    assert_eq!(scores.len(), powers.len());
    let offset = s.splat(largest(s, scores));
    let whole = scores.len() / POWERS * POWERS;
    let (from, to) = (scores.as_ptr(), powers.as_mut_ptr());
    // As many of them as hold 16 lanes.
    let mut sums = [s.splat(0.0); SUMS / 4];
    // SAFETY: `POWERS` values at a time up to `whole`, then `count` values of each last vector.
    unsafe {
        for at in (0..whole).step_by(POWERS) {
            for step in (0..POWERS).step_by(2 * S::LANES) {
                let at = [at + step, at + step + S::LANES];
                let powers = exp::<S, ARM64, 2>(
                    s,
                    [s.sub(s.load(from.add(at[0])), offset), s.sub(s.load(from.add(at[1])), offset)],
                );
                for k in 0..2 {
                    s.store(to.add(at[k]), powers[k]);
                    let sum = &mut sums[(step / S::LANES + k) % (SUMS / S::LANES)];
                    *sum = s.add(*sum, powers[k]);
                }
            }
        }
        for step in (0..POWERS).step_by(S::LANES) {
            let at = whole + step;
            let count = scores.len().saturating_sub(at).min(S::LANES);
            if count == 0 {
                break;
            }
            let sum = &mut sums[step / S::LANES % (SUMS / S::LANES)];
            if count == S::LANES {
                let [power] = exp::<S, ARM64, 1>(s, [s.sub(s.load(from.add(at)), offset)]);
                s.store(to.add(at), power);
                *sum = s.add(*sum, power);
            } else {
                let [power] = exp::<S, ARM64, 1>(s, [s.sub(s.load_first(from.add(at), count), offset)]);
                s.store_first(to.add(at), power, count);
                *sum = s.add(*sum, s.keep_first(power, count));
            }
        }
    }
    1.0 / sum_of_lanes(s, &sums)
}

/// The largest of some values.
#[inline(always)]
fn largest<S: Simd>(s: S, values: &[f32]) -> f32 {
    let whole = values.len() / S::LANES * S::LANES;
    let mut largest = s.splat(f32::MIN);
    for vector in values[..whole].chunks_exact(S::LANES) {
        // SAFETY: the chunk is a vector long.
        largest = s.max(largest, unsafe { s.load(vector.as_ptr()) });
    }
    let mut most = larger(f32::MIN, s.largest(largest));
    for &value in &values[whole..] {
        most = larger(most, value);
    }
    most
}

/// The sum of the runtime's 16 lanes, in its order.
#[inline(always)]
fn sum_of_lanes<S: Simd>(s: S, vectors: &[S::Vector; SUMS / 4]) -> f32 {
    let mut sums = [0f32; SUMS];
    for (lanes, &vector) in sums.chunks_exact_mut(S::LANES).zip(vectors) {
        // SAFETY: the chunk is a vector long.
        unsafe { s.store(lanes.as_mut_ptr(), vector) };
    }
    let mut half = [0f32; 8];
    for i in 0..8 {
        half[i] = sums[i] + sums[i + 8];
    }
    ((half[0] + half[1]) + (half[2] + half[3])) + ((half[4] + half[5]) + (half[6] + half[7]))
}

/// Sums of each row's values and of their squares, in the order of the columns. As many rows as a vector has lanes, a
/// lane for each: the sums of a row wait for each other.
///
/// # Safety
/// There are `LANES` rows, readable for `width` values each.
#[inline(always)]
pub(super) unsafe fn moments<S: Simd>(
    s: S,
    arithmetic: Arithmetic,
    rows: &[*const f32],
    width: usize,
) -> [[f32; MOST_LANES]; 2] {
    let mut columns = Square([0.0; MOST_LANES * MOST_LANES]);
    let (mut sums, mut squares) = (s.splat(0.0), s.splat(0.0));
    let whole = width / S::LANES * S::LANES;
    let mut moments = [[0.0; MOST_LANES]; 2];
    // SAFETY: whole vectors of each row up to `whole`; the square has room for as many columns.
    unsafe {
        for at in (0..whole).step_by(S::LANES) {
            s.transpose(rows, at, columns.0.as_mut_ptr(), S::LANES);
            for column in columns.0[..S::LANES * S::LANES].chunks_exact(S::LANES) {
                let values = s.load(column.as_ptr());
                sums = s.add(sums, values);
                squares = contracted(s, arithmetic, [values, values, squares]);
            }
        }
        s.store(moments[0].as_mut_ptr(), sums);
        s.store(moments[1].as_mut_ptr(), squares);
    }
    let [sums, squares] = &mut moments;
    for (row, (sum, square)) in rows.iter().zip(sums.iter_mut().zip(squares)) {
        for at in whole..width {
            // SAFETY: within the row, by contract.
            let value = unsafe { row.add(at).read() };
            *sum += value;
            *square = contracted_one(arithmetic, [value, value, *square]);
        }
    }
    moments
}

/// [`contracted`] of one value.
fn contracted_one(arithmetic: Arithmetic, [a, b, c]: [f32; 3]) -> f32 {
    match arithmetic {
        Arithmetic::X86_64 => a * b + c,
        Arithmetic::Arm64 => a.mul_add(b, c),
    }
}

/// Columns of a square of values, on cache lines.
#[repr(align(64))]
struct Square([f32; MOST_LANES * MOST_LANES]);

/// LayerNorm of a row in place, by the mean of squares. `sum` and `square` are the row's [`moments`]. False if the
/// variance came out negative or not finite.
#[inline(always)]
pub(super) fn layer_norm<S: Simd>(
    (s, arithmetic): (S, Arithmetic),
    row: &mut [f32],
    [sum, square]: [f32; 2],
    (gamma, beta): (&[f32], &[f32]),
    epsilon: f32,
) -> bool {
    let width = row.len();
    assert!(gamma.len() == width && beta.len() == width);
    let mean = sum / width as f32;
    let deviation = (contracted_one(arithmetic, [-mean, mean, square / width as f32]) + epsilon).sqrt();
    let (means, deviations) = (s.splat(mean), s.splat(deviation));
    for at in (0..width).step_by(S::LANES) {
        let count = width - at;
        // SAFETY: so many values are left of all three.
        unsafe {
            let (to, gamma, beta) = (row.as_mut_ptr().add(at), gamma.as_ptr().add(at), beta.as_ptr().add(at));
            if count < S::LANES {
                let quotient = s.div(s.sub(s.load_first(to, count), means), deviations);
                let value = [quotient, s.load_first(gamma, count), s.load_first(beta, count)];
                let value = contracted(s, arithmetic, value);
                s.store_first(to, value, count);
            } else {
                let quotient = s.div(s.sub(s.load(to), means), deviations);
                s.store(to, contracted(s, arithmetic, [quotient, s.load(gamma), s.load(beta)]));
            }
        }
    }
    deviation > 0.0 && deviation < f32::INFINITY
}

#[cfg(test)]
mod tests {
    use super::super::super::dispatch::Kernels;
    use super::super::super::isa::Task;
    use super::super::super::portable::Portable;
    use super::*;

    /// GELU or exp of one value.
    struct Value(f32, bool, Arithmetic);

    impl Task for Value {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            let x = [s.splat(self.0)];
            let [value] = match (self.1, self.2) {
                (true, arithmetic) => gelu(s, arithmetic, x),
                (false, Arithmetic::X86_64) => exp::<S, false, 1>(s, x),
                (false, Arithmetic::Arm64) => exp::<S, true, 1>(s, x),
            };
            s.largest(value)
        }
    }

    #[test]
    fn functions_are_close_to_the_exact_ones_and_fixed_at_their_edges() {
        let mut bits = Vec::new();
        let sets = Kernels::available();
        for (kernels, arithmetic) in sets.iter().flat_map(|set| Arithmetic::ALL.map(|arithmetic| (set, arithmetic))) {
            let gelu = |x| kernels.run(Value(x, true, arithmetic));
            let exp = |x| kernels.run(Value(x, false, arithmetic));
            let mut own = Vec::new();
            for i in -4000..=4000 {
                let x = i as f32 / 500.0;
                let exact = crate::testing::exact_gelu(f64::from(x));
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
        let alike = |arithmetic| bits.iter().skip(arithmetic).step_by(2).all(|own| *own == bits[arithmetic]);
        assert!(alike(0) && alike(1), "the same bits by every instruction set");
        assert_ne!(bits[0], bits[1], "they differ by roundings");
    }

    /// Softmax as it is used: exponentials times a factor. Returns them and the factor.
    struct Softmax<'a>(&'a [f32], Arithmetic);

    impl Task for Softmax<'_> {
        type Output = (Vec<f32>, f32);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (Vec<f32>, f32) {
            let mut powers = vec![0.0; self.0.len()];
            let factor = softmax(s, self.1, self.0, &mut powers);
            (powers.iter().map(|power| power * factor).collect(), factor)
        }
    }

    #[test]
    fn softmax_sums_to_one_whatever_the_length() {
        for count in [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 61, 64, 100] {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 11) as f32 - 5.0) * 1.5).collect();
            let most = values.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = values.iter().map(|&x| f64::from(x - most).exp()).sum();
            let oracles = Arithmetic::ALL.map(|arithmetic| Portable.call(Softmax(&values, arithmetic)));
            let sets = Kernels::available();
            for (kernels, (arithmetic, oracle)) in
                sets.iter().flat_map(|set| Arithmetic::ALL.into_iter().zip(&oracles).map(move |it| (set, it)))
            {
                let (row, largest) = kernels.run(Softmax(&values, arithmetic));
                assert_eq!((&row, largest), (&oracle.0, oracle.1), "{kernels:?} {count}");
                assert_eq!(largest, row.iter().copied().fold(f32::MIN, f32::max));
                for (got, x) in row.iter().zip(&values) {
                    assert!((f64::from(*got) - f64::from(x - most).exp() / total).abs() < 1e-6);
                }
            }
        }
    }

    /// LayerNorm of some rows, fewer than a vector has lanes, and whether all went well.
    struct Norm<'a>(&'a [Vec<f32>], &'a [f32], &'a [f32], Arithmetic);

    impl Task for Norm<'_> {
        type Output = (Vec<Vec<f32>>, bool);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (Vec<Vec<f32>>, bool) {
            let (mut sound, mut normed) = (true, self.0.to_vec());
            for rows in normed.chunks_mut(S::LANES) {
                let pointers: Vec<_> = (0..S::LANES).map(|i| rows[i.min(rows.len() - 1)].as_ptr()).collect();
                // SAFETY: rows of so many values.
                let [sums, squares] = unsafe { moments(s, self.3, &pointers, self.1.len()) };
                for ((row, sum), square) in rows.iter_mut().zip(sums).zip(squares) {
                    sound &= layer_norm((s, self.3), row, [sum, square], (self.1, self.2), 1e-12);
                }
            }
            (normed, sound)
        }
    }

    #[test]
    fn norms_sum_in_the_order_of_the_columns() {
        for (count, width) in [(1, 2), (3, 15), (5, 16), (16, 33), (17, 48), (35, 40)] {
            let value = |r: usize, h: usize| ((h * h * 31 + r * 17) % 101) as f32 * 0.37 - 11.0;
            let rows: Vec<Vec<f32>> = (0..count).map(|r| (0..width).map(|h| value(r, h)).collect()).collect();
            let gamma: Vec<f32> = (0..width).map(|h| 1.0 + h as f32 / 7.0).collect();
            let beta: Vec<f32> = (0..width).map(|h| h as f32 / 3.0 - 1.0).collect();
            for arithmetic in Arithmetic::ALL {
                let product_and = |a: f32, b: f32, c: f32| match arithmetic {
                    Arithmetic::X86_64 => a * b + c,
                    Arithmetic::Arm64 => a.mul_add(b, c),
                };
                let mut want = rows.clone();
                for row in &mut want {
                    let (mut sum, mut square) = (0f32, 0f32);
                    for &value in row.iter() {
                        sum += value;
                        square = product_and(value, value, square);
                    }
                    let mean = sum / width as f32;
                    let deviation = (product_and(-mean, mean, square / width as f32) + 1e-12).sqrt();
                    for (h, value) in row.iter_mut().enumerate() {
                        *value = product_and((*value - mean) / deviation, gamma[h], beta[h]);
                    }
                }
                let bits = |rows: &[Vec<f32>]| rows.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                for kernels in Kernels::available() {
                    let (got, sound) = kernels.run(Norm(&rows, &gamma, &beta, arithmetic));
                    assert!(sound && bits(&got) == bits(&want), "{kernels:?} {arithmetic} {count} × {width}");
                }
            }
        }
    }

    #[test]
    fn a_row_without_variance_is_reported() {
        let (gamma, beta) = ([1f32; 24], [0f32; 24]);
        let mut rows: Vec<Vec<f32>> = (0..8).map(|r| (0..24).map(|h| ((h * h + r) % 5) as f32).collect()).collect();
        for kernels in Kernels::available() {
            let (normed, sound) = kernels.run(Norm(&rows, &gamma, &beta, Arithmetic::X86_64));
            assert!(sound);
            for row in &normed {
                assert!((row.iter().sum::<f32>()).abs() < 1e-4);
                assert!((row.iter().map(|x| x * x).sum::<f32>() - 24.0).abs() < 1e-2);
            }
        }
        rows[3].fill(f32::MAX);
        assert!(!Portable.call(Norm(&rows, &gamma, &beta, Arithmetic::X86_64)).1);
    }
}
