//! Functions of a vector: exp and the activations. No unsafe code, no branches.

use super::isa::Simd;

/// What a feed-forward layer applies between its two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)` with the exact error function.
    Gelu,
    /// GELU's tanh approximation, as `gelu_new` and `gelu_pytorch_tanh` mean it.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x ÷ (1 + e⁻ˣ)`, also called swish.
    Silu,
}

impl Activation {
    /// The activation of each lane; NaN stays NaN.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, s: S, x: S::Vector) -> S::Vector {
        match self {
            Activation::Gelu => gelu(s, x),
            Activation::GeluTanh => gelu_tanh(s, x),
            Activation::Relu => s.max(s.splat(0.0), x),
            Activation::Silu => silu(s, x),
        }
    }

    /// The same to about 1e-4 of the larger of 1 and |x|, for what is rounded to bf16 or bytes next: their steps are a
    /// multiple of that.
    #[inline(always)]
    pub(super) fn apply_roughly<S: Simd>(self, s: S, x: S::Vector) -> S::Vector {
        match self {
            Activation::Gelu => rough_gelu(s, x),
            Activation::GeluTanh | Activation::Relu | Activation::Silu => self.apply(s, x),
        }
    }

    /// What is exact enough for values that are kept in so many parts of bf16.
    #[inline(always)]
    pub(super) fn apply_for<S: Simd>(self, s: S, x: S::Vector, parts: usize) -> S::Vector {
        if parts == 1 { self.apply_roughly(s, x) } else { self.apply(s, x) }
    }
}

/// The polynomial with the given coefficients, the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::Vector, coefficients: [f32; N]) -> S::Vector {
    let mut value = s.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        value = s.mul_add(value, x, s.splat(coefficient));
    }
    value
}

/// eˣ to about one unit in the last place; below -87.3 it stays at the smallest normal number, above 88.3 at 2.2e38.
///
/// Cody and Waite: x = n·ln 2 + r, eˣ = 2ⁿ·eʳ, ln 2 in two parts; the polynomial for eʳ is Cephes' `expf`.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let x = s.min(s.splat(88.3), s.max(s.splat(-87.3), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let tail = polynomial(s, r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let power = s.add(s.mul_add(tail, s.mul(r, r), r), s.splat(1.0));
    s.scale_by_power(power, n)
}

/// 2ˣ to 8e-5 of it, for what is rounded to bf16 next; below -125 it stays at 2⁻¹²⁵: a little below 2⁻¹²⁶ numbers are no
/// longer normal, and take CPUs a hundred times as long. x < 127.
///
/// The polynomial has the least relative error on -½..½ that a third degree can have.
#[inline(always)]
pub(super) fn rough_power_of_two<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let x = s.max(s.splat(-125.0), x);
    let n = s.round(x);
    let power = polynomial(s, s.sub(x, n), [0.055_171_67, 0.242_611_14, 0.693_261, 0.999_928_07]);
    s.scale_by_power(power, n)
}

/// 2ˣ to 2e-7 of it, with 1 for 0; below -100 it stays at 2⁻¹⁰⁰, of which the last bit too is a normal number when it is
/// split into parts. x < 127.
///
/// As above, of the fifth degree, with the slope at 0 as it is.
#[inline(always)]
pub(super) fn power_of_two<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let x = s.max(s.splat(-100.0), x);
    let n = s.round(x);
    let power = polynomial(
        s,
        s.sub(x, n),
        [1.330_028e-3, 9.669_713e-3, 5.550_56e-2, 2.402_228_2e-1, std::f32::consts::LN_2, 1.0],
    );
    s.scale_by_power(power, n)
}

