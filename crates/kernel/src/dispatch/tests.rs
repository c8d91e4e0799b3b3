//! Every instruction set does the same.

use super::*;
use crate::isa::even_runs;

/// All lane-wise operations on given operands, and the two reductions.
struct Operations<'a>([&'a [f32]; 3]);

impl Task for Operations<'_> {
    type Output = Vec<Vec<f32>>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<Vec<f32>> {
        let mut results = vec![Vec::new(); 16];
        let [a, b, c] = self.0;
        for at in (0..a.len()).step_by(S::LANES) {
            let wide = |slice: &[f32]| {
                assert!(slice[at..].len() >= S::LANES);
                // SAFETY: just checked.
                unsafe { s.load(slice[at..].as_ptr()) }
            };
            let (x, y, z) = (wide(a), wide(b), wide(c));
            let power = s.round(s.min(s.splat(100.0), s.max(s.splat(-100.0), y)));
            let lanewise = [
                s.add(x, y),
                s.sub(x, y),
                s.mul(x, y),
                s.div(x, y),
                s.mul_add(x, y, z),
                s.min(x, y),
                s.max(x, y),
                s.round(x),
                s.scale_by_power(x, power),
                s.keep_first(x, S::LANES / 2 + 1),
            ];
            for (result, vector) in results.iter_mut().zip(lanewise) {
                let mut out = vec![0f32; S::LANES];
                // SAFETY: `out` has `LANES` values.
                unsafe { s.store(out.as_mut_ptr(), vector) };
                result.extend(out);
            }
            for (i, vector) in [s.magnitude(x), s.with_sign_of(s.magnitude(x), y)].into_iter().enumerate() {
                let mut out = vec![0f32; S::LANES];
                // SAFETY: `out` has `LANES` values.
                unsafe { s.store(out.as_mut_ptr(), vector) };
                results[14 + i].extend(out);
            }
            let mut chosen = vec![0f32; S::LANES];
            // SAFETY: it has `LANES` values.
            unsafe { s.store(chosen.as_mut_ptr(), s.where_less(x, y, z, x)) };
            results[13].extend(chosen);
            results[10].push(s.sum(x));
            results[11].push(s.largest(x));
            for count in 0..S::LANES {
                let mut out = vec![7f32; S::LANES];
                // SAFETY: both have at least `count` values.
                unsafe {
                    let part = s.load_first(a[at..].as_ptr(), count);
                    s.store(out.as_mut_ptr(), part);
                    assert!(out[count..].iter().all(|&value| value == 0.0));
                    out.fill(7.0);
                    s.store_first(out.as_mut_ptr(), x, count);
                }
                let bits = |slice: &[f32]| slice.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&out[..count]), bits(&a[at..at + count]));
                assert!(out[count..].iter().all(|&value| value == 7.0), "wrote beyond {count}");
                results[12].extend(out);
            }
        }
        results
    }
}

#[test]
fn every_instruction_set_computes_the_same_lanes() {
    let values = |seed: f32| -> Vec<f32> { (0..64).map(|i| ((i as f32 + seed) * 1.7).sin() * 30.0).collect() };
    let operands = [values(0.0), values(5.5), values(9.1)];
    let [a, b, c] = operands.each_ref();
    for kernels in Kernels::available() {
        let got = kernels.run(Operations([a, b, c]));
        let lanes = kernels.panel_width() / PANEL_VECTORS;
        for i in 0..64 {
            let (x, y, z) = (a[i], b[i], c[i]);
            let exact = [x + y, x - y, x * y, x / y];
            for (operation, want) in exact.into_iter().enumerate() {
                assert_eq!(got[operation][i], want, "{kernels:?} operation {operation}");
            }
            assert!((got[4][i] - x.mul_add(y, z)).abs() <= 1e-4);
            assert_eq!((got[5][i], got[6][i]), (x.min(y), x.max(y)));
            assert_eq!(got[13][i], if x < y { z } else { x });
            assert_eq!((got[14][i], got[15][i]), (x.abs(), x.abs().copysign(y)));
            assert_eq!(got[7][i], x.round_ties_even());
            assert_eq!(got[8][i], x * 2f32.powi(y.round_ties_even() as i32));
            assert_eq!(got[9][i], if i % lanes <= lanes / 2 { x } else { 0.0 });
        }
        for (i, chunk) in a.chunks(lanes).enumerate() {
            assert!((got[10][i] - chunk.iter().sum::<f32>()).abs() < 1e-4);
            assert_eq!(got[11][i], chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

#[test]
fn minimum_and_maximum_return_the_second_operand_for_nan() {
    let (nan, one) = (vec![f32::NAN; 16], vec![1f32; 16]);
    for kernels in Kernels::available() {
        let first = kernels.run(Operations([&nan, &one, &one]));
        assert_eq!((first[5][0], first[6][0]), (1.0, 1.0), "{kernels:?}");
        let second = kernels.run(Operations([&one, &nan, &one]));
        assert!(second[5][0].is_nan() && second[6][0].is_nan(), "{kernels:?}");
    }
}

/// Conversions of vectors from and to narrower numbers.
struct Conversions<'a>(&'a [f32], &'a [u16]);

impl Task for Conversions<'_> {
    type Output = (Vec<f32>, Vec<u16>, Vec<u8>);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Vec<f32>, Vec<u16>, Vec<u8>) {
        let mut widened = vec![0f32; self.1.len()];
        for (halves, widened) in self.1.chunks_exact(S::LANES).zip(widened.chunks_exact_mut(S::LANES)) {
            let mut words = [0f32; 16];
            for (pair, word) in halves.chunks_exact(2).zip(&mut words) {
                let ([a, b], [c, d]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
                *word = f32::from_bits(u32::from_ne_bytes([a, b, c, d]));
            }
            // SAFETY: there are `LANES` halves and as many places.
            unsafe { s.store(widened.as_mut_ptr(), s.load_f16(words.as_ptr())) }
        }
        let (mut bf16, mut bytes) = (vec![0u16; self.0.len()], vec![0u8; self.0.len()]);
        for at in (0..self.0.len()).step_by(S::LANES) {
            assert!(self.0.len() - at >= S::LANES);
            // SAFETY: just checked; the results are as long.
            unsafe {
                let value = s.load(self.0[at..].as_ptr());
                s.store_bf16(bf16[at..].as_mut_ptr(), value);
                s.store_bytes(bytes[at..].as_mut_ptr(), value);
            }
        }
        (widened, bf16, bytes)
    }
}

#[test]
fn every_instruction_set_converts_the_same() {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|bits| half::f16::from_bits(*bits).is_finite()).collect();
    let mut values: Vec<f32> = (0..1024).map(|i| i as f32 / 4.0 - 0.25).collect();
    values.extend([f32::NAN, -f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::INFINITY]);
    values.extend([f32::MAX, f32::MIN, 1e-40, -0.0, 1.003_906_2, 1.011_718_8, -3.3, 65_504.0]);
    values.resize(values.len().next_multiple_of(16), 0.0);
    for kernels in Kernels::every() {
        let (widened, bf16, bytes) = kernels.run(Conversions(&values, &halves));
        for (&bits, got) in halves.iter().zip(widened) {
            assert_eq!(got.to_bits(), half::f16::from_bits(bits).to_f32().to_bits(), "{kernels:?} {bits:x}");
        }
        for (&value, bits) in values.iter().zip(bf16) {
            let (got, want) = (half::bf16::from_bits(bits), half::bf16::from_f32(value));
            assert!(got == want || (got.is_nan() && want.is_nan()), "{kernels:?} {value}: {got}");
        }
        for (&value, byte) in values.iter().zip(bytes) {
            if (0.0..=255.0).contains(&value) {
                assert_eq!(f32::from(byte), value.round_ties_even(), "{kernels:?} {value}");
            }
        }
    }
}

/// A square turned around, from the third column of its rows on.
struct Transposed<'a>(&'a [Vec<f32>]);

impl Task for Transposed<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let rows: Vec<*const f32> = self.0.iter().map(|row| row.as_ptr()).take(S::LANES).collect();
        let mut columns = vec![0f32; S::LANES * S::LANES];
        // SAFETY: the rows are longer than two values and a vector, and there is room for the square.
        unsafe { s.transpose(&rows, 2, columns.as_mut_ptr(), S::LANES) };
        columns
    }
}

