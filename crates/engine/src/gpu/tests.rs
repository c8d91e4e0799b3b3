//! On a card that is the CPU: the kernels themselves, compiled for it.

use text2vec_gpu::emulated::EmulatedCard;
use text2vec_kernel::Precision;

use super::checks::{self, encoder, mixed, on_cpu};
use super::*;
use crate::error::ErrorKind;
use crate::testing::{architecture, batch, source, text, worst};

fn on_card(architecture: &Architecture, precision: Precision) -> GpuEncoder<EmulatedCard> {
    encoder(EmulatedCard::new(), architecture, precision)
}

#[test]
fn every_family_has_the_cpu_s_states_and_vectors_whatever_the_budget() {
    checks::every_family_has_the_cpu_s_states_and_vectors_whatever_the_budget(EmulatedCard::new);
}

#[test]
fn half_precisions_stay_close() {
    checks::half_precisions_stay_close(EmulatedCard::new);
}

/// Heads of sizes that kernels are compiled for, of sizes between, and of such as do not begin on 16 bytes.
#[test]
fn heads_of_any_size_are_computed() {
    checks::heads_of_any_size_are_computed(EmulatedCard::new);
    let error = GpuEncoder::new(
        &architecture("bert", 2 * 264, 2),
        EmulatedCard::new(),
        Precision::F16,
        source(&architecture("bert", 2 * 264, 2)),
    );
    assert!(error.expect_err("too large").message().contains("heads of 264 columns"));
}

#[test]
fn batches_are_begun_while_others_are_computed() {
    checks::batches_are_begun_while_others_are_computed(EmulatedCard::new);
}

#[test]
fn every_kernel_is_run() {
    checks::every_kernel_is_run(EmulatedCard::new);
}

#[test]
fn without_memory_the_batch_is_halved_and_nothing_is_lost() {
    let architecture = architecture("bert", 48, 3);
    let (batch, modes) = (mixed(), vec![&[PoolingMode::Mean][..]; 9]);
    let expected = on_cpu(&architecture).pooled(&batch, &modes).expect("vectors");
    let check = |encoder: &mut GpuEncoder<EmulatedCard>| {
        let got = encoder.pooled(&batch, &modes).expect("vectors");
        got.iter().zip(&expected).for_each(|(got, expected)| assert!(worst(got, expected) < 1e-5));
    };
    // At any of its kernels: while they are asked for, and when they are replayed, which counts as one.
    let mut encoder = on_card(&architecture, Precision::F32);
    for (launches, before) in [(1, 0), (2, 0), (6, 0), (9, 0), (1, 2), (1, 5)] {
        encoder = on_card(&architecture, Precision::F32);
        (0..before).for_each(|_| check(&mut encoder));
        encoder.card().fail_after(launches);
        check(&mut encoder);
        assert!(encoder.passes.budget <= 136, "{}", encoder.passes.budget);
        encoder.set_budget(usize::MAX);
        check(&mut encoder);
    }
    // Too little for all of it at once, but for each sequence alone.
    let model = encoder.card().taken();
    let pool = |memory: usize| {
        GpuEncoder::new(&architecture, EmulatedCard::with_memory(memory), Precision::F32, source(&architecture))
    };
    let mut fits = 0;
    for memory in (0..40).map(|step| model / 4 + step * model / 40) {
        let Ok(mut encoder) = pool(memory) else { continue };
        match encoder.pooled(&batch, &modes) {
            Ok(got) => {
                fits += 1;
                got.iter().zip(&expected).for_each(|(got, expected)| assert!(worst(got, expected) < 1e-5));
            }
            Err(error) => {
                assert_eq!(fits, 0, "less memory was enough");
                assert!(error.message().contains("no memory for a sequence"), "{error}");
            }
        }
    }
    assert!(fits > 0);
    let error = pool(1000).expect_err("no memory");
    assert!(error.message().contains("--precision f16"), "{error}");
}

#[test]
fn all_memory_is_given_back() {
    let card = EmulatedCard::new();
    let architecture = architecture("causal gemma3_text", 48, 3);
    let mut encoder =
        GpuEncoder::new(&architecture, card.clone(), Precision::Bf16, source(&architecture)).expect("an encoder");
    let loaded = card.taken();
    encoder.forward(&mixed()).expect("states");
    let after_one = card.taken();
    for _ in 0..4 {
        encoder.pooled(&mixed(), &[&[PoolingMode::Cls][..]; 9]).expect("vectors");
        encoder.forward(&mixed()).expect("states");
    }
    assert!(
        loaded > 0 && after_one > loaded && card.taken() <= after_one + 4096,
        "{loaded} {after_one} {}",
        card.taken()
    );
    drop(encoder);
    assert_eq!(card.taken(), 0);
}

