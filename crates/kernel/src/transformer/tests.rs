//! Whole passes, by rows and by columns.

use std::sync::Arc;

use super::way::{Schedule, Way, pieces};
use super::*;
use crate::dispatch::Kernels;
use crate::error::Error;
use crate::linear::Dense;
use crate::mask::Mask;
use crate::math::Activation;
use crate::position_bias::PositionBias;
use crate::precision::Precision;
use crate::rotary::Rotary;
use crate::testing::values;

const SHAPE: Shape = Shape {
    hidden: 40,
    heads: 2,
    intermediate: 70,
    layers: 2,
    activation: Activation::GeluTanh,
    epsilon: 1e-5,
    style: Style::BERT,
};
/// As T5 is made, with heads wider than the hidden states.
const T5: Shape = Shape {
    style: Style {
        placement: NormPlacement::Before,
        rms_norm: true,
        score_scale: Some(1.0),
        gated: true,
        head_size: Some(24),
        ..Style::BERT
    },
    ..SHAPE
};
/// As Gemma and Qwen are made: norms around and of heads, fewer heads of keys, rotary positions, a window.
const GEMMA: Shape = Shape {
    heads: 4,
    activation: Activation::Silu,
    style: Style {
        placement: NormPlacement::Around,
        rms_norm: true,
        score_scale: Some(0.3),
        gated: true,
        head_size: Some(12),
        key_heads: Some(2),
        experts: None,
    },
    ..SHAPE
};
/// As NomicBERT v2 and ALBERT are made: experts, narrower tables, a block more than once.
const EXPERTS: Shape =
    Shape { style: Style { experts: Some(ExpertShape { count: 3, taken: 2, every: 2 }), ..Style::BERT }, ..SHAPE };

fn block(shape: Shape, layer: usize) -> Block {
    let Shape { hidden, intermediate, style, .. } = shape;
    let seed = 100 * layer as u64;
    let (width, key_width) = (shape.attention_width(), shape.key_width());
    let dense = |outputs: usize, inputs: usize, seed: u64| Dense {
        weight: values(outputs * inputs, seed).iter().map(|x| x * 0.3).collect(),
        bias: values(outputs, seed + 1),
    };
    let around = |seed| (style.placement == NormPlacement::Around).then(|| norm(shape, hidden, seed));
    let is_grouped = style.key_heads.is_some();
    let many = |outputs, inputs, seed: u64| (0..3).map(|at| dense(outputs, inputs, seed + 2 * at)).collect();
    Block {
        query: dense(width, hidden, seed),
        key: dense(key_width, hidden, seed + 10),
        value: dense(key_width, hidden, seed + 20),
        head_norms: is_grouped.then(|| HeadNorms {
            query: norm(shape, shape.head_size(), seed + 25),
            key: norm(shape, shape.head_size(), seed + 27),
        }),
        rotary: is_grouped.then_some(layer % 2),
        mask: if is_grouped && layer == 0 { Mask { before: 9, after: 4 } } else { Mask::FULL },
        attention_output: dense(hidden, width, seed + 30),
        // One may be left out.
        attention_norm: (!is_grouped || layer > 0).then(|| norm(shape, hidden, seed + 40)),
        attention_second_norm: shape.style.experts.map(|_| norm(shape, hidden, seed + 43)),
        attention_output_norm: around(seed + 45),
        up: dense(intermediate, hidden, seed + 50),
        gate: style.gated.then(|| dense(intermediate, hidden, seed + 55)),
        down: dense(hidden, intermediate, seed + 60),
        experts: shape.experts(layer).map(|_| Experts {
            router: dense(3, hidden, seed + 65),
            up: many(intermediate, hidden, seed + 80),
            down: many(hidden, intermediate, seed + 90),
            bias: values(hidden, seed + 99),
        }),
        output_norm: norm(shape, hidden, seed + 70),
        feed_forward_norm: around(seed + 75),
    }
}

