//! Relative positions: a learned number per head and bucket of distances, added to attention's scores (T5, MPNet).

use std::fmt;

use crate::error::{Error, Result};

/// The numbers of a model, and which distance is in which bucket.
#[derive(Clone, Default, PartialEq)]
pub struct PositionBias {
    /// `[buckets, heads]`
    pub values: Vec<f32>,
    /// From this distance on all share the last bucket.
    pub max_distance: usize,
}

impl fmt::Debug for PositionBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PositionBias");
        shown.field("values", &[self.values.len()]).field("max_distance", &self.max_distance).finish()
    }
}

impl PositionBias {
    /// Whether there is a bucket for every distance, for so many heads.
    ///
    /// # Errors
    /// `Unusable` if there is not.
    pub fn check(&self, heads: usize) -> Result<()> {
        let buckets = self.values.len().checked_div(heads).unwrap_or_default();
        if buckets * heads != self.values.len()
            || buckets < 4
            || !buckets.is_multiple_of(4)
            || self.max_distance <= buckets / 4
        {
            return Err(Error::unusable(format!(
                "a position bias of {} values for {heads} heads and distances up to {} is not supported: there must be \
                 a multiple of four buckets, fewer than four times the largest distance",
                self.values.len(),
                self.max_distance
            )));
        }
        Ok(())
    }

    /// The bias of each head and of all distances within sequences of up to `longest` tokens, `[heads, 2 × longest - 1]`:
    /// the key behind the query by `longest - 1` tokens first.
    pub fn by_distance(&self, heads: usize, longest: usize) -> Vec<f32> {
        let buckets = self.values.len() / heads;
        let centre = longest.saturating_sub(1) as isize;
        let distances: Vec<usize> =
            (-centre..=centre).map(|distance| bucket(distance, buckets, self.max_distance)).collect();
        (0..heads).flat_map(|head| distances.iter().map(move |bucket| self.values[bucket * heads + head])).collect()
    }
}

/// The bucket of a key that stands `distance` tokens after its query: half of the buckets for keys before, half for keys
/// after; in each, small distances have one of their own and larger ones share theirs on a logarithmic scale.
///
/// In f32, as transformers computes it (`_relative_position_bucket` of T5 and `relative_position_bucket` of MPNet).
fn bucket(distance: isize, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let base = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs();
    let exact = half / 2;
    if distance < exact {
        return base + distance;
    }
    let whole = (max_distance as f64 / exact as f64).ln() as f32;
    let share = (distance as f32 / exact as f32).ln() / whole * (half - exact) as f32;
    base + (exact + share as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_the_buckets_that_transformers_gives_them() {
        // The largest distance of each bucket, by transformers 4.56 with 32 buckets and a maximum of 128.
        let ends = [0, 1, 2, 3, 4, 5, 6, 7, 11, 15, 22, 31, 45, 63, 90, 10_000];
        for (index, &end) in ends.iter().enumerate() {
            let start = if index == 0 { 0 } else { ends[index - 1] + 1 };
            for distance in [start, end] {
                assert_eq!(bucket(-distance, 32, 128), index, "{distance} before");
                if distance > 0 {
                    assert_eq!(bucket(distance, 32, 128), 16 + index, "{distance} after");
                }
            }
        }
    }

    #[test]
    fn a_longer_table_has_the_shorter_one_in_its_middle() {
        let bias = PositionBias { values: (0..64).map(|i| i as f32).collect(), max_distance: 128 };
        bias.check(2).expect("a bias");
        let (short, long) = (bias.by_distance(2, 5), bias.by_distance(2, 40));
        assert_eq!((short.len(), long.len()), (2 * 9, 2 * 79));
        for head in 0..2 {
            assert_eq!(short[head * 9..][..9], long[head * 79 + 35..][..9]);
        }
        assert_eq!(short[..9], [8.0, 6.0, 4.0, 2.0, 0.0, 34.0, 36.0, 38.0, 40.0]);
    }

    #[test]
    fn tables_without_a_bucket_for_every_distance_are_refused() {
        for (values, heads, max_distance) in
            [(63, 2, 128), (0, 2, 128), (6, 2, 128), (64, 2, 8), (64, 2, 0), (64, 0, 128), (0, 0, 128)]
        {
            assert!(PositionBias { values: vec![0.0; values], max_distance }.check(heads).is_err());
        }
    }
}