#[test]
fn squares_are_turned_around() {
    let rows: Vec<Vec<f32>> = (0..16).map(|i| (0..18).map(|j| (i * 100 + j) as f32).collect()).collect();
    for kernels in Kernels::available() {
        let lanes = kernels.panel_width() / PANEL_VECTORS;
        let want: Vec<f32> = (0..lanes * lanes).map(|k| rows[k % lanes][2 + k / lanes]).collect();
        assert_eq!(kernels.run(Transposed(&rows)), want, "{kernels:?}");
    }
}

/// Values as bytes that are held within their range, and the sum of the bytes.
struct HeldBytes<'a>(&'a [f32], i32);

impl Task for HeldBytes<'_> {
    type Output = (Vec<u8>, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Vec<u8>, f32) {
        let mut bytes = vec![0u8; self.0.len()];
        let mut sums = s.splat_word(0);
        for (values, bytes) in self.0.chunks_exact(4 * S::LANES).zip(bytes.chunks_exact_mut(4 * S::LANES)) {
            let mut vectors = [s.splat(0.0); 4];
            for (vector, values) in vectors.iter_mut().zip(values.chunks_exact(S::LANES)) {
                // SAFETY: the chunk is a vector long.
                *vector = unsafe { s.load(values.as_ptr()) };
            }
            // SAFETY: there are as many bytes as values.
            sums = s.add_words(sums, unsafe { s.store_held_bytes(bytes.as_mut_ptr(), vectors, self.1) });
        }
        (bytes, s.sum(s.integers_to_f32(sums)))
    }
}

#[test]
fn bytes_are_held_within_their_range() {
    let mut values: Vec<f32> = (-600..600).map(|i| i as f32 / 2.0).collect();
    values.extend([0.499_999_97, -0.499_999_97, 1e6, -1e6, f32::NAN, -f32::NAN]);
    values.resize(values.len().next_multiple_of(64), 0.0);
    for offset in [0, 3, 128, 255] {
        // NaN is as good as the least.
        let byte = |x: &f32| (x.round_ties_even() + offset as f32).clamp(0.0, 255.0) as u8;
        let want: Vec<u8> = values.iter().map(byte).collect();
        let sum = want.iter().map(|&byte| f32::from(byte)).sum::<f32>();
        for kernels in Kernels::available() {
            assert_eq!(kernels.run(HeldBytes(&values, offset)), (want.clone(), sum), "{kernels:?} {offset}");
        }
    }
}

#[test]
fn names_are_read_back_and_unknown_ones_are_refused() {
    for set in InstructionSet::ALL {
        assert_eq!(set.to_string().parse::<InstructionSet>().unwrap(), set);
    }
    assert!("sse9".parse::<InstructionSet>().is_err());
    assert_eq!(Kernels::with(InstructionSet::Portable).unwrap().instruction_set(), InstructionSet::Portable);
}

#[test]
fn runs_are_even_and_cover_all_rows() {
    assert_eq!(even_runs(3..35, 14).collect::<Vec<_>>(), [3..13, 13..24, 24..35]);
    assert_eq!(even_runs(5..5, 14).count(), 0);
}
