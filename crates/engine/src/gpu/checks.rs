//! What is asked of every card, be it one or the CPU in its place.

use text2vec_kernel::{Kernels, Precision};

use super::*;
use crate::cpu::PackedEncoder;
use crate::testing::{FAMILIES, architecture, batch, cosine, source, text, worst};

pub(super) fn encoder<C: Card>(card: C, architecture: &Architecture, precision: Precision) -> GpuEncoder<C> {
    GpuEncoder::new(architecture, card, precision, source(architecture)).expect("an encoder")
}

pub(super) fn on_cpu(architecture: &Architecture) -> PackedEncoder {
    PackedEncoder::new(architecture, (Kernels::detect(), Precision::F32), 1, source(architecture)).expect("an encoder")
}

/// Of many lengths, several of them equal, not in order, one without tokens, some of more than one tile.
pub(super) fn mixed() -> TokenBatch {
    let lengths = [7, 1, 40, 0, 19, 2, 130, 65, 7];
    batch(&lengths.iter().zip(50..).map(|(&length, seed)| text(length, seed)).collect::<Vec<_>>())
}

pub(super) fn every_family_has_the_cpu_s_states_and_vectors_whatever_the_budget<C: Card>(card: impl Fn() -> C) {
    let batch = mixed();
    let modes = [&[PoolingMode::Mean][..], &[PoolingMode::Cls], &[PoolingMode::LastToken, PoolingMode::Mean]];
    let modes: Vec<_> = (0..batch.lengths().len()).map(|sequence| modes[sequence % 3]).collect();
    for family in FAMILIES {
        let architecture = architecture(family, 48, 3);
        let mut cpu = on_cpu(&architecture);
        let expected = cpu.forward(&batch).expect("states");
        let vectors = pool_states(&expected, &batch, &modes);
        let mut encoder = encoder(card(), &architecture, Precision::F32);
        for budget in [usize::MAX, 50] {
            encoder.set_budget(budget);
            let states = encoder.forward(&batch).expect("states");
            assert_eq!(states.width, expected.width);
            let error = worst(&states.values, &expected.values);
            assert!(error < 1e-5, "{family}, {budget} tokens at once: {error:e}");
            // Thrice: asked for, recorded, and replayed.
            for _ in 0..3 {
                for (got, wanted) in encoder.pooled(&batch, &modes).expect("vectors").iter().zip(&vectors) {
                    let error = worst(got, wanted);
                    assert!(error < 1e-5, "{family}, {budget} tokens at once, pooled: {error:e}");
                }
            }
        }
    }
}

pub(super) fn half_precisions_stay_close<C: Card>(card: impl Fn() -> C) {
    let batch = mixed();
    let modes = vec![&[PoolingMode::Mean][..]; batch.lengths().len()];
    for family in FAMILIES {
        let architecture = architecture(family, 48, 3);
        let expected = on_cpu(&architecture).pooled(&batch, &modes).expect("vectors");
        for (precision, least) in [(Precision::F16, 0.99995), (Precision::Bf16, 0.999)] {
            let got = encoder(card(), &architecture, precision).pooled(&batch, &modes).expect("vectors");
            for (sequence, (expected, got)) in expected.iter().zip(&got).enumerate() {
                if batch.lengths()[sequence] == 0 {
                    assert!(got.iter().all(|&value| value == 0.0));
                    continue;
                }
                let cosine = cosine(expected, got);
                assert!(cosine >= least && cosine < 1.0, "{family} {precision}, {sequence}: cosine {cosine}");
            }
        }
    }
}

/// Heads of sizes that kernels are compiled for, of sizes between, and of such as do not begin on 16 bytes.
pub(super) fn heads_of_any_size_are_computed<C: Card>(card: impl Fn() -> C) {
    let batch = batch(&[(7, 1), (65, 2), (1, 3), (20, 4)].map(|(length, seed)| text(length, seed)));
    for (family, sizes) in [
        ("bert", &[2, 32, 36, 64, 72, 80, 96, 100, 128, 136, 256][..]),
        // With numbers of relative positions; turned, and with windows.
        ("mpnet", &[32, 100]),
        ("modernbert", &[36, 128]),
    ] {
        for &size in sizes {
            // Something that cannot be found in rows of other heads.
            let architecture = architecture(family, 2 * size, 2);
            assert_eq!(architecture.shape.head_size(), size);
            let expected = on_cpu(&architecture).forward(&batch).expect("states").values;
            let got = encoder(card(), &architecture, Precision::F32).forward(&batch).expect("states").values;
            let error = worst(&got, &expected);
            assert!(error < 2e-5, "{family}, heads of {size}: {error:e}");
            for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
                let got = encoder(card(), &architecture, precision).forward(&batch).expect("states").values;
                let rows = expected.chunks_exact(2 * size).zip(got.chunks_exact(2 * size));
                let cosine = rows.map(|(expected, got)| cosine(expected, got)).fold(1.0, f64::min);
                // Of so few columns a norm may magnify what was rounded.
                assert!(cosine >= least || size == 2, "{family}, heads of {size} in {precision}: cosine {cosine}");
            }
        }
    }
}

