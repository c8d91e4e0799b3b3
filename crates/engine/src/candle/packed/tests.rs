//! On `Device::Cpu`: everything of the executor but the device.

use super::*;
use crate::candle::plain::CandleEncoder;
use crate::family::architecture::BiasSource;
use crate::testing::{FAMILIES, architecture, batch, cosine, source, text, worst};

fn packed(architecture: &Architecture, precision: Precision) -> CandlePackedEncoder {
    CandlePackedEncoder::new(architecture, &Device::Cpu, precision, source(architecture)).unwrap()
}

/// Of many lengths, several of them equal, not in order, one without tokens.
fn mixed() -> TokenBatch {
    let lengths = [7, 1, 40, 0, 19, 2, 130, 33, 40, 7, 41, 90, 3, 130];
    batch(&lengths.iter().zip(50..).map(|(&length, seed)| text(length, seed)).collect::<Vec<_>>())
}

#[test]
fn every_family_has_the_oracle_s_states_and_vectors_whatever_the_budget() {
    let batch = mixed();
    let modes = [&[PoolingMode::Mean][..], &[PoolingMode::Cls], &[PoolingMode::Cls, PoolingMode::Mean]];
    let modes: Vec<_> = (0..batch.lengths().len()).map(|sequence| modes[sequence % 3]).collect();
    for family in FAMILIES {
        let architecture = architecture(family, 48, 3);
        let mut oracle = CandleEncoder::new(&architecture, &Device::Cpu, source(&architecture)).unwrap();
        let expected = oracle.forward(&batch).unwrap();
        let vectors = pool_states(&expected, &batch, &modes);
        let mut encoder = packed(&architecture, Precision::F32);
        for budget in [usize::MAX, 200, 50, 1] {
            encoder.set_budget(budget);
            let states = encoder.forward(&batch).unwrap();
            assert_eq!(states.width, expected.width);
            let error = worst(&states.values, &expected.values);
            assert!(error < 1e-5, "{family}, {budget} tokens at once: {error:e}");
            for (got, wanted) in encoder.pooled(&batch, &modes).unwrap().iter().zip(&vectors) {
                let error = worst(got, wanted);
                assert!(error < 1e-5, "{family}, {budget} tokens at once, pooled: {error:e}");
            }
        }
    }
}

#[test]
fn half_precisions_stay_close() {
    let batch = mixed();
    let modes = vec![&[PoolingMode::Mean][..]; batch.lengths().len()];
    for family in FAMILIES {
        let architecture = architecture(family, 48, 3);
        let expected = packed(&architecture, Precision::F32).pooled(&batch, &modes).unwrap();
        for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
            let got = packed(&architecture, precision).pooled(&batch, &modes).unwrap();
            let least_seen = expected.iter().zip(&got).filter(|(_, got)| got.iter().any(|&value| value != 0.0));
            let cosines: Vec<f64> = least_seen.map(|(expected, got)| cosine(expected, got)).collect();
            assert_eq!(cosines.len(), batch.lengths().len() - 1);
            let worst = cosines.into_iter().fold(1.0, f64::min);
            assert!(worst >= least && worst < 1.0, "{family} {precision}: cosine {worst}");
        }
    }
}

#[test]
fn poolings_that_the_device_does_not_do_are_done_on_the_host() {
    let batch = mixed();
    let architecture = architecture("bert", 48, 3);
    let mut encoder = packed(&architecture, Precision::F32);
    let modes = vec![&[PoolingMode::Max, PoolingMode::Mean, PoolingMode::LastToken][..]; batch.lengths().len()];
    let expected = pool_states(&encoder.forward(&batch).unwrap(), &batch, &modes);
    assert_eq!(encoder.pooled(&batch, &modes).unwrap(), expected);
    assert_eq!((expected[0].len(), &expected[3][..]), (3 * 48, &[0.0; 3 * 48][..]));
}

#[test]
fn passes_are_cut_by_the_budget_from_short_to_long() {
    let mut encoder = packed(&architecture("bert", 48, 3), Precision::F32);
    let batch = mixed();
    let cut = |encoder: &CandlePackedEncoder| -> Vec<Vec<usize>> {
        let passes = encoder.passes.cut(&batch);
        passes.iter().map(|pass| pass.iter().map(|&sequence| batch.lengths()[sequence]).collect()).collect()
    };
    assert_eq!(cut(&encoder), [vec![1, 2, 3, 7, 7, 19, 33, 40, 40, 41, 90, 130, 130]]);
    encoder.set_budget(100);
    assert_eq!(cut(&encoder), [vec![1, 2, 3, 7, 7, 19, 33], vec![40, 40], vec![41], vec![90], vec![130], vec![130]]);
    encoder.set_budget(0);
    assert_eq!(cut(&encoder).len(), 13);
}

