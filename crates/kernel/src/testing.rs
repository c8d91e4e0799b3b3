//! What the kernels are tested against: plain loops in f64, and repeatable values.

/// Repeatable values in -1..1.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..8 + count).map(|_| next()).skip(8).collect()
}

/// `input · weightᵀ + bias`; an empty bias is none.
pub fn exact_product<T: Copy + Into<f64>>(input: &[T], weight: &[f32], bias: &[f32], depth: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in input.chunks_exact(depth) {
        for (output, weight) in weight.chunks_exact(depth).enumerate() {
            let sum: f64 = row.iter().zip(weight).map(|(&x, &w)| x.into() * f64::from(w)).sum();
            out.push(sum + bias.get(output).copied().map_or(0.0, f64::from));
        }
    }
    out
}

/// LayerNorm of rows as wide as gamma, in place.
pub fn exact_layer_norm(rows: &mut [f64], gamma: &[f32], beta: &[f32], epsilon: f64) {
    let width = gamma.len();
    for row in rows.chunks_exact_mut(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
        for ((x, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
            *x = (*x - mean) / (variance + epsilon).sqrt() * f64::from(gamma) + f64::from(beta);
        }
    }
}

/// Root-mean-square norm of rows as wide as gamma, in place.
pub fn exact_rms_norm(rows: &mut [f64], gamma: &[f32], epsilon: f64) {
    let width = gamma.len();
    for row in rows.chunks_exact_mut(width) {
        let squares = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
        for (x, &gamma) in row.iter_mut().zip(gamma) {
            *x = *x / (squares + epsilon).sqrt() * f64::from(gamma);
        }
    }
}

/// Attention of one sequence over `[query | key | value]` rows, the queries already scaled.
pub fn exact_attention<T: Copy + Into<f64>>(projected: &[T], heads: usize, size: usize) -> Vec<f64> {
    exact_attention_with(projected, heads, size, |_, _, _| 0.0)
}

/// The same with `bias(head, query, key)` added to the scores.
pub fn exact_attention_with<T: Copy + Into<f64>>(
    projected: &[T],
    heads: usize,
    size: usize,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let (width, rows) = (heads * size, projected.len() / (3 * heads * size));
    let at = |row: usize, part: usize, head: usize, i: usize| -> f64 {
        projected[row * 3 * width + part * width + head * size + i].into()
    };
    let mut out = vec![0f64; rows * width];
    for head in 0..heads {
        for row in 0..rows {
            let score = |key: usize| {
                (0..size).map(|i| at(row, 0, head, i) * at(key, 1, head, i)).sum::<f64>() + bias(head, row, key)
            };
            let scores: Vec<f64> = (0..rows).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                for i in 0..size {
                    out[row * width + head * size + i] += (score - largest).exp() / total * at(key, 2, head, i);
                }
            }
        }
    }
    out
}

/// erf in f64 by the series without cancellation: 2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!
pub fn exact_erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / (2 * n + 1) as f64;
        sum += term;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp()
}

/// GELU with the exact error function.
pub fn exact_gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt()))
}

/// GELU by its tanh approximation.
pub fn exact_gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}
