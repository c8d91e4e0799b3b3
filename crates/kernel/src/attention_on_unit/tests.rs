//! Against definitions in f64, in one, two and three parts.

use std::f32::consts::LOG2_E;

use half::bf16;

use super::super::attention;
use super::*;
use crate::dispatch::{InstructionSet, Kernels};
use crate::mask::Mask;
use crate::precision::Precision;
use crate::testing::{exact_attention_with, values};

/// Emulated units, and this machine's.
fn every() -> Vec<Kernels> {
    Kernels::emulated().into_iter().chain(Kernels::with(InstructionSet::Amx)).collect()
}

/// What is asked: the projection of a sequence, of heads, heads of keys, and their size.
struct Case {
    projected: Vec<f32>,
    heads: usize,
    key_heads: usize,
    size: usize,
    mask: Mask,
    /// A table of biases per head is for distances of up to half its length.
    bias: Option<Vec<Vec<f32>>>,
}

impl Case {
    fn new((heads, key_heads, size): (usize, usize, usize), tokens: usize, seed: u64) -> Case {
        let projected = values(tokens * (heads + 2 * key_heads) * size, seed).iter().map(|x| x * 2.0).collect();
        Case { projected, heads, key_heads, size, mask: Mask::FULL, bias: None }
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.key_heads) * self.size
    }

    fn tokens(&self) -> usize {
        self.projected.len() / self.width()
    }

    /// All heads, on memory as the engine has it, the queries divided at the given rows; in no parts: by vectors.
    fn attend(&self, kernels: Kernels, parts: usize, cuts: &[usize]) -> Vec<f32> {
        let Case { heads, key_heads, size, mask, .. } = *self;
        let tokens = self.tokens();
        let unit = kernels.unit(Precision::Bf16).unwrap();
        let lengths = [attention::scratch_len(kernels, tokens, size), scratch_len(parts.max(1), tokens, size)];
        let mut scratch = vec![f32::NAN; lengths[usize::from(parts > 0)]];
        let mut readable = self.projected.clone();
        readable.extend(vec![f32::NAN; kernels.panel_width()]);
        let mut out = vec![f32::NAN; tokens * heads * size];
        let sequence = Heads { projected: readable.as_ptr(), stride: self.width(), heads, key_heads, size, tokens };
        for head in 0..heads {
            for cut in cuts.windows(2) {
                let out = (out.as_mut_ptr(), heads * size);
                // SAFETY: the buffers are as large as `Heads` and `scratch_len` ask, and ours.
                let mut task = unsafe { AttentionTask::new(sequence, head, cut[0]..cut[1], out, &mut scratch) };
                if let Some(bias) = &self.bias {
                    task = task.with_bias(&bias[head], bias[head].len() / 2);
                }
                match parts {
                    0 => kernels.run(task.with_mask(mask)),
                    _ => kernels.run(UnitAttentionTask(task.with_mask(mask), unit, parts)),
                }
            }
        }
        out
    }

    fn whole(&self, kernels: Kernels, parts: usize) -> Vec<f32> {
        self.attend(kernels, parts, &[0, self.tokens()])
    }

    /// By the definition; in one part with what queries, keys and values are rounded to.
    fn exact(&self, parts: usize) -> Vec<f64> {
        let Case { heads, key_heads, size, mask, .. } = *self;
        let round = |x: f32, factor: f32| match parts {
            1 => f64::from(bf16::from_f32(x * factor).to_f32()) / f64::from(factor),
            _ => f64::from(x),
        };
        // A head of keys for each head.
        let mut projected = Vec::new();
        for row in self.projected.chunks(self.width()) {
            projected.extend(row[..heads * size].iter().map(|&x| round(x, LOG2_E)));
            for half in row[heads * size..].chunks(key_heads * size) {
                let of_head = |head: usize| &half[head / (heads / key_heads) * size..][..size];
                projected.extend((0..heads).flat_map(of_head).map(|&x| round(x, 1.0)));
            }
        }
        exact_attention_with(&projected, heads, size, |head, query, key| match &self.bias {
            _ if !mask.keys(query, self.tokens()).contains(&key) => f64::NEG_INFINITY,
            Some(bias) => f64::from(bias[head][bias[head].len() / 2 + key - query]),
            None => 0.0,
        })
    }

    /// The largest error and the root of the mean square.
    fn errors(&self, kernels: Kernels, parts: usize) -> (f64, f64) {
        let got = self.whole(kernels, parts);
        let errors: Vec<f64> =
            got.iter().zip(self.exact(parts)).map(|(&got, want)| (f64::from(got) - want).abs()).collect();
        let square = errors.iter().map(|x| x * x).sum::<f64>() / errors.len() as f64;
        // A NaN is no small error.
        let largest = errors.iter().copied().fold(0.0, |a, b| if b <= a { a } else { b });
        (largest, square.sqrt())
    }
}