/// A device that has no memory for more than so many tokens, as the driver words it.
fn refuse(tokens: usize) -> impl FnMut(&Model, &Part<'_>, &Pass, Tensor) -> CandleResult<()> {
    move |_, _, pass, _| match pass.lengths.iter().sum::<usize>() > tokens {
        true => Err(candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into()).bt()),
        false => Ok(()),
    }
}

#[test]
fn without_memory_the_batch_is_halved_and_nothing_is_lost() {
    let mut encoder = packed(&architecture("bert", 48, 3), Precision::F32);
    let batch = mixed();
    let mut refuse_more = refuse(140);
    let mut done = Vec::new();
    let ran = encoder.run_passes(&batch, |model, part, pass, states| {
        refuse_more(model, part, pass, states)?;
        done.extend_from_slice(part.sequences);
        Ok(())
    });
    ran.unwrap();
    done.sort_unstable();
    let expected: Vec<usize> = (0..batch.lengths().len()).filter(|&sequence| batch.lengths()[sequence] > 0).collect();
    assert_eq!(done, expected, "each once");
    assert!((70..=280).contains(&encoder.passes.budget), "{} tokens at once from now on", encoder.passes.budget);
    // A single sequence cannot be halved.
    let error = encoder.run_passes(&batch, refuse(100)).unwrap_err();
    assert!(error.message().contains("no memory for a sequence of 130 tokens"), "{error}");
    // What is wrong otherwise is not tried again.
    let mut runs = 0;
    let failed = encoder.run_passes(&batch, |_, _, _, _| {
        runs += 1;
        candle_core::bail!("something else")
    });
    assert!(failed.unwrap_err().message().contains("something else") && runs == 1);
}

#[test]
fn the_budget_is_found_by_trying() {
    let mut encoder = packed(&architecture("bert", 48, 3), Precision::F32);
    let budget = find_budget(&mut encoder, 512).unwrap();
    assert!(budget >= 1024 && budget.is_power_of_two() && encoder.passes.budget == budget, "{budget}");
    // On the CPU itself a few are as good as many.
    assert_eq!(packed(&architecture("bert", 48, 3), Precision::F32).warm_up(512), Ok(None));
}

#[test]
fn bad_input_is_an_error() {
    let bert = architecture("roberta", 48, 3);
    let mut encoder = packed(&bert, Precision::F32);
    assert!(encoder.forward(&TokenBatch::new()).unwrap().values.is_empty());
    assert!(encoder.pooled(&TokenBatch::new(), &[]).unwrap().is_empty());
    let error = encoder.forward(&batch(&[(vec![2, 50], vec![0, 0])])).unwrap_err();
    assert!(error.message().contains("50"), "{error}");
    // Before the device is asked: there it would be the end of all work.
    let error = encoder.forward(&batch(&[(vec![2, 3], vec![0, 2])])).unwrap_err();
    assert!(error.message().contains("has 2 rows"), "{error}");
    assert!(encoder.forward(&batch(&[text(139, 1)])).is_err(), "no position left");
    let int8 = CandlePackedEncoder::new(&bert, &Device::Cpu, Precision::Int8, source(&bert));
    assert!(int8.err().unwrap().message().contains("f16, bf16 or f32"));
    let mut few_buckets = architecture("t5", 48, 3);
    few_buckets.position_bias = Some(BiasSource::Table {
        name: "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        buckets: 2,
        max_distance: 128,
    });
    let t5 = CandlePackedEncoder::new(&few_buckets, &Device::Cpu, Precision::F32, source(&few_buckets));
    assert!(t5.err().unwrap().message().contains("position bias"));
    // Its scores are more than a kernel can count: refused, not computed wrong.
    let mut t5 = packed(&architecture("t5", 48, 3), Precision::F32);
    let error = t5.forward(&batch(&[text(30_000, 1)])).unwrap_err();
    assert!(error.message().contains("30000 tokens is too long for a GPU"), "{error}");
    let missing = CandlePackedEncoder::new(&bert, &Device::Cpu, Precision::F16, |name, _| {
        Err(Error::unusable(format!("no tensor '{name}'")))
    });
    assert!(missing.err().unwrap().message().contains("no tensor"));
}
