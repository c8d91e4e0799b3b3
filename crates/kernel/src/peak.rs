//! The machine's multiply-add rate in each precision, as the yardstick of the products.

use std::time::Instant;

use super::dispatch::Kernels;
use super::dot::{Factors, call_in};
use super::isa::{Dot, DotTask};
use super::isa::{Simd, Task};
use super::precision::Precision;

/// Independent chains of multiply-adds: more than any CPU's latency × width, and they fit the registers.
const CHAINS: usize = 12;

/// Words to multiply with, as a product would read them.
const WORDS: usize = 16;

/// So many rounds of multiply-adds in registers.
struct Chains {
    rounds: usize,
    left: [f32; 2 * WORDS],
    right: [f32; WORDS],
}

impl DotTask for Chains {
    type Output = (usize, f32);

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) -> (usize, f32) {
        let s = dot.simd();
        // SAFETY: no vector has more than 16 words.
        let right = unsafe { dot.right(self.right.as_ptr()) };
        let mut sums = [dot.zero(); CHAINS];
        for round in 0..self.rounds {
            // SAFETY: the index is within the first half of the array, and no more words are read than that has.
            let left = unsafe { dot.left(self.left.as_ptr().add(round % WORDS)) };
            for sum in &mut sums {
                *sum = dot.multiply_add(left, right, *sum);
            }
        }
        // What the left bytes are taken lower by, times ones.
        let lowered = if D::LOWERED { (self.rounds * 4 * 128) as f32 } else { 0.0 };
        let mut total = s.splat(0.0);
        for sum in sums {
            total = s.add(total, s.add(dot.values(sum), s.splat(lowered)));
        }
        (self.rounds * CHAINS * D::Simd::LANES, s.sum(total))
    }
}

struct ChainsIn(Factors, Chains);

impl Task for ChainsIn {
    type Output = (usize, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (usize, f32) {
        call_in(s, self.0, self.1)
    }
}

/// Multiply-adds done (of words) and their sum.
fn chains(kernels: Kernels, precision: Precision, rounds: usize) -> (usize, f32) {
    let factors = kernels.factors(precision);
    // Each value is 1, of f16 and bf16 two to a word, of bytes four.
    let one = std::hint::black_box(match factors {
        Factors::F32 => 1.0,
        Factors::F32ByF16 => f32::from_bits(0x3C00_3C00),
        Factors::F32ByBf16 | Factors::Bf16 | Factors::Bf16Squares => f32::from_bits(0x3F80_3F80),
        Factors::Bytes | Factors::ByteSquares => f32::from_bits(0x0101_0101),
    });
    let left = if matches!(factors, Factors::F32ByF16 | Factors::F32ByBf16) { 1.0 } else { one };
    kernels.run(ChainsIn(factors, Chains { rounds, left: [left; 2 * WORDS], right: [one; WORDS] }))
}

/// Multiply-adds of one lane.
fn values(factors: Factors) -> usize {
    match factors {
        Factors::F32 | Factors::F32ByF16 | Factors::F32ByBf16 => 1,
        Factors::Bf16 => 2,
        Factors::Bytes | Factors::Bf16Squares => 4,
        Factors::ByteSquares => 8,
    }
}

/// Operations per second of the calling thread with nothing but multiply-adds in registers, a multiplication and an
/// addition counting as two: the best of `rounds` rounds of about a millisecond.
pub fn measure(kernels: Kernels, precision: Precision, rounds: usize) -> f64 {
    let values = values(kernels.factors(precision));
    let mut best = 0f64;
    for _ in 0..rounds {
        let start = Instant::now();
        let (operations, total) = chains(kernels, precision, 300_000);
        std::hint::black_box(total);
        best = best.max((2 * values * operations) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_chains_are_computed() {
        for kernels in Kernels::every() {
            for precision in Precision::ALL {
                let (operations, total) = chains(kernels, precision, 4000);
                let values = values(kernels.factors(precision));
                assert_eq!(total, (values * operations) as f32, "{kernels:?} {precision}");
            }
        }
    }
}
