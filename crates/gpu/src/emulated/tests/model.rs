//! A small random model with experts. `tests/stand_in.rs` has it too.

use text2vec_kernel::testing::values;
use text2vec_kernel::{
    Activation, Block, Dense, ExpertShape, Experts, Mask, Norm, NormPlacement, Outer, Result, Shape, Style,
};

/// Rows of its table.
pub(crate) const VOCABULARY: usize = 40;

/// Its second block has experts, which `router` moves by what it adds to their scores: with `mixed`, each row has its own.
pub(crate) fn model(
    experts: (usize, usize),
    (mixed, router): (bool, &[f32]),
    (placement, head_size): (NormPlacement, usize),
) -> (Shape, Outer, impl FnMut(usize) -> Result<Block>) {
    let (hidden, intermediate, heads) = (24, 36, 2);
    let (count, taken) = experts;
    let style = Style {
        placement,
        head_size: Some(head_size),
        experts: Some(ExpertShape { count, taken, every: 2 }),
        ..Style::default()
    };
    let shape = Shape { hidden, heads, intermediate, layers: 2, activation: Activation::Gelu, epsilon: 1e-5, style };
    let norm = move || Norm { gamma: vec![1.0; hidden], beta: vec![0.25; hidden] };
    let is_before = placement == NormPlacement::Before;
    let outer = Outer {
        tables: vec![values(VOCABULARY * hidden, 1)],
        embedding_norm: (!is_before).then(norm),
        final_norm: is_before.then(norm),
        ..Outer::default()
    };
    let mut seed = 1;
    let mut dense = move |outputs: usize, inputs: usize| {
        seed += 2;
        let weight = values(outputs * inputs, seed).iter().map(|value| value * 0.4).collect();
        Dense { weight, bias: values(outputs, seed + 1) }
    };
    let biases = router.to_vec();
    let block = move |layer: usize| {
        let width = heads * head_size;
        let mut router = dense(count, hidden);
        router.weight.iter_mut().for_each(|weight| *weight *= if mixed { 4.0 } else { 0.0 });
        router.bias = biases.clone();
        Ok(Block {
            query: dense(width, hidden),
            key: dense(width, hidden),
            value: dense(width, hidden),
            mask: Mask::FULL,
            attention_output: dense(hidden, width),
            attention_norm: Some(norm()),
            up: dense(intermediate, hidden),
            down: dense(hidden, intermediate),
            experts: (layer == 1).then(|| Experts {
                router,
                up: (0..count).map(|_| dense(intermediate, hidden)).collect(),
                down: (0..count).map(|_| dense(hidden, intermediate)).collect(),
                bias: values(hidden, 2),
            }),
            output_norm: norm(),
            ..Block::default()
        })
    };
    (shape, outer, block)
}

/// As many sequences of this length, each with tokens of its own.
pub(crate) fn texts(sequences: usize, length: usize) -> (Vec<u32>, Vec<usize>) {
    let ids = values(sequences * length, 3).iter().map(|x| ((x + 1.0) / 2.0 * VOCABULARY as f32) as u32).collect();
    (ids, vec![length; sequences])
}
