//! Hidden states to one vector: pure functions on `[tokens, width]` rows.

use crate::model::modules::PoolingMode;

/// Pools the token states of one sequence.
///
/// A sequence without tokens is a vector of zeros, as torch's `EmbeddingBag` has it.
///
/// Sums run in f64, so that the result is the correctly rounded one whatever the order of the reference's summation.
pub fn pool(rows: &[f32], width: usize, mode: PoolingMode) -> Vec<f32> {
    let tokens = rows.len() / width;
    if tokens == 0 {
        return vec![0.0; width];
    }
    match mode {
        PoolingMode::Cls => rows[..width].to_vec(),
        PoolingMode::LastToken => rows[rows.len() - width..].to_vec(),
        PoolingMode::Max => {
            let mut largest = rows[..width].to_vec();
            for row in rows.chunks_exact(width).skip(1) {
                for (max, &value) in largest.iter_mut().zip(row) {
                    *max = max.max(value);
                }
            }
            largest
        }
        PoolingMode::Mean => weighted_sum(rows, width, |_| 1.0, tokens as f64),
        PoolingMode::MeanSqrtLen => weighted_sum(rows, width, |_| 1.0, (tokens as f64).sqrt()),
        PoolingMode::WeightedMean => {
            let weights = tokens * (tokens + 1) / 2;
            weighted_sum(rows, width, |position| (position + 1) as f64, weights as f64)
        }
    }
}

fn weighted_sum(rows: &[f32], width: usize, weight: impl Fn(usize) -> f64, divisor: f64) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    for (position, row) in rows.chunks_exact(width).enumerate() {
        let weight = weight(position);
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += weight * f64::from(value);
        }
    }
    sums.into_iter().map(|sum| (sum / divisor) as f32).collect()
}

/// Sum of several vectors of one length over `divisor`; a single vector over 1 is returned as it is.
pub fn sum_over(mut vectors: Vec<Vec<f32>>, divisor: usize) -> Vec<f32> {
    if (vectors.len(), divisor) == (1, 1) {
        return vectors.swap_remove(0);
    }
    let width = vectors.first().map_or(0, Vec::len);
    weighted_sum(&vectors.concat(), width.max(1), |_| 1.0, divisor as f64)
}

/// Keeps the first `dimensions` values as a Python slice `v[:dimensions]` does: a negative number drops that many from
/// the end. Zero and numbers beyond the length keep everything, as sentence-transformers does.
pub fn cut(vector: &mut Vec<f32>, dimensions: i64) {
    let length = vector.len();
    let keep = match dimensions {
        0 => length,
        wanted if wanted > 0 => usize::try_from(wanted).unwrap_or(usize::MAX).min(length),
        dropped => length.saturating_sub(usize::try_from(dropped.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    vector.truncate(keep);
}

/// Scales to length 1 (L2). A vector of zeros stays one, as with torch's `normalize` and its epsilon of 1e-12.
pub fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt().max(1e-12);
    for value in vector {
        *value = (f64::from(*value) / norm) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 6] = [1.0, -2.0, 3.0, 4.0, 5.0, 0.0];

    #[test]
    fn pooling_modes_by_hand() {
        let pool = |mode| pool(&ROWS, 2, mode);
        assert_eq!(pool(PoolingMode::Cls), [1.0, -2.0]);
        assert_eq!(pool(PoolingMode::LastToken), [5.0, 0.0]);
        assert_eq!(pool(PoolingMode::Max), [5.0, 4.0]);
        assert_eq!(pool(PoolingMode::Mean), [3.0, 2.0 / 3.0]);
        assert_eq!(pool(PoolingMode::MeanSqrtLen), [9.0, 2.0].map(|sum: f64| (sum / 3f64.sqrt()) as f32));
        assert_eq!(pool(PoolingMode::WeightedMean), [22.0 / 6.0, 1.0]);
    }

    #[test]
    fn cutting_follows_python_slices() {
        let cut = |dimensions| {
            let mut vector = vec![1.0, 2.0, 3.0];
            cut(&mut vector, dimensions);
            vector.len()
        };
        let lengths: Vec<_> = [0, 1, 3, 9, -1, -3, -9, i64::MAX, i64::MIN].map(cut).into();
        assert_eq!(lengths, [3, 1, 3, 3, 2, 0, 0, 3, 0]);
    }

    #[test]
    fn normalising_keeps_zeros() {
        let mut zeros = [0f32; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
        let mut vector = [3f32, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
    }

    #[test]
    fn one_vector_over_one_is_that_vector() {
        assert_eq!(sum_over(vec![vec![0.1, 0.2]], 1), [0.1, 0.2]);
        assert_eq!(sum_over(vec![vec![1.0, 2.0], vec![3.0, 6.0]], 2), [2.0, 4.0]);
        assert_eq!(sum_over(vec![vec![1.0, 2.0]], 4), [0.25, 0.5]);
    }

    #[test]
    fn a_text_without_tokens_is_a_vector_of_zeros() {
        let modes = [PoolingMode::Cls, PoolingMode::Mean, PoolingMode::Max, PoolingMode::LastToken];
        for mode in modes {
            assert_eq!(pool(&[], 3, mode), [0.0; 3], "{mode:?}");
        }
    }
}