/// erf(x), by a rational approximation on |x| ≤ 4; beyond, erf is 1 in f32. The coefficients are those of Eigen's `erf`.
#[inline(always)]
fn erf<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let x = s.min(s.splat(4.0), s.max(s.splat(-4.0), x));
    let square = s.mul(x, x);
    let numerator = polynomial(
        s,
        square,
        [
            -2.726_142_3e-10,
            2.770_681_3e-8,
            -2.101_024e-6,
            -5.692_506_6e-5,
            -7.349_906_3e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let denominator =
        polynomial(s, square, [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_473_9e-2]);
    s.div(s.mul(x, numerator), denominator)
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let half = s.mul(x, s.splat(0.5));
    s.mul_add(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// x·Φ(x) without a division: Φ(x) - ½ as an odd polynomial on |x| ≤ 3.8, chosen for the least error of the product and
/// for ½ at 3.8, where it stays.
#[inline(always)]
fn rough_gelu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let near = s.min(s.splat(3.8), s.max(s.splat(-3.8), x));
    let slope = polynomial(
        s,
        s.mul(near, near),
        [3.114_996_3e-8, -1.997_808_3e-6, 5.534_882e-5, -8.807_978_6e-4, 9.074_273e-3, -6.519_313e-2, 3.983_022_6e-1],
    );
    s.mul(x, s.mul_add(near, slope, s.splat(0.5)))
}

/// x·σ(2u) = ½x(1 + tanh u) with u = √(2/π)·(x + 0.044715 x³); the sigmoid loses no digits where tanh nears -1.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    let cubic = s.mul_add(s.mul(x, x), s.splat(-TWICE_SQRT_2_OVER_PI * 0.044_715), s.splat(-TWICE_SQRT_2_OVER_PI));
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, cubic))))
}