/// Bounds of both errors for values of up to 2. In one part powers are rounded to 8 bits.
const BOUNDS: [(f64, f64); 3] = [(8e-3, 1.3e-3), (4e-4, 4e-5), (8e-6, 8e-7)];

fn check(case: &Case, kernels: Kernels, factor: f64) {
    for parts in [1, 2, 3] {
        let (largest, mean) = case.errors(kernels, parts);
        let bounds = BOUNDS[parts - 1];
        let what = format!("{kernels:?} {parts} parts, size {}, {} tokens, {:?}", case.size, case.tokens(), case.mask);
        assert!(largest < bounds.0 * factor && mean < bounds.1 * factor, "{what}: {largest:e}, {mean:e}");
    }
}

#[test]
fn heads_and_sequences_of_all_tail_sizes_match_f64() {
    for kernels in every() {
        for size in [1, 3, 8, 16, 20, 32, 48, 64, 80, 128] {
            for tokens in [1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 97, 100] {
                check(&Case::new((2, 2, size), tokens, 11), kernels, 1.0);
            }
        }
    }
}

#[test]
fn long_sequences_match_f64() {
    for kernels in every() {
        for tokens in [191, 192, 193, 390] {
            check(&Case::new((1, 1, 32), tokens, 14), kernels, 0.5);
        }
    }
}

#[test]
fn three_parts_are_as_exact_as_f32() {
    for kernels in every() {
        for (size, tokens) in [(32, 40), (32, 300), (64, 128), (128, 70)] {
            let case = Case::new((1, 1, size), tokens, 19);
            let (by_vectors, on_unit) = (case.errors(kernels, 0).1, case.errors(kernels, 3).1);
            assert!(on_unit < 1.2 * by_vectors, "{kernels:?} {size} {tokens}: {by_vectors:e}, {on_unit:e}");
        }
    }
}

#[test]
fn heads_may_share_keys() {
    for kernels in every() {
        for (heads, key_heads) in [(4, 2), (3, 1)] {
            check(&Case::new((heads, key_heads, 24), 70, 17), kernels, 1.0);
        }
    }
}

#[test]
fn a_bias_by_distance_is_added_to_the_scores() {
    for kernels in every() {
        for tokens in [1, 2, 15, 16, 17, 40, 65] {
            // For longer sequences than this one.
            let tables = (0..2).map(|head| values(2 * (tokens + 6) + 1, 16 + head)).collect();
            let case = Case { bias: Some(tables), ..Case::new((2, 2, 20), tokens, 15) };
            check(&case, kernels, 1.0);
        }
    }
}

const MASKS: [Mask; 4] =
    [Mask::CAUSAL, Mask { before: 20, after: 3 }, Mask { before: 5, after: 5 }, Mask { before: 0, after: 0 }];

#[test]
fn a_query_sees_what_its_mask_lets_it() {
    for kernels in every() {
        for mask in MASKS {
            for tokens in [1, 33, 140, 300] {
                check(&Case { mask, ..Case::new((1, 1, 20), tokens, 18) }, kernels, 1.0);
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_whichever_part_it_is() {
    for kernels in every() {
        for parts in [1, 2, 3] {
            for (mask, tokens) in [(Mask::FULL, 75), (Mask::FULL, 290)].into_iter().chain(MASKS.map(|mask| (mask, 290)))
            {
                let case = Case { mask, ..Case::new((1, 1, 40), tokens, 12) };
                let whole = case.whole(kernels, parts);
                let cut = case.attend(kernels, parts, &[0, 1, 30, 74, tokens]);
                assert_eq!(whole, cut, "{kernels:?} {parts} parts, {tokens} tokens, {mask:?}");
            }
        }
    }
}

#[test]
fn large_scores_stay_finite_and_nan_is_not_hidden() {
    let (size, tokens) = (16, 20);
    let case = || Case::new((1, 1, size), tokens, 13);
    for (kernels, parts) in every().into_iter().flat_map(|kernels| [1, 2, 3].map(|parts| (kernels, parts))) {
        let mut large = case();
        large.projected.iter_mut().for_each(|x| *x *= 1e4);
        assert!(large.whole(kernels, parts).iter().all(|x| x.is_finite()), "{kernels:?} {parts}");
        for token in [0, 7, tokens - 1] {
            for payload in [f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::from_bits(0xFFFF_FFFF)] {
                // A NaN in a query stays in its row, in a key it reaches every query of its sequence, in a value every
                // row of its column.
                let with_nan = |column: usize| {
                    let mut broken = case();
                    broken.projected[token * size * 3 + column] = payload;
                    broken.whole(kernels, parts)
                };
                for (row, out) in with_nan(0).chunks(size).enumerate() {
                    assert!(out.iter().all(|x| x.is_nan() == (row == token)), "{kernels:?} {parts} {token}");
                }
                assert!(with_nan(size).iter().all(|x| x.is_nan()), "{kernels:?} {parts} {token}");
                assert!(with_nan(2 * size).iter().step_by(size).all(|x| x.is_nan()), "{kernels:?} {parts} {token}");
            }
        }
    }
}
