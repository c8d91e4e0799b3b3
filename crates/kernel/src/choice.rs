//! Which way of multiplying is the faster one on this machine, by measuring.
//!
//! A matrix unit's peak is a matter of the CPU, but what of it is left differs: on some hosts a unit is shared with
//! neighbours, or all cores' at once get less than one alone. And instructions for bf16 are twice as fast as those for f32
//! on some CPUs, half as fast on others. So it is measured where and when it counts: on all threads at once, at start.
//!
//! Attention is measured by itself: between its products numbers are split into parts more often than between those of layers.

use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use super::attention::{self, AttentionTask, Heads};
use super::attention_on_unit::{self, UnitAttentionTask};
use super::dispatch::Kernels;
use super::linear::{Dense, PackedLinear};
use super::memory::AlignedBuffer;
use super::precision::Precision;
use crate::error::Result;

/// A layer of all-MiniLM-L6-v2, for a block of rows.
const SIZES: (usize, usize, usize) = (64, 384, 1536);
/// Attention of some heads of it, for a text of so many tokens.
const HEADS: (usize, usize, usize) = (4, 32, 192);
/// Times that both ways are measured.
const ROUNDS: usize = 5;
/// By how much the way must be faster that is not taken otherwise: less is noise.
const GAIN: f64 = 1.1;

impl Kernels {
    /// The widest this CPU has; where a unit can multiply f32, in the way that is faster on so many threads, and likewise
    /// with bf16, as [`Kernels::with_fastest_bf16`] has it, and with attention where the unit multiplies in parts. Measured once
    /// in a process, in about 20 milliseconds: all encoders of one process give the same bits.
    ///
    /// # Errors
    /// `Internal` if the layer to measure with cannot be packed, which would be a bug.
    pub fn fastest(precision: Precision, threads: usize) -> Result<Kernels> {
        static BY_UNIT: OnceLock<bool> = OnceLock::new();
        let kernels = Kernels::detect();
        if kernels.unit(precision).is_none() {
            return kernels.with_fastest_bf16(precision, threads);
        }
        if precision == Precision::F32 {
            let by_vectors = kernels.with_f32_by_vectors();
            if !once(&BY_UNIT, || measure_layers([by_vectors, kernels], precision, threads))? {
                return Ok(by_vectors);
            }
        }
        kernels.with_fastest_attention(precision, threads)
    }

    /// The same kernels, with attention in several parts where that is faster on so many threads than in f32 by vectors. Measured
    /// once in a process for each number of parts.
    fn with_fastest_attention(self, precision: Precision, threads: usize) -> Result<Kernels> {
        static BY_UNIT: [OnceLock<bool>; 2] = [const { OnceLock::new() }; 2];
        let known = match self.attention_parts(precision) {
            Some(2) => &BY_UNIT[0],
            Some(3) => &BY_UNIT[1],
            _ => return Ok(self),
        };
        let by_vectors = self.with_attention_by_vectors();
        let is_faster = once(known, || Ok(measure_attention([by_vectors, self], precision, threads)))?;
        Ok(if is_faster { self } else { by_vectors })
    }

    /// The same kernels, multiplying bf16 in the way that is faster on so many threads, in precisions that vectors multiply so:
    /// by instructions for bf16, or as f32 by weights that are widened. Measured once in a process.
    ///
    /// # Errors
    /// As of [`Kernels::fastest`].
    pub fn with_fastest_bf16(self, precision: Precision, threads: usize) -> Result<Kernels> {
        static BY_F32: OnceLock<bool> = OnceLock::new();
        // Of int8 attention is meant, which rounds to bf16.
        let rounds = matches!(precision, Precision::Bf16 | Precision::Int8) && self.unit(precision).is_none();
        if !rounds || !self.multiplies_bf16() {
            return Ok(self);
        }
        let by_f32 = self.with_f32_by_bf16();
        let is_faster = once(&BY_F32, || measure_layers([self, by_f32], Precision::Bf16, threads))?;
        Ok(if is_faster { by_f32 } else { self })
    }
}

/// Whether the second of two times is clearly shorter than the first; measured if nobody did.
fn once(known: &OnceLock<bool>, measure: impl FnOnce() -> Result<[Duration; 2]>) -> Result<bool> {
    if let Some(&known) = known.get() {
        return Ok(known);
    }
    let [first, second] = measure()?;
    Ok(*known.get_or_init(|| first.as_secs_f64() >= GAIN * second.as_secs_f64()))
}

fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 1e8).collect()
}