#[inline(always)]
fn silu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Kernels;
    use super::super::isa::Task;
    use super::*;
    use crate::testing::{exact_erf, exact_gelu, exact_gelu_tanh};

    struct Map<'a, F>(&'a [f32], F);

    /// A function generic over instruction sets, as a value.
    trait Function {
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector;
    }

    struct Exp;
    impl Function for Exp {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            exp(s, x)
        }
    }
    struct Erf;
    impl Function for Erf {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            erf(s, x)
        }
    }
    impl Function for Activation {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            self.apply(s, x)
        }
    }

    struct RoughPowerOfTwo;
    impl Function for RoughPowerOfTwo {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            rough_power_of_two(s, x)
        }
    }
    struct PowerOfTwo;
    impl Function for PowerOfTwo {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            power_of_two(s, x)
        }
    }
    struct Roughly(Activation);
    impl Function for Roughly {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::Vector) -> S::Vector {
            self.0.apply_roughly(s, x)
        }
    }

    impl<F: Function> Task for Map<'_, F> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0f32; self.0.len()];
            let chunks = self.0.chunks_exact(S::LANES);
            assert!(chunks.remainder().is_empty());
            for (from, to) in chunks.zip(out.chunks_exact_mut(S::LANES)) {
                // SAFETY: both chunks have `LANES` values.
                unsafe { s.store(to.as_mut_ptr(), self.1.of(s, s.load(from.as_ptr()))) }
            }
            out
        }
    }

    fn grid(from: f32, to: f32) -> Vec<f32> {
        const POINTS: usize = 1 << 16;
        (0..POINTS).map(|i| from + (to - from) * i as f32 / (POINTS - 1) as f32).collect()
    }

    fn worst(inputs: &[f32], got: &[f32], error: impl Fn(f64, f64) -> f64) -> f64 {
        inputs.iter().zip(got).map(|(&x, &y)| error(x.into(), y.into())).fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        let inputs = grid(-87.3, 88.3);
        for kernels in Kernels::available() {
            let got = kernels.run(Map(&inputs, Exp));
            let error = worst(&inputs, &got, |x, y| (y / x.exp() - 1.0).abs());
            assert!(error < 2.5e-7, "{kernels:?}: {error:e}");
            let edges = kernels.run(Map(&[[0f32, -1e9, f32::NEG_INFINITY, f32::NAN].as_slice(); 4].concat(), Exp));
            assert_eq!(edges[0], 1.0);
            assert!(edges[1] < 1.3e-38 && edges[2] < 1.3e-38 && edges[3].is_nan(), "{kernels:?}: {edges:?}");
        }
    }

    #[test]
    fn erf_is_exact_to_a_few_units_in_the_last_place() {
        let inputs = grid(-6.0, 6.0);
        for kernels in Kernels::available() {
            let error = worst(&inputs, &kernels.run(Map(&inputs, Erf)), |x, y| (y - exact_erf(x)).abs());
            assert!(error < 5e-7, "{kernels:?}: {error:e}");
        }
    }

    #[test]
    fn activations_match_their_definitions() {
        let inputs = grid(-12.0, 12.0);
        for kernels in Kernels::available() {
            for (activation, exact) in [
                (Activation::Gelu, &exact_gelu as &dyn Fn(f64) -> f64),
                (Activation::GeluTanh, &exact_gelu_tanh),
                (Activation::Relu, &|x| x.max(0.0)),
            ] {
                let got = kernels.run(Map(&inputs, activation));
                let error = worst(&inputs, &got, |x, y| (y - exact(x)).abs() / x.abs().max(1.0));
                assert!(error < 3e-7, "{kernels:?} {activation:?}: {error:e}");
                assert!(kernels.run(Map(&[f32::NAN; 16], activation)).iter().all(|x| x.is_nan()));
                let infinite = kernels.run(Map(&[f32::INFINITY; 16], activation));
                assert!(infinite.iter().all(|&x| x == f32::INFINITY), "{kernels:?} {activation:?}: {infinite:?}");
            }
        }
    }

    #[test]
    fn the_rough_power_of_two_is_exact_to_its_bound() {
        let inputs = grid(-125.0, 126.0);
        for kernels in Kernels::available() {
            let got = kernels.run(Map(&inputs, RoughPowerOfTwo));
            let error = worst(&inputs, &got, |x, y| (y / x.exp2() - 1.0).abs());
            assert!(error < 8e-5, "{kernels:?}: {error:e}");
            let edges =
                kernels.run(Map(&[[-1e9f32, f32::MIN, f32::NEG_INFINITY, f32::NAN]; 4].concat(), RoughPowerOfTwo));
            assert!(edges[..3].iter().all(|&x| x.is_normal() && x < 2.4e-38) && edges[3].is_nan(), "{edges:?}");
        }
    }

    #[test]
    fn the_power_of_two_is_exact_to_its_bound() {
        let inputs = grid(-100.0, 126.0);
        for kernels in Kernels::available() {
            let got = kernels.run(Map(&inputs, PowerOfTwo));
            let error = worst(&inputs, &got, |x, y| (y / x.exp2() - 1.0).abs());
            assert!(error < 2e-7, "{kernels:?}: {error:e}");
            let edges = kernels.run(Map(&[[0f32, f32::MIN, f32::NEG_INFINITY, f32::NAN]; 4].concat(), PowerOfTwo));
            assert_eq!(edges[0], 1.0);
            assert!(edges[1..3].iter().all(|&x| x == 2f32.powi(-100)) && edges[3].is_nan(), "{edges:?}");
        }
    }

    #[test]
    fn rough_activations_are_exact_to_their_bound() {
        let inputs = grid(-40.0, 40.0);
        for kernels in Kernels::available() {
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
                let got = kernels.run(Map(&inputs, Roughly(activation)));
                let exact = kernels.run(Map(&inputs, activation));
                for ((&x, &got), &exact) in inputs.iter().zip(&got).zip(&exact) {
                    assert!((got - exact).abs() <= 1e-4 * x.abs().max(1.0), "{kernels:?} {activation:?} of {x}: {got}");
                    // What a group's smallest and largest values are must not come from the approximation.
                    assert!(got >= -0.171 && got <= x.max(0.0) + 3e-4, "{kernels:?} {activation:?} of {x}: {got}");
                }
                assert!(kernels.run(Map(&[f32::NAN; 16], Roughly(activation))).iter().all(|x| x.is_nan()));
                let infinite = kernels.run(Map(&[f32::INFINITY; 16], Roughly(activation)));
                assert!(infinite.iter().all(|&x| x == f32::INFINITY), "{kernels:?} {activation:?}: {infinite:?}");
            }
        }
    }
}