/// Two are under way, and waited for by another thread in either order; meanwhile small ones, too large ones and states are
/// computed. Vectors are those of batches by themselves, bit by bit.
pub(super) fn batches_are_begun_while_others_are_computed<C: Card>(card: impl Fn() -> C) {
    let architecture = architecture("bert", 24, 2);
    let modes = &[PoolingMode::Mean, PoolingMode::Cls, PoolingMode::LastToken][..];
    // Of different sizes, one with a sequence without tokens: the second needs more room than the first had.
    let large = [10usize, 14, 12].map(|count| {
        let lengths = (0..count).map(|at| if at == 3 { 0 } else { 120 + at });
        batch(&lengths.map(|length| text(length, (count * length) as u64)).collect::<Vec<_>>())
    });
    let modes_of = |batch: &TokenBatch| vec![modes; batch.lengths().len()];
    let mut encoder = encoder(card(), &architecture, Precision::F32);
    let alone = large.each_ref().map(|batch| encoder.pooled(batch, &modes_of(batch)).expect("vectors"));
    let small = mixed();
    let small_alone = encoder.pooled(&small, &modes_of(&small)).expect("vectors");
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let begun =
            large.each_ref().map(|batch| encoder.begin(batch, &modes_of(batch)).expect("begun").expect("large"));
        let mut begun = begun.map(Some);
        let few = encoder.begin(&small, &modes_of(&small)).expect("nothing wrong");
        assert!(few.is_none(), "few tokens are not begun");
        assert_eq!(encoder.pooled(&small, &modes_of(&small)).expect("vectors"), small_alone);
        let finished = std::thread::scope(|scope| {
            let finish = || order.map(|at| (at, begun[at].take().expect("once").finish(&modes_of(&large[at]))));
            scope.spawn(finish).join().expect("no panic")
        });
        for (at, vectors) in finished {
            assert_eq!(vectors.expect("vectors"), alone[at], "{order:?}");
        }
    }
    // Given up, its memory is used again only after it is done.
    drop(encoder.begin(&large[0], &modes_of(&large[0])).expect("begun"));
    let next = encoder.begin(&large[2], &modes_of(&large[2])).expect("begun").expect("large");
    assert_eq!(next.finish(&modes_of(&large[2])).expect("vectors"), alone[2]);
    // In several passes it is not begun, nor where the card does not pool.
    encoder.set_budget(500);
    assert!(encoder.begin(&large[0], &modes_of(&large[0])).expect("nothing wrong").is_none());
    encoder.set_budget(usize::MAX);
    let maximum = vec![&[PoolingMode::Max][..]; large[0].lengths().len()];
    assert!(encoder.begin(&large[0], &maximum).expect("nothing wrong").is_none());
}

/// Every kernel, in f32 and f16, with as little as shows it: for tools that look at every access to memory.
pub(super) fn every_kernel_is_run<C: Card>(card: impl Fn() -> C) {
    // More rows than recordings have: experts are then computed for who takes them.
    let many = batch(&(0..9).map(|seed| text(120, seed)).collect::<Vec<_>>());
    let few = batch(&[(7, 1), (65, 2), (1, 3)].map(|(length, seed)| text(length, seed)));
    let heads = [32, 64, 80, 96, 128, 256].map(|size| ("bert", 2 * size));
    let others = [("mpnet", 64), ("modernbert", 128), ("qwen3", 64), ("nomic_bert with experts", 64)];
    for (family, hidden) in heads.into_iter().chain(others) {
        let architecture = architecture(family, hidden, 2);
        let batches: &[_] = if family.ends_with("experts") { &[&few, &many] } else { &[&few] };
        for precision in [Precision::F32, Precision::F16] {
            let mut encoder = encoder(card(), &architecture, precision);
            for &batch in batches {
                let modes = &[PoolingMode::Mean, PoolingMode::Cls, PoolingMode::LastToken][..];
                let vectors = encoder.pooled(batch, &vec![modes; batch.lengths().len()]).expect("vectors");
                assert!(vectors.iter().flatten().all(|value| value.is_finite()), "{family} in {precision}");
            }
        }
    }
}
