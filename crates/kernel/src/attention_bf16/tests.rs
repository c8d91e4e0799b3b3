//! Against definitions in f64, on every instruction set.

use std::f32::consts::LOG2_E;

use half::bf16;

use super::*;
use crate::testing::{exact_attention_with, values};

/// Attention of all heads, on memory as the engine has it, the queries divided at the given rows. A table of biases
/// per head is for distances of up to half its length.
fn attend(
    kernels: Kernels,
    projected: &[f32],
    (heads, size): (usize, usize),
    cuts: &[usize],
    bias: Option<&[Vec<f32>]>,
) -> Vec<f32> {
    let tokens = projected.len() / (3 * heads * size);
    let mut readable = projected.to_vec();
    readable.extend(vec![f32::NAN; kernels.panel_width()]);
    let mut scratch = vec![f32::NAN; scratch_len(kernels, tokens, size)];
    let mut out = vec![f32::NAN; tokens * heads * size];
    let stride = 3 * heads * size;
    let sequence = Heads { projected: readable.as_ptr(), stride, heads, key_heads: heads, size, tokens };
    for head in 0..heads {
        for cut in cuts.windows(2) {
            let out = (out.as_mut_ptr(), heads * size);
            // SAFETY: the buffers are as large as `Heads` and `scratch_len` ask, and ours.
            let mut task = unsafe { AttentionTask::new(sequence, head, cut[0]..cut[1], out, &mut scratch) };
            if let Some(bias) = bias {
                task = task.with_bias(&bias[head], bias[head].len() / 2);
            }
            kernels.run(RoundedAttentionTask(task));
        }
    }
    out
}

/// The projection as it is rounded.
fn rounded(projected: &[f32], width: usize) -> Vec<f64> {
    let round = |(column, &x): (usize, &f32)| {
        let factor = if column < width { LOG2_E } else { 1.0 };
        f64::from(bf16::from_f32(x * factor).to_f32()) / f64::from(factor)
    };
    projected.chunks(3 * width).flat_map(|row| row.iter().enumerate().map(round).collect::<Vec<_>>()).collect()
}

#[test]
fn heads_and_sequences_of_all_tail_sizes_match_f64() {
    let heads = 2;
    for kernels in Kernels::every() {
        for size in [1, 3, 8, 16, 20, 32, 48, 64, 80, 96, 128] {
            for tokens in (1..=35).chain([47, 48, 63, 64, 65, 100]) {
                let projected: Vec<f32> = values(tokens * heads * size * 3, 11).iter().map(|x| x * 2.0).collect();
                let got = attend(kernels, &projected, (heads, size), &[0, tokens], None);
                let want = exact_attention_with(&rounded(&projected, heads * size), heads, size, |_, _, _| 0.0);
                let errors: Vec<f64> = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs()).collect();
                // Shares are rounded to 9 bits, values are up to 2.
                let largest = errors.iter().copied().fold(0.0, f64::max);
                let mean = errors.iter().sum::<f64>() / errors.len() as f64;
                assert!(largest < 8e-3 && mean < 1e-3, "{kernels:?} size {size}, {tokens} tokens: {largest}, {mean}");
            }
        }
    }
}

#[test]
fn long_sequences_match_f64() {
    for kernels in Kernels::every() {
        for tokens in [191, 192, 193, 390, 800] {
            let projected = values(tokens * 32 * 3, 14);
            let got = attend(kernels, &projected, (1, 32), &[0, tokens], None);
            let want = exact_attention_with(&rounded(&projected, 32), 1, 32, |_, _, _| 0.0);
            for (&got, want) in got.iter().zip(want) {
                assert!((f64::from(got) - want).abs() < 1.5e-3, "{kernels:?} {tokens} tokens: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_bias_by_distance_is_added_to_the_scores() {
    let (heads, size) = (2, 20);
    for kernels in Kernels::every() {
        for tokens in [1, 2, 15, 16, 17, 40, 65] {
            let projected = values(tokens * heads * size * 3, 15);
            // For longer sequences than this one.
            let centre = tokens + 6;
            let tables: Vec<_> = (0..heads as u64).map(|head| values(2 * centre + 1, 16 + head)).collect();
            let got = attend(kernels, &projected, (heads, size), &[0, tokens], Some(&tables));
            let want = exact_attention_with(&rounded(&projected, heads * size), heads, size, |head, query, key| {
                f64::from(tables[head][centre + key - query])
            });
            for (&got, want) in got.iter().zip(want) {
                assert!((f64::from(got) - want).abs() < 2e-3, "{kernels:?} {tokens} tokens: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_whichever_part_it_is() {
    for kernels in Kernels::every() {
        let (heads, size, tokens) = (3, 32, 75);
        let projected = values(tokens * heads * size * 3, 12);
        let whole = attend(kernels, &projected, (heads, size), &[0, tokens], None);
        let parts = attend(kernels, &projected, (heads, size), &[0, 1, 30, tokens], None);
        assert_eq!(whole, parts, "{kernels:?}");
    }
}

#[test]
fn large_scores_stay_finite_and_nan_is_not_hidden() {
    for kernels in Kernels::every() {
        let (size, tokens) = (16, 20);
        let large: Vec<f32> = values(tokens * size * 3, 13).iter().map(|x| x * 1e4).collect();
        let out = attend(kernels, &large, (1, size), &[0, tokens], None);
        assert!(out.iter().all(|x| x.is_finite()), "{kernels:?}");
        for token in [0, 7, tokens - 1] {
            for payload in [f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::from_bits(0xFFFF_FFFF)] {
                // A NaN in a key reaches every query of its sequence, in a value every row of its column.
                let mut broken = values(tokens * size * 3, 13);
                broken[token * size * 3 + size] = payload;
                let out = attend(kernels, &broken, (1, size), &[0, tokens], None);
                assert!(out.iter().all(|x| x.is_nan()), "{kernels:?} {token}");
                let mut broken = values(tokens * size * 3, 13);
                broken[token * size * 3 + 2 * size] = payload;
                let out = attend(kernels, &broken, (1, size), &[0, tokens], None);
                assert!(out.iter().step_by(size).all(|x| x.is_nan()), "{kernels:?} {token}");
            }
        }
    }
}
