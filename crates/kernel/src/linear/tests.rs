//! Products in every precision, by vectors and on a unit.

use half::{bf16, f16};

use super::packing::MOST_BYTES;
use super::*;
use crate::dispatch::InstructionSet;
use crate::dispatch::Kernels;
use crate::dot::Factors;
use crate::math::Activation;
use crate::operand::group_inputs;
use crate::precision::Precision;
use crate::testing::{exact_product, values};

fn dense(outputs: usize, inputs: usize, seed: u64) -> Dense {
    Dense { weight: values(outputs * inputs, seed), bias: values(outputs, seed + 1) }
}

/// Rows of weights as a precision holds them.
fn rounded_weights(precision: Precision, weights: &[f32], depth: usize) -> Vec<f32> {
    let row = |row: &[f32]| -> Vec<f32> {
        let scale = row.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0;
        let round = |&x: &f32| match precision {
            Precision::F32 | Precision::Bf16x3 => x,
            Precision::F16 => f16::from_f32(x).to_f32(),
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::Int8 => (x * (1.0 / scale)).round_ties_even() * scale,
        };
        row.iter().map(round).collect()
    };
    weights.chunks(depth).flat_map(row).collect()
}

/// How far a product of values up to 1 may be off.
fn tolerance(precision: Precision) -> f64 {
    if precision == Precision::Bf16x3 { 6e-5 } else { 1e-5 }
}

/// Rows of an input as a product in that precision sees them.
fn rounded_input(precision: Precision, input: &[f32], depth: usize) -> Vec<f32> {
    let row = |row: &[f32]| -> Vec<f32> {
        let (low, high) = row.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let (scale, steps) = ((high - low) / 255.0, 255.0 / (high - low));
        let round = |&x: &f32| match precision {
            Precision::F32 | Precision::Bf16x3 | Precision::F16 => x,
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::Int8 => low + scale * ((x - low) * steps).round_ties_even(),
        };
        row.iter().map(round).collect()
    };
    input.chunks(depth).flat_map(|whole| whole.chunks(group_inputs(depth)).flat_map(row).collect::<Vec<_>>()).collect()
}

/// The same as a product on a unit sees them: bf16 is rounded away from zero where two are equally near.
fn on_unit(precision: Precision, input: &[f32], depth: usize) -> Vec<f32> {
    let round = |x: &f32| f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xFFFF_0000);
    match precision {
        Precision::Bf16 => input.iter().map(round).collect(),
        _ => rounded_input(precision, input, depth),
    }
}

