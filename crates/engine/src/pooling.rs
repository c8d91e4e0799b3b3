//! Hidden states to one vector: pure functions on `[tokens, width]` rows.

use half::f16;

/// The ways `1_Pooling/config.json` can make one vector of token states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// First token.
    Cls,
    /// Mean over the tokens.
    Mean,
    /// Largest value of each position.
    Max,
    /// Sum over the tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// Mean weighted by the position, counted from 1.
    WeightedMean,
    /// Last token.
    LastToken,
}

impl PoolingMode {
    /// The name `/meta` and `/info` show.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolingMode::Cls => "cls",
            PoolingMode::Mean => "mean",
            PoolingMode::Max => "max",
            PoolingMode::MeanSqrtLen => "mean_sqrt_len",
            PoolingMode::WeightedMean => "weighted_mean",
            PoolingMode::LastToken => "last_token",
        }
    }
}

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

/// A sum of vectors of one length, in f64, that grows vector by vector. The order of the vectors is that of the additions.
#[derive(Debug, Default)]
pub struct Sum {
    /// The first vector, while it is the only one.
    only: Vec<f32>,
    sums: Vec<f64>,
    vectors: usize,
}

impl Sum {
    /// Adds a vector.
    pub fn add(&mut self, vector: Vec<f32>) {
        if self.vectors == 0 {
            self.only = vector;
        } else {
            if self.vectors == 1 {
                let only = std::mem::take(&mut self.only);
                self.sums = vec![0.0; only.len()];
                self.add_up(&only);
            }
            self.add_up(&vector);
        }
        self.vectors += 1;
    }

    fn add_up(&mut self, vector: &[f32]) {
        for (sum, &value) in self.sums.iter_mut().zip(vector) {
            *sum += f64::from(value);
        }
    }

    /// The sum over `divisor`; a single vector over 1 is returned as it is.
    pub fn over(mut self, divisor: usize) -> Vec<f32> {
        if self.vectors <= 1 {
            if divisor == 1 {
                return self.only;
            }
            let only = std::mem::take(&mut self.only);
            self.sums = vec![0.0; only.len()];
            self.add_up(&only);
        }
        self.sums.into_iter().map(|sum| (sum / divisor as f64) as f32).collect()
    }
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

/// Scales to length 1 in f16, each step rounded to it, as numpy does with vectors of f16: their numbers are so already.
pub fn normalize_half(vector: &mut [f32]) {
    let half = |value: f32| f16::from_f32(value).to_f32();
    let norm = half(half(vector.iter().map(|&value| half(value * value)).sum()).sqrt());
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = half(*value / norm));
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
    fn one_vector_over_one_is_that_vector_and_more_are_summed() {
        let sum_over = |vectors: &[[f32; 2]], divisor| {
            let mut sum = Sum::default();
            vectors.iter().for_each(|vector| sum.add(vector.to_vec()));
            sum.over(divisor)
        };
        let [negative_zero, _] = sum_over(&[[-0.0, 0.2]], 1)[..] else { panic!("two values") };
        assert!(negative_zero.is_sign_negative(), "as it is");
        assert_eq!(sum_over(&[[1.0, 2.0], [3.0, 6.0]], 2), [2.0, 4.0]);
        assert_eq!(sum_over(&[[1.0, 2.0]], 4), [0.25, 0.5]);
        assert!(sum_over(&[], 1).is_empty());
    }

    #[test]
    fn a_text_without_tokens_is_a_vector_of_zeros() {
        let modes = [PoolingMode::Cls, PoolingMode::Mean, PoolingMode::Max, PoolingMode::LastToken];
        for mode in modes {
            assert_eq!(pool(&[], 3, mode), [0.0; 3], "{mode:?}");
        }
    }
}