#[test]
fn the_budget_is_found_by_trying() {
    let mut encoder = on_card(&architecture("albert", 8, 1), Precision::F16);
    let budget = encoder.find_budget(16).expect("a budget");
    assert!(budget >= 1024 && budget.is_power_of_two() && encoder.passes.budget == budget, "{budget}");
}

#[test]
fn a_start_without_memory_says_what_to_do() {
    let architecture = architecture("albert", 8, 1);
    let start = |memory: usize, precision| {
        let card = EmulatedCard::with_memory(memory);
        let mut encoder = GpuEncoder::new(&architecture, card, precision, source(&architecture))?;
        let loaded = encoder.card().taken();
        encoder.try_out(16).map(|budget| (loaded, budget))
    };
    let refused = |memory, precision, words: &[&str]| {
        let error = start(memory, precision).expect_err("no memory");
        assert_eq!(error.kind(), ErrorKind::Unusable, "{error}");
        for word in words.iter().chain(&["stop what else uses it", "--device cuda:N", "--device cpu"]) {
            assert!(error.message().contains(word), "'{word}' is not in: {error}");
        }
        // Which would not help.
        assert!(precision == Precision::F32 || !error.message().contains("--precision"), "{error}");
    };
    let (loaded, budget) = start(usize::MAX, Precision::F32).expect("a start");
    assert!(budget >= 1024);
    refused(loaded / 2, Precision::F32, &["no memory left for this model", "MB were free", "--precision f16"]);
    refused(1000, Precision::F16, &["no memory left for this model", "a smaller model"]);
    // Enough for the weights and for no text; for a text of 16 tokens, but not for 1024.
    for memory in [0, 20_000] {
        refused(loaded + memory, Precision::F32, &["even the smallest batch", "MB were free", "--precision f16"]);
    }
}

#[test]
fn experts_are_computed_for_those_rows_only_that_took_them() {
    let mut architecture = architecture("nomic_bert with experts", 48, 3);
    // As NomicBERT v2 has them.
    let sizes = architecture.shape.style.experts.as_mut().expect("experts");
    (sizes.count, sizes.taken) = (8, 2);
    let batch = batch(&(0..12).map(|sequence| text(90 + sequence, 50 + sequence as u64)).collect::<Vec<_>>());
    let expected = on_cpu(&architecture).forward(&batch).expect("states").values;
    let mut encoder = on_card(&architecture, Precision::F32);
    let mut computed = |budget: usize| {
        encoder.set_budget(budget);
        let before = encoder.card().product_rows();
        let states = encoder.forward(&batch).expect("states").values;
        let error = worst(&states, &expected);
        assert!(error < 1e-5, "{budget} tokens at once: {error:e}");
        (states, encoder.card().product_rows() - before)
    };
    let ((some, some_rows), (all, all_rows)) = (computed(usize::MAX), computed(600));
    assert!(some == all, "the same bits");
    // Beside experts' products, of 2 in place of 8, there are 6: two around attention in each block, and one feed-forward's.
    println!("rows of products: {some_rows}, and {all_rows} with all experts for all rows");
    assert!(20 * some_rows < 11 * all_rows, "{some_rows} rows of products, and {all_rows}");
}

#[test]
fn bad_input_is_an_error() {
    let bert = architecture("roberta", 48, 3);
    let mut encoder = on_card(&bert, Precision::F32);
    assert!(encoder.forward(&TokenBatch::new()).expect("nothing").values.is_empty());
    assert!(encoder.pooled(&TokenBatch::new(), &[]).expect("nothing").is_empty());
    for (ids, types, word) in [(vec![2, 50], vec![0, 0], "50"), (vec![2, 3], vec![0, 2], "has 2 rows")] {
        let error = encoder.forward(&batch(&[(ids, types)])).expect_err("no such row");
        assert!(error.message().contains(word), "{error}");
    }
    assert!(encoder.forward(&batch(&[text(139, 1)])).is_err(), "no position left");
    let int8 = GpuEncoder::new(&bert, EmulatedCard::new(), Precision::Int8, source(&bert));
    assert!(int8.expect_err("int8").message().contains("f16, bf16 or f32"));
    let missing = GpuEncoder::new(&bert, EmulatedCard::new(), Precision::F16, |name, _| {
        Err(Error::unusable(format!("no tensor '{name}'")))
    });
    assert!(missing.expect_err("nothing").message().contains("no tensor"));
    // What the CPU does after it: other poolings than a card's.
    let modes = [&[PoolingMode::Max, PoolingMode::Mean][..]; 9];
    let states = encoder.forward(&mixed()).expect("states");
    assert_eq!(encoder.pooled(&mixed(), &modes).expect("vectors"), pool_states(&states, &mixed(), &modes));
}