#[test]
fn products_of_all_tail_sizes_match_f64_in_every_precision() {
    let columns = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 47, 48, 63, 64, 65];
    for precision in Precision::ALL {
        for depth in [1, 2, 3, 8, 17, 64, 193, 391, 1000] {
            for outputs in columns.into_iter().filter(|&outputs| depth < 100 || outputs % 8 == 1) {
                let dense = dense(outputs, depth, 3);
                let input = values(32 * depth, 5);
                let weights = rounded_weights(precision, &dense.weight, depth);
                let seen = rounded_input(precision, &input, depth);
                let by_vectors = exact_product(&seen, &weights, &dense.bias, depth);
                let unrounded = exact_product(&input, &weights, &dense.bias, depth);
                let by_unit = exact_product(&on_unit(precision, &input, depth), &weights, &dense.bias, depth);
                for kernels in Kernels::every() {
                    let exact = match (kernels.unit(precision), kernels.factors(precision)) {
                        (Some(_), _) => &by_unit,
                        (None, Factors::F32ByBf16) => &unrounded,
                        (None, _) => &by_vectors,
                    };
                    let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                    for rows in 0..=32 {
                        let mut out = vec![f32::NAN; rows * outputs];
                        layer.apply(&input[..rows * depth], None, &mut out);
                        for (i, (&got, &want)) in out.iter().zip(exact).enumerate() {
                            let error = (f64::from(got) - want).abs();
                            assert!(
                                error < tolerance(precision) * (depth as f64 / 64.0).max(1.0),
                                "{kernels:?} {precision} {rows}×{depth}×{outputs} at {i}: {got} for {want}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Rows, depth and columns about the edges of tiles, blocks, pieces of a panel and runs of rows.
const EDGES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (15, 31, 15),
    (16, 32, 16),
    (17, 33, 17),
    (31, 64, 32),
    (32, 65, 33),
    (33, 100, 50),
    (48, 129, 64),
    (3, 391, 65),
    (34, 900, 20),
    (130, 70, 40),
];

#[test]
fn products_on_a_unit_match_f64_in_every_precision() {
    for (rows, depth, outputs) in EDGES {
        let (dense, input) = (dense(outputs, depth, 3), values(rows * depth, 5));
        for precision in Precision::ALL {
            let weights = rounded_weights(precision, &dense.weight, depth);
            let exact = exact_product(&on_unit(precision, &input, depth), &weights, &dense.bias, depth);
            for kernels in Kernels::emulated() {
                let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                let mut out = vec![f32::NAN; rows * outputs];
                layer.apply(&input, None, &mut out);
                for (&got, want) in out.iter().zip(&exact) {
                    let error = (f64::from(got) - want).abs();
                    assert!(
                        error < tolerance(precision) * (depth as f64 / 64.0).max(1.0),
                        "{kernels:?} {precision} {rows}×{depth}×{outputs}: {got} for {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn bytes_have_the_same_bits_on_a_unit_and_the_hardware_those_of_the_emulated_one() {
    let apply = |kernels, precision, (dense, input): (&Dense, &[f32]), depth, activation| {
        let layer = PackedLinear::new(kernels, precision, dense, depth).unwrap();
        let mut out = vec![f32::NAN; input.len() / depth * dense.bias.len()];
        layer.apply(input, activation, &mut out);
        out
    };
    let hardware = Kernels::with(InstructionSet::Amx).ok();
    for (rows, depth, outputs) in EDGES {
        let (dense, input) = (dense(outputs, depth, 3), values(rows * depth, 5));
        let given = (&dense, &input[..]);
        for activation in [None, Some(Activation::Gelu)] {
            for emulated in Kernels::emulated() {
                let vectors = Kernels::with(emulated.vectors()).unwrap();
                let [on_unit, by_vectors] =
                    [emulated, vectors].map(|kernels| apply(kernels, Precision::Int8, given, depth, activation));
                assert_eq!(on_unit, by_vectors, "{vectors:?} {rows}×{depth}×{outputs}");
            }
            for (precision, hardware) in Precision::ALL.into_iter().filter_map(|it| Some((it, hardware?))) {
                let emulated = Kernels::emulated()[0];
                let [real, emulated] =
                    [hardware, emulated].map(|kernels| apply(kernels, precision, given, depth, activation));
                if precision != Precision::F16 {
                    assert_eq!(real, emulated, "{precision} {rows}×{depth}×{outputs}");
                }
            }
        }
    }
}

#[test]
fn f32_in_parts_is_at_least_as_exact_as_f32() {
    let (rows, depth, outputs) = (16, 1536, 33);
    let (dense, input) = (dense(outputs, depth, 9), values(rows * depth, 10));
    let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
    let error = |kernels| {
        let layer = PackedLinear::new(kernels, Precision::F32, &dense, depth).unwrap();
        let mut out = vec![f32::NAN; rows * outputs];
        layer.apply(&input, None, &mut out);
        let squares = out.iter().zip(&exact).map(|(&got, want)| (f64::from(got) - want).powi(2));
        (squares.sum::<f64>() / exact.len() as f64).sqrt()
    };
    let (parts, plain) = (error(Kernels::emulated()[0]), error(Kernels::with(InstructionSet::Portable).unwrap()));
    println!("root of the mean square: in parts {parts:e}, plain {plain:e}");
    assert!(parts <= plain, "{parts:e} in parts, {plain:e} otherwise");
}

#[test]
fn rows_of_zeros_and_of_one_sign_are_rounded_well_and_nan_is_not_hidden() {
    let (depth, outputs) = (33, 5);
    let dense = dense(outputs, depth, 3);
    for precision in Precision::ALL {
        let mut input = vec![0f32; depth];
        input.extend(values(depth, 1).iter().map(|x| x.abs() + 1.0));
        input.extend(values(depth, 2).iter().map(|x| -x.abs() - 1.0));
        let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for kernels in Kernels::every().into_iter().chain(Kernels::emulated()) {
                for at in [0, 16, depth - 1] {
                    let mut input = input.clone();
                    input.extend_from_within(..depth);
                    input[3 * depth + at] = broken;
                    let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
                    let mut out = vec![0f32; 4 * outputs];
                    layer.apply(&input, None, &mut out);
                    for (got, want) in out.iter().zip(&exact) {
                        assert!((f64::from(*got) - want).abs() < 0.1, "{kernels:?} {precision}: {got} for {want}");
                    }
                    let last = &out[3 * outputs..];
                    assert!(last.iter().all(|x| !x.is_finite()), "{kernels:?} {precision}: {last:?}");
                }
            }
        }
    }
}

#[test]
fn weights_that_a_precision_cannot_hold_are_errors() {
    let kernels = Kernels::detect();
    for precision in [Precision::F16, Precision::Bf16, Precision::Int8] {
        for broken in [f32::NAN, f32::INFINITY] {
            let dense = Dense { weight: vec![1.0, broken, 2.0], bias: Vec::new() };
            assert!(PackedLinear::new(kernels, precision, &dense, 3).is_err(), "{precision}");
        }
    }
    let large = Dense { weight: vec![1e5, -1e5], bias: Vec::new() };
    assert!(PackedLinear::new(kernels, Precision::F16, &large, 2).is_err());
    assert!(PackedLinear::new(kernels, Precision::Bf16, &large, 2).is_ok());
    let long = Dense { weight: vec![1.0; MOST_BYTES + 1], bias: Vec::new() };
    assert!(PackedLinear::new(kernels, Precision::Int8, &long, MOST_BYTES + 1).is_err());
}

#[test]
fn long_sums_match_f64_closely() {
    let (rows, outputs) = (15, 33);
    for kernels in Kernels::available() {
        for depth in [191, 192, 193, 384, 385, 1000, 3072] {
            let dense = dense(outputs, depth, 9);
            let layer = PackedLinear::new(kernels, Precision::F32, &dense, depth).unwrap();
            let input = values(rows * depth, 10);
            let mut out = vec![f32::NAN; rows * outputs];
            layer.apply(&input, None, &mut out);
            let exact = exact_product(&input, &dense.weight, &dense.bias, depth);
            let error = out.iter().zip(&exact).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max);
            // Summed up in one go, the longest has an error of 1.3e-4.
            assert!(error < 5e-6 + 4e-7 * (depth as f64).sqrt(), "{kernels:?} depth {depth}: {error:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_it_is_computed_with() {
    let (depth, outputs, rows) = (100, 70, 61);
    let dense = dense(outputs, depth, 7);
    let input = values(rows * depth, 8);
    for (kernels, precision) in Kernels::every().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it))) {
        let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
        for activation in [None, Some(Activation::Gelu), Some(Activation::GeluTanh), Some(Activation::Relu)] {
            let mut all = vec![0f32; rows * outputs];
            layer.apply(&input, activation, &mut all);
            for count in 1..=rows {
                let skipped = rows - count;
                let mut some = vec![0f32; count * outputs];
                layer.apply(&input[skipped * depth..], activation, &mut some);
                assert_eq!(some, all[skipped * outputs..], "{kernels:?} {precision} {activation:?}: {count} rows");
            }
        }
    }
}

#[test]
fn a_row_of_great_depth_has_the_same_bits_in_blocks() {
    let (depth, outputs, rows) = (1000, 33, 130);
    let dense = dense(outputs, depth, 7);
    let input = values(rows * depth, 8);
    for (kernels, precision) in Kernels::every().into_iter().flat_map(|set| Precision::ALL.map(|it| (set, it))) {
        let layer = PackedLinear::new(kernels, precision, &dense, depth).unwrap();
        let mut all = vec![0f32; rows * outputs];
        layer.apply(&input, Some(Activation::Gelu), &mut all);
        for row in [0, 1, 63, 64, 65, rows - 1] {
            let mut alone = vec![0f32; outputs];
            layer.apply(&input[row * depth..][..depth], Some(Activation::Gelu), &mut alone);
            assert_eq!(alone, all[row * outputs..][..outputs], "{kernels:?} {precision}: row {row}");
        }
    }
}

#[test]
fn parts_side_by_side_with_factors_and_a_residual_match_f64() {
    let (depth, rows) = (24, 19);
    let parts = [dense(20, depth, 1), Dense { bias: Vec::new(), ..dense(13, depth, 2) }, dense(9, depth, 3)];
    let factors = [0.25f32, 1.0, -3.0];
    let outputs = 42;
    let input = values(rows * depth, 4);
    let residual = values(rows * (outputs + 3), 5);
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for (part, factor) in parts.iter().zip(factors) {
        weight.extend(part.weight.iter().map(|w| w * factor));
        let filled = if part.bias.is_empty() { vec![0.0; 13] } else { part.bias.clone() };
        bias.extend(filled.iter().map(|b| b * factor));
    }
    let exact = exact_product(&input, &weight, &bias, depth);
    for (kernels, precision) in
        Kernels::available().into_iter().flat_map(|set| [Precision::F32, Precision::F16].map(|it| (set, it)))
    {
        let packing = Packing { kernels, precision };
        let mut arena = Arena::with_room(packing.room(outputs, depth));
        let parts: Vec<_> = parts.iter().zip(factors).collect();
        let linear = Linear::pack(packing, &mut arena, &parts, depth).unwrap();
        let tolerance = if precision == Precision::F32 { 1e-5 } else { 1e-2 };
        // A wider output, so that a store beyond the columns shows.
        let mut out = vec![7f32; rows * (outputs + 5)];
        for panel in 0..linear.panels().count {
            for rows in [3..11, 0..3, 11..rows] {
                // SAFETY: all three matrices have these rows, and `out` is ours.
                let task = unsafe {
                    LinearTask::new(
                        (&linear, &arena),
                        (input.as_ptr(), depth),
                        (out.as_mut_ptr(), outputs + 5),
                        Epilogue::Residual(residual.as_ptr(), outputs + 3),
                        rows,
                    )
                };
                kernels.run(task.by_vectors().panels(panel..panel + 1, None));
            }
        }
        for (row, got) in out.chunks(outputs + 5).enumerate() {
            for (column, &got) in got.iter().enumerate() {
                if column >= outputs {
                    assert_eq!(got, 7.0, "{kernels:?} wrote beyond the columns");
                } else {
                    let want = exact[row * outputs + column] + f64::from(residual[row * (outputs + 3) + column]);
                    assert!((f64::from(got) - want).abs() < tolerance, "{kernels:?} {row},{column}");
                }
            }
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_errors() {
    let kernels = Kernels::detect();
    let good = dense(4, 6, 1);
    for (dense, inputs) in [
        (Dense { weight: vec![0.0; 23], bias: Vec::new() }, 6),
        (Dense { weight: good.weight.clone(), bias: vec![0.0; 3] }, 6),
        (Dense::default(), 6),
        (good.clone(), 0),
    ] {
        assert!(PackedLinear::new(kernels, Precision::F32, &dense, inputs).is_err(), "{dense:?}");
    }
    let mut small = Arena::with_room(8);
    assert!(Linear::pack(Packing { kernels, precision: Precision::F32 }, &mut small, &[(&good, 1.0)], 6).is_err());
}
