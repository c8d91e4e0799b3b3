//! Whole passes, by rows and by columns.

use std::sync::Arc;

use super::way::{BLOCK_ROWS, Schedule, Way, few_rows, pieces};
use super::*;
use crate::dispatch::Kernels;
use crate::error::Error;
use crate::linear::Dense;
use crate::math::Activation;
use crate::position_bias::PositionBias;
use crate::precision::Precision;
use crate::testing::values;

const SHAPE: Shape = Shape {
    hidden: 40,
    heads: 2,
    intermediate: 70,
    layers: 2,
    activation: Activation::GeluTanh,
    epsilon: 1e-5,
    style: Style { pre_norm: false, rms_norm: false, unscaled: false, gated: false, head_size: None },
};
/// As T5 is made, with heads wider than the hidden states.
const T5: Shape = Shape {
    style: Style { pre_norm: true, rms_norm: true, unscaled: true, gated: true, head_size: Some(24) },
    ..SHAPE
};

fn block(shape: Shape, seed: u64) -> Block {
    let Shape { hidden, intermediate, style, .. } = shape;
    let width = shape.attention_width();
    let dense = |outputs: usize, inputs: usize, seed: u64| Dense {
        weight: values(outputs * inputs, seed).iter().map(|x| x * 0.3).collect(),
        bias: values(outputs, seed + 1),
    };
    Block {
        query: dense(width, hidden, seed),
        key: dense(width, hidden, seed + 10),
        value: dense(width, hidden, seed + 20),
        attention_output: dense(hidden, width, seed + 30),
        attention_norm: norm(shape, seed + 40),
        up: dense(intermediate, hidden, seed + 50),
        gate: style.gated.then(|| dense(intermediate, hidden, seed + 55)),
        down: dense(hidden, intermediate, seed + 60),
        output_norm: norm(shape, seed + 70),
    }
}

fn norm(shape: Shape, seed: u64) -> Norm {
    let beta = if shape.style.rms_norm { 0 } else { shape.hidden };
    Norm { gamma: values(shape.hidden, seed), beta: values(beta, seed + 1) }
}

fn outer(shape: Shape) -> Outer {
    let tables = vec![values(300 * shape.hidden, 3)];
    match shape.style.pre_norm {
        false => Outer { tables, embedding_norm: Some(norm(shape, 1)), ..Outer::default() },
        true => Outer {
            tables,
            embedding_norm: None,
            position_bias: Some(PositionBias { values: values(32 * shape.heads, 4), max_distance: 128 }),
            final_norm: Some(norm(shape, 5)),
        },
    }
}

fn model(kernels: Kernels, precision: Precision, shape: Shape) -> Arc<Transformer> {
    let block = |layer| Ok::<_, Error>(block(shape, 100 * layer as u64));
    Arc::new(Transformer::new(kernels, precision, shape, outer(shape), block).unwrap())
}

/// Every kernel with BERT's blocks and with T5's, in every precision.
fn cases() -> impl Iterator<Item = (Kernels, Precision, Shape)> {
    let shapes = Precision::ALL.into_iter().flat_map(|precision| [SHAPE, T5].map(|shape| (precision, shape)));
    let kernels = || Kernels::every().into_iter().chain(Kernels::emulated().into_iter().take(1));
    shapes.flat_map(move |(precision, shape)| kernels().map(move |k| (k, precision, shape)))
}

#[test]
fn both_schedules_give_the_same_bits_for_any_number_of_rows() {
    for (kernels, precision, shape) in cases() {
        let model = model(kernels, precision, shape);
        let mut one = Executor::new(Arc::clone(&model), 1).unwrap();
        for threads in [2, 3] {
            let mut several = Executor::new(Arc::clone(&model), threads).unwrap();
            let few = Way::new(&model, model.unit()).few_rows * threads;
            for length in [1, 2, 5, 13, 30, few - 1, few, 2 * BLOCK_ROWS + 1, 250] {
                let rows: Vec<u32> = (0..length as u32).map(|i| i * 37 % 300).collect();
                let expected = one.forward(&[&rows], &[length]).unwrap();
                assert!(expected.iter().all(|x| x.is_finite()));
                let got = several.forward(&[&rows], &[length]).unwrap();
                assert_eq!(got, expected, "{kernels:?} {precision}, {threads} threads, {length} rows");
                // Cut in two, the second half starts within a tile and a block of the others.
                let (left, right) = (length / 3, length - length / 3);
                let cut = several.forward(&[&rows], &[left, right]).unwrap();
                let alone = one.forward(&[&rows[left..]], &[right]).unwrap();
                assert_eq!(
                    cut[left * SHAPE.hidden..],
                    alone,
                    "{kernels:?} {precision}, {threads} threads, {length} rows"
                );
            }
        }
    }
}

