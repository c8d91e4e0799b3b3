//! Which way of multiplying f32 is the faster one on this machine, by measuring.
//!
//! A matrix unit's peak is a matter of the CPU, but what of it is left differs: on some hosts a unit is shared with
//! neighbours, or all cores' at once get less than one alone. So it is measured where and when it counts: on all threads
//! at once, at start.

use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use super::dispatch::Kernels;
use super::linear::{Dense, PackedLinear};
use super::precision::Precision;
use crate::error::Result;

/// A layer of all-MiniLM-L6-v2, for a block of rows.
const SIZES: (usize, usize, usize) = (64, 384, 1536);
/// Times that both ways are measured.
const ROUNDS: usize = 5;
/// By how much the unit must be faster: less is noise.
const GAIN: f64 = 1.1;

impl Kernels {
    /// The widest this CPU has; where a unit can multiply f32, in the way that is faster on so many threads. Measured once
    /// in a process, in about 20 milliseconds: all encoders of one process give the same bits.
    ///
    /// # Errors
    /// `Internal` if the layer to measure with cannot be packed, which would be a bug.
    pub fn fastest(precision: Precision, threads: usize) -> Result<Kernels> {
        static FASTEST: OnceLock<Kernels> = OnceLock::new();
        let kernels = Kernels::detect();
        if precision != Precision::F32 || kernels.unit(precision).is_none() {
            return Ok(kernels);
        }
        if let Some(&fastest) = FASTEST.get() {
            return Ok(fastest);
        }
        let by_vectors = kernels.with_f32_by_vectors();
        let [unit, vectors] = measure([kernels, by_vectors], threads)?;
        let gain = vectors.as_secs_f64() / unit.as_secs_f64();
        Ok(*FASTEST.get_or_init(|| if gain >= GAIN { kernels } else { by_vectors }))
    }
}

/// The time that a layer takes in f32 on threads that are all at work, each kind of kernels in turn: the median of some
/// rounds, each as long as its slowest thread.
fn measure(kinds: [Kernels; 2], threads: usize) -> Result<[Duration; 2]> {
    let (rows, inputs, outputs) = SIZES;
    let values = |count: usize| (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 1e8).collect();
    let dense = Dense { weight: values(outputs * inputs), bias: Vec::new() };
    let layer = |kernels| PackedLinear::new(kernels, Precision::F32, &dense, inputs);
    let layers = [layer(kinds[0])?, layer(kinds[1])?];
    let input: Vec<f32> = values(rows * inputs);
    let barrier = Barrier::new(threads.max(1));
    let time = || {
        let mut out = vec![0f32; rows * outputs];
        // The first round only warms up.
        std::array::from_fn::<_, { ROUNDS + 1 }, _>(|_| {
            layers.each_ref().map(|layer| {
                barrier.wait();
                let start = Instant::now();
                layer.apply(&input, None, &mut out);
                start.elapsed()
            })
        })
    };
    let times: Vec<[[Duration; 2]; ROUNDS + 1]> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(time)).collect();
        let own = time();
        // A thread that panicked has measured nothing; the barrier would have held up the others, so there is none.
        std::iter::once(own).chain(others.into_iter().filter_map(|other| other.join().ok())).collect()
    });
    Ok([0, 1].map(|kind| {
        let mut rounds: Vec<Duration> =
            (1..=ROUNDS).map(|round| times.iter().map(|times| times[round][kind]).max().unwrap_or_default()).collect();
        rounds.sort();
        rounds[ROUNDS / 2]
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_made_once_and_is_for_f32_alone() {
        let chosen = Kernels::fastest(Precision::F32, 2).unwrap();
        let again = Kernels::fastest(Precision::F32, 1).unwrap();
        assert_eq!(chosen.engine(Precision::F32), again.engine(Precision::F32));
        let bytes = Kernels::fastest(Precision::Int8, 2).unwrap();
        assert_eq!(bytes.engine(Precision::Int8), Kernels::detect().engine(Precision::Int8));
    }

    #[test]
    fn both_ways_are_measured() {
        for kernels in Kernels::available() {
            for threads in [1, 3] {
                let times = measure([kernels, kernels.with_f32_by_vectors()], threads).unwrap();
                assert!(times.iter().all(|time| !time.is_zero()), "{kernels:?} {times:?}");
            }
        }
    }
}
