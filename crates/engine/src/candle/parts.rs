//! Operations of both executors: masks, turning, and the choice of experts.

use candle_core::{D, Device, Result as CandleResult, Tensor};

use text2vec_kernel::{Activation, Mask, Rotary};

/// An activation's values.
pub(super) fn activate(activation: Activation, values: &Tensor) -> CandleResult<Tensor> {
    match activation {
        Activation::Gelu => values.gelu_erf(),
        Activation::GeluTanh => values.gelu(),
        Activation::Relu => values.relu(),
        Activation::Silu => values.silu(),
    }
}

/// What is added to the scores of each query and key of a sequence, `[1, 1, length, length]`: 0, or -∞ for what is hidden.
pub(super) fn hiding(mask: Mask, length: usize, device: &Device) -> CandleResult<Tensor> {
    let of_query = |query| {
        let seen = mask.keys(query, length);
        (0..length).map(move |key| if seen.contains(&key) { 0f32 } else { f32::NEG_INFINITY })
    };
    Tensor::from_vec((0..length).flat_map(of_query).collect(), (1, 1, length, length), device)
}

/// Cosines and sines of some positions, `[positions, 1, pairs]` each.
pub(super) fn turns(rotary: &Rotary, positions: &[u32], device: &Device) -> CandleResult<[Tensor; 2]> {
    let pairs = rotary.frequencies.len();
    let longest = positions.iter().max().map_or(0, |&position| position as usize + 1);
    let table = Tensor::from_vec(rotary.table(longest), (longest, 2, pairs), device)?;
    let rows = table.index_select(&Tensor::new(positions, device)?, 0)?;
    Ok([rows.narrow(1, 0, 1)?, rows.narrow(1, 1, 1)?])
}

/// Turns heads, `[tokens, heads, size]`, by what [`turns`] gives.
pub(super) fn turn(heads: &Tensor, [cosines, sines]: &[Tensor; 2]) -> CandleResult<Tensor> {
    let (pairs, size) = (cosines.dim(D::Minus1)?, heads.dim(D::Minus1)?);
    let (first, second) = (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?);
    let mut parts = vec![
        (first.broadcast_mul(cosines)? - second.broadcast_mul(sines)?)?,
        (second.broadcast_mul(cosines)? + first.broadcast_mul(sines)?)?,
    ];
    if size > 2 * pairs {
        parts.push(heads.narrow(2, 2 * pairs, size - 2 * pairs)?);
    }
    Tensor::cat(&parts, 2)
}

/// Of each row's scores, `[tokens, experts]`, the probabilities of the likeliest so many experts, 0 for the others.
pub(super) fn shares(scores: &Tensor, taken: usize) -> CandleResult<Tensor> {
    let probabilities = candle_nn::ops::softmax_last_dim(scores)?;
    let mut rows = probabilities.to_vec2::<f32>()?;
    for row in &mut rows {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order[taken.min(row.len())..].iter().for_each(|&expert| row[expert] = 0.0);
    }
    Tensor::new(rows, scores.device())
}
