//! Whole passes, whatever multiplies.

use std::sync::Arc;

use super::*;
use crate::dispatch::Kernels;
use crate::error::Error;
use crate::testing::values;
use crate::transformer::Norm;

fn codes(count: usize, seed: u64) -> Vec<i8> {
    values(count, seed).into_iter().map(|x| (x * 127.0) as i8).collect()
}

fn model(kernels: (Kernels, Arithmetic), shape: QuantizedShape) -> Arc<QuantizedTransformer> {
    let QuantizedShape { hidden, intermediate, .. } = shape;
    let dense = |seed: u64, inputs: usize, outputs: usize| QuantizedDense {
        codes: codes(inputs * outputs, seed),
        scale: 0.01,
        zero_point: seed as i32 % 5 - 2,
        bias: values(outputs, seed + 1),
    };
    let norm = |seed: u64| Norm { gamma: values(hidden, seed), beta: values(hidden, seed + 1) };
    let table =
        |seed: u64, rows: usize| QuantizedTable { codes: codes(rows * hidden, seed), scale: 0.02, zero_point: 3 };
    let packed = QuantizedTransformer::new(kernels, shape, vec![table(1, 50), table(2, 700)], norm(3), 2, |layer| {
        let seed = 100 * layer as u64;
        Ok::<_, Error>(QuantizedBlock {
            query: dense(seed + 10, hidden, hidden),
            key: dense(seed + 12, hidden, hidden),
            value: dense(seed + 14, hidden, hidden),
            query_scale: None,
            key_scale: None,
            score_scale: ScoreScale::Divide(((hidden / shape.heads) as f32).sqrt()),
            attention_output: dense(seed + 16, hidden, hidden),
            attention_norm: norm(seed + 18),
            up: dense(seed + 20, hidden, intermediate),
            down: dense(seed + 22, intermediate, hidden),
            output_norm: norm(seed + 24),
        })
    });
    Arc::new(packed.unwrap())
}

#[test]
fn vectors_and_a_unit_give_the_same_bits_on_any_number_of_threads() {
    // A head narrower than a step of a unit, and one of an odd width, with matrices that end within a step.
    for (hidden, heads, intermediate) in [(64, 2, 96), (60, 4, 100)] {
        let shape = QuantizedShape { hidden, heads, intermediate, epsilon: 1e-12 };
        let lengths = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 70, 130];
        let mut expected: [Vec<Vec<f32>>; 2] = Default::default();
        let sets = Kernels::every().into_iter().chain(Kernels::emulated());
        for (kernels, arithmetic) in sets.flat_map(|set| Arithmetic::ALL.map(|arithmetic| (set, arithmetic))) {
            let model = model((kernels, arithmetic), shape);
            let expected = &mut expected[arithmetic as usize];
            for threads in [1, 2, 3] {
                let mut executor = QuantizedExecutor::new(Arc::clone(&model), threads).unwrap();
                for (i, &tokens) in lengths.iter().enumerate() {
                    let words: Vec<u32> = (0..tokens).map(|i| i * 31 % 50).collect();
                    let positions: Vec<u32> = (0..tokens).collect();
                    let mut states = Vec::new();
                    executor.forward(&[&words, &positions], &mut states).unwrap();
                    assert!(states.len() == tokens as usize * hidden && states.iter().all(|x| x.is_finite()));
                    match expected.get(i) {
                        None => expected.push(states),
                        Some(expected) => {
                            assert_eq!(&states, expected, "{kernels:?}, {threads} threads, {tokens} tokens")
                        }
                    }
                }
            }
        }
    }
}