/// The time that a layer takes by each kind of kernels.
fn measure_layers(kinds: [Kernels; 2], precision: Precision, threads: usize) -> Result<[Duration; 2]> {
    let (rows, inputs, outputs) = SIZES;
    let dense = Dense { weight: values(outputs * inputs), bias: Vec::new() };
    let layer = |kernels| PackedLinear::new(kernels, precision, &dense, inputs);
    let layers = [layer(kinds[0])?, layer(kinds[1])?];
    let input = values(rows * inputs);
    Ok(measure(threads, || vec![0f32; rows * outputs], |kind, out| layers[kind].apply(&input, None, out)))
}

/// The time that attention takes by each kind of kernels.
fn measure_attention(kinds: [Kernels; 2], precision: Precision, threads: usize) -> [Duration; 2] {
    let (heads, size, tokens) = HEADS;
    let stride = 3 * heads * size;
    let projected = values(tokens * stride + kinds[0].panel_width());
    let room = || {
        let scratch = kinds.map(|kernels| match kernels.attention_parts(precision) {
            Some(parts) => attention_on_unit::scratch_len(parts, tokens, size),
            None => attention::scratch_len(kernels, tokens, size),
        });
        let mut buffer = AlignedBuffer::default();
        buffer.reserve(scratch[0].max(scratch[1]));
        (buffer, vec![0f32; tokens * heads * size])
    };
    measure(threads, room, |kind, (scratch, out)| {
        let projected = projected.as_ptr();
        let sequence = Heads { projected, stride, heads, key_heads: heads, size, tokens };
        for head in 0..heads {
            let out = (out.as_mut_ptr(), heads * size);
            // SAFETY: the buffers are as large as `Heads` and `scratch_len` ask, and this thread's.
            let task = unsafe { AttentionTask::new(sequence, head, 0..tokens, out, scratch) };
            let kernels = kinds[kind];
            match kernels.unit(precision).zip(kernels.attention_parts(precision)) {
                Some((unit, parts)) => kernels.run(UnitAttentionTask(task, unit, parts)),
                None => kernels.run(task),
            }
        }
    })
}

/// The time that both kinds of some work take on threads that are all at it, each in turn: the median of some rounds, each as
/// long as its slowest thread. Every thread has room of its own.
fn measure<R>(threads: usize, room: impl Fn() -> R + Sync, work: impl Fn(usize, &mut R) + Sync) -> [Duration; 2] {
    let barrier = Barrier::new(threads.max(1));
    let time = || {
        let mut room = room();
        // The first round only warms up.
        std::array::from_fn::<_, { ROUNDS + 1 }, _>(|_| {
            [0, 1].map(|kind| {
                barrier.wait();
                let start = Instant::now();
                work(kind, &mut room);
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
    [0, 1].map(|kind| {
        let mut rounds: Vec<Duration> =
            (1..=ROUNDS).map(|round| times.iter().map(|times| times[round][kind]).max().unwrap_or_default()).collect();
        rounds.sort();
        rounds[ROUNDS / 2]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_made_once_and_each_precision_has_its_own() {
        for precision in Precision::ALL {
            let chosen = Kernels::fastest(precision, 2).unwrap();
            let again = Kernels::fastest(precision, 1).unwrap();
            assert_eq!(chosen.engine(precision), again.engine(precision));
            assert_eq!(chosen.attention_parts(precision), again.attention_parts(precision));
            assert_eq!(chosen.unit(Precision::Int8), Kernels::detect().unit(Precision::Int8));
            assert_eq!(chosen.vectors(), Kernels::detect().vectors());
        }
        for kernels in Kernels::every() {
            let (f32, bf16) = (Precision::F32, Precision::Bf16);
            assert_eq!(kernels.with_fastest_bf16(f32, 2).unwrap().multiplies_bf16(), kernels.multiplies_bf16());
            let chosen = kernels.with_fastest_bf16(bf16, 2).unwrap();
            assert!(kernels.multiplies_bf16() || !chosen.multiplies_bf16(), "{kernels:?}");
            assert_eq!(chosen.instruction_set(), kernels.instruction_set());
        }
    }

    #[test]
    fn both_ways_are_measured() {
        for kernels in Kernels::available() {
            for threads in [1, 3] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let others = kernels.with_f32_by_vectors().with_f32_by_bf16();
                    let times = measure_layers([kernels, others], precision, threads).unwrap();
                    assert!(times.iter().all(|time| !time.is_zero()), "{kernels:?} {precision} {times:?}");
                }
                let others = kernels.with_attention_by_vectors();
                let times = measure_attention([others, kernels], Precision::F32, threads);
                assert!(times.iter().all(|time| !time.is_zero()), "{kernels:?} {times:?}");
            }
        }
    }
}
