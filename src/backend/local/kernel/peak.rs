//! The machine's multiply-add rate, as the yardstick of the products.

use std::time::Instant;

use super::simd::{Kernels, Simd, Task};

/// Independent chains of multiply-adds: more than any CPU's latency × width, and they fit the registers.
const CHAINS: usize = 12;

struct Chains(usize);

impl Task for Chains {
    type Output = (usize, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (usize, f32) {
        let (factor, offset) = (s.splat(std::hint::black_box(0.999)), s.splat(std::hint::black_box(0.001)));
        let mut sums = [s.splat(0.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, factor, offset);
            }
        }
        let mut total = s.splat(0.0);
        for sum in sums {
            total = s.add(total, sum);
        }
        (self.0 * CHAINS * S::LANES * 2, s.sum(total))
    }
}

/// f32 operations per second of the calling thread with nothing but multiply-adds in registers: the best of `rounds`
/// rounds of about a millisecond.
pub fn measure(kernels: Kernels, rounds: usize) -> f64 {
    let mut best = 0f64;
    for _ in 0..rounds {
        let start = Instant::now();
        let (operations, total) = kernels.run(Chains(300_000));
        std::hint::black_box(total);
        best = best.max(operations as f64 / start.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_chains_are_computed() {
        for kernels in Kernels::available() {
            let (operations, total) = kernels.run(Chains(40_000));
            let lanes = operations / (40_000 * CHAINS * 2);
            // Each chain nears offset ÷ (1 - factor) = 1.
            assert!((f64::from(total) / (lanes * CHAINS) as f64 - 1.0).abs() < 1e-3, "{kernels:?}: {total}");
        }
    }
}
