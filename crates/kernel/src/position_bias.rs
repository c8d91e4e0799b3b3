//! Relative positions, added to attention's scores: a learned number per head and bucket of distances (T5, MPNet), or a slope
//! per head (ALiBi).

use std::fmt;

use crate::error::{Error, Result};

/// What is added to the score of a query and a key, by how far they stand from each other.
#[derive(Clone, PartialEq)]
pub enum PositionBias {
    /// The number of the distance's bucket.
    Learned {
        /// `[buckets, heads]`
        values: Vec<f32>,
        /// From this distance on all share the last bucket.
        max_distance: usize,
    },
    /// The distance times each head's number.
    Slopes(Vec<f32>),
}

impl fmt::Debug for PositionBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PositionBias::Learned { values, max_distance } => {
                let mut shown = f.debug_struct("Learned");
                shown.field("values", &[values.len()]).field("max_distance", max_distance).finish()
            }
            PositionBias::Slopes(slopes) => f.debug_tuple("Slopes").field(&[slopes.len()]).finish(),
        }
    }
}

impl PositionBias {
    /// The slopes of ALiBi: for a power of two heads a geometric sequence from 2^(-8/heads) on, with that ratio; for other
    /// numbers that of the power of two below, then every other one of the power above.
    pub fn alibi(heads: usize) -> PositionBias {
        let power = |heads: usize| (1..=heads).map(move |i| 2f64.powf(-8.0 * i as f64 / heads as f64) as f32);
        let below = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
        let rest = power(2 * below).step_by(2).take(heads - below);
        PositionBias::Slopes(power(below).chain(rest).map(|slope| -slope).collect())
    }

    /// Whether there is a number for every distance, for so many heads.
    ///
    /// # Errors
    /// `Unusable` if there is not.
    pub fn check(&self, heads: usize) -> Result<()> {
        let (values, max_distance) = match self {
            PositionBias::Learned { values, max_distance } => (values, *max_distance),
            PositionBias::Slopes(slopes) if slopes.len() == heads => return Ok(()),
            PositionBias::Slopes(slopes) => {
                return Err(Error::unusable(format!("{} slopes for {heads} heads: one each is needed", slopes.len())));
            }
        };
        let buckets = values.len().checked_div(heads).unwrap_or_default();
        if buckets * heads != values.len() || buckets < 4 || !buckets.is_multiple_of(4) || max_distance <= buckets / 4 {
            return Err(Error::unusable(format!(
                "a position bias of {} values for {heads} heads and distances up to {max_distance} is not supported: there \
                 must be a multiple of four buckets, fewer than four times the largest distance",
                values.len(),
            )));
        }
        Ok(())
    }

    /// The bias of each head and of all distances within sequences of up to `longest` tokens, `[heads, 2 × longest - 1]`:
    /// the key behind the query by `longest - 1` tokens first.
    pub fn by_distance(&self, heads: usize, longest: usize) -> Vec<f32> {
        let centre = longest.saturating_sub(1) as isize;
        match self {
            PositionBias::Learned { values, max_distance } => {
                let buckets = values.len() / heads;
                let distances: Vec<usize> =
                    (-centre..=centre).map(|distance| bucket(distance, buckets, *max_distance)).collect();
                (0..heads).flat_map(|head| distances.iter().map(move |bucket| values[bucket * heads + head])).collect()
            }
            PositionBias::Slopes(slopes) => {
                let of = |&slope: &f32| (-centre..=centre).map(move |distance| slope * distance.unsigned_abs() as f32);
                slopes.iter().flat_map(of).collect()
            }
        }
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
        let bias = PositionBias::Learned { values: (0..64).map(|i| i as f32).collect(), max_distance: 128 };
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
            assert!(PositionBias::Learned { values: vec![0.0; values], max_distance }.check(heads).is_err());
        }
    }

    #[test]
    fn alibi_has_a_slope_for_each_head() {
        let slopes = |heads| match PositionBias::alibi(heads) {
            PositionBias::Slopes(slopes) => slopes,
            PositionBias::Learned { .. } => panic!("slopes"),
        };
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625].map(|x: f32| -x));
        // As the paper's authors have it: those of four heads, then the first and third of eight.
        assert_eq!(slopes(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125].map(|x: f32| -x));
        assert_eq!(slopes(1), [-0.00390625]);
        assert!(PositionBias::alibi(12).check(12).is_ok() && PositionBias::alibi(12).check(8).is_err());
        assert_eq!(PositionBias::alibi(2).by_distance(2, 3)[..5], [-0.125, -0.0625, 0.0, -0.0625, -0.125]);
    }
}