fn norm(shape: Shape, width: usize, seed: u64) -> Norm {
    let beta = if shape.style.rms_norm { 0 } else { width };
    Norm { gamma: values(width, seed), beta: values(beta, seed + 1) }
}

fn outer(shape: Shape) -> Outer {
    let tables = vec![values(300 * shape.hidden, 3)];
    if shape.style.experts.is_some() {
        let narrow = 24;
        let weight = values(shape.hidden * narrow, 8);
        return Outer {
            tables: vec![values(300 * narrow, 3)],
            embedding_norm: Some(norm(shape, narrow, 1)),
            embedding_projection: Some(Dense { weight, bias: values(shape.hidden, 9) }),
            order: vec![0, 1, 1, 0],
            ..Outer::default()
        };
    }
    match shape.style.placement {
        NormPlacement::After => {
            Outer { tables, embedding_norm: Some(norm(shape, shape.hidden, 1)), ..Outer::default() }
        }
        NormPlacement::Before => Outer {
            tables,
            position_bias: Some(PositionBias::Learned { values: values(32 * shape.heads, 4), max_distance: 128 }),
            final_norm: Some(norm(shape, shape.hidden, 5)),
            ..Outer::default()
        },
        NormPlacement::Around => Outer {
            tables,
            position_bias: Some(PositionBias::alibi(shape.heads)),
            rotaries: vec![Rotary::of_base(50.0, 12), Rotary::of_base(9000.0, 8)],
            final_norm: Some(norm(shape, shape.hidden, 5)),
            ..Outer::default()
        },
    }
}

fn model(kernels: Kernels, precision: Precision, shape: Shape) -> Arc<Transformer> {
    let block = |layer| Ok::<_, Error>(block(shape, layer));
    Arc::new(Transformer::new(kernels, precision, shape, outer(shape), block).unwrap())
}

/// Every kernel with blocks of each make, in every precision.
fn cases() -> impl Iterator<Item = (Kernels, Precision, Shape)> {
    let shapes =
        Precision::ALL.into_iter().flat_map(|precision| [SHAPE, T5, GEMMA, EXPERTS].map(|shape| (precision, shape)));
    let kernels = || Kernels::every().into_iter().chain(Kernels::emulated().into_iter().take(1));
    shapes.flat_map(move |(precision, shape)| kernels().map(move |k| (k, precision, shape)))
}

/// Two tests, so that they run beside each other.
#[test]
fn both_schedules_give_the_same_bits_for_any_number_of_rows() {
    both_schedules_give_the_same_bits(2);
}

#[test]
fn both_schedules_give_the_same_bits_on_three_threads() {
    both_schedules_give_the_same_bits(3);
}

fn both_schedules_give_the_same_bits(threads: usize) {
    for (kernels, precision, shape) in cases() {
        let model = model(kernels, precision, shape);
        let mut one = Executor::new(Arc::clone(&model), 1).unwrap();
        let mut several = Executor::new(Arc::clone(&model), threads).unwrap();
        let way = Way::new(&model, model.unit());
        let few = way.few_rows * threads;
        // An emulated unit is slow.
        let most = if way.unit.is_some() { way.block_rows + 1 } else { 2 * way.block_rows + 1 };
        for length in [1, 2, 5, 13, 30, few - 1, few, most] {
            let rows: Vec<u32> = (0..length as u32).map(|i| i * 37 % 300).collect();
            let expected = one.forward(&[&rows], &[length]).unwrap();
            assert!(expected.iter().all(|x| x.is_finite()));
            let got = several.forward(&[&rows], &[length]).unwrap();
            assert_eq!(got, expected, "{kernels:?} {precision}, {threads} threads, {length} rows");
            // Cut in two, the second half starts within a tile and a block of the others.
            let (left, right) = (length / 3, length - length / 3);
            let cut = several.forward(&[&rows], &[left, right]).unwrap();
            let alone = one.forward(&[&rows[left..]], &[right]).unwrap();
            assert_eq!(cut[left * SHAPE.hidden..], alone, "{kernels:?} {precision}, {threads} threads, {length} rows");
        }
    }
}