#[test]
fn few_rows_are_shared_out_by_columns_and_many_by_rows() {
    for precision in Precision::ALL {
        let few = few_rows(precision, false);
        assert_eq!(Schedule::for_rows(1, 1, few), Schedule::Rows);
        assert_eq!(Schedule::for_rows(2 * few - 1, 2, few), Schedule::Columns);
        assert_eq!(Schedule::for_rows(2 * few, 2, few), Schedule::Rows);
    }
}

#[test]
fn pieces_are_equal_shares_where_they_can_be() {
    assert_eq!([12, 36, 48, 24, 72].map(|panels| pieces(panels, 2)), [12, 12, 8, 8, 8]);
    assert_eq!(pieces(12, 3), 12);
    for (panels, threads) in [(1, 2), (2, 2), (7, 2), (12, 5), (12, 16), (13, 3)] {
        let pieces = pieces(panels, threads);
        assert!((1..=panels).contains(&pieces), "{panels} panels, {threads} threads: {pieces}");
    }
}

#[test]
fn scratch_memory_of_a_longer_pass_does_not_change_a_shorter_one() {
    for (kernels, precision, shape) in cases() {
        let mut executor = Executor::new(model(kernels, precision, shape), 2).unwrap();
        let rows: Vec<u32> = (0..200).collect();
        let before = executor.forward(&[&rows[..20]], &[20]).unwrap();
        executor.forward(&[&rows], &[200]).unwrap();
        assert_eq!(executor.forward(&[&rows[..20]], &[20]).unwrap(), before);
    }
}

#[test]
fn wrong_indices_and_lengths_are_errors() {
    let mut executor = Executor::new(model(Kernels::detect(), Precision::Int8, SHAPE), 2).unwrap();
    assert!(executor.forward(&[&[0, 1, 299]], &[3]).is_ok());
    assert!(executor.forward(&[&[0, 1, 300]], &[3]).is_err(), "no such row");
    assert!(executor.forward(&[&[0, 1, 2]], &[2]).is_err(), "a token too many");
    assert!(executor.forward(&[&[0, 1], &[0, 1]], &[2]).is_err(), "a table too many");
    assert!(executor.forward(&[], &[2]).is_err(), "no table");
    assert!(executor.forward(&[&[]], &[0, 0]).unwrap().is_empty());
}

#[test]
fn parameters_that_do_not_fit_the_shape_are_errors() {
    let kernels = Kernels::detect();
    let build = |shape: Shape, table: usize, change: &dyn Fn(&mut Block)| {
        let outer = Outer { tables: vec![vec![0.0; table]], ..outer(SHAPE) };
        Transformer::new(kernels, Precision::F32, shape, outer, |layer| {
            let mut block = block(SHAPE, layer as u64);
            change(&mut block);
            Ok::<_, Error>(block)
        })
        .map(|_| ())
    };
    let table = 3 * SHAPE.hidden;
    build(SHAPE, table, &|_| ()).unwrap();
    assert!(build(SHAPE, table + 1, &|_| ()).is_err());
    assert!(build(SHAPE, 0, &|_| ()).is_err());
    for shape in [
        Shape { heads: 3, ..SHAPE },
        Shape { heads: 0, ..SHAPE },
        Shape { hidden: 0, ..SHAPE },
        Shape { hidden: usize::MAX - 1, ..SHAPE },
        Shape { layers: usize::MAX, ..SHAPE },
        Shape { intermediate: 71, ..SHAPE },
        Shape { style: Style { head_size: Some(0), ..Style::default() }, ..SHAPE },
        Shape { style: Style { head_size: Some(21), ..Style::default() }, ..SHAPE },
        Shape { style: Style { rms_norm: true, ..Style::default() }, ..SHAPE },
        Shape { style: Style { gated: true, ..Style::default() }, ..SHAPE },
    ] {
        assert!(build(shape, table, &|_| ()).is_err(), "{shape:?}");
    }
    let changes: [&dyn Fn(&mut Block); 6] = [
        &|block| block.query.weight.truncate(40),
        &|block| block.key.bias.truncate(39),
        &|block| block.up.weight.extend([0.0; 40]),
        &|block| std::mem::swap(&mut block.up.bias, &mut block.down.bias),
        &|block| block.output_norm.beta.push(0.0),
        &|block| block.gate = Some(block.up.clone()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert!(build(SHAPE, table, change).is_err(), "change {index}");
    }
}