#[test]
fn few_rows_are_shared_out_by_columns_and_many_by_rows() {
    for precision in Precision::ALL {
        let few = Way::new(&model(Kernels::detect(), precision, SHAPE), None).few_rows;
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
    let build_of = |shape_of: Shape, shape: Shape, table: usize, change: &dyn Fn(&mut Block)| {
        let outer = Outer { tables: vec![vec![0.0; table]], ..outer(shape_of) };
        Transformer::new(kernels, Precision::F32, shape, outer, |layer| {
            let mut block = block(shape_of, layer);
            change(&mut block);
            Ok::<_, Error>(block)
        })
        .map(|_| ())
    };
    let build = |shape, table, change: &dyn Fn(&mut Block)| build_of(SHAPE, shape, table, change);
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
        Shape { style: Style { placement: NormPlacement::Around, ..Style::default() }, ..SHAPE },
        Shape { style: Style { key_heads: Some(1), ..Style::default() }, ..SHAPE },
        Shape { style: Style { key_heads: Some(0), ..Style::default() }, ..SHAPE },
        Shape { style: Style { key_heads: Some(4), ..Style::default() }, ..SHAPE },
        EXPERTS,
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
    let gemma = |change: &dyn Fn(&mut Block)| build_of(GEMMA, GEMMA, table, change);
    gemma(&|_| ()).unwrap();
    assert!(gemma(&|block| block.rotary = Some(2)).is_err(), "no such rotary");
    assert!(gemma(&|block| block.feed_forward_norm = None).is_err());
    assert!(gemma(&|block| block.key = block.query.clone()).is_err(), "as many heads of keys");
    assert!(gemma(&|block| block.head_norms.as_mut().unwrap().key.gamma.push(0.0)).is_err());
    let experts = |change: &dyn Fn(&mut Block)| build_of(EXPERTS, EXPERTS, 3 * 24, change);
    experts(&|_| ()).unwrap();
    for change in [
        (|experts| drop(experts.up.pop())) as fn(&mut Experts),
        |it| it.bias.push(0.0),
        |it| it.router.weight.truncate(9),
    ] {
        assert!(experts(&|block| block.experts.iter_mut().for_each(change)).is_err());
    }
    assert!(experts(&|block| block.experts = None).is_err());
}

#[test]
fn what_a_mask_hides_changes_nothing() {
    let style = Style { key_heads: Some(2), ..GEMMA.style };
    for (kernels, precision, shape) in cases().filter(|(_, _, shape)| shape.style.key_heads == style.key_heads) {
        for mask in [Mask::CAUSAL, Mask { before: 20, after: 3 }, Mask::around(6)] {
            let block = |layer| Ok::<_, Error>(Block { mask, ..block(shape, layer) });
            let shape = Shape { layers: 1, ..shape };
            let model = Transformer::new(kernels, precision, shape, outer(shape), block).unwrap();
            let mut executor = Executor::new(Arc::new(model), 2).unwrap();
            let length = 90;
            let rows: Vec<u32> = (0..length as u32).map(|i| i * 37 % 299).collect();
            let before = executor.forward(&[&rows], &[length]).unwrap();
            for changed in [0, 40, 89] {
                let mut rows = rows.clone();
                rows[changed] = 299;
                let after = executor.forward(&[&rows], &[length]).unwrap();
                for (query, (before, after)) in before.chunks(shape.hidden).zip(after.chunks(shape.hidden)).enumerate()
                {
                    let sees = mask.keys(query, length).contains(&changed);
                    assert_eq!(before != after, sees, "{kernels:?} {precision} {mask:?}: {query} sees {changed}");
                }
            }
        }
    }
}
